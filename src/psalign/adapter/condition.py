"""Who the rows of one pipeline call are for, and how that travels to the UNet.

Place on the path of data: what goes from step 3 into steps 4 and 5, in `cross_attention_kwargs`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import torch

from ..errors import GuardError, RecipeMismatch

T = TypeVar("T")

KEY = "psa"  # in cross_attention_kwargs


class Users(Protocol):
    """Users of the rows of one call, as psalign.users.EmbeddingStore.batch gives them."""

    @property
    def vectors(self) -> Sequence[Any]: ...

    @property
    def recipe(self) -> str: ...


@dataclass(eq=False)
class Condition:
    """vectors: [B, llm_dim]; present: [B], False for rows with no user; scale: [B]; one row per picture, on the CPU.

    owner: the attached adapter it was made for. guided: True or False where the caller said whether the UNet sees
    unconditional rows first; None: told by the batch.
    """

    vectors: torch.Tensor
    present: torch.Tensor
    scale: torch.Tensor
    owner: object = None
    guided: bool | None = None
    _matched: tuple[torch.Tensor, bool] | None = field(default=None, repr=False)
    _known: dict[str, tuple[torch.Tensor, Any]] = field(default_factory=dict, repr=False)

    def __len__(self) -> int:
        return len(self.present)

    @property
    def strength(self) -> torch.Tensor:
        """scale, and 0 for rows with no user: [B]."""
        return self.scale * self.present

    def remember(self, name: str, states: torch.Tensor, make: Callable[[], T]) -> T:
        """What make() gives, computed once for these states (the same object at every step of a call).

        Where gradients are asked for it is made anew: a graph can be walked only once.
        """
        if torch.is_grad_enabled():
            return make()
        known = self._known.get(name)
        if known is None or known[0] is not states:
            known = self._known[name] = (states, make())
        made: T = known[1]
        return made

    def unconditional_rows(self, sample: torch.Tensor, states: torch.Tensor) -> int:
        """How many unconditional rows come first in a batch of the UNet: none, or as many as there are users.

        sample: [rows, ...]; states: [rows, T, D], the same object at every step of a call.
        Raises GuardError where the rows cannot be these users', or where that cannot be told.
        """
        users, rows = len(self), sample.shape[0]
        if self._matched is not None and self._matched[0] is states and rows == (1 + self._matched[1]) * users:
            return users * self._matched[1]
        guided = self._is_guided(sample, states)
        self._matched = (states, guided)
        return users * guided

    def _is_guided(self, sample: torch.Tensor, states: torch.Tensor) -> bool:
        users, rows = len(self), sample.shape[0]
        if rows == 2 * users and self.guided is not False:
            if self.guided is None and not torch.equal(*sample.chunk(2)):
                raise GuardError(
                    f"{rows} different rows for {users} users: half of them would have no user.",
                    hint="Give one user per prompt, and images_per_prompt= what the pipeline is given.",
                )
            return True
        if rows == users and self._was_guided_with(states):
            return False  # guidance was cut off part-way: these are the conditional rows of before
        if rows != users or self.guided is True:
            raise GuardError(
                f"The UNet was called with {rows} rows for {users} users; "
                f"expected {users}, or {2 * users} with guidance.",
                hint="Give one user per prompt, and images_per_prompt= what the pipeline is given.",
            )
        if self.guided is None and rows % 2 == 0 and torch.equal(*sample.chunk(2)):
            raise GuardError(
                f"{rows} users, and the UNet's {rows} rows come in two equal halves: this looks like guidance over "
                f"{rows // 2} prompts.",
                hint="Give one user per prompt; if this is a call without guidance, pass guided=False to condition().",
            )
        return False

    def _was_guided_with(self, states: torch.Tensor) -> bool:
        if self._matched is None or not self._matched[1]:
            return False
        conditional = self._matched[0][len(self) :]
        return conditional.shape == states.shape and torch.equal(conditional, states)


class CrossAttentionKwargs(dict[str, Any]):
    """cross_attention_kwargs that only a UNet with an adapter can take.

    diffusers ignores keys that it does not know, so a UNet that was reloaded, replaced or never adapted would draw
    without the user's limits. The first thing that a UNet does with this dict is to copy it; there it raises.
    """

    def copy(self) -> dict[str, Any]:
        raise GuardError(
            "These users' limits reached a UNet that has no adapter: it was replaced, reloaded or unloaded.",
            hint="Call psalign.load_psa_adapter(pipe, ...) for the pipeline that draws, and condition() of what it "
            "returns.",
        )


def make_condition(
    users: Users | torch.Tensor | Sequence[Any],
    *,
    width: int,
    trained_recipe: str,
    recipe: str | None,
    scale: float | Sequence[float] | torch.Tensor,
    images_per_prompt: int,
    guided: bool | None,
    owner: object,
) -> Condition:
    """Check users, recipe and scale, and lay them out one row per picture. width: llm_dim of the adapter.

    Raises GuardError or RecipeMismatch; see AttachedAdapter.condition.
    """
    rows, made_by = _unpack(users, recipe)
    if made_by != trained_recipe:
        raise RecipeMismatch(
            f"These user vectors were made by recipe {made_by}; the adapter was trained with {trained_recipe}.",
            hint="Run: psalign embed --users users.csv --like <the vectors the adapter was trained with>",
        )
    filled, present = _stack(list(rows), width)
    if images_per_prompt < 1:
        raise GuardError(f"images_per_prompt must be at least 1; saw {images_per_prompt}.")
    strength = _scales(scale, len(filled))
    vectors, present, strength = (t.repeat_interleave(images_per_prompt, 0) for t in (filled, present, strength))
    return Condition(vectors, present, strength, owner=owner, guided=guided)


def _unpack(users: Any, recipe: str | None) -> tuple[Sequence[Any], str]:
    if recipe is not None:
        return users, recipe
    if not hasattr(users, "vectors") or not hasattr(users, "recipe"):
        raise GuardError(
            f"condition() takes users with the recipe of their vectors; saw {type(users).__name__} and no recipe.",
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
