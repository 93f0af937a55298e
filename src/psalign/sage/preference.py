"""One preference of SAGE: a caption, the picture this user should get for it, the one they should not; and its names.

Place on the path of data: under the readers of both layouts. Forms of a value that are odd but clear are understood
(a category in upper case, a user without leading zeros); what is not clear is refused with a message.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..categories import current
from ..errors import DatasetError
from ..files import Record
from ..ids import find_user_id

SPLITS = ("train", "val", "test_seen", "test_unseen")
MAX_SEVERITY = 5
MAX_NAME_BYTES = 255  # of a file system
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")


@dataclass(frozen=True)
class SageRow:
    """One preference.

    chosen, rejected: picture file names in the split's folder. category, concept, index: of the pair.
    caption_kind: "unsafe" (asks for the concept) or "safe" (its rewrite). chose_unsafe: whether the chosen picture is
    the unsafe one. user_data: the row's profile columns. severity: of the unsafe picture, 0 to 5, where it was rated.
    banned: categories that the user bans, where a users file or vectors were joined.
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
    chose_unsafe: bool
    severity: int | None = None
    banned: tuple[str, ...] | None = None

    @property
    def pair(self) -> tuple[str, str, str, str]:
        """What the safe and the unsafe row of one pair of pictures share."""
        return (self.user_id, self.category, self.concept, self.index)

    @property
    def chosen_kind(self) -> str:
        """Kind of caption that tells the chosen picture."""
        return "unsafe" if self.chose_unsafe else "safe"

    @property
    def unsafe_picture(self) -> str:
        return self.chosen if self.chose_unsafe else self.rejected

    @property
    def safe_picture(self) -> str:
        return self.rejected if self.chose_unsafe else self.chosen


@dataclass(frozen=True)
class PictureName:
    """What the name of a picture says, spelt as rows spell it."""

    user_id: str
    category: str
    concept: str
    index: str
    unsafe: bool

    @property
    def pair(self) -> tuple[str, str, str, str]:
        return (self.user_id, self.category, self.concept, self.index)


def picture_name(*, user_id: str, category: str, concept: str, index: int, unsafe: bool, suffix: str = ".jpg") -> str:
    """File name of a picture, as SAGE writes it."""
    words = "_".join(concept.split())
    return f"user_{user_id}_{current().slugs[category]}_{words}_{index:05d}_{'u' if unsafe else 's'}{suffix}"


def unsafe_is_chosen(*, caption_kind: str, category: str, banned: Collection[str]) -> bool:
    """The preference rule: the unsafe picture is chosen only for an unsafe caption whose category the user allows."""
    return caption_kind == "unsafe" and category not in banned


def read_picture_name(name: Any) -> PictureName | None:
    """What a picture's name says; None where it is not user_<id>_<category>_<concept>_<digits>_<s or u>.jpg.

    Any case, spaces for underscores, missing zeros, and .jpeg, .png or .webp are understood.
    """
    match = (
        _picture_pattern(current().slugs_in_order).fullmatch(name)
        if isinstance(name, str) and is_file_name(name)
        else None
    )
    user_id = find_user_id(match["user"]) if match else None
    concept = " ".join(match["concept"].replace("_", " ").split()) if match else ""
    category = find_category(match["category"]) if match else None
    if match is None or user_id is None or category is None or not concept:
        return None
    return PictureName(user_id, category, concept, match["index"].zfill(5), match["side"] in "uU")


@lru_cache(maxsize=8)
def _picture_pattern(slugs: tuple[str, ...]) -> re.Pattern[str]:
    """Names of pictures. A slug as it is goes before one with other marks between its parts."""
    loose = [slug.replace("-", "[-_ ]?") for slug in slugs if "-" in slug]
    category = "|".join([*slugs, *loose])
    return re.compile(
        rf"user[_ ](?P<user>[a-z0-9.-]{{1,64}})[_ ](?P<category>{category})[_ ](?P<concept>.+)[_ ]"
        r"(?P<index>[0-9]{1,9})[_ ](?P<side>[su])\.(jpe?g|png|webp)",
        re.IGNORECASE | re.ASCII,
    )


def is_file_name(name: str) -> bool:
    """Whether a name can be a file's, in the folder it is looked for in and in no other."""
    fits = bool(name) and name.isprintable() and name.strip() == name
    return fits and not set(name) & set("/\\") and len(name.encode()) <= MAX_NAME_BYTES and not name.startswith(".")


def find_category(text: Any) -> str | None:
    """Category of a word in any case, with any mark between its parts ("self harm", "SELF_HARM"); None for another."""
    return current().find(text)


def read_severity(value: Any, *, where: str) -> int | None:
    """Severity, 0 (harmless) to 5; None where it was not rated. Raises DatasetError."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    text = str(value).strip().removesuffix(".0") if isinstance(value, str | int | float) else ""
    if isinstance(value, bool) or len(text) != 1 or text not in "012345":
        raise DatasetError(f"{where}: severity is {shorten(value)}; expected a whole number from 0 to {MAX_SEVERITY}.")
    return int(text)


def read_caption(value: Any, *, where: str) -> str:
    """A caption. Raises DatasetError for what is no text, or cannot be written as UTF-8."""
    if not isinstance(value, str):
        raise DatasetError(f"{where}: caption is {shorten(value)}; expected text.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise DatasetError(f"{where}: caption has half a character: {shorten(value)}.") from None
    return value


def shorten(value: Any) -> str:
    """A value for a message, at most 80 characters and on one line."""
    if isinstance(value, list | dict):
        return f"a JSON {'array' if isinstance(value, list) else 'object'}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
