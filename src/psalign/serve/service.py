"""The service without HTTP: callers, people, rates, and the rows of a request.

Place on the path of data: what joins whose.py and engine.py for app.py.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..errors import UsageError
from .database import Database
from .engine import Closed, Draws, Engine, EngineSettings
from .keys import ApiKeys, Caller, RateLimits
from .logs import LOG, tell_failure
from .metrics import Metrics
from .people import People
from .replies import ApiError, error_of
from .requests import ImageRequest, Offer, partial_steps, preview_profile, seeds_of
from .waiting import Row, Work
from .whose import Source, Strangers, Whose


@dataclass(frozen=True)
class Loaded:
    """What takes time to load. strangers: decides whose limits hold."""

    artist: Draws
    offer: Offer
    strangers: Strangers


@dataclass(frozen=True)
class Keeping:
    """Where people and keys are kept. people: see Database. key_file: see Seal. timeout_s: seconds of a request."""

    people: str = "data/serve/people.db"
    key_file: Path = Path("data/serve/people.key")
    timeout_s: float = 120.0


@dataclass(frozen=True)
class Order:
    """The rows of one request, and whose limits they keep."""

    rows: list[Row]
    seeds: list[int]
    source: Source


@dataclass(eq=False)
class Service:
    """Everything that answers requests. timeout_s: seconds that a request may take in all."""

    people: People
    keys: ApiKeys
    engine: Engine
    metrics: Metrics
    timeout_s: float = 120.0
    rates: RateLimits = field(default_factory=RateLimits)
    loaded: Loaded | None = None
    failure: BaseException | None = None
    is_draining: bool = False

    def __post_init__(self) -> None:
        """Raises UsageError for a time that is not positive."""
        if not self.timeout_s > 0:
            raise UsageError(f"The time of a request must be more than 0 seconds; saw {self.timeout_s}.")

    @classmethod
    def of(cls, keeping: Keeping, settings: EngineSettings) -> Service:
        """A service that has no model yet. Raises OutputError, UsageError."""
        database, metrics = Database(keeping.people), Metrics()
        people, keys = People.of(database, keeping.key_file), ApiKeys(database)
        return cls(people, keys, Engine(settings, metrics), metrics, timeout_s=keeping.timeout_s)

    def start(self, load: Callable[[], Loaded], on_failure: Callable[[], None] = lambda: None) -> None:
        """Load in the background; until then the service lives and is not ready."""

        def run() -> None:
            try:
                self.begin(load())
            except BaseException as err:
                self.failure = err
                tell_failure("loading failed", err, event="loading_failed")
                on_failure()

        threading.Thread(target=run, name="psalign-loading", daemon=True).start()

    def begin(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.engine.start(loaded.artist)
        LOG.info("ready", extra={"psalign": {"event": "ready"}})
        if not any(row["revoked_at"] is None for row in self.keys.rows()):
            LOG.warning("nobody can ask: no API key (psalign serve keys make)", extra={"psalign": {"event": "no_keys"}})

    @property
    def is_ready(self) -> bool:
        return self.loaded is not None and self.engine.is_ready and not self.is_draining

    @property
    def is_dead(self) -> bool:
        """Whether it will never be ready again."""
        has_ended = self.engine.was_started and not self.engine.is_ready and not self.is_draining
        return self.failure is not None or has_ended

    def require_loaded(self) -> Loaded:
        """Raises Closed."""
        if self.loaded is None or not self.is_ready:
            raise Closed("The service is starting, stopping or broken; nothing was drawn.")
        return self.loaded

    def order(
        self, request: ImageRequest, caller: Caller, on_partial: Callable[[np.ndarray], None] | None = None
    ) -> Order:
        """Take in the rows of a request. on_partial: called in the engine's thread.

        Raises ApiError, Busy, Closed, UnknownUser, LimitError, ProfileError.
        """
        if request.asks_for_preview and caller.scope != "admin":
            message = "Only a key with the scope admin may give profile, level or scale."
            raise ApiError(403, "insufficient_scope", message, reason="forbidden")
        loaded = self.require_loaded()
        kind = loaded.offer.kind_of(request)
        whose = self._whose(request, caller, loaded.strangers)
        seeds = seeds_of(request)
        if wait_s := self.rates.wait_s(caller, len(seeds)):
            message = "This key asked for too many pictures."
            raise ApiError(429, "rate_limit_exceeded", message, reason="rate_limited", retry_after_s=wait_s)
        scale = 1.0 if request.scale is None else request.scale
        person = self.people.seal.name(caller.account, request.identifier or "")
        shown = partial_steps(request, kind.steps)
        works = [Work(request.prompt, whose.users, seed, scale, person) for seed in seeds]
        rows = [Row(caller.account, kind, work, shown, on_partial) for work in works]
        self.engine.submit(rows)
        return Order(rows, seeds, whose.source)

    def error_for(self, err: Exception) -> ApiError:
        """The answer for an error, counted; faults, which an operator must see, are logged."""
        error = error_of(err)
        self.metrics.refuse(error.reason)
        if error.reason in ("failed", "database"):
            tell_failure("a picture failed" if error.reason == "failed" else "no database", err, event=error.reason)
        return error

    def _whose(self, request: ImageRequest, caller: Caller, strangers: Strangers) -> Whose:
        identifier, asked = request.identifier, request.limits or ()
        if request.asks_for_preview:
            what = "profile" if request.profile is not None else "level" if request.level is not None else "scale"
            self.people.previewed(caller.account, identifier or "", actor=caller.key_id, what=what)
            profile = preview_profile(request)
            if profile is not None:
                return Whose(strangers.whose(profile, asked).users, "preview")
        known = None if identifier is None else self.people.find(caller.account, identifier)
        return strangers.whose(known, asked)
