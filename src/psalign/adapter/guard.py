"""Joins an adapter to a pipeline's denoiser, makes the text of its calls, and lets no other text pass.

Place on the path of data: between steps 4 and 5. `encode` gives a pipeline call its text: prompts rewritten for their
users. The guard in front of the denoiser and its ControlNets recognises each row of that text; it fails closed.
docs/GUARD.md lists what others do to a pipeline, and what happens then.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
import weakref
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from ..errors import GuardError
from .adapter import PSAAdapter
from .explain import Explanation, explain_texts
from .prompt import PromptAdapter
from .published import Args, Kwargs, UserTerms
from .recognition import Found, KnownText, digests_of, live_texts, recognise
from .second_look import Look, SecondLook, with_caution
from .text import (
    Texts,
    accepted_by,
    as_seen,
    encode_texts,
    require_fit,
    require_one_text,
    rewrite_texts,
    with_marks,
    without_marks,
)
from .users import CheckedUsers, RowUsers, Scale, check_users
from .words import KeptStates, phrase_states, with_limits

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

KEY = "psa"  # in cross_attention_kwargs
ENTERED = "entered"  # in place of a text: the guard has looked at this call
KEPT = 256  # texts, the latest, of pipelines that take no cross_attention_kwargs


@dataclass(eq=False)
class Opening:
    """A block of `disabled()`. A task that is started inside inherits its context, and may outlive it."""

    owner: AttachedAdapter
    place: tuple[int, Any]  # thread and task
    is_open: bool = True


_DISABLED: ContextVar[tuple[Opening, ...]] = ContextVar("disabled", default=())


class AttachedAdapter:
    """An adapter on a denoiser.

    `encode(...)` makes the text of a pipeline call; `disabled()` gives the base; `unload()` leaves.
    """

    def __init__(self, unet: UNet2DConditionModel, adapter: PSAAdapter) -> None:
        self.unet, self.adapter = getattr(unet, "_orig_mod", unet), adapter  # torch.compile(unet) is a module around it
        self._kept: deque[KnownText] = deque(maxlen=KEPT)
        self._phrases = KeptStates(phrase_states)
        self.second_look: SecondLook | None = SecondLook()
        self._terms = None if isinstance(adapter, PromptAdapter) else UserTerms(self.unet, adapter)
        self._leave = [] if self._terms is None else [self._terms.remove]
        self._leave.append(self.unet.register_forward_pre_hook(self._enter, with_kwargs=True).remove)
        if unet is not self.unet:  # the guard stands in front of what is compiled, so that this stays one graph
            self._leave.append(unet.register_forward_pre_hook(self._look, with_kwargs=True).remove)
        self._compiled = getattr(self.unet, "_compiled_call_impl", None)  # by unet.compile(), which bypasses hooks
        if self._compiled is not None:
            self.unet._compiled_call_impl = self._look_and_call
        self.unet._psa_attached = self
        torch.compiler.reset()  # what was compiled before does not know these hooks

    # --- the text of a call -------------------------------------------------------------------------------------------

    def encode(
        self,
        pipe: Any,
        prompts: str | Sequence[str],
        users: Any,
        *,
        limits: Sequence[Sequence[Any]] | None = None,
        negative_prompt: str | Sequence[str | None] | None = None,
        scale: Scale = 1.0,
        recipe: str | None = None,
        **options: Any,
    ) -> dict[str, Any]:
        """The text of one call: `pipe(**psa.encode(pipe, prompts, users), ...)`, in place of prompts.

        Where a user limits anything, words in look-alike letters are read as they look (adapter/reading.py).
        pipe: the pipeline that will draw. users: one per prompt, `EmbeddingStore.batch(user_ids)`, None for a prompt
        with no user; or vectors [B, llm_dim] with recipe=, the fingerprint of how they were made; or None for limits
        alone. limits: more limits in words, a list of phrases for each prompt; they add to those of the users.
        negative_prompt: one for all or one per prompt; it is not rewritten. scale: one for all or one per user; 0 is
        the base, 1 as trained. options: more of the pipeline's encode_prompt (clip_skip, lora_scale, prompt_2).
        Raises GuardError for users, scales or texts that do not match; RecipeMismatch for another recipe.
        """
        denoiser = getattr(pipe, "unet", None)
        is_inside = self._is_inside(denoiser, type(pipe).__name__)
        checked = check_users(self.adapter, users, recipe=recipe, scale=scale, limits=limits)
        rows = self._with_limits(pipe, checked, options)
        if self._terms is None:
            require_one_text(prompts, options.get("prompt_2"), checked.rows.strength > 0)
            prompts, options, looks = self._as_seen(pipe, prompts, checked, rows, options)
            rows = with_caution(rows, looks)
        texts = encode_texts(pipe, prompts, negative_prompt, **options)
        self.guard(pipe)
        made = self._made(texts, rows)
        known, passed = made["cross_attention_kwargs"][KEY], accepted_by(pipe, made)
        is_direct = getattr(denoiser, "_orig_mod", denoiser) is self.unet
        if not is_inside and hasattr(denoiser, "attn_processors"):  # it would warn of unknown arguments at every layer
            passed.pop("cross_attention_kwargs", None)
        known.is_carried = is_direct and "cross_attention_kwargs" in passed
        if "cross_attention_kwargs" not in passed:
            self._kept.append(known)
        return passed

    def rewrite(
        self,
        prompt_embeds: torch.Tensor,
        users: Any,
        *,
        limits: Sequence[Sequence[Any]] | None = None,
        pipe: Any = None,
        pooled: torch.Tensor | None = None,
        negative: torch.Tensor | None = None,
        negative_pooled: torch.Tensor | None = None,
        scale: Scale = 1.0,
        recipe: str | None = None,
        clip_skip: int | None = None,
    ) -> dict[str, Any]:
        """`encode` for text states of your own (long prompts, weighted words): the same keyword arguments.

        prompt_embeds, negative: text states [B, T, D]; pooled, negative_pooled: [B, P], on SDXL. Without guidance
        negative may be left out. pipe: the pipeline that encodes limits in words; needed where there are any.
        clip_skip: the last layers of the text encoder that were left out for the states; limits are encoded in the
        same way. users, limits, scale, recipe: see encode.
        """
        checked = check_users(self.adapter, users, recipe=recipe, scale=scale, limits=limits)
        rows = self._with_limits(pipe, checked, {} if clip_skip is None else {"clip_skip": clip_skip})
        return self._made(Texts(prompt_embeds, negative, pooled, negative_pooled), rows)

    def explain(
        self,
        pipe: Any,
        prompts: str | Sequence[str],
        users: Any,
        *,
        limits: Sequence[Sequence[Any]] | None = None,
        recipe: str | None = None,
        **options: Any,
    ) -> list[Explanation]:
        """What of each prompt is softened, and for which limit. Parameters: see encode. Kind `prompt` alone."""
        if not isinstance(self.adapter, PromptAdapter):
            raise GuardError("Only adapters of kind 'prompt' know which words they soften.")
        checked = check_users(self.adapter, users, recipe=recipe, scale=1.0, limits=limits)
        rows = self._with_limits(pipe, checked, options)
        seen, options, looks = self._as_seen(pipe, prompts, checked, rows, options)
        seen = [seen] if isinstance(seen, str) else list(seen)
        whole = [looks.get(row, Look(text)) for row, text in enumerate(seen)]
        return explain_texts(self.adapter, pipe, prompts, with_caution(rows, looks), checked, looks=whole, **options)

    def _as_seen(
        self, pipe: Any, prompts: Any, checked: CheckedUsers, rows: RowUsers, options: dict[str, Any]
    ) -> tuple[Any, dict[str, Any], dict[int, Look]]:
        """Prompts and options of a call as the text encoders are to read them, and the second looks by row."""
        looks: dict[int, Look] = {}
        known = _of_encoder(pipe, options)

        def look(row: int, text: str) -> str:
            assert self.second_look is not None
            looks[row] = self.second_look(self.adapter, pipe, text, rows[row : row + 1], known)
            return looks[row].text

        can_look = self.second_look is not None and getattr(pipe, "tokenizer", None) is not None
        seen, second = as_seen(prompts, options.get("prompt_2"), checked, look if can_look else None)
        more = {"device": known["device"]} | ({} if second is None else {"prompt_2": second})
        return seen, options | more, looks

    def _is_inside(self, denoiser: Any, pipeline: str) -> bool:
        """Whether the adapted UNet is a pipeline's denoiser, or a part of it. Raises GuardError where it must be."""
        if isinstance(denoiser, nn.Module) and any(module is self.unet for module in denoiser.modules()):
            return True
        if self._terms is not None:
            raise GuardError(
                f"The UNet of this {pipeline} is not the one that the adapter is on, and kind 'published' works inside "
                "the UNet.",
                hint="Attach the adapter to this pipeline, or use an adapter of kind 'prompt'.",
            )
        if hasattr(denoiser, "_psa_attached"):
            raise GuardError(
                f"The UNet of this {pipeline} has another adapter: it is a copy of the adapted one, or was adapted "
                "itself.",
                hint="Call unload() before the UNet is copied or quantised, and attach afterwards; or encode() with "
                "the other adapter.",
            )
        return False

    def _with_limits(self, pipe: Any, checked: CheckedUsers, options: dict[str, Any]) -> RowUsers:
        phrases = sorted({phrase for row in checked.phrases for phrase, _ in row})
        if phrases and pipe is None:
            raise GuardError(
                "These users have limits in words, and nothing was given that encodes them.",
                hint="Pass pipe=, the pipeline whose text encoder read the prompts.",
            )
        return with_limits(checked, self._phrases.states(pipe, phrases, _of_encoder(pipe, options)) if phrases else {})

    def _made(self, texts: Texts, rows: RowUsers) -> dict[str, Any]:
        require_fit(self.adapter, texts, rows)
        if isinstance(self.adapter, PromptAdapter):
            made, plain = rewrite_texts(self.adapter, texts, rows), None
        else:
            made, plain = with_marks(texts), texts
        known = KnownText(made, rows, self, changed=_changed_rows(texts, made), plain=plain)
        return {**made.arguments(), "cross_attention_kwargs": {KEY: known}}

    # --- the base, and leaving ----------------------------------------------------------------------------------------

    @contextmanager
    def disabled(self) -> Iterator[None]:
        """Within it, in this thread or task alone, text of no user passes: the denoiser is the base, on purpose."""
        if self.is_disabled:
            raise GuardError("The adapter is disabled already.")
        opening = Opening(self, _here())
        token = _DISABLED.set((*_DISABLED.get(), opening))
        try:
            yield
        finally:
            opening.is_open = False
            with suppress(ValueError):  # a generator may end in another context than it began in
                _DISABLED.reset(token)

    @property
    def is_disabled(self) -> bool:
        """Whether the adapter is disabled in this thread and task."""
        return any(one.is_open and one.owner is self and one.place == _here() for one in _DISABLED.get())

    def unload(self) -> None:
        """Take every hook away; the denoiser is as before. Raises GuardError where that was done already."""
        if getattr(self.unet, "_psa_attached", None) is not self:
            raise GuardError("The adapter is not on this UNet (any more).")
        for leave in self._leave:
            leave()
        if self.unet._compiled_call_impl == self._look_and_call:
            self.unet._compiled_call_impl = self._compiled
        del self.unet._psa_attached
        torch.compiler.reset()

    def guard(self, pipe_or_model: Any) -> None:
        """Let the ControlNets of a pipeline, or another model that reads the text, read no text but ours.

        `encode` does it for its pipeline. A model that is guarded already is left unchanged.
        """
        is_model = isinstance(pipe_or_model, nn.Module)
        model = pipe_or_model if is_model else getattr(pipe_or_model, "controlnet", None)
        for net in getattr(model, "nets", None) or [model] * (model is not None):
            hooks = net._forward_pre_hooks.values()
            guard = next((hook for hook in hooks if isinstance(hook, BesideGuard)), None) or BesideGuard(net)
            if self not in guard.owners():
                guard.refs.append(weakref.ref(self))
                self._leave.append(functools.partial(guard.drop, self))

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
            states, pooled = self.adapter.rewritten(states, pooled, users)
        if self._terms is not None:
            states = self._terms.joined(states, users)
        added = None if pooled is None else {"text_embeds": pooled, "time_ids": time_ids}
        predicted: torch.Tensor = self.unet(
            noisy, timesteps, encoder_hidden_states=states, added_cond_kwargs=added, return_dict=False,
            cross_attention_kwargs={KEY: ENTERED},
        )[0]  # fmt: skip
        return predicted

    # --- entrance -----------------------------------------------------------------------------------------------------

    def _enter(self, unet: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        """The hook on the UNet; where the UNet is compiled and `_look` stood in front, it is part of the graph."""
        if (kwargs.get("cross_attention_kwargs") or {}).get(KEY) != ENTERED:
            args, kwargs = self._look(unet, args, kwargs)
        given = {name: value for name, value in kwargs["cross_attention_kwargs"].items() if name != KEY}
        return args, {**kwargs, "cross_attention_kwargs": given or None}

    def _look_and_call(self, *args: Any, **kwargs: Any) -> Any:
        args, kwargs = self._look(self.unet, args, kwargs)
        assert self._compiled is not None
        return self._compiled(*args, **kwargs)

    @torch.compiler.disable
    def _look(self, unet: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        """Arguments of a call whose text was recognised; for kind `published`, with its users' terms behind it."""
        args, kwargs, text = _by_name(unet, args, kwargs)
        given = kwargs.get("cross_attention_kwargs") or {}
        kwargs["cross_attention_kwargs"] = {**given, KEY: ENTERED}
        if text == ENTERED:
            return args, kwargs
        if self._terms is not None:
            self._terms.require_all()
        if text is None and self.is_disabled:
            if self._terms is not None:
                kwargs["encoder_hidden_states"] = self._terms.joined(kwargs["encoder_hidden_states"], None)
            return args, kwargs
        known, places, states = self._recognised(unet, text, args, kwargs)
        if self._terms is not None:
            states = without_marks(states)
            behind = self._terms.of_call(known, places, like=states, lora_scale=given.get("scale", 1.0))
            states = torch.cat([states, behind], dim=1)
        return args, {**kwargs, "encoder_hidden_states": states}

    def _recognised(self, unet: nn.Module, text: Any, args: Args, kwargs: Kwargs) -> Found:
        """The text of a call, the places of its rows in it, and the states. Raises GuardError for any other row.

        Where no text travels with the call, see KnownText.may_come_alone: a row could be a pipeline's own.
        """
        if torch.jit.is_tracing():
            raise GuardError(
                "A denoiser that is traced with a user's text would keep that user.",
                hint="Trace it inside psa.disabled(); kind 'prompt' then works with what was traced.",
            )
        if text is not None and not (isinstance(text, KnownText) and text.owner is self):
            raise GuardError(
                "These users' text was made by another adapter.",
                hint="Call encode() of the adapter that is attached to this denoiser.",
            )
        states, pooled = _text_of(kwargs)
        found = recognise(live_texts(self) if text is None else [text], states, pooled)
        is_rewritten = found is not None and found[0].is_rewritten(found[1])
        if text is None and not (found is not None and found[0].may_come_alone(found[1])):
            raise _without_users(unet)
        if found is None:
            raise GuardError(
                f"{type(unet).__name__} was called with text that was not rewritten for these users: it was changed "
                "after encode(), belongs to another call, or its rows are not in the order of their users.",
                hint="Pass **psa.encode(pipe, prompts, users) to the pipeline unchanged; rewrite() takes text states "
                "of your own.",
            )
        sample = args[0] if args else kwargs["sample"]
        frames = sample.shape[2] if sample.ndim == 5 else 1  # of a video: a row of text for each, or one for all
        if len(states) not in (len(sample), len(sample) * frames):
            raise GuardError(
                f"The UNet was called with {len(states)} rows of text for {len(sample)} rows of latents.",
                hint="Pass the embeddings of psa.encode() to the pipeline unchanged.",
            )
        if is_rewritten and kwargs["cross_attention_kwargs"].get("gligen") is not None:
            raise GuardError(
                "GLIGEN's phrases reach the UNet as they are, whatever its user bans.",
                hint="Draw without phrases for rows with users.",
            )
        return found


class BesideGuard:
    """The hook on a model beside the denoiser that reads the text, as a ControlNet does; adapters may share the model.

    Such a model does not learn which call it serves: its rows must be those of a call of any of the adapters.
    """

    def __init__(self, model: nn.Module) -> None:
        self.refs: list[weakref.ref[AttachedAdapter]] = []
        self.handle = model.register_forward_pre_hook(self, with_kwargs=True)

    def owners(self) -> list[AttachedAdapter]:
        return [owner for ref in self.refs if (owner := ref()) is not None]

    def drop(self, owner: AttachedAdapter) -> None:
        self.refs = [ref for ref in self.refs if ref() not in (None, owner)]
        if not self.refs:
            self.handle.remove()

    @torch.compiler.disable
    def __call__(self, model: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        args, kwargs, _ = _by_name(model, args, kwargs)
        states, pooled = _text_of(kwargs)
        found = recognise(live_texts(*self.owners()), states, pooled)
        if found is None and not any(owner.is_disabled for owner in self.owners()):
            raise _without_users(model)
        if found is None:
            return args, kwargs
        known, places, read = found
        if known.plain is not None:
            read, pooled = known.unconditional(places, read, pooled)
        kwargs["encoder_hidden_states"] = read
        if pooled is not None:
            kwargs["added_cond_kwargs"] = {**kwargs["added_cond_kwargs"], "text_embeds": pooled}
        return args, kwargs


def _of_encoder(pipe: Any, options: dict[str, Any]) -> dict[str, Any]:
    """Those of a call's options that are for texts of any kind, and the device."""
    known = {name: value for name, value in options.items() if name not in ("prompt_2", "negative_prompt_2")}
    return {**known, "device": getattr(pipe, "_execution_device", None)}


def _changed_rows(before: Texts, after: Texts) -> list[bool]:
    """For each prompt, whether it has other bits than before."""
    digests = [digests_of(texts.prompt_embeds, texts.pooled_prompt_embeds).tolist() for texts in (before, after)]
    return [one != other for one, other in zip(*digests, strict=True)]


def _here() -> tuple[int, Any]:
    """This thread, and the task that runs in it, if any."""
    try:
        return threading.get_ident(), asyncio.current_task()
    except RuntimeError:  # no event loop runs in this thread
        return threading.get_ident(), None


def _by_name(model: nn.Module, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs, Any]:
    """Arguments of a call with all behind the timestep by name, and the text that came with them, taken out."""
    model = getattr(model, "_orig_mod", model)  # what torch.compile wraps
    names = list(inspect.signature(type(model).forward).parameters)[3:]  # behind self, sample and timestep
    kwargs = {**kwargs, **dict(zip(names, args[2:], strict=False))}
    given = dict(kwargs.get("cross_attention_kwargs") or {})
    text = given.pop(KEY, None)
    if "cross_attention_kwargs" in kwargs:
        kwargs["cross_attention_kwargs"] = given or None
    return args[:2], kwargs, text


def _text_of(kwargs: dict[str, Any]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Text states [R, T, D] and, on SDXL, pooled ones [R, P] of a call."""
    return kwargs["encoder_hidden_states"], (kwargs.get("added_cond_kwargs") or {}).get("text_embeds")


def _without_users(model: nn.Module) -> GuardError:
    return GuardError(
        f"{type(model).__name__} was called without users: its text was not made by encode() of the adapter on it.",
        hint="Pass **psa.encode(pipe, prompts, users) to the pipeline instead of prompts, or run inside "
        "psa.disabled() for the base model.",
    )
