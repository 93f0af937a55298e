"""The service on more than one machine: replicas that Ray Serve starts, watches, and sends requests to.

    serve run psalign.serve.cluster:application adapter=outputs/quickstart/training/prompt/adapter replicas=2

Place on the path of data: in place of server.py. A replica has the same application, queue and engine as one service.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from pydantic import TypeAdapter, ValidationError

from ..diffusion.base_models import Loading
from ..errors import ExtraMissing, UsageError
from .engine import EngineSettings
from .loading import Recipe, load
from .logs import log_to_stderr
from .service import Keeping, Service


@dataclass(frozen=True)
class Replicas:
    """replicas: that are always there. most_replicas: with more of them, Ray Serve adds and removes replicas by load.

    ongoing: requests that a replica takes at once; 0: two batches, one that is drawn and one that waits.
    max_queued_requests: that wait for a replica, at each proxy; more get 503. gpus, cpus: of one replica.
    grace_s: time to finish pictures when a replica is stopped.
    """

    replicas: int = 1
    most_replicas: int = 0
    ongoing: int = 0
    max_queued_requests: int = 256
    gpus: float = 0
    cpus: float = 1
    grace_s: float = 30.0

    def options(self, max_batch: int) -> dict[str, Any]:
        """Options of the deployment."""
        scaling = {"min_replicas": self.replicas, "max_replicas": self.most_replicas}
        is_scaled = self.most_replicas > self.replicas
        count = {"autoscaling_config": {**scaling, "target_ongoing_requests": max_batch}}
        return {
            **(count if is_scaled else {"num_replicas": self.replicas}),
            "max_ongoing_requests": self.ongoing or 2 * max_batch,
            "max_queued_requests": self.max_queued_requests,
            "graceful_shutdown_timeout_s": self.grace_s,
            "ray_actor_options": {"num_gpus": self.gpus, "num_cpus": self.cpus},
        }


class Replica:
    """One service inside Ray Serve. It is there when its model is loaded."""

    def __init__(self, recipe: Recipe, settings: EngineSettings, keeping: Keeping, grace_s: float) -> None:
        log_to_stderr()
        self.service, self.grace_s = Service.of(keeping, settings), grace_s
        self.service.begin(load(recipe))

    def __serve_build_asgi_app__(self) -> Any:
        from .app import create_app

        return create_app(self.service)

    def check_health(self) -> None:
        """Ray Serve puts another replica in the place of one that raises."""
        if self.service.is_dead:
            raise RuntimeError("The engine of this replica ended.")

    def __del__(self) -> None:
        if hasattr(self, "service"):
            self.service.engine.close(self.grace_s)


def application(given: Mapping[str, Any]) -> Any:
    """The application for `serve run` and `serve deploy`. given: fields of Recipe, Loading, EngineSettings, Keeping and
    Replicas, by name.

    Raises ExtraMissing, UsageError for a field that is unknown or has no such value.
    """
    known = {field.name for kind in (Recipe, Loading, EngineSettings, Keeping, Replicas) for field in fields(kind)}
    if unknown := sorted(given.keys() - known | given.keys() & {"how"}):
        raise UsageError(f"Unknown: {', '.join(unknown)}. Known: {', '.join(sorted(known - {'how'}))}.")
    loading = _read(Loading, given)
    how = {name: getattr(loading, name) for name in given if hasattr(loading, name)}
    recipe = _read(Recipe, {"base": "mini", **given, "how": how})
    settings, keeping, replicas = (_read(kind, given) for kind in (EngineSettings, Keeping, Replicas))
    try:
        from ray import serve
    except ImportError as err:
        raise ExtraMissing("ray", "ray") from err
    deployment = serve.deployment(serve.ingress()(Replica))
    options = replicas.options(recipe.fixed_batch or settings.max_batch)
    return deployment.options(name="psalign", **options).bind(recipe, settings, keeping, replicas.grace_s)


def _read(kind: Any, given: Mapping[str, Any]) -> Any:
    """A dataclass from those of the values that are its fields; words become numbers where a number is needed."""
    own = {field.name: given[field.name] for field in fields(kind) if field.name in given}
    try:
        return TypeAdapter(kind).validate_python(own)
    except ValidationError as err:
        first = err.errors()[0]
        raise UsageError(f"{'.'.join(map(str, first['loc']))}: {first['msg']}.") from None
