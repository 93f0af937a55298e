"""The limits of one user in a users file: read, added to, removed. Beside step 1 of the path of data.

All else that the file holds stays: other rows, other columns, also those that nothing here reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import LimitError, ProfileError, UsageError
from ..files import Record, csv_text, is_special, parse_jsonl, read_text, write_jsonl, write_text
from ..ids import find_user_id
from ..locks import locked
from ..tables import looks_like_jsonl, parse_csv
from .limits import Limit, limit_records, limits_text, rank, read_limits, united
from .profile import COLUMNS, field_of, find_profile, require_user_id

Change = Callable[[tuple[Limit, ...]], tuple[Limit, ...]]


def limits_of(path: Path, user_id: str) -> tuple[Limit, ...]:
    """Limits of a user of a users file. Raises as find_profile."""
    return find_profile(path, user_id).limits or ()


def add_limit(path: Path, user_id: str, limit: Limit) -> tuple[Limit, ...]:
    """Add a limit and write the file, whole or not at all, mode 0600. Returns all limits of the user.

    A limit of the same phrases by the same setter is there once: with the greater strength and the later end.
    Raises as limits_of; LimitError for more limits than a person may have.
    """
    return _change(path, user_id, lambda limits: _added(limits, limit))


def remove_limit(path: Path, user_id: str, which: str, *, by: str = "user") -> tuple[Limit, ...]:
    """Remove limits and write the file. Returns those of the user that are left.

    which: the text of a limit, or its number in the list (from 1). by: who asks; it must not be of a lower
    rank than who set the limit: user, guardian, operator.
    Raises as limits_of; LimitError where no limit is meant, or a higher rank set it.
    """
    return _change(path, user_id, lambda limits: _removed(limits, which, by))


def _added(limits: Sequence[Limit], limit: Limit) -> tuple[Limit, ...]:
    """Limits of other setters stay apart, so that each can be taken away by who set it."""
    phrases = set(limit.phrases)
    same = [one for one in limits if one.by == limit.by and set(one.phrases) == phrases]
    (both,) = united(same, [limit])
    if not same:
        return (*limits, limit)
    return tuple(both if one is same[0] else one for one in limits if one is same[0] or one not in same)


def _removed(limits: Sequence[Limit], which: str, by: str) -> tuple[Limit, ...]:
    meant = _meant(limits, which)
    if not meant:
        raise LimitError(
            f"No limit of this user has this text or number; there are {len(limits)}.",
            hint="Run: psalign users limit list --users users.csv --user ID",
        )
    mine = [limit for limit in meant if rank(by) >= rank(limit.by)]
    if not mine:
        setter = meant[0].by
        raise LimitError(f"This limit was set by the {setter}, and the {by} may not remove it.",
                         hint=f"It takes --by {setter}, or a setter who stands above.")  # fmt: skip
    return tuple(limit for limit in limits if limit not in mine)


def _meant(limits: Sequence[Limit], which: str) -> list[Limit]:
    """Limits with a text, or the same phrases; else the one of a number."""
    try:
        wanted = Limit(which)
    except LimitError:
        wanted = None
    same = [one for one in limits if wanted and (one.text == wanted.text or set(one.phrases) == set(wanted.phrases))]
    number = int(which) if which.isascii() and which.isdecimal() and len(which) < 4 else 0
    return same or list(limits[number - 1 : number] if number else ())


def _change(path: Path, user_id: str, change: Change) -> tuple[Limit, ...]:
    if is_special(path):
        raise UsageError(f"{path} is no file; expected a users file that can be written.")
    with locked(path):
        limits = change(limits_of(path, user_id))
        read_limits(limits)  # not too many
        _write(path, require_user_id(user_id), limits)
    return limits


def _write(path: Path, user_id: str, limits: Sequence[Limit]) -> None:
    text = read_text(path, fault=ProfileError)
    if looks_like_jsonl(path, text):
        records = [record for _, record in parse_jsonl(text, str(path)) if not isinstance(record, str)]
        write_jsonl(path, _with_record(records, user_id, limit_records(limits)), private=True)
    else:
        header, rows = parse_csv(text, fault=ProfileError, name=str(path))
        header, rows = _with_cell(header, rows, user_id, limits_text(limits))
        write_text(path, csv_text(header, rows), private=True)


def _with_record(records: Sequence[Record], user_id: str, limits: Any) -> list[Record]:
    """JSON lines in which one user's limits are others, under the key that the file has for them."""
    names = {field_of(column): column for record in records for column in record}
    key = names.get("limits", COLUMNS["limits"])
    ids = [record.get(names.get("user_id", ""), number) for number, record in enumerate(records, start=1)]
    return [
        {**record, key: limits} if find_user_id(one) == user_id else record
        for one, record in zip(ids, records, strict=True)
    ]


def _with_cell(header: list[str], rows: list[list[str]], user_id: str, cell: str) -> tuple[list[str], list[list[str]]]:
    """A table in which one user's cell of limits is another; without that column it gets one."""
    fields = [field_of(column) for column in header]
    if "limits" not in fields:
        header, rows, fields = [*header, COLUMNS["limits"]], [[*row, ""] for row in rows], [*fields, "limits"]
    ids = [row[fields.index("user_id")] if "user_id" in fields else number for number, row in enumerate(rows, start=1)]
    place = fields.index("limits")
    return header, [
        [*row[:place], cell, *row[place + 1 :]] if find_user_id(one) == user_id else row
        for one, row in zip(ids, rows, strict=True)
    ]
