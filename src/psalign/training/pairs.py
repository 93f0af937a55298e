"""Training pairs from cached SAGE rows and user vectors; a step's pairs are a function of seed and step alone.

Place on the path of data: between the cache and the trainer. What is drawn for a pair (noise, timestep, dropouts, the
mirrored variant) depends on seed, row and draw, not on the batch it comes in: any batch size, accumulation and number
of processes with the same product sees the same pairs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache

import numpy as np
import torch

from ..categories import category_names
from ..errors import DatasetError, some_of
from ..fingerprints import fingerprint
from ..sage.cache.latents import Cache
from ..sage.caption_rows import captions_by_kind, chosen_caption, side_of
from ..sage.rows import SageRow
from ..users.store import EmbeddingStore
from .config import TrainingConfig

# What a row is about: an unsafe caption of a category that the user bans, or allows; a safe caption.
SIDES = ("banned", "allowed", "safe")


@dataclass(frozen=True)
class Plan:
    """The pairs of a step. rows: [G]; draws: [G], which draw of its row each is; visual: [G], True for a safe
    picture and a poor rendering of it; with_user, flipped, captioned, with_list: [G]; timesteps: [G]."""

    rows: np.ndarray
    draws: np.ndarray
    visual: np.ndarray
    with_user: np.ndarray
    flipped: np.ndarray
    captioned: np.ndarray
    with_list: np.ndarray
    timesteps: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, index: int, size: int) -> Plan:
        """Pairs index * size to (index + 1) * size."""
        where = slice(index * size, (index + 1) * size)
        return Plan(**{field.name: getattr(self, field.name)[where] for field in fields(self)})


@dataclass(frozen=True)
class PairBatch:
    """B pairs.

    chosen, rejected: latents [B, C, h, w]. states: of the caption, [B, T, D]. own_states: of the caption of the
    chosen picture, [B, T, D]; rewritten: [B], True where it is another. pooled, own_pooled: [B, P], and time_ids
    [B, 6], of SDXL alone. vectors, bans, is_known: of the users, see RowUsers. with_user: [B], False where the user was
    dropped. safe, visual: [B].
    cells: [B], side and category by number, -1 for safe captions. noise: [B, C, h, w]. timesteps: [B].
    """

    chosen: torch.Tensor
    rejected: torch.Tensor
    states: torch.Tensor
    own_states: torch.Tensor
    rewritten: torch.Tensor
    vectors: torch.Tensor
    bans: torch.Tensor
    is_known: torch.Tensor
    with_user: torch.Tensor
    safe: torch.Tensor
    visual: torch.Tensor
    cells: torch.Tensor
    noise: torch.Tensor
    timesteps: torch.Tensor
    pooled: torch.Tensor | None = None
    own_pooled: torch.Tensor | None = None
    time_ids: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.timesteps)

    def to(self, device: torch.device) -> PairBatch:
        moved = {k: v.to(device, non_blocking=True) for k, v in vars(self).items() if isinstance(v, torch.Tensor)}
        return replace(self, **moved)


class Pairs:
    """All pairs of a split. Raises DatasetError where a pair lacks the row that describes its chosen picture."""

    def __init__(self, rows: Sequence[SageRow], cache: Cache, users: EmbeddingStore) -> None:
        self.rows, self.cache = list(rows), cache
        ids = sorted({row.user_id for row in rows})
        self.vectors = torch.from_numpy(users.vectors(ids))
        self.bans, self.is_known = ban_codes([users.banned(user_id) for user_id in ids])
        user = {user_id: i for i, user_id in enumerate(ids)}
        captions = captions_by_kind(rows)
        table = [
            (
                cache.pictures[row.chosen],
                cache.pictures[row.rejected],
                cache.captions[row.caption],
                cache.captions[chosen_caption(row, captions)],
                user[row.user_id],
                category_names().index(row.category),
                SIDES.index(side_of(row)),
            )
            for row in rows
        ]
        self.table = np.array(table)
        # Names every preference and every vector, so that a run never goes on with others.
        bans = [self.bans.tolist(), self.is_known.tolist()]
        self.name = fingerprint([cache.name, table, self.vectors.numpy().tobytes().hex(), bans])

    def __len__(self) -> int:
        return len(self.table)

    def plan(self, step: int, *, size: int, config: TrainingConfig) -> Plan:
        """The pairs of a step of `size` pairs: shuffled epochs, one after the other.

        Raises DatasetError where the config asks for a share of pairs of a kind that there are none of.
        """
        rows, draws, visual = self._rows(step, size, config)
        scalars = [_scalars(config.seed, row, draw, config) for row, draw in zip(rows, draws, strict=True)]
        columns = (np.array(column) for column in zip(*scalars, strict=True))
        captioned, with_user, flipped, timesteps, with_list = columns
        if "flipped" not in self.cache.variants:
            flipped = np.zeros_like(flipped)
        return Plan(rows, draws, visual, with_user, flipped, captioned, with_list, timesteps)

    def batch(self, plan: Plan, *, seed: int) -> PairBatch:
        """The tensors of planned pairs."""
        chosen, rejected, caption, own, user, category, side = self.table[plan.rows].T
        rejected = np.where(plan.visual, chosen, rejected)
        caption, own = (np.where(plan.captioned, numbers, self.cache.empty) for numbers in (caption, own))
        latents = self.cache.rows_of(chosen, flipped=plan.flipped, degraded=np.zeros_like(plan.visual))
        others = self.cache.rows_of(rejected, flipped=plan.flipped, degraded=plan.visual)
        noise, spread = self._noise(plan, seed)
        return PairBatch(
            chosen=self._latents(latents, spread),
            rejected=self._latents(others, spread),
            states=self._text("states", caption),
            own_states=self._text("states", own),
            rewritten=torch.from_numpy(caption != own),
            vectors=self.vectors[user],
            bans=self.bans[user],
            is_known=self.is_known[user] & torch.from_numpy(plan.with_list),
            with_user=torch.from_numpy(plan.with_user),
            safe=torch.from_numpy(side == SIDES.index("safe")),
            visual=torch.from_numpy(plan.visual),
            cells=torch.from_numpy(np.where(side < 2, side * len(category_names()) + category, -1)),
            noise=noise,
            timesteps=torch.from_numpy(plan.timesteps),
            **self._of_sdxl(caption, own, latents),
        )

    def row_numbers(self, plan: Plan, limit: int = 8) -> str:
        """The rows of a plan, for messages: their numbers in the split and their chosen pictures."""
        return some_of([f"{number} ({self.rows[number].chosen})" for number in plan.rows.tolist()], limit)

    def _rows(self, step: int, size: int, config: TrainingConfig) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Rows, draws and whether visual, of a step: three kinds of rows, each in epochs of its own."""
        everything, seed = np.arange(len(self)), config.seed
        visual = round(size * config.visual_share)
        safe = np.flatnonzero(self.table[:, 6] == SIDES.index("safe"))
        parts = [("with a safe caption (visual_share)", safe, visual, seed + 2, True)]
        if config.rewritten_share is None:
            parts.append(("", everything, size - visual, seed, False))
        else:
            is_rewritten = self.table[:, 2] != self.table[:, 3]
            some, none = np.flatnonzero(is_rewritten), np.flatnonzero(~is_rewritten)
            count = round((size - visual) * config.rewritten_share)
            parts.append(("with something to take away (rewritten_share)", some, count, seed, False))
            parts.append(("with nothing to take away (rewritten_share)", none, size - visual - count, seed + 1, False))
        for what, numbers, n, _, _ in parts:
            if n and not len(numbers):
                raise DatasetError(f"{n} of the {size} pairs of a step are to be some {what}; the dataset has none.")
        drawn = [(*draw_epochs(numbers, step, n, s), np.full(n, v)) for _, numbers, n, s, v in parts if n]
        rows, epochs, is_visual = (np.concatenate(column) for column in zip(*drawn, strict=True))
        draws = epochs % config.reference_draws if config.reference_draws else epochs
        return rows, draws, is_visual

    def _noise(self, plan: Plan, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        shape = self.cache.latents.read("means", [0]).shape[1:]
        both = [
            torch.randn((2, *shape), generator=torch.Generator().manual_seed(_seed("noise", seed, row, draw)))
            for row, draw in zip(plan.rows.tolist(), plan.draws.tolist(), strict=True)
        ]
        noise, spread = torch.stack(both, dim=1)
        return noise, spread

    def _latents(self, numbers: np.ndarray, spread: torch.Tensor) -> torch.Tensor:
        means, stds = (self.cache.latents.read(name, numbers).float() for name in ("means", "stds"))
        return means + stds * spread

    def _text(self, name: str, captions: np.ndarray) -> torch.Tensor:
        return self.cache.texts.read(name, captions).float()

    def _of_sdxl(self, caption: np.ndarray, own: np.ndarray, latents: np.ndarray) -> dict[str, torch.Tensor]:
        if "pooled" not in self.cache.texts.names():
            return {}
        sizes = self.cache.latents.read("sizes", latents)
        return {"pooled": self._text("pooled", caption), "own_pooled": self._text("pooled", own), "time_ids": sizes}


def ban_codes(lists: Sequence[Sequence[str] | None]) -> tuple[torch.Tensor, torch.Tensor]:
    """Ban lists as numbers [U, C], 1 for a banned category, and whether each is known, [U]."""
    names = category_names()
    codes = [[float(name in (bans or ())) for name in names] for bans in lists]
    return torch.tensor(codes).reshape(len(lists), len(names)), torch.tensor([bans is not None for bans in lists])


def draw_epochs(numbers: np.ndarray, step: int, size: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The numbers of a step and their epochs: each number once per epoch, in an order of the epoch's own."""
    epochs, places = np.divmod(np.arange(step * size, (step + 1) * size), len(numbers))
    orders = np.stack([_order(len(numbers), seed, epoch) for epoch in range(epochs[0], epochs[-1] + 1)])
    return numbers[orders[epochs - epochs[0], places]], epochs


@lru_cache(maxsize=8)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch; kept, since all its steps need it."""
    return np.random.default_rng((seed, epoch)).permutation(count)


def _scalars(seed: int, row: int, draw: int, config: TrainingConfig) -> tuple[bool, bool, bool, int, bool]:
    """What a pair keeps (caption, user, ban list), whether it is mirrored, and its timestep."""
    caption, user, flip, timestep, listed = np.random.default_rng(_seed("scalars", seed, row, draw)).random(5)
    low, high = config.timesteps
    return (
        bool(caption >= config.caption_dropout),
        bool(user >= config.user_dropout),
        bool(flip < 0.5),
        int(low + timestep * (high - low)),
        bool(listed >= config.list_dropout),
    )


def _seed(*parts: object) -> int:
    return int(fingerprint([str(part) for part in parts]), 16) >> 1
