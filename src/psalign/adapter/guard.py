"""Joins an adapter to a UNet: one forward pre-hook is both the adapter's entrance and its guard.

Place on the path of data: between steps 4 and 5. It fails closed: once attached, the UNet refuses to run without users,
with a batch that does not match them, or with vectors that are not finite or come from another recipe.
docs/GUARD.md lists every call that could lose an adapter, and what happens now.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import CheckpointError, GuardError
from .adapter import PSAAdapter, cross_attention_widths
from .condition import KEY, Condition, CrossAttentionKwargs, Users, make_condition
from .controlnet import ControlNetGuard
from .prompt import rewrite
from .published import Steering, steer

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import Attention

ENTERED = "entered"  # in place of a Condition: the entrance in front of a compiled UNet has done its work

Inputs = tuple[tuple[Any, ...], dict[str, Any]]


class HookedAttention:
    """The hook behind a cross-attention that adds the user's part; a callable object, so that a copy of the UNet has
    its own."""

    def __init__(self, block: Any) -> None:
        self.block = block
        self.steering: Steering | None = None  # of this call; None: nothing to add
        self.attention: Attention = block.attn2
        self.handle = self.attention.register_forward_hook(self, with_kwargs=True)

    def __call__(
        self, attention: Attention, args: tuple[Any, ...], kwargs: dict[str, Any], output: torch.Tensor
    ) -> torch.Tensor:
        if self.steering is None:
            return output
        return self.steering.add(attention, args[0] if args else kwargs["hidden_states"], output)

    def is_in_place(self) -> bool:
        hooks = self.attention._forward_hooks
        return self.block.attn2 is self.attention and self.handle.id in hooks


class AttachedAdapter:
    """An adapter on a UNet.

    `condition(...)` makes what the pipeline call needs; `disabled()` gives the base; `unload()` leaves.
    """

    def __init__(
        self, unet: UNet2DConditionModel, adapter: PSAAdapter, *, controlnets: Sequence[nn.Module] = ()
    ) -> None:
        wrapper, unet = unet, getattr(unet, "_orig_mod", unet)  # torch.compile(unet) is a module around it
        check_fit(unet, adapter)
        self.unet, self.adapter = unet, adapter
        self._disabled = False
        self._latest: Condition | None = None
        self._attentions: list[HookedAttention] = []
        self._leave: list[Callable[[], None]] = []
        self._hook(wrapper, unet)
        self._controlnets = [ControlNetGuard(net, self) for net in controlnets]
        if adapter.config.kind == "published":
            self._hook_attentions()
        unet._psa_attached = self
        torch.compiler.reset()  # what was compiled before does not know these hooks

    def condition(
        self,
        users: Users | torch.Tensor | Sequence[torch.Tensor | None],
        *,
        scale: float | Sequence[float] | torch.Tensor = 1.0,
        images_per_prompt: int = 1,
        guided: bool | None = None,
        recipe: str | None = None,
    ) -> dict[str, Any]:
        """Keyword arguments for the pipeline: one user per prompt, None for a prompt with no user.

        users: EmbeddingStore.batch(user_ids); or vectors [B, llm_dim] with the fingerprint of their recipe.
        scale: one for all or one per user; 0 is the base, 1 as trained. images_per_prompt: as the pipeline is given.
        guided: say True or False where the UNet cannot tell guidance from the batch (see GuardError).
        Raises GuardError for vectors or scales that are not finite or of another width, RecipeMismatch for another
        recipe.
        """
        config = self.adapter.config
        self._latest = make_condition(
            users,
            width=config.llm_dim,
            trained_recipe=config.recipe,
            recipe=recipe,
            scale=scale,
            images_per_prompt=images_per_prompt,
            guided=guided,
            owner=self,
        )
        return {"cross_attention_kwargs": CrossAttentionKwargs({KEY: self._latest})}

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
        """Take every hook away; the UNet is as it was. Raises GuardError where that was done before."""
        if getattr(self.unet, "_psa_attached", None) is not self:
            raise GuardError("The adapter is not on this UNet (any more).")
        for leave in self._leave:
            leave()
        for hooked in self._attentions:
            hooked.handle.remove()
        for guard in self._controlnets:
            guard.remove()
        self._leave, self._attentions, self._controlnets = [], [], []
        del self.unet._psa_attached
        torch.compiler.reset()

    def guard_controlnet(self, controlnet: nn.Module) -> None:
        """Let a ControlNet see what the users may see; needed where it joins the pipeline after the adapter."""
        self._controlnets.append(ControlNetGuard(controlnet, self))

    @property
    def is_disabled(self) -> bool:
        return self._disabled

    @property
    def latest(self) -> Condition | None:
        """What condition() made last: a ControlNet runs before the UNet and is not told whom for."""
        return self._latest

    # --- entrance ---------------------------------------------------------------------------------------------------

    def _hook(self, wrapper: nn.Module, unet: nn.Module) -> None:
        self._leave.append(unet.register_forward_pre_hook(self._enter, with_kwargs=True).remove)
        if wrapper is not unet:  # the entrance stands in front of what is compiled, so that this stays one graph
            self._leave.append(wrapper.register_forward_pre_hook(self._enter_before, with_kwargs=True).remove)
        compiled = getattr(unet, "_compiled_call_impl", None)
        if compiled is not None:  # unet.compile() was called before
            self._enter_in_front_of(unet, compiled)

    def _enter_in_front_of(self, unet: nn.Module, compiled: Callable[..., Any]) -> None:
        def enter_and_call(*args: Any, **kwargs: Any) -> Any:
            args, kwargs = self._enter_before(unet, args, kwargs)
            return compiled(*args, **kwargs)

        def leave() -> None:
            if unet._compiled_call_impl is enter_and_call:
                unet._compiled_call_impl = compiled

        unet._compiled_call_impl = enter_and_call
        self._leave.append(leave)

    def _enter_before(self, unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
        """Enter, and tell the hook inside that it was done."""
        args, kwargs = self._entrance(args, kwargs)
        given = kwargs["cross_attention_kwargs"] or {}
        return args, {**kwargs, "cross_attention_kwargs": {**given, KEY: ENTERED}}

    def _enter(self, unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
        """The hook on the UNet itself; where it is compiled, this much of it becomes part of the graph."""
        given = kwargs.get("cross_attention_kwargs")
        if given is not None and given.get(KEY) == ENTERED:
            rest = {name: value for name, value in given.items() if name != KEY}
            return args, {**kwargs, "cross_attention_kwargs": rest or None}
        return self._entrance(args, kwargs)

    @torch.compiler.disable
    def _entrance(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
        given = dict(kwargs.get("cross_attention_kwargs") or {})
        condition = given.pop(KEY, None)
        kwargs = {**kwargs, "cross_attention_kwargs": given or None}
        self._steer_by(None)
        if self._disabled:
            return args, kwargs
        condition = self._checked(condition)
        self._check_controlnets(condition, kwargs)
        if len(args) > 3:
            raise GuardError("Call the adapted UNet with keyword arguments after encoder_hidden_states.")
        args, kwargs = args[:2], {**kwargs, **dict(zip(["encoder_hidden_states"], args[2:], strict=False))}
        sample, states = args[0] if args else kwargs["sample"], kwargs["encoder_hidden_states"]
        unconditional = condition.unconditional_rows(sample, states)
        if self.adapter.config.kind == "prompt":
            return args, rewrite(self.adapter, condition, kwargs, unconditional)
        self._steer_by(self._steering(condition, states, unconditional, lora_scale=given.get("scale", 1.0)))
        return args, kwargs

    def _checked(self, condition: Any) -> Condition:
        """Raises GuardError where there are no users, users of another adapter, or an attention has lost its hook."""
        if condition is None:
            raise GuardError(
                "The adapted UNet was called without users.",
                hint="Pass **psa.condition(users) to the pipeline, or run inside psa.disabled() for the base model.",
            )
        if not isinstance(condition, Condition) or condition.owner is not self:
            raise GuardError(
                "These users were made ready for another adapter.",
                hint="Call condition() of the adapter that is attached.",
            )
        lost = sum(not hooked.is_in_place() for hooked in self._attentions)
        if lost:
            raise GuardError(
                f"{lost} of {len(self._attentions)} cross-attentions have lost the adapter: something replaced them.",
                hint="Call unload() and attach the adapter again, after what changes the UNet.",
            )
        return condition

    def _check_controlnets(self, condition: Condition, kwargs: dict[str, Any]) -> None:
        """Raises GuardError where residuals come from a ControlNet that read the prompt as it was."""
        fed = kwargs.get("down_block_additional_residuals") is not None
        took = [guard.took(condition) for guard in self._controlnets]  # all are asked: the answer counts once
        if fed and not any(took):
            raise GuardError(
                "A ControlNet fed this UNet that has read the prompt without these users' limits.",
                hint="Call psa.guard_controlnet(pipe.controlnet), and condition() again right before the pipeline.",
            )

    def _steering(
        self, condition: Condition, states: torch.Tensor, unconditional: int, *, lora_scale: float
    ) -> list[Steering] | None:
        """What kind `published` adds to each cross-attention, computed once per call; None for nothing at all."""

        def make() -> list[Steering] | None:
            with _lora_scaled(self.unet, lora_scale):
                attentions = [hooked.attention for hooked in self._attentions]
                return steer(self.adapter, attentions, condition, unconditional, like=states)

        return condition.remember(f"steering {lora_scale}", states, make) if condition.strength.any() else None

    def _steer_by(self, steering: list[Steering] | None) -> None:
        for i, hooked in enumerate(self._attentions):
            hooked.steering = None if steering is None else steering[i]

    def _hook_attentions(self) -> None:
        names = _cross_attention_blocks(self.unet)
        self._attentions = [HookedAttention(self.unet.get_submodule(name)) for name in names]


def check_fit(unet: UNet2DConditionModel, adapter: PSAAdapter) -> None:
    """Raises CheckpointError where the adapter's shapes are not the UNet's."""
    config, width, widths = adapter.config, unet.config.cross_attention_dim, cross_attention_widths(unet)
    expected, hint = f"trained for '{config.base}'", "Use the base model the adapter was trained for."
    if config.context_dim != width:
        raise CheckpointError(
            f"The adapter ({expected}) is for text states of width {config.context_dim}; this UNet's are {width}.",
            hint=hint,
        )
    if config.kind == "published" and tuple(config.widths) != widths:
        raise CheckpointError(
            f"The adapter ({expected}) is for {len(config.widths)} cross-attentions; "
            f"this UNet has {len(widths)} or other widths.",
            hint=hint,
        )


def _cross_attention_blocks(unet: UNet2DConditionModel) -> list[str]:
    """Names of the blocks that hold a cross-attention, in the order of `unet.attn_processors`."""
    return [name.removesuffix(".attn2.processor") for name in unet.attn_processors if name.endswith(".attn2.processor")]


def _lora_scaled(unet: nn.Module, scale: float) -> AbstractContextManager[None]:
    """LoRA layers at the strength that this call asks for, as diffusers sets it inside the UNet's forward."""
    has_lora = getattr(unet, "_hf_peft_config_loaded", False)
    return _scaled(unet, scale) if has_lora and scale != 1.0 else nullcontext()


@contextmanager
def _scaled(unet: nn.Module, scale: float) -> Iterator[None]:
    from diffusers.utils import scale_lora_layers, unscale_lora_layers

    scale_lora_layers(unet, scale)
    try:
        yield
    finally:
        unscale_lora_layers(unet, scale)
