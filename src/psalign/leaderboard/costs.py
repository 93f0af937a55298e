"""What each method costs: time per picture, training time, weights for all users, and bytes for one more user.

Place on the path of data: step 7 of the leaderboard, from the repetitions' folders to rows of results.csv.
"""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from typing import Any

from psalign.baselines.train import TRAINED_BY, expert_files, seconds_of, weights_of
from psalign.benchmark.grid import Grid
from psalign.benchmark.methods import drawing_by
from psalign.benchmark.prompt_sets import spaced
from psalign.diffusion.base_models import load_pipeline
from psalign.diffusion.generate import generate
from psalign.diffusion.shards import Shard
from psalign.evaluation.catalog import METHODS, NEEDS_NONE
from psalign.evaluation.cells import Cell
from psalign.evaluation.estimate import Estimate
from psalign.evaluation.results import append_results, result_row
from psalign.evaluation.statistics import mean
from psalign.quickstart import ADAPTER_OF
from psalign.users.store import EmbeddingStore

from .config import LeaderboardConfig
from .pool import SCENES
from .repetition import Repetition

VECTOR_NUMBER = 4  # bytes of one number of a user's vector


def add_costs(out: Path, config: LeaderboardConfig, repetitions: Sequence[Repetition], *, device: str = "cpu") -> None:
    """Add the costs of every method to out/results.csv."""
    times = picture_times(config, repetitions[0], device=device)
    for method in config.compared:
        cell = Cell(SCENES, method, repetitions[0].base)
        figures = {
            "picture_time": times[method],
            "training_time": mean([training_seconds(method, this) for this in repetitions]),
            "weights_size": Estimate(weight_bytes(method, repetitions[0]) / 1e6, 1),
            "user_bytes": Estimate(user_bytes(method, repetitions[0]), 1),
        }
        append_results(out / "results.csv", [result_row(cell, name, estimate=one) for name, one in figures.items()])


def picture_times(config: LeaderboardConfig, this: Repetition, *, device: str = "cpu") -> dict[str, Estimate]:
    """Time per picture as a multiple of the base model's, all methods by turns: the median of the rounds, with the
    lowest and the highest. Loading weights is not counted."""
    pipeline = load_pipeline(this.base, device=device)
    ratios: dict[str, list[float]] = {name: [] for name in config.compared}
    for _ in range(config.rounds):
        base = _seconds("base", this, pipeline, config.timed)
        for method in config.compared:
            ratios[method].append(1.0 if method == "base" else _seconds(method, this, pipeline, config.timed) / base)
    return {name: Estimate(median(found), len(found), min(found), max(found)) for name, found in ratios.items()}


def _seconds(method: str, this: Repetition, pipeline: Any, count: int) -> float:
    """Seconds of drawing the first prompts by a method into a folder that is removed again."""
    grid, folder = Grid(this.grid(this.out / "data"), Shard(), {}), this.out / "timed"
    cell = Cell(SCENES, method, this.base)
    rows, inputs = spaced(grid.rows(SCENES), count), grid.inputs(cell)
    shutil.rmtree(folder, ignore_errors=True)
    with drawing_by(method, pipeline, rows, config=grid.sampling(cell), inputs=inputs) as drawing:
        started = time.perf_counter()
        generate(drawing, rows, folder)
        seconds = time.perf_counter() - started
    shutil.rmtree(folder)
    return seconds


def training_seconds(method: str, this: Repetition) -> float:
    """Seconds of training what a method draws with; 0 where nothing is trained."""
    if method in ADAPTER_OF:
        return this.run.seconds.get(f"training {ADAPTER_OF[method]}", 0.0)
    family = METHODS[method].family
    if family not in TRAINED_BY or not METHODS[method].weights:
        return 0.0
    return seconds_of(this.weights(family), experts=METHODS[method].personal)


def weight_bytes(method: str, this: Repetition) -> int:
    """Bytes of the weights of a method on disk, for all users together."""
    if method in ADAPTER_OF:
        folder = this.run.adapter(ADAPTER_OF[method])
        return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
    family = METHODS[method].family
    if family not in TRAINED_BY or not METHODS[method].weights:
        return 0
    folder = this.weights(family)
    if METHODS[method].personal and family not in NEEDS_NONE:
        return sum(path.stat().st_size for path in expert_files(folder, family).values())
    return weights_of(folder, None, TRAINED_BY[family].usual).stat().st_size


def user_bytes(method: str, this: Repetition) -> int:
    """Bytes that one more user takes beside their ban list: those of a vector, for methods that read it."""
    if method not in ADAPTER_OF or method == "psa-prompt-words":
        return 0
    folders = this.grid(this.out).embeddings
    store = EmbeddingStore.load(folders.get(f"{method}/{this.base}") or folders[this.base])
    return VECTOR_NUMBER * int(store.vectors(store.user_ids[:1]).shape[1])
