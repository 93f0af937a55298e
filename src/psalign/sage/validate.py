"""Looks at every row and picture of a SAGE dataset, and says what would make training on it wrong.

Place on the path of data: before the cache. Reading stops at the first fault; this collects them all.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from PIL import Image, UnidentifiedImageError
from tqdm import tqdm

from ..errors import DatasetError
from ..records import Record
from .rows import METADATA, SPLITS, SageRow, parse_row, read_records, unsafe_is_chosen

FAULTS = {
    "broken row": "cannot be read as a row",
    "duplicate row": "the same preference twice",
    "missing picture": "a row names it, and it is not there",
    "unreadable picture": "damaged, cut short, or no picture",
    "user without profile": "nobody knows what they ban",
    "against the preference rule": "chosen and rejected are not what the user's bans say",
    "split leakage": "users of train in val or test_unseen, or of test_seen not in train",
}
UNSEEN = ("val", "test_unseen")  # splits whose users training must not know


@dataclass
class Findings:
    """What a dataset is like. rows: per split. cases: of each kind of fault, where and what, in the order found."""

    rows: dict[str, int] = field(default_factory=dict)
    cases: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in FAULTS})

    @property
    def is_fine(self) -> bool:
        return not any(self.cases.values())

    def to_record(self, *, shown: int = 5) -> Record:
        faults = {kind: {"count": len(cases), "first": cases[:shown]} for kind, cases in self.cases.items()}
        return {"rows": self.rows, "faults": faults, "fine": self.is_fine}


def validate(root: Path, *, bans: Mapping[str, tuple[str, ...]] | None = None, check_pictures: bool = True) -> Findings:
    """Check the splits of a dataset in layout A.

    bans: banned categories by user id. Without them rows are held against each other: a safe caption chooses the safe
    picture, and one user's category is either banned or allowed. check_pictures: False where pictures are elsewhere.
    Raises DatasetError where there is no split at all.
    """
    splits = [split for split in SPLITS if (root / split / METADATA).is_file()]
    if not splits:
        raise DatasetError(
            f"{root} has no dataset: expected a folder {', '.join(SPLITS[:-1])} or {SPLITS[-1]} with {METADATA}."
        )
    findings, rows = Findings(), {}
    for split in splits:
        rows[split] = list(_read(root, split, findings))
        findings.rows[split] = len(rows[split])
        _check_duplicates(split, rows[split], findings)
        _check_preferences(split, rows[split], bans, findings)
        if check_pictures:
            _check_pictures(root / split, rows[split], findings)
    _check_leakage({split: {row.user_id for row in rows[split]} for split in splits}, findings)
    return findings


def _read(root: Path, split: str, findings: Findings) -> Iterator[SageRow]:
    path = root / split / METADATA
    for number, record in read_records(path):
        try:
            if isinstance(record, DatasetError):
                raise record
            yield parse_row(record, where=f"{split}, row {number}")
        except DatasetError as err:
            findings.cases["broken row"].append(str(err).splitlines()[0])


def _check_duplicates(split: str, rows: list[SageRow], findings: Findings) -> None:
    seen = set()
    for row in rows:
        name = (*row.pair, row.caption_kind)
        if name in seen:
            findings.cases["duplicate row"].append(f"{split}: {_told(row)}, {row.caption_kind} caption")
        seen.add(name)


def _check_preferences(
    split: str, rows: list[SageRow], bans: Mapping[str, tuple[str, ...]] | None, findings: Findings
) -> None:
    wrong = findings.cases["against the preference rule"]
    if bans is not None:
        strangers = sorted({row.user_id for row in rows} - set(bans))
        findings.cases["user without profile"] += [f"{split}: user {user_id}" for user_id in strangers]
        known = [row for row in rows if row.user_id in bans]
        wrong += [f"{split}: {_told(row)}" for row in known if _chose_unsafe(row) != _should(row, bans[row.user_id])]
        return
    choices: dict[tuple[str, str], set[bool]] = defaultdict(set)
    for row in rows:
        if row.caption_kind == "safe" and _chose_unsafe(row):
            wrong.append(f"{split}: {_told(row)}: a safe caption chooses the unsafe picture")
        if row.caption_kind == "unsafe":
            choices[row.user_id, row.category].add(_chose_unsafe(row))
    both = [f"{split}: user {user_id} both bans and allows {category}" for (user_id, category), chosen in
            choices.items() if len(chosen) > 1]  # fmt: skip
    wrong += both


def _check_pictures(folder: Path, rows: list[SageRow], findings: Findings) -> None:
    names = sorted({name for row in rows for name in (row.chosen, row.rejected)})
    for name in tqdm(names, desc=f"pictures of {folder.name}", unit="picture", disable=not names):
        if not (folder / name).is_file():
            findings.cases["missing picture"].append(f"{folder.name}/{name}")
            continue
        try:
            with Image.open(folder / name) as picture:
                picture.load()
        except (OSError, UnidentifiedImageError, SyntaxError) as err:
            findings.cases["unreadable picture"].append(f"{folder.name}/{name}: {err}")


def _check_leakage(users: dict[str, set[str]], findings: Findings) -> None:
    leaks = findings.cases["split leakage"]
    for one, other in combinations(sorted(users), 2):
        if one in UNSEEN or other in UNSEEN:
            leaks += [f"user {user_id} is in {one} and in {other}" for user_id in sorted(users[one] & users[other])]
    if {"train", "test_seen"} <= set(users):
        leaks += [
            f"user {user_id} of test_seen is not in train" for user_id in sorted(users["test_seen"] - users["train"])
        ]


def _chose_unsafe(row: SageRow) -> bool:
    return row.chosen.endswith("_u.jpg")


def _should(row: SageRow, banned: tuple[str, ...]) -> bool:
    return unsafe_is_chosen(caption_kind=row.caption_kind, category=row.category, banned=banned)


def _told(row: SageRow) -> str:
    return f"user {row.user_id}, {row.category}, '{row.concept}', {row.index}"


def count_rows(rows: list[SageRow]) -> dict[str, Any]:
    """Rows by category, kind of caption and choice; users, concepts and pairs."""
    categories: dict[str, int] = defaultdict(int)
    for row in rows:
        categories[row.category] += 1
    return {
        "rows": len(rows),
        "users": len({row.user_id for row in rows}),
        "concepts": len({(row.category, row.concept) for row in rows}),
        "pairs": len({row.pair for row in rows}),
        "unsafe chosen": sum(_chose_unsafe(row) for row in rows),
        "categories": dict(sorted(categories.items())),
    }
