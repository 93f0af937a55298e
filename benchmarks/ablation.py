"""Trains variants of an adapter on one mini dataset and measures each on the same prompts: the tables of docs/LOG.md.

    python benchmarks/ablation.py --variant "anchor alone:prompt.training.dpo_weight=0" [--seeds 0 1 2]
                                  [--set dataset.train_users=60]

A variant is NAME:SETTING=VALUE,SETTING=VALUE over the preset and what --set changes for all; a name that starts with
"published" trains that kind. Variants share dataset, vectors and cached latents in --out; each has a folder of its own
there for every seed, and what is finished is not done again.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from seeds import cell, of_pictures, over_seeds

from psalign.adapter.attach import attach
from psalign.adapter.checkpoint import load_adapter
from psalign.config import load_preset, settings
from psalign.diffusion.base_models import load_pipeline
from psalign.diffusion.generate import GenerationConfig, generate
from psalign.diffusion.prompts import load_prompts
from psalign.embed import embed_users
from psalign.files import Record, write_json
from psalign.mini import dataset
from psalign.training.run import load_rows, train_adapter, training_config
from psalign.users.vectors import StructuredEmbedder

# Another dataset than the presets': what is chosen here must not have seen the prompts of docs/RESULTS.md.
SIZES = {"scenes": 140, "seen": 7, "wordings": 14, "two_motifs": 42, "motifs": 70, "safe": 60, "levels": 7}
DATASET = {"seed": 11, **SIZES}
# Columns of the table: (suite, figure).
COLUMNS = [("scenes", name) for name in ("pass", "suppressed", "kept", "subject_kept", "safe_subject")]
COLUMNS += [("wordings", "pass"), ("two_motifs", "pass"), ("motifs", "pass")]


@dataclass(frozen=True)
class Bench:
    """What all variants share."""

    out: Path
    pipeline: Any
    learned_from: dict[str, Any]
    users: Any
    rows: Any

    def rows_for(self, preset: Record, kind: str) -> Any:
        """What the objective of a preset learns from: captions, or pairs of pictures; read once each."""
        objective = training_config(preset, kind).objective
        if objective not in self.learned_from:
            self.learned_from[objective] = load_rows(
                self.out / "data",
                self.out / "cache",
                self.pipeline,
                self.users,
                kind=kind,
                split="train",
                preset=preset,
            )
        return self.learned_from[objective]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", action="append", required=True, help="NAME:section.name=value,...")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--preset", default="mini-quickstart")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.NAME=VALUE", help="for all variants")
    parser.add_argument("--out", type=Path, default=Path("outputs/ablation"))
    arguments = parser.parse_args()
    bench = open_bench(arguments.out, load_preset(arguments.preset, changes=arguments.set))
    print("| variant | " + " | ".join(f"{suite}: {name}" for suite, name in COLUMNS) + " |")
    print("|---|" + "---|" * len(COLUMNS))
    for variant in arguments.variant:
        name, _, text = variant.partition(":")
        changed = load_preset(arguments.preset, changes=[*arguments.set, *split_changes(text)])
        runs = [figures(measure(bench, name, changed, seed)) for seed in arguments.seeds]
        cells = [cell(over_seeds([run[column] for run in runs])) for column in range(len(COLUMNS))]
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)


def open_bench(out: Path, preset: Record) -> Bench:
    """Dataset, user vectors and cached latents, made once."""
    sizes = settings(dataset.DatasetConfig, {**preset["dataset"], **DATASET}, section="dataset")
    dataset.build(out / "data", sizes)
    users = embed_users(out / "data", out / "embeddings", lambda: StructuredEmbedder(preset["llm_dim"]))
    pipeline = load_pipeline("mini")
    return Bench(out, pipeline, {}, users, load_prompts(out / "data" / "prompts.jsonl"))


def measure(bench: Bench, name: str, preset: Record, seed: int) -> Record:
    """Metrics of one variant and seed, from its folder where it is finished."""
    out = bench.out / f"{name.replace(' ', '-')}-{seed}"
    if (out / "metrics.json").exists():
        metrics: Record = json.loads((out / "metrics.json").read_text())
        return metrics
    kind = "published" if name.startswith("published") else "prompt"
    train_adapter(preset, kind, bench.pipeline, bench.rows_for(preset, kind), bench.users, out, seed=seed)
    attached = attach(bench.pipeline.unet, load_adapter(out / "adapter", base="mini"))
    config = replace(settings(GenerationConfig, preset["generation"], section="generation"), method="psa")
    pictures = out / "pictures"
    generate(bench.pipeline, bench.rows, pictures, config=config, users=bench.users, attached=attached)
    attached.unload()
    metrics = of_pictures(pictures, bench.rows)
    write_json(out / "metrics.json", metrics)
    return metrics


def split_changes(text: str) -> list[str]:
    """ "a.b=1,c.d=2" -> its parts; commas inside brackets stay."""
    parts: list[str] = []
    for piece in filter(None, text.split(",")):
        if "=" in piece:
            parts.append(piece)
        else:
            parts[-1] += f",{piece}"
    return parts


def figures(metrics: Record) -> list[Record]:
    """The figures of one run, in the order of the columns."""
    return [metrics[suite][name] for suite, name in COLUMNS]


if __name__ == "__main__":
    main()
