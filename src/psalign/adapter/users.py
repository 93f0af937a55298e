"""Whom the rows of one call are for: user vectors and the strength of each row, checked.

Place on the path of data: what comes from step 3 into steps 4 and 5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch

from ..errors import GuardError, RecipeMismatch


class Users(Protocol):
    """Users of the rows of one call, as psalign.users.EmbeddingStore.batch gives them."""

    @property
    def vectors(self) -> Sequence[Any]: ...

    @property
    def recipe(self) -> str: ...


@dataclass(frozen=True, eq=False)
class RowUsers:
    """vectors: [B, llm_dim], zeros for rows with no user. strength: [B], 0 for the base, 1 as trained. On the CPU."""

    vectors: torch.Tensor
    strength: torch.Tensor

    def __len__(self) -> int:
        return len(self.strength)


def check_users(
    users: Users | torch.Tensor | Sequence[Any],
    *,
    width: int,
    trained_recipe: str,
    recipe: str | None,
    scale: float | Sequence[float] | torch.Tensor,
) -> RowUsers:
    """Users, recipe and scale of a call, one row per prompt. width: llm_dim of the adapter.

    Raises RecipeMismatch for vectors of another recipe; GuardError for vectors or scales that are not finite or have
    another shape.
    """
    rows, made_by = _unpack(users, recipe)
    if made_by != trained_recipe:
        raise RecipeMismatch(
            f"These user vectors were made by recipe {made_by}; the adapter was trained with {trained_recipe}.",
            hint="Run: psalign embed --users users.csv --like <the vectors the adapter was trained with>",
        )
    vectors, present = _stack(list(rows), width)
    return RowUsers(vectors, _scales(scale, len(vectors)) * present)


def _unpack(users: Any, recipe: str | None) -> tuple[Sequence[Any], str]:
    if recipe is not None:
        return users, recipe
    if not hasattr(users, "vectors") or not hasattr(users, "recipe"):
        raise GuardError(
            f"Expected users with the recipe of their vectors; saw {type(users).__name__} and no recipe.",
            hint="Pass store.batch(user_ids) of an EmbeddingStore, or vectors [B, llm_dim] and recipe=.",
        )
    return users.vectors, users.recipe


def _stack(rows: list[Any], width: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Vectors [B, llm_dim] with zeros for nobody, and who is there [B]."""
    if not rows:
        raise GuardError("No users: expected one row per prompt.")
    present = torch.tensor([row is not None for row in rows], dtype=torch.bool)
    filled = [torch.zeros(width) if row is None else torch.as_tensor(row).detach().cpu().float() for row in rows]
    for number, row in enumerate(filled):
        if row.shape != (width,):
            raise GuardError(f"User vector {number} has shape {tuple(row.shape)}; this adapter takes ({width},).")
        if not torch.isfinite(row).all():
            raise GuardError(f"User vector {number} is not finite.", hint="Embed this user again.")
    return torch.stack(filled), present


def _scales(scale: float | Sequence[float] | torch.Tensor, rows: int) -> torch.Tensor:
    strength = torch.as_tensor(scale, dtype=torch.float32).detach().cpu()
    if strength.shape not in ((), (1,), (rows,)):
        raise GuardError(f"scale must be one number or one per user; saw {tuple(strength.shape)} for {rows} users.")
    if not torch.isfinite(strength).all() or (strength < 0).any():
        raise GuardError(f"scale must be finite and at least 0; saw {strength.tolist()}.")
    return strength.expand(rows).clone()
