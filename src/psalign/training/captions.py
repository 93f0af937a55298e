"""Training rows of captions alone: a caption, the caption that tells the chosen picture, and a user.

Place on the path of data: between text states on disk and the trainer. No picture is read, or needs to be there. What a
step draws is a function of seed and step alone, whatever the batch size, accumulation and number of processes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from ..categories import category_names
from ..errors import DatasetError
from ..records import fingerprint
from ..sage.cache import TextCache
from ..sage.caption_rows import CaptionRow
from ..users.embedding import EmbeddingStore
from .config import TrainingConfig
from .pairs import SIDES

NONE = -1  # in place of a category or a caption that there is not


@dataclass(frozen=True)
class CaptionPlan:
    """The rows of a step.

    rows, users: [G], and the users by number whose vectors they get (another's where vectors are swapped). captioned,
    with_vector, with_code: [G]; without its exact code a row has the estimated one. reading: seed of the queries and
    layers of this step.
    """

    rows: np.ndarray
    users: np.ndarray
    captioned: np.ndarray
    with_vector: np.ndarray
    with_code: np.ndarray
    reading: int

    def __len__(self) -> int:
        return len(self.rows)

    def part(self, index: int, size: int) -> CaptionPlan:
        """Rows index * size to (index + 1) * size."""
        where = slice(index * size, (index + 1) * size)
        arrays = {f.name: getattr(self, f.name)[where] for f in fields(self) if f.name != "reading"}
        return CaptionPlan(**arrays, reading=self.reading)


@dataclass(frozen=True)
class CaptionBatch:
    """B rows.

    states: of the caption, [B, T, D]; told: of the caption that tells the chosen picture; other: of the one that tells
    the rejected picture (the caption itself where there is none). pooled, told_pooled, other_pooled: [B, P], of SDXL
    alone. rewritten: [B], True where told is another caption. vectors: [B, width]. cells: [B], side and category by
    number, -1 for rows that are neither banned nor allowed. reading: seed of the step's queries and layers.
    """

    states: torch.Tensor
    told: torch.Tensor
    other: torch.Tensor | None
    rewritten: torch.Tensor
    vectors: torch.Tensor
    cells: torch.Tensor
    reading: int
    pooled: torch.Tensor | None = None
    told_pooled: torch.Tensor | None = None
    other_pooled: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.states)

    def to(self, device: torch.device) -> CaptionBatch:
        values = vars(self).items()
        moved: Any = {k: v.to(device, non_blocking=True) for k, v in values if isinstance(v, torch.Tensor)}
        return replace(self, **moved)


class Captions:
    """All rows of captions of a split, with the states of their captions.

    texts: states of every caption. compare: batches also hold the states of the other caption of a pair.
    """

    def __init__(
        self,
        rows: Sequence[CaptionRow],
        texts: TextCache,
        users: EmbeddingStore,
        *,
        memory_gb: float = 2.0,
        compare: bool = False,
    ) -> None:
        self.rows, self.texts, self.compare = list(rows), texts, compare
        ids = sorted({row.user_id for row in rows})
        self.vectors = torch.from_numpy(users.vectors(ids))
        self.code_width = users.code_width
        self.estimates = torch.from_numpy(users.vectors(ids, exact=False))[:, self.vectors.shape[1] - self.code_width :]
        user = {user_id: i for i, user_id in enumerate(ids)}
        self.table = np.array([self._entry(row, user) for row in rows], np.int64)
        self.states = texts.held("states", memory_gb)
        # Names every preference and every vector, so that a run never goes on with others.
        self.name = fingerprint([texts.name, self.table.tolist(), self.vectors.numpy().tobytes().hex()])

    def __len__(self) -> int:
        return len(self.table)

    @property
    def safe_captions(self) -> list[str]:
        """Captions that are known to be harmless: safe captions, or what users get instead of what they ban."""
        safe = {row.caption for row in self.rows if row.side == "safe"}
        return sorted(safe or {row.chosen_caption for row in self.rows if row.side == "banned"}) or [""]

    def plan(self, step: int, *, size: int, config: TrainingConfig) -> CaptionPlan:
        """The rows of a step: shuffled epochs, one after the other, of rows with something to take away and of others.

        Raises DatasetError where the config asks for a share of rows of a kind that there are none of.
        """
        rows = self._draw_rows(step, size, config)
        rng = np.random.default_rng((config.seed, step))
        caption, vector, code = rng.random((3, size))
        strangers = rng.integers(len(self.vectors), size=size)
        reading = int(rng.integers(2**31))
        has_code = np.full(size, self.code_width > 0)
        swapped = has_code & (vector >= 1 - config.vector_swap)
        with_code = has_code & ((code >= config.code_dropout) | swapped | (vector < config.vector_dropout))
        return CaptionPlan(
            rows=rows,
            users=np.where(swapped, strangers, self.table[rows, 3]),
            captioned=caption >= config.caption_dropout,
            with_vector=~has_code | (vector >= config.vector_dropout),
            with_code=with_code,
            reading=reading,
        )

    def batch(self, plan: CaptionPlan, *, seed: int = 0) -> CaptionBatch:
        """The tensors of planned rows."""
        caption, told, other, _, category, side = self.table[plan.rows].T
        other = np.where(other == NONE, caption, other)
        caption, told, other = (np.where(plan.captioned, n, self.texts.empty) for n in (caption, told, other))
        has_cell = (side < 2) & (category != NONE)
        return CaptionBatch(
            states=self._text("states", caption),
            told=self._text("states", told),
            other=self._text("states", other) if self.compare else None,
            rewritten=torch.from_numpy(caption != told),
            vectors=self._vectors(plan),
            cells=torch.from_numpy(np.where(has_cell, side * len(category_names()) + category, NONE)),
            reading=plan.reading,
            **self._of_sdxl(caption, told, other),
        )

    def told(self, plan: CaptionPlan, limit: int = 8) -> str:
        """The rows of a plan, for messages: their numbers in the split."""
        more = f" and {len(plan) - limit} more" if len(plan) > limit else ""
        return ", ".join(str(number) for number in plan.rows[:limit].tolist()) + more

    def _entry(self, row: CaptionRow, user: dict[str, int]) -> tuple[int, ...]:
        number, other = self.texts.numbers, row.other_caption
        return (
            number[row.caption],
            number[row.chosen_caption],
            NONE if other is None else number[other],
            user[row.user_id],
            NONE if row.category is None else category_names().index(row.category),
            SIDES.index(row.side),
        )

    def _draw_rows(self, step: int, size: int, config: TrainingConfig) -> np.ndarray:
        if config.rewritten_share is None:
            return _of_epochs(np.arange(len(self)), step, size, config.seed)
        is_rewritten = self.table[:, 0] != self.table[:, 1]
        count = round(size * config.rewritten_share)
        parts = [
            ("something", np.flatnonzero(is_rewritten), count, config.seed),
            ("nothing", np.flatnonzero(~is_rewritten), size - count, config.seed + 1),
        ]
        for what, numbers, n, _ in parts:
            if n and not len(numbers):
                raise DatasetError(
                    f"{n} of the {size} rows of a step are to have {what} to take away (rewritten_share); "
                    "the dataset has no such row."
                )
        return np.concatenate([_of_epochs(numbers, step, n, seed) for _, numbers, n, seed in parts if n])

    def _vectors(self, plan: CaptionPlan) -> torch.Tensor:
        """Vectors [B, width]: zero where the plan drops them, and the row's own ban code, exact or estimated."""
        own, given = self.table[plan.rows, 3], self.vectors[plan.users]
        if not self.code_width:
            return given
        vector = given[:, : -self.code_width] * torch.from_numpy(plan.with_vector)[:, None]
        exact = torch.from_numpy(plan.with_code)[:, None]
        return torch.cat(
            [vector, torch.where(exact, self.vectors[own, -self.code_width :], self.estimates[own])], dim=1
        )

    def _text(self, name: str, captions: np.ndarray) -> torch.Tensor:
        if name == "states" and self.states is not None:
            return self.states[captions].float()
        return self.texts.rows.read(name, captions).float()

    def _of_sdxl(self, caption: np.ndarray, told: np.ndarray, other: np.ndarray) -> dict[str, Any]:
        if "pooled" not in self.texts.rows.names():
            return {}
        more = {"other_pooled": self._text("pooled", other)} if self.compare else {}
        return {"pooled": self._text("pooled", caption), "told_pooled": self._text("pooled", told), **more}


def _of_epochs(numbers: np.ndarray, step: int, size: int, seed: int) -> np.ndarray:
    """The numbers of a step: every one once per epoch, in an order of its own, epochs one after the other."""
    positions = np.arange(step * size, (step + 1) * size)
    epochs, places = np.divmod(positions, len(numbers))
    orders = np.stack([numbers[_order(len(numbers), seed, epoch)] for epoch in range(epochs[0], epochs[-1] + 1)])
    drawn: np.ndarray = orders[epochs - epochs[0], places]
    return drawn


@lru_cache(maxsize=8)
def _order(count: int, seed: int, epoch: int) -> np.ndarray:
    """The order of an epoch; kept, since all its steps need it."""
    return np.random.default_rng((seed, epoch)).permutation(count)
