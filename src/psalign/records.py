"""Rows that stages hand to each other on disk: prompts and manifests.

Place on the path of data: the seams between steps 5 to 8 of docs/ARCHITECTURE.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from .categories import category_names, require_label
from .errors import DatasetError, EvaluationError
from .files import Record, read_jsonl
from .ids import find_user_id, normalise_user_id

# Recipe of the published user vectors: raw mean of Qwen2.5-7B-Instruct's last hidden states [3584], not standardised.
PUBLISHED_RECIPE = "published"
NO_VECTORS = "no vectors"  # in place of a recipe: users that are known by their profiles alone

DRAW_AGAIN = "Run the command that drew these pictures again: it keeps them, and writes their manifest anew."
BANS_UNKNOWN = "Draw these pictures again with --users: the users file that says what each user bans."


@dataclass(frozen=True)
class PromptRow:
    """One picture to make: a prompt, the user it is for (None: no user), and its own seed.

    meta: what the prompt asks for, which goes unchanged into the manifest, for the evaluation.
    """

    file_name: str
    prompt: str
    seed: int
    user_id: str | None = None
    meta: Record = field(default_factory=dict)


@dataclass(frozen=True)
class MetaRow:
    """A row to draw, and the profile columns that stood beside it (None: none, or all empty)."""

    prompt: PromptRow
    profile: Record | None = None


@dataclass(frozen=True)
class ManifestRow:
    """One picture that was made, with all that is needed to make or judge it again.

    banned: the categories that this row's user bans (never the profile they came from); () for a row of no
    user; None: not known, which whatever measures limits refuses. taxonomy: label of the categories; None:
    the default ones.
    """

    file_name: str
    prompt: str
    seed: int
    method: str
    base: str
    user_id: str | None = None
    banned: tuple[str, ...] | None = ()
    level: int | None = None
    scale: float = 1.0
    adapter: str | None = None
    recipe: str | None = None
    meta: Record = field(default_factory=dict)
    taxonomy: str | None = None

    def to_record(self) -> Record:
        """The row as a line of a manifest; it names a taxonomy that is not the default one."""
        record = asdict(self)
        return record if self.taxonomy else {name: value for name, value in record.items() if name != "taxonomy"}

    @property
    def known_bans(self) -> tuple[str, ...]:
        """The categories that this row's user bans. Raises EvaluationError where that is not known."""
        if self.banned is None:
            raise EvaluationError(
                f"{self.file_name}: nothing says what its user {self.user_id} bans, so limits cannot be measured.",
                hint=BANS_UNKNOWN,
            )
        return self.banned


@dataclass(frozen=True)
class Verdict:
    """What a detector sees in one picture."""

    motifs: frozenset[str]
    categories: frozenset[str]
    subject: str
    colour: str


def read_manifest(path: Path) -> list[ManifestRow]:
    """Rows of a manifest.jsonl. A user's row without `banned`, or with null, has bans that are not known.

    Raises DatasetError for a row with missing or unknown keys, or a value of the wrong kind.
    """
    rows, fault = [], partial(DatasetError, hint=DRAW_AGAIN)
    for number, record in enumerate(read_jsonl(path, fault=fault), start=1):
        where = f"{path}, row {number}"
        wrong = wrong_keys(ManifestRow, record)
        if wrong:
            raise fault(f"{where}: not a manifest row: {wrong}.")
        row = ManifestRow(**{"banned": None if record.get("user_id") is not None else (), **record})
        if _is_text_or_none(row.taxonomy):
            require_label(row.taxonomy, of=f"the pictures of {path}")
        for name, (is_right, words) in MANIFEST_FIELDS.items():
            if not is_right(getattr(row, name)):
                expected = words.format(categories=", ".join(category_names()))
                raise fault(
                    f"{where}: not a manifest row: {name} must be {expected}; saw {str(getattr(row, name))[:60]!r}."
                )
        user_id = None if row.user_id is None else normalise_user_id(row.user_id)
        rows.append(replace(row, user_id=user_id, banned=None if row.banned is None else tuple(row.banned)))
    return rows


def wrong_keys(kind: type, record: Record) -> str:
    """The keys that a record lacks or has too many for a dataclass, in words; "" where they fit."""
    known = {field.name: field for field in fields(kind)}
    needed = [name for name, one in known.items() if one.default is MISSING and one.default_factory is MISSING]
    lacks, unknown = [name for name in needed if name not in record], [name for name in record if name not in known]
    parts = (f"it has no {', '.join(lacks)}" if lacks else "", f"unknown {', '.join(unknown[:5])}" if unknown else "")
    return "; ".join(words for words in parts if words)


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_text_or_none(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value) and value >= 0


def _is_ban_list(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(one, str) and one in category_names() for one in value)


def _is_picture_name(value: Any) -> bool:
    path = PurePosixPath(value) if isinstance(value, str) else PurePosixPath("/")
    return bool(path.name) and not path.is_absolute() and ".." not in path.parts


MANIFEST_FIELDS: dict[str, tuple[Callable[[Any], bool], str]] = {  # for each value a check, and the same in words
    "file_name": (_is_picture_name, "a relative path without '..'"),
    "prompt": (_is_text, "text"),
    "seed": (_is_whole, "a whole number from 0 to 2**63 - 1"),
    "method": (_is_text, "text"),
    "base": (_is_text, "text"),
    "user_id": (lambda value: value is None or find_user_id(value) is not None, "a user id or null"),
    "banned": (lambda value: value is None or _is_ban_list(value), "null or a list out of {categories}"),
    "level": (lambda value: value is None or (_is_whole(value) and value <= 5), "a whole number from 0 to 5, or null"),
    "scale": (_is_number, "a finite number of at least 0"),
    "adapter": (_is_text_or_none, "text or null"),
    "recipe": (_is_text_or_none, "text or null"),
    "meta": (lambda value: isinstance(value, dict), "a JSON object"),
    "taxonomy": (_is_text_or_none, "text or null"),
}
