"""A service for tests: people, keys, and an artist whose pictures say whose limits they were drawn with."""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import httpx2
import numpy as np
import torch

from psalign.adapter.prompt import PromptAdapter
from psalign.diffusion.base_models import find_base
from psalign.serve.artist import Stopped
from psalign.serve.database import Database
from psalign.serve.engine import Engine, EngineSettings
from psalign.serve.keys import ApiKeys
from psalign.serve.metrics import Metrics
from psalign.serve.people import People
from psalign.serve.requests import Offer
from psalign.serve.sealing import Seal
from psalign.serve.server import Listening, Server
from psalign.serve.service import Loaded, Service
from psalign.serve.whose import Strangers
from psalign.users.profile import UserProfile

SIZE = 16
LIMITS_S = 30
# One client for all requests of tests: each client would read the certificates of this machine anew.
HTTP = httpx2.Client(timeout=LIMITS_S, limits=httpx2.Limits(max_connections=None, max_keepalive_connections=0))
MINI = Offer("mini", find_base("mini"), guidance=4.0, steps=4, max_steps=50, multiple=16)


class Marker:
    """Draws at once, in noise that names prompt, limits, seed and strength. step_s: seconds of each step."""

    def __init__(self, step_s: float = 0.0) -> None:
        self.step_s, self.batches, self.steps = step_s, [], 0
        self.may_draw = threading.Event()
        self.may_draw.set()
        self.most = 10**6  # rows that fit into the memory

    def check(self, work) -> None:
        pass

    def draw(self, works, kind, watch) -> np.ndarray:
        self.may_draw.wait(LIMITS_S)
        if len(works) > self.most:
            raise RuntimeError("CUDA out of memory")
        if any(work.prompt == "poison" for work in works):
            raise RuntimeError("poison")
        self.batches.append(list(works))
        pictures = np.stack([marked(work) for work in works])
        for step in range(kind.steps):
            time.sleep(self.step_s)
            self.steps += 1
            if not watch(step, lambda places: pictures[list(places)]):
                raise Stopped
        return pictures


def marked(work) -> np.ndarray:
    """The picture of a work: noise that depends on everything that a picture depends on."""
    bans = [None if row is None else row.tolist() for row in work.users.bans]
    said = repr((work.prompt, bans, work.users.limits, work.seed, work.scale)).encode()
    seed = int.from_bytes(hashlib.sha256(said).digest()[:8], "little")
    return np.random.default_rng(seed).integers(0, 256, (SIZE, SIZE, 3), np.uint8)


def make_service(folder: Path, artist=None, *, unknown="refuse", timeout_s=20.0, place=None, **settings) -> Service:
    """A service with an artist (None: none yet), anna, ben and carl of the account shop, and anna of another."""
    people = People(Database(place or str(folder / "people.db")), Seal(bytes(32)))
    for account, who, profile in (
        ("shop", "anna", {"banned": ("Violence", "Shocking")}),
        ("shop", "ben", {"banned": (), "limits": ("I can't stand swords",)}),
        ("shop", "carl", {"banned": ()}),
        ("club", "anna", {"banned": ()}),
    ):
        people.add(account, who, UserProfile(user_id=who, **profile), actor="test")
    metrics = Metrics()
    engine = Engine(EngineSettings(**{"max_wait_ms": 5.0, **settings}), metrics)
    service = Service(people, ApiKeys(people.database), engine, metrics, timeout_s=timeout_s)
    if artist is not None:
        service.loaded = Loaded(artist, MINI, Strangers(unknown))
        engine.start(artist)
    return service


def keys_of(service: Service) -> SimpleNamespace:
    """A key of shop, one of club, and one of shop's administrator."""
    make = service.keys.make
    return SimpleNamespace(
        shop=make("shop", per_minute=1_000_000, actor="test"),
        club=make("club", per_minute=1_000_000, actor="test"),
        admin=make("shop", scope="admin", per_minute=1_000_000, actor="test"),
    )


@contextmanager
def listening(service: Service) -> Iterator[SimpleNamespace]:
    """The service on a free port of this machine: url, server, thread."""
    server = Server(service, Listening(port=0, grace_s=5.0))
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    until(lambda: server.started)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield SimpleNamespace(url=f"http://127.0.0.1:{port}", server=server, thread=thread)
    finally:
        server.should_exit = True
        thread.join(LIMITS_S)
        service.engine.close(LIMITS_S)


def until(is_so, limit_s: float = LIMITS_S) -> None:
    """Wait until something is so."""
    end = time.monotonic() + limit_s
    while not is_so():
        assert time.monotonic() < end, "it did not happen in time"
        time.sleep(0.005)


def random_adapter(*, words: bool = True, bias: float = 4.0) -> PromptAdapter:
    """An adapter for mini with random weights. bias: with 4 every prompt changes; with 0 each ban list changes it
    in its own way."""
    torch.manual_seed(1)
    adapter = PromptAdapter(base="mini", recipe="tests", llm_dim=12, context_dim=128, words=words, rank=16, heads=2)
    with torch.no_grad():
        for weight in adapter.parameters():
            weight.copy_(torch.randn_like(weight) * 0.3)
        adapter.matcher.bans_bias.fill_(bias)
    return adapter.eval()
