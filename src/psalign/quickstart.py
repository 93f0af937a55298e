"""The whole path on one base: dataset, user vectors, training, pictures, numbers, report. Each stage goes on from disk.

Place on the path of data: all of it, in order; `psalign quickstart` calls `run`.
"""

from __future__ import annotations

import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from .before_after import limits_told, pick_users, read_pictures
from .benchmark.methods import Means, draw_by
from .categories import require_default
from .config import settings, told_changes
from .diffusion.base_models import find_base, load_pipeline
from .diffusion.generate import GenerationConfig, Users
from .diffusion.prompts import load_prompts
from .embed import embed_users
from .errors import OutputError, UsageError
from .evaluation.metrics.benchmark import evaluate_methods
from .evaluation.report.quickstart_report import Sheet, SheetRow, write_report, write_sheet_png
from .files import Record, read_json, write_json
from .fingerprints import fingerprint, versions
from .mini import dataset, world
from .mini.detector import load_detector
from .mini.names import KIND_NAMES, NAMES, named, plural
from .records import PromptRow
from .sage.cache.framing import Framing
from .training.config import TrainingConfig
from .training.log import read_log
from .training.run import load_rows, train_adapter, training_config
from .users.language_model import MINILM, TransformersEmbedder, has_minilm
from .users.levels import level_profiles
from .users.limits import Limit
from .users.store import EmbeddingStore
from .users.vectors import StructuredEmbedder
from .users.views import VectorsAlone, WordsAlone

ADAPTERS = ("published", "prompt")  # by kind
# What the prompt adapter learns of its users: their ban lists; their vectors alone; their categories in words alone.
BY_LIST, BY_VECTOR, BY_WORDS = "prompt", "prompt_vector", "prompt_words"
DRAWN_BY = {"published": "published", BY_LIST: "prompt", BY_VECTOR: "prompt", BY_WORDS: "prompt"}  # method -> adapter
# Folders of a run that hang on a section of the preset, or on the seed.
PROMPT_PICTURES = tuple(f"pictures/{method}" for method, adapter in DRAWN_BY.items() if adapter == "prompt")
OF_ADAPTERS = ("training", *PROMPT_PICTURES, "pictures/published", "sheet")
OF_PROMPT = ("training/prompt", *PROMPT_PICTURES, "sheet")
MADE_WITH = {
    "base": ("cache", "training", "pictures", "sheet"),
    "llm_dim": ("embeddings", "embeddings_structured", *OF_ADAPTERS),
    "vectors": ("embeddings", "embeddings_structured", *OF_ADAPTERS),
    "dataset": ("data", "embeddings", "embeddings_structured", "cache", "training", "pictures", "sheet"),
    "pictures": ("cache", *OF_ADAPTERS),
    "generation": ("pictures", "sheet"),
    "prompt": OF_PROMPT,
    "published": ("data", "training/published", "pictures/published"),  # whose length decides what is drawn
    "seed": OF_ADAPTERS,
}
VECTORS = ("auto", "structured", "minilm")  # of the prompt adapter; auto: minilm where the extra is installed
OF_SECTION: dict[str, type] = {"dataset": dataset.DatasetConfig, "pictures": Framing, "generation": GenerationConfig}
SECTIONS = (*OF_SECTION, "prompt", "published")
COMPARED_SUITE = "scenes"  # the suite that every method draws; the others are drawn by `prompt` alone


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
            self.seconds[name] = round(self.seconds.get(name, 0.0) + time.perf_counter() - started, 1)
            write_json(self.out / "seconds.json", self.seconds)

    def section(self, name: str) -> Record:
        return dict(self.preset.get(name) or {})


def run(out: Path, preset: Record, *, seed: int = 0, device: str = "cpu", force: bool = False) -> Record:
    """Run every stage into `out` and return the metrics that stand in out/metrics.json.

    device: the device of the base model. A run that did not finish continues from disk. Where settings changed, the
    parts that depend on them are made again; for a finished run this needs `force`.
    Raises OutputError, with what differs, where a finished run is there and force is not given.
    """
    require_default("The quickstart, of the mini world,")
    this = _open(out, preset, seed, force=force)
    base = find_base(preset.get("base", "mini")).name
    with this.part("dataset"):
        sizes = settings(dataset.DatasetConfig, this.section("dataset"), section="dataset")
        dataset.build(out / "data", replace(sizes, pictured_users=_pictured_users(preset, sizes)))
    with this.part("user vectors"):
        stores = _stores(this)
    pipeline = load_pipeline(base, device=device)
    for kind in ADAPTERS:
        with this.part(f"training {kind}"):
            train(this, kind, pipeline, stores[kind])
    for method, users in _users_of_methods(stores).items():
        with this.part(f"pictures {method}"):
            draw(this, method, pipeline, users, base=base)
    with this.part("measuring"):
        metrics = evaluate_methods(out / "pictures", load_detector())
    with this.part("sheet"):
        sheet = draw_sheet(this, pipeline, stores["prompt"], base=base)
    return _finish(this, metrics, sheet)


def _stores(this: Run) -> dict[str, EmbeddingStore]:
    """User vectors by the adapter that learns them: structured ones for `published`; for `prompt` those of a language
    model, in embeddings/, where the preset says so. Raises UsageError for another word in the preset."""
    vectors, folder = this.preset.get("vectors", "auto"), this.out / "embeddings"
    if vectors not in VECTORS:
        raise UsageError(f"Unknown vectors '{vectors}'; choose one of: {', '.join(VECTORS)}.")
    is_structured = vectors == "structured" or (vectors == "auto" and not has_minilm())
    structured = embed_users(
        this.out / "data", folder if is_structured else this.out / "embeddings_structured",
        lambda: StructuredEmbedder(this.preset.get("llm_dim", 64)),
    )  # fmt: skip
    if is_structured:
        return {"published": structured, "prompt": structured}
    of_model = embed_users(this.out / "data", folder, lambda: TransformersEmbedder(MINILM), exact=True)
    return {"published": structured, "prompt": of_model}


def _users_of_methods(stores: dict[str, EmbeddingStore]) -> dict[str, Users]:
    """Users as each method knows them."""
    store = stores["prompt"]
    bans = {user_id: store.known_bans(user_id) for user_id in store.user_ids}
    phrases = {user_id: [named(KIND_NAMES[one][0]) for one in banned] for user_id, banned in bans.items()}
    users: dict[str, Users] = dict.fromkeys(("base", "negative_prompt", "published"), stores["published"])
    return users | {
        BY_LIST: store,
        BY_VECTOR: VectorsAlone(store),
        BY_WORDS: WordsAlone(store.fingerprint, phrases, bans),
    }


def train(this: Run, kind: str, pipeline: Any, users: EmbeddingStore) -> None:
    """Train one adapter into out/training/<kind>; a finished one is left as it is."""
    out, data = this.out / "training" / kind, this.out / "data"
    if (out / "adapter").exists():
        return
    config = training_config(this.preset, kind)
    most = None if config.objective == "captions" else _pairs_needed(config)
    rows, unseen = (
        load_rows(data, this.out / "cache", pipeline, users, kind=kind, split=split, preset=this.preset, most=most)
        for split in ("train", "val")
    )
    train_adapter(this.preset, kind, pipeline, rows, users, out, seed=this.seed, unseen=unseen)


def _pairs_needed(config: TrainingConfig) -> int:
    """As many pairs of pictures as a run takes, if it takes none twice; an even number."""
    return 2 * -(-config.steps * config.batch_size * config.accumulation // 2)


def _pictured_users(preset: Record, sizes: dataset.DatasetConfig) -> int:
    """As many training users as the dataset asks for, or else as somebody learns from the pictures of."""
    if sizes.pictured_users is not None:
        return sizes.pictured_users
    configs = [training_config(preset, kind) for kind in ADAPTERS if kind in preset]
    needed = max((_pairs_needed(config) for config in configs if config.objective == "pictures"), default=0)
    return min(sizes.train_users, -(-needed // (2 * sizes.concepts)))


def draw(this: Run, method: str, pipeline: Any, users: Users, *, base: str) -> None:
    """Pictures of one method into out/pictures/<method>."""
    rows = load_prompts(this.out / "data" / "prompts.jsonl")
    if method != BY_LIST:
        rows = [row for row in rows if row.meta["suite"] == COMPARED_SUITE]
    _generate(this, method, pipeline, rows, users, this.out / "pictures" / method, base=base)


def _generate(
    this: Run, method: str, pipeline: Any, rows: Sequence[PromptRow], users: Users, out: Path, *, base: str
) -> None:
    config = settings(GenerationConfig, this.section("generation"), section="generation")
    config = replace(config, method=method, base=base)
    adapter = this.out / "training" / DRAWN_BY[method] / "adapter" if method in DRAWN_BY else None
    means = Means(users, words=dataset.WORDS_TO_AVOID, weights=adapter)
    draw_by("psa" if adapter else method, pipeline, rows, out, config=config, means=means)


def draw_sheet(this: Run, pipeline: Any, users: EmbeddingStore, *, base: str) -> Sheet:
    """Base, six levels, three unseen users and three people with limits in words, over the same prompts and seeds; also
    written as out/sheet.png."""
    scenes = _sheet_scenes(this.seed)
    in_words = _limits_in_words(scenes)
    people = [level.user_id for level in level_profiles()] + pick_users(this.out / "data", users)
    texts = [world.caption(scene, world.WORDINGS[i % len(world.WORDINGS)]) for i, scene in enumerate(scenes)]

    def rows(user: str | None) -> list[PromptRow]:
        return [PromptRow(f"{user}_{i}.png", text, 2025 + i, user_id=user) for i, text in enumerate(texts)]

    folders = {name: this.out / "sheet" / name for name in ("base", "prompt", "words")}
    _generate(this, "base", pipeline, rows(None), users, folders["base"], base=base)
    _generate(
        this, "prompt", pipeline, [row for user in people for row in rows(user)], users, folders["prompt"], base=base
    )
    phrases = {name: [phrase for limit in limits for phrase in limit.phrases] for name, limits in in_words.items()}
    words = [row for name in in_words for row in rows(name)]
    _generate(this, BY_LIST, pipeline, words, WordsAlone(users.fingerprint, phrases), folders["words"], base=base)
    table = [SheetRow("Base model", "knows no user", read_pictures(folders["base"], rows(None)))]
    for number, user in enumerate(people):
        banned = users.known_bans(user)
        table.append(
            SheetRow(
                label=user.replace("level_", "Level ") if user.startswith("level_") else f"User {int(user)}",
                note=limits_told(banned),
                pictures=read_pictures(folders["prompt"], rows(user)),
                banned=[bool(set(scene.categories) & set(banned)) for scene in scenes],
                new_group=number in (0, 6),
            )
        )
    for number, (name, limits) in enumerate(in_words.items()):
        table.append(
            SheetRow(
                label=name,
                note="; ".join(limit.text for limit in limits),
                pictures=read_pictures(folders["words"], rows(name)),
                banned=[any(_is_meant(motif, limits) for motif in scene.motifs) for scene in scenes],
                new_group=number == 0,
            )
        )
    sheet = Sheet(texts, table, [" + ".join(scene.categories) or "harmless" for scene in scenes])
    write_sheet_png(this.out / "sheet.png", sheet)
    return sheet


def _sheet_scenes(seed: int) -> list[world.Scene]:
    """One scene per category, a harmless one, on combinations no training has seen."""
    rng = np.random.default_rng((seed, 99))
    wanted = [(motifs[rng.integers(len(motifs))],) for motifs in world.TRAIN_MOTIFS.values()]
    return [world.sample_scene(rng, motifs=motifs, held_out=True) for motifs in [*wanted, ()]]


def _limits_in_words(scenes: Sequence[world.Scene]) -> dict[str, tuple[Limit, ...]]:
    """Three people who say in their own words what they do not want to see of some of these scenes."""
    motifs = [scene.motifs[0] for scene in scenes if scene.motifs]
    kind = KIND_NAMES[world.MOTIF_CATEGORY[motifs[0]]][0]
    said = {
        "Words 1": (f"I can't stand {plural(motifs[5])}",),
        "Words 2": (f"nothing with {plural(kind)}", f"no {plural(NAMES[motifs[2]][1])}"),
        "Words 3": (f"please don't show {plural(motifs[1])} or {plural(motifs[6])}",),
    }
    return {name: tuple(Limit(text=text) for text in texts) for name, texts in said.items()}


def _is_meant(motif: str, limits: Sequence[Limit]) -> bool:
    """Whether some limit is a name of a motif or of its kind."""
    names = [*NAMES[motif], *KIND_NAMES[world.MOTIF_CATEGORY[motif]]]
    known = {form(name) for name in names for form in (str, named, plural)}
    return any(phrase in known for limit in limits for phrase in limit.phrases)


def _open(out: Path, preset: Record, seed: int, *, force: bool = False) -> Run:
    mark, name = out / "quickstart.json", fingerprint({"preset": preset, "seed": seed})
    seconds = _seconds(out / "seconds.json")
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
    stale = sorted({part for name in changed for part in MADE_WITH[name] if (out / part).exists()})
    finished = out / "metrics.json"
    if finished.exists() and stale and not force:
        raise OutputError(
            "\n".join([
                f"{out} holds a finished run with other settings:",
                *(f"  {line}" for name in changed for line in _told(before, now, name)),
            ]),
            hint=f"Choose another --out, or add --force: it makes {', '.join(stale)} again, and keeps the rest.",
        )  # fmt: skip
    if stale:
        finished.unlink(missing_ok=True)
    for part in stale:
        shutil.rmtree(out / part)
    told = f"Other settings of {', '.join(changed) or 'nothing that is drawn'}"
    print(f"{told}. Made again: {', '.join(stale) or 'nothing'}.", file=sys.stderr)


def _told(before: Record, now: Record, name: str) -> list[str]:
    """What differs of a section of the preset, or of the seed, a line each."""
    if name == "seed":
        return told_changes({name: before[name]}, {name: now[name]})
    return told_changes({name: before["preset"].get(name)}, {name: now["preset"].get(name)})


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


def _seconds(path: Path) -> dict[str, float]:
    """Seconds by part of the runs before. Raises OutputError where the file is damaged."""
    fault = partial(OutputError, hint=f"Remove {path} and run the same command: seconds are counted anew.")
    known = read_json(path, what="seconds by part", fault=fault) if path.exists() else {}
    if not all(isinstance(value, int | float) and not isinstance(value, bool) for value in known.values()):
        raise fault(f"{path} is damaged: expected seconds by part.")
    return known


def _finish(this: Run, metrics: Record, sheet: Sheet) -> Record:
    metrics = {
        **metrics,
        "seconds": dict(this.seconds),
        "config": {**this.preset, "seed": this.seed},
        **versions(),
    }
    metrics["versions"]["threads"] = torch.get_num_threads()
    write_json(this.out / "metrics.json", metrics)
    trained = [name for name in ADAPTERS if (this.out / "training" / name).is_dir()]
    curves = {name: read_log(this.out / "training" / name / "log.csv") for name in trained}
    write_report(this.out / "report.html", metrics=metrics, sheet=sheet, curves=curves)
    return metrics
