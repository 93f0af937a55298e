"""A process of its own for work that may end its process: it is replaced when it dies.

Place on the path of data: under what is measured on several GPUs. concurrent.futures has the process and its
queue; a pool of one, so that a death costs the call that caused it and no other.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import suppress
from queue import SimpleQueue
from typing import Any, TypeVar

T = TypeVar("T")


class ProcessDied(Exception):
    """A process ended before it answered."""


class Worker:
    """Calls functions in one other process, which has environment variables of its own."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self.environment, self._stopped = dict(environment), False
        self._pool: ProcessPoolExecutor | None = None
        self._pid: int | None = None

    def call(self, function: Callable[..., T], *arguments: Any) -> T:
        """The result of a function of a module, whose arguments can be pickled.

        Raises ProcessDied where the process ends first; the next call starts another one. Raises it too after
        `stop`.
        """
        if self._stopped:
            raise ProcessDied("the process was stopped")
        try:
            if self._pool is None:
                spawn = multiprocessing.get_context("spawn")  # a forked process could not use a GPU
                self._pool = ProcessPoolExecutor(1, spawn, initializer=_begin, initargs=(self.environment,))
                self._pid = self._pool.submit(os.getpid).result()
            return self._pool.submit(function, *arguments).result()
        except BrokenProcessPool as err:
            self._end()
            raise ProcessDied("the process ended before it answered: it was killed, or memory was used up") from err

    def close(self) -> None:
        """End the process when it has answered."""
        if self._pool is not None:
            self._pool.shutdown()
        self._stopped, self._pool, self._pid = True, None, None

    def stop(self) -> None:
        """End the process, whatever it is doing."""
        self._stopped = True
        self._end()

    def _end(self) -> None:
        if self._pid is not None:
            with suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGTERM)
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
        self._pool = self._pid = None


def threads_of(workers: int) -> int:
    """How many threads each of so many processes has, which share the CPU's cores."""
    return max(1, (os.cpu_count() or 1) // max(1, workers))


class Workers:
    """So many processes that share the CPU's cores, for calls that are independent of each other; one: none but this.

    Used as a context. Where an error ends it, the processes are ended whatever they are doing.
    """

    def __init__(self, count: int) -> None:
        environment = {"OMP_NUM_THREADS": str(threads_of(count))}
        self._workers = [Worker(environment) for _ in range(count if count > 1 else 0)]

    def __enter__(self) -> Workers:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        for worker in self._workers:
            if kind is None:
                worker.close()
            else:
                worker.stop()

    def call_all(self, calls: Sequence[Callable[[], T]]) -> list[T]:
        """The results of calls, in their order. calls: functions of a module, or partial ones that can be pickled.

        Raises what the first failing call raises, and ends the others; ProcessDied where a process was killed.
        """
        if not self._workers:
            return [call() for call in calls]
        free: SimpleQueue[Worker] = SimpleQueue()
        for worker in self._workers:
            free.put(worker)

        def make(call: Callable[[], T]) -> T:
            worker = free.get()
            try:
                return worker.call(call)
            finally:
                free.put(worker)

        threads = ThreadPoolExecutor(len(self._workers))
        try:
            return [future.result() for future in [threads.submit(make, call) for call in calls]]
        except BaseException:
            for worker in self._workers:
                worker.stop()
            raise
        finally:
            threads.shutdown(cancel_futures=True)


def call_all(calls: Sequence[Callable[[], T]], *, workers: int = 1) -> list[T]:
    """The results of calls that several processes share. See Workers."""
    with Workers(workers) as shared:
        return shared.call_all(calls)


def _begin(environment: Mapping[str, str]) -> None:
    os.environ.update(environment)  # before a library that reads it is imported
    sys.stdout = sys.stderr  # results are the first process's to print
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the first process ends this one
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()


def _end_with(parent: int) -> None:
    """End this process soon after its parent was killed: nobody would read what it still computes."""
    while os.getppid() == parent:
        time.sleep(1)
    os._exit(1)
