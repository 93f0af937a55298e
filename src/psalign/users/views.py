"""Other ways to know users: by their profiles, by their vectors alone, or by limits in words alone.

Place on the path of data: between step 3 and step 4; each is what generation takes for users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date

import numpy as np

from ..categories import category_names, current
from ..errors import UnknownUser
from ..records import NO_VECTORS
from .limits import phrases_of
from .policy import Bans, banned_categories
from .profile import UserProfile
from .store import EmbeddingStore
from .vectors import UserBatch

Phrases = tuple[tuple[str, float], ...]


def batch_of(profiles: Sequence[UserProfile | None], *, in_words: bool = False) -> UserBatch:
    """Users as their profiles say it, without any vector: for an adapter of kind `prompt`, one profile per
    prompt.

    Rules, ban lists and limits in words count, as everywhere; None is a row with no user. in_words: banned
    categories are given as their phrases in the taxonomy in use, not as a code: an adapter that was trained with
    other categories keeps them so.
    """
    names = category_names()
    bans, limits = [], []
    for profile in profiles:
        banned = () if profile is None else banned_categories(profile)
        own = () if profile is None else phrases_of(profile.limits or (), date.today())
        has_code = profile is not None and not in_words
        bans.append(np.array([name in banned for name in names], np.float32) if has_code else None)
        limits.append(_with_phrases(banned, own) if in_words else own)
    return UserBatch((None,) * len(bans), NO_VECTORS, tuple(bans), tuple(limits))


def _with_phrases(banned: Sequence[str], own: Phrases) -> Phrases:
    """Limits in words, and every phrase of banned categories in full strength."""
    phrases = [phrase for one in current().categories if one.name in banned for phrase in one.phrases]
    return tuple({**dict(own), **dict.fromkeys(phrases, 1.0)}.items())


class ProfilesAlone:
    """Users that are known by their profiles: by ban list and limits in words, without any vector.

    in_words: see batch_of.
    """

    fingerprint = NO_VECTORS

    def __init__(self, profiles: Sequence[UserProfile], *, in_words: bool = False) -> None:
        self._profiles, self.in_words = {profile.user_id: profile for profile in profiles}, in_words

    def batch(self, user_ids: Sequence[str | None]) -> UserBatch:
        """One row per id. Raises UnknownUser for a user without a profile."""
        found = [None if user_id is None else self._profile(user_id) for user_id in user_ids]
        return batch_of(found, in_words=self.in_words)

    def banned(self, user_id: str) -> Bans:
        """What the user bans. Raises UnknownUser for a user without a profile."""
        return banned_categories(self._profile(user_id))

    def limits(self, user_id: str) -> Phrases:
        """(phrase, strength) of the user's limits in words."""
        return self.batch([user_id]).limits[0]

    def _profile(self, user_id: str) -> UserProfile:
        if user_id not in self._profiles:
            raise UnknownUser(
                f"There is no profile of user {user_id}.", hint="Add the user to the users file, or check the id."
            )
        return self._profiles[user_id]


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
