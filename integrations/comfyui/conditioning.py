"""CONDITIONING of ComfyUI, read and rewritten: a list of [states [B, T, D], {"pooled_output": [B, P], ...}].

ComfyUI's SD1.5 gives the last hidden state of CLIP-L; SDXL the last but one of CLIP-L and CLIP-G, side by side, and
the pooled state of CLIP-G. Adapters are trained on the same states.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from psalign.adapter.adapter import PSAAdapter
from psalign.adapter.states import rewrite_states
from psalign.adapter.text import Texts
from psalign.errors import GuardError
from psalign.users.profile import UserProfile
from psalign.users.views import batch_of

Conditioning = Sequence[Sequence[Any]]
REWRITTEN = "psalign"  # in an entry's options: the texts that Apply made
RAW_TEXT = ("cross_attn_controlnet", "pooled_output_controlnet", "gligen")  # options that carry other text


def rewritten_for(
    user: UserProfile, conditioning: Conditioning, *, adapter: PSAAdapter, clip: Any, strength: float
) -> list[list[Any]]:
    """The conditioning as its user may see it.

    clip: the CLIP that encoded the conditioning; it encodes limits in words. strength: 0 is the base, 1 as trained.
    Raises GuardError for text that does not fit the adapter or cannot be rewritten.
    """
    window = len(_windows(clip.tokenize(""))[0])
    made = []
    for states, options in conditioning:
        require_no_other_text(options)
        pooled = options.get("pooled_output") if adapter.config.get("pooled_dim") else None
        users = batch_of([user] * len(states), in_words=adapter.in_words)
        texts = rewrite_states(
            adapter,
            Texts(states, pooled_prompt_embeds=pooled),
            users,
            read=lambda phrase: read_phrase(clip, phrase),
            scale=strength,
            window=window,
        )
        more: dict[str, Any] = {REWRITTEN: texts}
        if pooled is not None:
            more["pooled_output"] = texts.pooled_prompt_embeds
        made.append([texts.prompt_embeds, {**options, **more}])
    return made


def read_phrase(clip: Any, phrase: str) -> torch.Tensor:
    """States of a phrase at its last word and at its end of text, [2, D]; weights in brackets count as plain text.

    Raises GuardError for a phrase of no known word, of more than one window, or that names a textual inversion.
    """
    windows = _windows(clip.tokenize(phrase, return_word_ids=True, disable_weights=True))
    words = [token for token, _, word in windows[0] if word]
    if len(windows) > 1 or not all(isinstance(token, int) for token in words):
        raise GuardError("A limit in words is too long, or names an embedding.", hint="Write a few plain words.")
    end = windows[0][len(words) + 1][0]
    if all(token == end for token in words):  # CLIP's unknown token is its end of text
        raise GuardError(
            "The text encoder knows no word of a limit, so it could not be kept.",
            hint="Write the limit in the language of the base's prompts (mostly English).",
        )
    tokens = clip.tokenize(phrase, disable_weights=True)
    states: torch.Tensor = clip.encode_from_tokens(tokens, return_pooled=True)[0][0]  # [T, D]
    return states[[len(words), len(words) + 1]]


def require_no_other_text(options: dict[str, Any]) -> None:
    """Raises GuardError for an entry with text beside its states, which would reach a model as it is."""
    found = [name for name in RAW_TEXT if name in options]
    if found:
        raise GuardError(
            f"This conditioning carries other text ({', '.join(found)}), which would not be rewritten.",
            hint="Leave out the node that added it (GLIGEN, a text of a ControlNet's own).",
        )


def _windows(tokens: dict[str, list[list[Any]]]) -> list[list[Any]]:
    """Windows of tokens of the first text encoder; all encoders of SD1.5 and SDXL cut alike."""
    return tokens["l"] if "l" in tokens else next(iter(tokens.values()))
