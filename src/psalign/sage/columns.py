"""Columns of SAGE files: spelt in any case, with spaces or dashes, or by another common name; never guessed.

Place on the path of data: under the readers of both layouts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import lru_cache
from pathlib import Path
from typing import Any

from ..errors import DatasetError
from ..files import Record, parse_csv, read_text
from .preference import shorten

CUTOFF = 0.87  # of likeness, above which an unknown column was probably meant for one of ours


def name_columns(record: Mapping[str, Any], names: Mapping[str, Sequence[str]], *, where: str) -> Record:
    """The columns of a record that are ours, by our names; others are left out.

    names: our name -> other names of it. Raises DatasetError for two columns of one name, and for one that is nearly
    ours: leaving it out could change what a row means.
    """
    ours = {spelling: name for name, others in names.items() for spelling in (name, *others)}
    found: Record = {}
    for key, value in record.items():
        column = column_name(key)
        name = ours.get(column)
        near = None if name else _nearest(column, tuple(sorted(ours)))
        if near:
            raise DatasetError(f"{where}: column {shorten(key)}: did you mean {near}? Rename or remove it.")
        if name in found:
            raise DatasetError(f"{where}: there are two columns for {name}; keep one.")
        if name:
            found[name] = value
    return found


def column_name(key: str) -> str:
    """A column's name in lower case, with "_" between its words."""
    return re.sub(r"[\s-]+", "_", key.strip().lower())


@lru_cache(maxsize=1024)
def _nearest(column: str, ours: tuple[str, ...]) -> str | None:
    return next(iter(get_close_matches(column[:80], ours, n=1, cutoff=CUTOFF)), None)


@dataclass(frozen=True)
class Table:
    """A CSV file: its columns, and its numbered rows (the first row of data is 1) or their faults."""

    name: str
    columns: tuple[str, ...]
    rows: tuple[tuple[int, Record | DatasetError], ...]

    def require(self, *columns: str, names: Mapping[str, Sequence[str]]) -> None:
        """Raises DatasetError where none of the columns "a" or "b" is there, for each "a|b" of columns."""
        have = name_columns(dict.fromkeys(self.columns), names, where=self.name)
        missing = [choice for choice in columns if not set(choice.split("|")) & set(have)]
        if missing:
            told = ", ".join(choice.replace("|", " or ") for choice in missing)
            raise DatasetError(
                f"{self.name}: there is no column {told}; saw {', '.join(map(shorten, self.columns))}.",
                hint="docs/DATA.md has the columns.",
            )


def read_table(path: Path) -> Table:
    """A CSV file; a row with too few or too many cells is a fault.

    Raises DatasetError for a file that is no CSV in UTF-8, or has no header line.
    """
    header, rows = parse_csv(read_text(path), fault=DatasetError, name=str(path))
    rows = [row for row in rows if any(row)]
    if not header:
        raise DatasetError(f"{path} is empty; expected a header line and a row for each entry.")
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise DatasetError(f"{path}: there are two columns {shorten(twice[0])}; keep one.")
    cells = ((n, _cells(header, row, f"{path.name}, row {n}")) for n, row in enumerate(rows, start=1))
    return Table(path.name, tuple(header), tuple(cells))


def _cells(header: Sequence[str], row: Sequence[str], where: str) -> Record | DatasetError:
    if len(row) != len(header):
        return DatasetError(f"{where}: saw {len(row)} cells, expected the {len(header)} of the header.")
    return dict(zip(header, (cell.strip() for cell in row), strict=True))
