"""Text states of limits in words, by the base's own text encoder.

Place on the path of data: step 4, the source of user tokens that needs no training of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from ..errors import GuardError
from .text import TOKENIZERS, encode_texts, tokens_of
from .users import CheckedUsers, RowUsers

MOST_KEPT = 2**25  # numbers: 128 MiB in float32, the states of 10,900 words of SD1.5 or of 4,000 of SDXL


class KeptStates:
    """Keeps the states of phrases or words, so that each is encoded once and not with every prompt.

    They belong to one state of the text encoders: after a weight was exchanged or changed in place, texts are encoded
    again. torch does not count changes through `tensor.data`; such changes are not seen.
    encode: gives the states of each of some texts, as phrase_states does.
    """

    def __init__(self, encode: Callable[..., Sequence[torch.Tensor] | torch.Tensor]) -> None:
        self._encode = encode
        self._kept = _Kept()

    def states(self, pipe: Any, texts: Sequence[str], options: dict[str, Any]) -> dict[str, torch.Tensor]:
        """States by text. options: parameters of the pipeline's encode_prompt. Raises what `encode` does."""
        key, said = _name_of_encoders(pipe), repr(sorted(options.items()))
        kept = self._kept  # another thread may begin a new one meanwhile
        if key != kept.encoders or kept.numbers > MOST_KEPT:
            kept = self._kept = _Kept(key)
        for text in texts:
            if (text, said) not in kept.states:
                found = kept.states[text, said] = self._encode(pipe, [text], **options)[0]
                kept.numbers += found.numel()
        return {text: kept.states[text, said] for text in texts}


@dataclass
class _Kept:
    """States by text and options, how many numbers they are, and the text encoders that they are of."""

    encoders: Any = None
    states: dict[tuple[str, str], torch.Tensor] = field(default_factory=dict)
    numbers: int = 0


def _name_of_encoders(pipe: Any) -> tuple[Any, ...]:
    """A value that differs after a text encoder was exchanged, was given a LoRA, was cast, or was changed in place.

    It also differs after each pass of an encoder that is offloaded layer by layer, whose weights come and go.
    """
    modules = [getattr(pipe, name, None) for name in ("text_encoder", "text_encoder_2")]
    weights = [p for module in modules if isinstance(module, torch.nn.Module) for p in module.parameters()]
    return (*map(id, modules), *((id(weight), weight._version, weight.dtype) for weight in weights))


def phrase_states(pipe: Any, phrases: Sequence[str], **options: Any) -> torch.Tensor:
    """States of phrases at their last word and at their end of text, [P, 2, D].

    options: parameters of the pipeline's encode_prompt; use the same as for the prompts.
    Raises GuardError for a pipeline without a tokenizer, and for a phrase of which the text encoder knows no word.
    """
    tokenizer = getattr(pipe, "tokenizer", None)
    if tokenizer is None:
        raise GuardError(
            f"{type(pipe).__name__} has no tokenizer, so limits in words cannot be encoded.",
            hint="Keep to ban lists of categories, or encode with a pipeline that has one.",
        )
    found = []
    for phrase in phrases:
        require_readable(tokenizer, phrase)
        states = encode_texts(pipe, phrase, has_negative=False, **options).prompt_embeds[0]  # [T, D]
        length = min(len(tokens_of(pipe, phrase, truncation=True, max_length=len(states))), len(states))
        found.append(states[[length - 2, length - 1]])
    return torch.stack(found)


def require_readable(tokenizer: Any, phrase: str) -> None:
    """Raises GuardError for a phrase that a tokenizer cannot tell from nothing: no token of it is known."""
    with TOKENIZERS:
        tokens = tokenizer(phrase).input_ids[1:-1]
    unknown = getattr(tokenizer, "unk_token_id", None)
    if not tokens or all(token == unknown for token in tokens):
        raise GuardError(
            "The text encoder of this base knows no word of a limit, so it could not be kept.",
            hint="Write the limit in the language of the base's prompts (mostly English).",
        )


def with_limits(users: CheckedUsers, states: dict[str, torch.Tensor]) -> RowUsers:
    """The rows of users with the states of their limits. states: [2, D] by phrase."""
    most = max(map(len, users.phrases))
    if not most:
        return users.rows
    like = next(iter(states.values()))
    limits = like.new_zeros((len(users.phrases), most, *like.shape))
    strength = torch.zeros(len(users.phrases), most)
    for row, phrases in enumerate(users.phrases):
        for place, (phrase, value) in enumerate(phrases):
            limits[row, place], strength[row, place] = states[phrase], value
    return replace(users.rows, limits=limits.float().cpu(), limit_strength=strength)
