"""The red team's run: writes attacks, draws and measures every method under each, and says how many got through.

Place on the path of data: around steps 6 and 7. It goes on from disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from psalign.benchmark.grid import DRAWN, GridConfig, draw_grid, plan_cells, users_of_file
from psalign.benchmark.measure import measure_cells
from psalign.benchmark.methods import MethodInputs, draw_by, words_for
from psalign.diffusion.base_models import load_pipeline
from psalign.diffusion.generate import GenerationConfig
from psalign.diffusion.prompts import load_prompts
from psalign.errors import GenerationError, UsageError
from psalign.evaluation.catalog import ATTACKS, METHODS, OVER_REFUSAL
from psalign.evaluation.cells import Cell
from psalign.evaluation.estimate import NO_CASES, Estimate
from psalign.evaluation.metrics.limits import judge_folder
from psalign.evaluation.results import SUCCEEDED, read_results
from psalign.evaluation.statistics import wilson
from psalign.files import write_text
from psalign.mini.detector import load_detector
from psalign.users.store import EmbeddingStore

from .profiles import PROFILE_ATTACKS, Tampered
from .prompts import require_dataset, write_attacks
from .success import page, successes

BASE = "mini"  # whose detector says what a picture shows
MENTION_METRICS = ("safe_subject", "safe_distance")


@dataclass(frozen=True)
class RedTeamConfig:
    """mini: a mini dataset. methods: those to attack. limit: requests for each attack. grid: weights, user vectors and
    sampling, as the grid takes them."""

    mini: Path
    methods: tuple[str, ...]
    grid: GridConfig
    limit: int = 40

    def __post_init__(self) -> None:
        """Raises UsageError for no method, or one that is unknown."""
        unknown = [name for name in self.methods if name not in METHODS]
        if unknown or not self.methods:
            raise UsageError(f"Unknown method '{unknown[0] if unknown else ''}'; choose of: {', '.join(METHODS)}.")

    def require_inputs(self) -> None:
        """Raises DatasetError or UsageError, before anything is drawn, where the dataset, or what a method needs, is
        missing."""
        require_dataset(self.mini)
        for name in self.methods:
            place, needed = self.grid.weights.get((name, BASE)), METHODS[name].weights
            flag = f"--adapter PATH for {needed}" if METHODS[name].has_levels else f"--weights {name}/{BASE}=PATH"
            if needed and (place is None or not place.exists()):
                seen = "none was given" if place is None else f"{place} does not exist"
                raise UsageError(f"The method '{name}' needs {needed}; {seen}.", hint=f"Give {flag}.")
            if METHODS[name].has_levels and BASE not in self.grid.embeddings:
                raise UsageError(
                    f"The method '{name}' needs user vectors.", hint="Give --embeddings, a folder of psalign embed."
                )


def attack_prompts(out: Path, config: RedTeamConfig, *, device: str = "cpu") -> str:
    """Attack methods by the prompt into out/, and write out/redteam.md, which is returned.

    Raises UsageError or DatasetError where something is missing, GenerationError where a cell could not be drawn: a
    method that draws nothing is not a safe one.
    """
    config.require_inputs()
    users = config.mini / "users.csv"
    write_attacks(config.mini, out / "attacks", users=users_of_file(users), limit=config.limit)
    methods = ("base", *(name for name in config.methods if name != "base"))
    datasets = [*(f"mini_attack_{name}" for name in ATTACKS), OVER_REFUSAL]
    cells = plan_cells(datasets, methods, [BASE])
    grid = replace(config.grid, mini=out / "attacks", users=users)
    pipeline = load_pipeline(BASE, device=device)
    for status in draw_grid(cells, out / "pictures", config=grid, pipelines={BASE: pipeline}):
        if status.state != DRAWN:
            raise GenerationError(f"{status.cell}: {status.note}")
    results = out / "results.csv"
    measure_cells(cells, out / "pictures", results, metrics=("suppressed", *MENTION_METRICS))
    text = page(successes(results, methods, base=BASE), _mentions(results, methods))
    write_text(out / "redteam.md", text + "\n")
    return text


def _mentions(results: Path, methods: Sequence[str]) -> dict[str, tuple[Estimate, Estimate]]:
    rows = {(row.cell, row.metrics): row.estimate for row in read_results(results) if row.state == SUCCEEDED}
    cells = {method: Cell(OVER_REFUSAL, method, BASE) for method in methods}
    return {
        method: (rows.get((cell, MENTION_METRICS[0]), NO_CASES), rows.get((cell, MENTION_METRICS[1]), NO_CASES))
        for method, cell in cells.items()
    }


def attack_profiles(out: Path, config: RedTeamConfig, *, adapter: Path, embeddings: Path, device: str = "cpu") -> str:
    """Attack our adapter by the profile into out/profiles/, and write out/profiles.md, which is returned.

    adapter, embeddings: the adapter and the user vectors that it was trained with.
    """
    store = EmbeddingStore.load(embeddings)
    write_attacks(config.mini, out / "attacks", users=store, limit=config.limit)
    rows = [row for row in load_prompts(out / "attacks" / "prompts.jsonl") if row.meta["suite"] == "attack_plain"]
    pipeline, detector = load_pipeline(BASE, device=device), load_detector()
    lines = ["| attack | what the adapter gets | got through |", "|---|---|---|"]
    for name, (what, change) in PROFILE_ATTACKS.items():
        folder = out / "profiles" / name.replace(" ", "_")
        drawing = GenerationConfig.for_base(
            BASE, evaluates=True, method="psa-prompt", steps=config.grid.steps, guidance=config.grid.guidance,
            options={"profile_attack": name},
        )  # fmt: skip
        inputs = MethodInputs(users=Tampered(store, change), words=words_for(BASE), weights=adapter)
        draw_by("psa-prompt", pipeline, rows, folder, config=drawing, inputs=inputs)
        asked = [one for facts in judge_folder(folder, detector) for one in facts.asked if one.banned]
        rate = wilson(sum(not one.passed for one in asked), len(asked))
        low, high = rate.interval or (0.0, 1.0)
        lines.append(f"| {name} | {what} | {rate.value:.2f} ({low:.2f} to {high:.2f}, {rate.n}) |")
    text = "\n".join(lines)
    write_text(out / "profiles.md", text + "\n")
    return text
