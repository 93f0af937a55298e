"""Training rows of captions alone: a caption, the caption of the chosen picture, and a user.

Place on the path of data: between text states on disk and the trainer. No picture is read, or needs to be there. What a
step draws is a function of seed and step alone, whatever the batch size, accumulation and number of processes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch

from ..adapter.users import RowUsers
from ..categories import category_names
from ..errors import DatasetError, some_of
from ..fingerprints import fingerprint
from ..sage.cache.texts import TextCache
from ..sage.caption_rows import CaptionRow
from ..users.store import EmbeddingStore
from .config import TrainingConfig
from .pairs import SIDES, ban_codes, draw_epochs

NONE = -1  # in place of a category or a caption that there is not


@dataclass(frozen=True)
class CaptionPlan:
    """The rows of a step.

    rows: [G]. captioned, with_list: [G]; without its ban list a row has its user's vector alone. reading: seed of the
    queries and layers of this step.
    """

    rows: np.ndarray
    captioned: np.ndarray
    with_list: np.ndarray
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
    """B rows of a step.

    states: text states of the caption, [B, T, D], in float16 until `to`. chosen: text states of the caption of the
    chosen picture. other: text states of the caption of the rejected picture; where there is no such caption, those of
    the row's own caption.
    rewritten: [B], True where the chosen picture has another caption than the row. stays: [B, T], True for tokens that
    the caption of the chosen picture has too, wherever it has them. pooled, chosen_pooled, other_pooled:
    pooled text states, [B, P], on SDXL alone. vectors, bans, is_known, limits, limit_strength: see RowUsers. cells:
    [B], the number of side and category, or -1 for a row that is neither banned nor allowed. reading: the seed from
    which the queries and layers of the step are drawn.
    """

    states: torch.Tensor
    chosen: torch.Tensor
    other: torch.Tensor | None
    rewritten: torch.Tensor
    stays: torch.Tensor
    vectors: torch.Tensor
    bans: torch.Tensor
    is_known: torch.Tensor
    cells: torch.Tensor
    reading: int
    limits: torch.Tensor | None = None
    limit_strength: torch.Tensor | None = None
    pooled: torch.Tensor | None = None
    chosen_pooled: torch.Tensor | None = None
    other_pooled: torch.Tensor | None = None

    def __len__(self) -> int:
        return len(self.states)

    @property
    def users(self) -> RowUsers:
        """The users of the rows, as an adapter takes them."""
        ones = torch.ones(len(self), device=self.states.device)
        return RowUsers(self.vectors, ones, self.bans, self.is_known, self.limits, self.limit_strength)

    def to(self, device: torch.device) -> CaptionBatch:
        """On a device, in float32: text states travel in half the bytes."""
        values = vars(self).items()
        moved = {k: v.to(device, non_blocking=True) for k, v in values if isinstance(v, torch.Tensor)}
        whole: Any = {k: v.float() if v.dtype == torch.float16 else v for k, v in moved.items()}
        return replace(self, **whole)


@dataclass(frozen=True)
class CaptionTexts:
    """What captions say. cache: the text states of every caption. tokens: their tokens, [captions, T], in the order of
    cache.numbers. memory_gb: states that need no more are held in memory."""

    cache: TextCache
    tokens: np.ndarray
    memory_gb: float = 2.0


class Captions:
    """All rows of captions of a split, with the states of their captions.

    phrases: states [2, D] of every limit in words of the rows, by phrase. compare: batches also hold the states of the
    other caption of a pair.
    """

    def __init__(
        self,
        rows: Sequence[CaptionRow],
        texts: CaptionTexts,
        users: EmbeddingStore,
        *,
        phrases: Mapping[str, torch.Tensor] | None = None,
        compare: bool = False,
    ) -> None:
        self.rows, self.texts, self.tokens, self.compare = list(rows), texts.cache, texts.tokens, compare
        ids = sorted({row.user_id for row in rows if row.user_id is not None})
        # Where a store's vectors end in a code, it is the one that the vector itself says: lists go beside it.
        self.vectors = torch.from_numpy(users.vectors(ids, exact=False)) if ids else torch.zeros(0, users.width)
        self.bans, self.is_known = ban_codes([users.banned(user_id) for user_id in ids])
        user: dict[str | None, int] = {None: NONE, **{user_id: i for i, user_id in enumerate(ids)}}
        self.table = np.array([self._entry(row, user) for row in rows], np.int64)
        self.states = texts.cache.held("states", texts.memory_gb)
        self.phrases, self.limits = _limit_table(rows, phrases or {})
        # Names every preference and every vector, so that a run never goes on with others.
        known = [self.bans.tolist(), self.is_known.tolist(), self.limits.tolist(), sorted(phrases or ())]
        self.name = fingerprint([self.texts.name, self.table.tolist(), self.vectors.numpy().tobytes().hex(), known])

    def __len__(self) -> int:
        return len(self.table)

    @property
    def safe_captions(self) -> list[str]:
        """Captions that are known to be safe: safe captions, or what users get instead of what they ban."""
        safe = {row.caption for row in self.rows if row.side == "safe"}
        return sorted(safe or {row.chosen_caption for row in self.rows if row.side == "banned"}) or [""]

    def plan(self, step: int, *, size: int, config: TrainingConfig) -> CaptionPlan:
        """The rows of a step: shuffled epochs, one after the other, of rows with something to take away and of others.

        Raises DatasetError where the config asks for a share of rows of a kind that there are none of.
        """
        rows = self._draw_rows(step, size, config)
        rng = np.random.default_rng((config.seed, step))
        caption, ban_list = rng.random((2, size))
        return CaptionPlan(
            rows=rows,
            captioned=caption >= config.caption_dropout,
            with_list=ban_list >= config.list_dropout,
            reading=int(rng.integers(2**31)),
        )

    def batch(self, plan: CaptionPlan, *, seed: int = 0) -> CaptionBatch:
        """The tensors of planned rows."""
        caption, chosen, other, user, category, side = self.table[plan.rows].T
        other = np.where(other == NONE, caption, other)
        caption, chosen, other = (np.where(plan.captioned, n, self.texts.empty) for n in (caption, chosen, other))
        has_cell = (side < 2) & (category != NONE)
        return CaptionBatch(
            states=self._text("states", caption),
            chosen=self._text("states", chosen),
            other=self._text("states", other) if self.compare else None,
            rewritten=torch.from_numpy(caption != chosen),
            stays=torch.from_numpy(_stay(self.tokens[caption], self.tokens[chosen])),
            **self._users(plan, user),
            cells=torch.from_numpy(np.where(has_cell, side * len(category_names()) + category, NONE)),
            reading=plan.reading,
            **self._of_sdxl(caption, chosen, other),
        )

    def row_numbers(self, plan: CaptionPlan, limit: int = 8) -> str:
        """The rows of a plan, for messages: their numbers in the split."""
        return some_of(list(map(str, plan.rows.tolist())), limit)

    def _entry(self, row: CaptionRow, user: Mapping[str | None, int]) -> tuple[int, ...]:
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
        """Numbers of rows: with limits and with users by limit_share, each with something to take away or nothing."""
        limited, rewritten = self.table[:, 3] == NONE, self.table[:, 0] != self.table[:, 1]
        both = bool(limited.any() and not limited.all())
        count = round(size * config.limit_share) if both else size * int(limited.any())
        parts = []
        for of_limits, total, seed in ((False, size - count, config.seed), (True, count, config.seed + 2)):
            if config.rewritten_share is None:
                parts.append(("", np.flatnonzero(limited == of_limits), total, seed))
                continue
            some = round(total * config.rewritten_share)
            for what, is_some, n in (("something", True, some), ("nothing", False, total - some)):
                numbers = np.flatnonzero((limited == of_limits) & (rewritten == is_some))
                parts.append((what, numbers, n, seed + 1 - is_some))
        for what, numbers, n, _ in parts:
            if n and not len(numbers):
                raise DatasetError(
                    f"{n} of the {size} rows of a step are to have {what} to take away (rewritten_share); "
                    "the dataset has no such row."
                )
        return np.concatenate([draw_epochs(numbers, step, n, seed)[0] for _, numbers, n, seed in parts if n])

    def _users(self, plan: CaptionPlan, user: np.ndarray) -> dict[str, Any]:
        """Tensors of RowUsers. A row with limits has no user: its list is known to be empty."""
        has_user = torch.from_numpy(user != NONE)
        own = np.maximum(user, 0)
        vectors = self.vectors[own] if len(self.vectors) else self.vectors.new_zeros(len(own), self.vectors.shape[1])
        bans = self.bans[own] if len(self.bans) else self.bans.new_zeros(len(own), self.bans.shape[1])
        known = self.is_known[own] if len(self.is_known) else torch.zeros(len(own), dtype=torch.bool)
        known = known & torch.from_numpy(plan.with_list)
        found = {
            "vectors": vectors * has_user[:, None],
            "bans": bans * (known & has_user)[:, None],
            "is_known": known | ~has_user,
        }
        if not len(self.phrases):
            return found
        limits = torch.from_numpy(self.limits[plan.rows])  # [B, M]
        return {**found, "limits": self.phrases[limits.clamp(min=0)], "limit_strength": (limits != NONE).float()}

    def _text(self, name: str, captions: np.ndarray) -> torch.Tensor:
        if name == "states" and self.states is not None:
            return self.states[captions]
        return self.texts.rows.read(name, captions)

    def _of_sdxl(self, caption: np.ndarray, chosen: np.ndarray, other: np.ndarray) -> dict[str, Any]:
        if "pooled" not in self.texts.rows.names():
            return {}
        more = {"other_pooled": self._text("pooled", other)} if self.compare else {}
        return {"pooled": self._text("pooled", caption), "chosen_pooled": self._text("pooled", chosen), **more}


def caption_tokens(tokenizer: Any, texts: TextCache) -> np.ndarray:
    """Tokens of every caption by its number, [captions, T], cut off or padded to the T of the text states."""
    length = texts.rows.read("states", [0]).shape[1]
    captions = sorted(texts.numbers, key=texts.numbers.__getitem__)
    tokens = tokenizer(captions, padding="max_length", truncation=True, max_length=length).input_ids
    return np.array(tokens, np.int32)


def _stay(tokens: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Which tokens of captions [B, T] the captions of the chosen pictures [B, T] have too, wherever they have them."""
    found: np.ndarray = (tokens[:, :, None] == chosen[:, None]).any(-1)
    return found


def _limit_table(rows: Sequence[CaptionRow], states: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, np.ndarray]:
    """States of all phrases [P, 2, D], and the numbers of each row's limits [rows, M], NONE where it has fewer."""
    number = {phrase: i for i, phrase in enumerate(states)}
    most = max((len(row.limits or ()) for row in rows), default=0) if states else 0
    table = np.full((len(rows), most), NONE, np.int64)
    for row, phrases in enumerate(row.limits or () for row in rows):
        table[row, : len(phrases)] = [number[phrase] for phrase in phrases]
    return torch.stack(list(states.values())).float() if states else torch.zeros(0, 2, 0), table
