"""Sizes of the mini dataset: the section `dataset` of a preset.

Place on the path of data: read by mini/dataset.py and mini/prompts.py.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

from ..config import check_range
from ..errors import UsageError

MOST_ROWS, MOST_SEEDS = 10_000_000, 2**31 - 1
MOST_NAMES = 2  # of three: no training row has the last one


@dataclass(frozen=True)
class DatasetConfig:
    """Sizes of the mini dataset.

    train_users, val_users, test_users: users of each split (test_users of each of the two tests).
    concepts: pairs of pictures of each user.
    ban_list_share: the share of users who give a list of categories and nothing else of themselves.
    two_motif_share: the share of pairs whose unsafe caption asks for two motifs.
    names: the number of names of each motif and kind that are used, from the first (names.py).
    plural_share: the share of motifs that captions name in plural.
    denial_share: the share of pairs whose captions say what is not there.
    scenes, seen, wordings, two_motifs, motifs, safe: prompts of each rate in that suite.
    levels: prompts that are drawn at each level.
    pictured_users: training users who have pictures, the others have captions alone; None: all of them.
    pictured_tests: whether users of the tests have pictures.
    limit_rows: captions with limits in words, in the training split.
    """

    seed: int = 11
    train_users: int = 400
    val_users: int = 20
    test_users: int = 50
    concepts: int = 12
    ban_list_share: float = 0.25
    two_motif_share: float = 0.4
    names: int = 2
    plural_share: float = 0.2
    denial_share: float = 0.0
    scenes: int = 210
    seen: int = 60
    wordings: int = 60
    two_motifs: int = 60
    motifs: int = 70
    safe: int = 210
    levels: int = 40
    pictured_users: int | None = None
    pictured_tests: bool = True
    limit_rows: int = 6000

    def __post_init__(self) -> None:
        """Raises UsageError for a value that makes no sense."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_share"):
                check_range(f"dataset.{field.name}", value, 0, 1)
            elif field.name == "pictured_tests":
                if not isinstance(value, bool):
                    raise UsageError(f"dataset.pictured_tests must be true or false; saw {value!r}.")
            elif value is not None:
                low = 1 if field.name in ("train_users", "test_users", "concepts", "names") else 0
                high = {"seed": MOST_SEEDS, "names": MOST_NAMES}.get(field.name, MOST_ROWS)
                check_range(f"dataset.{field.name}", value, low, high)
        if self.test_users > self.train_users:
            raise UsageError(
                f"dataset.test_users must be no more than train_users; saw {self.test_users} and {self.train_users}."
            )
