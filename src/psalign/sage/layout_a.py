"""SAGE layout A: {split}/metadata.jsonl beside the pictures, a line for each preference.

Place on the path of data: where training joins at step 4; sage/rows.py picks the layout.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..categories import current
from ..errors import DatasetError
from ..files import Record, parse_json, write_jsonl
from ..ids import find_user_id
from .columns import name_columns
from .preference import (
    SUFFIXES,
    PictureName,
    SageRow,
    read_caption,
    read_picture_name,
    read_severity,
    shorten,
)

METADATA = "metadata.jsonl"
NEEDED = ("file_name", "chosen", "rejected", "caption", "user_data")
NAMES: dict[str, tuple[str, ...]] = {**dict.fromkeys(NEEDED, ()), "severity": ()}  # of columns, and their other names


def parse_row(record: Record, *, where: str) -> SageRow:
    """A row from a metadata record. Raises DatasetError that says where and what is wrong."""
    values = name_columns(record, NAMES, where=where)
    missing = [key for key in NEEDED if key not in values]
    if missing:
        raise DatasetError(f"{where}: {', '.join(missing)} missing; a row has {', '.join(NEEDED)}.")
    caption = read_caption(values["caption"], where=where)
    chosen, rejected = (_parse_name(values[key], where=where) for key in ("chosen", "rejected"))
    if chosen.pair != rejected.pair or chosen.unsafe == rejected.unsafe:
        raise DatasetError(
            f"{where}: chosen and rejected are not the two pictures of one pair: "
            f"{values['chosen']}, {values['rejected']}."
        )
    return SageRow(
        user_id=chosen.user_id,
        category=chosen.category,
        concept=chosen.concept,
        index=chosen.index,
        caption=caption,
        caption_kind=_caption_kind(values["file_name"], where=where),
        chosen=values["chosen"],
        rejected=values["rejected"],
        user_data=_user_data(values["user_data"], chosen.user_id, where=where),
        chose_unsafe=chosen.unsafe,
        severity=read_severity(values.get("severity"), where=where),
    )


def read_rows(path: Path, *, where: str) -> Iterator[SageRow | DatasetError]:
    """Rows of a metadata file; what is none is handed over as the fault it is. where: what messages call the file."""
    for number, line in enumerate(path.read_bytes().removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if line.strip():
            try:
                yield parse_row(_record(line, f"{where}, row {number}"), where=f"{where}, row {number}")
            except DatasetError as err:
                yield err


def _record(line: bytes, where: str) -> Record:
    try:
        record = parse_json(line.decode("utf-8"))
    except UnicodeDecodeError as err:
        raise DatasetError(f"{where}: not UTF-8 text (byte {err.start}).") from err
    except ValueError as err:
        raise DatasetError(f"{where}: {err}.") from err
    if not isinstance(record, dict):
        raise DatasetError(f"{where}: expected a JSON object, saw {type(record).__name__}.")
    return record


def write_split(root: Path, split: str, rows: Iterable[SageRow]) -> None:
    """Write root/split/metadata.jsonl in layout A."""
    write_jsonl(root / split / METADATA, (to_record(row) for row in rows), private=True)


def to_record(row: SageRow) -> Record:
    """A row as SAGE writes it; file_name ends in the kind of caption (`..._00004.jpg_u.jpg`), as published."""
    pair = f"user_{row.user_id}_{current().slugs[row.category]}_{'_'.join(row.concept.split())}_{row.index}"
    record = {
        "file_name": f"{pair}.jpg_{row.caption_kind[0]}.jpg",
        "chosen": row.chosen,
        "rejected": row.rejected,
        "caption": row.caption,
        "user_data": row.user_data,
    }
    return record if row.severity is None else {**record, "severity": row.severity}


def _parse_name(name: Any, *, where: str) -> PictureName:
    found = read_picture_name(name)
    if found is None:
        raise DatasetError(
            f"{where}: picture name {shorten(name)} is not user_<id>_<category>_<concept>_<digits>_<s or u>.jpg."
        )
    return found


def _user_data(value: Any, user_id: str, *, where: str) -> Record:
    if not isinstance(value, dict):  # which is personal: what it says instead is not shown
        raise DatasetError(f"{where}: user_data must be a JSON object with User_ID; saw {type(value).__name__}.")
    told = name_columns(value, {"user_id": ()}, where=f"{where}, user_data").get("user_id")
    if find_user_id(told) != user_id:
        raise DatasetError(f"{where}: user_data is of user {shorten(told)}, the pictures are of user {user_id}.")
    return value


def _caption_kind(file_name: Any, *, where: str) -> str:
    """Kind of a row's caption, told by the end of its file_name: `.jpg_u.jpg` as published, or `_u.jpg`."""
    name = file_name.strip().lower() if isinstance(file_name, str) else ""
    stem = next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), "")
    for ending, kind in (("_u", "unsafe"), ("_s", "safe")):
        if stem.endswith(ending):
            return kind
    raise DatasetError(f"{where}: file_name {shorten(file_name)} ends neither in _u.jpg (unsafe) nor in _s.jpg (safe).")
