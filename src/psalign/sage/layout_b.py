"""SAGE layout B: images/, annotations.csv (a line for each picture) and prompts.csv, read into the rows of layout A.

Place on the path of data: where training joins at step 4; sage/rows.py picks the layout. Of this layout only the
published README's words are known ("images/, annotations.csv: labels, severity 0-5, user metadata; prompts.csv"):
docs/DATA.md has our reading of them, column by column. Who is chosen follows from the preference rule and from what
the user bans, which no column has to say.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..categories import category_names
from ..errors import DatasetError
from ..files import Record
from ..ids import ALLOWED, find_user_id
from .columns import column_name, name_columns, read_table
from .preference import (
    SUFFIXES,
    PictureName,
    SageRow,
    find_category,
    is_file_name,
    read_picture_name,
    read_severity,
    shorten,
    unsafe_is_chosen,
)
from .prompt_table import FILE_NAMES, IMAGES, PromptTable, under_images, words_of

ANNOTATIONS, PROMPTS = "annotations.csv", "prompts.csv"
OF_USERS = {  # user metadata: our name of the column, and how user_data of layout A spells it
    "age": "Age",
    "age_group": "Age_Group",
    "gender": "Gender",
    "religion": "Religion",
    "physical_condition": "Physical_Condition",
    "mental_condition": "Mental_Condition",
    "cluster_id": "Cluster_ID",
    "banned_categories": "Banned_Categories",
    "allowed_categories": "Allowed_Categories",
}
ANNOTATION_NAMES: dict[str, Sequence[str]] = {  # of columns, and their other names
    "file_name": FILE_NAMES,
    "labels": ("label", "category", "categories", "safety_label", "safety_labels"),
    "severity": ("severity_level", "severity_score"),
    "prompt_id": ("prompt_number",),
    "user_id": ("user",),
    "concept": (),
    "index": ("number",),
    "split": ("subset",),
    **dict.fromkeys(OF_USERS, ()),
    "banned_categories": ("banned",),
}
FIRST_INDEX = "00000"  # where nothing says the index
HARMLESS = ("", "safe", "none", "harmless")  # labels that are no category
_SPLITS = {
    **dict.fromkeys(("", "train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation"), "val"),
    "test_seen": "test_seen",
    "test_unseen": "test_unseen",
}


@dataclass(frozen=True)
class Annotation:
    """A line of annotations.csv with its prompt. category: None where nothing says it (a harmless picture's may not).

    number: of the line. is_named: whether the file has a name of layout A, which says most of this. concept, index: of
    its pair. unsafe: whether it shows what the pair is about.
    """

    number: int
    file_name: str
    is_named: bool
    user_id: str
    category: str | None
    concept: str
    index: str
    unsafe: bool
    severity: int | None
    caption: str
    user_data: Record


@dataclass(frozen=True)
class Pair:
    """The safe and the unsafe picture of one user, concept and index."""

    safe: Annotation
    unsafe: Annotation
    category: str

    def rows(self, banned: Collection[str]) -> Iterator[SageRow]:
        """Its two preferences, for a user who bans these categories: unsafe caption, safe caption."""
        for kind, told in (("unsafe", self.unsafe), ("safe", self.safe)):
            unsafe = unsafe_is_chosen(caption_kind=kind, category=self.category, banned=banned)
            chosen, rejected = (self.unsafe, self.safe) if unsafe else (self.safe, self.unsafe)
            yield SageRow(
                user_id=told.user_id,
                category=self.category,
                concept=told.concept,
                index=told.index,
                caption=told.caption,
                caption_kind=kind,
                chosen=chosen.file_name,
                rejected=rejected.file_name,
                user_data=self.unsafe.user_data,
                chose_unsafe=unsafe,
                severity=self.unsafe.severity,
                banned=tuple(banned),
            )


def is_layout_b(root: Path) -> bool:
    return (root / ANNOTATIONS).is_file()


def read_pairs(root: Path) -> dict[str, list[Pair | DatasetError]]:
    """Pairs by split; what is none is handed over as the fault it is, in the split it was found in.

    Raises DatasetError where annotations.csv or prompts.csv cannot be read at all.
    """
    found: dict[str, list[Pair | DatasetError]] = defaultdict(list)
    groups: dict[tuple[str, ...], list[Annotation]] = defaultdict(list)
    first: dict[str, Annotation] = {}
    for split, one in _annotations(root):
        if isinstance(one, DatasetError):
            found[split].append(one)
            continue
        category = one.category if one.is_named else ""
        groups[split, one.user_id, category or "", one.concept, one.index].append(one)
        before = first.setdefault(one.user_id, one)
        told = sorted(key for key in before.user_data if one.user_data[key] != before.user_data[key])
        if told:  # which is personal: what it says is not shown
            where = f"{ANNOTATIONS}, row {one.number}"
            found[split].append(
                DatasetError(f"{where}: {told[0]} of user {one.user_id} is another than in row {before.number}.")
            )
    for (split, *_), group in groups.items():
        try:
            found[split].append(_pair(group))
        except DatasetError as err:
            found[split].append(err)
    return dict(found)


def read_users(root: Path) -> list[Record]:
    """User metadata, a record for each user as a users file has them; no user of whom nothing but an id is told.

    Raises DatasetError where annotations.csv or prompts.csv cannot be read at all.
    """
    known = {one.user_id: one.user_data for _, one in _annotations(root) if isinstance(one, Annotation)}
    ours = set(OF_USERS.values()) - {"Cluster_ID", "Allowed_Categories"}
    return [record for record in known.values() if any(record.get(column) for column in ours)]


def _pair(group: Sequence[Annotation]) -> Pair:
    """The pair of the annotations of one user, concept and index."""
    numbers = ", ".join(str(one.number) for one in group)
    where = f"{ANNOTATIONS}, row{'s' if len(group) > 1 else ''} {numbers}"
    about = f"user {group[0].user_id}, {group[0].concept!r}, {group[0].index}"
    safe, unsafe = ([one for one in group if one.unsafe == side] for side in (False, True))
    if len(safe) != 1 or len(unsafe) != 1:
        raise DatasetError(
            f"{where}: expected a safe and an unsafe picture of {about}; saw {len(safe)} safe, {len(unsafe)} unsafe."
        )
    category = unsafe[0].category
    if category is None:
        raise DatasetError(f"{where}: nothing says the category of {about}: no label, and not the file's name.")
    if safe[0].category not in (None, category):
        raise DatasetError(f"{where}: the two pictures of {about} are of {category} and of {safe[0].category}.")
    return Pair(safe[0], unsafe[0], category)


# --- annotations.csv ------------------------------------------------------------------------------------------------


def _annotations(root: Path) -> Iterator[tuple[str, Annotation | DatasetError]]:
    """Each line of both files that says or breaks something, with its split as far as that can be told."""
    prompts = PromptTable(root / PROMPTS)
    yield from (("train", fault) for fault in prompts.faults)
    table = read_table(root / ANNOTATIONS)
    table.require("file_name", "labels|severity", *prompts.asks_for, names=ANNOTATION_NAMES)
    for number, record in table.rows:
        split = "train"
        try:
            if isinstance(record, DatasetError):
                raise record
            where = f"{ANNOTATIONS}, row {number}"
            values = name_columns(record, ANNOTATION_NAMES, where=where)
            split = _split(values.get("split", ""), where=where)
            yield split, _annotation(values, prompts, number, split=split)
        except DatasetError as err:
            yield split, err


def _annotation(values: Record, prompts: PromptTable, number: int, *, split: str) -> Annotation:
    where = f"{ANNOTATIONS}, row {number}"
    file_name = _file_name(values["file_name"], where=where)
    name = read_picture_name(PurePosixPath(file_name).name)
    caption, concept = prompts.find({**values, "file_name": file_name}, where=where)
    concept = words_of(values.get("concept", "")) or concept
    severity = read_severity(values.get("severity"), where=where)
    categories = _categories(values["labels"], where=where) if "labels" in values else None
    user_id = _agreed("user_id", _user_id(values, where=where), name.user_id if name else "", where=where)
    index = _index(values.get("index", ""), where=where) or ("" if name else FIRST_INDEX)
    return Annotation(
        number=number,
        file_name=file_name,
        is_named=name is not None,
        user_id=user_id,
        category=_category(categories, name, where=where),
        concept=_agreed("concept", concept, name.concept if name else "", where=where),
        index=_agreed("index", index, name.index if name else "", where=where),
        unsafe=_is_unsafe(name, categories, severity, where=where),
        severity=severity,
        caption=caption,
        user_data={"User_ID": user_id, **{OF_USERS[key]: values[key] for key in OF_USERS if key in values}},
    )


def _split(text: str, *, where: str) -> str:
    split = _SPLITS.get(column_name(text))
    if split is None:
        raise DatasetError(
            f"{where}: split is {shorten(text)}; expected train, val, test_seen, test_unseen, or nothing (train)."
        )
    return split


def _file_name(text: str, *, where: str) -> str:
    """A picture's path under images/, which it may begin with."""
    path = PurePosixPath(under_images(text))
    if not path.parts or not all(map(is_file_name, path.parts)) or path.suffix.lower() not in SUFFIXES:
        raise DatasetError(
            f"{where}: file_name is {shorten(text)}; expected a picture in {IMAGES}/ ({', '.join(SUFFIXES)})."
        )
    return str(path)


def _agreed(column: str, told: str, named: str, *, where: str) -> str:
    """What a column and a file's name say of one thing; one of them may say nothing. Raises DatasetError."""
    if told and named and told.lower() != named.lower():
        raise DatasetError(f"{where}: {column} is {shorten(told)}, and the file's name says {shorten(named)}.")
    if not told and not named:
        raise DatasetError(f"{where}: nothing says the {column}: no column, and not the file's name.")
    return named or told


def _user_id(values: Record, *, where: str) -> str:
    text = values.get("user_id", "")
    user_id = find_user_id(text) if text else ""
    if user_id is None:
        raise DatasetError(f"{where}: user_id is {shorten(text)}; allowed: {ALLOWED}.")
    return user_id


def _index(text: str, *, where: str) -> str:
    """Which of a user's pairs of one concept, five digits."""
    digits = text.removesuffix(".0")
    if digits and not (digits.isdecimal() and digits.isascii() and len(digits) <= 9):
        raise DatasetError(f"{where}: index is {shorten(text)}; expected a whole number.")
    return digits and digits.zfill(5)


def _categories(text: str, *, where: str) -> list[str]:
    """Categories of a cell of labels: none for a harmless picture; a list as Python or JSON prints it is understood."""
    words = [word.strip().strip("'\"").strip() for word in re.split(r"[,;|]", text.strip().strip("[]()"))]
    harmful = [word for word in words if word.lower() not in HARMLESS]
    found = [find_category(word) for word in harmful]
    if None in found or (found and any(word and word.lower() in HARMLESS for word in words)):
        raise DatasetError(
            f"{where}: labels is {shorten(text)}; expected 'safe' or a category: {', '.join(category_names())}."
        )
    return sorted({category for category in found if category is not None})


def _category(categories: Sequence[str] | None, name: PictureName | None, *, where: str) -> str | None:
    """The category that a picture's pair is about."""
    told = categories or []
    if name is None and len(told) > 1:
        raise DatasetError(f"{where}: labels names {' and '.join(told)}; expected the one category its pair is about.")
    if name is not None and told and name.category not in told:
        raise DatasetError(f"{where}: labels is {', '.join(told)}, and the file's name says {name.category}.")
    return name.category if name is not None else next(iter(told), None)


def _is_unsafe(name: PictureName | None, categories: Sequence[str] | None, severity: int | None, *, where: str) -> bool:
    """Whether a picture is its pair's unsafe one: its name says it, else its severity, else its label; none disagrees.

    A safe picture may have its pair's category for a label; an unsafe one is never labelled harmless.
    """
    by_name, by_severity = name.unsafe if name else None, None if severity is None else severity > 0
    by_label = None if categories is None else bool(categories)
    if by_name is None and by_severity is None and by_label is None:
        raise DatasetError(f"{where}: nothing says whether the picture is safe: no label, no severity, no name.")
    if by_name is not None and by_severity not in (None, by_name):
        raise DatasetError(f"{where}: severity is {severity}, and the file's name says {_side(by_name)}.")
    unsafe = by_name if by_name is not None else by_severity if by_severity is not None else by_label
    if unsafe and by_label is False:
        raise DatasetError(f"{where}: labels says harmless, and the file's name or severity says unsafe.")
    return bool(unsafe)


def _side(unsafe: bool) -> str:
    return "unsafe" if unsafe else "safe"
