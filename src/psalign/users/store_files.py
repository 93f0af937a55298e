"""What folders of user vectors hold, and how they are written. Step 3 of the path of data.

Ours hold vectors.safetensors and index.json. Published ones hold <user id>.npy of [1, llm_dim] each; where we
wrote them, recipe.json beside them says what made them. Files of ours have digests: a vector, a ban or a
limit that was changed afterwards is not read.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save as save_tensors

from ..categories import taxonomy_mark
from ..errors import EmbeddingMissing
from ..files import Record, in_the_way, write_together
from ..fingerprints import fingerprint
from ..records import PUBLISHED_RECIPE
from .limits import Limit, limit_records
from .policy import Bans
from .space import Space
from .vectors import Array, Recipe

VECTORS, INDEX = "vectors.safetensors", "index.json"
NPY_INDEX = "recipe.json"  # beside <user id>.npy of ours
UNFINISHED = "unfinished"  # folder of an embed that is on its way
STORE_FORMAT = 2  # 2: with a digest over everything
TENSORS = ("vectors", "mean", "std", "directions", "readout")


@dataclass(frozen=True)
class Contents:
    """What a folder of user vectors holds.

    raw: vectors [U, llm_dim] of the users of `banned`, in its order. banned: what each bans.
    limits: in words, by user id. unheld: categories by user id that limits ban and the vector lacks.
    """

    raw: Array
    banned: Mapping[str, Bans]
    recipe: Recipe
    space: Space
    limits: Mapping[str, Sequence[Limit]] = field(default_factory=dict)
    unheld: Mapping[str, Sequence[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Drops empty limits and those of strangers.

        Raises EmbeddingMissing for a vector that is not finite.
        """
        for name in ("limits", "unheld"):
            by_user: Mapping[str, Sequence[Any]] = getattr(self, name)
            kept = {who: tuple(given) for who, given in by_user.items() if given and who in self.banned}
            object.__setattr__(self, name, kept)
        require_finite(self.raw, *self.space.tensors.values(), user_ids=tuple(self.banned))

    @property
    def fingerprint(self) -> str:
        """Names the space of the vectors given out: the recipe and the population that standardises it."""
        if self.recipe.backend == PUBLISHED_RECIPE:
            return PUBLISHED_RECIPE
        return self.space.fingerprint_with(self.recipe.fingerprint)

    def limits_record(self) -> Record:
        """What files say about limits: nothing where nobody has any."""
        given = {user_id: limit_records(self.limits[user_id]) for user_id in self.banned if user_id in self.limits}
        unheld = {user_id: list(categories) for user_id, categories in self.unheld.items()}
        return {name: record for name, record in (("limits", given), ("unheld", unheld)) if record}


def write_store(folder: Path, held: Contents, *, replace: bool) -> None:
    """Write vectors.safetensors and index.json, readable by their owner only.

    replace: whether another store that is there may go. Raises OutputError where it may not.
    """
    index = {
        "format": STORE_FORMAT,
        "fingerprint": held.fingerprint,
        "recipe": asdict(held.recipe),
        "user_ids": list(held.banned),
        "banned": _ban_lists(held.banned.values()),
        **held.limits_record(),
        **taxonomy_mark(),
    }
    tensors = {"vectors": held.raw, **held.space.tensors}
    text = json.dumps({**index, "digest": digest_of(index, tensors)}, indent=2) + "\n"
    contents = {folder / VECTORS: save_tensors(tensors), folder / INDEX: text.encode()}
    if not replace:
        require_free(folder, lambda: all(path.read_bytes() == content for path, content in contents.items()))
    write_together(contents, private=True)


def write_npy(folder: Path, held: Contents, *, replace: bool) -> None:
    """Write <user id>.npy of [1, llm_dim] each and recipe.json, with a digest of each user; private files.

    replace: whether other vectors of these users may go. Raises OutputError where they may not.
    """
    bans, limits = dict(zip(held.banned, _ban_lists(held.banned.values()), strict=True)), held.limits_record()
    parts = [limits.get(name, {}) for name in ("limits", "unheld")]
    rows = dict(zip(held.banned, held.raw, strict=True))
    digests = {
        user_id: npy_digest(row, bans[user_id], held.recipe, *(part.get(user_id) for part in parts))
        for user_id, row in rows.items()
    }
    about = {"recipe": asdict(held.recipe), "banned": bans, **limits, "digests": digests, **taxonomy_mark()}
    contents = {folder / NPY_INDEX: (json.dumps(about, indent=2) + "\n").encode()}
    for user_id, row in rows.items():
        stream = io.BytesIO()
        np.save(stream, row[None], allow_pickle=False)
        contents[folder / f"{user_id}.npy"] = stream.getvalue()
    write_together(contents, private=True, replace=replace)


def require_free(folder: Path, is_same: Callable[[], bool]) -> None:
    """Raises OutputError where a folder has another store, or files of its names that are something else."""
    there = [folder / name for name in (INDEX, VECTORS) if os.path.lexists(folder / name)]
    if there and not (len(there) == 2 and all(path.is_file() for path in there) and is_same()):
        raise in_the_way(folder, f", with {' and '.join(path.name for path in there)} of another build")


def _ban_lists(lists: Iterable[Bans]) -> list[list[str] | None]:
    return [None if bans is None else list(bans) for bans in lists]


def digest_of(index: Record, tensors: Mapping[str, Any]) -> str:
    """SHA-256 over all that a store holds: who, what they ban, how the vectors were made, and every number."""
    said = {name: value for name, value in index.items() if name != "digest"}
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name in [known for known in TENSORS if known in tensors]:
        array = np.ascontiguousarray(tensors[name])
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(array.tobytes())
    return digest.hexdigest()


def npy_digest(row: Array, banned: Sequence[str] | None, recipe: Recipe, limits: Any, unheld: Any) -> str:
    parts = [row.tobytes().hex(), None if banned is None else list(banned), recipe.fingerprint]
    return fingerprint([*parts, *[limits] * bool(limits), *[unheld] * bool(unheld)])


def embed_hint(folder: Path | None) -> str:
    """The command that makes the vectors of a folder."""
    force = " --force" if folder is not None and folder.is_dir() and any(folder.iterdir()) else ""
    return f"Run: psalign embed --users users.csv --out {folder or 'data/embeddings/users'}{force}"


def require_vectors(raw: Array, *, user_ids: Sequence[str], hint: str | None = None) -> None:
    """Raises EmbeddingMissing for a raw vector that is not finite or all zeros: of zeros an adapter makes the base.

    raw: [U, llm_dim], of these users.
    """
    require_finite(raw, user_ids=user_ids)
    empty = [user_id for user_id, row in zip(user_ids, raw, strict=True) if not row.any()]
    if empty:
        raise EmbeddingMissing(
            f"The vectors of {len(empty)} of {len(raw)} users are all zeros, which says nothing of a person: "
            f"{', '.join(empty[:5])}.",
            hint=hint,
        )


def require_finite(*arrays: Array, user_ids: Sequence[str]) -> None:
    """Raises EmbeddingMissing for a number that is not finite.

    user_ids: ids of the users of an array that has a row for each of them.
    """
    for array in arrays:
        bad = ~np.isfinite(array)
        if bad.any():
            rows = np.flatnonzero(bad.reshape(len(array), -1).any(axis=1))
            who = f"user {user_ids[rows[0]]}" if len(user_ids) == len(array) else f"row {rows[0]}"
            raise EmbeddingMissing(f"The vector of {who} is not finite ({int(bad.sum())} values), expected numbers.")
