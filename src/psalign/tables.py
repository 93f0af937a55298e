"""Tables: CSV and JSON lines whose columns have names, and the names that a kind of file may give its
columns.

Place on the path of data: under every reader of users, prompts and datasets. A column whose name is nearly
one of ours is refused with "did you mean", because to leave it out could change what a row means, or lose a
limit.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import Any

from .errors import DatasetError
from .files import Fault, Record, parse_jsonl, read_text
from .ids import shorten

# Columns of a profile as layout A spells them; our name of each is the same in small letters.
PROFILE_COLUMNS = ("Age", "Age_Group", "Gender", "Religion", "Physical_Condition", "Mental_Condition")
SEPARATORS = {";": "semicolons", "\t": "tabs"}  # that spreadsheets write in some countries
LIKENESS = 0.87  # of 1, from which an unknown column counts as a misspelt one of ours


@dataclass(frozen=True)
class Table:
    """A table as its file has it.

    columns: in the file's spelling. rows: records with their numbers, from 1; for a row that is not a record
    of these columns, the reason in words.
    """

    path: Path
    columns: tuple[str, ...]
    rows: tuple[tuple[int, Record | str], ...]

    def records(self) -> Iterator[tuple[str, Record]]:
        """Records, with "concepts.csv, row 3" for messages. Raises DatasetError for a row that is not one."""
        for number, record in self.rows:
            if isinstance(record, str):
                raise DatasetError(f"{self.path}, row {number}: {record}.")
            yield f"{self.path}, row {number}", record

    def require(self, *wanted: str, columns: Columns) -> None:
        """Raises DatasetError unless the table has every wanted column; "a|b" is a or b."""
        have = columns.name(dict.fromkeys(self.columns), where=str(self.path))
        missing = [choice for choice in wanted if not set(choice.split("|")) & set(have)]
        if missing:
            words = ", ".join(choice.replace("|", " or ") for choice in missing)
            raise DatasetError(
                f"{self.path}: there is no column {words}; saw {', '.join(map(shorten, self.columns))}.",
                hint="docs/DATA.md has the columns.",
            )


class Columns:
    """The columns of a kind of file.

    names: our name of each, and its other spellings. first_words: words that mean one of our columns when an
    unknown name begins with them. likeness: from 0 to 1, above which an unknown name counts as a misspelling.
    """

    def __init__(
        self,
        names: Mapping[str, Sequence[str]],
        *,
        first_words: Mapping[str, str] | None = None,
        likeness: float = LIKENESS,
    ) -> None:
        self.names, self.first_words, self.likeness = names, first_words or {}, likeness

    @cached_property
    def spellings(self) -> dict[str, str]:
        """Our name by each spelling."""
        return {spelling: name for name, others in self.names.items() for spelling in (name, *others)}

    @cached_property
    def _meant(self) -> dict[str, str | None]:
        return {}  # what was found, by column: every row of a file asks again

    def find(self, column: str) -> str | None:
        """Our name of a column; None for another column."""
        return self.spellings.get(column_name(column))

    def meant(self, column: str) -> str | None:
        """The spelling of ours that a column, which is not ours, was probably meant for."""
        column = column_name(column)
        if column in self.spellings:
            return None
        if column not in self._meant:
            near = get_close_matches(column[:80], sorted(self.spellings), n=1, cutoff=self.likeness)
            self._meant[column] = self.first_words.get(column.split("_")[0]) or next(iter(near), None)
        return self._meant[column]

    def name(self, record: Mapping[str, Any], *, where: str, fault: Fault = DatasetError) -> Record:
        """The values of our columns by our names; other columns are left out.

        Raises `fault` for two columns of one name, and for a column that is nearly one of ours.
        """
        found: Record = {}
        for key, value in record.items():
            name = self.find(key)
            if name is None and (near := self.meant(key)):
                raise fault(f"{where}: column {shorten(key)}: did you mean {near}? Rename or remove it.")
            if name in found:
                raise fault(f"{where}: there are two columns for {name}; keep one.")
            if name:
                found[name] = value
        return found


def column_name(key: str) -> str:
    """A column's name in lower case, with "_" between its words."""
    return re.sub(r"[\s-]+", "_", key.strip().lower())


def read_table(path: Path, *, fault: Fault = DatasetError, strip: bool = False) -> Table:
    """The table of a file, in UTF-8. Raises `fault` as parse_table does, and for a file that cannot be read."""
    return parse_table(read_text(path, fault=fault), path, fault=fault, strip=strip)


def parse_table(text: str, path: Path, *, fault: Fault = DatasetError, strip: bool = False) -> Table:
    """The table of a text, JSON lines or CSV. Blank lines are left out; cells of CSV may hold quoted line
    breaks.

    strip: take spaces from both ends of each cell of CSV, and leave out rows that are nothing but spaces.
    Raises `fault` for text that is not CSV, has no header line, or has two columns of one name.
    """
    if looks_like_jsonl(path, text):
        lines = [record for _, record in parse_jsonl(text, "")]
        columns = dict.fromkeys(name for record in lines if isinstance(record, dict) for name in record)
        return Table(path, tuple(columns), tuple(enumerate(lines, start=1)))
    header, rows = parse_csv(text, fault=fault, name=str(path))
    if not header:
        raise fault(f"{path} is empty; expected a header line and a row for each entry.")
    twice = next((name for name in header if header.count(name) > 1), None)
    if twice is not None:
        raise fault(f"{path}: there are two columns {shorten(twice)}; keep one.")
    if strip:
        rows = [[cell.strip() for cell in row] for row in rows]
        rows = [row for row in rows if any(row)]
    return Table(path, tuple(header), tuple(enumerate((_record(header, row) for row in rows), start=1)))


def parse_csv(text: str, *, fault: Fault, name: str) -> tuple[list[str], list[list[str]]]:
    """Header and rows of CSV text; rows without a cell are left out.

    Raises `fault` for text that is not CSV, and for cells between semicolons or tabs. The caller checks whether rows
    fit the header.
    """
    try:
        rows = [row for row in csv.reader(io.StringIO(text, newline=""), strict=True) if row]
    except csv.Error as err:
        raise fault(f"{name}: not a CSV file ({err}).") from err
    header = [column.strip() for column in rows[0]] if rows else []
    if len(header) == 1 and (other := next((name for sign, name in SEPARATORS.items() if sign in rows[0][0]), None)):
        raise fault(f"{name}: saw {other} between its cells, expected commas. Save it again as CSV with commas.")
    return header, rows[1:]


def looks_like_jsonl(path: Path, text: str) -> bool:
    """Whether a table is JSON lines: by its suffix or, where that says neither, by its first character."""
    suffix = path.suffix.lower()
    return suffix == ".jsonl" or (suffix != ".csv" and text.lstrip().startswith("{"))


def _record(header: Sequence[str], row: Sequence[str]) -> Record | str:
    if len(row) != len(header):
        return f"saw {len(row)} cells, expected the {len(header)} of the header"
    return dict(zip(header, row, strict=True))
