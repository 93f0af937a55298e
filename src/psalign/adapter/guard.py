"""Joins an adapter to a UNet: one forward pre-hook is both the adapter's entrance and its guard.

Place on the path of data: between steps 4 and 5. It fails closed: once attached, the UNet refuses to run without users,
with a batch that does not match them, or with vectors that are not finite or come from another recipe.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import GuardError, RecipeMismatch
from .adapter import PSAAdapter, cross_attention_widths, cross_attentions
from .published import UserAttention, attend, fold

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import Attention

KEY = "psa"  # in cross_attention_kwargs


@dataclass
class Condition:
    """Who the rows of one call are for. vectors: [B, llm_dim]; present: [B], False for rows with no user; scale: [B].

    owner: the attached adapter it was made for. guided: True or False where the caller said whether the UNet sees
    unconditional rows first; None: told by the batch.
    """

    vectors: torch.Tensor
    present: torch.Tensor
    scale: torch.Tensor
    owner: AttachedAdapter | None = None
    guided: bool | None = None
    _rewritten: dict[str, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict, repr=False)
    _published: tuple[int, Steering] | None = field(default=None, repr=False)


@dataclass
class Steering:
    """What the published hooks add in one call.

    folded: per-layer terms [B, 1, C] where N = 1; else user tokens [B, N, D] are attended to. strength: [B, 1, 1].
    """

    tokens: torch.Tensor
    strength: torch.Tensor
    folded: list[torch.Tensor] | None


class AttachedAdapter:
    """An adapter on a UNet.

    `condition(...)` makes what the pipeline call needs; `disabled()` gives the base; `unload()` leaves.
    """

    def __init__(self, unet: UNet2DConditionModel, adapter: PSAAdapter) -> None:
        check_fit(unet, adapter)
        self.unet, self.adapter = unet, adapter
        self._disabled = False
        self._steering: Steering | None = None
        self._steered = 0  # cross-attentions that took the user term in this call
        self._queries: list[torch.Tensor | None] = []
        self._handles = [unet.register_forward_pre_hook(self._enter, with_kwargs=True)]
        if adapter.config.kind == "published":
            self._hook_attentions()
        unet._psa_attached = self

    def condition(
        self,
        vectors: torch.Tensor | Sequence[torch.Tensor | None],
        *,
        recipe: str,
        scale: float | Sequence[float] | torch.Tensor = 1.0,
        images_per_prompt: int = 1,
        guided: bool | None = None,
    ) -> dict[str, Any]:
        """Keyword arguments for the pipeline: one row per prompt, None for a prompt with no user.

        recipe: fingerprint of how the vectors were made. scale: one for all or one per row; 0 is the base.
        guided: say True or False where the UNet cannot tell guidance from the batch (see GuardError).
        Raises GuardError for vectors or scales that are not finite or of another width, RecipeMismatch for another
        recipe.
        """
        trained = self.adapter.config.recipe
        if recipe != trained:
            raise RecipeMismatch(
                f"These user vectors were made by recipe {recipe}; the adapter was trained with {trained}.",
                hint="Run: psalign embed --users users.csv --like <the vectors the adapter was trained with>",
            )
        rows = list(vectors)
        present = torch.tensor([row is not None for row in rows], dtype=torch.bool)
        width = self.adapter.config.llm_dim
        filled = [torch.zeros(width) if row is None else torch.as_tensor(row).detach().cpu().float() for row in rows]
        for number, row in enumerate(filled):
            if row.shape != (width,):
                raise GuardError(f"User vector {number} has shape {tuple(row.shape)}; this adapter takes ({width},).")
            if not torch.isfinite(row).all():
                raise GuardError(f"User vector {number} is not finite.", hint="Embed this user again.")
        strength = torch.as_tensor(scale, dtype=torch.float32).expand(len(rows)).clone()
        if not torch.isfinite(strength).all() or (strength < 0).any():
            raise GuardError(f"scale must be finite and at least 0; saw {strength.tolist()}.")
        if not rows:
            raise GuardError("No users: expected one row per prompt.")
        stacked, present, strength = (
            t.repeat_interleave(images_per_prompt, 0) for t in (torch.stack(filled), present, strength)
        )
        return {"cross_attention_kwargs": {KEY: Condition(stacked, present, strength, owner=self, guided=guided)}}

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within it the UNet is the base model, on purpose."""
        if self._disabled:
            raise GuardError("The adapter is disabled already.")
        self._disabled = True
        try:
            yield
        finally:
            self._disabled = False

    def unload(self) -> None:
        """Take every hook away; the UNet is as it was."""
        for handle in self._handles:
            handle.remove()
        self._handles = []
        del self.unet._psa_attached

    def _enter(
        self, unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        given = dict(kwargs.get("cross_attention_kwargs") or {})
        condition = given.pop(KEY, None)
        kwargs = {**kwargs, "cross_attention_kwargs": given or None}
        self._steering, self._steered = None, 0
        if self._disabled:
            return args, kwargs
        if condition is None:
            raise GuardError(
                "The adapted UNet was called without users.",
                hint="Pass **psa.condition(users) to the pipeline, or run inside psa.disabled() for the base model.",
            )
        if condition.owner is not self:
            raise GuardError(
                "These users were made ready for another adapter.",
                hint="Call condition() of the adapter that is attached.",
            )
        if len(args) > 2:
            args, kwargs = args[:2], {**kwargs, "encoder_hidden_states": args[2], **_more(args)}
        sample = args[0] if args else kwargs["sample"]
        condition = self._rows(condition, sample)
        if self.adapter.config.kind == "prompt":
            self._rewrite(condition, kwargs)
        else:
            self._steering = self._steer(condition, kwargs["encoder_hidden_states"])
        return args, kwargs

    def _rows(self, condition: Condition, sample: torch.Tensor) -> Condition:
        """The condition for the rows the UNet was called with: unconditional rows first where there is guidance."""
        users, rows = len(condition.present), sample.shape[0]
        if rows == 2 * users and condition.guided is not False:
            return self._guided(condition, sample)
        if rows != users or condition.guided is True:
            raise GuardError(
                f"The UNet was called with {rows} rows for {users} users; "
                f"expected {users}, or {2 * users} with guidance.",
                hint="Give one user per prompt, and images_per_prompt= what the pipeline is given.",
            )
        if condition.guided is None and rows % 2 == 0 and torch.equal(*sample.chunk(2)):
            raise GuardError(
                f"{rows} users, and the UNet's {rows} rows come in two equal halves: this looks like guidance over "
                f"{rows // 2} prompts.",
                hint="Give one user per prompt; if this is a call without guidance, pass guided=False to condition().",
            )
        condition.guided = False if condition.guided is None else condition.guided
        return condition

    def _guided(self, condition: Condition, sample: torch.Tensor) -> Condition:
        """Two rows per user are guidance only where both halves are the same latents."""
        if condition.guided is None and not torch.equal(*sample.chunk(2)):
            raise GuardError(
                f"{len(sample)} different rows for {len(condition.present)} users: half of them would have no user.",
                hint="Give one user per prompt, and images_per_prompt= what the pipeline is given.",
            )
        condition.guided = True
        return condition

    def _rewrite(self, condition: Condition, kwargs: dict[str, Any]) -> None:
        states = kwargs["encoder_hidden_states"]
        kwargs["encoder_hidden_states"] = self._changed(condition, "states", states, self.adapter.rewriter)
        added = kwargs.get("added_cond_kwargs") or {}
        if self.adapter.config.pooled_dim:
            if "text_embeds" not in added:
                raise GuardError("The adapter rewrites the pooled text state too, and the UNet was called without one.")
            pooled = self._changed(condition, "pooled", added["text_embeds"], self.adapter.rewriter.pooled)
            kwargs["added_cond_kwargs"] = {**added, "text_embeds": pooled}

    def _changed(self, condition: Condition, name: str, states: torch.Tensor, rewrite: Any) -> torch.Tensor:
        """states as the users may see them; computed once per call where no gradient is asked for."""
        known = condition._rewritten.get(name)
        if known is not None and known[0] is states and not torch.is_grad_enabled():
            return known[1]
        users = len(condition.present)
        prompts = states[-users:]
        place: dict[str, Any] = {"device": states.device, "dtype": self.adapter.dtype}
        tokens = self.adapter.user_tokens(condition.vectors.to(**place))
        strength = (condition.scale * condition.present).to(**place).view(-1, *[1] * (states.ndim - 1))
        change = (strength * rewrite(prompts.to(self.adapter.dtype), tokens)).to(states.dtype)
        # Rows with no user keep their very bits: x + 0 would turn -0.0 into 0.0.
        changed = torch.where(strength == 0, prompts, prompts + change)
        result = torch.cat([states[:-users], changed]) if len(states) > users else changed
        if not torch.is_grad_enabled():
            condition._rewritten[name] = (states, result)
        return result

    def _steer(self, condition: Condition, states: torch.Tensor) -> Steering:
        """Terms of kind `published` for the UNet's rows.

        Unconditional rows are the projection of a zero vector, as published.
        """
        rows = states.shape[0]
        known = condition._published
        if known is not None and known[0] == rows and not torch.is_grad_enabled():
            return known[1]
        users = len(condition.present)
        place: dict[str, Any] = {"device": states.device, "dtype": self.adapter.dtype}
        vectors, strength = condition.vectors, condition.scale * condition.present
        if rows == 2 * users:
            vectors, strength = torch.cat([torch.zeros_like(vectors), vectors]), strength.repeat(2)
        tokens = self.adapter.user_tokens(vectors.to(**place))
        folded = fold(self.adapter.layers, tokens) if tokens.shape[1] == 1 else None
        steering = Steering(tokens, strength.to(**place)[:, None, None], folded)
        if not torch.is_grad_enabled():
            condition._published = (rows, steering)
        return steering

    def _hook_attentions(self) -> None:
        attentions = cross_attentions(self.unet)
        self._queries = [None] * len(attentions)
        self._handles.append(self.unet.register_forward_hook(self._leave))
        for i, attention in enumerate(attentions):

            def remember(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], i: int = i) -> None:
                self._queries[i] = args[0] if args else kwargs["hidden_states"]

            def add(module: nn.Module, args: tuple[Any, ...], i: int = i, attention: Attention = attention) -> Any:
                return (self._add_user(i, attention, args[0]), *args[1:])

            self._handles += [
                attention.register_forward_pre_hook(remember, with_kwargs=True),
                attention.to_out[0].register_forward_pre_hook(add),
            ]

    def _leave(self, unet: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        expected = len(self.adapter.layers) if self._steering is not None else 0
        if self._steered != expected:
            raise GuardError(
                f"{expected - self._steered} of {expected} cross-attentions have lost the adapter: something replaced "
                "their to_out.",
                hint="Call unload() and attach the adapter again, after what changes the UNet.",
            )

    def _add_user(self, i: int, attention: Attention, attended: torch.Tensor) -> torch.Tensor:
        steering, hidden = self._steering, self._queries[i]
        self._queries[i] = None
        if steering is None or hidden is None:
            return attended
        self._steered += 1
        if steering.folded is not None:
            user = steering.folded[i]
        else:
            layer: UserAttention = self.adapter.layers[i]  # type: ignore[assignment]
            user = attend(layer, attention, hidden, steering.tokens.to(hidden.dtype))
        return torch.where(steering.strength == 0, attended, attended + (steering.strength * user).to(attended.dtype))


def attach(unet: UNet2DConditionModel, adapter: PSAAdapter) -> AttachedAdapter:
    """Join an adapter to a UNet.

    Raises GuardError where one is attached already, CheckpointError where it does not fit.
    """
    if hasattr(unet, "_psa_attached"):
        raise GuardError("This UNet has an adapter already.", hint="Call unload() on the first one.")
    adapter.to(device=unet.device)
    return AttachedAdapter(unet, adapter)


def check_fit(unet: UNet2DConditionModel, adapter: PSAAdapter) -> None:
    """Raises CheckpointError where the adapter's shapes are not the UNet's."""
    from ..errors import CheckpointError

    config = adapter.config
    width = unet.config.cross_attention_dim
    widths = cross_attention_widths(unet)
    expected = f"trained for '{config.base}'"
    if config.context_dim != width:
        raise CheckpointError(
            f"The adapter ({expected}) is for text states of width {config.context_dim}; this UNet's are {width}.",
            hint="Use the base model the adapter was trained for.",
        )
    if config.kind == "published" and tuple(config.widths) != widths:
        raise CheckpointError(
            f"The adapter ({expected}) is for {len(config.widths)} cross-attentions; "
            f"this UNet has {len(widths)} or other widths.",
            hint="Use the base model the adapter was trained for.",
        )


def _more(args: tuple[Any, ...]) -> dict[str, Any]:
    if len(args) > 3:
        raise GuardError("Call the adapted UNet with keyword arguments after encoder_hidden_states.")
    return {}
