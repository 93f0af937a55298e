"""The settings of a run, all of them checked before any work: those of the preset, and each --set.

A setting that a command does not read is refused, not ignored: whoever gave it expects something of it.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from ..config import check_range, load_preset, settings
from ..errors import UsageError
from ..files import Record

RUN = ("base", "llm_dim", "vectors", "dataset", "pictures", "generation", "prompt", "published")  # of the whole path
EVERYTHING = (*RUN, "baselines", "leaderboard")


def load_settings(arguments: argparse.Namespace, *, reads: Sequence[str], flags: Sequence[str] = ()) -> Record:
    """The settings of --preset with the changes of --set made.

    reads: top-level names of what the command reads. flags: changes that other flags stand for.
    Raises UsageError for a setting that is unknown, makes no sense, is given twice or is not read.
    """
    _require_once([*flags, *arguments.set])
    for change in arguments.set:
        name = change.partition("=")[0].partition(".")[0]
        if name in EVERYTHING and name not in reads:
            raise UsageError(
                f"--set {change}: psalign {arguments.command_name} does not read {name}.",
                hint=f"It reads {', '.join(reads)}.",
            )
    preset = load_preset(arguments.preset, changes=[*flags, *arguments.set])
    check_preset(preset)
    return preset


def load_baselines(name: str | None) -> Record | None:
    """Settings by method of a preset; None: those of the base's own preset."""
    return None if name is None else load_preset(name).get("baselines") or {}


def check_preset(preset: Record) -> None:
    """Raises UsageError for a value of any section that makes no sense."""
    from ..baselines.train import check_settings
    from ..diffusion.base_models import find_base
    from ..diffusion.generate import GenerationConfig
    from ..mini.sizes import DatasetConfig
    from ..sage.cache.framing import Framing
    from ..training.run import SHAPES, check_shape, training_config

    find_base(preset.get("base", "mini"))
    check_range("llm_dim", preset.get("llm_dim", 64), 1, 1 << 20)
    for name, kind in {"dataset": DatasetConfig, "pictures": Framing, "generation": GenerationConfig}.items():
        settings(kind, preset.get(name), section=name)
    for name in SHAPES:
        check_shape(name, (preset.get(name) or {}).get("adapter") or {})
        training_config(preset, name)
    check_settings(preset.get("baselines") or {})


def _require_once(changes: Sequence[str]) -> None:
    given: dict[str, str] = {}
    for change in changes:
        name, _, value = change.partition("=")
        if given.setdefault(name.strip(), value) != value:
            raise UsageError(f"{name} is given twice: {given[name.strip()]} and {value}.")
