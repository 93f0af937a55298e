"""Joins an adapter to a pipeline's denoiser, makes the text of its calls, and lets no other text pass.

Place on the path of data: between steps 4 and 5. `encode` gives a pipeline call its text: prompts rewritten for their
users. The guard in front of the denoiser and its ControlNets recognises each row of that text; it fails closed.
docs/GUARD.md lists what others do to a pipeline, and what happens then.
"""

from __future__ import annotations

import asyncio
import inspect
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import CheckpointError, GuardError
from .adapter import PSAAdapter, cross_attention_widths
from .marks import MarkedText, mark
from .prompt import PromptAdapter
from .published import UserTerms
from .recognition import KnownText, LiveTexts, Place
from .text import Texts, accepted_by, encode_texts, rewrite_texts
from .users import RowUsers, Users, check_users

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

KEY = "psa"  # in cross_attention_kwargs
ENTERED = "entered"  # in place of a text: the entrance in front of a compiled UNet has done its work

Inputs = tuple[tuple[Any, ...], dict[str, Any]]

KEPT = 256  # texts of calls whose pipeline cannot carry them, the latest; a text is a few numbers a row


@dataclass(eq=False)
class Opening:
    """A block in which an adapter lets other text pass: while it is open, and in its own thread and task alone.

    A task that is started inside inherits the context of the block, and may outlive it.
    """

    owner: AttachedAdapter
    thread: int
    task: Any
    is_open: bool = True

    def is_here(self, owner: AttachedAdapter) -> bool:
        return self.is_open and self.owner is owner and (self.thread, self.task) == _here()


_DISABLED: ContextVar[tuple[Opening, ...]] = ContextVar("disabled", default=())
_FINISHED: ContextVar[tuple[Opening, ...]] = ContextVar("finished", default=())


class AttachedAdapter:
    """An adapter on a denoiser.

    `encode(...)` makes the text of a pipeline call; `disabled()` gives the base; `unload()` leaves.
    """

    def __init__(self, unet: UNet2DConditionModel, adapter: PSAAdapter) -> None:
        wrapper, unet = unet, getattr(unet, "_orig_mod", unet)  # torch.compile(unet) is a module around it
        check_fit(unet, adapter)
        self.unet, self.adapter = unet, adapter
        self._live = LiveTexts()
        self._leave: list[Callable[[], None]] = []
        self._kept: deque[KnownText] = deque(maxlen=KEPT)
        self._terms = None if isinstance(adapter, PromptAdapter) else UserTerms(unet, adapter)
        self._hook(wrapper, unet)
        unet._psa_attached = self
        torch.compiler.reset()  # what was compiled before does not know these hooks

    # --- the text of a call -------------------------------------------------------------------------------------------

    def encode(
        self,
        pipe: Any,
        prompts: str | Sequence[str],
        users: Users | torch.Tensor | Sequence[Any],
        *,
        negative_prompt: str | Sequence[str | None] | None = None,
        scale: float | Sequence[float] | torch.Tensor = 1.0,
        recipe: str | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """The text of one call: `pipe(**psa.encode(pipe, prompts, users), ...)`, in place of prompts.

        pipe: the pipeline that will draw. users: one per prompt, `EmbeddingStore.batch(user_ids)`, None for a prompt
        with no user; or vectors [B, llm_dim] with recipe=, the fingerprint of how they were made.
        negative_prompt: one for all or one per prompt; it is not rewritten. scale: one for all or one per user; 0 is
        the base, 1 as trained. options: more of the pipeline's encode_prompt (clip_skip, lora_scale, prompt_2).
        Raises GuardError for users, scales or texts that do not match; RecipeMismatch for another recipe.
        """
        is_guarded = self._is_guarded(pipe)
        texts = encode_texts(pipe, prompts, negative_prompt, **options)
        self.guard(pipe)
        made = self._passed(texts, users, scale, recipe)
        known, passed = made["cross_attention_kwargs"][KEY], accepted_by(pipe, made)
        if not is_guarded:  # a UNet that would not know what comes with the text, and says so at every layer
            passed.pop("cross_attention_kwargs", None)
        if "cross_attention_kwargs" not in passed:
            self._kept.append(known)
        return passed

    def rewrite(
        self,
        prompt_embeds: torch.Tensor,
        users: Users | torch.Tensor | Sequence[Any],
        *,
        pooled: torch.Tensor | None = None,
        negative: torch.Tensor | None = None,
        negative_pooled: torch.Tensor | None = None,
        scale: float | Sequence[float] | torch.Tensor = 1.0,
        recipe: str | None = None,
    ) -> dict[str, Any]:
        """`encode` for text states of your own (long prompts, weighted words): the same keyword arguments.

        prompt_embeds, negative: text states [B, T, D]; pooled, negative_pooled: [B, P], on SDXL. Without guidance
        negative may be left out. users, scale, recipe: see encode.
        """
        return self._passed(Texts(prompt_embeds, negative, pooled, negative_pooled), users, scale, recipe)

    def _is_guarded(self, pipe: Any) -> bool:
        """Whether the pipeline's denoiser is, or holds, the one that the adapter is on; a stand-in may do so unseen.

        Raises GuardError for kind `published`, which works inside that one alone.
        """
        denoiser = getattr(pipe, "unet", None)
        inside = list(denoiser.modules()) if isinstance(denoiser, nn.Module) else []
        if any(module is self.unet for module in inside):
            return True
        if self._terms is not None:
            raise GuardError(
                f"The UNet of this {type(pipe).__name__} is not the one that the adapter is on, and kind 'published' "
                "works inside the UNet.",
                hint="Attach the adapter to this pipeline, or use an adapter of kind 'prompt'.",
            )
        return not hasattr(denoiser, "attn_processors")

    def _passed(self, texts: Texts, users: Any, scale: Any, recipe: str | None) -> dict[str, Any]:
        adapter = self.adapter
        rows = check_users(
            users, width=adapter.llm_dim, trained_recipe=adapter.config.recipe, recipe=recipe, scale=scale
        )
        if len(rows) != len(texts):
            raise GuardError(
                f"{len(rows)} users for {len(texts)} prompts; expected one user per prompt.",
                hint="Pass None for a prompt with no user. The pipeline repeats rows for num_images_per_prompt.",
            )
        width = texts.prompt_embeds.shape[-1]
        if width != adapter.config.context_dim:
            raise GuardError(
                f"These text states have width {width}; the adapter is for {adapter.config.context_dim}.",
                hint="Encode with the pipeline of the adapted denoiser. SDXL's refiner reads another text: draw "
                "without it, or refine with the adapted base and image-to-image.",
            )
        if isinstance(adapter, PromptAdapter):
            texts = rewrite_texts(adapter, texts, rows)
            known = KnownText(texts, rows, self)
        else:
            known, texts = mark(texts, rows, self)
        self._live.add(known)
        return {**texts.arguments(), "cross_attention_kwargs": {KEY: known}}

    # --- the base, and leaving ----------------------------------------------------------------------------------------

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within it, in this thread or task alone, text of no user passes: the denoiser is the base, on purpose."""
        if self.is_disabled:
            raise GuardError("The adapter is disabled already.")
        with _opened(_DISABLED, self):
            yield

    @property
    def is_disabled(self) -> bool:
        """Whether the adapter is disabled in this thread and task."""
        return any(one.is_here(self) for one in _DISABLED.get())

    def unload(self) -> None:
        """Take every hook away; the denoiser is as it was. Raises GuardError where that was done before."""
        if getattr(self.unet, "_psa_attached", None) is not self:
            raise GuardError("The adapter is not on this UNet (any more).")
        for leave in self._leave:
            leave()
        self._leave = []
        del self.unet._psa_attached
        torch.compiler.reset()

    def guard(self, pipe_or_model: Any) -> None:
        """Let the ControlNets of a pipeline, or another model that reads the text, read no text but ours.

        `encode` does it for its pipeline. A model that is guarded already is left as it is.
        """
        model = pipe_or_model
        if not isinstance(model, nn.Module):
            model = getattr(pipe_or_model, "controlnet", None)
        if model is None:
            return
        for net in getattr(model, "nets", None) or [model]:
            BesideGuard.of(net).add(self)

    def denoise(
        self,
        noisy: torch.Tensor,
        timesteps: torch.Tensor,
        states: torch.Tensor,
        *,
        pooled: torch.Tensor | None = None,
        time_ids: torch.Tensor | None = None,
        users: RowUsers | None = None,
    ) -> torch.Tensor:
        """One call of the denoiser as training makes it, with gradients: for users, or as the base without them."""
        if users is not None and isinstance(self.adapter, PromptAdapter):
            states, pooled = self.adapter.rewritten(states, pooled, users.vectors, users.strength)
        states = self._with_terms(states, users)
        added = None if pooled is None else {"text_embeds": pooled, "time_ids": time_ids}
        with _opened(_FINISHED, self):
            predicted: torch.Tensor = self.unet(
                noisy, timesteps, encoder_hidden_states=states, added_cond_kwargs=added, return_dict=False
            )[0]
        return predicted

    # --- entrance -----------------------------------------------------------------------------------------------------

    def _hook(self, wrapper: nn.Module, unet: nn.Module) -> None:
        self._leave.append(unet.register_forward_pre_hook(self._enter, with_kwargs=True).remove)
        if self._terms is not None:
            self._leave.append(self._terms.remove)
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
        args, kwargs = self._entrance(unet, args, kwargs)
        given = kwargs.get("cross_attention_kwargs") or {}
        return args, {**kwargs, "cross_attention_kwargs": {**given, KEY: ENTERED}}

    def _enter(self, unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
        """The hook on the UNet itself; where it is compiled, this much of it becomes part of the graph."""
        given = kwargs.get("cross_attention_kwargs")
        if given is not None and given.get(KEY) == ENTERED:
            rest = {name: value for name, value in given.items() if name != KEY}
            return args, {**kwargs, "cross_attention_kwargs": rest or None}
        return self._entrance(unet, args, kwargs)

    @torch.compiler.disable
    def _entrance(self, unet: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
        args, kwargs, text = _by_name(unet, args, kwargs)
        if any(one.is_here(self) for one in _FINISHED.get()):
            return args, kwargs
        if self._terms is not None:
            self._terms.require_all()
        states, pooled = _text_of(kwargs)
        if text is None and self.is_disabled:
            return args, {**kwargs, "encoder_hidden_states": self._with_terms(states, None)}
        known, places, states = self._recognise(unet, text, states, pooled)
        if text is None and not known.is_rewritten(places):
            raise _without_users(unet)  # a pipeline could have made this text by itself
        _check_rows(args[0] if args else kwargs["sample"], states)
        _refuse_other_texts(kwargs.get("cross_attention_kwargs") or {}, known.is_rewritten(places))
        if isinstance(known, MarkedText) and self._terms is not None:
            lora_scale = (kwargs.get("cross_attention_kwargs") or {}).get("scale", 1.0)
            behind = known.behind(places, self._terms, like=states, lora_scale=lora_scale)
            states = torch.cat([known.without_marks(states), behind], dim=1)
        return args, {**kwargs, "encoder_hidden_states": states}

    def _known_text(
        self, states: torch.Tensor, pooled: torch.Tensor | None
    ) -> tuple[KnownText, list[Place], torch.Tensor] | None:
        """The text of a call under way that has all these rows, their places in it, and the states; None for none."""
        return self._live.recognise(states, pooled)

    def _recognise(
        self, model: nn.Module, text: Any, states: torch.Tensor, pooled: torch.Tensor | None
    ) -> tuple[KnownText, list[Place], torch.Tensor]:
        """The text of a call, the places of its rows in it, and the states. Raises GuardError for any other row."""
        if torch.jit.is_tracing():
            raise GuardError(
                "A denoiser that is traced with a user's text would keep that user.",
                hint="Trace it inside psa.disabled(); kind 'prompt' then works with what was traced.",
            )
        if text is None:
            found = self._known_text(states, pooled)
            if found is None:
                raise _without_users(model)
            return found
        if not isinstance(text, KnownText) or text.owner is not self:
            raise GuardError(
                "These users' text was made by another adapter.",
                hint="Call encode() of the adapter that is attached to this denoiser.",
            )
        places, states = text.recognise(states, pooled)
        if places is None:
            raise GuardError(
                f"{type(model).__name__} was called with text that was not rewritten for these users: it was changed "
                "after encode(), belongs to another call, or its rows are not in the order of their users.",
                hint="Pass **psa.encode(pipe, prompts, users) to the pipeline as it is; rewrite() takes text states "
                "of your own.",
            )
        return text, places, states

    def _with_terms(self, states: torch.Tensor, users: RowUsers | None) -> torch.Tensor:
        """Text states with what the users add behind them (kind `published`); as they are for kind `prompt`."""
        if self._terms is None:
            return states
        if users is None:
            return torch.cat([states, self._terms.nothing(states)], dim=1)
        return torch.cat([states, self._terms.behind(users.vectors, users.strength, like=states)], dim=1)


class BesideGuard:
    """The hook on a model beside the denoiser that reads the text, as a ControlNet does; adapters may share the model.

    Such a model does not learn which call it serves: its rows must be those of a call of any of the adapters.
    """

    def __init__(self, model: nn.Module) -> None:
        self.owners: list[weakref.ref[AttachedAdapter]] = []
        self.handle = model.register_forward_pre_hook(self, with_kwargs=True)

    @classmethod
    def of(cls, model: nn.Module) -> BesideGuard:
        """The guard of a model, made where there is none."""
        hooks = model._forward_pre_hooks.values()
        return next((hook for hook in hooks if isinstance(hook, cls)), None) or cls(model)

    def add(self, owner: AttachedAdapter) -> None:
        if owner in self._adapters():
            return
        self.owners.append(weakref.ref(owner))
        owner._leave.append(lambda: self.drop(owner))

    def drop(self, owner: AttachedAdapter) -> None:
        self.owners = [one for one in self.owners if one() not in (None, owner)]
        if not self.owners:
            self.handle.remove()

    def _adapters(self) -> list[AttachedAdapter]:
        return [one for one in (ref() for ref in self.owners) if one is not None]

    @torch.compiler.disable
    def __call__(self, model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Inputs:
        args, kwargs, _ = _by_name(model, args, kwargs)
        states, pooled = _text_of(kwargs)
        adapters = self._adapters()
        found = next((one for one in (owner._known_text(states, pooled) for owner in adapters) if one), None)
        if found is None:
            if any(owner.is_disabled for owner in adapters):
                return args, kwargs
            raise _without_users(model)
        known, places, states = found
        if isinstance(known, MarkedText):
            states, pooled = known.unconditional(places, states, pooled)
        if pooled is not None:
            kwargs = {**kwargs, "added_cond_kwargs": {**kwargs["added_cond_kwargs"], "text_embeds": pooled}}
        return args, {**kwargs, "encoder_hidden_states": states}


def check_fit(unet: UNet2DConditionModel, adapter: PSAAdapter) -> None:
    """Raises CheckpointError where the adapter's shapes are not the UNet's."""
    config, width = adapter.config, unet.config.cross_attention_dim
    expected, hint = f"trained for '{config.base}'", "Use the base model the adapter was trained for."
    if config.context_dim != width:
        raise CheckpointError(
            f"The adapter ({expected}) is for text states of width {config.context_dim}; this UNet's are {width}.",
            hint=hint,
        )
    if isinstance(adapter, PromptAdapter):
        return
    widths = cross_attention_widths(unet)
    if tuple(config.widths) != widths:
        raise CheckpointError(
            f"The adapter ({expected}) is for {len(config.widths)} cross-attentions; "
            f"this UNet has {len(widths)} or other widths.",
            hint=hint,
        )


@contextmanager
def _opened(where: ContextVar[tuple[Opening, ...]], owner: AttachedAdapter) -> Iterator[None]:
    opening = Opening(owner, *_here())
    token = where.set((*where.get(), opening))
    try:
        yield
    finally:
        opening.is_open = False
        with suppress(ValueError):  # a generator may end in another context; what is not open lets nothing pass
            where.reset(token)


def _here() -> tuple[int, Any]:
    """This thread, and the task that runs in it, if any."""
    try:
        return threading.get_ident(), asyncio.current_task()
    except RuntimeError:  # no event loop runs in this thread
        return threading.get_ident(), None


def _refuse_other_texts(given: dict[str, Any], is_rewritten: bool) -> None:
    """Raises GuardError for texts that reach the UNet another way than rewritten prompts do."""
    if is_rewritten and given.get("gligen") is not None:
        raise GuardError(
            "GLIGEN's phrases reach the UNet as they are, whatever its user bans.",
            hint="Draw without phrases for rows with users.",
        )


def _by_name(
    model: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any], Any]:
    """Arguments of a call with all behind the timestep by name, and the text that came with them, taken out."""
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    names = list(inspect.signature(type(model).forward).parameters)[1:]
    kwargs = {**kwargs, **dict(zip(names[2:], args[2:], strict=False))}
    given = dict(kwargs.get("cross_attention_kwargs") or {})
    text = given.pop(KEY, None)
    if "cross_attention_kwargs" in kwargs:
        kwargs["cross_attention_kwargs"] = given or None
    return args[:2], kwargs, text


def _text_of(kwargs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Text states [R, T, D] and, on SDXL, pooled ones [R, P] of a call."""
    return kwargs["encoder_hidden_states"], (kwargs.get("added_cond_kwargs") or {}).get("text_embeds")


def _check_rows(sample: torch.Tensor, states: torch.Tensor) -> None:
    """Raises GuardError where rows of text and of latents do not match (video: one row of text for each frame)."""
    rows = len(sample) * (sample.shape[2] if sample.ndim == 5 else 1)
    if len(states) not in (len(sample), rows):
        raise GuardError(
            f"The UNet was called with {len(states)} rows of text for {len(sample)} rows of latents.",
            hint="Pass the embeddings of psa.encode() to the pipeline as they are.",
        )


def _without_users(model: nn.Module) -> GuardError:
    return GuardError(
        f"{type(model).__name__} was called without users: its text was not made by encode() of the adapter on it.",
        hint="Pass **psa.encode(pipe, prompts, users) to the pipeline instead of prompts, or run inside "
        "psa.disabled() for the base model.",
    )
