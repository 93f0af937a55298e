"""Presets: YAML files of settings, read into the frozen dataclasses of the rooms, with every unknown name refused.

Place on the path of data: beside all of it.
"""

from __future__ import annotations

import types
import typing
from collections.abc import Sequence
from dataclasses import fields
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar

import yaml

from .errors import UsageError
from .records import Record

T = TypeVar("T")


def list_presets() -> list[str]:
    """Names of the shipped presets."""
    folder = resources.files("psalign") / "presets"
    return sorted(Path(entry.name).stem for entry in folder.iterdir() if entry.name.endswith(".yaml"))


def load_preset(name: str, *, changes: Sequence[str] = ()) -> Record:
    """Settings of a shipped preset or a YAML file, by section, with changes like "training.lr=1e-4" made.

    Raises UsageError for an unknown preset, a file that is not YAML, or a change that names no setting.
    """
    if name.endswith((".yaml", ".yml")):
        path = Path(name)
        if not path.is_file():
            raise UsageError(f"{name} does not exist.")
        text = path.read_text(encoding="utf-8")
    elif name in list_presets():
        text = (resources.files("psalign") / "presets" / f"{name}.yaml").read_text(encoding="utf-8")
    else:
        raise UsageError(f"Unknown preset '{name}'; choose one of: {', '.join(list_presets())}, or name a .yaml file.")
    try:
        preset = yaml.safe_load(text)
    except yaml.YAMLError as err:
        raise UsageError(f"{name} is not YAML: {err}") from err
    if not isinstance(preset, dict):
        raise UsageError(f"{name}: expected sections with settings, saw {type(preset).__name__}.")
    for change in changes:
        _change(preset, change)
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


def _change(preset: Record, change: str) -> None:
    path, equals, text = change.partition("=")
    *sections, name = path.split(".")
    if not equals or not sections:
        raise UsageError(f"--set {change}: expected section.name=value, for example training.lr=1e-4.")
    place = preset
    for section in sections:
        place = place.setdefault(section, {})
        if not isinstance(place, dict):
            raise UsageError(f"--set {change}: '{section}' is a setting, not a section.")
    place[name] = yaml.safe_load(text)


def _value(value: Any, hint: Any, name: str) -> Any:
    """The value as its type asks; YAML reads 1e-4 as text, and has lists but no tuples."""
    origin, allowed = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in allowed:
            return None
        hint = next(kind for kind in allowed if kind is not type(None))
        origin = typing.get_origin(hint)
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(value)
    try:
        if hint is float and isinstance(value, int | float | str) and not isinstance(value, bool):
            return float(value)
        if hint is int and isinstance(value, int) and not isinstance(value, bool):
            return value
        if hint in (str, bool) and isinstance(value, hint):
            return value
    except ValueError:
        pass
    raise UsageError(f"{name} must be {getattr(hint, '__name__', hint)}; saw {value!r}.")
