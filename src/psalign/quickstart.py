"""The whole path on one base: dataset, user vectors, training, pictures, numbers, report. Each stage goes on
from disk.

Place on the path of data: all of it, in order; `psalign quickstart` calls `run`.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from .before_after import pick_users
from .benchmark.grid import DRAWN, GridConfig, draw_grid
from .benchmark.measure import measure_cells
from .categories import require_default
from .config import describe_changes, settings
from .diffusion.base_models import find_base, load_pipeline
from .diffusion.generate import GenerationConfig
from .embed import embed_users
from .errors import GenerationError, OutputError, UsageError
from .evaluation.cells import Cell
from .evaluation.metrics.registry import MEASURED, METRICS
from .evaluation.report.contact_sheet import Sheet, write_sheet_png
from .evaluation.report.leaderboard import load_leaderboards
from .evaluation.report.page import RunParts, write_report
from .evaluation.results import ResultRow, read_results
from .files import Record, read_json, write_json
from .fingerprints import fingerprint, versions
from .ids import LEVELS
from .locks import locked
from .mini import dataset
from .processes import Workers, threads_of
from .quickstart_sheet import PeopleSheet
from .sage.cache.framing import Framing
from .training.config import TrainingConfig
from .training.log import read_log
from .training.run import RowSource, TrainingData, load_rows, train_adapter, training_config
from .users.language_model import MINILM, TransformersEmbedder, has_minilm
from .users.store import EmbeddingStore
from .users.vectors import StructuredEmbedder

ADAPTERS = ("published", "prompt")  # by kind
PSA = "psa-prompt"
ADAPTER_OF = {"psa-published": "published", PSA: "prompt", "psa-prompt-vector": "prompt", "psa-prompt-words": "prompt"}
# What is made side by side: adapters to train, and methods to draw by; then what needs our adapter.
BESIDE = ((("prompt",), ()), (("published",), ("base", "negative_prompt", "psa-published")))
AFTER = (((), (PSA,)), ((), ("psa-prompt-vector", "psa-prompt-words")))
COMPARED = ("mini_scenes", "mini_seen")  # every method draws them, our own the others too
OURS_ALONE = ("mini_wordings", "mini_two_motifs", "mini_motifs", "mini_levels")
METRICS_OF_RUN = tuple(name for name in MEASURED if METRICS[name].needs == ("detector",))
SUMMARY = (
    "A small adapter was trained on captions or preference pairs so that a frozen text-to-image model keeps to each "
    "user's own limits. It then made pictures for users it had never met, and a detector looked at every one: is what "
    "this user bans gone, is what this user allows still there, and are safe pictures left alone?"
)
# What depends on a section of the preset, or on the seed: folders of a run, as patterns.
OF_PROMPT = ("training/prompt", "pictures/*/psa-prompt*", "sheet")
OF_ADAPTERS = ("training", "pictures/*/psa-*", "sheet")
MADE_WITH = {
    "base": ("cache", "training", "pictures", "sheet"),
    "llm_dim": ("embeddings", "embeddings_structured", *OF_ADAPTERS),
    "vectors": ("embeddings", "embeddings_structured", *OF_ADAPTERS),
    "dataset": ("data", "embeddings", "embeddings_structured", "cache", "training", "pictures", "sheet"),
    "pictures": ("cache", *OF_ADAPTERS),
    "generation": ("pictures", "sheet"),
    "prompt": OF_PROMPT,
    "published": ("data", "training/published", "pictures/*/psa-published"),  # its length decides what is drawn
    "seed": OF_ADAPTERS,
}
VECTORS = ("auto", "structured", "minilm")  # of the prompt adapter; auto: minilm where the extra is installed
OF_SECTION: dict[str, type] = {"dataset": dataset.DatasetConfig, "pictures": Framing, "generation": GenerationConfig}
SECTIONS = (*OF_SECTION, "prompt", "published")


@dataclass
class Run:
    """A run in its folder. seconds: spent on each part, over all times the run was started."""

    out: Path
    preset: Record
    seed: int
    seconds: dict[str, float]

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        started = time.perf_counter()
        try:
            yield
        finally:
            path = self.out / "seconds.json"
            with locked(path):  # other processes make other parts meanwhile
                self.seconds.update(read_seconds(path))
                self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - started, 1)
                write_json(path, self.seconds)

    def section(self, name: str) -> Record:
        return dict(self.preset.get(name) or {})

    def generation(self) -> GenerationConfig:
        config = settings(GenerationConfig, self.section("generation"), section="generation")
        return replace(config, base=find_base(self.preset.get("base", "mini")).name)

    def adapter(self, kind: str) -> Path:
        return self.out / "training" / kind / "adapter"


def run(
    out: Path, preset: Record, *, seed: int = 0, device: str = "cpu", force: bool = False, workers: int = 1
) -> list[ResultRow]:
    """Run every stage into `out` and return the rows that stand in out/results.csv.

    device: the device of the base model. workers: processes that train and draw side by side. A run that did not
    finish continues from disk. Where settings changed, the parts that depend on them are made again; for a finished
    run this needs `force`.
    Raises OutputError, with what differs, where a finished run is there and force is not given.
    """
    require_default("The quickstart, of the mini world,")
    this = _open(out, preset, seed, force=force)
    base = find_base(preset.get("base", "mini")).name
    with this.part("dataset"):
        sizes = settings(dataset.DatasetConfig, this.section("dataset"), section="dataset")
        dataset.build(out / "data", with_needed_pictures(sizes, preset))
    with this.part("user vectors"):
        stores = stores_of(this)
    cells: list[Cell] = []
    with Workers(workers) as shared:
        for together in (BESIDE, AFTER):
            calls = [partial(make_part, this, kinds, methods, device) for kinds, methods in together]
            cells += [cell for made in shared.call_all(calls) for cell in made]
    pipeline = load_pipeline(base, device=device)
    with this.part("measuring"):
        measure_cells(cells, out / "pictures", out / "results.csv", metrics=METRICS_OF_RUN)
    with this.part("sheet"):
        sheet = draw_sheet(this, pipeline, stores["prompt"])
    return _finish(this, sheet, workers)


def make_part(this: Run, kinds: tuple[str, ...], methods: tuple[str, ...], device: str) -> list[Cell]:
    """Train adapters, then draw the cells of methods, in this process. Returns the cells."""
    base, stores = find_base(this.preset.get("base", "mini")).name, stores_of(this)
    pipeline, cells = load_pipeline(base, device=device), []
    for kind in kinds:
        with this.part(f"training {kind}"):
            train(this, kind, pipeline, stores[kind])
    for method in methods:
        with this.part(f"pictures {method}"):
            cells += draw(this, method, pipeline, base=base)
    return cells


def stores_of(this: Run) -> dict[str, EmbeddingStore]:
    """User vectors by the adapter that learns them: structured ones for `published`; for `prompt` those of a
    language model where the preset says so. Raises UsageError for another word in the preset."""
    folders = vector_folders(this)
    structured = embed_users(
        this.out / "data", folders["published"], lambda: StructuredEmbedder(this.preset.get("llm_dim", 64))
    )
    if folders["prompt"] == folders["published"]:
        return {"published": structured, "prompt": structured}
    of_model = embed_users(this.out / "data", folders["prompt"], lambda: TransformersEmbedder(MINILM), exact=True)
    return {"published": structured, "prompt": of_model}


def vector_folders(this: Run) -> dict[str, Path]:
    """Folders of the user vectors, by adapter."""
    vectors, folder = this.preset.get("vectors", "auto"), this.out / "embeddings"
    if vectors not in VECTORS:
        raise UsageError(f"Unknown vectors '{vectors}'; choose one of: {', '.join(VECTORS)}.")
    is_structured = vectors == "structured" or (vectors == "auto" and not has_minilm())
    return {"published": folder if is_structured else this.out / "embeddings_structured", "prompt": folder}


def train(this: Run, kind: str, pipeline: Any, users: EmbeddingStore) -> None:
    """Train one adapter into out/training/<kind>; a finished one stays."""
    out, data = this.out / "training" / kind, this.out / "data"
    if (out / "adapter").exists():
        return
    config = training_config(this.preset, kind)
    most = None if config.objective == "captions" else _pairs_needed(config)
    rows, unseen = (
        load_rows(RowSource(data, this.out / "cache", split, most), pipeline, users, kind=kind, preset=this.preset)
        for split in ("train", "val")
    )
    train_adapter(this.preset, kind, pipeline, TrainingData(rows, users, unseen), out, seed=this.seed)


def _pairs_needed(config: TrainingConfig) -> int:
    """As many pairs of pictures as a run takes, if it takes none twice; an even number."""
    return 2 * -(-config.steps * config.batch_size * config.accumulation // 2)


def with_needed_pictures(sizes: dataset.DatasetConfig, preset: Record) -> dataset.DatasetConfig:
    """The dataset with pictures for as many training users as somebody learns from the pictures of, and for nobody in
    the tests, where what methods draw is measured. Where the dataset says who has pictures it stays as it is."""
    if sizes.pictured_users is not None:
        return sizes
    configs = [training_config(preset, kind) for kind in ADAPTERS if kind in preset]
    needed = max((_pairs_needed(config) for config in configs if config.objective == "pictures"), default=0)
    users = min(sizes.train_users, -(-needed // (2 * sizes.concepts)))
    return replace(sizes, pictured_users=users, pictured_tests=False)


def draw(this: Run, method: str, pipeline: Any, *, base: str) -> list[Cell]:
    """Draw the cells of one method into out/pictures. Returns them."""
    datasets = (*COMPARED, *OURS_ALONE) if method == PSA else COMPARED
    cells = [
        Cell(name, method, base, level)
        for name in datasets
        for level in (LEVELS if name == "mini_levels" else (None,))
    ]  # fmt: skip
    sampling, vectors = this.generation(), vector_folders(this)
    config = GridConfig(
        mini=this.out / "data",
        weights={(one, base): this.adapter(kind) for one, kind in ADAPTER_OF.items()},
        embeddings={base: vectors["prompt"], f"psa-published/{base}": vectors["published"]},
        steps=sampling.steps,
        guidance=sampling.guidance,
        batch_size=sampling.batch_size,
        negative_prompt=sampling.negative_prompt,
    )
    for status in draw_grid(cells, this.out / "pictures", config=config, pipelines={base: pipeline}):
        if status.state != DRAWN:
            raise GenerationError(f"{status.cell}: {status.note}")
    return cells


def draw_sheet(this: Run, pipeline: Any, users: EmbeddingStore) -> Sheet:
    """The sheet of the run's people, also written as out/sheet.png. See PeopleSheet."""
    config, adapter = replace(this.generation(), method=PSA), this.adapter(ADAPTER_OF[PSA])
    people = PeopleSheet(pipeline, users, this.out / "sheet", adapter=adapter, config=config, seed=this.seed)
    sheet = people.draw(unseen=pick_users(this.out / "data", users))
    write_sheet_png(this.out / "sheet.png", sheet)
    return sheet


def _open(out: Path, preset: Record, seed: int, *, force: bool = False) -> Run:
    mark, name = out / "quickstart.json", fingerprint({"preset": preset, "seed": seed})
    seconds = read_seconds(out / "seconds.json")
    if mark.exists():
        before = _read_mark(mark)
        if before["fingerprint"] != name:
            _go_on(out, before, {"preset": preset, "seed": seed}, force=force)
    write_json(mark, {"fingerprint": name, "preset": preset, "seed": seed})
    return Run(out, preset, seed, seconds)


def _read_mark(mark: Path) -> Record:
    """What the run in a folder was made with. Raises OutputError where the file is damaged."""
    fault = partial(OutputError, hint=f"Choose another --out: nothing says any more what {mark.parent} was made with.")
    what = "what a run was made of"
    before = read_json(mark, what=what, needs=("fingerprint", "preset", "seed"), fault=fault)
    preset = before["preset"]
    if not isinstance(preset, dict) or not all(isinstance(preset.get(name, {}), dict) for name in SECTIONS):
        raise fault(f"{mark} is damaged: its preset has no sections; expected {what}.")
    return before


def _go_on(out: Path, before: Record, now: Record, *, force: bool) -> None:
    """Remove what a run made with settings that are others now; it goes on from all the rest.

    Raises OutputError where the run is finished, something would go, and force is not given.
    """
    changed = [name for name in MADE_WITH if _decides(before["preset"], name) != _decides(now["preset"], name)]
    changed += ["seed"] * (before["seed"] != now["seed"])
    found = {path for name in changed for part in MADE_WITH[name] for path in out.glob(part)}
    stale = sorted(path.relative_to(out).as_posix() for path in found if not found & set(path.parents))
    finished = out / "report.html"
    if finished.exists() and stale and not force:
        raise OutputError(
            "\n".join([
                f"{out} holds a finished run with other settings:",
                *(f"  {line}" for name in changed for line in _section_changes(before, now, name)),
            ]),
            hint=f"Choose another --out, or add --force: it makes {', '.join(stale)} again, and keeps the rest.",
        )  # fmt: skip
    if stale:
        finished.unlink(missing_ok=True)
    for part in stale:
        shutil.rmtree(out / part)
    settings_changed = f"Other settings of {', '.join(changed) or 'nothing that is drawn'}"
    print(f"{settings_changed}. Made again: {', '.join(stale) or 'nothing'}.", file=sys.stderr)


def _section_changes(before: Record, now: Record, name: str) -> list[str]:
    """What differs of a section of the preset, or of the seed, a line each."""
    if name == "seed":
        return describe_changes({name: before[name]}, {name: now[name]})
    return describe_changes({name: before["preset"].get(name)}, {name: now["preset"].get(name)})


def _decides(preset: Record, name: str) -> Any:
    """What a section decides of what is made: of training not how it is watched."""
    section = preset.get(name)
    try:
        if name in OF_SECTION:
            return settings(OF_SECTION[name], section, section=name)
        if name in ADAPTERS:
            config = training_config(preset, name)
            size = config.batch_size * config.accumulation
            return (section or {}).get("adapter"), config.identity, config.steps, size
    except UsageError:  # settings that another version had
        return section
    return section


def read_seconds(path: Path) -> dict[str, float]:
    """Seconds by part of the runs before. Raises OutputError where the file is damaged."""
    fault = partial(OutputError, hint=f"Remove {path} and run the same command: seconds are counted anew.")
    known = read_json(path, what="seconds by part", fault=fault) if path.exists() else {}
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in known.values()):
        raise fault(f"{path} is damaged: expected seconds by part.")
    return known


def _finish(this: Run, sheet: Sheet, workers: int) -> list[ResultRow]:
    made_by = versions()
    made_by["versions"]["threads"] = torch.get_num_threads() if workers == 1 else threads_of(workers)
    this.seconds.update(read_seconds(this.out / "seconds.json"))
    mark = this.out / "quickstart.json"
    write_json(mark, {**_read_mark(mark), **made_by})
    trained = [name for name in ADAPTERS if (this.out / "training" / name).is_dir()]
    curves = {name: read_log(this.out / "training" / name / "log.csv") for name in trained}
    boards = load_leaderboards(this.out / "pictures", this.out / "results.csv")
    about = {"Configuration": {**this.preset, "seed": this.seed}, "Versions": made_by}
    write_report(this.out / "report.html", boards, about=about, run=RunParts(SUMMARY, sheet, curves, this.seconds))
    return read_results(this.out / "results.csv")
