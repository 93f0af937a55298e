"""Draws the batches of a run in actors of Ray Data, on this machine or on a cluster.

Place on the path of data: under step 6, as `elsewhere` of generate.py, which names the run and writes the manifest.
Every machine of the cluster must see the output folder, the base model and the adapter under the same paths.
"""

from __future__ import annotations

import os
import pickle
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..categories import Taxonomy, current, use_taxonomy
from ..errors import ExtraMissing, GenerationError, UsageError, reason_of
from ..progress import Progress
from .generate import Batches, Drawing, Failure, draw_batches

BLOCKS_OF_WORKER = 64  # at most; so that workers that are faster get more of them


class RayWorkers:
    """count: actors, each of which loads a pipeline of its own by `load`, which is called in the actor.

    has_gpu: whether each actor needs a GPU. Ray starts a worker that died again and repeats its batch; pictures that
    are whole on disk stay. Raises ExtraMissing, UsageError.
    """

    def __init__(self, load: Callable[[], Drawing], count: int, *, has_gpu: bool = False) -> None:
        if find_spec("ray") is None:
            raise ExtraMissing("ray", "ray")
        if count < 1:
            raise UsageError(f"There must be at least 1 Ray worker; saw {count}.")
        self.load, self.count, self.has_gpu = load, count, has_gpu

    def __call__(self, batches: Batches, out: Path) -> list[Failure]:
        """Draw batches into a folder. Returns the pictures that failed. Raises GenerationError where Ray gives up."""
        if not batches:
            return []
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # a cluster that starts here tells nobody of its use
        import ray
        from ray.data import ActorPoolStrategy, DataContext

        DataContext.get_current().enable_progress_bars = False
        given = ray.data.from_items(
            [{"batch": pickle.dumps(list(batch))} for batch in batches],
            override_num_blocks=min(len(batches), BLOCKS_OF_WORKER * self.count),
        )
        drawn = given.map_batches(
            Worker,
            fn_constructor_args=(self.load, out.resolve(), current()),
            batch_size=1,
            compute=ActorPoolStrategy(size=self.count),
            num_cpus=1,
            num_gpus=1 if self.has_gpu else 0,
        )
        failed: list[Failure] = []
        try:
            for row in Progress(drawn.iter_rows(), desc="Ray", unit="batch", total=len(batches)):
                failed += pickle.loads(row["failed"])
        except ray.exceptions.RayError as err:
            raise GenerationError(
                f"The Ray workers stopped: {reason_of(err)}", hint="The same command goes on where they stopped."
            ) from err
        return failed


class Worker:
    """What an actor does with each batch."""

    def __init__(self, load: Callable[[], Drawing], out: Path, taxonomy: Taxonomy) -> None:
        self._in_use = use_taxonomy(taxonomy)
        self._in_use.__enter__()  # for as long as the actor lives
        self.drawing, self.out = load(), out

    def __call__(self, given: dict[str, Any]) -> dict[str, list[bytes]]:
        batches = [pickle.loads(batch) for batch in given["batch"]]
        return {
            "failed": [pickle.dumps(draw_batches(self.drawing, [batch], self.out, quiet=True)) for batch in batches]
        }
