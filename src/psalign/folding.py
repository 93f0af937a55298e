"""What needs an adapter and user vectors together: folding them into each other, and compressing for a
population.

Place on the path of data: between steps 3 and 4, for adapters on disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from .adapter.checkpoint import adapter_fingerprint, load_adapter, require_replaceable, save_adapter
from .adapter.compress import compress, fold
from .adapter.convert import fold_standardisation, require_published_form
from .errors import OutputError, RecipeMismatch, UsageError
from .records import PUBLISHED_RECIPE
from .users.space import STD_FLOOR
from .users.store import EmbeddingStore

if TYPE_CHECKING:
    from .adapter.compress import Compression

FOLDED = "folded"  # the backend of the vectors that a folded adapter reads


@dataclass(frozen=True)
class Folded:
    """What fold_users wrote. bytes_per_user: size of a folded vector in float32."""

    users: int
    bytes_per_user: int
    adapter: Path
    vectors: Path


def fold_users(place: Path, embeddings: Path, out: Path) -> Folded:
    """Compute what a published adapter adds for each user, exactly, and write a folded adapter and its
    vectors.

    Raises RecipeMismatch for vectors of another recipe than the adapter's, OutputError where others would be
    replaced.
    """
    adapter, users = load_adapter(place), EmbeddingStore.load(embeddings)
    require_trained_with(adapter, users, embeddings)
    written = Folded(len(users), 0, out / "adapter", out / "embeddings")
    if written.vectors.exists() and EmbeddingStore.load(written.vectors).recipe.backend != FOLDED:
        raise OutputError(
            f"{written.vectors} holds vectors that are not folded ones; they are left alone.",
            hint="Choose another --out.",
        )
    require_replaceable(written.adapter)
    options = {"adapter": adapter_fingerprint(place), "recipe": users.fingerprint}
    folded, vectors = fold(adapter, torch.from_numpy(users.vectors(users.user_ids)), recipe=FOLDED)
    store = users.replaced(vectors.numpy(), FOLDED, options=options)
    folded.register_to_config(recipe=store.fingerprint)
    save_adapter(folded, written.adapter)
    store.save(written.vectors)
    return Folded(len(users), 4 * vectors.shape[1], written.adapter, written.vectors)


def compress_for(adapter: Any, embeddings: Path, *, rank: int) -> Compression:
    """A published adapter without its dead keys, factorised for the users of a folder of vectors."""
    users = EmbeddingStore.load(embeddings)
    return compress(adapter, torch.from_numpy(users.vectors(users.user_ids)), rank=rank)


def fold_statistics(adapter: Any, embeddings: Path | None, *, dtype: str) -> str | None:
    """Put the mean and the spread of an adapter's vectors into its projection, so that it reads raw vectors.

    Published files know neither: an adapter that was trained on standardised vectors would read raw ones as
    if they were standardised. embeddings: the vectors that it was trained with.
    dtype: number type that it will be written in. Returns the recipe of the raw vectors; None
    where the adapter reads raw ones already.
    Raises UsageError where vectors are missing or cannot be folded in, RecipeMismatch for those of another
    recipe.
    """
    require_published_form(adapter)
    recipe = adapter.config.recipe
    if recipe == PUBLISHED_RECIPE:
        return None
    if embeddings is None:
        raise UsageError(
            f"This adapter was trained with standardised vectors (recipe {recipe}); the published form reads raw ones.",
            hint="Give --embeddings, the vectors it was trained with: their mean and spread go into the projection.",
        )
    if dtype != "fp32":
        raise UsageError("A projection of raw vectors needs --dtype fp32: their differences are small.")
    store = EmbeddingStore.load(embeddings)
    require_trained_with(adapter, store, embeddings)
    if store.width != store.recipe.llm_dim or store.code_width:
        raise UsageError(
            "The published form reads raw vectors; whitened ones, or a ban code behind them, do not fold into it.",
            hint="Train the adapter with vectors of psalign embed --whitened 0 --no-exact.",
        )
    raw = store.raw().fingerprint
    std = torch.from_numpy(store.space.std).clamp(min=STD_FLOOR)
    fold_standardisation(adapter, torch.from_numpy(store.space.mean), std, recipe=raw)
    return raw


def require_trained_with(adapter: Any, users: EmbeddingStore, place: Path) -> None:
    """Raises RecipeMismatch for vectors of another recipe than the adapter's."""
    if users.fingerprint != adapter.config.recipe:
        raise RecipeMismatch(
            f"The vectors of {place} were made by recipe {users.fingerprint}; "
            f"the adapter was trained with {adapter.config.recipe}."
        )
