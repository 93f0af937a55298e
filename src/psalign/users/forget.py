"""Forgets a user: takes them out of every file that knows them. Beside steps 1 to 3 of the path of data.

Every place is read before the first is written, and again before anything is called forgotten.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DatasetError, OutputError, UnknownUser, UsageError
from ..files import (
    Record,
    csv_text,
    is_special,
    parse_json,
    parse_jsonl,
    parts_of,
    read_json,
    read_text,
    write_json,
    write_jsonl,
    write_text,
)
from ..ids import find_user_id
from ..locks import locked
from ..tables import looks_like_jsonl, parse_csv
from .profile import COLUMNS, field_of, require_user_id
from .store import EmbeddingStore
from .store_files import INDEX, NPY_INDEX, UNFINISHED, VECTORS

WAIT_S = 60.0  # for a place that another command is writing
USER_KEYS = ("user_id", "userid", "user")  # of a column or JSON key that holds an id, in lower case
HINT = "Name the files: psalign users forget ID users.csv bans.jsonl data/embeddings/users"


@dataclass(frozen=True)
class Change:
    """What forgetting does to one place. write: makes it so; None where the place does not know the user."""

    place: Path
    write: Callable[[], None] | None


def forget_user(user_id: str, places: Iterable[Path]) -> list[str]:
    """Take a user out of users files, JSON lines (bans, prompts, metadata), splits, stores and vectors.

    Every place is locked while this runs; links are followed. Returns what was done, a line a place. Pictures
    that were drawn for the user, and adapters trained on them, stay.
    Raises, before anything is written, UnknownUser where no place knows the user, UsageError for a place that
    holds no users, DatasetError for one that cannot be read; OutputError where a place is being written by
    another process or still knows the user afterwards.
    """
    wanted = require_user_id(user_id)
    paths = [Path(place) for place in places]
    for place in paths:
        _require_place(place)
    with locked(*paths, wait_s=WAIT_S):
        changes = [_plan(wanted, place) for place in paths]
        if not any(change.write for change in changes):
            raise UnknownUser(f"User {wanted} is in none of: {', '.join(str(place) for place in paths)}.")
        for change in changes:
            if change.write:
                change.write()
        left = [change.place for change in changes if change.place.exists() and _still_there(wanted, change.place)]
    if left:
        raise OutputError(f"User {wanted} is still in {', '.join(str(place) for place in left)}.", hint=HINT)
    return [f"{change.place}: {'forgotten' if change.write else 'was not there'}" for change in changes]


def _still_there(user_id: str, place: Path) -> bool:
    try:
        return _plan(user_id, place).write is not None
    except UsageError:  # a folder of published vectors that held nobody else
        return False


def _require_place(place: Path) -> None:
    if not place.exists() or is_special(place):
        raise _no_users(place)
    if place.is_file() and place.stat().st_nlink > 1:
        raise OutputError(
            f"{place} has a second name on this disk (a hard link), which would keep the user; nothing was changed.",
            hint=f"Remove the other name, or copy the file: cp {place} copy && mv copy {place}",
        )


def _plan(user_id: str, place: Path) -> Change:
    """What is to be done in one place.

    Raises UsageError, DatasetError or EmbeddingMissing; nothing is written.
    """
    if place.is_dir():
        write = _in_folder(user_id, place)
    elif place.suffix.lower() == ".npy":
        write = place.unlink if _is(user_id, place.stem) else None
    elif place.suffix.lower() == ".json":
        write = _in_splits(user_id, place)
    else:
        text = read_text(place)
        write = (_in_lines if looks_like_jsonl(place, text) else _in_table)(user_id, place, text)
    return Change(place, write)


# --- folders ---------------------------------------------------------------------------------------------------------


def _in_folder(user_id: str, place: Path) -> Callable[[], None] | None:
    """A store, published vectors, or both.

    With them go the chunks of an embed that did not end: they hold vectors of several users without names.
    The run that needs them makes them again.
    """
    is_store, published = (place / INDEX).is_file(), sorted(place.glob("*.npy"))  # also those that start with a dot
    chunks = sorted((place / UNFINISHED).glob("*.npy"))
    if not is_store and not published and not chunks:
        raise _no_users(place)
    store = EmbeddingStore.load(place) if is_store else None
    files = [path for path in published if _is(user_id, path.stem)] + chunks
    files += [path for name in (INDEX, VECTORS, NPY_INDEX) for path in parts_of(place / name)]
    about = _in_npy_index(user_id, place / NPY_INDEX)
    if not files and not about and (store is None or user_id not in store):
        return None

    def write() -> None:
        if store is not None and user_id in store:
            store.without([user_id]).save(place)
        for path in files:
            path.unlink(missing_ok=True)
        if about:  # last: who reads meanwhile never sees the vector without its bans
            about()

    return write


def _in_npy_index(user_id: str, path: Path) -> Callable[[], None] | None:
    """What users ban, in the file beside vectors of ours in the published form."""
    if not path.is_file():
        return None
    index = read_json(path, what="what made the vectors", needs=("banned",), fault=DatasetError)
    said = {name: known for name, known in index.items() if isinstance(known, dict) and name != "recipe"}
    kept = {name: {who: what for who, what in known.items() if not _is(user_id, who)} for name, known in said.items()}
    return (lambda: write_json(path, {**index, **kept}, private=True)) if kept != said else None


# --- files -----------------------------------------------------------------------------------------------------------


def _in_table(user_id: str, place: Path, text: str) -> Callable[[], None] | None:
    """Rows of a CSV table. Users without ids are numbered by row first, so that each keeps theirs."""
    header, rows = parse_csv(text, fault=DatasetError, name=str(place))
    fields = [field_of(column) for column in header]
    if not {"user_id"} & set(fields):
        if not set(COLUMNS) & set(fields) or "prompt" in fields:
            raise _no_users(place)
        header, rows = [COLUMNS["user_id"], *header], [[f"{n:07d}", *row] for n, row in enumerate(rows, start=1)]
        fields = ["user_id", *fields]
    uneven = [number for number, row in enumerate(rows, start=1) if len(row) != len(header)]
    if uneven:
        raise DatasetError(f"{place}, row {uneven[0]}: expected the {len(header)} cells of the header.")
    columns = [number for number, field in enumerate(fields) if field == "user_id"]
    kept = [row for row in rows if not any(_is(user_id, row[column]) for column in columns)]
    if len(kept) == len(rows):
        return None
    return lambda: _replace(place, lambda: write_text(place, csv_text(header, kept), private=True))


def _in_lines(user_id: str, place: Path, text: str) -> Callable[[], None] | None:
    records: list[Record] = []
    for where, record in parse_jsonl(text, str(place)):
        if isinstance(record, str):
            raise DatasetError(f"{where}: {record}.")
        records.append(record)
    if records and not any(_ids(record) for record in records):
        raise _no_users(place)
    kept = [record for record in records if not any(_is(user_id, value) for value in _ids(record))]
    if len(kept) == len(records):
        return None
    return lambda: _replace(place, lambda: write_jsonl(place, kept, private=True))


def _in_splits(user_id: str, place: Path) -> Callable[[], None] | None:
    """Lists of ids by split, as `psalign users split` writes them."""
    try:
        splits = parse_json(read_text(place))
    except ValueError as err:
        raise DatasetError(f"{place}: {err}.") from err
    if not isinstance(splits, dict) or not splits or not all(isinstance(ids, list) for ids in splits.values()):
        raise _no_users(place)
    kept = {name: [value for value in ids if not _is(user_id, value)] for name, ids in splits.items()}
    return (lambda: _replace(place, lambda: write_json(place, kept, private=True))) if kept != splits else None


def _replace(place: Path, write: Callable[[], None]) -> None:
    """Write a file, and remove what killed writers left of it."""
    write()
    for path in parts_of(place):
        os.unlink(path)


def _ids(record: Record) -> list[Any]:
    """Every user id of a JSON record, at any depth (SAGE has it in user_data)."""
    found: list[Any] = []
    for key, value in record.items():
        if key.strip().lower() in USER_KEYS and not isinstance(value, dict | list):
            found.append(value)
        found += [one for part in (value if isinstance(value, list) else [value]) if isinstance(part, dict)
                  for one in _ids(part)]  # fmt: skip
    return found


def _is(user_id: str, value: Any) -> bool:
    return find_user_id(value) == user_id


def _no_users(place: Path) -> UsageError:
    return UsageError(
        f"{place} holds no users: expected a users file, bans.jsonl, splits.json, or a folder of user vectors.",
        hint=HINT,
    )
