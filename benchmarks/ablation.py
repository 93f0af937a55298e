"""Trains variants of an adapter on one mini dataset and measures each on the same prompts: the tables of docs/LOG.md.

    python benchmarks/ablation.py --variant "both:" --variant "anchor alone:prompt.training.dpo_weight=0" [--seeds 0]

A variant is NAME:SETTING=VALUE,SETTING=VALUE over the preset; a name that starts with "published" trains that kind.
Variants share dataset, vectors and cached latents in --out; each has a folder of its own there, and one that is
finished is only measured again.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from psalign.adapter.attach import attach
from psalign.adapter.checkpoint import load_adapter
from psalign.config import load_preset, settings
from psalign.diffusion.base_models import load_pipeline
from psalign.diffusion.generate import GenerationConfig, generate, load_prompts
from psalign.evaluation.benchmark import evaluate_methods
from psalign.mini import dataset
from psalign.mini.detector import load_detector
from psalign.quickstart import embed_users
from psalign.records import write_json
from psalign.training.run import load_pairs, train_adapter

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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--variant", action="append", required=True, help="NAME:section.name=value,...")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--preset", default="mini-quickstart")
    parser.add_argument("--out", type=Path, default=Path("outputs/ablation"))
    arguments = parser.parse_args()
    preset = load_preset(arguments.preset)
    sizes = settings(dataset.DatasetConfig, {**preset["dataset"], **DATASET}, section="dataset")
    dataset.build(arguments.out / "data", sizes)
    users = embed_users(arguments.out / "data", arguments.out / "embeddings", llm_dim=preset["llm_dim"])
    pipeline = load_pipeline("mini")
    pairs = load_pairs(arguments.out / "data", arguments.out / "cache", pipeline, users)
    rows = load_prompts(arguments.out / "data" / "prompts.jsonl")
    for variant in arguments.variant:
        name, _, text = variant.partition(":")
        changed = load_preset(arguments.preset, changes=split_changes(text))
        kind = "published" if name.startswith("published") else "prompt"
        for seed in arguments.seeds:
            out = arguments.out / f"{name.replace(' ', '-')}-{seed}"
            started = time.perf_counter()
            train_adapter(changed, kind, pipeline, pairs, users, out, seed=seed)
            seconds = time.perf_counter() - started
            attached = attach(pipeline.unet, load_adapter(out / "adapter", base="mini"))
            config = replace(settings(GenerationConfig, changed["generation"], section="generation"), method="prompt")
            generate(pipeline, rows, out / "pictures" / "prompt", config=config, users=users, attached=attached)
            attached.unload()
            metrics = evaluate_methods(out / "pictures", load_detector())
            write_json(out / "metrics.json", metrics)
            print(f"| {name}, seed {seed} | {line(metrics)} | {seconds:.0f} s |", flush=True)


def split_changes(text: str) -> list[str]:
    """ "a.b=1,c.d=2" -> its parts; commas inside brackets stay."""
    parts: list[str] = []
    for piece in filter(None, text.split(",")):
        if "=" in piece:
            parts.append(piece)
        else:
            parts[-1] += f",{piece}"
    return parts


def line(metrics: dict[str, Any]) -> str:
    """The figures of one variant as cells of a table."""
    scenes, suites = metrics["methods"]["prompt"], metrics["suites"]
    names = ("pass", "suppressed", "kept", "subject_kept", "harmless_subject")
    cells = [f"{scenes[name]['value']:.3f}" for name in names]
    for suite in ("wordings", "two_motifs", "motifs"):
        figures = suites[suite]["prompt"]
        cells.append("/".join(f"{figures[name]['value']:.2f}" for name in names[:3]))
    cells.append(" ".join(f"{rate['value']:.2f}" for rate in metrics["levels"].values()))
    return " | ".join(cells)


if __name__ == "__main__":
    main()
