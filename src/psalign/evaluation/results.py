"""results.csv: one row per cell and metric, appended by any number of processes, the last row of a key wins.

Place on the path of data: step 8, between measuring and the report.
"""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path

from psalign.errors import EvaluationError
from psalign.files import read_text, write_text
from psalign.locks import locked
from psalign.tables import parse_csv

from .cells import NO_LEVEL, OWN_USER, Cell

SUCCEEDED, FAILED, MISSING = "succeeded", "failed", "missing"
STATES = (SUCCEEDED, FAILED, MISSING)
APPEND_WAIT_S = 60.0  # for others that append
OLD_NAMES = {"psa_adapter": "psa"}  # of methods, in the published file

MEND = "Remove that row: psalign eval run measures its cell again, and the others stay as they are."

Key = tuple[str, str, str, str, str]


@dataclass(frozen=True)
class ResultRow:
    """A line of results.csv.

    level: `none`, `user` (psa for each row's own user) or `level_<k>`. metrics: the name of one. score: over n cases
    with its 95 % interval; None where there is no case. state: `succeeded`; `failed`: the note says why; `missing`:
    there is nothing to measure or to measure with, and the note says what. fingerprint: names all that the score
    depends on.
    """

    dataset: str
    method: str
    base_model: str
    level: str
    metrics: str
    score: float | None = None
    state: str = SUCCEEDED
    timestamp: str = ""
    n: int | None = None
    low: float | None = None
    high: float | None = None
    fingerprint: str = ""
    note: str = ""

    @property
    def key(self) -> Key:
        return self.dataset, self.method, self.base_model, self.level, self.metrics

    @property
    def cell(self) -> Cell:
        """Raises UsageError where the row names none."""
        level = None if self.level in (NO_LEVEL, OWN_USER) else int(self.level.removeprefix("level_"))
        return Cell(self.dataset, self.method, self.base_model, level)


RESULT_COLUMNS = tuple(field.name for field in fields(ResultRow))
PUBLISHED_COLUMNS = RESULT_COLUMNS[:8]


def result_row(cell: Cell, metric: str, state: str = SUCCEEDED, *, note: str = "") -> ResultRow:
    """A row of a cell without a score."""
    return ResultRow(cell.dataset, cell.method, cell.base, cell.level_name, metric, state=state, note=note)


def append_results(path: Path, rows: Sequence[ResultRow]) -> None:
    """Add rows at the end, with the time of now where they have none. The file is whole before and after, whoever
    else appends to it meanwhile.

    Raises EvaluationError where the file is no results file: nothing is written.
    """
    _append(path, lambda _: rows)


def append_missing(path: Path, rows: Sequence[ResultRow]) -> None:
    """Add rows without a score, where the file has neither a score of that key nor the same row already."""

    def unsaid(before: Sequence[ResultRow]) -> list[ResultRow]:
        known = {row.key: row for row in before}
        return [row for row in rows if not _says(known.get(row.key), row)]

    if rows:
        _append(path, unsaid)


def _append(path: Path, choose: Callable[[Sequence[ResultRow]], Sequence[ResultRow]]) -> None:
    """Add the rows that are chosen knowing all that the file has, which nobody else changes meanwhile."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path, wait_s=APPEND_WAIT_S):
        before = _read_all(path) if path.exists() else []
        new = choose(before)
        if new or not path.exists():
            now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
            stamped = [row if row.timestamp else replace(row, timestamp=now) for row in new]
            write_text(path, _as_csv([*before, *stamped]))


def _says(before: ResultRow | None, row: ResultRow) -> bool:
    return before is not None and (before.state == SUCCEEDED or (before.state, before.note) == (row.state, row.note))


def read_results(path: Path) -> list[ResultRow]:
    """The newest row of each cell and metric, in the order they first came.

    Reads the published file too, which has fewer columns and other states, and calls the method psa psa_adapter.
    Raises EvaluationError, with file and line, for a file or a row that is none.
    """
    if not path.is_file():
        raise EvaluationError(f"{path} does not exist.", hint="Measure first: psalign eval run --help")
    newest: dict[Key, ResultRow] = {}
    for row in _read_all(path):
        newest[row.key] = row
    return list(newest.values())


def _read_all(path: Path) -> list[ResultRow]:
    fault = partial(EvaluationError, hint=f"Move {path} away, and measure again: psalign eval run --help")
    header, rows = parse_csv(read_text(path, fault=fault), fault=fault, name=str(path))
    if tuple(header) not in (RESULT_COLUMNS, PUBLISHED_COLUMNS):
        raise fault(
            f"{path} is no results file: expected the columns {', '.join(RESULT_COLUMNS)}; saw {', '.join(header)}."
        )
    return [_row(header, cells, f"{path}, row {number}") for number, cells in enumerate(rows, start=1)]


def _row(header: Sequence[str], cells: Sequence[str], where: str) -> ResultRow:
    try:
        if len(cells) != len(header):
            raise ValueError(f"{len(cells)} cells for {len(header)} columns")
        record = dict(zip(header, cells, strict=True))
        numbers = {name: _number(record.get(name)) for name in ("score", "low", "high")}
        count = record.get("n")
        row = ResultRow(**{**record, **numbers, "n": int(count) if count else None})  # type: ignore[arg-type]
    except (TypeError, ValueError) as err:
        raise EvaluationError(f"{where}: not a results row ({err}).", hint=MEND) from err
    row = _of_the_published_script(row)
    if row.state not in STATES:
        raise EvaluationError(f"{where}: state must be one of {', '.join(STATES)}; saw {row.state!r}.", hint=MEND)
    return replace(row, method=OLD_NAMES.get(row.method, row.method))


def _of_the_published_script(row: ResultRow) -> ResultRow:
    """A row by our states: `old` is a score of an earlier run, `skipped` a cell that was not there, and a failure may
    say why in its state."""
    if row.state == "old":
        return replace(row, state=SUCCEEDED, note=row.note or "marked old in the published file")
    if row.state == "skipped":
        return replace(row, state=MISSING, note=row.note or "skipped by the published script")
    state, colon, why = row.state.partition(": ")
    return replace(row, state=FAILED, note=row.note or why) if colon and state == FAILED else row


def _number(text: str | None) -> float | None:
    if not text or text == "NA":
        return None
    if not math.isfinite(float(text)):
        raise ValueError(f"{text} is not finite")
    return float(text)


def _as_csv(rows: Sequence[ResultRow]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(RESULT_COLUMNS)
    for row in rows:
        cells = [getattr(row, name) for name in RESULT_COLUMNS]
        writer.writerow(["" if value is None else value for value in cells])
    return text.getvalue()
