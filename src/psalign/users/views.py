"""Other ways to know users: by their profiles, by their vectors alone, or by limits in words alone.

Place on the path of data: between step 3 and step 4; each is what generation takes for users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from ..categories import category_names, current
from ..errors import LimitError, ProfileError, UnknownUser, UsageError
from ..ids import LEVELS
from ..records import NO_VECTORS
from .levels import level_bans
from .limits import phrases_of, read_limits, typed_limits, united
from .policy import Bans, banned_categories, united_bans
from .profile import UserProfile, find_profile
from .store import EmbeddingStore
from .vectors import UserBatch

Phrases = tuple[tuple[str, float], ...]


def batch_of(profiles: Sequence[UserProfile | None], *, in_words: bool = False) -> UserBatch:
    """Users by their profiles, without vectors: for an adapter of kind `prompt`, one profile per prompt.

    Rules, ban lists and limits in words count, as everywhere; None is a row with no user. in_words: banned
    categories are given as their phrases in the taxonomy in use, not as a code: an adapter that was trained with
    other categories keeps them so.
    Raises UnknownUser for a profile of nothing but an id: unknown bans are never none.
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


def tightened(profile: UserProfile, limits: Sequence[Any] = (), *, banned: Sequence[str] = ()) -> UserProfile:
    """The profile with more limits in words (see read_limits) and more banned categories; nothing is taken
    away. Raises LimitError.
    """
    changes: dict[str, Any] = {}
    try:
        if limits:
            changes["limits"] = united(profile.limits or (), read_limits(list(limits)))
        if banned:
            changes["banned"] = united_bans(profile.banned, banned)
        return profile.model_copy(update=changes) if changes else profile
    except (ValueError, ProfileError):
        raise LimitError("The person's limits and those that were added are too many together.") from None


def described_person(
    *,
    users: Path | None = None,
    user_id: str = "",
    level: int | None = None,
    banned: Sequence[str] = (),
    limits: str = "",
) -> UserProfile:
    """The person that a form describes, for programs with switches and text boxes. What any part bans is
    banned.

    users, user_id: a profile of a users file. level: of strictness, 0 to 5. banned: names of categories.
    limits: in words, with ";" or a new line between them. Every part may be left out, but not all.
    Raises UnknownUser for a user without a profile, and where no part says anything: unknown bans are never
    none; UsageError for a file without a user or a user without a file, a level or category that does not
    exist; LimitError, ProfileError.
    """
    if (users is None) == bool(user_id.strip()):
        seen = "a user id and no users file" if users is None else "a users file and no user id"
        raise UsageError(f"A profile needs both a users file and a user id; saw {seen}.")
    if level is not None and level not in LEVELS:
        raise UsageError(f"Levels go from {LEVELS[0]} to {LEVELS[-1]}; saw {level}.")
    unknown = [name for name in banned if name not in category_names()]
    if unknown:
        raise UsageError(f"There is no category {unknown[0]!r}; choose of: {', '.join(category_names())}.")
    profile = UserProfile(user_id="form") if users is None else find_profile(users, user_id)
    words = typed_limits(limits)
    if users is None and level is None and not banned and not words:  # files are read without such users
        raise UnknownUser(
            "Nothing says what this person bans, and unknown bans are not taken for none.",
            hint="Give a profile, a category, a limit in words or a level; level 0 bans nothing.",
        )
    if level is not None:
        profile = tightened(profile.model_copy(update={"banned": profile.banned or ()}), banned=level_bans()[level])
    return tightened(profile, words, banned=banned)


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
