"""Rewrites text states that another program made, by an adapter alone: no pipeline, no denoiser, no hook.

Place on the path of data: step 5, for programs that are not diffusers (integrations/comfyui). They keep their own text
encoder, and nothing here guards their denoiser.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..errors import GuardError
from .adapter import PSAAdapter
from .prompt import PromptAdapter
from .text import Texts, require_fit, rewrite_texts
from .users import Scale, check_users
from .words import with_limits

ReadPhrase = Callable[[str], torch.Tensor]


@torch.no_grad()
def rewrite_states(
    adapter: PSAAdapter,
    texts: Texts,
    users: Any,
    *,
    read: ReadPhrase | None = None,
    scale: Scale = 1.0,
    window: int | None = None,
) -> Texts:
    """The prompts as their users may see them, bit for bit what `encode` gives; negative prompts stay the same.

    users: one per prompt, see check_users; `batch_of(profiles)` makes them from profiles. read: gives the states of a
    phrase at its last word and at its end of text, [2, D], by the text encoder that read the prompts; needed where
    users have limits in words. scale: one for all or one per user; 0 is the base, 1 as trained. window: the number of
    tokens that the text encoder reads at a time; longer prompts, of T = windows * window tokens, are rewritten window
    by window, since each was encoded by itself. The pooled state belongs to the first. None: T is one window.
    Raises GuardError for an adapter of kind `published`, for users or texts that do not fit the adapter or each other,
    and for limits that cannot be read.
    """
    if not isinstance(adapter, PromptAdapter):
        raise GuardError(
            f"An adapter of kind '{adapter.kind}' works inside the UNet; text states alone can be rewritten by kind "
            "'prompt'.",
            hint="Use an adapter of kind 'prompt', or a diffusers pipeline with psalign.load_psa_adapter.",
        )
    checked = check_users(adapter, users, recipe=None, scale=scale)
    phrases = sorted({phrase for row in checked.phrases for phrase, _ in row})
    if phrases and read is None:
        raise GuardError(
            "These users have limits in words, and nothing was given that encodes them.", hint="Pass read=."
        )
    rows = with_limits(checked, {phrase: _checked(read(phrase), adapter) for phrase in phrases} if read else {})
    require_fit(adapter, texts, rows)
    parts = [
        rewrite_texts(adapter, replace(texts, prompt_embeds=states, negative_prompt_embeds=None), rows)
        for states in _windows(texts.prompt_embeds, window)
    ]
    return replace(
        texts,
        prompt_embeds=torch.cat([part.prompt_embeds for part in parts], dim=1),
        pooled_prompt_embeds=parts[0].pooled_prompt_embeds,
    )


def _windows(states: torch.Tensor, window: int | None) -> Sequence[torch.Tensor]:
    """Text states [B, T, D] in parts of `window` tokens. Raises GuardError where the last one would be shorter."""
    tokens = states.shape[1]
    window = tokens if window is None else window
    if window < 1 or tokens % window:
        raise GuardError(f"These text states have {tokens} tokens; expected whole windows of {window}.")
    return states.split(window, dim=1)


def _checked(states: torch.Tensor, adapter: PromptAdapter) -> torch.Tensor:
    """States of a phrase. Raises GuardError where they are of another text encoder, or not finite."""
    if states.shape != (2, adapter.config.context_dim) or not states.isfinite().all():
        raise GuardError(
            f"The states of a limit have shape {tuple(states.shape)}, or are not finite; this adapter takes "
            f"(2, {adapter.config.context_dim}).",
            hint="Read limits with the text encoders of the base that the adapter was trained for.",
        )
    return states
