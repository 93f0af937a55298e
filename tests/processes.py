"""Processes that load no library again: forks of a server that has the heavy ones and has computed nothing.

A fork of the tests' own process would inherit locks of threads that it does not have, and could wait for them forever.
For tests of what processes do: kills, several processes of one run, two commands at once.
"""

from __future__ import annotations

import multiprocessing
import os
import socket
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

LIMIT_S = 300
SERVER = multiprocessing.get_context("forkserver")
SERVER.set_forkserver_preload(
    ["psalign.training.run", "psalign.training.trainer", "psalign.diffusion.generate", "accelerate.state",
     "torch.optim", "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion"]
)  # fmt: skip


def start(said: Path, function: Callable[..., Any], *arguments: Any, **environment: str) -> BaseProcess:
    """Start function(*arguments), which a module in tests/ or src/ must hold. What it returns is the exit status.

    said: a file; what the process prints, to stdout or stderr, is added to it.
    environment: variables to set for the process.
    """
    process = SERVER.Process(target=_run, args=(said, environment, function, arguments))
    process.start()
    return process


def finish(process: BaseProcess) -> int:
    """Wait for the end of a process. Returns its exit status."""
    process.join(LIMIT_S)
    if process.exitcode is None:
        process.kill()
        raise AssertionError(f"a process took more than {LIMIT_S} s")
    return process.exitcode


def run_several(said: Path, function: Callable[..., Any], *arguments: Any, count: int = 2) -> list[int]:
    """Run a function in the processes of one run, as torchrun and accelerate start them, or in one by itself.

    Returns their exit statuses.
    """
    if count == 1:
        return [finish(start(said, function, *arguments))]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1])}
    size = {"WORLD_SIZE": str(count), "LOCAL_WORLD_SIZE": str(count), "CUDA_VISIBLE_DEVICES": ""}
    started = [
        start(said, function, *arguments, **address, **size, RANK=str(rank), LOCAL_RANK=str(rank))
        for rank in range(count)
    ]
    return [finish(process) for process in started]


def _run(said: Path, environment: dict[str, str], function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    import torch

    descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    for stream in (1, 2):
        os.dup2(descriptor, stream)
    os.environ.update(environment)
    torch.set_num_threads(1)
    sys.exit(function(*arguments))
