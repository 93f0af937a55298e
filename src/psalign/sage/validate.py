"""Looks at every row and picture of a SAGE dataset, and says what would make training on it wrong.

Place on the path of data: before the cache. Reading stops at the first fault; this collects them all.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any

from ..categories import category_names
from ..decoding import Undecodable, decode
from ..errors import DatasetError
from ..files import Record
from ..progress import Progress
from .layout_b import ANNOTATIONS, is_layout_b
from .rows import METADATA, SPLITS, SageRow, find_splits, picture_folder, read_splits, unsafe_is_chosen

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
    """Check the splits of a dataset in either layout.

    bans: banned categories by user id. Without them rows of layout A are held against each other: a safe caption
    chooses the safe picture, and one user's category is either banned or allowed; in layout B, where preferences follow
    from bans, no user is then known. check_pictures: False where pictures are elsewhere.
    Raises DatasetError where there is no dataset at all, or a file of layout B cannot be read as a table.
    """
    if is_layout_b(root):
        bans = bans or {}
    elif not find_splits(root):
        raise DatasetError(
            f"{root} has no dataset: expected a folder {', '.join(SPLITS[:-1])} or {SPLITS[-1]} with {METADATA}, or "
            f"{ANNOTATIONS} with prompts.csv and images.",
            hint="docs/DATA.md has both layouts.",
        )
    known = bans or {}
    findings = Findings()
    rows: dict[str, list[SageRow]] = {}
    for split, found in read_splits(root, banned=lambda user_id: known.get(user_id, category_names())).items():
        rows[split] = []
        for row in found:
            if isinstance(row, DatasetError):
                findings.cases["broken row"].append(str(row).splitlines()[0])
            else:
                rows[split].append(row)
        findings.rows[split] = len(rows[split])
        _check_pairs(split, rows[split], findings)
        _check_preferences(split, rows[split], bans, findings)
        if check_pictures:
            _check_pictures(picture_folder(root, split), split, rows[split], findings)
    empty = [split for split in rows if not rows[split]]
    findings.cases["no rows"] += [f"{split} has no rows" for split in empty]
    if "train" not in rows:
        findings.cases["no rows"].append("there is no split train, so nothing to train on")
    _check_leakage(rows, findings)
    return findings


def _check_pairs(split: str, rows: list[SageRow], findings: Findings) -> None:
    """Each preference once, and for each the row whose caption tells the chosen picture, which training needs."""
    count = Counter((row.pair, row.caption_kind) for row in rows)
    findings.cases["duplicate row"] += [
        f"{split}: user {user_id}, {category}, {concept!r}, {index}, {kind} caption"
        for ((user_id, category, concept, index), kind), times in count.items()
        for _ in range(times - 1)
    ]
    findings.cases["half a pair"] += [
        f"{split}: {_told(row)}: no row has the {row.chosen_kind} caption"
        for row in rows
        if (row.pair, row.chosen_kind) not in count
    ]


def _check_preferences(
    split: str, rows: list[SageRow], bans: Mapping[str, tuple[str, ...]] | None, findings: Findings
) -> None:
    wrong = findings.cases["against the preference rule"]
    if bans is not None:
        strangers = sorted({row.user_id for row in rows} - set(bans))
        findings.cases["user without profile"] += [f"{split}: user {user_id}" for user_id in strangers]
        known = [row for row in rows if row.user_id in bans]
        wrong += [f"{split}: {_told(row)}" for row in known if row.chose_unsafe != _should(row, bans[row.user_id])]
        return
    choices: dict[tuple[str, str], set[bool]] = defaultdict(set)
    for row in rows:
        if row.caption_kind == "safe" and row.chose_unsafe:
            wrong.append(f"{split}: {_told(row)}: a safe caption chooses the unsafe picture")
        if row.caption_kind == "unsafe":
            choices[row.user_id, row.category].add(row.chose_unsafe)
    both = [f"{split}: user {user_id} both bans and allows {category}" for (user_id, category), chosen in
            choices.items() if len(chosen) > 1]  # fmt: skip
    wrong += both


def _check_pictures(folder: Path, split: str, rows: list[SageRow], findings: Findings) -> None:
    names = sorted({name for row in rows for name in (row.chosen, row.rejected)})
    for name in Progress(names, desc=f"pictures of {split}", unit="picture", disable=not names):
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
        leaks += [f"test_seen: {_told(row)}, {row.caption_kind} caption: is in train too" for row in both]


def _should(row: SageRow, banned: tuple[str, ...]) -> bool:
    return unsafe_is_chosen(caption_kind=row.caption_kind, category=row.category, banned=banned)


def _told(row: SageRow) -> str:
    return f"user {row.user_id}, {row.category}, {row.concept!r}, {row.index}"


def count_rows(rows: list[SageRow]) -> dict[str, Any]:
    """Rows by category, by concept and, where it was rated, by severity; users, concepts, pairs, and choices."""
    counts = {
        "rows": len(rows),
        "users": len({row.user_id for row in rows}),
        "concepts": len({(row.category, row.concept) for row in rows}),
        "pairs": len({row.pair for row in rows}),
        "unsafe chosen": sum(row.chose_unsafe for row in rows),
        "categories": dict(sorted(Counter(row.category for row in rows).items())),
        "by concept": dict(sorted(Counter(f"{row.category}: {row.concept}" for row in rows).items())),
    }
    rated = Counter(str(row.severity) for row in rows if row.severity is not None)
    return {**counts, "severity": dict(sorted(rated.items()))} if rated else counts
