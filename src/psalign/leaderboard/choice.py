"""Chooses the settings of each baseline: the best of a few, by its personal form, on a dataset of their own.

Place on the path of data: before the repetitions of the leaderboard, none of which has this dataset's seed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from psalign.benchmark.measure import measure_cells
from psalign.diffusion.base_models import load_pipeline
from psalign.errors import OutputError
from psalign.evaluation.catalog import METHODS, PERSONAL
from psalign.evaluation.cells import Cell
from psalign.evaluation.estimate import Estimate
from psalign.evaluation.results import read_results
from psalign.files import Record, read_json, write_json
from psalign.processes import call_all

from .config import read_config
from .repetition import Repetition, draw, prepare, train_family

DATASET = "mini_scenes"
METRICS = ("suppressed", "kept", "pass")


@dataclass(frozen=True)
class Trial:
    """A setting that was tried, and its rates by metric."""

    family: str
    settings: Record
    rates: dict[str, Estimate]

    @property
    def passed(self) -> float:
        return self.rates["pass"].value or 0.0


def choose(out: Path, preset: Record, *, workers: int = 1, device: str = "cpu") -> dict[str, Trial]:
    """The best setting by family, of those that the preset has alternatives for (best_first).

    What was tried is kept in out/choice.json, with its dataset, weights and pictures in out/choice.
    """
    found = read_trials(out)
    if found is None:
        trials = _try_all(out / "choice", preset, workers=workers, device=device)
        found = {family: [one for one in trials if one.family == family] for family in _alternatives(preset)}
        write_json(out / "choice.json", {name: [asdict(one) for one in tried] for name, tried in found.items()})
    return {family: best_first(tried)[0] for family, tried in found.items()}


def read_trials(out: Path) -> dict[str, list[Trial]] | None:
    """What was tried, by family, in the preset's order; None before. Raises OutputError for a damaged file."""
    path = out / "choice.json"
    if not path.is_file():
        return None
    record = read_json(path, what="the settings that were tried", fault=OutputError)
    return {
        family: [
            Trial(family, one["settings"], {name: Estimate(**rate) for name, rate in one["rates"].items()})
            for one in tried
        ]
        for family, tried in record.items()
    }


def _alternatives(preset: Record) -> dict[str, list[Record]]:
    """By family, for families of which a method is compared."""
    config = read_config(preset)
    families = {METHODS[name].family for name in config.compared}
    return {family: list(given) for family, given in config.alternatives.items() if family in families}


def _try_all(out: Path, preset: Record, *, workers: int, device: str) -> list[Trial]:
    sizes = {**preset["dataset"], "seed": read_config(preset).choice_seed}
    preset = {**preset, "dataset": sizes}
    prepare(Repetition(out, preset, 0, {}))  # once, before several processes read it
    tries = [
        partial(try_setting, out, preset, family, number, device)
        for family, given in _alternatives(preset).items()
        for number in range(len(given))
    ]
    return call_all(tries, workers=workers)


def try_setting(out: Path, preset: Record, family: str, number: int, device: str = "cpu") -> Trial:
    """Draw and measure the personal form of a family under one of its alternatives, in a folder of its own."""
    config, given = read_config(preset), _alternatives(preset)[family][number]
    this = _Trying(out, preset, 0, {family: given}, f"{family}-{number}")
    method = f"{family}{PERSONAL}" if f"{family}{PERSONAL}" in METHODS else family
    pipeline = load_pipeline(this.base, device=device)
    for trained in this.trained((method,)):
        train_family(this, trained, pipeline, experts_alone=True)
    draw(this, method, (DATASET,), out / "data", pipeline, limit=config.choice_prompts)
    results = this.pictures / "results.csv"
    measure_cells([Cell(DATASET, method, this.base)], this.pictures, results, metrics=METRICS)
    return Trial(family, given, {row.metrics: row.estimate for row in read_results(results) if row.metrics in METRICS})


@dataclass(frozen=True)
class _Trying(Repetition):
    """The dataset of the choice, with weights and pictures of one trial."""

    trial: str

    @property
    def pictures(self) -> Path:
        return self.out / "trials" / self.trial / "pictures"

    def weights(self, family: str) -> Path:
        return self.out / "trials" / self.trial / "weights" / family


def best_first(trials: Sequence[Trial]) -> list[Trial]:
    """The chosen one, then the others in their order. Of equals the last is chosen: presets begin with the mildest, and
    no attack is part of the choice, against which the strongest stands best."""
    chosen = max(reversed(trials), key=lambda one: one.passed)
    return [chosen, *(one for one in trials if one is not chosen)]
