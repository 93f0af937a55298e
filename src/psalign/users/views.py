"""Other ways to know users: by their profiles, by their vectors alone, or by limits in words alone.

Place on the path of data: between step 3 and step 4; each is what generation takes for users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

import numpy as np

from ..categories import category_names
from .limits import phrases_of
from .policy import Bans, banned_categories
from .profile import UserProfile
from .store import EmbeddingStore
from .vectors import UserBatch

Phrases = tuple[tuple[str, float], ...]
NO_VECTORS = "no vectors"  # in place of a recipe


def batch_of(profiles: Sequence[UserProfile | None]) -> UserBatch:
    """Users as their profiles say it, without any vector: for an adapter of kind `prompt`, one profile per
    prompt.

    Rules, ban lists and limits in words count, as everywhere; None is a row with no user.
    """
    names = category_names()
    bans, limits = [], []
    for profile in profiles:
        banned = () if profile is None else banned_categories(profile)
        bans.append(None if profile is None else np.array([name in banned for name in names], np.float32))
        limits.append(() if profile is None else phrases_of(profile.limits or (), date.today()))
    return UserBatch((None,) * len(bans), NO_VECTORS, tuple(bans), tuple(limits))


class VectorsAlone:
    """Users of a store whose ban lists are hidden from the adapter, which goes by their vectors."""

    def __init__(self, store: EmbeddingStore) -> None:
        self.store, self.fingerprint = store, store.fingerprint

    def batch(self, user_ids: Sequence[str | None]) -> UserBatch:
        """See EmbeddingStore.batch."""
        return self.store.batch(user_ids, exact=False)

    def banned(self, user_id: str) -> Bans:
        """What the user bans, for those who measure. See EmbeddingStore.banned."""
        return self.store.banned(user_id)

    def limits(self, user_id: str) -> Phrases:
        """(phrase, strength) of the user's limits in words. See EmbeddingStore.limits."""
        return self.store.limits(user_id)


class WordsAlone:
    """Users of which an adapter knows the limits in words alone. For a user without any the base draws.

    fingerprint: that of the vectors that the adapter was trained with; none of them is used. phrases: limits
    by user id.
    bans: what each user bans, for those who measure.
    """

    def __init__(
        self, fingerprint: str, phrases: Mapping[str, Sequence[str]], bans: Mapping[str, Bans] | None = None
    ) -> None:
        self.fingerprint, self._phrases, self._bans = fingerprint, phrases, bans or {}

    def batch(self, user_ids: Sequence[str | None]) -> UserBatch:
        """Rows without vectors and ban lists, with the limits of their users."""
        limits = [() if user_id is None else self.limits(user_id) for user_id in user_ids]
        nothing = (None,) * len(limits)
        return UserBatch(nothing, self.fingerprint, nothing, tuple(limits))

    def limits(self, user_id: str) -> Phrases:
        """(phrase, strength) of the user's limits in words."""
        return tuple((phrase, 1.0) for phrase in self._phrases[user_id])

    def banned(self, user_id: str) -> Bans:
        """None where nothing says it."""
        return self._bans.get(user_id)
