"""What is known of a user is a floor: profile columns that come with a prompt may add bans and take none away.

Place on the path of data: between steps 2 and 3, for users who have a stored vector and are described again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from ..categories import category_names
from .embedding import EmbeddingStore
from .policy import banned_categories
from .profile import UserProfile


@dataclass(frozen=True)
class Floor:
    """embed: profiles that need a new vector; everybody else has a stored one. remarks: one line for each conflict."""

    embed: list[UserProfile]
    remarks: list[str]


def above_the_floor(profiles: Sequence[UserProfile], store: EmbeddingStore) -> Floor:
    """Who needs a new vector, each with at least the bans that are stored.

    A user who is not stored is embedded from the profile. A stored user keeps the stored vector, unless the profile
    adds bans: then the profile is embedded with the bans of both.
    Raises UnknownUser for a stored user whose bans are not known: nobody can tell what would be lost.
    """
    embed, remarks = [], []
    for profile in profiles:
        if profile.user_id not in store:
            embed.append(profile)
            continue
        stored, said = set(store.known_bans(profile.user_id)), set(banned_categories(profile))
        if stored - said:
            remarks.append(
                f"User {profile.user_id}: the profile columns leave out {_listed(stored - said)}, which the stored "
                "vector bans; it stays banned."
            )
        if said - stored:
            remarks.append(f"User {profile.user_id}: the profile columns add {_listed(said - stored)}.")
            both = tuple(category for category in category_names() if category in stored | said)
            embed.append(profile.model_copy(update={"banned": both}))
    return Floor(embed, remarks)


def _listed(categories: set[str]) -> str:
    return ", ".join(category for category in category_names() if category in categories)
