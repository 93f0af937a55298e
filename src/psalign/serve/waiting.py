"""Rows that wait to be drawn, and which of them are drawn together.

A batch shares its size, steps and guidance and nothing else: its rows may belong to different keys and people.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass, field
from time import monotonic

import numpy as np

from ..users.vectors import UserBatch
from .logs import Origin


@dataclass(frozen=True)
class Kind:
    """What all rows of a batch share. width, height: pixels. steps: of denoising. guidance: classifier-free scale."""

    width: int
    height: int
    steps: int
    guidance: float


@dataclass(frozen=True)
class Work:
    """One picture to draw. users: a batch of one row, the person whose limits hold. scale: strength of the adapter.

    person: an opaque name, by which the people of a batch are counted. A repr shows nothing personal.
    """

    prompt: str = field(repr=False)
    users: UserBatch = field(repr=False)
    seed: int
    scale: float = 1.0
    person: str = field(default="", repr=False)


@dataclass(eq=False)
class Row:
    """One picture that somebody waits for.

    owner: account of the API key, between which the queue is fair. partial_steps: steps, from 0, after which
    on_partial is called in the engine's thread with the picture of that step, uint8 RGB [H, W, 3].
    result: gets the picture or an error; cancel it and the row is left out. origin: the request that it is of.
    """

    owner: str
    kind: Kind
    work: Work
    partial_steps: frozenset[int] = frozenset()
    on_partial: Callable[[np.ndarray], None] | None = None
    result: Future[np.ndarray] = field(default_factory=Future)
    queued_at: float = field(default_factory=monotonic)
    origin: Origin = field(default_factory=Origin.now)

    @property
    def is_wanted(self) -> bool:
        """Whether somebody still waits for it."""
        return not self.result.done()


class FairQueue:
    """Rows by owner, in the order in which they came; owners take turns. Not safe for threads by itself."""

    def __init__(self) -> None:
        self._rows: OrderedDict[str, deque[Row]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._rows.values()))

    def __iter__(self) -> Iterator[Row]:
        return (row for rows in self._rows.values() for row in rows)

    def waiting_of(self, owner: str) -> int:
        return len(self._rows.get(owner, ()))

    def add(self, row: Row) -> None:
        self._rows.setdefault(row.owner, deque()).append(row)

    def drop_unwanted(self) -> None:
        """Forget rows that nobody waits for any more."""
        for owner, rows in list(self._rows.items()):
            self._keep(owner, deque(row for row in rows if row.is_wanted))

    def next_kind(self) -> Kind | None:
        """The kind of the batch that is next: that of the first row of the owner whose turn it is."""
        return next((rows[0].kind for rows in self._rows.values()), None)

    def of_kind(self, kind: Kind) -> list[Row]:
        return [row for row in self if row.kind == kind]

    def take(self, most: int) -> list[Row]:
        """The next batch, at most that many rows, in turns of the owners; the owner who was first is then last."""
        kind = self.next_kind()
        if kind is None:
            return []
        first = next(iter(self._rows))
        fitting = {owner: deque(row for row in rows if row.kind == kind) for owner, rows in self._rows.items()}
        taken: list[Row] = []
        while len(taken) < most and any(fitting.values()):
            for rows in fitting.values():
                if rows and len(taken) < most:
                    taken.append(rows.popleft())
        for owner, rows in list(self._rows.items()):
            self._keep(owner, deque(row for row in rows if row not in taken))
        if first in self._rows:
            self._rows.move_to_end(first)
        return taken

    def clear(self) -> list[Row]:
        """Take every row out."""
        rows = list(self)
        self._rows.clear()
        return rows

    def _keep(self, owner: str, rows: deque[Row]) -> None:
        if rows:
            self._rows[owner] = rows
        else:
            self._rows.pop(owner, None)
