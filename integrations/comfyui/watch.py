"""Looks at every call of a model and lets only known text pass: what the node Guard adds to a MODEL.

The rule is that of the Python package's guard: each row is recognised by its content, and nothing is guessed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from psalign.adapter.text import Texts
from psalign.errors import GuardError

from .conditioning import REWRITTEN, Conditioning, require_no_other_text

KEY = "psalign"


def guarded(model: Any, positive: Conditioning, negative: Conditioning) -> Any:
    """A clone of a MODEL that reads no text but these: for prompts what Apply made, else the negative text too.

    Raises GuardError where positive was not made by Apply, or was changed since then.
    """
    from comfy.patcher_extension import WrappersMP

    prompts = [_made_by_apply(states, options) for states, options in positive]
    negatives = [Texts(states, pooled_prompt_embeds=options.get("pooled_output")) for states, options in negative]
    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.APPLY_MODEL, KEY, Watch(prompts, negatives))
    return clone


class Watch:
    """Stands around a model's apply_model. prompts, negatives: texts that it may read, [1, T, D] each."""

    def __init__(self, prompts: list[Texts], negatives: list[Texts]) -> None:
        self.prompts, self.negatives = prompts, negatives

    def __call__(self, executor: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """args: noisy latents, timestep, c_concat, c_crossattn, control, transformer_options."""
        states, added, kinds = args[3], kwargs.get("y"), args[5].get("cond_or_uncond") or ()
        is_known = states is not None and len(kinds) > 0 and len(states) % len(kinds) == 0
        for row in range(len(states) if is_known else 0):
            is_prompt = kinds[row * len(kinds) // len(states)] == 0
            texts = self.prompts if is_prompt else [*self.negatives, *self.prompts]
            pooled = None if added is None else added[row]
            is_known = is_known and any(_is_row(text, states[row], pooled) for text in texts)
        if not is_known or "crossattn_controlnet" in kwargs:
            raise GuardError(
                "The model was called with text that the node Guard does not know: it was not rewritten for the user.",
                hint="Connect the sampler to the same positive and negative conditioning as Guard, and to its model.",
            )
        return executor(*args, **kwargs)


def _made_by_apply(states: torch.Tensor, options: dict[str, Any]) -> Texts:
    """Raises GuardError for an entry that Apply did not make, or that was changed since then."""
    require_no_other_text(options)
    made: Texts | None = options.get(REWRITTEN)
    pooled = None if made is None else made.pooled_prompt_embeds
    is_same = made is not None and torch.equal(states, made.prompt_embeds)
    if not is_same or (pooled is not None and not torch.equal(options["pooled_output"], pooled)):
        raise GuardError(
            "The positive conditioning was not made by Apply, or was changed since then.",
            hint="Combine and average prompts first; Apply comes last, right before Guard.",
        )
    assert made is not None
    return made


def _is_row(text: Texts, states: torch.Tensor, added: torch.Tensor | None) -> bool:
    """Whether states [T, D], and the beginning of an added vector, are a row of a text; ComfyUI repeats shorter texts
    to the length of longer ones."""
    pooled = text.pooled_prompt_embeds
    for row, known in enumerate(text.prompt_embeds.to(states)):
        times = max(1, len(states) // len(known))
        if torch.equal(known.repeat(times, 1), states):
            if pooled is None or added is None:
                return True
            begin = pooled[row].to(added)
            if torch.equal(begin, added[: len(begin)]):
                return True
    return False
