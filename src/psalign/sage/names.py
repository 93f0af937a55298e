"""File names of SAGE pictures, which name user, category, concept, index and side of a pair.

Place on the path of data: under the reader and the makers of datasets. Odd but clear spellings are understood
(a category in upper case, a user id without leading zeros); a name that is not clear is not read at all.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from ..categories import current
from ..ids import find_user_id
from .rows import Pair

MAX_NAME_BYTES = 255  # of a file system
SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
FORM = "user_<id>_<category>_<concept>_<digits>_<s or u>.jpg"


@dataclass(frozen=True)
class PictureName:
    """The parts of a picture's name, in the spelling of rows. index: five digits."""

    user_id: str
    category: str
    concept: str
    index: str
    unsafe: bool

    @property
    def pair(self) -> Pair:
        return (self.user_id, self.category, self.concept, self.index)


def picture_name(pair: Pair, *, unsafe: bool, suffix: str = ".jpg") -> str:
    """The file name of a picture of a pair, in SAGE's spelling."""
    return f"{pair_name(pair)}_{'u' if unsafe else 's'}{suffix}"


def pair_name(pair: Pair) -> str:
    """The part of the names of a pair's pictures that both share."""
    user_id, category, concept, index = pair
    return f"user_{user_id}_{current().slugs[category]}_{'_'.join(concept.split())}_{index}"


def read_picture_name(name: Any) -> PictureName | None:
    """The parts of a picture's name; None where it does not have the form FORM.

    Any case, spaces for underscores, missing zeros, and .jpeg, .png or .webp are understood.
    """
    if not isinstance(name, str) or not is_file_name(name):
        return None
    match = _picture_pattern(current().slugs_in_order).fullmatch(name)
    if match is None:
        return None
    user_id, category = find_user_id(match["user"]), current().find(match["category"])
    concept = " ".join(match["concept"].replace("_", " ").split())
    if user_id is None or category is None or not concept:
        return None
    return PictureName(user_id, category, concept, match["index"].zfill(5), match["side"] in "uU")


def can_be_named(pair: Pair) -> bool:
    """Whether a pair comes back the same from the names of its pictures."""
    found = read_picture_name(picture_name(pair, unsafe=True))
    return found is not None and found.pair == pair


@lru_cache(maxsize=8)
def _picture_pattern(slugs: tuple[str, ...]) -> re.Pattern[str]:
    """The pattern of pictures' names. An exact slug comes before one with other marks between its parts."""
    loose = [slug.replace("-", "[-_ ]?") for slug in slugs if "-" in slug]
    category = "|".join([*slugs, *loose])
    return re.compile(
        rf"user[_ ](?P<user>[a-z0-9.-]{{1,64}})[_ ](?P<category>{category})[_ ](?P<concept>.+)[_ ]"
        r"(?P<index>[0-9]{1,9})[_ ](?P<side>[su])\.(jpe?g|png|webp)",
        re.IGNORECASE | re.ASCII,
    )


def is_file_name(name: str) -> bool:
    """Whether a name can be that of a file in the folder where it is looked for, and in no other folder."""
    fits = bool(name) and name.isprintable() and name.strip() == name
    return fits and not set(name) & set("/\\") and len(name.encode()) <= MAX_NAME_BYTES and not name.startswith(".")
