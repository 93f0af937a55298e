"""The users of one call: a vector and a strength for each row, checked.

Place on the path of data: what comes from step 3 into steps 4 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..errors import GuardError, RecipeMismatch
from .adapter import PSAAdapter

Scale = float | Sequence[float] | torch.Tensor


@dataclass(frozen=True, eq=False)
class RowUsers:
    """vectors: [B, llm_dim], zeros for rows with no user. strength: [B], 0 for the base, 1 as trained. On the CPU."""

    vectors: torch.Tensor
    strength: torch.Tensor

    def __len__(self) -> int:
        return len(self.strength)


def check_users(adapter: PSAAdapter, users: Any, *, recipe: str | None, scale: Scale) -> RowUsers:
    """Users of a call, one per prompt.

    users: `EmbeddingStore.batch(user_ids)`, which has vectors and their recipe; or vectors [B, llm_dim] with recipe.
    None in place of a vector is a row with no user.
    Raises RecipeMismatch for vectors of another recipe; GuardError for vectors or scales that are not finite or have
    another shape.
    """
    if recipe is None:
        if not hasattr(users, "vectors") or not hasattr(users, "recipe"):
            raise GuardError(
                f"Expected users with the recipe of their vectors; saw {type(users).__name__} and no recipe.",
                hint="Pass store.batch(user_ids) of an EmbeddingStore, or vectors [B, llm_dim] and recipe=.",
            )
        users, recipe = users.vectors, users.recipe
    if recipe != adapter.config.recipe:
        raise RecipeMismatch(
            f"These user vectors were made by recipe {recipe}; the adapter was trained with {adapter.config.recipe}.",
            hint="Run: psalign embed --users users.csv --like <the vectors the adapter was trained with>",
        )
    rows = list(users)
    if not rows:
        raise GuardError("No users: expected one row per prompt.")
    vectors = torch.stack([_vector(number, row, adapter.llm_dim) for number, row in enumerate(rows)])
    is_present = torch.tensor([row is not None for row in rows])
    strength = torch.as_tensor(scale, dtype=torch.float32).detach().cpu()
    if strength.shape not in ((), (1,), (len(rows),)):
        raise GuardError(
            f"scale must be one number or one per user; saw {tuple(strength.shape)} for {len(rows)} users."
        )
    if not torch.isfinite(strength).all() or (strength < 0).any():
        raise GuardError(f"scale must be finite and at least 0; saw {strength.tolist()}.")
    return RowUsers(vectors, strength * is_present)


def _vector(number: int, row: Any, width: int) -> torch.Tensor:
    if row is None:
        return torch.zeros(width)
    vector = torch.as_tensor(row).detach().cpu().float()
    if vector.shape != (width,):
        raise GuardError(f"User vector {number} has shape {tuple(vector.shape)}; this adapter takes ({width},).")
    if not torch.isfinite(vector).all():
        raise GuardError(f"User vector {number} is not finite.", hint="Embed this user again.")
    return vector
