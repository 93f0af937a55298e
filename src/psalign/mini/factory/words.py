"""What a text encoder learns from words alone: what stands around a word, and what a text means.

Place on the path of data: a part of the loss of mini/factory/base.py and rewording.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch.nn import functional as F

from .. import language, world
from ..names import KIND_NAMES, NAMES, plural
from .tokenizer import MAX_TOKENS

if TYPE_CHECKING:
    from transformers import CLIPTokenizer


@dataclass(frozen=True)
class Meaning:
    """What a text is about.

    motifs: those that it names; kinds: their categories; denied: motifs that it denies.
    """

    motifs: tuple[str, ...] = ()
    kinds: tuple[str, ...] = ()
    denied: tuple[str, ...] = ()


class Words:
    """What the text encoder learns from words.

    Each token predicts itself and the words around it; the end of a sentence, and all after it, predicts
    every word of the sentence but those that it denies, and the first names and kinds of the motifs that it
    names.
    """

    around = 5
    limits_share = 0.25

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        self.tokenizer = tokenizer
        self._cache: dict[str, list[int]] = {}
        self._definitions = [
            (sentence, Meaning((motif,), (category,)))
            for motif, category in world.MOTIF_CATEGORY.items()
            for sentence in world.definitions_of(motif)
        ]
        self._limits = [(sentence, Meaning()) for _, sentence in language.limits()]
        self._first_ids = {motif: self._words(motif) for motif in NAMES}
        self._kind_ids = {category: self._words(kind) for category, kind in world.KINDS.items()}
        self._all_ids = {
            thing: sorted({i for name in names for i in self._words(f"{name} {plural(name)}")})
            for thing, names in (NAMES | KIND_NAMES).items()
        }

    def sentences(self, rng: np.random.Generator, count: int) -> tuple[list[str], list[Meaning]]:
        """Random definitions and sentences of users, and what they mean."""
        pools = [self._limits if rng.random() < self.limits_share else self._definitions for _ in range(count)]
        rows = [pool[rng.integers(len(pool))] for pool in pools]
        return [text for text, _ in rows], [meaning for _, meaning in rows]

    def ids(self, texts: Sequence[str]) -> torch.Tensor:
        """Token ids [B, T]."""
        return torch.tensor([self._encode(text) for text in texts])

    def loss(self, ids: torch.Tensor, logits: torch.Tensor, meant: Sequence[Meaning]) -> torch.Tensor:
        """Mean cross-entropy of the words to predict.

        ids: [B, T]; logits: [B, T, V]; meant: what each row means.
        """
        logp = F.log_softmax(logits, dim=-1)
        end = (ids == self.tokenizer.eos_token_id).int().argmax(1, keepdim=True)  # [B, 1]
        position = torch.arange(ids.shape[1])[None]
        inside = (position > 0) & (position < end)  # [B, T]
        total, count = logp.new_zeros(()), 0
        for offset in range(-self.around, self.around + 1):
            target, there = ids.roll(-offset, 1), inside & inside.roll(-offset, 1)
            total = total - (logp.gather(-1, target[..., None])[..., 0] * there).sum()
            count += int(there.sum())
        said = torch.zeros(ids.shape[0], logits.shape[-1]).scatter_add_(1, ids, inside.float()).clamp(max=1)
        for row, meaning in enumerate(meant):
            for thing in (*meaning.denied, *{world.MOTIF_CATEGORY[motif] for motif in meaning.denied}):
                said[row, self._all_ids[thing]] = 0.0
            for motif in meaning.motifs:
                said[row, self._first_ids[motif]] = 2.0
            for category in meaning.kinds:
                said[row, self._kind_ids[category]] = 2.0
        closing = -torch.einsum("btv,bv->bt", logp, said / said.sum(1, keepdim=True).clamp(min=1))
        after = (position >= end) & inside.any(1, keepdim=True)
        return total / count + (closing * after).sum() / after.sum()

    def _words(self, text: str) -> list[int]:
        return [i for i in self._encode(text)[1:] if i != self.tokenizer.eos_token_id]

    def _encode(self, text: str) -> list[int]:
        if text not in self._cache:
            encoded = self.tokenizer(text, padding="max_length", truncation=True, max_length=MAX_TOKENS)
            self._cache[text] = list(encoded.input_ids)
        return self._cache[text]
