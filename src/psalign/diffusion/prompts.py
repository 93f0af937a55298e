"""Prompt files: what to draw, with which seed, and for whom. Step 6 of the path of data.

Our own JSON lines, a META_FILE as CSV (`prompt,user_id,age,gender,...`), or SAGE's metadata.jsonl. Profiles may stand
in a META_FILE; they are handed over beside the rows and never travel with them.
"""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import DatasetError
from ..files import Record, read_jsonl
from ..ids import ALLOWED, find_user_id
from ..records import MetaRow, PromptRow, wrong_keys
from ..tables import PROFILE_COLUMNS, Columns, Table, column_name, read_table

# Columns of a profile, which no prompt row may carry into a manifest.
PERSONAL = frozenset({*(column.lower() for column in PROFILE_COLUMNS), "user_data", "limits"})
PROFILE = PERSONAL - {"user_data"} | {"banned_categories", "banned"}
OF_USERS = PROFILE | {"cluster_id", "allowed_categories"}  # taken out of a row
PROMPT = ("prompt", "caption")  # names of the column that says what to draw
OURS = OF_USERS | {*PROMPT, "user_id", "user_data", "file_name", "seed", "meta"}
COLUMNS = Columns(
    dict.fromkeys(sorted(OURS), ()),
    first_words={name.split("_")[0]: name for name in sorted(PROFILE - {"age_group", "banned"} | {"user_id"})},
)
MAX_SHOWN = 10  # columns in a message
MAX_DIGITS = 20  # of a seed
OF_PAIRS = ("chosen", "rejected")  # columns of SAGE rows that say nothing of a picture to draw


def load_prompts(path: Path) -> list[PromptRow]:
    """Prompt rows of a JSON-lines file; a user id that is a number gets seven digits.

    Raises DatasetError that names file and row for a row that is none, or that carries columns of a profile.
    """
    return [prompt_row(record, f"{path}, row {number}") for number, record in enumerate(read_jsonl(path), start=1)]


def load_meta_file(path: Path, *, seed: int = 0, keep: Sequence[str] = ()) -> list[MetaRow]:
    """Rows of a META_FILE or pipe: CSV, or JSON lines of prompt rows or SAGE rows; column names in any letter case.

    Needed is `prompt` (or `caption`). A row without file_name is numbered; one without a seed gets its own from `seed`
    and its number, whoever draws it. keep: columns that are none of ours and go into meta, and so into a manifest;
    all others are left out, for they may be about a person.
    Raises DatasetError that names file and row: no rows, no prompt column, two columns of one name, a column that is
    nearly one of ours, a value that makes no sense.
    """
    records = [record for _, record in _prompt_table(path).records()]
    if not records:
        raise DatasetError(f"{path} has no rows.", hint="Expected a header line with prompt, and a row for a picture.")
    kept = {column_name(name) for name in keep}
    columns = {column_name(name) for record in records for name in record}
    lacking = sorted(kept - columns) or sorted(kept & (OURS | {*OF_PAIRS}))
    if lacking:
        raise DatasetError(f"{path}: {lacking[0]} is no column that can be kept; saw {', '.join(sorted(columns))}.")
    rows = [_meta_row(record, number, seed, f"{path}, row {number}", kept) for number, record in enumerate(records, 1)]
    _warn_left_out(columns - kept - OURS - {*OF_PAIRS})
    return rows


def _warn_left_out(columns: Collection[str]) -> None:
    if columns:
        shown = ", ".join(sorted(columns)[:MAX_SHOWN])
        print(f"Columns that stay out of the manifest: {shown} (--keep-columns takes them in).", file=sys.stderr)


def derive_seed(*parts: int) -> int:
    """A seed of 32 bits from numbers: the same everywhere, unrelated for other numbers."""
    return int.from_bytes(hashlib.sha256(repr(parts).encode()).digest()[:4], "big")


def repeat(rows: list[PromptRow], times: int) -> list[PromptRow]:
    """Every row so many times, with file names and seeds of their own; the first is the row itself."""
    return [row if i == 0 else _variant(row, i) for row in rows for i in range(times)]


def _variant(row: PromptRow, i: int) -> PromptRow:
    path = PurePosixPath(row.file_name)
    return replace(row, file_name=str(path.with_stem(f"{path.stem}_{i}")), seed=derive_seed(row.seed, i))


def _meta_row(record: Record, number: int, seed: int, where: str, keep: Collection[str] = ()) -> MetaRow:
    columns = _columns(record, where)
    person = columns.pop("user_data", None) or {}
    if not isinstance(person, dict):  # which is personal: what it says instead is not shown
        raise DatasetError(f"{where}: user_data must be a JSON object; saw {type(person).__name__}.")
    for name, value in _columns(person, f"{where}, user_data").items():
        if columns.get(name) in (None, ""):
            columns[name] = value
        elif not _is_same(name, columns[name], value):
            raise DatasetError(f"{where}: {name} is not the one of user_data; give it once.")
    spelling = next((name for name in PROMPT if name in columns), None)
    if spelling is None:
        raise DatasetError(
            f"{where}: there is no column prompt (or caption); saw {', '.join(map(str, record))}.",
            hint="A META_FILE has a column prompt; user_id, file_name, seed and the columns of a profile are optional.",
        )
    of_user = {name: columns.pop(name) for name in sorted(OF_USERS & set(columns))}
    profile = {name: value for name, value in of_user.items() if name in PROFILE}
    user_id, meta = columns.pop("user_id", None), columns.pop("meta", {})
    kept = {name: value for name, value in columns.items() if name in keep}
    row = {
        "file_name": _picture_name(columns.pop("file_name", None), number),
        "prompt": columns.pop(spelling),
        "seed": _seed(columns.pop("seed", None), seed, number, where),
        "user_id": None if user_id in (None, "") else user_id,
        "meta": {**kept, **meta} if isinstance(meta, dict) else meta,
    }
    known = any(value not in (None, "") for value in profile.values())
    return MetaRow(prompt_row(row, where), profile if known else None)


def _columns(record: Record, where: str) -> Record:
    """A record by the names of its columns. Two columns of one name, or nearly one of ours, could lose a limit."""
    columns: Record = {}
    for key, value in record.items():
        name, meant = column_name(key), COLUMNS.meant(key)
        if name in columns:
            raise DatasetError(f"{where}: there are two columns {name}; keep one.")
        if meant is not None:
            raise DatasetError(f"{where}: column {key}: did you mean {meant}? Rename or remove it.")
        columns[name] = value
    return columns


def _picture_name(given: Any, number: int) -> Any:
    """File name of the picture: .png whatever the row says, as SAGE's `..._u.jpg_u.jpg` says .jpg."""
    if given in (None, ""):
        return f"{number - 1:06d}.png"
    return re.sub(r"\.(jpe?g|png|webp)$", "", given, flags=re.IGNORECASE) + ".png" if isinstance(given, str) else given


def _seed(given: Any, seed: int, number: int, where: str) -> Any:
    if given in (None, ""):
        return derive_seed(seed, number - 1)
    if isinstance(given, str):
        digits = given.strip()
        if not (digits.isascii() and digits.isdecimal() and len(digits) <= MAX_DIGITS):
            raise DatasetError(f"{where}: seed must be a whole number from 0 to 2**63 - 1; saw {given[:40]!r}.")
        return int(digits)
    return given


def read_csv(path: Path) -> Iterator[Record]:
    """Records of a CSV file with a column prompt (or caption); cells may hold quoted line breaks.

    Raises DatasetError for a file that is none, a column given twice, or a row of another length than the header.
    """
    yield from (record for _, record in _prompt_table(path).records())


def _prompt_table(path: Path) -> Table:
    fault = partial(
        DatasetError,
        hint="A META_FILE (.csv or .jsonl) has a column prompt; user_id, file_name, seed and the columns of a profile "
        "are optional.",
    )
    table = read_table(path, fault=fault)
    if path.suffix.lower() != ".jsonl" and not {column_name(name) for name in table.columns} & set(PROMPT):
        raise fault(f"{path}: there is no column prompt (or caption); saw {', '.join(table.columns)}.")
    return table


def prompt_row(record: Record, where: str) -> PromptRow:
    """A record as a prompt row; a user id that is a number gets seven digits.

    Raises DatasetError, which begins with `where`, for one that is none, or that carries columns of a profile.
    """
    wrong = wrong_keys(PromptRow, record)
    if wrong:
        raise DatasetError(f"{where}: not a prompt row: {wrong}.")
    row = PromptRow(**record)
    checks = {
        "file_name": (_is_picture_name(row.file_name), "a relative path without '..' that ends in .png"),
        "prompt": (_is_text(row.prompt), "text, of whole characters"),
        "seed": (_is_whole(row.seed) and row.seed < 2**63, "a whole number from 0 to 2**63 - 1"),
        "user_id": (row.user_id is None or find_user_id(row.user_id) is not None, f"null, or {ALLOWED}"),
        "meta": (isinstance(row.meta, dict), "a JSON object"),
    }
    for name, (fine, expected) in checks.items():
        if not fine:
            raise DatasetError(f"{where}: {name} must be {expected}; saw {getattr(row, name)!r}.")
    personal = sorted({key for key in _keys(row.meta) if column_name(key) in PERSONAL})
    if personal:
        raise DatasetError(
            f"{where}: meta has {', '.join(personal)}; profiles never travel with pictures.",
            hint="Keep profiles in the users file; a row names its user by user_id alone.",
        )
    return replace(row, file_name=str(PurePosixPath(row.file_name)), user_id=find_user_id(row.user_id))


def _is_text(value: Any) -> bool:
    """Whether a value is text that can be written; JSON may hold half a character (a lone surrogate)."""
    try:
        return isinstance(value, str) and value.encode() is not None
    except UnicodeEncodeError:
        return False


def _is_picture_name(name: Any) -> bool:
    if not isinstance(name, str) or not name.isprintable() or "\\" in name:
        return False
    path = PurePosixPath(name)
    return path.suffix == ".png" and not name.endswith("/") and not path.is_absolute() and ".." not in path.parts


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_same(name: str, one: Any, other: Any) -> bool:
    """Whether a column and user_data say the same of a user."""
    if name == "user_id":
        return find_user_id(one) is not None and find_user_id(one) == find_user_id(other)
    return str(one).strip().removesuffix(".0") == str(other).strip().removesuffix(".0")


def _keys(value: Any) -> Iterator[str]:
    """Every key of a JSON value, at any depth."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    yield from value if isinstance(value, dict) else ()
    for part in inside:
        yield from _keys(part)
