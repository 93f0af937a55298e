"""Whose limits a request has: decided by the API key and the identifier, never by what a client says of a person.

Place on the path of data: between steps 2 and 4, for the service.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from ..categories import category_names
from ..errors import UnknownUser
from ..ids import level_id
from ..users.profile import UserProfile
from ..users.store import EmbeddingStore
from ..users.vectors import UserBatch
from ..users.views import batch_of, tightened

Unknown = Literal["refuse", "strictest"]
UNKNOWN: tuple[Unknown, ...] = ("refuse", "strictest")
Source = Literal["own", "strictest", "preview"]


@dataclass(frozen=True)
class Whose:
    """users: a batch of one row. source: the person's own limits, the strictest ones, or an administrator's preview."""

    users: UserBatch
    source: Source


class Strangers:
    """What is done for an identifier that nobody registered.

    store: vectors of people, for adapters that need them. in_words: see batch_of; only without a store.
    """

    def __init__(self, unknown: Unknown, store: EmbeddingStore | None = None, *, in_words: bool = False) -> None:
        self.unknown, self.store, self.in_words = unknown, store, in_words

    def whose(self, profile: UserProfile | None, asked: Sequence[str] = ()) -> Whose:
        """The limits that hold: those of the person and those of the request together.

        asked: limits in words that came with the request; they can only tighten.
        Raises UnknownUser for a stranger where the operator refuses them, and for a person whose vector is stored
        without a ban list; LimitError for a limit that cannot be taken.
        """
        if profile is None and self.unknown == "refuse":
            raise UnknownUser("Nobody registered this person, so nobody knows whose limits to keep.")
        source: Source = "own" if profile is not None else "strictest"
        return Whose(self.users_of(tightened(profile or strictest(), asked)), source)

    def users_of(self, profile: UserProfile) -> UserBatch:
        """A batch of one row: by the profile, and by the stored vector of the same user id, if there is one."""
        said = batch_of([profile], in_words=self.in_words)
        if self.store is None or profile.user_id not in self.store:
            return said
        stored = self.store.batch([profile.user_id])
        known, more = stored.bans[0], said.bans[0]
        if known is None or more is None:
            raise UnknownUser("The stored vector of this person comes without a ban list.")
        bans = np.maximum(known, more)
        phrases = dict(stored.limits[0])
        phrases |= {phrase: max(value, phrases.get(phrase, 0.0)) for phrase, value in said.limits[0]}
        return replace(
            stored,
            bans=(bans,),
            limits=(tuple(phrases.items()),),
            unheld=(stored.unheld[0] + int((bans > known).sum()),),
        )


def strictest() -> UserProfile:
    """A person who bans every category."""
    return UserProfile(user_id=level_id(5), banned=category_names())
