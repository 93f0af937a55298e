"""Reads folders of user vectors, whole or not at all.

Step 3 of the path of data; store_files.py has the layouts.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from safetensors.numpy import load as load_tensors

from ..categories import category_names, require_taxonomy
from ..errors import EmbeddingMissing, LimitError, RecipeMismatch, library_errors
from ..files import Record, read_json
from ..ids import level_id, normalise_user_id, shorten
from ..records import PUBLISHED_RECIPE, wrong_keys
from ..tensors import read_array
from .levels import PUBLISHED_USERS, level_bans
from .limits import Limit, read_limits
from .policy import Bans, united_bans
from .space import Space
from .store_files import INDEX, NPY_INDEX, VECTORS, Contents, digest_of, embed_hint, npy_digest, require_vectors
from .vectors import Array, Recipe

LOAD_TRIES, LOAD_PAUSE_S = 4, 0.1  # a store that is being replaced is whole a moment later
LOAD_WAIT_S = 10.0  # for a folder that changes whenever it is read

T = TypeVar("T")


def read_folder(folder: Path, said: Mapping[str, Bans]) -> Contents:
    """What a folder of either layout holds.

    said: bans by user id that somebody says of users of the published layout; they add to those that are
    known.
    Raises EmbeddingMissing where there is nothing or a file is damaged, RecipeMismatch where vectors and
    index are not of one build.
    """
    reader = _Reader(folder)
    if (folder / INDEX).is_file() or not _npy_files(folder):
        return _read_unchanged(folder, reader.read_store)
    found = _read_unchanged(folder, reader.read_npy)
    levels = {level_id(level): bans for level, bans in enumerate(level_bans())}
    known = {**levels, **PUBLISHED_USERS} if found.recipe.backend == PUBLISHED_RECIPE else levels
    banned = {who: united_bans(known.get(who), bans, said.get(who)) for who, bans in found.banned.items()}
    return replace(found, banned=banned)


class _Reader:
    """Reads one folder. Every error names it, and says how to make it anew."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.hint = folder, embed_hint(folder)

    def read_store(self) -> Contents | None:
        """A folder with an index; None where its two files are not of one build."""
        index = self._index(INDEX, "the index of user vectors", "recipe", "fingerprint", "user_ids", "banned", "digest")
        with library_errors(EmbeddingMissing, f"{self.folder / VECTORS} is damaged", hint=self.hint):
            tensors = load_tensors((self.folder / VECTORS).read_bytes())
        if not {"vectors", "mean", "std"} <= set(tensors):
            raise self.damaged(f"expected vectors, mean, std in {VECTORS}")
        ids, bans = index["user_ids"], index["banned"]
        both_lists = isinstance(ids, list) and isinstance(bans, list)
        if not both_lists or len(ids) != len(bans) or len(set(map(str, ids))) < len(ids):
            raise self.damaged("it has not one ban list for each user")
        if index["digest"] != digest_of(index, tensors):
            return None
        recipe, raw, space = self._recipe(index["recipe"]), tensors["vectors"], Space.from_tensors(tensors)
        banned = dict(zip(self._ids(ids), self._bans(bans), strict=True))
        if raw.shape != (len(banned), recipe.llm_dim) or not space.fits(recipe.llm_dim):
            raise self.damaged(f"vectors {raw.shape} for {len(banned)} users of width {recipe.llm_dim}")
        found = Contents(raw, banned, recipe, space, self._limits(index), self._unheld(index))
        if index["fingerprint"] != found.fingerprint:
            raise RecipeMismatch(
                f"{self.folder}: {VECTORS} has fingerprint {found.fingerprint}, {INDEX} expects "
                f"{index['fingerprint']}.",
                hint=self.hint,
            )
        return found

    def read_npy(self) -> Contents | None:
        """A folder of a file a user; None where vectors and recipe.json are not of one build.

        Published vectors have no recipe.json: nobody's bans are known.
        """
        paths = _npy_files(self.folder)
        ids, raw = self._ids([path.stem for path in paths]), self._vectors(paths)
        if (self.folder / NPY_INDEX).is_file():
            index = self._index(NPY_INDEX, "what made the vectors", "recipe", "banned")
        else:
            require_taxonomy(None, of=f"the published user vectors in {self.folder}")
            index = {"recipe": asdict(Recipe(PUBLISHED_RECIPE, raw.shape[1])), "banned": {}}
        by_user = [index["banned"], *(index.get(name, {}) for name in ("limits", "unheld", "digests"))]
        if not all(isinstance(one, dict) for one in by_user):
            raise self.damaged(f"{NPY_INDEX} does not say what made the vectors")
        kept, limits, unheld, digests = by_user
        recipe = self._recipe(index["recipe"])
        if recipe.llm_dim != raw.shape[1]:
            raise self.damaged(f"vectors of width {raw.shape[1]}, and {NPY_INDEX} says {recipe.llm_dim}")
        banned = dict(zip(self._ids(list(kept)), self._bans(list(kept.values())), strict=True))
        for user_id, row in zip(ids, raw, strict=True):
            digest = npy_digest(row, banned.get(user_id), recipe, limits.get(user_id), unheld.get(user_id))
            if digests.get(user_id, digest) != digest:
                return None
        known = {user_id: banned.get(user_id) for user_id in ids}
        return Contents(raw, known, recipe, Space.as_it_is(raw.shape[1]), self._limits(index), self._unheld(index))

    def damaged(self, what: str) -> EmbeddingMissing:
        return EmbeddingMissing(f"The user vectors in {self.folder} are damaged: {what}.", hint=self.hint)

    def _index(self, name: str, what: str, *needs: str) -> Record:
        for one in (INDEX, VECTORS) if name == INDEX else ():
            if not (self.folder / one).is_file():
                raise EmbeddingMissing(f"{self.folder} holds no user vectors ({one} is missing).", hint=self.hint)
        index = read_json(
            self.folder / name, what=what, needs=needs, fault=lambda why: EmbeddingMissing(why, hint=self.hint)
        )
        require_taxonomy(index.get("taxonomy"), of=f"the user vectors in {self.folder}")
        return index

    def _ids(self, names: Sequence[Any]) -> list[str]:
        try:
            ids = [normalise_user_id(name) for name in names]
        except ValueError as err:
            raise self.damaged(f"no user id: {err}") from err
        if len(set(ids)) < len(ids):
            raise self.damaged(f"user {next(one for one in ids if ids.count(one) > 1)} is there twice")
        return ids

    def _recipe(self, record: Any) -> Recipe:
        wrong = wrong_keys(Recipe, record) if isinstance(record, dict) else f"saw {shorten(record)}"
        if wrong:
            raise self.damaged(f"no recipe: {wrong}")
        recipe = Recipe(**record)
        kinds = (type(recipe.llm_dim) is int, isinstance(recipe.backend, str), isinstance(recipe.options, dict))
        if not all(kinds):
            raise self.damaged(f"no recipe: {shorten(record)}")
        return recipe

    def _bans(self, lists: Sequence[Any]) -> list[Bans]:
        """Ban lists; null is "not known"."""
        for bans in lists:
            if bans is not None and not (isinstance(bans, list) and all(name in category_names() for name in bans)):
                raise self.damaged(f"{shorten(bans)} is no ban list; the categories are {', '.join(category_names())}")
        return [None if bans is None else tuple(bans) for bans in lists]

    def _limits(self, index: Record) -> dict[str, tuple[Limit, ...]]:
        """Limits by user id. An error repeats no word of a limit."""
        record = index.get("limits", {})
        if not isinstance(record, dict) or not all(isinstance(given, list) for given in record.values()):
            raise self.damaged("its limits are no lists by user id")
        try:
            read = [read_limits(given, most=math.inf) for given in record.values()]  # of a person, and of operators
        except LimitError as err:
            raise self.damaged(f"a limit cannot be read ({err.args[0].rstrip('.')})") from None
        return dict(zip(self._ids(list(record)), read, strict=True))

    def _unheld(self, index: Record) -> dict[str, tuple[str, ...]]:
        record = index.get("unheld", {})
        if not isinstance(record, dict):
            raise self.damaged("what its vectors do not hold is no list by user id")
        lists = [bans or () for bans in self._bans(list(record.values()))]
        return dict(zip(self._ids(list(record)), lists, strict=True))

    def _vectors(self, paths: Sequence[Path]) -> Array:
        """Published vectors, [U, llm_dim]."""
        rows: list[Array] = []
        for path in paths:
            array = read_array(path, fault=EmbeddingMissing, hint=self.hint)
            if not array.size or array.shape[-1:] != (array.size,):
                seen = list(array.shape)
                raise self.damaged(f"{path.name} is no vector: expected an array [1, llm_dim], saw {seen}")
            with np.errstate(over="ignore"):  # what is too large for float32 is not finite, and refused below
                row = array.astype(np.float32).reshape(-1)
            if rows and row.shape != rows[0].shape:
                raise self.damaged(f"{path.name} has {row.size} numbers, {paths[0].name} has {rows[0].size}")
            rows.append(row)
        raw = np.stack(rows)
        require_vectors(raw, user_ids=[path.stem for path in paths], hint=self.hint)
        return raw


def _read_unchanged(folder: Path, read: Callable[[], T | None]) -> T:
    """What `read` returns for a folder that nobody changes meanwhile; None: its files do not match.

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
                raise _Reader(folder).damaged(f"{names} are not of one build, or one of them was changed")
        time.sleep(LOAD_PAUSE_S)


def _stamps(folder: Path) -> list[tuple[str, int, int, int]]:
    """The versions of all files of a folder that hold vectors, or say something about them."""
    stamps = []
    for path in [*(folder / name for name in (INDEX, VECTORS, NPY_INDEX)), *_npy_files(folder)]:
        with suppress(OSError):
            about = path.stat()
            stamps.append((path.name, about.st_ino, about.st_mtime_ns, about.st_size))
    return stamps


def _npy_files(folder: Path) -> list[Path]:
    """Vectors of a folder, without names that start with a dot (._0000033.npy, which a Mac writes)."""
    return sorted(path for path in folder.glob("*.npy") if not path.name.startswith("."))
