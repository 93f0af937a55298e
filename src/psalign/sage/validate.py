"""Checks every row and picture of a SAGE dataset, and lists what would make training on it wrong.

Place on the path of data: before the cache. The reader stops at the first fault; this collects all of them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path

from ..decoding import Undecodable, decode
from ..errors import DatasetError
from ..files import Record
from ..progress import Progress
from .dataset import METADATA, find_splits, read_split, require_taxonomy_of
from .preference import unsafe_is_chosen
from .rows import SPLITS, Pair, SageRow

FAULTS = {
    "broken row": "cannot be read as a row",
    "no rows": "a split without a row, or nothing to train on",
    "duplicate row": "the same preference twice",
    "half a pair": "no row has the caption of its chosen picture",
    "missing picture": "a row names it, and it is not there",
    "unreadable picture": "damaged, cut short, or no picture",
    "user without profile": "nobody knows what they ban",
    "against the preference rule": "chosen and rejected are not what the user's bans say",
    "split leakage": "users of train in val or test_unseen, or of test_seen not in train; rows in both",
}
UNSEEN = ("val", "test_unseen")  # splits whose users are in no other split


@dataclass
class Findings:
    """rows: their number by split. cases: by kind of fault, each place with what is wrong there."""

    rows: dict[str, int] = field(default_factory=dict)
    cases: dict[str, list[str]] = field(default_factory=lambda: {kind: [] for kind in FAULTS})

    @property
    def is_fine(self) -> bool:
        return not any(self.cases.values())

    def to_record(self) -> Record:
        faults = {kind: {"count": len(cases), "first": cases[:5]} for kind, cases in self.cases.items()}
        return {"rows": self.rows, "faults": faults, "fine": self.is_fine}


def validate(root: Path, *, bans: Mapping[str, tuple[str, ...]] | None = None, check_pictures: bool = True) -> Findings:
    """Check every split of a dataset.

    bans: banned categories by user id. Without them rows are compared with each other: a safe caption chooses
    the safe picture, and a user either bans or allows a category. check_pictures: False where the pictures
    are elsewhere. Raises DatasetError where there is no dataset.
    """
    splits = find_splits(root)
    if not splits:
        raise DatasetError(
            f"{root} has no dataset: expected a folder {', '.join(SPLITS[:-1])} or {SPLITS[-1]} with {METADATA}.",
            hint="docs/DATA.md describes the layout.",
        )
    require_taxonomy_of(root)
    findings, rows = Findings(), dict[str, list[SageRow]]()
    for split in splits:
        rows[split] = list(_sound_rows(root, split, findings))
        findings.rows[split] = len(rows[split])
        _check_pairs(split, rows[split], findings)
        _check_preferences(split, rows[split], bans, findings)
        if check_pictures:
            _check_pictures(root / split, rows[split], findings)
    findings.cases["no rows"] += [f"{split} has no rows" for split in rows if not rows[split]]
    if "train" not in rows:
        findings.cases["no rows"].append("there is no split train, so nothing to train on")
    _check_leakage(rows, findings)
    return findings


def _sound_rows(root: Path, split: str, findings: Findings) -> Iterator[SageRow]:
    for row in read_split(root, split):
        if isinstance(row, DatasetError):
            findings.cases["broken row"].append(str(row).splitlines()[0])
        else:
            yield row


def _check_pairs(split: str, rows: list[SageRow], findings: Findings) -> None:
    """Each preference is there once, and its pair has the row with the caption of the chosen picture."""
    seen: set[tuple[Pair, str]] = set()
    for row in rows:
        if (row.pair, row.caption_kind) in seen:
            findings.cases["duplicate row"].append(f"{split}: {row}, {row.caption_kind} caption")
        seen.add((row.pair, row.caption_kind))
    findings.cases["half a pair"] += [
        f"{split}: {row}: no row has the {row.chosen_kind} caption"
        for row in rows
        if (row.pair, row.chosen_kind) not in seen
    ]


def _check_preferences(
    split: str, rows: list[SageRow], bans: Mapping[str, tuple[str, ...]] | None, findings: Findings
) -> None:
    wrong = findings.cases["against the preference rule"]
    if bans is not None:
        strangers = sorted({row.user_id for row in rows} - set(bans))
        findings.cases["user without profile"] += [f"{split}: user {user_id}" for user_id in strangers]
        known = [row for row in rows if row.user_id in bans]
        wrong += [f"{split}: {row}" for row in known if row.chose_unsafe != _should(row, bans[row.user_id])]
        return
    choices: dict[tuple[str, str], set[bool]] = defaultdict(set)
    for row in rows:
        if row.caption_kind == "safe" and row.chose_unsafe:
            wrong.append(f"{split}: {row}: a safe caption chooses the unsafe picture")
        if row.caption_kind == "unsafe":
            choices[row.user_id, row.category].add(row.chose_unsafe)
    wrong += [
        f"{split}: user {user_id} both bans and allows {category}"
        for (user_id, category), chosen in choices.items()
        if len(chosen) > 1
    ]


def _check_pictures(folder: Path, rows: list[SageRow], findings: Findings) -> None:
    names = sorted({name for row in rows for name in (row.chosen, row.rejected)})
    for name in Progress(names, desc=f"pictures of {folder.name}", unit="picture", disable=not names):
        if not (folder / name).is_file():
            findings.cases["missing picture"].append(f"{folder.name}/{name}")
            continue
        try:
            decode(folder / name)
        except Undecodable as err:
            findings.cases["unreadable picture"].append(f"{folder.name}/{name}: {err}")


def _check_leakage(rows: Mapping[str, list[SageRow]], findings: Findings) -> None:
    leaks, users = findings.cases["split leakage"], {split: {row.user_id for row in rows[split]} for split in rows}
    for one, other in combinations(sorted(users), 2):
        if one in UNSEEN or other in UNSEEN:
            leaks += [f"user {user_id} is in {one} and in {other}" for user_id in sorted(users[one] & users[other])]
    if {"train", "test_seen"} <= set(users):
        leaks += [
            f"user {user_id} of test_seen is not in train" for user_id in sorted(users["test_seen"] - users["train"])
        ]
        trained = {(row.pair, row.caption) for row in rows["train"]}
        both = [row for row in rows["test_seen"] if (row.pair, row.caption) in trained]
        leaks += [f"test_seen: {row}, {row.caption_kind} caption: is in train too" for row in both]


def _should(row: SageRow, banned: tuple[str, ...]) -> bool:
    return unsafe_is_chosen(caption_kind=row.caption_kind, category=row.category, banned=banned)
