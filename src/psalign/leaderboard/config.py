"""The settings of a leaderboard: section `leaderboard` of a preset, beside the sections of a quickstart.

Place on the path of data: what the other files of this room read.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from psalign.baselines.train import SETTINGS
from psalign.config import BASELINES, check_range, load_preset, settings
from psalign.errors import UsageError
from psalign.evaluation.catalog import ATTACKS, METHODS, OURS
from psalign.files import Record

OWN = OURS[0]  # the method that the others are compared with
SLD = "sld"


@dataclass(frozen=True)
class LeaderboardConfig:
    """methods: by name, in any order; `base` and ours are always among them. seeds: independent repetitions, each
    with a dataset and trainings of its own. attacks: by the prompt. requests: of each attack in a repetition.
    choice_seed: seed of the dataset on which settings are chosen. choice_prompts: prompts that a setting is tried on.
    alternatives: the settings to choose from, by family of methods. rounds: repeats of the measurement of time per
    picture. timed: pictures of one repeat."""

    methods: tuple[str, ...] = ()
    seeds: int = 3
    attacks: tuple[str, ...] = tuple(ATTACKS)
    requests: int = 14
    choice_seed: int = 11
    choice_prompts: int = 56
    alternatives: Mapping[str, list[dict[str, Any]]] = field(default_factory=dict)
    rounds: int = 3
    timed: int = 16

    def __post_init__(self) -> None:
        """Raises UsageError for a name that is unknown, or a number that makes no sense."""
        for name in ("seeds", "requests", "choice_prompts", "rounds", "timed"):
            check_range(f"leaderboard.{name}", getattr(self, name), 1)
        for what, given, known in (
            ("method", self.methods, METHODS),
            ("attack", self.attacks, ATTACKS),
            ("method with settings", self.alternatives, (*SETTINGS, SLD)),
        ):
            unknown = [name for name in given if name not in known]
            if unknown:
                raise UsageError(f"leaderboard: unknown {what} '{unknown[0]}'; choose of: {', '.join(known)}.")

    @property
    def compared(self) -> tuple[str, ...]:
        """The methods in the order of every table, with the base model and ours."""
        wanted = {*(self.methods or METHODS), "base", OWN} - {"psa"}
        return tuple(name for name in METHODS if name in wanted)


def read_config(preset: Record) -> LeaderboardConfig:
    """Raises UsageError for a preset without the section, or a setting that makes no sense."""
    if "leaderboard" not in preset:
        raise UsageError(
            "The preset has no section 'leaderboard'.", hint="Give --preset leaderboard-mini, or one like it."
        )
    return settings(LeaderboardConfig, preset["leaderboard"], section="leaderboard")


def baseline_section(preset: Record, chosen: Mapping[str, Record]) -> Record:
    """Section `baselines` with the chosen settings in it: the preset's own, or that of the base's preset."""
    section = deepcopy(preset.get("baselines") or load_preset(f"{BASELINES}-{preset['base']}")["baselines"])
    for family, given in chosen.items():
        if family != SLD:
            section[family] = {**section.get(family, {}), **given}
    return section


def sld_strength(chosen: Mapping[str, Record]) -> str:
    """SLD's strength among the chosen settings, by name."""
    return str(chosen.get(SLD, {}).get("strength", "medium"))
