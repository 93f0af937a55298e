"""Kill -9 in the middle of 200 judgements, twice: none is lost, and none that was kept is paid for again."""

import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from judge_server import JudgeServer, answer_honestly, read_request, write_cell

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[3]
ROWS, CONCURRENCY, KILLS = 200, 4, (60, 140)


@pytest.fixture
def folder(tmp_path):
    rows = [{"prompt": f"violence {n}", "banned": ("Violence",), "meta": {"categories": ["Violence"]},
             "shows": "Violence" if n % 3 else "nothing"} for n in range(ROWS)]  # fmt: skip
    write_cell(tmp_path / "eval_images", "base", rows)
    return tmp_path


class Counted(JudgeServer):
    """An honest judge that says when it was asked so often."""

    def __init__(self):
        super().__init__(self._answer, delay_s=0.01)
        self.reached = {count: threading.Event() for count in KILLS}

    def _answer(self, body, times):
        for count, event in self.reached.items():
            if len(self.bodies) >= count:
                event.set()
        return answer_honestly(body, times)


def start(folder, server, out):
    arguments = ("--mode", "evaluate", "--dataset", "sage_seen", "--models", "base", "--repeat", "0", "--yes",
                 "--judge-model", "m", "--endpoint", server.url, "--concurrency", str(CONCURRENCY))  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "OPENAI_API_KEY": "none"}
    command = [sys.executable, "-m", "psalign", "eval", "judge", *arguments, "--out", out]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(folder, server, out):
    """Run to the end. Returns the results."""
    child = start(folder, server, out)
    _, err = child.communicate(timeout=60)
    assert child.returncode == 0, err.decode()
    return json.loads((folder / out / "sage_seen/sd15/base.json").read_text())


def stop(folder, server, count, how):
    """Start, and end it from outside at so many requests. Returns its exit status and what it said."""
    child = start(folder, server, "stopped")
    assert server.reached[count].wait(60)
    child.send_signal(how)
    _, err = child.communicate(timeout=60)
    assert not (folder / "stopped/sage_seen").exists()
    return child.returncode, err.decode()


def kept(folder):
    """Keys of the whole lines of the cache; a torn one behind them counts for nothing."""
    content = (folder / "stopped/judgements.jsonl").read_bytes()
    return [json.loads(line)["key"] for line in content[: content.rfind(b"\n") + 1].splitlines()]


@pytest.mark.long
def test_kill_9_loses_nothing_and_pays_for_nothing_twice(folder):
    """Only questions whose reply was not on disk yet, at most `concurrency` of them, are asked again after a kill."""
    known: set = set()
    with Counted().running() as server:
        for count in KILLS:
            stop(folder, server, count, signal.SIGKILL)
            lines = kept(folder)
            assert known < set(lines)  # none lost, some more
            assert len(lines) == len(set(lines))
            assert 0 <= len(server.times) - len(lines) <= CONCURRENCY  # asked, and not kept: in flight
            known = set(lines)
        resumed = finish(folder, server, "stopped")
        prompts = [read_request(body)[1]["prompt"] for body in server.bodies]
        assert len(set(prompts)) == ROWS + 1  # and the canary
        assert len(prompts) - len(set(prompts)) <= CONCURRENCY * len(KILLS)
        assert len(kept(folder)) == ROWS + 1
        whole = finish(folder, server, "whole")
    assert resumed["rows"] == whole["rows"]
    assert resumed["summary"] == whole["summary"]
    assert resumed["summary"]["banned_respected"]["n"] == ROWS
    assert (resumed["usage"]["requests"], whole["usage"]["requests"]) == (ROWS, ROWS)
    assert resumed["usage"]["cache_hits"] == len(known) - 1  # all that was kept, but for the canary


def test_ctrl_c_waits_for_what_is_in_flight(folder):
    with Counted().running() as server:
        status, err = stop(folder, server, KILLS[0], signal.SIGINT)
        assert (status, "Interrupted. The same command goes on" in err, "Traceback" in err) == (130, True, False)
        assert len(kept(folder)) == len(server.bodies)  # every reply that was paid for is kept
        assert len(server.bodies) < ROWS
