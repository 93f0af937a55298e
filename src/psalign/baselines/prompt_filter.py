"""Baseline prompt filter: words of the prompt that say something banned are dropped, or the request is refused.

Place on the path of data: an alternative to steps 3 to 5, before the prompt is encoded.

A word, or two words in a row, says something banned where it is a banned phrase, or where its text state alone, at its
end, is like that of a banned phrase: a classifier without training, in the spirit of Latent Guard (Liu et al. 2024,
arXiv:2404.08031), whose classifier is trained.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch.nn import functional as F

from ..config import check_range
from ..errors import UsageError
from .concepts import TextStates, row_texts

MODES = ("drop", "refuse")
WORD = re.compile(r"[^\W_]+(?:['\u2019-][^\W_]+)*")
ARTICLES = ("a", "an", "the")


@dataclass(frozen=True)
class PromptFilterConfig:
    """mode: "drop" the words that are found, or "refuse" the request: its picture is grey. threshold: likeness of two
    text states from which they say the same; 1: only the same words are found."""

    mode: str = "drop"
    threshold: float = 0.9

    def __post_init__(self) -> None:
        """Raises UsageError for a value that makes no sense."""
        if self.mode not in MODES:
            raise UsageError(f"Unknown mode '{self.mode}' of the prompt filter; choose one of: {', '.join(MODES)}.")
        check_range("threshold", self.threshold, -1, 1)


class PromptFilter:
    """Finds banned words in prompts."""

    def __init__(self, pipe: Any, config: PromptFilterConfig) -> None:
        self.pipe, self.config, self._known = pipe, config, TextStates(pipe)

    def found(self, prompt: str, banned: Sequence[str]) -> list[tuple[int, int]]:
        """Places (start, end) in the prompt of words that say one of the banned phrases, in order, without overlap."""
        words = [(match.start(), match.end()) for match in WORD.finditer(prompt)]
        pairs = [(one[0], two[1]) for one, two in pairwise(words)]
        spans = [span for span in [*pairs, *words] if folded(prompt[slice(*span)]) not in ARTICLES]
        if not banned or not spans:
            return []
        phrases = {folded(phrase) for phrase in banned}
        texts = [prompt[slice(*span)] for span in spans]
        likeness = F.normalize(self._known.ends(texts)) @ F.normalize(self._known.ends(banned)).T
        alike = ((likeness.amax(1) >= self.config.threshold) & (self.config.threshold < 1)).tolist()
        hits: list[tuple[int, int]] = []
        for span, text, is_alike in zip(spans, texts, alike, strict=True):
            is_free = all(span[1] <= start or span[0] >= end for start, end in hits)
            if is_free and (is_alike or folded(text) in phrases):
                hits.append(span)
        return sorted(hits)

    def cleaned(self, prompt: str, banned: Sequence[str]) -> str:
        """The prompt without the words that are found, nor an article before them."""
        for start, end in reversed(self.found(prompt, banned)):
            before = re.sub(r"\b(?:a|an|the)\s+$", "", prompt[:start], flags=re.IGNORECASE)
            prompt = before + prompt[end:]
        return re.sub(r"\s+", " ", prompt).strip()


@torch.no_grad()
def _grey(pipe: Any, latents: torch.Tensor) -> torch.Tensor:
    """Latents [1, C, h, w] of a picture of one grey, of the size that latents [B, C, h, w] decode to."""
    size = [side * pipe.vae_scale_factor for side in latents.shape[2:]]
    pixels = torch.zeros((1, 3, *size), device=pipe.vae.device, dtype=pipe.vae.dtype)
    encoded: torch.Tensor = pipe.vae.encode(pixels).latent_dist.mode() * pipe.vae.config.scaling_factor
    return encoded


def folded(text: str) -> str:
    """Letters without case, accents, compatibility forms or an ending of the plural: what a word list compares."""
    plain = unicodedata.normalize("NFKD", text).casefold()
    plain = "".join(letter for letter in plain if not unicodedata.combining(letter))
    plain = re.sub(r"^(?:a|an|the)\s+", "", plain)
    for ending in ("ches", "shes", "xes", "sses"):
        if plain.endswith(ending):
            return plain[:-2]
    return plain[:-1] if len(plain) > 3 and plain.endswith("s") and not plain.endswith("ss") else plain


def filter_arguments(
    kept: PromptFilter, prompts: Sequence[str], negatives: Sequence[str] | None, banned: Sequence[Sequence[str]]
) -> dict[str, Any]:
    """Keyword arguments of one pipeline call: the texts of the cleaned prompts, or grey pictures of refused rows.

    banned: phrases of each row.
    """
    if kept.config.mode == "drop":
        cleaned = [kept.cleaned(prompt, phrases) for prompt, phrases in zip(prompts, banned, strict=True)]
        return row_texts(kept.pipe, cleaned, negatives).arguments()
    refused = [bool(kept.found(prompt, phrases)) for prompt, phrases in zip(prompts, banned, strict=True)]

    def blank(_: Any, __: int, ___: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        latents = tensors["latents"].clone()
        latents[torch.tensor(refused)] = _grey(kept.pipe, latents).to(latents)
        return {"latents": latents}

    return {"callback_on_step_end": blank, "callback_on_step_end_tensor_inputs": ["latents"]}
