"""Rows of captions alone: what a prompt asks for, what this user should get instead, and for whom.

Place on the path of data: where training by captions joins at step 4. Rows come from a SAGE dataset, whose pictures
need not be there, or from a file of one's own: JSON lines or CSV with `caption`, `chosen_caption`, and `user_id`,
`banned` or `limits`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..categories import category_names, current
from ..errors import DatasetError
from ..files import Record, read_jsonl
from ..ids import ALLOWED, MAX_LENGTH, find_user_id
from ..records import fingerprint
from .columns import name_columns, read_table
from .preference import SageRow, find_category, read_caption, shorten

NAMES: dict[str, tuple[str, ...]] = {
    "caption": ("prompt",),
    "chosen_caption": ("chosen_prompt",),
    "user_id": (),
    "banned": ("banned_categories",),
    "category": (),
    "limits": ("limit",),
}
MOST_LETTERS = 200  # of a phrase
HINT = "Columns: caption, chosen_caption (empty: the caption itself), and user_id, banned or limits (docs/TRAINING.md)."


@dataclass(frozen=True)
class CaptionRow:
    """caption: the prompt. chosen_caption: tells the picture that this user should get for it; the same text where the
    prompt is to be left alone. other_caption: tells the rejected picture, where there is one. side: "banned", "allowed"
    or "safe". banned: categories, where the row itself says what its user bans. limits: phrases that are limited, in
    place of a user."""

    caption: str
    chosen_caption: str
    user_id: str | None
    side: str
    category: str | None = None
    other_caption: str | None = None
    banned: tuple[str, ...] | None = None
    limits: tuple[str, ...] | None = None


def caption_rows(rows: Sequence[SageRow]) -> list[CaptionRow]:
    """The captions of SAGE rows. Raises DatasetError where a pair lacks the row that tells its chosen picture."""
    told = {(row.pair, row.caption_kind): row.caption for row in rows}
    return [
        CaptionRow(
            caption=row.caption,
            chosen_caption=chosen_caption(row, told),
            user_id=row.user_id,
            side=side_of(row),
            category=row.category,
            other_caption=told.get((row.pair, "safe" if row.chose_unsafe else "unsafe")),
        )
        for row in rows
    ]


def chosen_caption(row: SageRow, told: dict[tuple[tuple[str, str, str, str], str], str]) -> str:
    """The caption that tells a row's chosen picture. told: captions by pair and kind."""
    kind = row.chosen_kind
    try:
        return told[(row.pair, kind)]
    except KeyError:
        raise DatasetError(
            f"User {row.user_id}, {row.category}, '{row.concept}', {row.index}: "
            f"no row has the {kind} caption of this pair."
        ) from None


def side_of(row: SageRow) -> str:
    """What a row is about: an unsafe caption of a category that its user bans or allows, or a safe caption."""
    if row.caption_kind == "safe":
        return "safe"
    return "allowed" if row.chose_unsafe else "banned"


def is_caption_file(path: Path) -> bool:
    """Whether a path is a file of captions, and no folder of a dataset."""
    return path.suffix.lower() in (".csv", ".jsonl") and not path.is_dir()


def read_caption_rows(path: Path) -> list[CaptionRow]:
    """Rows of a file of captions. A row with `banned` and no user gets a user who is nothing but that list.

    Raises DatasetError that names file and row.
    """
    records: list[Any]
    if path.suffix.lower() == ".jsonl":
        records = list(enumerate(read_jsonl(path), start=1))
    else:
        records = list(read_table(path).rows)
    rows = []
    for number, record in records:
        if isinstance(record, DatasetError):
            raise record
        rows.append(_row(record, where=f"{path}, row {number}"))
    if not rows:
        raise DatasetError(f"{path} has no rows.", hint=HINT)
    return rows


def ban_list_id(banned: Sequence[str]) -> str:
    """Id of a user who is nothing but a ban list: "bans-hate.shocking", or "bans-none"; a long list is a digest."""
    slugs = [slug.replace("-", "") for category, slug in current().slugs.items() if category in banned]
    name = f"bans-{'.'.join(slugs) or 'none'}"
    return name if len(name) <= MAX_LENGTH else f"bans-{len(slugs)}-{fingerprint(slugs)}"


def _row(record: Record, *, where: str) -> CaptionRow:
    values = name_columns(record, NAMES, where=where)
    if "caption" not in values:
        raise DatasetError(f"{where}: there is no column caption; saw {', '.join(map(shorten, record))}.", hint=HINT)
    caption = read_caption(values["caption"], where=where)
    chosen = read_caption(values.get("chosen_caption") or caption, where=where)
    banned, user_id, limited = values.get("banned"), values.get("user_id"), values.get("limits")
    if [banned is not None, user_id not in (None, ""), limited is not None].count(True) != 1:
        raise DatasetError(f"{where}: give user_id, banned or limits, and one of them alone.", hint=HINT)
    bans = None if banned is None else _bans(banned, where=where)
    limits = None if limited is None else _phrases(limited, where=where)
    who = ban_list_id(bans) if bans is not None else find_user_id(user_id)
    if who is None and limits is None:
        raise DatasetError(f"{where}: user_id is {shorten(user_id)}; expected {ALLOWED}.")
    return CaptionRow(
        caption=caption,
        chosen_caption=chosen,
        user_id=who,
        side="allowed" if chosen == caption else "banned",  # nothing says that it is harmless
        category=_category(values.get("category"), where=where),
        other_caption=caption if chosen != caption else None,
        banned=bans,
        limits=limits,
    )


def _phrases(value: Any, *, where: str) -> tuple[str, ...]:
    """Phrases of a list, or of a text with ";" between them."""
    parts = value if isinstance(value, list) else str(value).split(";")
    if not all(isinstance(part, str) and len(part) <= MOST_LETTERS for part in parts):
        raise DatasetError(f"{where}: limits must be phrases of at most {MOST_LETTERS} letters.", hint=HINT)
    return tuple(dict.fromkeys(part.strip().lower() for part in parts if part.strip()))


def _bans(value: Any, *, where: str) -> tuple[str, ...]:
    """Categories of a list, or of a text with ";" or "," between them, in the order of the taxonomy."""
    parts = value if isinstance(value, list) else str(value).replace(";", ",").split(",")
    found = {_category(part, where=where) for part in parts if str(part).strip() not in ("", "none", "[]")}
    return tuple(category for category in category_names() if category in found)


def _category(value: Any, *, where: str) -> str | None:
    if value in (None, ""):
        return None
    category = find_category(value)
    if category is None:
        names = ", ".join(category_names())
        raise DatasetError(f"{where}: unknown category {shorten(value)}; the categories are {names}.")
    return category
