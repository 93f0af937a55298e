"""Known bans are a floor: profile columns that come with a prompt may add bans and remove none.

Place on the path of data: between steps 2 and 3, for users who have a stored vector and are described again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from ..errors import ProfileError, UsageError
from ..files import Record
from ..records import MetaRow, PromptRow
from .policy import banned_categories, united_bans
from .profile import UserProfile, read_profile
from .store import EmbeddingStore
from .vectors import Embedder, Recipe


@dataclass(frozen=True)
class Floor:
    """embed: profiles that need a new vector; all others of `people` have a stored one.

    remarks: a line a conflict.
    """

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


def read_row_profiles(rows: Sequence[MetaRow], name: str) -> tuple[list[PromptRow], list[UserProfile]]:
    """Prompts with the ids of their users, and the profile of each user once.

    name: name of the file, for messages.
    A row without a user id is a user of its own. Raises ProfileError for a row without a profile, or with a
    faulty one; UsageError where two rows of one user differ.
    """
    prompts: list[PromptRow] = []
    profiles: dict[str, UserProfile] = {}
    for number, row in enumerate(rows, start=1):
        where = f"{name}, row {number}"
        profile = _profile(row, number, where)
        if profiles.setdefault(profile.user_id, profile) != profile:
            raise UsageError(f"{where}: user {profile.user_id} has another profile than in a row before.")
        prompts.append(replace(row.prompt, user_id=profile.user_id))
    return prompts, list(profiles.values())


def _profile(row: MetaRow, number: int, where: str) -> UserProfile:
    if row.profile is None:
        raise ProfileError(
            f"{where}: --profiles needs the columns of a profile, and this row has none.",
            hint="Give age, gender, religion, ... or Banned_Categories; or leave --profiles out for stored vectors.",
        )
    known: Record = {name: value for name, value in row.profile.items() if value not in (None, "")}
    try:
        return read_profile({"user_id": row.prompt.user_id or f"row_{number:06d}", **known})
    except ProfileError as err:
        raise ProfileError(f"{where}: {err}") from None


def above_the_floor(profiles: Sequence[UserProfile], store: EmbeddingStore) -> Floor:
    """Who needs a new vector, each with at least the bans that are stored.

    A user who is not stored is embedded from the profile. A stored user keeps the stored vector, unless the
    profile adds bans: then the profile is embedded with the bans of both.
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
