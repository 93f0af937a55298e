"""results.csv: one row per cell and metric, appended by any number of processes; the last of a key counts.

Place on the path of data: step 7, between measuring and the report. `ResultRow` is its one schema.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, FiniteFloat, ValidationError, model_validator

from psalign.errors import EvaluationError
from psalign.files import append_bytes, csv_text, read_text, write_text
from psalign.locks import locked
from psalign.tables import parse_csv

from .cells import Cell, Variant
from .estimate import Estimate

SUCCEEDED, FAILED, MISSING = "succeeded", "failed", "missing"
STATES = (SUCCEEDED, FAILED, MISSING)
APPEND_WAIT_S = 60.0  # for other processes that append
OLD_NAMES = {"psa_adapter": "psa"}  # of methods, in the published file
REMOVE = "Remove that row: psalign eval run measures its cell again, and the others stay as they are."

Key = tuple[str, str, str, str, str]


def _or_none(cell: Any) -> Any:
    return None if cell in ("", "NA") else cell


Number = Annotated[FiniteFloat | None, BeforeValidator(_or_none)]


class ResultRow(BaseModel):
    """A line of results.csv.

    level: `none`, `user` (each row's own user) or `level_<k>`. metrics: the name of one. score: over n
    cases with its 95 % interval; None where there is no case. state: `succeeded`; `failed`: the note says
    why; `missing`: there is nothing to measure or to measure with, and the note says what. fingerprint:
    names all that the score depends on.
    """

    model_config = ConfigDict(frozen=True)

    dataset: str
    method: str
    base_model: str
    level: str
    metrics: str
    score: Number = None
    state: str = SUCCEEDED
    timestamp: str = ""
    n: Annotated[int | None, BeforeValidator(_or_none)] = None
    low: Number = None
    high: Number = None
    fingerprint: str = ""
    note: str = ""

    @model_validator(mode="before")
    @classmethod
    def _of_the_published_script(cls, row: dict[str, Any]) -> dict[str, Any]:
        """The row by our names and states: `old` is a score of an earlier run, `skipped` a cell that was not
        there, and a failure may say why in its state."""
        row = {**row, "method": OLD_NAMES.get(row["method"], row["method"])} if "method" in row else row
        state, colon, why = str(row.get("state", SUCCEEDED)).partition(": ")
        if state == "old":
            return {**row, "state": SUCCEEDED, "note": row.get("note") or "marked old in the published file"}
        if state == "skipped":
            return {**row, "state": MISSING, "note": row.get("note") or "skipped by the published script"}
        return {**row, "state": FAILED, "note": row.get("note") or why} if colon and state == FAILED else row

    @model_validator(mode="after")
    def _check(self) -> ResultRow:
        if self.state not in STATES:
            raise ValueError(f"state must be one of {', '.join(STATES)}; saw {self.state!r}")
        ends = (self.low, self.high)
        if (self.low is None) != (self.high is None) or (self.score is None and self.low is not None):
            raise ValueError("half an interval; expected score, low and high, or no interval at all")
        if self.score is not None and self.low is not None and self.high is not None:
            tiny = 1e-9 * max(1.0, abs(self.score))
            if not self.low - tiny <= self.score <= self.high + tiny:
                raise ValueError(f"the score {self.score} lies outside its interval {ends}")
        return self

    @property
    def key(self) -> Key:
        return self.dataset, self.method, self.base_model, self.level, self.metrics

    @property
    def cell(self) -> Cell:
        """Raises UsageError where the row names none."""
        return Cell(self.dataset, self.method, self.base_model, self.variant.strictness)

    @property
    def variant(self) -> Variant:
        return Variant(self.method, self.level)

    @property
    def estimate(self) -> Estimate:
        return Estimate(self.score, self.n or 0, self.low, self.high)

    @property
    def cells(self) -> list[Any]:
        """The row as results.csv has it."""
        values = (getattr(self, name) for name in RESULT_COLUMNS)
        return ["" if value is None else value for value in values]


RESULT_COLUMNS = tuple(ResultRow.model_fields)
PUBLISHED_COLUMNS = RESULT_COLUMNS[:8]


def result_row(
    cell: Cell, metric: str, state: str = SUCCEEDED, *, estimate: Estimate | None = None, fingerprint: str = "",
    note: str = "",
) -> ResultRow:  # fmt: skip
    """A row of a cell; estimate: the score, None where it has none."""
    known = {} if estimate is None else {
        "score": estimate.value, "n": estimate.n, "low": estimate.low, "high": estimate.high
    }  # fmt: skip
    return ResultRow(
        dataset=cell.dataset,
        method=cell.method,
        base_model=cell.base,
        level=cell.level_name,
        metrics=metric,
        state=state,
        fingerprint=fingerprint,
        note=note,
        **known,
    )


def append_results(path: Path, rows: Sequence[ResultRow], *, only_new: bool = False) -> None:
    """Append rows, with the present time where they have none. Several processes may append to one file.

    only_new: leave out rows for which the file has a score of the same key, or the same state and note.
    Raises EvaluationError where the file is not a results file, OutputError where it cannot be written;
    nothing of the rows is then in it.
    """
    if only_new and not rows:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path, wait_s=APPEND_WAIT_S):
        if only_new and path.exists():
            known = {row.key: row for row in read_results(path)}
            rows = [row for row in rows if not _is_known(known.get(row.key), row)]
        now = datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%SZ")
        stamped = [row if row.timestamp else row.model_copy(update={"timestamp": now}) for row in rows]
        if _is_appendable(path):
            append_bytes(path, csv_text(RESULT_COLUMNS, [row.cells for row in stamped]).split("\n", 1)[1].encode())
        else:
            before = _read_all(path) if path.exists() else []
            write_text(path, csv_text(RESULT_COLUMNS, [row.cells for row in (*before, *stamped)]))


def _is_known(before: ResultRow | None, row: ResultRow) -> bool:
    return before is not None and (before.state == SUCCEEDED or (before.state, before.note) == (row.state, row.note))


def _is_appendable(path: Path) -> bool:
    """Whether a file has our header and ends with a whole line; another one is written anew."""
    header = (",".join(RESULT_COLUMNS) + "\n").encode()
    if not path.is_file():
        return False
    with path.open("rb") as stream:
        if stream.read(len(header)) != header:
            return False
        stream.seek(-1, os.SEEK_END)
        return stream.read() == b"\n"


def read_results(path: Path) -> list[ResultRow]:
    """The newest row of each cell and metric, in the order in which they first came.

    Reads the published file too, which has fewer columns and other states, and calls the method psa
    psa_adapter.
    Raises EvaluationError, with file and line, for another file or a row that is not a result. A last line
    that a kill cut short does not count.
    """
    if not path.is_file():
        raise EvaluationError(f"{path} does not exist.", hint="Measure first: psalign eval run --help")
    return list({row.key: row for row in _read_all(path)}.values())


def _read_all(path: Path) -> list[ResultRow]:
    fault = partial(EvaluationError, hint=f"Move {path} away, and measure again: psalign eval run --help")
    text = read_text(path, fault=fault)
    is_whole = text.endswith("\n")
    try:
        header, rows = parse_csv(text, fault=fault, name=str(path))
    except EvaluationError:
        if is_whole or "\n" not in text:
            raise
        header, rows, is_whole = *parse_csv(text[: text.rindex("\n") + 1], fault=fault, name=str(path)), True
    if tuple(header) not in (RESULT_COLUMNS, PUBLISHED_COLUMNS):
        raise fault(
            f"{path} is no results file: expected the columns {', '.join(RESULT_COLUMNS)}; saw {', '.join(header)}."
        )
    found = []
    for number, cells in enumerate(rows, start=1):
        try:
            if len(cells) != len(header):
                raise ValueError(f"{len(cells)} cells for {len(header)} columns")
            found.append(ResultRow(**dict(zip(header, cells, strict=True))))
        except ValueError as err:  # pydantic's are among them
            if number == len(rows) and not is_whole:
                break
            raise EvaluationError(f"{path}, row {number}: not a results row ({_why(err)}).", hint=REMOVE) from err
    return found


def _why(err: ValueError) -> str:
    if not isinstance(err, ValidationError):
        return str(err)
    first = err.errors()[0]
    return ": ".join([*map(str, first["loc"]), first["msg"].removeprefix("Value error, ")])
