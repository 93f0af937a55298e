"""Trains variants of an adapter on one mini dataset and measures each by the same pictures: the tables of docs/LOG.md.

    python benchmarks/ablation.py --variant "the preset" --variant "random:prompt.training.queries=random"
                                  [--seeds 0 1 2] [--set dataset.train_users=60] [--polish 100]
                                  [--device cuda] [--out DIR]

A variant is NAME:SETTING=VALUE,SETTING=VALUE over the preset and what --set changes for all. It is trained on dataset
seed 11, with MiniLM's vectors (extra `minilm`), and measured on held-out users and scenes:
    vector: users known by the vector alone; scenes of one motif, and motifs that training never met,
    list: users known by their ban list; scenes of two motifs,
    words: limits in words alone (limit_prompts.py): words that training never met, what is kept beside a first motif
        that is limited, and motifs that are described.
--polish: after training on captions, as many steps through the UNet on pictures of chosen captions, for variants whose
name begins with "polished". All share dataset, vectors and caches in --out; each has a folder of its own there for
every seed, and what is finished is not done again.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from limit_prompts import limit_prompts
from limits import Pen
from limits import measure as measure_limits
from seeds import cell, of_pictures, over_seeds

from psalign.adapter.attach import attach
from psalign.adapter.checkpoint import load_adapter
from psalign.config import load_preset, settings
from psalign.diffusion.base_models import load_pipeline
from psalign.diffusion.generate import Drawing, GenerationConfig, generate
from psalign.diffusion.prompts import load_prompts
from psalign.embed import embed_users
from psalign.files import Record, write_json
from psalign.fingerprints import versions
from psalign.mini import dataset
from psalign.training.objective import Objective
from psalign.training.run import RowSource, TrainingData, load_captions, load_pairs, train_adapter, training_config
from psalign.training.trainer import Trainer
from psalign.users.language_model import MINILM, TransformersEmbedder
from psalign.users.views import VectorsAlone

# Another dataset than the presets': what is chosen here must not have seen the prompts of docs/RESULTS.md.
DATASET = {
    "seed": 11,
    "scenes": 140,
    "seen": 7,
    "wordings": 14,
    "two_motifs": 42,
    "motifs": 70,
    "safe": 60,
    "levels": 7,
}
VIEWS = {"vector": ("scenes", "motifs"), "list": ("two_motifs",)}
WORDS = {
    "never met, named": "gone",
    "two motifs, the first limited": "kept",
    "prompt: described": "gone",
}
COLUMNS = ("vector: scenes", "vector: held-out motifs", "list: two motifs", "words: never met, gone",
           "words: second motif, kept", "words: described, gone", "CPU seconds")  # fmt: skip
PICTURED = 48  # users whose pictures the polish learns from
# The polish: errors of the UNet's own predictions for the caption of the chosen picture, at a small rate.
POLISH = {"objective": "pictures", "dpo_weight": 0.0, "anchor": "caption", "batch_size": 16, "lr": 2e-4,
          "rewritten_share": 0.45, "match_weight": 0.0, "timesteps": (150, 1000), "warmup_steps": 10}  # fmt: skip


class Bench:
    """What all variants share: dataset, users, prompts, the base, and its pictures of the prompts with limits."""

    def __init__(self, out: Path, preset: Record, *, polish: int, device: str) -> None:
        self.out, self.polish, self.pipeline = out, polish, load_pipeline("mini", device=device)
        sizes = settings(dataset.DatasetConfig, {**preset["dataset"], **DATASET}, section="dataset")
        pictured = min(PICTURED, sizes.train_users)
        dataset.build(out / "data", replace(sizes, pictured_users=pictured), captions_only=not polish)
        self.pairs = 2 * pictured * sizes.concepts  # that have pictures
        self.users = embed_users(out / "data", out / "embeddings", lambda: TransformersEmbedder(MINILM), exact=True)
        rows = load_prompts(out / "data" / "prompts.jsonl")
        rows = [row for row in rows if row.meta["kind"] == "unsafe" and not row.meta["seen_user"]]
        self.rows = {
            view: [row for name in names for row in rows if row.meta["suite"] == name][::2]
            for view, names in VIEWS.items()
        }
        self.config = settings(GenerationConfig, preset["generation"], section="generation")
        self.pen = Pen(self.pipeline, self.config)
        limited = limit_prompts(count=35, wordings=35, seed=sizes.seed)
        self.limited = [row for row in limited if row.meta["suite"] in WORDS]
        self.base = list(self.pen.draw(self.limited))

    def measure(self, name: str, preset: Record, seed: int) -> Record:
        """Figures of one variant and seed by COLUMNS, from its folder where it is finished."""
        folder = self.out / f"{name.replace(' ', '-')}-{seed}"
        return once(folder, preset, lambda: self._train(folder, name, preset, seed))

    def _train(self, folder: Path, name: str, preset: Record, seed: int) -> Record:
        source = RowSource(self.out / "data", self.out / "cache")
        rows = load_captions(source, self.pipeline, self.users, preset=preset)
        started = time.process_time()
        train_adapter(preset, "prompt", self.pipeline, TrainingData(rows, self.users), folder, seed=seed)
        if self.polish and name.startswith("polished"):
            self._polish(folder, preset, seed)
        seconds = time.process_time() - started
        return {**self._figures(folder), "CPU seconds": {"value": seconds, "n": 1}}

    def _polish(self, folder: Path, preset: Record, seed: int) -> None:
        """Train the adapter of a folder on, through the UNet."""
        source = RowSource(self.out / "data", self.out / "cache", most=self.pairs)
        pairs = load_pairs(source, self.pipeline, self.users, preset=preset)
        config = replace(training_config(preset, "prompt"), **POLISH, steps=self.polish, seed=seed)
        attached = attach(self.pipeline.unet, load_adapter(folder / "adapter", base="mini"))
        try:
            objective = Objective.of(attached, config, self.pipeline.scheduler)
            Trainer(objective, pairs, config, folder / "polish", data={"rows": pairs.name}).train()
        finally:
            attached.unload()

    def _figures(self, folder: Path) -> Record:
        adapter = folder / "polish" / "adapter"
        adapter = adapter if adapter.exists() else folder / "adapter"
        attached = attach(self.pipeline.unet, load_adapter(adapter, base="mini"))
        found: dict[str, Record] = {}
        for view, users in (("list", self.users), ("vector", VectorsAlone(self.users))):
            pictures, config = folder / view, replace(self.config, method="psa")
            generate(Drawing(self.pipeline, config, users, attached), self.rows[view], pictures)
            found[view] = of_pictures(pictures, self.rows[view])
        limited = measure_limits(list(self.pen.draw(self.limited, attached)), self.base)
        attached.unload()
        shown = [
            found["vector"]["scenes"]["pass"],
            found["vector"]["motifs"]["pass"],
            found["list"]["two_motifs"]["pass"],
        ]
        return dict(zip(COLUMNS, [*shown, *(limited[suite][figure] for suite, figure in WORDS.items())], strict=False))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", action="append", required=True, help="NAME:section.name=value,...")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--preset", default="mini-quickstart")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.NAME=VALUE", help="for all variants")
    parser.add_argument("--polish", type=int, default=0, metavar="STEPS")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=Path("outputs/ablation"))
    arguments = parser.parse_args()
    preset = load_preset(arguments.preset, changes=arguments.set)
    bench = Bench(arguments.out, preset, polish=arguments.polish, device=arguments.device)
    print("| variant | " + " | ".join(COLUMNS) + " |\n|---|" + "---|" * len(COLUMNS), flush=True)
    for variant in arguments.variant:
        name, _, text = variant.partition(":")
        changed = load_preset(arguments.preset, changes=[*arguments.set, *split_changes(text)])
        runs = [bench.measure(name, changed, seed) for seed in arguments.seeds]
        cells = [cell(over_seeds([run[column] for run in runs])) for column in COLUMNS]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def once(folder: Path, preset: Record, make: Callable[[], Record]) -> Record:
    """The figures of a variant and seed: those in its folder where it is finished, else what `make` returns."""
    path = folder / "figures.json"
    if not path.exists():
        write_json(path, {**make(), "preset": preset, **versions()})
    figures: Record = json.loads(path.read_text())
    return figures


def split_changes(text: str) -> list[str]:
    """ "a.b=1,c.d=2" -> its parts; commas inside brackets stay."""
    parts: list[str] = []
    for piece in filter(None, text.split(",")):
        if "=" in piece:
            parts.append(piece)
        else:
            parts[-1] += f",{piece}"
    return parts


if __name__ == "__main__":
    main()
