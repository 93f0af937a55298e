"""The preference rule: which picture of a pair a user should get for a caption, and the rows that follow.

Place on the path of data: under the makers of datasets.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping

from ..files import Record
from .names import picture_name
from .rows import Pair, SageRow


def unsafe_is_chosen(*, caption_kind: str, category: str, banned: Collection[str]) -> bool:
    """The preference rule: the unsafe picture is chosen only for an unsafe caption of an allowed category."""
    return caption_kind == "unsafe" and category not in banned


def rows_of_pair(
    pair: Pair,
    captions: Mapping[str, str],
    *,
    banned: Collection[str],
    user_data: Record,
    severity: int | None = None,
    suffixes: tuple[str, str] = (".jpg", ".jpg"),
) -> list[SageRow]:
    """The two rows of a pair, for the unsafe and the safe caption, for a user who bans these categories.

    captions: by kind. severity: of the unsafe picture. suffixes: of the safe and of the unsafe file.
    """
    names = [picture_name(pair, unsafe=bool(side), suffix=suffix) for side, suffix in enumerate(suffixes)]
    rows = []
    for kind in ("unsafe", "safe"):
        unsafe = unsafe_is_chosen(caption_kind=kind, category=pair[1], banned=banned)
        rows.append(SageRow(*pair, captions[kind], kind, names[unsafe], names[not unsafe], user_data, unsafe, severity))
    return rows
