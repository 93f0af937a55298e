"""Other ways to know the same users: by their vectors alone, or by limits in words alone. For measuring each source.

Place on the path of data: between step 3 and step 4; each is what generation takes for users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .embedding import Bans, EmbeddingStore, UserBatch


class VectorsAlone:
    """Users of a store whose ban lists are hidden from the adapter: their vectors must do."""

    def __init__(self, store: EmbeddingStore) -> None:
        self.store, self.fingerprint = store, store.fingerprint

    def batch(self, user_ids: Sequence[str | None]) -> UserBatch:
        """See EmbeddingStore.batch."""
        return self.store.batch(user_ids, exact=False)

    def banned(self, user_id: str) -> Bans:
        """What the user bans, for those who measure. See EmbeddingStore.banned."""
        return self.store.banned(user_id)


class WordsAlone:
    """Users of whom an adapter learns nothing but limits in words.

    fingerprint: of the vectors that the adapter was trained with, none of which are used. phrases: limits by user id.
    bans: what each user bans, for those who measure.
    """

    def __init__(
        self, fingerprint: str, phrases: Mapping[str, Sequence[str]], bans: Mapping[str, Bans] | None = None
    ) -> None:
        self.fingerprint, self._phrases, self._bans = fingerprint, phrases, bans or {}

    def batch(self, user_ids: Sequence[str | None]) -> UserBatch:
        """Rows without vectors and ban lists, with the limits of their users."""
        limits = [
            () if user_id is None else tuple((one, 1.0) for one in self._phrases[user_id]) for user_id in user_ids
        ]
        nothing = (None,) * len(limits)
        return UserBatch(nothing, self.fingerprint, nothing, tuple(limits))

    def banned(self, user_id: str) -> Bans:
        """None where nothing says it."""
        return self._bans.get(user_id)
