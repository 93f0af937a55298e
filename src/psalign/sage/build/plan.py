"""The plan of a dataset to build: which user of which split gets which pairs of pictures.

Place on the path of data: the third step of a build; nothing is written or drawn here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass

from ...errors import UsageError
from ...files import Record
from ..preference import rows_of_pair
from ..rows import SageRow
from .concepts import Concept, Item, by_category, choose, hold_out
from .writers import Prompts


@dataclass(frozen=True)
class BuildUser:
    """A user to build rows for. banned: categories; user_data: profile columns of their rows."""

    user_id: str
    banned: tuple[str, ...]
    user_data: Record


@dataclass(frozen=True)
class BuildConfig:
    """Sizes of a dataset.

    per_category: pairs of each category that a user gets in each of their splits (published: 3).
    prompts_per_concept: pairs of pictures of a concept, which users share. expand: concepts per category; the
    writer finds those that are not given. held_out: share of each category's concepts, 0 to 1, that only val
    and tests have. quality: JPEG quality of the pictures, 1 to 95.
    """

    seed: int = 2025
    per_category: int = 3
    prompts_per_concept: int = 2
    expand: int | None = None
    held_out: float = 0.0
    quality: int = 95

    def __post_init__(self) -> None:
        """Raises UsageError for sizes that make no sense."""
        sizes = (self.per_category, self.prompts_per_concept, 1 if self.expand is None else self.expand)
        if min(sizes) < 1 or not 1 <= self.quality <= 100:
            raise UsageError("Pairs, prompts and concepts must be at least 1, and the quality from 1 to 100.")
        if self.prompts_per_concept > 99_999:
            raise UsageError(f"A concept can have at most 99,999 prompts; saw {self.prompts_per_concept}.")


@dataclass(frozen=True)
class Plan:
    """pairs: by split, users with the pairs that they get. held_out: concepts that no training row has."""

    pairs: dict[str, list[tuple[BuildUser, Item]]]
    held_out: list[Concept]

    @property
    def items(self) -> list[Item]:
        """The pairs of pictures that at least one user gets."""
        return sorted({item for pairs in self.pairs.values() for _, item in pairs})

    def rows(self, split: str, prompts: Mapping[str, Prompts]) -> Iterator[SageRow]:
        """The rows of a split by the preference rule. prompts: by key of the item."""
        for user, item in self.pairs[split]:
            captions = asdict(prompts[item.key])
            yield from rows_of_pair(item.pair(user.user_id), captions, banned=user.banned, user_data=user.user_data)


def make_plan(
    concepts: Sequence[Concept], users: Sequence[BuildUser], splits: Mapping[str, Sequence[str]], config: BuildConfig
) -> Plan:
    """Give every user of every split their pairs; a user of train and test_seen gets other pairs in each.

    splits: user ids by split. Raises UsageError where there are too few concepts or prompts, or an id cannot
    be in the name of a picture.
    """
    _check_users(users)
    by_id = {user.user_id: user for user in users}
    held = hold_out(concepts, config.held_out, seed=config.seed)
    pairs: dict[str, list[tuple[BuildUser, Item]]] = {}
    had: dict[str, set[Item]] = {}
    for split, ids in splits.items():
        wanted = [one for one in concepts if not held or (one in held) == (split != "train")]
        pools = {
            category: [Item(concept, index) for concept in members for index in range(config.prompts_per_concept)]
            for category, members in by_category(wanted).items()
        }
        pairs[split] = []
        for user_id in ids:
            before = had.setdefault(user_id, set())
            for category, pool in pools.items():
                left = [item for item in pool if item not in before]
                chosen = choose(left, config.per_category, seed=(config.seed, split, user_id))
                if len(chosen) < config.per_category:
                    raise _too_few(split, user_id, category, len(left), config)
                before.update(chosen)
                pairs[split] += [(by_id[user_id], item) for item in chosen]
    return Plan({split: given for split, given in pairs.items() if given}, sorted(held))


def _check_users(users: Sequence[BuildUser]) -> None:
    wrong = [user.user_id for user in users if "_" in user.user_id]
    if wrong:
        raise UsageError(
            f"Names of SAGE pictures have '_' between their parts, so ids of users cannot: {', '.join(wrong[:5])}.",
            hint="Give other ids: psalign users pseudonymise --users users.csv --out pseudonyms.csv",
        )


def _too_few(split: str, user_id: str, category: str, left: int, config: BuildConfig) -> UsageError:
    return UsageError(
        f"{category} has {left} pairs left for user {user_id} in {split}, who needs {config.per_category} "
        f"({config.prompts_per_concept} prompts per concept, {config.held_out:g} of the concepts held out).",
        hint="Give more concepts, more --prompts-per-concept, or a smaller --per-category.",
    )
