"""One preference of SAGE: a caption, and the pictures that its user should and should not get for it.

Place on the path of data: training starts from these rows (step 4).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from ..errors import DatasetError
from ..files import Record
from ..ids import shorten

SPLITS = ("train", "val", "test_seen", "test_unseen")
MAX_SEVERITY = 5
Pair = tuple[str, str, str, str]  # user id, category, concept, index: what the rows of one pair of pictures share


@dataclass(frozen=True)
class SageRow:
    """One preference.

    category, concept, index: what the pair of pictures is about, and its number among the user's pairs of
    that concept. caption_kind: "unsafe" (the caption asks for the concept) or "safe" (its rewrite). chosen,
    rejected: file names of pictures in the split's folder. user_data: profile columns of the row.
    chose_unsafe: the chosen picture is the unsafe one. severity: 0 to 5, of the unsafe one; None: not rated.
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

    @property
    def pair(self) -> Pair:
        return (self.user_id, self.category, self.concept, self.index)

    @property
    def chosen_kind(self) -> str:
        """The kind of caption that describes the chosen picture."""
        return "unsafe" if self.chose_unsafe else "safe"

    @property
    def unsafe_picture(self) -> str:
        return self.chosen if self.chose_unsafe else self.rejected

    @property
    def safe_picture(self) -> str:
        return self.rejected if self.chose_unsafe else self.chosen

    def __str__(self) -> str:
        return f"user {self.user_id}, {self.category}, {self.concept!r}, {self.index}"


def read_severity(value: Any, *, where: str) -> int | None:
    """Severity, 0 (safe) to 5; None where it was not rated. Raises DatasetError."""
    if value is None or (isinstance(value, str) and not value.strip()):
        return None
    text = str(value).strip().removesuffix(".0") if isinstance(value, str | int | float) else ""
    if isinstance(value, bool) or len(text) != 1 or text not in "012345":
        raise DatasetError(f"{where}: severity is {shorten(value)}; expected a whole number from 0 to {MAX_SEVERITY}.")
    return int(text)


def read_caption(value: Any, *, where: str) -> str:
    """A caption. Raises DatasetError for a value that is not text, or cannot be written as UTF-8."""
    if not isinstance(value, str):
        raise DatasetError(f"{where}: caption is {shorten(value)}; expected text.")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise DatasetError(f"{where}: caption has half a character: {shorten(value)}.") from None
    return value
