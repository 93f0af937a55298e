"""Text states of limits in words, by the base's own text encoder.

Place on the path of data: step 4, the source of user tokens that needs no training of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import torch

from ..errors import GuardError
from .text import encode_texts
from .users import CheckedUsers, RowUsers

MOST_KEPT = 4096  # texts


class KeptStates:
    """Keeps the states of phrases or words, so that each is encoded once and not with every prompt.

    They belong to one state of the text encoders: after a weight was exchanged or changed in place, texts are encoded
    again. torch does not count changes through `tensor.data`; such changes are not seen.
    encode: gives the states of each of some texts, as phrase_states does.
    """

    def __init__(self, encode: Callable[..., Sequence[torch.Tensor] | torch.Tensor]) -> None:
        self._encode = encode
        self._key: Any = None
        self._kept: dict[tuple[str, str], torch.Tensor] = {}

    def states(self, pipe: Any, texts: Sequence[str], options: dict[str, Any]) -> dict[str, torch.Tensor]:
        """States by text. options: parameters of the pipeline's encode_prompt. Raises what `encode` does."""
        key, said = _name_of_encoders(pipe), repr(sorted(options.items()))
        if key != self._key or len(self._kept) > MOST_KEPT:
            self._key, self._kept = key, {}
        kept = self._kept  # another thread may begin a new one meanwhile
        for text in texts:
            if (text, said) not in kept:
                kept[text, said] = self._encode(pipe, [text], **options)[0]
        return {text: kept[text, said] for text in texts}


def _name_of_encoders(pipe: Any) -> tuple[Any, ...]:
    """A value that differs after a text encoder was exchanged, was given a LoRA, or was changed in place."""
    modules = [getattr(pipe, name, None) for name in ("text_encoder", "text_encoder_2")]
    weights = [p for module in modules if isinstance(module, torch.nn.Module) for p in module.parameters()]
    return (*map(id, modules), *((id(weight), weight._version) for weight in weights))


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
        length = min(len(tokenizer(phrase, truncation=True, max_length=len(states)).input_ids), len(states))
        found.append(states[[length - 2, length - 1]])
    return torch.stack(found)


def require_readable(tokenizer: Any, phrase: str) -> None:
    """Raises GuardError for a phrase that a tokenizer cannot tell from nothing: no token of it is known."""
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
