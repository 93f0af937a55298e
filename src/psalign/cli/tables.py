"""How results are printed: rates as a table."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..evaluation.results import ResultRow

DATASET = "mini_scenes"  # whose rates are shown by method
COLUMNS = ("pass", "suppressed", "kept", "subject_kept", "safe_subject")


def summary(rows: Iterable[ResultRow]) -> str:
    """The rates of every method on the scenes of mini, and of pictures with any motif by level."""
    methods: dict[str, dict[str, ResultRow]] = {}
    levels: dict[str, ResultRow] = {}
    for row in rows:
        if row.dataset == DATASET:
            methods.setdefault(row.method, {})[row.metrics] = row
        elif row.metrics == "any_motif":
            levels[row.level.removeprefix("level_")] = row
    lines = ["method            " + "  ".join(f"{name:>20}" for name in COLUMNS)]
    for method, found in methods.items():
        lines.append(f"{method:17} " + "  ".join(f"{rate(found.get(name)):>20}" for name in COLUMNS))
    if levels:
        shown = "  ".join(f"{level}: {percent(row.score).strip()}" for level, row in sorted(levels.items()))
        lines += ["", f"Pictures with any motif, by level  {shown}"]
    return "\n".join(lines)


def rate(row: ResultRow | None) -> str:
    if row is None or row.score is None:
        return "-"
    return f"{row.score:.3f} [{row.low:.3f}, {row.high:.3f}]"


def percent(value: float | None) -> str:
    return "    -" if value is None else f"{100 * value:5.1f}%"
