"""The vectors of a population of users, with what each of them bans. Step 3 of the path of data.

Beside the vectors lie ban lists and limits in words. Bans change a vector; limits in words never do.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from datetime import date
from pathlib import Path

import numpy as np

from ..categories import category_names
from ..errors import EmbeddingMissing, ProfileError, RecipeMismatch, UnknownUser, some_of
from ..files import Record
from ..ids import level_id, normalise_user_id
from ..records import PUBLISHED_RECIPE
from .levels import PUBLISHED_LEVELS
from .limits import Limit, active, categories_of, phrases_of, united
from .policy import Bans, banned_categories, standing_bans, united_bans
from .profile import UserProfile
from .space import Space
from .store_files import Contents, embed_hint, require_finite, require_vectors, write_npy, write_store
from .store_reader import read_folder
from .vectors import Array, Embedder, Recipe, UserBatch


class EmbeddingStore:
    """Raw vectors of users, with the space of the population that standardises them (users/space.py).

    Raw vectors of different users hardly differ (cosine .99 for language models): the differences are the
    signal, so what the store gives out is standardised or whitened, with the exact ban code behind it where
    the space has one.
    Ban lists, and limits in people's own words, are kept beside the vectors; profiles are not.
    Published vectors come without ban lists: their users' bans are not known, unless somebody says them. The
    six users of the published levels are known by the names level_0 to level_5 too.
    """

    def __init__(self, held: Contents, *, folder: Path | None = None) -> None:
        self.held, self.folder = held, folder
        self._row = {user_id: row for row, user_id in enumerate(held.banned)}
        self._alias: dict[str, str] = {}
        if held.recipe.backend == PUBLISHED_RECIPE:
            levels = {level_id(level): user_id for level, user_id in enumerate(PUBLISHED_LEVELS)}
            self._alias = {a: who for a, who in levels.items() if a not in self._row and who in self._row}

    @classmethod
    def build(
        cls,
        profiles: Sequence[UserProfile],
        embedder: Embedder,
        *,
        statistics_of: EmbeddingStore | None = None,
        whitened: int = 0,
        exact: bool = False,
    ) -> EmbeddingStore:
        """Embed users. The space is that of their own vectors, or of another store.

        Give statistics_of when users join later: an adapter knows vectors standardised as in its training.
        whitened: directions to keep in a space of their own (see Space); exact: whether ban codes follow its
        vectors.
        Raises ProfileError for no users or an id given twice, RecipeMismatch where the other store has
        another recipe, EmbeddingMissing where a vector has the wrong shape, is not finite or all zeros.
        """
        ids, recipe = [profile.user_id for profile in profiles], embedder.recipe
        if not ids or len(set(ids)) < len(ids):
            twice = sorted({user_id for user_id in ids if ids.count(user_id) > 1})
            raise ProfileError(f"saw user {twice[0]} twice, expected each once." if twice else "There are no users.")
        if statistics_of is not None and statistics_of.recipe.fingerprint != recipe.fingerprint:
            raise _mismatch(recipe, statistics_of.recipe)
        raw = np.asarray(embedder.embed(profiles), np.float32)
        if raw.shape != (len(ids), recipe.llm_dim):
            raise EmbeddingMissing(
                f"{recipe.backend} gave vectors of shape {raw.shape}, expected {(len(ids), recipe.llm_dim)}."
            )
        require_vectors(raw, user_ids=ids)
        if statistics_of is not None:
            space = statistics_of.space
        elif recipe.backend == PUBLISHED_RECIPE:
            space = Space.as_it_is(raw.shape[1])
        else:
            bans = [banned_categories(profile) for profile in profiles] if exact else None
            space = Space.of(raw, whitened=whitened, bans=bans)
        banned = {profile.user_id: standing_bans(profile) for profile in profiles}
        limits = {profile.user_id: united(profile.limits) for profile in profiles if profile.limits}
        return cls(Contents(raw, banned, recipe, space, limits))

    @classmethod
    def load(cls, folder: Path, *, profiles: Sequence[UserProfile] = ()) -> EmbeddingStore:
        """Read a store of `save`, or a folder of <user id>.npy of [1, llm_dim], published or of `save_npy`.

        profiles: their ban lists are added to those of users of the second kind of folder: published vectors
        have no lists of their own. Their limits in words are added to any store (see with_limits).
        Raises EmbeddingMissing where there is none or a file is damaged, RecipeMismatch where vectors and
        index are not of one build.
        """
        said: dict[str, Bans] = {one.user_id: standing_bans(one) for one in profiles if one.says_bans}
        return cls(read_folder(Path(folder), said), folder=Path(folder)).with_limits(profiles)

    def save(self, folder: Path, *, replace: bool = True) -> None:
        """Write vectors.safetensors and index.json, whole or not at all, readable by their owner only.

        replace: whether another store that is there may go. Raises OutputError where it may not.
        """
        write_store(Path(folder), self.held, replace=replace)
        self.folder = Path(folder)

    def save_npy(self, folder: Path, *, replace: bool = True) -> None:
        """Write raw vectors in the published form, <user id>.npy of [1, llm_dim] each, beside a file that
        says what made them, what their users ban and their limits; private files.

        replace: whether other vectors of these users may go. Raises OutputError where they may not.
        """
        write_npy(Path(folder), self.held, replace=replace)

    @property
    def recipe(self) -> Recipe:
        return self.held.recipe

    @property
    def space(self) -> Space:
        return self.held.space

    @property
    def fingerprint(self) -> str:
        """Names the space of the vectors given out: the recipe and the population that standardises it."""
        return self.held.fingerprint

    @property
    def width(self) -> int:
        """Width of the vectors given out."""
        return self.space.width

    @property
    def code_width(self) -> int:
        """How many of the vectors' last numbers are the exact ban code; 0 where they have none."""
        return self.space.code_width

    @property
    def user_ids(self) -> tuple[str, ...]:
        return tuple(self.held.banned)

    def __len__(self) -> int:
        return len(self.held.banned)

    def __contains__(self, user_id: object) -> bool:
        try:
            return self._own_id(user_id) in self._row
        except ValueError:
            return False

    # --- what an adapter reads ---------------------------------------------------------------------------------------

    def vectors(self, user_ids: Sequence[str], *, exact: bool = True) -> Array:
        """Standardised vectors [B, width], float32, in the order of the ids, with ban codes if there are any.

        exact: codes of the users' ban lists, where they are known; False: codes estimated from the vectors.
        Raises EmbeddingMissing that names the first five users who have none.
        """
        known = self._known(user_ids)
        raw = self.held.raw[[self._row[user_id] for user_id in known]]
        code = self.space.estimated_code(raw)
        for row, user_id in enumerate(known if exact else ()):
            bans = self.banned(user_id)
            if bans is None:  # a limit of a category holds all the same
                bans = categories_of(self._limits(user_id), date.today())
                code[row] = np.maximum(code[row], self.space.code([bans])[0])
            else:
                code[row] = self.space.code([bans])[0]
        return np.concatenate([self.standardise(raw), code], axis=1)

    def standardise(self, raw: Array) -> Array:
        """Raw vectors [B, llm_dim] -> mean 0 and spread 1 over the store's population, without a code."""
        require_finite(raw, user_ids=())
        return self.space.place(raw)

    def batch(self, user_ids: Sequence[str | None], *, exact: bool = True) -> UserBatch:
        """Users in the order asked for, ready for an adapter's encode(); None for a row with no user.

        exact: see vectors; False: no ban list is handed over either.
        Raises EmbeddingMissing that names the first five users who have no vector.
        """
        given = [user_id for user_id in user_ids if user_id is not None]
        rows = iter(self.vectors(given, exact=exact) if given else ())
        return UserBatch(
            vectors=tuple(None if user_id is None else next(rows) for user_id in user_ids),
            recipe=self.fingerprint,
            bans=tuple(None if user_id is None or not exact else self._ban_row(user_id) for user_id in user_ids),
            limits=tuple(() if user_id is None else self.limits(user_id) for user_id in user_ids),
            unheld=tuple(0 if user_id is None else len(self.unheld(user_id)) for user_id in user_ids),
        )

    # --- what users ban ----------------------------------------------------------------------------------------------

    def banned(self, user_id: str, *, today: date | None = None) -> Bans:
        """Categories the user bans: the list as it was when the vector was made, and those of limits that
        hold on a day (None: today). None: the list is not known. Raises EmbeddingMissing."""
        own = self._known([user_id])[0]
        bans, limits = self.held.banned[own], categories_of(self._limits(own), today or date.today())
        return united_bans(bans, limits) if bans is not None and limits else bans

    def known_bans(self, user_id: str) -> tuple[str, ...]:
        """Categories the user bans.

        Raises UnknownUser where that is not known, EmbeddingMissing for a stranger.
        """
        banned = self.banned(user_id)
        if banned is None:
            raise UnknownUser(
                f"Nothing says what user {user_id} bans: published vectors come without ban lists.",
                hint="Give the users file of these vectors with --users.",
            )
        return banned

    def limits(self, user_id: str, *, today: date | None = None) -> tuple[tuple[str, float], ...]:
        """(phrase, strength) of the user's limits in words on a day (None: today). Raises EmbeddingMissing.

        A limit that is a category is in `banned` instead. Where the ban list is not known, it stands here as
        well:
        it must not be lost.
        """
        own = self._known([user_id])[0]
        limits, day = self._limits(own), today or date.today()
        phrases = phrases_of(limits, day)
        if self.held.banned[own] is not None:
            return phrases
        named = (phrase for limit in active(limits, day) if limit.categories for phrase in limit.phrases)
        return tuple({**dict(phrases), **{phrase: 1.0 for phrase in named if phrase not in dict(phrases)}}.items())

    def unheld(self, user_id: str, *, today: date | None = None) -> tuple[str, ...]:
        """Categories that the user bans on a day (None: today) and that the vector given out lacks: those of
        limits that were added after it was made. An exact ban code behind the vector has them all.

        Raises EmbeddingMissing.
        """
        own = self._known([user_id])[0]
        if self.code_width or self.held.banned[own] is None:  # not known: limits of categories are given as phrases
            return ()
        now = categories_of(self._limits(own), today or date.today())
        return tuple(category for category in now if category in self.held.unheld.get(own, ()))

    # --- other stores of the same users ------------------------------------------------------------------------------

    def with_limits(self, profiles: Sequence[UserProfile]) -> EmbeddingStore:
        """The same vectors with the limits of profiles added; users who are not in the store are ignored.

        Limits are only added: those that the store has stay, whatever a profile leaves out.
        """
        added = [{self._own_id(one.user_id): one.limits or ()} for one in profiles if one.user_id in self]
        limits = _joined_limits(self.held.limits, *added)
        return EmbeddingStore(replace(self.held, limits=limits, unheld=self._unheld_with(limits)), folder=self.folder)

    def without(self, user_ids: Collection[str]) -> EmbeddingStore:
        """The store with some users forgotten; the population that standardises it stays what it was."""
        banned = {user_id: bans for user_id, bans in self.held.banned.items() if user_id not in user_ids}
        raw = self.held.raw[[self._row[user_id] for user_id in banned]]
        return EmbeddingStore(replace(self.held, raw=raw, banned=banned))

    def raw(self) -> EmbeddingStore:
        """The same users with their raw vectors, which save_npy writes and a published adapter reads."""
        return EmbeddingStore(replace(self.held, space=Space.as_it_is(self.held.raw.shape[1])))

    def replaced(self, vectors: Array, backend: str, *, options: Record) -> EmbeddingStore:
        """The same users with other vectors [U, llm_dim], which are given out as they are.

        backend, options: name how they were made.
        """
        width = vectors.shape[1]
        recipe = Recipe(backend, width, options=options)
        return EmbeddingStore(replace(self.held, raw=vectors, recipe=recipe, space=Space.as_it_is(width)))

    def joined(self, others: EmbeddingStore) -> EmbeddingStore:
        """The store with other users of its space. Who is in both has the vector of `others` and all limits.

        Raises RecipeMismatch.
        """
        if others.fingerprint != self.fingerprint:
            raise _mismatch(others.recipe, self.recipe)
        kept = self.without(others.user_ids).held
        limits = _joined_limits(self.held.limits, others.held.limits)
        both = replace(
            kept,
            raw=np.concatenate([kept.raw, others.held.raw]),
            banned={**kept.banned, **others.held.banned},
            limits=limits,
            unheld={**kept.unheld, **others._unheld_with(limits)},
        )
        return EmbeddingStore(both, folder=self.folder)

    def _limits(self, own_id: str) -> Sequence[Limit]:
        return self.held.limits.get(own_id, ())

    def _ban_row(self, user_id: str) -> Array | None:
        """Ban list of a user as 0 and 1, float32 [categories]; None where it is not known."""
        bans = self.banned(user_id)
        return None if bans is None else np.array([name in bans for name in category_names()], np.float32)

    def _unheld_with(self, limits: Mapping[str, Sequence[Limit]]) -> dict[str, tuple[str, ...]]:
        """The categories of these limits that the vectors of this store lack, by user id."""
        found = {}
        for user_id, bans in self.held.banned.items():
            asked, own = _categories_named(limits.get(user_id, ())), _categories_named(self._limits(user_id))
            has = (own | set(bans or ())) - set(self.held.unheld.get(user_id, ()))
            found[user_id] = tuple(category for category in category_names() if category in asked - has)
        return found

    def _known(self, user_ids: Sequence[str]) -> list[str]:
        missing = [user_id for user_id in user_ids if user_id not in self]
        if missing:
            place = self.folder or "this store"
            who = f"user {missing[0]} has" if len(missing) == 1 else f"users {some_of(missing)} have"
            message = f"{who} no embedding in {place} ({len(self)} users)."
            raise EmbeddingMissing(message, hint=embed_hint(self.folder))
        return [self._own_id(user_id) for user_id in user_ids]

    def _own_id(self, user_id: object) -> str:
        name = normalise_user_id(user_id)
        return self._alias.get(name, name)


def _joined_limits(*groups: Mapping[str, Sequence[Limit]]) -> dict[str, tuple[Limit, ...]]:
    """Limits of all groups by user id, united for who is in several."""
    ids = dict.fromkeys(user_id for group in groups for user_id in group)
    return {user_id: united(*(group.get(user_id, ()) for group in groups)) for user_id in ids}


def _categories_named(limits: Sequence[Limit]) -> set[str]:
    return {category for limit in limits for category in limit.categories}


def _mismatch(made: Recipe, expected: Recipe) -> RecipeMismatch:
    return RecipeMismatch(
        f"Vectors of recipe {made.fingerprint} ({made.backend}, {made.llm_dim}) cannot be standardised by a store of "
        f"recipe {expected.fingerprint} ({expected.backend}, {expected.llm_dim})."
    )
