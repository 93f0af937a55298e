"""Rows of another leaderboard beside one's own, for methods that were not made again.

Place on the path of data: step 7 of the leaderboard, before its page. A method of one's own is compared with all others
in the minutes that itself takes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from psalign.config import describe_changes
from psalign.errors import OutputError
from psalign.evaluation.results import ResultRow, append_results, read_results
from psalign.files import Record, read_json, write_json

MARK = "leaderboard.json"
SAME = ("base", "dataset", "generation")  # sections that both must share
SAME_OF_LEADERBOARD = ("seeds", "attacks", "requests")
ROUNDING = 1e-6
COSTS = ("picture_time", "training_time")  # which vary with the machine


def read_mark(out: Path, *, hint: str) -> Record:
    """What a leaderboard was made of. Raises OutputError for a damaged or missing file."""
    fault = partial(OutputError, hint=hint)
    return read_json(
        out / MARK, what="what a leaderboard was made of", needs=("preset", "seconds", "versions"), fault=fault
    )


def add_beside(out: Path, other: Path) -> None:
    """Add the rows of another leaderboard's methods that `out` lacks, and the settings that were tried for them.

    Raises OutputError where the two have other prompts, attacks or repetitions, or the base model's figures differ.
    """
    hint = f"Choose another --beside than {other}, or none."
    own, theirs = read_mark(out, hint=hint), read_mark(other, hint=hint)
    changes = describe_changes(_shared(theirs["preset"]), _shared(own["preset"]))
    if changes:
        raise OutputError("\n".join([f"{other} has another leaderboard:", *(f"  {line}" for line in changes)]),
                          hint=hint)  # fmt: skip
    rows, more = read_results(out / "results.csv"), read_results(other / "results.csv")
    _require_same_base(rows, more, other, hint)
    known = {row.method for row in rows}
    lacking = [row for row in more if row.method not in known]
    if not lacking:
        return
    append_results(out / "results.csv", lacking)
    tried = [read_json(folder / "choice.json", what="the settings that were tried", fault=OutputError)
             for folder in (other, out)]  # fmt: skip
    write_json(out / "choice.json", {**tried[0], **tried[1]})
    write_json(out / MARK, {**own, "beside": _runs(theirs, {row.method for row in lacking})})


def _runs(theirs: Record, methods: set[str]) -> list[Record]:
    """The runs that methods of another leaderboard are of: those that it has from others, and its own."""
    names = ("commit", "seconds", "versions")
    found = [{**run, "methods": sorted(methods.intersection(run["methods"]))} for run in theirs.get("beside", ())]
    own = methods.difference(*(run["methods"] for run in found))
    found.append({**{name: theirs.get(name) for name in names}, "methods": sorted(own)})
    return [run for run in found if run["methods"]]


def _shared(preset: Record) -> Record:
    section = preset.get("leaderboard", {})
    return {name: preset.get(name) for name in SAME} | {name: section.get(name) for name in SAME_OF_LEADERBOARD}


def _is_same(own: tuple[float | None, int | None], other: tuple[float | None, int | None] | None) -> bool:
    """Whether two figures (score, n) are the same but for rounding, which differs from processor to processor."""
    if other is None or own[1] != other[1] or own[0] is None or other[0] is None:
        return own == other
    return math.isclose(own[0], other[0], rel_tol=ROUNDING, abs_tol=ROUNDING)


def _require_same_base(rows: Sequence[ResultRow], more: Sequence[ResultRow], other: Path, hint: str) -> None:
    """Raises OutputError where the two measured another base model, or measured it in another way."""
    found = [
        {(row.dataset, row.metrics): (row.score, row.n) for row in some
         if row.method == "base" and row.metrics not in COSTS}
        for some in (rows, more)
    ]  # fmt: skip
    wrong = [name for name, said in found[0].items() if not _is_same(said, found[1].get(name))]
    if wrong:
        (dataset, metric), said = wrong[0], [one.get(wrong[0]) for one in found]
        raise OutputError(
            f"{len(wrong)} figures of the base model differ from those of {other}: {metric} of {dataset} is "
            f"{said[0]} here and {said[1]} there (score, n).", hint=hint,
        )  # fmt: skip
