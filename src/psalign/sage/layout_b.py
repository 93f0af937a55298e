"""SAGE layout B: images/, annotations.csv (a line for each picture) and prompts.csv.

Place on the path of data: before training; sage/import_layout_b.py makes layout A of it. Layout B is a guess:
nobody here has seen such a dataset, and only the words of the published README are known ("images/,
annotations.csv: labels, severity 0-5, user metadata; prompts.csv"). docs/DATA.md has our reading of them,
column by column. No column says which picture is chosen: that follows from what users ban.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ..categories import category_names, current
from ..errors import DatasetError, listed
from ..files import Record
from ..ids import ALLOWED, find_user_id, shorten
from ..tables import PROFILE_COLUMNS, Columns, column_name, read_table
from .dataset import ANNOTATIONS
from .names import SUFFIXES, PictureName, can_be_named, is_file_name, read_picture_name
from .preference import rows_of_pair
from .rows import SPLITS, Pair, SageRow, read_caption, read_severity

Read = Callable[[Record, int], None]  # takes a row's values and number; raises DatasetError

PROMPTS, IMAGES = "prompts.csv", "images"
OF_USERS = {  # user metadata: our name of the column, and its spelling in layout A
    column.lower(): column for column in (*PROFILE_COLUMNS, "Cluster_ID", "Banned_Categories", "Allowed_Categories")
}
FILE_NAMES = ("filename", "file", "image", "image_name", "image_file", "image_path", "picture")
ANNOTATION_COLUMNS = Columns(
    {
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
)
PROMPT_COLUMNS = Columns(
    {
        "prompt_id": ("id", "prompt_number"),
        "prompt": ("caption", "text"),
        "concept": (),
        "file_name": FILE_NAMES,
    }
)
FIRST_INDEX = "00000"  # where no column and no name gives the index
NO_CATEGORY = ("", "safe", "none", "harmless")  # labels that are not a category
FAULTS_SHOWN = 20
_SPLITS = {"": "train", **{split: split for split in SPLITS}}  # the split that a cell means


@dataclass(frozen=True)
class Annotation:
    """What annotations.csv and prompts.csv say of one picture.

    number: the row in annotations.csv. file_name: under images/. category: None where nothing gives it. name:
    the parts of the picture's name, where it has SAGE's form.
    """

    number: int
    split: str
    file_name: str
    name: PictureName | None
    user_id: str
    category: str | None
    concept: str
    index: str
    unsafe: bool
    severity: int | None
    caption: str
    user_data: Record

    @property
    def suffix(self) -> str:
        return PurePosixPath(self.file_name).suffix.lower()

    @property
    def group(self) -> tuple[str, str, str, str, str]:
        """What both pictures of a pair share. The category of unnamed pictures may be known of one alone."""
        return (self.split, self.user_id, (self.category or "") if self.name else "", self.concept, self.index)


@dataclass(frozen=True)
class PicturePair:
    """The safe and the unsafe picture of one user, category, concept and index."""

    pair: Pair
    safe: Annotation
    unsafe: Annotation

    def rows(self, banned: Collection[str]) -> list[SageRow]:
        """The two preferences of a user who bans these categories."""
        return rows_of_pair(
            self.pair,
            {"safe": self.safe.caption, "unsafe": self.unsafe.caption},
            banned=banned,
            user_data=self.unsafe.user_data,
            severity=self.unsafe.severity,
            suffixes=(self.safe.suffix, self.unsafe.suffix),
        )


@dataclass(frozen=True)
class LayoutB:
    """A dataset in layout B. users: user metadata by user id, in the columns of a users file."""

    root: Path
    pairs: dict[str, list[PicturePair]]
    users: dict[str, Record]

    @property
    def profiles(self) -> list[Record]:
        """Metadata of the users who have more than a user id."""
        known = set(OF_USERS.values()) - {"Cluster_ID", "Allowed_Categories"}
        return [record for record in self.users.values() if any(record.get(column) for column in known)]


def read_layout_b(root: Path) -> LayoutB:
    """Read a dataset in layout B.

    Raises DatasetError for a file that is no table, and one that lists every row without sense.
    """
    faults: list[str] = []
    key, prompts = _read_prompts(root / PROMPTS, faults)
    groups: dict[tuple[str, ...], list[Annotation]] = defaultdict(list)
    first: dict[str, Annotation] = {}

    def add(values: Record, number: int) -> None:
        one = _annotation(values, number, key, prompts)
        groups[one.group].append(one)
        _require_same_user(first.setdefault(one.user_id, one), one)

    needed = ("file_name", "labels|severity", *(["prompt_id"] if key == "prompt_id" else []))
    _read_rows(root / ANNOTATIONS, ANNOTATION_COLUMNS, needed, add, faults)
    pairs: dict[str, list[PicturePair]] = defaultdict(list)
    for (split, *_), group in groups.items():
        try:
            pairs[split].append(_pair(group))
        except DatasetError as err:
            faults.append(str(err))
    if faults:
        raise DatasetError(listed(f"{root}: {len(faults)} faults:", faults, FAULTS_SHOWN))
    if not pairs:
        raise DatasetError(f"{root / ANNOTATIONS} has no pictures.")
    in_order = {split: pairs[split] for split in SPLITS if split in pairs}
    return LayoutB(root, in_order, {user_id: one.user_data for user_id, one in first.items()})


# --- rows of the two files ------------------------------------------------------------------------------------------


def _read_rows(path: Path, columns: Columns, needed: Sequence[str], read: Read, faults: list[str]) -> None:
    """Call `read` with every row of a table; what it refuses goes to `faults`."""
    table = read_table(path, strip=True)
    table.require(*needed, columns=columns)
    for number, record in table.rows:
        try:
            where = f"{path.name}, row {number}"
            if isinstance(record, str):
                raise DatasetError(f"{where}: {record}.")
            read(columns.name(record, where=where), number)
        except DatasetError as err:
            faults.append(str(err))


def _read_prompts(path: Path, faults: list[str]) -> tuple[str, dict[str, tuple[str, str]]]:
    """The column that names prompts; caption and concept (may be empty) by its value."""
    found: dict[str, tuple[str, str]] = {}
    names = PROMPT_COLUMNS.name(dict.fromkeys(read_table(path).columns), where=path.name)
    key = "prompt_id" if "prompt_id" in names else "file_name"

    def add(values: Record, number: int) -> None:
        where, name = f"{path.name}, row {number}", _key(values[key], key)
        if not name or name in found:
            raise DatasetError(f"{where}: {key} {shorten(name)} {'is there twice' if name else 'is empty'}.")
        caption = read_caption(values["prompt"], where=where)
        if not caption:
            raise DatasetError(f"{where}: prompt is empty.")
        found[name] = (caption, _words(values.get("concept", "")))

    _read_rows(path, PROMPT_COLUMNS, ("prompt", "prompt_id|file_name"), add, faults)
    return key, found


def _key(text: str, key: str) -> str:
    """A prompt's id without leading zeros or ".0"; a file name without its folder."""
    if key == "file_name":
        return _under_images(text)
    digits = text.removesuffix(".0")
    return (digits.lstrip("0") or "0") if digits.isdecimal() else text


def _annotation(values: Record, number: int, key: str, prompts: dict[str, tuple[str, str]]) -> Annotation:
    where = f"{ANNOTATIONS}, row {number}"
    file_name = _file_name(values["file_name"], where=where)
    name = read_picture_name(PurePosixPath(file_name).name)
    prompt = _key(file_name if key == "file_name" else values[key], key)
    if prompt not in prompts:
        raise DatasetError(f"{where}: {PROMPTS} has no prompt for {key} {shorten(prompt)}.")
    caption, concept = prompts[prompt]
    severity = read_severity(values.get("severity"), where=where)
    categories = _categories(values["labels"], where=where) if "labels" in values else None
    user_id = _agreed("user_id", _user_id(values, where=where), name.user_id if name else None, where=where)
    concept = _words(values.get("concept", "")) or concept
    index = _index(values.get("index", ""), where=where) or ("" if name else FIRST_INDEX)
    return Annotation(
        number=number,
        split=_split(values.get("split", ""), where=where),
        file_name=file_name,
        name=name,
        user_id=user_id,
        category=_category(categories, name, where=where),
        concept=_agreed("concept", concept, name.concept if name else None, where=where),
        index=_agreed("index", index, name.index if name else None, where=where),
        unsafe=_is_unsafe(name, categories, severity, where=where),
        severity=severity,
        caption=caption,
        user_data={"User_ID": user_id, **{OF_USERS[column]: values[column] for column in OF_USERS if column in values}},
    )


def _require_same_user(first: Annotation, one: Annotation) -> None:
    """Raises DatasetError for metadata of one user that differ; the values are personal and not shown."""
    differ = sorted(column for column in first.user_data if one.user_data[column] != first.user_data[column])
    if differ:
        raise DatasetError(
            f"{ANNOTATIONS}, row {one.number}: {differ[0]} of user {one.user_id} is not as in row {first.number}."
        )


def _pair(group: Sequence[Annotation]) -> PicturePair:
    """The pair of the annotations of one user, concept and index."""
    one = group[0]
    numbers = ", ".join(str(each.number) for each in group)
    where = f"{ANNOTATIONS}, row{'s' if len(group) > 1 else ''} {numbers}"
    about = f"user {one.user_id}, {one.concept!r}, {one.index}"
    safe, unsafe = ([each for each in group if each.unsafe == side] for side in (False, True))
    if len(safe) != 1 or len(unsafe) != 1:
        raise DatasetError(
            f"{where}: expected a safe and an unsafe picture of {about}; saw {len(safe)} safe, {len(unsafe)} unsafe."
        )
    category = unsafe[0].category
    if category is None:
        raise DatasetError(f"{where}: nothing gives the category of {about}: no label, and not the file's name.")
    if safe[0].category not in (None, category):
        raise DatasetError(f"{where}: the two pictures of {about} are of {category} and of {safe[0].category}.")
    pair = (one.user_id, category, one.concept, one.index)
    if not can_be_named(pair):
        raise DatasetError(f"{where}: {about} cannot be part of a picture's name; user ids have no '_' there.")
    return PicturePair(pair, safe[0], unsafe[0])


# --- cells of annotations.csv ---------------------------------------------------------------------------------------


def _split(text: str, *, where: str) -> str:
    split = _SPLITS.get(column_name(text))
    if split is None:
        raise DatasetError(
            f"{where}: split is {shorten(text)}; expected train, val, test_seen, test_unseen, or nothing (train)."
        )
    return split


def _file_name(text: str, *, where: str) -> str:
    """A picture's path under images/. The cell may begin with that folder."""
    path = PurePosixPath(_under_images(text))
    if not path.parts or not all(map(is_file_name, path.parts)) or path.suffix.lower() not in SUFFIXES:
        raise DatasetError(
            f"{where}: file_name is {shorten(text)}; expected a picture in {IMAGES}/ ({', '.join(SUFFIXES)})."
        )
    return str(path)


def _agreed(column: str, cell: str, named: str | None, *, where: str) -> str:
    """The value that a cell and a file's name agree on; one of them may be missing. Raises DatasetError."""
    if cell and named and cell.lower() != named.lower():
        raise DatasetError(f"{where}: {column} is {shorten(cell)}, and the file's name says {shorten(named)}.")
    if not cell and not named:
        raise DatasetError(f"{where}: nothing gives the {column}: no column, and not the file's name.")
    return named or cell


def _user_id(values: Record, *, where: str) -> str:
    text = values.get("user_id", "")
    user_id = find_user_id(text) if text else ""
    if user_id is None:
        raise DatasetError(f"{where}: user_id is {shorten(text)}; allowed: {ALLOWED}.")
    return user_id


def _index(text: str, *, where: str) -> str:
    digits = text.removesuffix(".0")
    if digits and not (digits.isdecimal() and digits.isascii() and len(digits) <= 9):
        raise DatasetError(f"{where}: index is {shorten(text)}; expected a whole number.")
    return digits and digits.zfill(5)


def _categories(text: str, *, where: str) -> list[str]:
    """The categories of a cell of labels; empty for a safe picture. A Python or JSON list is read too."""
    words = [word.strip().strip("'\"").strip() for word in re.split(r"[,;|]", text.strip().strip("[]()"))]
    harmful = [word for word in words if word.lower() not in NO_CATEGORY]
    found = [current().find(word) for word in harmful]
    if None in found or (found and any(word and word.lower() in NO_CATEGORY for word in words)):
        raise DatasetError(
            f"{where}: labels is {shorten(text)}; expected 'safe' or a category: {', '.join(category_names())}."
        )
    return sorted({category for category in found if category is not None})


def _category(categories: Sequence[str] | None, name: PictureName | None, *, where: str) -> str | None:
    """The category that a picture's pair is about."""
    labels = categories or []
    if name is None and len(labels) > 1:
        raise DatasetError(f"{where}: labels names {' and '.join(labels)}; expected the one category of its pair.")
    if name is not None and labels and name.category not in labels:
        raise DatasetError(f"{where}: labels is {', '.join(labels)}, and the file's name says {name.category}.")
    return name.category if name is not None else next(iter(labels), None)


def _is_unsafe(name: PictureName | None, categories: Sequence[str] | None, severity: int | None, *, where: str) -> bool:
    """Whether a picture is the unsafe one of its pair: by its name, else its severity, else its label.

    A safe picture may have its pair's category for a label; an unsafe one is never labelled safe.
    """
    by_name, by_severity = name.unsafe if name else None, None if severity is None else severity > 0
    by_label = None if categories is None else bool(categories)
    if by_name is None and by_severity is None and by_label is None:
        raise DatasetError(f"{where}: nothing says whether the picture is safe: no label, no severity, no name.")
    if by_name is not None and by_severity not in (None, by_name):
        side = "unsafe" if by_name else "safe"
        raise DatasetError(f"{where}: severity is {severity}, and the file's name says {side}.")
    unsafe = by_name if by_name is not None else by_severity if by_severity is not None else by_label
    if unsafe and by_label is False:
        raise DatasetError(f"{where}: labels says safe, and the file's name or severity says unsafe.")
    return bool(unsafe)


def _under_images(text: str) -> str:
    return text.removeprefix("./").removeprefix(f"{IMAGES}/")


def _words(text: str) -> str:
    return " ".join(text.replace("_", " ").split())
