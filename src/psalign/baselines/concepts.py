"""What a baseline is to take away: phrases, those of all categories or of one user, and what text encoders say of them.

Place on the path of data: beside step 4, for methods that know users by their limits alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..adapter.text import Texts, encode_texts
from ..categories import category_names, current
from ..diffusion.generate import Users, known_bans
from ..errors import UsageError

Phrases = tuple[str, ...]


def concept_phrases(words: Mapping[str, str] | None = None) -> dict[str, Phrases]:
    """By category, the phrases that stand for it: those of the taxonomy in use, or each of the given words.

    words: for each category, its words in one text, separated by spaces. Raises UsageError where a category has none.
    """
    if words is None:
        return {one.name: tuple(one.phrases) for one in current().categories}
    phrases = {name: tuple(words.get(name, "").split()) for name in category_names()}
    empty = [name for name, found in phrases.items() if not found]
    if empty:
        raise UsageError(f"No words stand for {', '.join(empty)}, so nothing can be taken away for it.")
    return phrases


@dataclass(frozen=True)
class Asked:
    """What to take away for one picture, and what to leave as it is: phrases."""

    erase: Phrases
    keep: Phrases = ()


def asked_by(user_id: str | None, users: Users, concepts: Mapping[str, Phrases]) -> Asked:
    """The phrases of what a user bans, then the user's own limits in words; those of all else are kept.

    A row of no user has all categories taken away. concepts: see concept_phrases.
    Raises UnknownUser where nothing says what the user bans.
    """
    banned = tuple(concepts) if user_id is None else known_bans(users, user_id)
    limits = () if user_id is None else tuple(phrase for phrase, _ in users.limits(user_id))
    erase = tuple(phrase for name in concepts if name in banned for phrase in concepts[name]) + limits
    keep = tuple(phrase for name in concepts if name not in banned for phrase in concepts[name])
    return Asked(erase, tuple(phrase for phrase in keep if phrase not in erase))


class TextStates:
    """States of short texts, each encoded once: phrases come again with every row."""

    def __init__(self, pipe: Any) -> None:
        self.pipe = pipe
        self._kept: dict[str, tuple[torch.Tensor, int]] = {}

    def __call__(self, text: str) -> tuple[torch.Tensor, int]:
        """States of a text [T, D], float32, and the place of its end of text."""
        if text not in self._kept:
            states = encode_texts(self.pipe, text).prompt_embeds[0].float()
            self._kept[text] = (states, end_of_text(self.pipe, text))
        return self._kept[text]

    def ends(self, texts: Sequence[str]) -> torch.Tensor:
        """What each text says as a whole: its state at its end of text, [len(texts), D]."""
        return torch.stack([states[end] for states, end in map(self, texts)])


def end_of_text(pipe: Any, text: str) -> int:
    """Place of the first end-of-text token, as far as the encoder reads."""
    return len(pipe.tokenizer(text, truncation=True, max_length=pipe.tokenizer.model_max_length).input_ids) - 1


def row_texts(pipe: Any, prompts: Sequence[str], negatives: Sequence[str] | None) -> Texts:
    """Text states of a batch, [B, T, D] each, prompts and unconditional texts, as the pipeline encodes them."""
    return encode_texts(pipe, prompts, negatives)
