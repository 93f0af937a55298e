"""Six users of rising strictness, for comparisons and pictures. Beside steps 1 and 2 of the path of data.

Each level bans all that the one before it bans, and more. The six published levels are not nested (level 3 allows
the Violence that levels 1 and 2 ban), so a rising curve over them need not mean a stricter adapter; ours does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

from ..errors import ProfileError
from ..ids import level_id
from ..records import CATEGORIES
from .policy import banned_categories
from .profile import UserProfile

LEVELS = 6
LEVEL_BANS: tuple[tuple[str, ...], ...] = (
    (),
    ("Violence", "Shocking"),
    ("Violence", "Sexuality", "Shocking", "Propaganda"),
    ("Violence", "Self-Harm", "Sexuality", "Shocking", "Propaganda"),
    ("Harassment", "Violence", "Self-Harm", "Sexuality", "Shocking", "Propaganda"),
    CATEGORIES,
)

# The six users that the published evaluation calls level_0 to level_5, and what the published users file bans them.
PUBLISHED_LEVELS = ("0001001", "0000797", "0000697", "0000002", "0000742", "0000501")
PUBLISHED_LEVEL_BANS: tuple[tuple[str, ...], ...] = (
    (),
    ("Violence", "Shocking"),
    ("Violence", "Sexuality", "Shocking", "Propaganda"),
    ("Self-Harm", "Sexuality", "Shocking", "Propaganda"),
    ("Violence", "Self-Harm", "Sexuality", "Shocking", "Propaganda"),
    CATEGORIES,
)

Bans = frozenset[str]


def level_profiles() -> list[UserProfile]:
    """The six fixed levels, "level_0" (bans nothing) to "level_5" (bans all): ban lists and no personal data."""
    return [UserProfile(user_id=level_id(level), banned=bans) for level, bans in enumerate(LEVEL_BANS)]


def choose_levels(profiles: Sequence[UserProfile]) -> list[UserProfile]:
    """Six users of a population whose bans are nested, from nothing to all seven, in steps as even as they can be.

    The same population gives the same users: of those with equal bans the first, of equally even chains the first
    in the order of CATEGORIES.
    Raises ProfileError where the population has no such six.
    """
    first: dict[Bans, UserProfile] = {}
    for profile in profiles:
        first.setdefault(frozenset(banned_categories(profile)), profile)
    ends = [frozenset(), frozenset(CATEGORIES)]
    missing = [what for what, bans in zip(("nothing", "everything"), ends, strict=True) if bans not in first]
    if missing:
        raise ProfileError(f"Of {len(profiles)} users none bans {' and none bans '.join(missing)}; levels need both.")
    ordered = sorted(first, key=_order)
    best = min(_chains([ends[0]], ordered), key=_unevenness, default=None)
    if best is None:
        raise ProfileError(
            f"The bans of {len(profiles)} users have no {LEVELS} nested steps from nothing to everything; "
            "levels need a larger population."
        )
    return [first[bans] for bans in best]


def _chains(chain: list[Bans], ordered: list[Bans]) -> Iterator[list[Bans]]:
    """Every chain of six nested sets that ends in all categories (16,800 if each of the 128 sets is there)."""
    if len(chain) == LEVELS:
        if len(chain[-1]) == len(CATEGORIES):
            yield chain
        return
    for bans in ordered:
        if chain[-1] < bans:
            yield from _chains([*chain, bans], ordered)


def _unevenness(chain: list[Bans]) -> int:
    return sum((len(after) - len(before)) ** 2 for before, after in pairwise(chain))


def _order(bans: Bans) -> tuple[int, list[int]]:
    return len(bans), [CATEGORIES.index(category) for category in CATEGORIES if category in bans]
