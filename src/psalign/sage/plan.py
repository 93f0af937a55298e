"""Which user gets which pairs of pictures, and the rows that follow: splits by user and, where asked, by concept.

Place on the path of data: the third step of sage/build.py; nothing here is written or drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..errors import UsageError
from ..files import Record
from .concepts import Concept, Item, by_category, choose, hold_out
from .preference import SageRow, unsafe_is_chosen
from .writers import Prompts


@dataclass(frozen=True)
class BuildUser:
    """A user to build rows for: what they ban, and the profile columns of their rows."""

    user_id: str
    banned: tuple[str, ...]
    user_data: Record


@dataclass(frozen=True)
class BuildConfig:
    """Sizes of a dataset.

    per_category: pairs a user gets of each category, in each split they are in (published: 3). prompts_per_concept: how
    many pairs of pictures a concept has, for users to share. expand: concepts per category, found by the writer from
    those given. held_out: share of each category's concepts that no training row has; val and tests then have these
    alone. quality: of the pictures, as JPEG.
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
    """pairs: of every split, who gets which pair. held_out: concepts that no training row has."""

    pairs: dict[str, list[tuple[BuildUser, Item]]]
    held_out: list[Concept]

    @property
    def items(self) -> list[Item]:
        """Pairs of pictures that somebody gets, once each."""
        return sorted({item for pairs in self.pairs.values() for _, item in pairs})

    def rows(self, split: str, prompts: Mapping[str, Prompts]) -> Iterator[SageRow]:
        """The rows of a split by the preference rule: unsafe caption, safe caption. prompts: by key of the item."""
        for user, item in self.pairs[split]:
            names = [item.picture(user.user_id, unsafe=unsafe) for unsafe in (False, True)]
            told = prompts[item.key]
            for kind, caption in (("unsafe", told.unsafe), ("safe", told.safe)):
                chosen = unsafe_is_chosen(caption_kind=kind, category=item.concept.category, banned=user.banned)
                yield SageRow(
                    user_id=user.user_id,
                    category=item.concept.category,
                    concept=item.concept.concept,
                    index=f"{item.index:05d}",
                    caption=caption,
                    caption_kind=kind,
                    chosen=names[chosen],
                    rejected=names[not chosen],
                    user_data=user.user_data,
                    chose_unsafe=chosen,
                )


def make_plan(
    concepts: Sequence[Concept], users: Sequence[BuildUser], splits: Mapping[str, Sequence[str]], config: BuildConfig
) -> Plan:
    """Give every user of every split their pairs; a user of train and test_seen gets other pairs in each.

    splits: user ids by split. Raises UsageError where there are too few concepts or prompts, or an id cannot be in the
    name of a picture.
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
        f"{category} has {left} pairs left for user {user_id} in {split}, who is to get {config.per_category} "
        f"({config.prompts_per_concept} prompts per concept, {config.held_out:g} of the concepts held out).",
        hint="Give more concepts, more --prompts-per-concept, or a smaller --per-category.",
    )
