"""What is known of a user is a floor: profile columns that come with a prompt may add bans and take none away.

Place on the path of data: between steps 2 and 3, for users who have a stored vector and are described again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from .policy import banned_categories, united_bans
from .profile import UserProfile
from .store import EmbeddingStore
from .vectors import Embedder, Recipe


@dataclass(frozen=True)
class Floor:
    """embed: profiles that need a new vector; all others of `people` have a stored one. remarks: a line a conflict."""

    store: EmbeddingStore
    people: Sequence[UserProfile]
    embed: list[UserProfile]
    remarks: list[str]

    def build(self, embedder_of: Callable[[Recipe], Embedder]) -> EmbeddingStore:
        """The stored users and the new vectors, in one space, with the limits of all profiles."""
        store = self.store
        if self.embed:
            new = EmbeddingStore.build(self.embed, embedder_of(store.recipe), statistics_of=store)
            store = store.joined(new)
        return store.with_limits(self.people)


def above_the_floor(profiles: Sequence[UserProfile], store: EmbeddingStore) -> Floor:
    """Who needs a new vector, each with at least the bans that are stored.

    A user who is not stored is embedded from the profile. A stored user keeps the stored vector, unless the profile
    adds bans: then the profile is embedded with the bans of both.
    Raises UnknownUser for a stored user whose bans are not known: nobody can say what would be lost.
    """
    embed, remarks = [], []
    for profile in profiles:
        if profile.user_id not in store:
            embed.append(profile)
            continue
        stored, now = store.known_bans(profile.user_id), banned_categories(profile)
        dropped, added = (united_bans(set(a) - set(b)) for a, b in ((stored, now), (now, stored)))
        if dropped:
            remarks.append(
                f"User {profile.user_id}: the profile columns leave out {', '.join(dropped)}, which the stored "
                "vector bans; it stays banned."
            )
        if added:
            remarks.append(f"User {profile.user_id}: the profile columns add {', '.join(added)}.")
            embed.append(profile.model_copy(update={"banned": united_bans(stored, now)}))
    return Floor(store, profiles, embed, remarks)
