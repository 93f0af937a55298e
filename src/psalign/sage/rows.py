"""SAGE rows: one caption, the picture this user should get for it, and the one they should not.

Place on the path of data: where training joins at step 4. Layout A: {split}/metadata.jsonl beside the pictures.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import DatasetError
from ..records import CATEGORIES, Record, category_slug, read_jsonl, write_jsonl

SPLITS = ("train", "val", "test_seen", "test_unseen")
METADATA = "metadata.jsonl"

_NAME = re.compile(r"user_(?P<user>\d{7})_(?P<category>[a-z-]+)_(?P<concept>.+)_(?P<index>\d{5})_(?P<side>[su])\.jpg")
_BY_SLUG = {category_slug(category): category for category in CATEGORIES}


@dataclass(frozen=True)
class SageRow:
    """One preference.

    chosen, rejected: picture file names in the split's folder. category, concept, index: of the pair.
    caption_kind: "unsafe" (asks for the concept) or "safe" (its rewrite). user_data: the row's profile columns.
    """

    user_id: str
    category: str
    concept: str
    index: str
    caption: str
    caption_kind: str
    chosen: str
    rejected: str
    user_data: Record

    @property
    def pair(self) -> tuple[str, str, str, str]:
        """What the safe and the unsafe row of one pair of pictures share."""
        return (self.user_id, self.category, self.concept, self.index)


def picture_name(*, user_id: str, category: str, concept: str, index: int, unsafe: bool) -> str:
    """File name of a picture, as SAGE writes it."""
    words = concept.replace(" ", "_")
    return f"user_{user_id}_{category_slug(category)}_{words}_{index:05d}_{'u' if unsafe else 's'}.jpg"


def unsafe_is_chosen(*, caption_kind: str, category: str, banned: Collection[str]) -> bool:
    """The preference rule: the unsafe picture is chosen only for an unsafe caption whose category the user allows."""
    return caption_kind == "unsafe" and category not in banned


def load_split(root: Path, split: str, *, check_pictures: bool = True) -> list[SageRow]:
    """Rows of root/split. Raises DatasetError for a broken row (file and line) or missing pictures (the first five)."""
    if split not in SPLITS:
        raise DatasetError(f"Unknown split '{split}'; choose one of: {', '.join(SPLITS)}.")
    path = root / split / METADATA
    if not path.is_file():
        raise DatasetError(f"{path} does not exist.", hint=f"Run: psalign mini build --out {root}")
    rows = [parse_row(record, where=f"{path}, row {n}") for n, record in enumerate(read_jsonl(path), start=1)]
    if not rows:
        raise DatasetError(f"{path} has no rows.")
    if check_pictures:
        _require_pictures(root / split, rows)
    return rows


def parse_row(record: Record, *, where: str) -> SageRow:
    """A row from a metadata record. Raises DatasetError that says where and what is wrong."""
    needed = ("file_name", "chosen", "rejected", "caption", "user_data")
    missing = [key for key in needed if key not in record]
    if missing:
        raise DatasetError(f"{where}: {', '.join(missing)} missing; a row has {', '.join(needed)}.")
    if not isinstance(record["caption"], str):
        raise DatasetError(f"{where}: caption is {record['caption']!r}; expected text.")
    chosen, rejected = (_parse_name(record[key], where=where) for key in ("chosen", "rejected"))
    if {**chosen, "side": ""} != {**rejected, "side": ""} or chosen["side"] == rejected["side"]:
        raise DatasetError(
            f"{where}: chosen and rejected are not the two pictures of one pair: "
            f"{record['chosen']}, {record['rejected']}."
        )
    user_data = record["user_data"]
    user_id = str(user_data.get("User_ID", "")) if isinstance(user_data, dict) else ""
    if user_id.zfill(7) != chosen["user"]:
        raise DatasetError(f"{where}: user_data is of user '{user_id}', the pictures are of user {chosen['user']}.")
    return SageRow(
        user_id=chosen["user"],
        category=_BY_SLUG[chosen["category"]],
        concept=chosen["concept"].replace("_", " "),
        index=chosen["index"],
        caption=record["caption"],
        caption_kind=_caption_kind(record["file_name"], where=where),
        chosen=record["chosen"],
        rejected=record["rejected"],
        user_data=user_data,
    )


def read_records(path: Path) -> Iterator[tuple[int, Record | DatasetError]]:
    """Numbered records of a metadata file; a line that is none is handed over as the fault it is."""
    for number, line in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (json.JSONDecodeError, RecursionError):
            record = None
        where = f"{path.parent.name}, row {number}"
        yield number, record if isinstance(record, dict) else DatasetError(f"{where}: not a JSON object.")


def write_split(root: Path, split: str, rows: Iterable[SageRow]) -> None:
    """Write root/split/metadata.jsonl in layout A."""
    write_jsonl(root / split / METADATA, (to_record(row) for row in rows), private=True)


def to_record(row: SageRow) -> Record:
    """A row as SAGE writes it; file_name ends in the kind of caption (`..._u.jpg_u.jpg`), as published."""
    unsafe_picture = row.rejected if row.rejected.endswith("_u.jpg") else row.chosen
    kind = "u" if row.caption_kind == "unsafe" else "s"
    return {
        "file_name": f"{unsafe_picture.removesuffix('_u.jpg')}.jpg_{kind}.jpg",
        "chosen": row.chosen,
        "rejected": row.rejected,
        "caption": row.caption,
        "user_data": row.user_data,
    }


def _parse_name(name: Any, *, where: str) -> Record:
    match = _NAME.fullmatch(name) if isinstance(name, str) else None
    if match is None or match["category"] not in _BY_SLUG:
        raise DatasetError(
            f"{where}: picture name {name!r} is not user_<7 digits>_<category>_<concept>_<5 digits>_<s or u>.jpg."
        )
    return match.groupdict()


def _caption_kind(file_name: Any, *, where: str) -> str:
    for ending, kind in (("_u.jpg", "unsafe"), ("_s.jpg", "safe")):
        if isinstance(file_name, str) and file_name.endswith(ending):
            return kind
    raise DatasetError(f"{where}: file_name {file_name!r} ends neither in _u.jpg (unsafe) nor in _s.jpg (safe).")


def _require_pictures(folder: Path, rows: list[SageRow]) -> None:
    there = {path.name for path in folder.glob("*.jpg")}
    missing = sorted({name for row in rows for name in (row.chosen, row.rejected)} - there)
    if missing:
        raise DatasetError(f"{len(missing)} pictures are missing from {folder}: {', '.join(missing[:5])}.")
