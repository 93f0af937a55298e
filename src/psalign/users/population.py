"""Simulated users with the published distributions. Beside step 1 of the path of data.

Nobody is behind these profiles, so they may be shared and committed.
"""

from __future__ import annotations

from bisect import bisect
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from ..errors import UsageError
from ..files import Record
from .profile import AGE_GROUPS, VOCABULARY, UserProfile

SHARES: dict[str, tuple[float, ...]] = {  # of the words of VOCABULARY, before implausible people are turned away
    "age_group": (0.05, 0.20, 0.20, 0.20, 0.20, 0.10, 0.04, 0.01),
    "gender": (0.5, 0.5),
    "religion": (0.3, 0.2, 0.2, 0.3),
    "physical_condition": (0.2, 0.2, 0.2, 0.4),
    "mental_condition": (0.15, 0.15, 0.075, 0.075, 0.075, 0.075, 0.4),
}
# Field, value, and the age in years below which it is implausible.
MIN_AGES: tuple[tuple[str, str, int], ...] = (
    ("religion", "Christianity", 8),
    ("religion", "Islam", 8),
    ("religion", "Buddhism", 8),
    ("mental_condition", "depression", 5),
    ("mental_condition", "anxiety", 5),
    ("mental_condition", "major accidents", 5),
    ("mental_condition", "sexual assault", 10),
    ("mental_condition", "war", 18),
)
_CUMULATIVE = {field: (VOCABULARY[field], list(accumulate(shares))) for field, shares in SHARES.items()}
_TOO_YOUNG = {(field, value): age for field, value, age in MIN_AGES}


def sample_profiles(n: int, *, seed: int, first_id: int = 1) -> list[UserProfile]:
    """n simulated users with ids from first_id on; the same seed gives the same people.

    The first k of n users are the k users of a smaller call. An implausible draw is thrown away whole, so
    children are rarer than SHARES says, as in the published population.
    Raises UsageError for a negative n or seed, or a first_id below 1.
    """
    if n < 0 or seed < 0 or first_id < 1:
        raise UsageError(f"saw n={n}, seed={seed}, first_id={first_id}; allowed: n >= 0, seed >= 0, first_id >= 1.")
    rng = np.random.default_rng(seed)
    people = (_plausible_person(rng) for _ in range(n))
    return [UserProfile(user_id=f"{first_id + i:07d}", **person) for i, person in enumerate(people)]


def split_users(user_ids: Sequence[str], *, seed: int, val: int = 50, test: int = 50) -> dict[str, list[str]]:
    """Users of train, val, test_seen (who are in train too) and test_unseen (in no other split).

    val, test: the number of users in val, and in each of the two tests. Raises UsageError for too few users.
    """
    if len(user_ids) < val + 2 * test + 1:
        raise UsageError(f"saw {len(user_ids)} users; val={val} and test={test} need at least {val + 2 * test + 1}.")
    order = [user_ids[i] for i in np.argsort(np.random.default_rng(seed).random(len(user_ids)), kind="stable")]
    val_users, unseen, train = order[:val], order[val : val + test], order[val + test :]
    splits = {"train": train, "val": val_users, "test_seen": train[:test], "test_unseen": unseen}
    return {name: sorted(members) for name, members in splits.items()}


def is_plausible(age: int, fields: dict[str, str]) -> bool:
    """Whether somebody of this age, in years, can have these words in these fields."""
    return all(age >= _TOO_YOUNG.get(item, 0) for item in fields.items())


def _plausible_person(rng: np.random.Generator) -> Record:
    while True:
        words = {field: _draw(rng, field) for field in SHARES}
        first, last = AGE_GROUPS[words["age_group"]]
        age = first + int(rng.random() * (last - first + 1))
        if is_plausible(age, words):
            return {"age": age, **words}


def _draw(rng: np.random.Generator, field: str) -> str:
    # Plain uniform draws: their stream is the one part of a Generator that stays over numpy versions.
    words, cumulative = _CUMULATIVE[field]
    return words[min(bisect(cumulative, rng.random()), len(words) - 1)]
