"""Published figures, shown beside ours: those that ship (published.csv), and summaries of its judge.

Place on the path of data: step 8, read by the benchmark's report.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Any

from psalign.errors import EvaluationError
from psalign.files import Record
from psalign.ids import shorten

from ..cells import Variant, split_model
from ..estimate import Estimate

Place = tuple[str, str]  # dataset, base
Figures = dict[Place, dict[Variant, dict[str, Estimate]]]

# Names of a published summary -> ours. Its rates are in per cent and over all rows, its wins are counts.
PASS_RATES = {
    "pass_rate": "judge_pass",
    "banned_respected_rate": "judge_clean",
    "allowed_respected_rate": "judge_allowed_kept",
}
WINS = {"model_a_wins": "a_wins", "model_b_wins": "b_wins", "equal": "ties"}
METHODS = {"user_adapter": "psa", "psa_adapter": "psa"}
HINT = "It looks like a summary of the published judge; give one that its scripts wrote, or leave it out of --judge."


def read_published() -> Figures:
    """Published numbers by place (dataset, base), variant and metric; none has an interval.

    n is 0 where the source does not say. Win rates stand under the variant "<a>_vs_<b>".
    """
    text = (resources.files(__package__) / "published.csv").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    found: Figures = {}
    for row in csv.DictReader(lines):
        numbers = found.setdefault((row["dataset"], row["base"]), {})
        rates = numbers.setdefault(Variant(row["method"], row["level"]), {})
        rates[row["metric"]] = Estimate(float(row["score"]), int(row["n"] or 0))
    return found


def is_published_summary(record: Record) -> bool:
    """Whether a JSON file is a summary of the published judge's scripts; files of our own have a mode.

    record: dataset -> "<method>_<base>" -> pass_rate and others, or dataset -> base -> overall.
    """
    cells = [cell for found in record.values() if isinstance(found, dict) for cell in found.values()]
    is_cell = [isinstance(cell, dict) and ("pass_rate" in cell or "overall" in cell) for cell in cells]
    return "mode" not in record and bool(cells) and all(is_cell)


def read_summary(record: Record, path: Path) -> Figures:
    """The figures of a summary, as in read_published. Raises EvaluationError for impossible numbers."""
    found: Figures = {}
    for dataset, cells in record.items():
        if not isinstance(cells, dict):
            raise EvaluationError(f"{path}: {dataset} is {shorten(cells)}; expected models.", hint=HINT)
        for name, cell in cells.items():
            base, who, rates = _pass_rates(name, cell, path) if "pass_rate" in cell else _wins(name, cell, path)
            found.setdefault((dataset, base), {}).setdefault(who, {}).update(rates)
    return found


def add_figures(known: Figures, more: Sequence[Figures]) -> Figures:
    """All figures; where two say the same metric, the later one counts."""
    for figures in more:
        for place, variants in figures.items():
            for who, rates in variants.items():
                known.setdefault(place, {}).setdefault(who, {}).update(rates)
    return known


def _pass_rates(name: str, cell: Record, path: Path) -> tuple[str, Variant, dict[str, Estimate]]:
    """name: "<method>_<base>", for example psa_sd15."""
    model, _, base = name.rpartition("_")
    where = f"{path}, {name}"
    if not model:
        raise EvaluationError(f"{where}: expected a method and a base, for example psa_sd15.", hint=HINT)
    n = _count(cell, "total_valid", where)
    rates = {ours: Estimate(_percent(cell, theirs, where), n) for theirs, ours in PASS_RATES.items() if theirs in cell}
    method, level = split_model(model)
    return base, Variant.of(METHODS.get(method, method), level), rates


def _wins(base: str, cell: Record, path: Path) -> tuple[str, Variant, dict[str, Estimate]]:
    overall, where = cell["overall"], f"{path}, {base}"
    if not isinstance(overall, dict):
        raise EvaluationError(f"{where}: overall is {shorten(overall)}; expected counts of wins.", hint=HINT)
    total = _count(overall, "total", where)
    counts = {ours: _count(overall, theirs, where) for theirs, ours in WINS.items()}
    if sum(counts.values()) != total or not total:
        raise EvaluationError(f"{where}: wins and ties sum to {sum(counts.values())} of {total}.", hint=HINT)
    a, b = (METHODS.get(str(overall.get(f"model_{side}_name")), overall.get(f"model_{side}_name")) for side in "ab")
    return (
        base,
        Variant(f"{a}_vs_{b}", "user"),
        {name: Estimate(count / total, total) for name, count in counts.items()},
    )


def _percent(cell: Record, key: str, where: str) -> float:
    value: Any = cell[key]
    if not isinstance(value, int | float) or isinstance(value, bool) or not 0 <= value <= 100:
        raise EvaluationError(f"{where}: {key} is {shorten(value)}; expected 0 to 100.", hint=HINT)
    return value / 100


def _count(cell: Record, key: str, where: str) -> int:
    value: Any = cell.get(key)
    if type(value) is not int or value < 0:
        raise EvaluationError(f"{where}: {key} is {shorten(value)}; expected a count.", hint=HINT)
    return value
