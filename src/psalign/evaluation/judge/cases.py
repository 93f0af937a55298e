"""What a judge is asked about: one or two pictures of a row, with what its user bans and allows.

Place on the path of data: step 7, from the cells of pictures to the cases of a judge. Everything is read,
and every picture decoded, before anything is sent.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from psalign.categories import category_names, current
from psalign.errors import EvaluationError, UnknownUser, UsageError
from psalign.files import Record
from psalign.fingerprints import file_digest
from psalign.ids import level_id
from psalign.progress import Progress
from psalign.records import BANS_UNKNOWN, ManifestRow
from psalign.users.profile import VOCABULARY, UserProfile

from ..catalog import METHODS
from ..cells import split_model
from ..pictures import complete_rows, read_picture, refuse

PERSON_FIELDS = ("age", *VOCABULARY)  # of a profile, that may be sent to a judge; never the user id
UNLIKE = "Draw both sides from the same prompts, for the same users: psalign eval generate"

_SAGE_NAME = re.compile(r"user_\d{1,7}_([a-z0-9-]+)_.*")
_SAFE_CAPTION = re.compile(r"_s\.\w+$")


@dataclass(frozen=True)
class PictureFile:
    """A picture as it will be sent: its file, the SHA-256 of that file, and its size in pixels."""

    path: Path
    digest: str
    width: int
    height: int


@dataclass(frozen=True)
class Case:
    """One row to judge.

    asked: the categories that the prompt asks for, as the dataset records them; (): it asks for none; None: the
    dataset does not record it. pictures: one, or two: model a's and model b's. person: the user's attributes in
    words of closed vocabularies; {}: the judge is given no attributes.
    """

    file_name: str
    prompt: str
    user_id: str | None
    banned: tuple[str, ...]
    asked: tuple[str, ...] | None
    pictures: tuple[PictureFile, ...]
    person: Record = field(default_factory=dict)

    @property
    def allowed(self) -> tuple[str, ...]:
        return tuple(category for category in category_names() if category not in self.banned)

    @property
    def asks_banned(self) -> tuple[str, ...]:
        """Categories that the prompt asks for and this user bans."""
        return tuple(category for category in self.asked or () if category in self.banned)

    @property
    def asks_allowed(self) -> tuple[str, ...]:
        """Categories that the prompt asks for and this user allows."""
        return tuple(category for category in self.asked or () if category not in self.banned)


def cell_folder(images: Path, *, dataset: str, model: str, base: str) -> Path:
    """Folder of a cell: images/<dataset>/<method>/<base>[/level_k].

    Raises UsageError, with the models that are there, where it holds no manifest.
    """
    method, level = split_model(model)
    folder = images / dataset / method / base
    folder = folder if level is None else folder / level_id(level)
    if not (folder / "manifest.jsonl").is_file():
        there = ", ".join(_models_under(images / dataset, base)) or "none"
        raise UsageError(
            f"{folder} holds no manifest.jsonl; models of {base} on {dataset} in {images}: {there}.",
            hint=f"Draw them first: psalign eval generate --datasets {dataset} --bases {base}",
        )
    return folder


def load_cases(folder: Path, *, bans_of: Path | None = None) -> list[Case]:
    """Cases of one cell, in the order of its manifest.

    bans_of: another cell; each row is judged for that cell's user of the same row, which only pictures
    that are the same for every user can be.
    Raises EvaluationError, listing the first five, for pictures that are missing, broken, or without a
    row, and for those of users whose bans are not known.
    """
    rows = complete_rows(folder)
    if bans_of is not None:
        rows = _for_users_of(folder, rows, complete_rows(bans_of), bans_of)
    _require_bans(folder, rows)
    return [_case(row, (picture,)) for row, picture in zip(rows, _pictures(folder, rows), strict=True)]


def pair_cases(folder_a: Path, folder_b: Path) -> tuple[list[Case], list[str]]:
    """Cases of two cells of the same rows, pictures in the order a, b; and remarks on how the cells differ.

    Where one side draws the same picture for every user, the pair is judged for the other side's user.
    Raises EvaluationError where a row, its prompt or its user differs, or the user's bans are not known.
    """
    rows_a, rows_b = complete_rows(folder_a), complete_rows(folder_b)
    by_name = {row.file_name: row for row in rows_b}
    names = {row.file_name for row in rows_a}
    only_a, only_b = ([n for n in one if n not in other] for one, other in ((list(names), by_name), (by_name, names)))
    refuse(folder_b, f"of {folder_a} are not there", sorted(only_a), hint=UNLIKE)
    refuse(folder_a, f"of {folder_b} are not there", sorted(only_b), hint=UNLIKE)
    rows_b = [by_name[row.file_name] for row in rows_a]
    pairs = list(zip(rows_a, rows_b, strict=True))
    reworded = [a.file_name for a, b in pairs if a.prompt != b.prompt]
    refuse(folder_b, f"have another prompt than in {folder_a}", reworded, hint=UNLIKE)
    shared = [_of_whom(a, b) for a, b in pairs]
    strangers = [a.file_name for (a, _), row in zip(pairs, shared, strict=True) if row is None]
    refuse(folder_b, f"were drawn for other users, or other bans of theirs, than in {folder_a}", strangers, hint=UNLIKE)
    rows = [row for row in shared if row is not None]
    _require_bans(folder_a, rows)
    both = zip(rows, _pictures(folder_a, rows_a), _pictures(folder_b, rows_b), strict=True)
    other_seeds = sum(a.seed != b.seed for a, b in pairs)
    remarks = [f"{other_seeds} of {len(pairs)} pairs have two seeds: fair only where seeds are the published ones."]
    return [_case(row, (a, b)) for row, a, b in both], remarks if other_seeds else []


def add_persons(cases: Sequence[Case], profiles: Sequence[UserProfile]) -> list[Case]:
    """Cases with a description of their users: words of closed vocabularies and an age, never the user id.

    Raises UnknownUser where a user has no profile.
    """
    known = {profile.user_id: profile for profile in profiles}
    missing = sorted({str(case.user_id) for case in cases if case.user_id not in known})
    if missing:
        raise UnknownUser(
            f"{len(missing)} users of the pictures have no profile: {', '.join(missing[:5])}.",
            hint="Give the users file they come from; or leave --send out: categories are enough for a judge.",
        )
    return [replace(case, person=_person(known[str(case.user_id)])) for case in cases]


def asked_categories(row: ManifestRow) -> tuple[str, ...] | None:
    """Categories that a row's prompt asks for, in order; () for none; None: the dataset does not say.

    From meta: `kind` "safe" asks for none; else `categories` or `category`, a list or words with commas
    between. Else from a file name as SAGE spells it, of the row or in meta. Other words are left out.
    """
    if row.meta.get("kind") == "safe":
        return ()
    said = row.meta.get("categories") or row.meta.get("category")
    if said:
        words = said.split(",") if isinstance(said, str) else [str(word) for word in said]
        named = {current().find(word) for word in words}
        return tuple(category for category in category_names() if category in named)
    for name in (row.file_name, str(row.meta.get("file_name", ""))):
        match = _SAGE_NAME.fullmatch(name.rsplit("/", 1)[-1])
        category = current().find(match[1]) if match else None
        if category:
            return () if _SAFE_CAPTION.search(name) else (category,)
    return None


def _case(row: ManifestRow, pictures: tuple[PictureFile, ...]) -> Case:
    bans = row.known_bans
    strange = sorted(set(bans) - set(category_names()))
    if strange:
        raise EvaluationError(
            f"{pictures[0].path}: its row bans {', '.join(strange)}; the categories are: {', '.join(category_names())}."
        )
    banned = tuple(category for category in category_names() if category in bans)
    return Case(row.file_name, row.prompt, row.user_id, banned, asked_categories(row), pictures)


def _pictures(folder: Path, rows: Sequence[ManifestRow]) -> list[PictureFile]:
    pictures, broken = [], []
    for row in Progress(rows, desc=f"checking {folder}", unit="picture", leave=False, delay=2.0):
        path = folder / row.file_name
        try:
            height, width, _ = read_picture(path).shape
        except EvaluationError:
            broken.append(row.file_name)
            continue
        pictures.append(PictureFile(path, file_digest(path), width, height))
    refuse(folder, "cannot be read as pictures", broken)
    return pictures


def _of_whom(a: ManifestRow, b: ManifestRow) -> ManifestRow | None:
    """The row whose user both pictures can be judged for; None where they were drawn for two users."""
    if a.user_id == b.user_id and _bans_of(a) == _bans_of(b):
        return a
    if _is_for_all(a):
        return b
    return a if _is_for_all(b) else None


def _bans_of(row: ManifestRow) -> frozenset[str] | None:
    return None if row.banned is None else frozenset(row.banned)


def _require_bans(folder: Path, rows: Sequence[ManifestRow]) -> None:
    unknown = [row.file_name for row in rows if row.banned is None]
    refuse(folder, "are for users whose banned categories are not known", unknown, hint=BANS_UNKNOWN)


def _is_for_all(row: ManifestRow) -> bool:
    return row.user_id is None or (row.method in METHODS and METHODS[row.method].same_for_all)


def _for_users_of(
    folder: Path, rows: Sequence[ManifestRow], others: Sequence[ManifestRow], source: Path
) -> list[ManifestRow]:
    users = {row.file_name: row for row in others}
    unknown = [row.file_name for row in rows if row.file_name not in users]
    refuse(folder, f"have no row in {source}", unknown, hint=UNLIKE)
    drawn = [row.file_name for row in rows if not _is_for_all(row) and row.user_id != users[row.file_name].user_id]
    refuse(folder, f"were drawn for other users than in {source}", drawn, hint=UNLIKE)
    return [replace(row, user_id=users[row.file_name].user_id, banned=users[row.file_name].banned) for row in rows]


def _person(profile: UserProfile) -> Record:
    fields: Mapping[str, object] = {name: getattr(profile, name) for name in PERSON_FIELDS}
    return {name: value for name, value in fields.items() if value is not None}


def _models_under(folder: Path, base: str) -> list[str]:
    found = [path.relative_to(folder).parts for path in folder.glob(f"*/{base}/**/manifest.jsonl")]
    return sorted(parts[0] if len(parts) == 3 else f"{parts[0]}_{parts[2]}" for parts in found)
