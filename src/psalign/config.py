"""Presets: YAML files of settings, read into the dataclasses of the rooms; unknown names are refused.

Place on the path of data: beside all of it.
"""

from __future__ import annotations

import json
import math
import typing
from collections.abc import Sequence
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from .errors import UsageError
from .files import Record, parse_yaml, read_text

T = TypeVar("T")

BASELINES = "baselines"  # with the name of a base: its preset
MOST_SHOWN = 60  # letters of a setting in a message

# A type: one value. A mapping: a section with these parts. An empty mapping: the section's own room checks its names.
PARTS: Record = {"adapter": {}, "training": {}}
SCHEMA: Record = {
    "base": str,
    "llm_dim": int,
    "vectors": str,
    "dataset": {},
    "pictures": {},
    "generation": {},
    "prompt": PARTS,
    "published": PARTS,
    "baselines": {},
    "leaderboard": {},
}
NOT_IN_PRESETS = {
    **dict.fromkeys(("prompt.training.seed", "published.training.seed"), "Give --seed to the command."),
    "generation.scheduler": "A base model draws with its own; psalign generate has --scheduler.",
    "generation.dtype": "training.mixed_precision is what training runs in; psalign generate has --dtype.",
    **dict.fromkeys(
        (
            "generation.method",
            "generation.base",
            "generation.adapter",
            "generation.negative_prompts",
            "generation.options",
        ),
        "Leave it out: the run makes it.",
    ),
}


def list_presets() -> list[str]:
    """Names of the shipped presets."""
    folder = resources.files("psalign") / "presets"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_preset(name: str, *, changes: Sequence[str] = ()) -> Record:
    """Settings of a shipped preset or a YAML file, by section, after changes like "prompt.training.lr=1e-4".

    Raises UsageError for an unknown preset, a file that is not YAML, or a section that no preset has.
    """
    try:
        preset = parse_yaml(_read(name), plain="a preset")
    except ValueError as err:
        raise UsageError(f"{name} is not YAML: {err}") from err
    if not isinstance(preset, dict):
        raise UsageError(f"{name}: expected sections with settings, saw {type(preset).__name__}.")
    for change in changes:
        _change(preset, change)
    _check(preset, SCHEMA)
    return preset


def settings(kind: type[T], values: Record | None, *, section: str) -> T:
    """A dataclass from a section's values. Raises UsageError for an unknown name or a value of the wrong type."""
    known = {field.name for field in fields(kind)}  # type: ignore[arg-type]
    hints = typing.get_type_hints(kind)
    given = values or {}
    for name in given:
        if name not in known:
            raise UsageError(f"Unknown setting {section}.{name}; choose one of: {', '.join(sorted(known))}.")
    return kind(**{name: _value(value, hints[name], f"{section}.{name}") for name, value in given.items()})


def baseline_settings(kind: type[T], method: str, *, base: str, given: Record | None = None) -> T:
    """The settings of a baseline: of section `baselines` of a preset, or of the shipped preset of a base model.

    given: that section. Raises UsageError for an unknown name, a value that makes no sense, or a base without a preset.
    """
    section = load_preset(f"{BASELINES}-{base}")["baselines"] if given is None else given
    return settings(kind, section.get(method), section=f"baselines.{method}")


def describe_changes(before: Record, now: Record, *, inside: str = "") -> list[str]:
    """The differences between two records of settings: a line "section.name: old -> new" for each setting."""
    lines: list[str] = []
    for name in [*before, *(name for name in now if name not in before)]:
        old, new = before.get(name), now.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += describe_changes(old, new, inside=f"{inside}{name}.")
        elif _plain(old) != _plain(new):
            lines.append(f"{inside}{name}: {_shown(old)} -> {_shown(new)}")
    return lines


def check_range(
    name: str, value: float, low: float = -math.inf, high: float = math.inf, *, above: bool = False
) -> None:
    """Raises UsageError for a number that is not finite or not from low to high. above: low itself is refused too."""
    if math.isfinite(value) and low <= value <= high and not (above and value == low):
        return
    if high == math.inf:
        wanted = f"be {'more than' if above else 'at least'} {low:g} and finite"
    else:
        wanted = f"be {'more than' if above else 'from'} {low:g} {'and at most' if above else 'to'} {high:g}"
    raise UsageError(f"{name} must {wanted}; saw {value}.")


def _plain(value: Any) -> Any:
    """A setting as JSON gives it back: lists for tuples."""
    return [_plain(part) for part in value] if isinstance(value, list | tuple) else value


def _shown(value: Any) -> str:
    text = "not given" if value is None else json.dumps(value, default=str)
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


def _read(name: str) -> str:
    if name.endswith((".yaml", ".yml")):
        return read_text(Path(name), fault=UsageError)
    if name not in list_presets():
        raise UsageError(f"Unknown preset '{name}'; choose one of: {', '.join(list_presets())}, or name a .yaml file.")
    return (resources.files("psalign") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")


def _change(preset: Record, change: str) -> None:
    path, equals, text = change.partition("=")
    *sections, name = path.split(".")
    if not equals or not sections:
        raise UsageError(f"--set {change}: expected section.name=value, for example prompt.training.lr=1e-4.")
    place = preset
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise UsageError(f"--set {change}: '{section}' is a setting, not a section.")
    try:
        place[name] = parse_yaml(text, plain="a preset")
    except ValueError as err:
        raise UsageError(f"--set {change[:80]}: the value is not YAML: {err}") from err


def _check(values: Record, schema: Record, *, inside: str = "") -> None:
    """Raises UsageError for a name that is not in the schema, and for a section that is not a mapping."""
    for key, value in values.items():
        name = f"{inside}{key}"
        if key not in schema:
            choices = ", ".join(f"{inside}{known}" for known in schema)
            raise UsageError(f"Unknown setting {name}; choose one of: {choices}.")
        if isinstance(schema[key], type):
            _value(value, schema[key], name)
        elif not isinstance(value, dict):
            raise UsageError(f"{name} must be a section with settings; saw {value!r}.")
        elif schema[key]:
            _check(value, schema[key], inside=f"{name}.")
        else:
            _check_open(value, name)


def _check_open(values: Record, section: str) -> None:
    """Raises UsageError for a setting that cannot be in a preset; the section's own room knows all others."""
    for name in values:
        if f"{section}.{name}" in NOT_IN_PRESETS:
            raise UsageError(f"{section}.{name} is no setting of a preset.", hint=NOT_IN_PRESETS[f"{section}.{name}"])


def _value(value: Any, hint: Any, name: str) -> Any:
    """The value as its type asks. Checked as strict JSON, where a list may be a tuple and 1 may be 1.0."""
    try:
        return TypeAdapter(hint).validate_json(json.dumps(value, default=str), strict=True)
    except ValidationError:
        wanted = "true or false" if hint is bool else hint.__name__ if isinstance(hint, type) else hint
        raise UsageError(f"{name} must be {wanted}; saw {value!r}.") from None
