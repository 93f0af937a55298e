"""A Ray cluster of two nodes on this machine, for tests; their processes end with it."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import psutil
import pytest

from serving import until

START_S = 600  # a busy machine needs minutes
PORTS = ("dashboard-agent-grpc-port", "dashboard-agent-listen-port", "metrics-export-port", "runtime-env-agent-port")


@dataclass(frozen=True)
class RayCluster:
    """address: for ray.init and RAY_ADDRESS. nodes: the processes of its two nodes."""

    address: str
    nodes: tuple[subprocess.Popen, ...]

    def processes(self, word: str) -> list[psutil.Process]:
        """Processes of the cluster with a word in their title, as "ServeReplica"."""
        below = [one for node in self.nodes for one in psutil.Process(node.pid).children(recursive=True)]
        return [one for one in below if word in " ".join(one.cmdline())]


@contextmanager
def ray_cluster(*, cpus: int) -> Iterator[RayCluster]:
    """cpus: that each node says it has. Skips the test where Ray is not installed."""
    environment = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}
    os.environ.update(environment)
    ray = pytest.importorskip("ray")
    folder, address = tempfile.mkdtemp(prefix="ray"), f"127.0.0.1:{free_port()}"
    command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block", "--num-cpus", str(cpus)]
    head = ["--head", "--port", address.split(":")[1], "--include-dashboard", "false", "--temp-dir", folder]
    with ExitStack() as ends:
        ends.callback(shutil.rmtree, folder, ignore_errors=True)
        ends.callback(lambda: [os.environ.pop(name) for name in environment])
        nodes = []
        for place in (head, ["--address", address]):
            # A node that chooses ports itself gives its agents 15 seconds to say them, too few on a busy machine.
            ports = [part for name in PORTS for part in (f"--{name}", str(free_port()))]
            node = subprocess.Popen([*command, *place, *ports], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            ends.callback(stop, node)
            nodes.append(node)
            if place is head:
                until(lambda: is_open(address), START_S)
        ray.init(address, log_to_driver=False)
        ends.callback(ray.shutdown)
        until(lambda: sum(node["Alive"] for node in ray.nodes()) == 2, START_S)
        yield RayCluster(address, tuple(nodes))


def stop(node: subprocess.Popen) -> None:
    """End a node and all that it started."""
    below = psutil.Process(node.pid).children(recursive=True)
    node.terminate()
    for one in below:
        if one.is_running():
            one.kill()
    node.wait(60)


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


def is_open(address: str) -> bool:
    host, port = address.split(":")
    with socket.socket() as one:
        return one.connect_ex((host, int(port))) == 0
