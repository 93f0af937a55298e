"""Calls in a process of its own: it is replaced when it dies, and ends when it is told to."""

import os
import signal
import threading
import time

import pytest

from psalign.processes import ProcessDied, Worker


@pytest.fixture
def worker():
    one = Worker({"PSALIGN_TEST": "7"})
    yield one
    one.stop()


def test_a_process_that_dies_is_replaced(worker):
    first = worker.call(os.getpid)
    assert first != os.getpid()
    assert worker.call(os.getpid) == first
    with pytest.raises(ProcessDied, match="the process ended before it answered: it was killed, or memory was used up"):
        worker.call(os.kill, first, signal.SIGKILL)
    assert worker.call(os.getpid) not in (first, os.getpid())
    assert worker.call(os.getenv, "PSALIGN_TEST") == "7"
    assert os.getenv("PSALIGN_TEST") is None


def test_stopping_ends_a_call(worker):
    worker.call(os.getpid)
    timer = threading.Timer(0.2, worker.stop)
    timer.start()
    start = time.monotonic()
    with pytest.raises(ProcessDied):
        worker.call(time.sleep, 60)
    assert time.monotonic() - start < 30
    with pytest.raises(ProcessDied, match="was stopped"):
        worker.call(os.getpid)
