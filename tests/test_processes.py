"""Calls in a process of its own: it is replaced when it dies, and ends when it is told to."""

import os
import signal
import subprocess
import sys
import threading
import time
from functools import partial

import pytest

from psalign.processes import ProcessDied, Worker, call_all


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


def test_calls_are_shared_by_processes_and_their_results_are_in_order():
    assert call_all([partial(divmod, n, 2) for n in range(5)]) == [divmod(n, 2) for n in range(5)]
    assert call_all([partial(divmod, n, 2) for n in range(5)], workers=2) == [divmod(n, 2) for n in range(5)]
    assert os.getpid() not in call_all([os.getpid] * 2, workers=2)


@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_call_raises_is_raised(workers):
    with pytest.raises(ZeroDivisionError):
        call_all([partial(divmod, 1, 1), partial(divmod, 1, 0)], workers=workers)


def test_a_worker_ends_when_its_parent_is_killed():
    code = (
        "import os, time; from psalign.processes import Worker; one = Worker({}); "
        "print(one.call(os.getpid), flush=True); one.call(time.sleep, 600)"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    worker = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and _is_running(worker):
        time.sleep(0.1)
    assert not _is_running(worker)


def _is_running(pid):
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    with open(f"/proc/{pid}/stat") as stream:  # a zombie has ended
        return stream.read().rpartition(")")[2].split()[0] != "Z"
