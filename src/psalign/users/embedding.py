"""User vectors: profile and banned categories -> [B, llm_dim], kept in a folder with their recipe. Step 3 of the path.

Beside the vectors lie ban lists and limits in words. Bans change a vector; limits in words never do.

A recipe says how vectors were made; an adapter trained on one recipe refuses vectors of another.
"""

from __future__ import annotations

import hashlib
import io
import json
import math
import os
import time
from collections.abc import Callable, Collection, Container, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from safetensors.numpy import load as load_tensors
from safetensors.numpy import save as save_tensors

from ..categories import category_names, current, require_taxonomy
from ..errors import EmbeddingMissing, LimitError, ProfileError, RecipeMismatch, UnknownUser, library_errors
from ..files import Record, in_the_way, read_json, write_together
from ..ids import level_id, normalise_user_id, shorten
from ..records import PUBLISHED_RECIPE, fingerprint, wrong_keys
from ..tensors import read_array
from .levels import PUBLISHED_LEVEL_BANS, PUBLISHED_LEVELS, level_bans
from .limits import Limit, active, categories_of, limit_records, phrases_of, read_limits, united
from .policy import banned_categories, standing_bans
from .profile import VOCABULARY, UserProfile
from .space import Space

Array = npt.NDArray[np.float32]
T = TypeVar("T")

VECTORS, INDEX = "vectors.safetensors", "index.json"
UNFINISHED = "unfinished"  # folder of an embed that is on its way
STORE_FORMAT = 2  # 2: with a digest over everything
LOAD_TRIES, LOAD_PAUSE_S = 4, 0.1  # a store that is being replaced is whole a moment later
LOAD_WAIT_S = 10.0  # for a folder that changes whenever it is read
NPY_INDEX = "recipe.json"  # beside <user id>.npy of ours: what made them, and what their users ban

Bans = tuple[str, ...] | None  # None: not known, which is never the same as none
Limits = dict[str, tuple[Limit, ...]]  # by user id; who has none is not in it


@dataclass(frozen=True)
class Recipe:
    """How user vectors are made: backend, width, version of the definition, and all else that changes a number.

    Of published vectors nobody knows all options, so they do not count: one recipe for each width.
    """

    backend: str
    llm_dim: int
    version: int = 1
    options: Record = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        options = {} if self.backend == PUBLISHED_RECIPE else self.options
        return fingerprint({**asdict(self), "options": options})


class Embedder(Protocol):
    """Makes raw user vectors; a language model is one backend, StructuredEmbedder another."""

    @property
    def recipe(self) -> Recipe: ...

    def embed(self, profiles: Sequence[UserProfile]) -> Array:
        """Raw vectors [B, llm_dim], float32; a row depends on its own profile only."""
        ...


class StructuredEmbedder:
    """Vectors from the fields of a profile and its banned categories, offline and without a language model.

    One-hots (a field that is not known has a place of its own) pass a fixed dense random projection, a tanh and a
    second projection: like a language model's, no coordinate stands for one category. Bans weigh more than the
    person, so that a profile of nothing but a ban list lands near people who ban the same.
    """

    SEED = 2025
    HIDDEN = 256
    BAN_WEIGHT = 1.0
    PERSON_WEIGHT = 0.25

    def __init__(self, llm_dim: int = 64) -> None:
        options = {
            "seed": self.SEED,
            "hidden": self.HIDDEN,
            "ban_weight": self.BAN_WEIGHT,
            "person_weight": self.PERSON_WEIGHT,
            "categories": list(category_names()),
            "vocabulary": {name: list(words) for name, words in VOCABULARY.items()},
        }
        self.recipe = Recipe("structured", llm_dim, version=1, options=options)
        rng = np.random.default_rng(self.SEED)
        features = len(_features(UserProfile(user_id="nobody"), self.BAN_WEIGHT, self.PERSON_WEIGHT))
        self._project = _dense(rng, features, self.HIDDEN)
        self._mix = _dense(rng, self.HIDDEN, llm_dim)

    def embed(self, profiles: Sequence[UserProfile]) -> Array:
        """Raw vectors [B, llm_dim], float32, of order 1; equal profiles with equal bans give equal bits."""
        rows = [self._embed_one(profile) for profile in profiles]
        return np.stack(rows) if rows else np.zeros((0, self.recipe.llm_dim), np.float32)

    def _embed_one(self, profile: UserProfile) -> Array:
        # Row by row, in float64 and without BLAS: the bits do not depend on the batch.
        features = _features(profile, self.BAN_WEIGHT, self.PERSON_WEIGHT)  # [F]
        hidden = np.tanh((features[:, None] * self._project).sum(axis=0))  # [hidden]
        mixed: Array = (hidden[:, None] * self._mix).sum(axis=0).astype(np.float32)  # [llm_dim]
        return mixed


@dataclass(frozen=True)
class UserBatch:
    """Users of the rows of one call, as an adapter takes them: None is a row with no user.

    vectors: as an adapter reads them, [width] each. recipe: fingerprint of how they were made.
    bans: 1 for a banned and 0 for an allowed category, [categories] each; None where the list is not known.
    limits: (phrase, strength) of each row's limits in words that hold today.
    unheld: how many banned categories of each row its vector does not hold: limits that were added after it was made.
    Knows nothing else of a person. A repr does not show limits: they are personal.
    """

    vectors: tuple[Array | None, ...]
    recipe: str
    bans: tuple[Array | None, ...] = ()
    limits: tuple[tuple[tuple[str, float], ...], ...] = field(default=(), repr=False)
    unheld: tuple[int, ...] = ()


class EmbeddingStore:
    """Raw vectors of users, with the space of the population that standardises them (users/space.py).

    Raw vectors of different users hardly differ (cosine .99 for language models): the differences are the signal,
    so what the store gives out is standardised or whitened, with the exact ban code behind it where the space has one.
    Ban lists, and limits in people's own words, are kept beside the vectors; profiles are not.
    Published vectors come without ban lists: theirs are not known, unless somebody says them. The six users of the
    published levels are known by the names level_0 to level_5 too.
    """

    def __init__(
        self,
        raw: Array,
        *,
        banned: Mapping[str, Bans],
        recipe: Recipe,
        space: Space,
        limits: Mapping[str, Sequence[Limit]] | None = None,
        unheld: Mapping[str, Sequence[str]] | None = None,
        folder: Path | None = None,
    ) -> None:
        """unheld: categories by user id that limits ban and that the vector was made without."""
        self.recipe = recipe
        self.folder = folder
        self.space = space
        self._raw = raw
        self._banned = dict(banned)
        self._limits: Limits = {who: tuple(given) for who, given in (limits or {}).items() if given and who in banned}
        self._unheld = {who: tuple(given) for who, given in (unheld or {}).items() if given and who in banned}
        self._row = {user_id: row for row, user_id in enumerate(banned)}
        self._alias = _published_levels(self._row) if recipe.backend == PUBLISHED_RECIPE else {}
        _require_finite(raw, *space.tensors.values(), user_ids=self.user_ids)

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
        """Embed users. The space is of their own vectors, or that of another store.

        Give statistics_of when users join later: an adapter knows vectors standardised as in its training.
        whitened: directions to keep in a space of their own (see Space); exact: whether ban codes follow its vectors.
        Raises ProfileError for no users or an id given twice, RecipeMismatch where the other store has another
        recipe, EmbeddingMissing where a vector has the wrong shape or is not finite.
        """
        ids = [profile.user_id for profile in profiles]
        if not ids or len(set(ids)) < len(ids):
            twice = sorted({user_id for user_id in ids if ids.count(user_id) > 1})
            raise ProfileError(f"saw user {twice[0]} twice, expected each once." if twice else "There are no users.")
        if statistics_of is not None and statistics_of.recipe.fingerprint != embedder.recipe.fingerprint:
            raise RecipeMismatch(_mismatch(embedder.recipe, statistics_of.recipe))
        raw = np.asarray(embedder.embed(profiles), np.float32)
        expected = (len(ids), embedder.recipe.llm_dim)
        if raw.shape != expected:
            raise EmbeddingMissing(f"{embedder.recipe.backend} gave vectors of shape {raw.shape}, expected {expected}.")
        _require_finite(raw, user_ids=ids)
        banned = {profile.user_id: standing_bans(profile) for profile in profiles}
        bans = [banned_categories(profile) for profile in profiles] if exact else None
        space = _as_it_is(raw.shape[1])
        if statistics_of is not None:
            space = statistics_of.space
        elif embedder.recipe.backend != PUBLISHED_RECIPE:
            space = Space.of(raw, whitened=whitened, bans=bans)
        return cls(raw, banned=banned, recipe=embedder.recipe, space=space, limits=_limits_of(profiles))

    @classmethod
    def load(cls, folder: Path, *, profiles: Sequence[UserProfile] = ()) -> EmbeddingStore:
        """Read a store that save wrote, or a folder of <user id>.npy of [1, llm_dim] each, published or of save_npy.

        profiles: give ban lists to users of published vectors, which have none of their own; they add to lists that
        are known already. Their limits in words are added to any store (see with_limits).
        Raises EmbeddingMissing where there is none or a file is damaged, RecipeMismatch where vectors and index
        are not of one build.
        """
        folder = Path(folder)
        if not (folder / INDEX).is_file() and _npy_files(folder):
            return _read_unchanged(folder, lambda: cls._load_npy(folder, profiles)).with_limits(profiles)
        index, tensors = _read_unchanged(folder, lambda: _read_store(folder))
        recipe = _read_recipe(index["recipe"], folder)
        banned = dict(zip(_read_ids(index["user_ids"], folder), _read_bans(index["banned"], folder), strict=True))
        raw, space = tensors["vectors"], Space.from_tensors(tensors)
        if raw.shape != (len(banned), recipe.llm_dim) or not space.fits(recipe.llm_dim):
            raise _damaged(folder, f"vectors {raw.shape} for {len(banned)} users of width {recipe.llm_dim}")
        limits = _read_limits(index.get("limits", {}), folder)
        unheld = _read_unheld(index.get("unheld", {}), folder)
        store = cls(raw, banned=banned, recipe=recipe, space=space, limits=limits, unheld=unheld, folder=folder)
        if index["fingerprint"] != store.fingerprint:
            raise RecipeMismatch(
                f"{folder}: {VECTORS} has fingerprint {store.fingerprint}, {INDEX} expects {index['fingerprint']}.",
                hint=_embed_hint(folder),
            )
        return store.with_limits(profiles)

    @classmethod
    def _load_npy(cls, folder: Path, profiles: Sequence[UserProfile]) -> EmbeddingStore | None:
        """None where vectors and what is said of them are not of one build."""
        paths = _npy_files(folder)
        ids = _read_ids([path.stem for path in paths], folder)
        raw = _read_vectors(paths)
        about = _read_npy_index(folder, raw.shape[1])
        recipe, kept = about.recipe, about.banned
        for user_id, row in zip(ids, raw, strict=True):
            digest = _npy_digest(row, kept.get(user_id), recipe, about.limits.get(user_id), about.unheld.get(user_id))
            if user_id in about.digests and about.digests[user_id] != digest:
                return None
        said = {profile.user_id: standing_bans(profile) for profile in profiles if profile.says_bans}
        levels = {level_id(level): bans for level, bans in enumerate(level_bans())}
        known = {**levels, **PUBLISHED_USERS} if recipe.backend == PUBLISHED_RECIPE else levels
        banned = {user_id: _united(known.get(user_id), kept.get(user_id), said.get(user_id)) for user_id in ids}
        limits, unheld = _read_limits(about.limits, folder), _read_unheld(about.unheld, folder)
        space = _as_it_is(raw.shape[1])
        return cls(raw, banned=banned, recipe=recipe, space=space, limits=limits, unheld=unheld, folder=folder)

    def save(self, folder: Path, *, replace: bool = True) -> None:
        """Write vectors.safetensors and index.json, whole or not at all, readable by their owner only.

        index.json has a digest over both: a store in which a vector or a ban was changed is not loaded.
        replace: whether another store that is there may go. Raises OutputError where it may not.
        """
        folder = Path(folder)
        index = {
            "format": STORE_FORMAT,
            "fingerprint": self.fingerprint,
            "recipe": asdict(self.recipe),
            "user_ids": list(self.user_ids),
            "banned": [None if bans is None else list(bans) for bans in self._banned.values()],
            **self._limits_record(),
            **_mark(),
        }
        tensors = {"vectors": self._raw, **self.space.tensors}
        text = json.dumps({**index, "digest": _digest(index, tensors)}, indent=2) + "\n"
        contents = {folder / VECTORS: save_tensors(tensors), folder / INDEX: text.encode()}
        if not replace:
            require_free(folder, lambda: all(path.read_bytes() == content for path, content in contents.items()))
        write_together(contents, private=True)
        self.folder = folder

    def save_npy(self, folder: Path, *, replace: bool = True) -> None:
        """Write raw vectors in the published form, <user id>.npy of [1, llm_dim] each, beside a file that says what
        made them, what their users ban and their limits; private files. A digest of each user goes with it: a vector
        that another one stands in the place of, or whose bans or limits were changed, is not loaded.

        replace: whether other vectors of these users that are there may go. Raises OutputError where they may not.
        """
        folder = Path(folder)
        bans = {user_id: None if banned is None else list(banned) for user_id, banned in self._banned.items()}
        limits = self._limits_record()
        parts = [limits.get(name, {}) for name in ("limits", "unheld")]
        digests = {user_id: _npy_digest(row, bans[user_id], self.recipe, *(part.get(user_id) for part in parts))
                   for user_id, row in zip(self.user_ids, self._raw, strict=True)}  # fmt: skip
        about = {"recipe": asdict(self.recipe), "banned": bans, **limits, "digests": digests, **_mark()}
        contents = {folder / NPY_INDEX: (json.dumps(about, indent=2) + "\n").encode()}
        for user_id, row in zip(self.user_ids, self._raw, strict=True):
            stream = io.BytesIO()
            np.save(stream, row[None], allow_pickle=False)
            contents[folder / f"{user_id}.npy"] = stream.getvalue()
        for path, content in contents.items():
            if not replace and os.path.lexists(path) and not (path.is_file() and path.read_bytes() == content):
                raise in_the_way(path)
        write_together(contents, private=True)

    @property
    def fingerprint(self) -> str:
        """Names the space of the vectors given out: the recipe and the population that standardises it."""
        if self.recipe.backend == PUBLISHED_RECIPE:
            return PUBLISHED_RECIPE
        return self.space.fingerprint_with(self.recipe.fingerprint)

    @property
    def width(self) -> int:
        """Of the vectors given out."""
        return self.space.width

    @property
    def code_width(self) -> int:
        """How many of the vectors' last numbers are the exact ban code; 0 where they have none."""
        return self.space.code_width

    @property
    def user_ids(self) -> tuple[str, ...]:
        return tuple(self._banned)

    def __len__(self) -> int:
        return len(self._banned)

    def __contains__(self, user_id: object) -> bool:
        try:
            return self._own_id(user_id) in self._row
        except ValueError:
            return False

    def vectors(self, user_ids: Sequence[str], *, exact: bool = True) -> Array:
        """Standardised vectors [B, width], float32, in the order asked for, with ban codes behind them, if any.

        exact: codes of the users' ban lists, where they are known; False: as the vectors themselves tell them.
        Raises EmbeddingMissing that names the first five users who have none.
        """
        known = self._known(user_ids)
        raw = self._raw[[self._row[user_id] for user_id in known]]
        code = self.space.estimated_code(raw)
        for row, user_id in enumerate(known if exact else ()):
            bans = self.banned(user_id)
            if bans is None:  # a limit of a category holds all the same
                bans = categories_of(self._limits.get(user_id, ()), date.today())
                code[row] = np.maximum(code[row], self.space.code([bans])[0])
            else:
                code[row] = self.space.code([bans])[0]
        return np.concatenate([self.standardise(raw), code], axis=1)

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
            bans=tuple(None if user_id is None or not exact else self._bans_row(user_id) for user_id in user_ids),
            limits=tuple(() if user_id is None else self.limits(user_id) for user_id in user_ids),
            unheld=tuple(0 if user_id is None else len(self.unheld(user_id)) for user_id in user_ids),
        )

    def banned(self, user_id: str, *, today: date | None = None) -> Bans:
        """Categories the user bans: the list as it was when the vector was made, and those of limits that hold on a
        day (None: today). None: the list is not known. Raises EmbeddingMissing."""
        own = self._known([user_id])[0]
        bans = self._banned[own]
        limits = categories_of(self._limits.get(own, ()), today or date.today())
        return _united(bans, limits) if bans is not None and limits else bans

    def limits(self, user_id: str, *, today: date | None = None) -> tuple[tuple[str, float], ...]:
        """(phrase, strength) of the user's limits in words that hold on a day (None: today). Raises EmbeddingMissing.

        A limit that is a category is in `banned` instead. Where the ban list is not known, it stands here as well:
        it must not be lost.
        """
        own = self._known([user_id])[0]
        limits, day = self._limits.get(own, ()), today or date.today()
        phrases = phrases_of(limits, day)
        if self._banned[own] is not None:
            return phrases
        named = (phrase for limit in active(limits, day) if limit.categories for phrase in limit.phrases)
        return tuple({**dict(phrases), **{phrase: 1.0 for phrase in named if phrase not in dict(phrases)}}.items())

    def unheld(self, user_id: str, *, today: date | None = None) -> tuple[str, ...]:
        """Categories that the user bans on a day (None: today) and that the vector given out does not hold: those of
        limits that were added after it was made. An exact ban code behind the vector holds them all.

        Raises EmbeddingMissing.
        """
        own = self._known([user_id])[0]
        if self.code_width or self._banned[own] is None:  # not known: limits of categories are handed over as phrases
            return ()
        active_ones = categories_of(self._limits.get(own, ()), today or date.today())
        return tuple(category for category in active_ones if category in self._unheld.get(own, ()))

    def with_limits(self, profiles: Sequence[UserProfile]) -> EmbeddingStore:
        """The same vectors with the limits of profiles added; users who are not in the store are ignored.

        Limits are only added: those that the store has stay, whatever a profile leaves out.
        """
        added = [{self._own_id(one.user_id): one.limits or ()} for one in profiles if one.user_id in self]
        limits = _joined_limits(self._limits, *added)
        return self._changed(limits=limits, unheld=self._unheld_with(limits), folder=self.folder)

    def known_bans(self, user_id: str) -> tuple[str, ...]:
        """Categories the user bans. Raises UnknownUser where that is not known, EmbeddingMissing for a stranger."""
        banned = self.banned(user_id)
        if banned is None:
            raise UnknownUser(
                f"Nothing says what user {user_id} bans: published vectors come without ban lists.",
                hint="Give the users file of these vectors with --users.",
            )
        return banned

    def without(self, user_ids: Collection[str]) -> EmbeddingStore:
        """The store with some users forgotten; the population that standardises it stays what it was."""
        kept = [user_id for user_id in self.user_ids if user_id not in user_ids]
        return self._changed(
            raw=self._raw[[self._row[user_id] for user_id in kept]],
            banned={user_id: self._banned[user_id] for user_id in kept},
            limits={user_id: self._limits[user_id] for user_id in kept if user_id in self._limits},
            unheld={user_id: self._unheld[user_id] for user_id in kept if user_id in self._unheld},
        )

    def raw(self) -> EmbeddingStore:
        """The same users with their raw vectors, as save_npy writes them and a published adapter reads them."""
        return self._changed(space=_as_it_is(self._raw.shape[1]))

    def joined(self, others: EmbeddingStore) -> EmbeddingStore:
        """The store with other users of the same space; who is in both is as in `others`, with the limits of both.

        Raises RecipeMismatch.
        """
        if others.fingerprint != self.fingerprint:
            raise RecipeMismatch(_mismatch(others.recipe, self.recipe))
        kept = self.without(others.user_ids)
        limits = _joined_limits(self._limits, others._limits)
        return self._changed(
            raw=np.concatenate([kept._raw, others._raw]),
            banned={**kept._banned, **others._banned},
            limits=limits,
            unheld={**kept._unheld, **others._unheld_with(limits)},
            folder=self.folder,
        )

    def replaced(self, vectors: Array, backend: str, *, options: Record) -> EmbeddingStore:
        """The same users with other vectors [U, llm_dim], which are given out as they are.

        backend, options: name how they were made.
        """
        width = vectors.shape[1]
        return self._changed(raw=vectors, recipe=Recipe(backend, width, options=options), space=_as_it_is(width))

    def standardise(self, raw: Array) -> Array:
        """Raw vectors [B, llm_dim] of this recipe -> mean 0 and spread 1 over the store's population; no code."""
        _require_finite(raw, user_ids=())
        return self.space.place(raw)

    def _changed(self, *, raw: Array | None = None, folder: Path | None = None, **changes: Any) -> EmbeddingStore:
        """A store that differs in some of what it is made of; it lies in no folder unless one is given."""
        parts = {"banned": self._banned, "recipe": self.recipe, "space": self.space, "limits": self._limits,
                 "unheld": self._unheld}  # fmt: skip
        return EmbeddingStore(self._raw if raw is None else raw, **{**parts, **changes}, folder=folder)

    def _bans_row(self, user_id: str) -> Array | None:
        """Ban list of a user as 0 and 1, float32 [categories]; None where it is not known."""
        bans = self.banned(user_id)
        return None if bans is None else np.array([name in bans for name in category_names()], np.float32)

    def _unheld_with(self, limits: Mapping[str, Sequence[Limit]]) -> dict[str, tuple[str, ...]]:
        """What the vectors of this store's users do not hold of these limits, by user id."""
        found = {}
        for user_id in self.user_ids:
            asked, own = _categories_named(limits.get(user_id, ())), _categories_named(self._limits.get(user_id, ()))
            held = (own | set(self._banned[user_id] or ())) - set(self._unheld.get(user_id, ()))
            found[user_id] = tuple(category for category in category_names() if category in asked - held)
        return {user_id: lacking for user_id, lacking in found.items() if lacking}

    def _limits_record(self) -> Record:
        """What files say of limits: nothing where nobody has any."""
        given = {user_id: limit_records(self._limits[user_id]) for user_id in self.user_ids if user_id in self._limits}
        unheld = {user_id: list(categories) for user_id, categories in self._unheld.items()}
        return {name: record for name, record in (("limits", given), ("unheld", unheld)) if record}

    def _known(self, user_ids: Sequence[str]) -> list[str]:
        missing = [user_id for user_id in user_ids if user_id not in self]
        if missing:
            place = self.folder or "this store"
            who = f"user {missing[0]} has" if len(missing) == 1 else f"users {', '.join(missing[:5])} have"
            more = f" (and {len(missing) - 5} more)" if len(missing) > 5 else ""
            raise EmbeddingMissing(
                f"{who} no embedding in {place} ({len(self)} users){more}.", hint=_embed_hint(self.folder)
            )
        return [self._own_id(user_id) for user_id in user_ids]

    def _own_id(self, user_id: object) -> str:
        name = normalise_user_id(user_id)
        return self._alias.get(name, name)


PUBLISHED_USERS = dict(zip(PUBLISHED_LEVELS, PUBLISHED_LEVEL_BANS, strict=True))


def _published_levels(known: Container[str]) -> dict[str, str]:
    """level_<n> -> the user who stands for it in published vectors, where there is no level_<n> itself."""
    both = ((level_id(level), user_id) for level, user_id in enumerate(PUBLISHED_LEVELS))
    return {name: user_id for name, user_id in both if name not in known and user_id in known}


def _united(*lists: Bans) -> Bans:
    """All bans that anybody says, in the order of the taxonomy; None where nobody says any list."""
    said = [bans for bans in lists if bans is not None]
    return tuple(category for category in category_names() if any(category in bans for bans in said)) if said else None


def _limits_of(profiles: Sequence[UserProfile]) -> Limits:
    return {profile.user_id: united(profile.limits) for profile in profiles if profile.limits}


def _joined_limits(*groups: Mapping[str, Sequence[Limit]]) -> Limits:
    """Limits of all groups by user id, united for who is in several."""
    ids = dict.fromkeys(user_id for group in groups for user_id in group)
    return {user_id: united(*(group.get(user_id, ()) for group in groups)) for user_id in ids}


def _categories_named(limits: Sequence[Limit]) -> set[str]:
    return {category for limit in limits for category in limit.categories}


def _read_unheld(record: Any, folder: Path) -> dict[str, tuple[str, ...]]:
    """Categories that vectors do not hold, by user id. Raises EmbeddingMissing."""
    if not isinstance(record, dict):
        raise _damaged(folder, "what its vectors do not hold is no list by user id")
    lists = [bans or () for bans in _read_bans(list(record.values()), folder)]
    return dict(zip(_read_ids(list(record), folder), lists, strict=True))


def _read_limits(record: Any, folder: Path) -> Limits:
    """Limits of a folder of vectors by user id. Raises EmbeddingMissing, which repeats no word of a limit."""
    if not isinstance(record, dict) or not all(isinstance(given, list) for given in record.values()):
        raise _damaged(folder, "its limits are no lists by user id")
    try:
        read = [read_limits(given, most=math.inf) for given in record.values()]  # of a person, and of operators
    except LimitError as err:
        raise _damaged(folder, f"a limit cannot be read ({err.args[0].rstrip('.')})") from None
    return dict(zip(_read_ids(list(record), folder), read, strict=True))


def require_free(folder: Path, is_same: Callable[[], bool]) -> None:
    """Raises OutputError where a folder has another store, or files of its names that are something else."""
    there = [folder / name for name in (INDEX, VECTORS) if os.path.lexists(folder / name)]
    if there and not (len(there) == 2 and all(path.is_file() for path in there) and is_same()):
        raise in_the_way(folder, f", with {' and '.join(path.name for path in there)} of another build")


def _mark() -> Record:
    """What files of vectors say of the taxonomy that they are made with; nothing of the default one."""
    mark = current().mark
    return {} if mark is None else {"taxonomy": mark}


def _as_it_is(width: int) -> Space:
    """The space of vectors that are given out as they are."""
    return Space(np.zeros(width, np.float32), np.ones(width, np.float32))


def _features(profile: UserProfile, ban_weight: float, person_weight: float) -> npt.NDArray[np.float64]:
    bans = banned_categories(profile)
    person = [0.0 if profile.age is None else profile.age / 100, float(profile.age is None)]
    for name, words in VOCABULARY.items():
        person += [float(getattr(profile, name) == word) for word in (*words, None)]
    signs = [1.0 if category in bans else -1.0 for category in category_names()]
    return np.concatenate([np.array(signs) * ban_weight, np.array(person) * person_weight])


def _dense(rng: np.random.Generator, rows: int, columns: int) -> npt.NDArray[np.float64]:
    # Uniform with variance 1 / rows; plain uniform draws stay the same over numpy versions.
    weights: npt.NDArray[np.float64] = (rng.random((rows, columns)) * 2 - 1) * np.sqrt(3 / rows)
    return weights


def _read_unchanged(folder: Path, read: Callable[[], T | None]) -> T:
    """What read gives of a folder that nobody changed meanwhile; None from it: the files are not of one build.

    Raises EmbeddingMissing where they stay so, or where the folder changes for longer than LOAD_WAIT_S.
    """
    turns, until = 0, time.monotonic() + LOAD_WAIT_S
    while True:
        before, fault = _stamps(folder), None
        try:
            found = read()
        except EmbeddingMissing as err:
            found, fault = None, err
        if _stamps(folder) != before:
            if time.monotonic() > until:
                raise EmbeddingMissing(
                    f"The user vectors in {folder} are being rewritten all the time; they were never read whole.",
                    hint="Run the same command again once that has ended.",
                )
        elif found is not None:
            return found
        elif fault is not None:
            raise fault
        else:
            turns += 1
            if turns == LOAD_TRIES:
                names = f"{VECTORS} and {INDEX}" if (folder / INDEX).is_file() else f"vectors and {NPY_INDEX}"
                raise _damaged(folder, f"{names} are not of one build, or one of them was changed")
        time.sleep(LOAD_PAUSE_S)


def _stamps(folder: Path) -> list[tuple[str, int, int, int]]:
    """Names the versions of all files of a folder that hold vectors, or say something of them."""
    stamps = []
    for path in [*(folder / name for name in (INDEX, VECTORS, NPY_INDEX)), *_npy_files(folder)]:
        with suppress(OSError):
            about = path.stat()
            stamps.append((path.name, about.st_ino, about.st_mtime_ns, about.st_size))
    return stamps


def _read_store(folder: Path) -> tuple[Record, dict[str, Any]] | None:
    """Index and tensors; None where they are not of one build. Raises EmbeddingMissing where one is damaged."""
    for name in (INDEX, VECTORS):
        if not (folder / name).is_file():
            raise EmbeddingMissing(f"{folder} holds no user vectors ({name} is missing).", hint=_embed_hint(folder))
    wanted = ("recipe", "fingerprint", "user_ids", "banned", "digest")
    index = read_json(folder / INDEX, what="the index of user vectors", needs=wanted, fault=_fault(folder))
    require_taxonomy(index.get("taxonomy"), of=f"the user vectors in {folder}")
    with library_errors(EmbeddingMissing, f"{folder / VECTORS} is damaged", hint=_embed_hint(folder)):
        tensors = load_tensors((folder / VECTORS).read_bytes())
    if not {"vectors", "mean", "std"} <= set(tensors):
        raise _damaged(folder, f"expected vectors, mean, std in {VECTORS}")
    ids, bans = index["user_ids"], index["banned"]
    if (
        not isinstance(ids, list)
        or not isinstance(bans, list)
        or len(ids) != len(bans)
        or len(set(map(str, ids))) < len(ids)
    ):
        raise _damaged(folder, "it has not one ban list for each user")
    return (index, tensors) if index["digest"] == _digest(index, tensors) else None


def _digest(index: Record, tensors: dict[str, Any]) -> str:
    """SHA-256 over all that a store holds: who, what they ban, how the vectors were made, and every number."""
    said = {name: value for name, value in index.items() if name != "digest"}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name in [known for known in ("vectors", "mean", "std", "directions", "readout") if known in tensors]:
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def _fault(folder: Path) -> Any:
    return lambda message: EmbeddingMissing(message, hint=_embed_hint(folder))


def _npy_files(folder: Path) -> list[Path]:
    """Vectors of a folder, without what starts with a dot (._0000033.npy, which a Mac leaves beside)."""
    return sorted(path for path in folder.glob("*.npy") if not path.name.startswith("."))


def _read_ids(names: Sequence[Any], folder: Path) -> list[str]:
    """User ids of a folder of vectors. Raises EmbeddingMissing for one that is none, or two of one user."""
    try:
        ids = [normalise_user_id(name) for name in names]
    except ValueError as err:
        raise _damaged(folder, f"no user id: {err}") from err
    twice = next((user_id for user_id in ids if ids.count(user_id) > 1), None) if len(set(ids)) < len(ids) else None
    if twice is not None:
        raise _damaged(folder, f"user {twice} is there twice")
    return ids


def _read_recipe(record: Any, folder: Path) -> Recipe:
    wrong = wrong_keys(Recipe, record) if isinstance(record, dict) else f"saw {shorten(record)}"
    if wrong:
        raise _damaged(folder, f"no recipe: {wrong}")
    recipe = Recipe(**record)
    if type(recipe.llm_dim) is not int or not isinstance(recipe.backend, str) or not isinstance(recipe.options, dict):
        raise _damaged(folder, f"no recipe: {shorten(record)}")
    return recipe


def _read_bans(lists: Sequence[Any], folder: Path) -> list[Bans]:
    """Ban lists of a folder of vectors; null is "not known". Raises EmbeddingMissing for what is no ban list."""
    for bans in lists:
        if bans is not None and not (isinstance(bans, list) and all(category in category_names() for category in bans)):
            raise _damaged(folder, f"{shorten(bans)} is no ban list; the categories are {', '.join(category_names())}")
    return [None if bans is None else tuple(bans) for bans in lists]


def _npy_digest(
    row: Array, banned: Sequence[str] | None, recipe: Recipe, limits: Any = None, unheld: Any = None
) -> str:
    parts = [row.tobytes().hex(), None if banned is None else list(banned), recipe.fingerprint]
    return fingerprint([*parts, *[limits] * bool(limits), *[unheld] * bool(unheld)])


@dataclass(frozen=True)
class _NpyIndex:
    """What recipe.json says. banned, limits (as records), unheld, digests: by user id."""

    recipe: Recipe
    banned: dict[str, Bans] = field(default_factory=dict)
    limits: Record = field(default_factory=dict)
    unheld: Record = field(default_factory=dict)
    digests: Record = field(default_factory=dict)


def _read_npy_index(folder: Path, width: int) -> _NpyIndex:
    """What is said of the vectors of a folder of .npy; published vectors say nothing."""
    path = folder / NPY_INDEX
    if not path.is_file():
        require_taxonomy(None, of=f"the published user vectors in {folder}")
        return _NpyIndex(Recipe(PUBLISHED_RECIPE, width))
    index = read_json(path, what="what made the vectors", needs=("recipe", "banned"), fault=_fault(folder))
    require_taxonomy(index.get("taxonomy"), of=f"the user vectors in {folder}")
    try:
        recipe, banned = _read_recipe(index["recipe"], folder), dict(index["banned"])
        digests, limits, unheld = (dict(index.get(name, {})) for name in ("digests", "limits", "unheld"))
    except (ValueError, TypeError) as err:
        raise _damaged(folder, f"{NPY_INDEX} does not say what made the vectors ({err})") from err
    if recipe.llm_dim != width:
        raise _damaged(folder, f"vectors of width {width}, and {NPY_INDEX} says {recipe.llm_dim}")
    bans = dict(zip(_read_ids(list(banned), folder), _read_bans(list(banned.values()), folder), strict=True))
    return _NpyIndex(recipe, bans, limits, unheld, digests)


def _read_vectors(paths: Sequence[Path]) -> Array:
    """Published vectors, [U, llm_dim]. Raises EmbeddingMissing for a file that holds no vector, or another width."""
    rows: list[Array] = []
    for path in paths:
        array = read_array(path, fault=EmbeddingMissing, hint=_embed_hint(path.parent))
        if not array.size or array.shape[-1:] != (array.size,):
            seen = list(array.shape)
            raise _damaged(path.parent, f"{path.name} is no vector: expected an array [1, llm_dim], saw {seen}")
        with np.errstate(over="ignore"):  # what is too large for float32 is not finite, and refused below
            row = array.astype(np.float32).reshape(-1)
        if rows and row.shape != rows[0].shape:
            raise _damaged(path.parent, f"{path.name} has {row.size} numbers, {paths[0].name} has {rows[0].size}")
        rows.append(row)
    raw = np.stack(rows)
    _require_finite(raw, user_ids=[path.stem for path in paths])
    return raw


def _require_finite(*arrays: Array, user_ids: Sequence[str]) -> None:
    for array in arrays:
        bad = ~np.isfinite(array)
        if bad.any():
            rows = np.flatnonzero(bad.reshape(len(array), -1).any(axis=1))
            who = f"user {user_ids[rows[0]]}" if len(user_ids) == len(array) else f"row {rows[0]}"
            raise EmbeddingMissing(f"The vector of {who} is not finite ({int(bad.sum())} values), expected numbers.")


def _mismatch(made: Recipe, expected: Recipe) -> str:
    return (
        f"Vectors of recipe {made.fingerprint} ({made.backend}, {made.llm_dim}) cannot be standardised by a store of "
        f"recipe {expected.fingerprint} ({expected.backend}, {expected.llm_dim})."
    )


def _damaged(folder: Path, what: str) -> EmbeddingMissing:
    return EmbeddingMissing(f"The user vectors in {folder} are damaged: {what}.", hint=_embed_hint(folder))


def _embed_hint(folder: Path | None) -> str:
    force = " --force" if folder is not None and folder.is_dir() and any(folder.iterdir()) else ""
    return f"Run: psalign embed --users users.csv --out {folder or 'data/embeddings/users'}{force}"
