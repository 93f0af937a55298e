"""Pairs of pictures of a SAGE dataset as baselines learn from them: latents and texts, by category.

Place on the path of data: from SAGE rows to the trainings of SafetyDPO and of soft prompts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..config import settings
from ..errors import DatasetError
from ..files import Record
from ..sage.cache.framing import Framing
from ..sage.cache.latents import Cache, PictureSource, build_cache
from ..sage.dataset import load_split
from ..sage.rows import SageRow
from ..training.schedule import require_trainable
from .denoiser import Condition
from .steps import generator_of


@dataclass(frozen=True, eq=False)
class Noised:
    """Rows of a step. safe, unsafe: noisy latents [B, C, H, W] of both pictures with the same noise. timesteps: [B].
    unsafe_text, safe_text: what the captions ask for. rows: the rows of the dataset."""

    safe: torch.Tensor
    unsafe: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    unsafe_text: Condition
    safe_text: Condition
    rows: Sequence[tuple[SageRow, SageRow]]


class PicturePairs:
    """Pairs of one safe and one unsafe picture, with both captions, each picture once, whoever its user is."""

    def __init__(self, pipe: Any, data: Path, folder: Path, *, framing: Record | None = None) -> None:
        """data: a SAGE dataset, whose split `train` is read. folder: for latents and text states, kept.

        Raises DatasetError where a pair lacks a caption or a picture; UsageError for a base model that is not trained
        on noise.
        """
        require_trainable(pipe)
        rows = load_split(data, "train", check_pictures=False)
        rows = [row for row in rows if all((data / "train" / name).is_file() for name in (row.chosen, row.rejected))]
        self.pairs: dict[str, list[tuple[SageRow, SageRow]]] = {}
        by_pair: dict[Any, dict[str, SageRow]] = {}
        for row in rows:
            by_pair.setdefault(row.pair, {})[row.caption_kind] = row
        for kinds in by_pair.values():
            if len(kinds) == 2:
                self.pairs.setdefault(kinds["unsafe"].category, []).append((kinds["unsafe"], kinds["safe"]))
        used = [row for pairs in self.pairs.values() for pair in pairs for row in pair]
        if not used:
            raise DatasetError(
                f"{data} has no pair of pictures with both captions in its split train.",
                hint="A dataset of captions alone trains no baseline that learns from pictures.",
            )
        frame = settings(Framing, framing, section="pictures")
        self.pipe = pipe
        self.cache: Cache = build_cache(used, pipe, pictures=PictureSource(data / "train", frame), folder=folder)
        self.name = self.cache.name
        self._alphas = pipe.scheduler.alphas_cumprod

    def of(self, category: str | None) -> list[tuple[SageRow, SageRow]]:
        """Pairs of a category, or of all (None). Raises DatasetError where there are none."""
        pairs = [pair for name, found in self.pairs.items() if category in (None, name) for pair in found]
        if not pairs:
            raise DatasetError(f"The dataset has no pair of pictures of {category}.")
        return pairs

    def draw(self, pairs: Sequence[tuple[SageRow, SageRow]], *, size: int, seed: int, step: int) -> Noised:
        """Noisy latents of a step, all that is random in it drawn from seed and step."""
        generator = generator_of(seed, step)
        chosen = [pairs[i] for i in torch.randint(len(pairs), (size,), generator=generator).tolist()]
        timesteps = torch.randint(len(self._alphas), (size,), generator=generator)
        device = self.pipe._execution_device
        safe = self._latents([unsafe.safe_picture for unsafe, _ in chosen], generator)
        unsafe = self._latents([unsafe.unsafe_picture for unsafe, _ in chosen], generator)
        noise = torch.randn(safe.shape, generator=generator)
        alphas = self._alphas.cpu()[timesteps].reshape(-1, 1, 1, 1)
        noisy = [(alphas.sqrt() * one + (1 - alphas).sqrt() * noise).to(device) for one in (safe, unsafe)]
        texts = [self._text([row.caption for row in column]) for column in zip(*chosen, strict=True)]
        return Noised(noisy[0], noisy[1], noise.to(device), timesteps, texts[0], texts[1], chosen)

    def _latents(self, names: Sequence[str], generator: torch.Generator) -> torch.Tensor:
        numbers = np.array([self.cache.pictures[name] for name in names])
        means, stds = (self.cache.latents.read(name, numbers).float() for name in ("means", "stds"))
        return means + stds * torch.randn(means.shape, generator=generator)

    def _text(self, captions: Sequence[str]) -> Condition:
        numbers = np.array([self.cache.captions[caption] for caption in captions])
        texts, device = self.cache.texts, self.pipe._execution_device
        pooled = texts.read("pooled", numbers).float().to(device) if "pooled" in texts.names() else None
        return Condition(texts.read("states", numbers).float().to(device), pooled)
