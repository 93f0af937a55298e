"""Takes rows from the queue and draws them, batch after batch, in one thread.

Every row that was taken in ends with a picture or with an error: `Row.result` says which.
"""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import InvalidStateError
from contextlib import suppress
from dataclasses import dataclass
from time import monotonic
from typing import Protocol

import numpy as np

from ..errors import PSAlignError, UsageError, is_out_of_memory, release
from .artist import DeviceLost, Stopped, Watch
from .logs import LOG, span, tell_failure
from .metrics import Metrics
from .waiting import FairQueue, Kind, Row, Work

SLOWEST_S = 60.0  # longest wait that Retry-After says


class Draws(Protocol):
    """What the engine needs of an artist."""

    def check(self, work: Work) -> None: ...

    def draw(self, works: Sequence[Work], kind: Kind, watch: Watch) -> np.ndarray: ...


class Busy(PSAlignError):
    """Too much waits. retry_after_s: when to come again."""

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class Closed(PSAlignError):
    """The engine takes no more rows, or stopped before this one was drawn."""


@dataclass(frozen=True)
class EngineSettings:
    """max_batch: rows drawn together at most. max_wait_ms: how long a row waits for others to be drawn with it.

    max_waiting, max_waiting_of_key: rows in the queue, of all and of one account; more are refused.
    fixed_batch: the number of rows of every batch (see Artist), in place of max_batch; it is never halved.
    """

    max_batch: int = 8
    max_wait_ms: float = 20.0
    max_waiting: int = 256
    max_waiting_of_key: int = 64
    fixed_batch: int = 0

    def __post_init__(self) -> None:
        """Raises UsageError for numbers out of range."""
        if min(self.max_batch, self.max_waiting, self.max_waiting_of_key) < 1 or not 0 <= self.max_wait_ms < 60_000:
            raise UsageError("max_batch and the limits of the queue must be at least 1, max_wait_ms from 0 to 60000.")
        if self.fixed_batch < 0:
            raise UsageError(f"fixed_batch must be at least 1, or 0 for none; saw {self.fixed_batch}.")


class Engine:
    """One queue and one thread that draws. artist: see Draws; None until `start` is given one."""

    def __init__(self, settings: EngineSettings, metrics: Metrics) -> None:
        self.settings, self.metrics = settings, metrics
        self.max_batch = settings.fixed_batch or settings.max_batch  # halved where memory is used up
        self._queue, self._changed = FairQueue(), threading.Condition()
        self._is_closing = False
        self._drawn_now: list[Row] = []
        self._row_s = 0.1  # of one row, as measured lately
        self._thread: threading.Thread | None = None
        self._artist: Draws | None = None
        metrics.watch_queue(lambda: len(self._queue), lambda: len(self._drawn_now))

    # --- from any thread ----------------------------------------------------------------------------------------------

    def start(self, artist: Draws) -> None:
        self._artist = artist
        self._thread = threading.Thread(target=self._run, name="psalign-engine", daemon=True)
        self._thread.start()

    @property
    def was_started(self) -> bool:
        return self._thread is not None

    @property
    def is_ready(self) -> bool:
        """Whether rows are taken in and drawn."""
        return self._thread is not None and self._thread.is_alive() and not self._is_closing

    @property
    def is_idle(self) -> bool:
        with self._changed:
            return not self._queue and not self._drawn_now

    def submit(self, rows: Sequence[Row]) -> None:
        """Take in all of these rows, or none. Raises Busy, Closed."""
        with self._changed:
            if not self.is_ready:
                raise Closed("The service is starting, stopping or broken; nothing was drawn.")
            of_owner = self._queue.waiting_of(rows[0].owner) + len(rows)
            if of_owner > self.settings.max_waiting_of_key or len(self._queue) + len(rows) > self.settings.max_waiting:
                raise Busy("Too many pictures wait to be drawn.", self._expected_wait_s())
            for row in rows:
                self._queue.add(row)
            self._changed.notify_all()

    def close(self, timeout_s: float) -> bool:
        """Take in nothing more, draw what waits, and end. Rows that are left after the time get Closed.

        Returns whether everything was drawn.
        """
        with self._changed:
            self._is_closing = True
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join(timeout_s)
        return not self._give_up("The service stopped before this picture was drawn.")

    # --- in the engine's thread ---------------------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            while rows := self._next_batch():
                self._serve(rows)
                self._drawn_now = []
        except BaseException as err:
            tell_failure("the engine ended", err, event="engine_ended")
        finally:
            self._is_closing = True
            self._give_up("The engine of the service ended.")

    def _next_batch(self) -> list[Row]:
        """Rows to draw together; empty at the end."""
        with self._changed:
            while True:
                self._queue.drop_unwanted()
                kind = self._queue.next_kind()
                if kind is None:
                    if self._is_closing:
                        return []
                    self._changed.wait()
                    continue
                fitting = self._queue.of_kind(kind)
                left_s = min(row.queued_at for row in fitting) + self.settings.max_wait_ms / 1000 - monotonic()
                if len(fitting) >= self.max_batch or left_s <= 0 or self._is_closing:
                    self._drawn_now = self._queue.take(self.max_batch)
                    return self._drawn_now
                self._changed.wait(left_s)

    def _serve(self, rows: list[Row]) -> None:
        """Draw rows. Where a batch fails, its halves, so that a row that cannot be drawn fails alone."""
        rows = [row for row in rows if self._passes(row)]
        if rows:
            begun = monotonic()
            for row in rows:
                self.metrics.queue_s.observe(begun - row.queued_at)
            self._draw(rows)
            self._row_s = 0.8 * self._row_s + 0.2 * (monotonic() - begun) / len(rows)

    def _passes(self, row: Row) -> bool:
        assert self._artist is not None
        try:
            self._artist.check(row.work)
        except DeviceLost:
            raise
        except Exception as err:
            release(err)
            finish(row, error=err)
        return row.is_wanted

    def _draw(self, rows: list[Row]) -> None:
        assert self._artist is not None
        rows = [row for row in rows if row.is_wanted]
        if not rows:
            return
        self.metrics.batch_size.observe(len(rows))
        self.metrics.people_per_batch.observe(len({row.work.person for row in rows}))
        with span("psalign.batch", _facts(rows), of=[row.origin for row in rows]) as tell:
            error = self._tried(rows)
            tell({"psalign.outcome": "failed" if error else "drawn"})
        if error is None:
            return
        if isinstance(error, DeviceLost):
            raise error
        is_too_large = is_out_of_memory(error)
        if is_too_large:
            self._shrink(len(rows))
        if len(rows) == 1 or (is_too_large and self.settings.fixed_batch):  # halves are filled up to the same size
            for row in rows:
                finish(row, error=error)
            return
        half = len(rows) // 2
        self._draw(rows[:half])
        self._draw(rows[half:])

    def _tried(self, rows: list[Row]) -> Exception | None:
        """Draw rows. Returns what went wrong, without the tensors of the call, which the halves need room for."""
        assert self._artist is not None
        try:
            pictures = self._artist.draw([row.work for row in rows], rows[0].kind, self._watch(rows))
        except Stopped:
            return None
        except Exception as err:  # torch and diffusers raise nearly anything; it ends at the rows that it concerns
            failure = err
        else:
            for row, picture in zip(rows, pictures, strict=True):
                finish(row, picture=picture)
            return None
        release(failure)
        return failure

    def _watch(self, rows: Sequence[Row]) -> Watch:
        def watch(step: int, look: Callable[[Sequence[int]], np.ndarray]) -> bool:
            places = [place for place, row in enumerate(rows) if step in row.partial_steps and row.is_wanted]
            for place, picture in zip(places, look(places) if places else (), strict=True):
                on_partial = rows[place].on_partial
                if on_partial is not None:
                    on_partial(picture)
            return any(row.is_wanted for row in rows)

        return watch

    def _shrink(self, tried: int) -> None:
        """Draw half as many rows at once from now on, unless the batch is fixed, and free what can be freed."""
        import torch

        if not self.settings.fixed_batch:
            with self._changed:
                self.max_batch = max(1, min(self.max_batch, tried // 2))
        self.metrics.out_of_memory.inc()
        LOG.warning("memory is used up", extra={"psalign": {"event": "out_of_memory", "max_batch": self.max_batch}})
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _expected_wait_s(self) -> float:
        return min(max(1.0, (len(self._queue) + len(self._drawn_now)) * self._row_s), SLOWEST_S)

    def _give_up(self, why: str) -> int:
        """Give an error to every row that is left. Returns how many got one."""
        with self._changed:
            rows = [row for row in self._drawn_now + self._queue.clear() if row.is_wanted]
        for row in rows:
            finish(row, error=Closed(why))
        return len(rows)


def _facts(rows: Sequence[Row]) -> dict[str, int | list[str]]:
    """What the span of a batch says."""
    kind = rows[0].kind
    return {
        "psalign.rows": len(rows),
        "psalign.people": len({row.work.person for row in rows}),
        "psalign.steps": kind.steps,
        "psalign.width": kind.width,
        "psalign.height": kind.height,
        "psalign.request_ids": list(dict.fromkeys(row.origin.request_id for row in rows)),
    }


def finish(row: Row, *, picture: np.ndarray | None = None, error: BaseException | None = None) -> None:
    """Give a row its end, unless it has one."""
    with suppress(InvalidStateError):
        if error is not None:
            row.result.set_exception(error)
        elif picture is not None:
            row.result.set_result(picture)
