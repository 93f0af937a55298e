"""Rows of captions without pictures: a prompt, its user, and the caption of what this user should get.

Place on the path of data: where training by captions joins at step 4. Rows come from a SAGE dataset, whose
pictures need not be there, or from a file of one's own: JSON lines or CSV with `caption`, `chosen_caption`,
and `user_id`, `banned` or `limits`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..categories import category_names, current
from ..errors import DatasetError
from ..files import Record
from ..fingerprints import fingerprint
from ..ids import ALLOWED, MAX_LENGTH, find_user_id, shorten
from ..tables import Columns, read_table
from .rows import Pair, SageRow, read_caption

COLUMNS = Columns(
    {
        "caption": ("prompt",),
        "chosen_caption": ("chosen_prompt",),
        "user_id": (),
        "banned": ("banned_categories",),
        "category": (),
        "limits": ("limit",),
    }
)
Captions = dict[tuple[Pair, str], str]  # by pair and kind
MOST_LETTERS = 200  # of a phrase
HINT = "Columns: caption, chosen_caption (empty: the caption itself), and user_id, banned or limits (docs/TRAINING.md)."


@dataclass(frozen=True)
class CaptionRow:
    """A prompt, and what its user should get for it.

    caption: the prompt. chosen_caption: the caption of the chosen picture; the same text where the prompt is
    to be left alone. other_caption: the caption of the rejected picture, where there is one. side: "banned",
    "allowed" or "safe". banned: categories that the user bans, where the row itself lists them. limits:
    phrases that are limited, in place of a user.
    """

    caption: str
    chosen_caption: str
    user_id: str | None
    side: str
    category: str | None = None
    other_caption: str | None = None
    banned: tuple[str, ...] | None = None
    limits: tuple[str, ...] | None = None


def captions_by_kind(rows: Sequence[SageRow]) -> Captions:
    """Captions by pair and kind."""
    return {(row.pair, row.caption_kind): row.caption for row in rows}


def caption_rows(rows: Sequence[SageRow]) -> list[CaptionRow]:
    """The captions of SAGE rows. Raises DatasetError as chosen_caption does."""
    captions = captions_by_kind(rows)
    return [
        CaptionRow(
            caption=row.caption,
            chosen_caption=chosen_caption(row, captions),
            user_id=row.user_id,
            side=side_of(row),
            category=row.category,
            other_caption=captions.get((row.pair, "safe" if row.chose_unsafe else "unsafe")),
        )
        for row in rows
    ]


def chosen_caption(row: SageRow, captions: Captions) -> str:
    """The caption of a row's chosen picture. Raises DatasetError where its pair has no row with that caption."""
    caption = captions.get((row.pair, row.chosen_kind))
    if caption is None:
        raise DatasetError(f"{row}: no row has the {row.chosen_kind} caption of this pair.")
    return caption


def side_of(row: SageRow) -> str:
    """The side of a row: an unsafe caption of a category that its user bans or allows, or a safe caption."""
    if row.caption_kind == "safe":
        return "safe"
    return "allowed" if row.chose_unsafe else "banned"


def is_caption_file(path: Path) -> bool:
    """Whether a path is a file of captions, not the folder of a dataset."""
    return path.suffix.lower() in (".csv", ".jsonl") and not path.is_dir()


def read_caption_rows(path: Path) -> list[CaptionRow]:
    """Rows of a file of captions. A row with `banned` in place of a user gets a user of only that ban list.

    Raises DatasetError that names file and row.
    """
    rows = [_row(record, where=where) for where, record in read_table(path, strip=True).records()]
    if not rows:
        raise DatasetError(f"{path} has no rows.", hint=HINT)
    return rows


def ban_list_id(banned: Sequence[str]) -> str:
    """The id of a user who is only a ban list: "bans-hate.shocking", or "bans-none"; a long list is a digest."""
    slugs = [slug.replace("-", "") for category, slug in current().slugs.items() if category in banned]
    name = f"bans-{'.'.join(slugs) or 'none'}"
    return name if len(name) <= MAX_LENGTH else f"bans-{len(slugs)}-{fingerprint(slugs)}"


def _row(record: Record, *, where: str) -> CaptionRow:
    values = COLUMNS.name(record, where=where)
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
        side="allowed" if chosen == caption else "banned",  # a caption that is left alone is not known to be safe
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
    category = current().find(value)
    if category is None:
        names = ", ".join(category_names())
        raise DatasetError(f"{where}: unknown category {shorten(value)}; the categories are {names}.")
    return category
