"""Load on `psalign serve` with the mini base: many clients against one at a time.

    python benchmarks/serving.py --adapter outputs/quickstart/training/prompt/adapter

Starts a service of its own on this machine, with people of two accounts. Clients run in another process than the
service. The two arms alternate, so that a busy machine slows both. Prints throughput, the ratio, latencies, rows per
batch and the memory of the service over the run.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import httpx2
import psutil

PEOPLE = (("anna", ["--ban", "Violence"]), ("ben", ["--ban", "--limit", "no swords"]), ("carl", ["--ban"]))
PROMPTS = ("a red cat with a sword", "a blue dog in a meadow", "two green birds at night", "a yellow house by the sea")


def psalign(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "psalign", *arguments], check=True, capture_output=True, text=True
    ).stdout


def start(options: argparse.Namespace, folder: Path) -> tuple[subprocess.Popen[bytes], str, list[str]]:
    """The service, its address and a key of each account."""
    place = ["--people", str(folder / "people.db"), "--key-file", str(folder / "people.key")]
    keys = []
    for account in ("one", "two"):
        keys.append(psalign("serve", "keys", "make", *place, "--account", account, "--per-minute", "1000000").strip())
        for who, limits in PEOPLE:
            psalign("serve", "users", "add", *place, "--account", account, "--id", who, *limits)
    url = f"http://127.0.0.1:{options.port}"
    command = [sys.executable, "-m", "psalign", "serve", "--adapter", str(options.adapter), *place]
    command += ["--port", str(options.port), "--max-batch", str(options.max_batch), "--max-waiting", "4096"]
    command += ["--max-waiting-of-key", "4096", "--timeout-s", "600"]
    service = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    for _ in range(600):
        try:
            if httpx2.get(f"{url}/health/ready").status_code == 200:
                return service, url, keys
        except httpx2.TransportError:
            pass
        time.sleep(0.5)
    raise SystemExit("the service did not start")


async def load(url: str, keys: list[str], *, clients: int, requests: int, steps: int) -> tuple[float, list[float]]:
    """Send `requests` requests by `clients` clients at once: the seconds they take in all, and each by itself."""
    numbers = iter(range(requests))
    took: list[float] = []

    async def client(session: httpx2.AsyncClient) -> None:
        for number in numbers:
            who, _ = PEOPLE[number % len(PEOPLE)]
            body = {"prompt": PROMPTS[number % len(PROMPTS)], "safety_identifier": who, "steps": steps, "seed": number}
            headers = {"Authorization": f"Bearer {keys[number % 2]}"}
            begun = time.perf_counter()
            answer = await session.post(f"{url}/v1/images/generations", json=body, headers=headers)
            answer.raise_for_status()
            took.append(time.perf_counter() - begun)

    limits = httpx2.Limits(max_connections=clients)
    async with httpx2.AsyncClient(timeout=600, limits=limits) as session:
        begun = time.perf_counter()
        await asyncio.gather(*(client(session) for _ in range(clients)))
        return time.perf_counter() - begun, took


def figure(url: str, name: str) -> float:
    lines = httpx2.get(f"{url}/metrics").text.splitlines()
    return float(next(line for line in lines if line.startswith(f"{name} ")).split()[1])


def percentile(values: list[float], share: float) -> float:
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--adapter", type=Path, required=True)
    parser.add_argument("--clients", type=int, default=64)
    parser.add_argument("--requests", type=int, default=128, help="of the many clients, each round")
    parser.add_argument("--alone", type=int, default=16, help="requests of one client, each round")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--max-batch", type=int, default=32)
    parser.add_argument("--port", type=int, default=8765)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        service, url, keys = start(options, Path(folder))
        process = psutil.Process(service.pid)
        try:
            measure(options, url, keys, process)
        finally:
            service.terminate()
            service.wait(60)


def measure(options: argparse.Namespace, url: str, keys: list[str], process: psutil.Process) -> None:
    asyncio.run(load(url, keys, clients=4, requests=8, steps=options.steps))  # not counted
    ratios, latencies, alone_s, memory = [], [], [], [process.memory_info().rss]
    batches = [figure(url, f"psalign_batch_rows_{part}") for part in ("sum", "count")]
    for number in range(options.rounds):
        one_s, took = asyncio.run(load(url, keys, clients=1, requests=options.alone, steps=options.steps))
        alone_s += took
        before = [figure(url, f"psalign_batch_rows_{part}") for part in ("sum", "count")]
        many_s, took = asyncio.run(
            load(url, keys, clients=options.clients, requests=options.requests, steps=options.steps)
        )
        batches = [
            figure(url, f"psalign_batch_rows_{part}") - old for part, old in zip(("sum", "count"), before, strict=True)
        ]
        latencies += took
        ratios.append((options.requests / many_s) / (options.alone / one_s))
        memory.append(process.memory_info().rss)
        print(f"round {number}: one at a time {options.alone / one_s:.2f} pictures/s, {options.clients} clients "
              f"{options.requests / many_s:.2f} pictures/s, ratio {ratios[-1]:.2f}", flush=True)  # fmt: skip
    print(f"ratio: median {median(ratios):.2f} (min {min(ratios):.2f}, max {max(ratios):.2f}, {len(ratios)} rounds)")
    print(f"one at a time: p50 {percentile(alone_s, 0.5):.2f} s (n = {len(alone_s)})")
    shown = ", ".join(f"p{round(100 * share)} {percentile(latencies, share):.2f} s" for share in (0.5, 0.95, 0.99))
    print(f"{options.clients} clients: {shown} (n = {len(latencies)}); rows per batch {batches[0] / batches[1]:.1f}")
    print("memory of the service, MB: " + " ".join(f"{size / 1e6:.0f}" for size in memory))
    threads = os.environ.get("OMP_NUM_THREADS", "not set")
    print(f"{options.steps} steps, --max-batch {options.max_batch}, OMP_NUM_THREADS {threads}")
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[0]:.1f}")


if __name__ == "__main__":
    main()
