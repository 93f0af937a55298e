"""Load on `psalign serve`: many clients against one at a time.

    python benchmarks/serving.py --adapter outputs/quickstart/training/prompt/adapter
    python benchmarks/serving.py --adapter DIR --base sd15 --model outputs/full-sd15 --device cuda --dtype fp16

Starts a service of its own on this machine, with people of two accounts. Clients run in another process than the
service. The two arms alternate, so that a busy machine slows both. Then --memory requests of --memory-steps steps show
whether the memory of the service grows. Writes throughput, the ratio, latencies, rows per batch and memory to
benchmarks/results/serving.json, or serving-<base>-<device>.json.
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
from typing import Any

import httpx2
import psutil

from psalign.files import write_json
from psalign.fingerprints import versions

RESULTS = Path(__file__).parent / "results" / "serving.json"
MEMORY_PARTS = 10  # the memory is read after each
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
    command += ["--base", options.base, "--dtype", options.dtype]
    command += [
        word for name in ("model", "device") if getattr(options, name) for word in (f"--{name}", getattr(options, name))
    ]
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
    parser.add_argument("--memory", type=int, default=5000, help="requests while the memory is watched")
    parser.add_argument("--memory-steps", type=int, default=1)
    parser.add_argument("--max-batch", type=int, default=32)
    parser.add_argument("--port", type=int, default=8765)
    parser.add_argument("--base", default="mini")
    parser.add_argument("--model", help="another folder of the base model")
    parser.add_argument("--device")
    parser.add_argument("--dtype", default="fp32")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        service, url, keys = start(options, Path(folder))
        process = psutil.Process(service.pid)
        try:
            record = measure(options, url, keys) | watch_memory(options, url, keys, process)
        finally:
            service.terminate()
            service.wait(60)
    settings = {name: value for name, value in vars(options).items() if name not in ("adapter", "port")}
    record |= {"settings": settings, "threads": os.environ.get("OMP_NUM_THREADS"), **versions()}
    record |= {"cores": os.cpu_count(), "load_average": round(os.getloadavg()[2], 1)}  # over 15 minutes
    path = (
        RESULTS
        if options.base == "mini" and not options.device
        else RESULTS.with_name(f"serving-{options.base}-{options.device}.json")
    )
    write_json(path, record)
    print(f"{record['cores']} cores, load average {record['load_average']}; figures: {path}")


def measure(options: argparse.Namespace, url: str, keys: list[str]) -> dict[str, Any]:
    """Rounds of one client, then many."""
    asyncio.run(load(url, keys, clients=4, requests=8, steps=options.steps))  # not counted
    rounds, alone_s, many_s, batches = [], [], [], [0.0, 0.0]
    for number in range(options.rounds):
        took_one_s, took = asyncio.run(load(url, keys, clients=1, requests=options.alone, steps=options.steps))
        alone_s += took
        before = batch_figures(url)
        took_many_s, took = asyncio.run(
            load(url, keys, clients=options.clients, requests=options.requests, steps=options.steps)
        )
        many_s += took
        batches = [sum(one) for one in zip(batches, batch_figures(url), (-old for old in before), strict=True)]
        one, many = options.alone / took_one_s, options.requests / took_many_s
        rounds.append({"alone_per_s": round(one, 3), "many_per_s": round(many, 3), "ratio": round(many / one, 2)})
        print(f"round {number}: {rounds[-1]}", flush=True)
    record = {
        "rounds": rounds,
        "ratio": median(one["ratio"] for one in rounds),
        "alone_s": percentiles(alone_s),
        "many_s": percentiles(many_s),
        "rows_per_batch": round(batches[0] / batches[1], 1),
    }
    print({name: value for name, value in record.items() if name != "rounds"}, flush=True)
    return record


def watch_memory(
    options: argparse.Namespace, url: str, keys: list[str], process: psutil.Process
) -> dict[str, list[float]]:
    """Memory of the service, MB, before and after each part of the requests."""
    memory = [process.memory_info().rss]
    share = options.memory // MEMORY_PARTS
    for _ in range(MEMORY_PARTS if share else 0):
        asyncio.run(load(url, keys, clients=options.clients, requests=share, steps=options.memory_steps))
        memory.append(process.memory_info().rss)
        print(f"memory of the service, MB: {memory[-1] / 1e6:.0f}", flush=True)
    return {"memory_mb": [round(size / 1e6) for size in memory]}


def batch_figures(url: str) -> list[float]:
    """Rows drawn so far, and batches."""
    return [figure(url, f"psalign_batch_rows_{part}") for part in ("sum", "count")]


def percentiles(values: list[float]) -> dict[str, float]:
    shown = {f"p{round(100 * share)}": round(percentile(values, share), 2) for share in (0.5, 0.95, 0.99)}
    return {**shown, "n": len(values)}


if __name__ == "__main__":
    main()
