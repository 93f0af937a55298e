"""A ControlNet reads the prompt too: what a user bans must not leak in through it.

Place on the path of data: step 5, beside the UNet. A pipeline calls the ControlNet before the UNet and tells it nothing
of the users, so it takes those of the last condition(); the UNet then checks that they were the right ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import GuardError
from .condition import Condition
from .prompt import rewrite

if TYPE_CHECKING:
    from .guard import AttachedAdapter


class ControlNetGuard:
    """A hook on one ControlNet (or on each of several in one): it sees the prompt as the users may see it.

    Kind `published` leaves the prompt alone, so there the ControlNet is given the unconditional prompt instead.
    """

    def __init__(self, controlnet: nn.Module, attached: AttachedAdapter) -> None:
        self._attached = attached
        self._took: Condition | None = None
        nets = getattr(controlnet, "nets", None) or [controlnet]
        self._handles = [net.register_forward_pre_hook(self._enter, with_kwargs=True) for net in nets]

    def took(self, condition: Condition) -> bool:
        """Whether this ControlNet was called for these users since it was last asked."""
        took, self._took = self._took, None
        return took is condition

    def remove(self) -> None:
        for handle in self._handles:
            handle.remove()

    @torch.compiler.disable
    def _enter(
        self, controlnet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        self._took = None
        if self._attached.is_disabled:
            return args, kwargs
        condition = self._attached.latest
        if condition is None:
            raise GuardError(
                "A ControlNet of the adapted UNet was called without users.",
                hint="Pass **psa.condition(users) to the pipeline, or run inside psa.disabled() for the base model.",
            )
        args, kwargs = args[:2], {**kwargs, **dict(zip(["encoder_hidden_states"], args[2:], strict=False))}
        unconditional = self._unconditional_rows(condition, kwargs["encoder_hidden_states"])
        self._took = condition
        if self._attached.adapter.config.kind == "prompt":
            return args, rewrite(self._attached.adapter, condition, kwargs, unconditional)
        return args, _without_prompt(condition, kwargs, unconditional)

    def _unconditional_rows(self, condition: Condition, states: torch.Tensor) -> int:
        rows, users = len(states), len(condition)
        if rows not in (users, 2 * users):
            raise GuardError(
                f"The ControlNet was called with {rows} rows for {users} users of the last condition().",
                hint="Call condition() right before the pipeline it is for, with one user per prompt.",
            )
        return rows - users


def _without_prompt(condition: Condition, kwargs: dict[str, Any], unconditional: int) -> dict[str, Any]:
    """Rows of users are given the unconditional prompt of their call."""
    steered = condition.strength != 0
    if not steered.any():
        return kwargs
    if not unconditional:
        raise GuardError(
            "An adapter of kind 'published' cannot keep a ControlNet from reading what a user bans without guidance.",
            hint="Use guidance_scale > 1 and guess_mode=False, or an adapter of kind 'prompt'.",
        )
    added = kwargs.get("added_cond_kwargs")
    changed = {**kwargs, "encoder_hidden_states": _blank(kwargs["encoder_hidden_states"], steered)}
    if added and "text_embeds" in added:
        changed["added_cond_kwargs"] = {**added, "text_embeds": _blank(added["text_embeds"], steered)}
    return changed


def _blank(states: torch.Tensor, steered: torch.Tensor) -> torch.Tensor:
    empty, prompts = states.chunk(2)
    rows = steered.to(states.device).view(-1, *[1] * (states.ndim - 1))
    return torch.cat([empty, torch.where(rows, empty, prompts)])
