"""One repetition: a dataset, trainings, attacks and pictures of every method, all in one folder, from one seed.

Place on the path of data: steps 2 to 6 for the leaderboard. What is there already stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from psalign.baselines.train import TRAINED_BY, train_baseline
from psalign.benchmark.grid import DRAWN, GridConfig, draw_grid, plan_cells
from psalign.benchmark.weights import source_for, with_seed
from psalign.config import settings
from psalign.diffusion.base_models import load_pipeline
from psalign.errors import GenerationError
from psalign.evaluation.catalog import METHODS, OVER_REFUSAL
from psalign.files import Record
from psalign.mini import dataset
from psalign.quickstart import ADAPTER_OF, Run, read_seconds, stores_of, train, vector_folders, with_needed_pictures
from psalign.redteam.prompts import write_attacks
from psalign.users.store import EmbeddingStore

from .config import LeaderboardConfig, baseline_section, read_config, sld_strength

PROMPTS = ("mini_scenes", "mini_two_motifs")  # drawn from the dataset
ATTACKS = ("mini_attacks", OVER_REFUSAL)  # drawn from the attacks
Task = Callable[[], None]


@dataclass(frozen=True)
class Repetition:
    """A repetition in its folder. number: its seed. chosen: settings by family of methods."""

    out: Path
    preset: Record
    number: int
    chosen: Mapping[str, Record]

    @property
    def run(self) -> Run:
        """The repetition as a run of the quickstart, which has the same dataset, vectors and adapters."""
        return Run(self.out, self.preset, self.number, read_seconds(self.out / "seconds.json"))

    @property
    def base(self) -> str:
        return str(self.preset["base"])

    @property
    def attacks(self) -> Path:
        return self.out / "attacks"

    @property
    def pictures(self) -> Path:
        return self.out / "pictures"

    def weights(self, family: str) -> Path:
        return self.out / "weights" / family

    def trained(self, methods: tuple[str, ...]) -> Iterator[str]:
        """Families of these methods whose weights must be trained."""
        needed = {METHODS[name].family for name in methods if METHODS[name].weights}
        return (family for family in TRAINED_BY if family in needed)

    def grid(self, prompts: Path) -> GridConfig:
        """How all methods draw prompts of a folder."""
        sampling, folders = self.run.generation(), vector_folders(self.run)
        ours = {(name, self.base): self.run.adapter(kind) for name, kind in ADAPTER_OF.items()}
        theirs = {
            (name, self.base): self.weights(method.family)
            for name, method in METHODS.items()
            if method.weights and not method.has_levels
        }
        return GridConfig(
            mini=prompts,
            weights=ours | theirs,
            embeddings={self.base: folders["prompt"], f"psa-published/{self.base}": folders["published"]},
            steps=sampling.steps,
            guidance=sampling.guidance,
            batch_size=sampling.batch_size,
            sld=sld_strength(self.chosen),
            baselines=baseline_section(self.preset, self.chosen),
        )


def repetition(out: Path, preset: Record, number: int, chosen: Mapping[str, Record]) -> Repetition:
    """A repetition whose dataset has the preset's seed plus its number."""
    sizes = {**preset["dataset"], "seed": preset["dataset"]["seed"] + number}
    return Repetition(out, {**preset, "dataset": sizes}, number, chosen)


def stages(repetitions: Sequence[Repetition], config: LeaderboardConfig, *, device: str = "cpu") -> list[list[Task]]:
    """What makes repetitions, in stages, each of which needs the ones before it. Tasks of a stage may run side by side,
    in processes of their own; the longest come first. A task makes what is not there, and raises GenerationError where
    a method cannot draw.
    """
    kinds = dict.fromkeys(ADAPTER_OF[name] for name in config.compared if name in ADAPTER_OF)
    families = [family for one in repetitions[:1] for family in one.trained(config.compared)]
    return [
        [partial(write_prompts, one) for one in repetitions],
        [partial(train_part, one, name, device) for name in (*kinds, *reversed(families)) for one in repetitions],
        [partial(draw_method, one, method, device) for method in config.compared for one in repetitions],
    ]


def write_prompts(this: Repetition) -> None:
    """Dataset, user vectors and attacks."""
    config, users = read_config(this.preset), prepare(this)["prompt"]
    write_attacks(this.out / "data", this.attacks, users=users, limit=config.requests, attacks=config.attacks)


def train_part(this: Repetition, name: str, device: str = "cpu") -> None:
    """Train a kind of adapter, or a family of baselines."""
    pipeline = load_pipeline(this.base, device=device)
    if name not in ADAPTER_OF.values():
        return train_family(this, name, pipeline)
    with this.run.part(f"training {name}"):
        train(this.run, name, pipeline, stores_of(this.run)[name])


def draw_method(this: Repetition, method: str, device: str = "cpu") -> None:
    """The pictures of a method."""
    pipeline = load_pipeline(this.base, device=device)
    with this.run.part(f"pictures {method}"):
        draw(this, method, PROMPTS, this.out / "data", pipeline)
        draw(this, method, ATTACKS, this.attacks, pipeline)


def prepare(this: Repetition) -> dict[str, EmbeddingStore]:
    """Dataset and user vectors; the vectors by kind of adapter."""
    sizes = settings(dataset.DatasetConfig, this.preset["dataset"], section="dataset")
    with this.run.part("dataset"):
        dataset.build(this.out / "data", with_needed_pictures(sizes, this.preset))
    with this.run.part("user vectors"):
        return stores_of(this.run)


def train_family(this: Repetition, family: str, pipeline: Any, *, experts_alone: bool = False) -> None:
    """Weights of both forms of a baseline, or of its experts alone."""
    with this.run.part(f"training {family}"):
        given = with_seed(family, baseline_section(this.preset, this.chosen)[family], this.number)
        data, cache, framing = this.out / "data", this.out / "cache_pairs", this.preset.get("pictures")
        source = source_for(family, pipeline, this.base, data=data, cache=cache, framing=framing)
        train_baseline(family, source, this.weights(family), base=this.base, given=given, experts_alone=experts_alone)


def draw(
    this: Repetition, method: str, datasets: tuple[str, ...], prompts: Path, pipeline: Any, *, limit: int | None = None
) -> None:
    """Draw cells of one method. Raises GenerationError for one that could not be drawn: it is not a safe one."""
    grid = replace(this.grid(prompts), limit=limit)
    cells = plan_cells(datasets, [method], [this.base])
    for status in draw_grid(cells, this.pictures, config=grid, pipelines={this.base: pipeline}):
        if status.state != DRAWN:
            raise GenerationError(f"{status.cell}: {status.note}")
