"""Training pairs from cached SAGE rows and user vectors; a batch is a function of seed and step alone.

Place on the path of data: between the cache and the trainer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..errors import DatasetError
from ..records import fingerprint
from ..sage.cache import Cache
from ..sage.rows import SageRow
from ..users.embedding import EmbeddingStore


@dataclass(frozen=True)
class PairBatch:
    """B pairs.

    chosen, rejected: latents [B, C, h, w]. states: of the caption, [B, T, D]. own_states: of the caption that tells the
    chosen picture, [B, T, D]. vectors: [B, llm_dim]. with_user: [B], False where the user was dropped.
    noise: [B, C, h, w]. timesteps: [B].
    """

    chosen: torch.Tensor
    rejected: torch.Tensor
    states: torch.Tensor
    own_states: torch.Tensor
    vectors: torch.Tensor
    with_user: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    rows: tuple[int, ...]

    def to(self, device: torch.device) -> PairBatch:
        moved = {k: v.to(device) for k, v in vars(self).items() if isinstance(v, torch.Tensor)}
        return PairBatch(**moved, rows=self.rows)


class Pairs:
    """All pairs of a split. Raises DatasetError where a pair lacks the row that tells its chosen picture."""

    def __init__(self, rows: Sequence[SageRow], cache: Cache, users: EmbeddingStore) -> None:
        self.cache = cache
        ids = sorted({row.user_id for row in rows})
        self.vectors = torch.from_numpy(users.vectors(ids))
        user = {user_id: i for i, user_id in enumerate(ids)}
        told = {(row.pair, row.caption_kind): row.caption for row in rows}
        table = [
            (
                cache.pictures[row.chosen],
                cache.pictures[row.rejected],
                cache.captions[row.caption],
                cache.captions[_own_caption(row, told)],
                user[row.user_id],
            )
            for row in rows
        ]
        self.table = np.array(table)
        # Names every preference and every vector, so that a run never goes on with others.
        self.name = fingerprint([cache.name, table, self.vectors.numpy().tobytes().hex()])

    def __len__(self) -> int:
        return len(self.table)

    def batch(
        self,
        step: int,
        *,
        size: int,
        seed: int,
        caption_dropout: float,
        user_dropout: float,
        timesteps: tuple[int, int],
        rewritten_share: float | None = None,
    ) -> PairBatch:
        """The batch of a step: epochs of shuffled rows, then noise, timesteps and dropouts, all from (seed, step).

        timesteps: drawn uniformly from [low, high). rewritten_share: share of the batch whose chosen picture is told by
        another caption (something is to be taken away); None: as the rows come.
        """
        numbers = self._rows(step, size, seed, rewritten_share)
        chosen, rejected, caption, own, user = self.table[numbers].T
        generator = torch.Generator().manual_seed(seed * 1_000_003 + step)
        empty = len(self.cache.states) - 1
        dropped = torch.rand(size, generator=generator) < caption_dropout
        caption = np.where(dropped.numpy(), empty, caption)
        own = np.where(dropped.numpy(), empty, own)
        with_user = torch.rand(size, generator=generator) >= user_dropout
        noise = torch.randn((size, *self.cache.means.shape[1:]), generator=generator)
        spread = torch.randn(noise.shape, generator=generator)
        return PairBatch(
            chosen=self._latents(chosen, spread),
            rejected=self._latents(rejected, spread),
            states=self.cache.states[caption].float(),
            own_states=self.cache.states[own].float(),
            vectors=self.vectors[user],
            with_user=with_user,
            noise=noise,
            timesteps=torch.randint(*timesteps, (size,), generator=generator),
            rows=tuple(int(n) for n in numbers),
        )

    def _rows(self, step: int, size: int, seed: int, rewritten_share: float | None) -> np.ndarray:
        if rewritten_share is None:
            return _draw(np.arange(len(self)), step, size, seed)
        rewritten = self.table[:, 2] != self.table[:, 3]
        count = round(size * rewritten_share)
        parts = ((np.flatnonzero(rewritten), count, seed), (np.flatnonzero(~rewritten), size - count, seed + 1))
        return np.concatenate([_draw(numbers, step, n, s) for numbers, n, s in parts if n and len(numbers)])

    def _latents(self, numbers: np.ndarray, spread: torch.Tensor) -> torch.Tensor:
        return self.cache.means[numbers].float() + self.cache.stds[numbers].float() * spread


def _draw(numbers: np.ndarray, step: int, size: int, seed: int) -> np.ndarray:
    """The rows of a step: every number once per epoch, epochs one after the other."""
    first = step * size
    epochs = range(first // len(numbers), (first + size - 1) // len(numbers) + 1)
    order = np.concatenate([np.random.default_rng((seed, epoch)).permutation(numbers) for epoch in epochs])
    return order[first % len(numbers) :][:size]


def _own_caption(row: SageRow, told: dict[tuple[tuple[str, str, str, str], str], str]) -> str:
    kind = "unsafe" if row.chosen.endswith("_u.jpg") else "safe"
    try:
        return told[(row.pair, kind)]
    except KeyError:
        raise DatasetError(
            f"User {row.user_id}, {row.category}, '{row.concept}', {row.index}: "
            f"no row has the {kind} caption of this pair."
        ) from None
