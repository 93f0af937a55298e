"""Commands of the path of data: quickstart, train, presets."""

from __future__ import annotations

import argparse
import json
from typing import Any

from ..errors import UsageError
from .options import a_number, a_path, add_model, add_out, add_preset, at_least, command, given
from .tables import summary


def quickstart(arguments: argparse.Namespace) -> None:
    from ..quickstart import run
    from .settings import EVERYTHING, load_settings

    preset = load_settings(arguments, reads=EVERYTHING)
    metrics = run(arguments.out, preset, seed=arguments.seed)
    print(summary(metrics))
    print(f"\nReport:  {arguments.out / 'report.html'}\nNumbers: {arguments.out / 'metrics.json'}")


def train(arguments: argparse.Namespace) -> None:
    from ..config import load_preset
    from ..diffusion.base_models import load_pipeline
    from ..diffusion.shards import Shard
    from ..sage.rows import dataset_root
    from ..training.config import PRECISIONS
    from ..training.run import has_split, load_pairs, train_adapter, training_config
    from ..users.embedding import EmbeddingStore
    from .settings import load_settings

    arguments.data = dataset_root(arguments.data)
    if arguments.kind not in load_preset(arguments.preset, changes=arguments.set):
        raise UsageError(
            f"{arguments.preset} says nothing of adapters of kind {arguments.kind}.",
            hint=f"Choose another --preset, or give a file that has a section `{arguments.kind}`.",
        )
    reads = ("base", "pictures", "generation", arguments.kind)
    preset = load_settings(arguments, reads=reads, flags=_changes(arguments))
    config = training_config(preset, arguments.kind)
    users = EmbeddingStore.load(arguments.embeddings)
    device = str(Shard(arguments.device).device)
    pipeline = load_pipeline(
        preset.get("base", "mini"), source=arguments.model, device=device, dtype=PRECISIONS[config.mixed_precision]
    )
    cache = arguments.cache or arguments.out / "cache"
    how = {"preset": preset, "allow_contradictions": arguments.allow_contradictions}
    pairs = load_pairs(arguments.data, cache, pipeline, users, **how)
    unseen = None
    if config.validation_pairs and has_split(arguments.data, "val"):
        unseen = load_pairs(arguments.data, cache, pipeline, users, split="val", **how)
    train_adapter(preset, arguments.kind, pipeline, pairs, users, arguments.out, seed=arguments.seed, unseen=unseen)
    print(f"Adapter: {arguments.out / 'adapter'}")


def _changes(arguments: argparse.Namespace) -> list[str]:
    """Flags that stand for settings of the section that is trained."""
    section = f"{arguments.kind}.training"
    return [f"{section}.{name}={value}" for name, value in given(arguments, "steps", "batch_size", "lr").items()]


def presets(arguments: argparse.Namespace) -> None:
    from ..config import list_presets, load_preset

    if arguments.name is None:
        print("\n".join(list_presets()))
    else:
        print(json.dumps(load_preset(arguments.name), indent=2))


def add_commands(groups: Any) -> None:
    one = command(groups, "quickstart", quickstart, "dataset, training, pictures, numbers and report on the mini base",
                   "psalign quickstart --out outputs/quickstart")  # fmt: skip
    add_preset(one, "mini-quickstart")
    add_out(one, "outputs/quickstart")
    one.add_argument("--seed", type=at_least(0), default=0, help="of training (default 0)")

    one = command(groups, "train", train, "train an adapter on a SAGE dataset",
                   "psalign train --data data/mini --embeddings data/embeddings/mini "
                   "--out trained_models/mini")  # fmt: skip
    one.add_argument("--data", type=a_path, required=True, help="SAGE dataset, in either layout (docs/DATA.md)")
    one.add_argument("--embeddings", type=a_path, required=True, help="user vectors (psalign embed)")
    one.add_argument("--kind", choices=("prompt", "published"), default="prompt", help="of adapter (default prompt)")
    add_preset(one, "mini-quickstart")
    add_out(one, "trained_models/mini")
    add_model(one)
    one.add_argument("--steps", type=at_least(1), help="how many, instead of the preset's")
    one.add_argument("--batch-size", type=at_least(1), help="pairs in one pass of one process, instead of the preset's")
    one.add_argument("--lr", type=a_number(0, above=True), help="learning rate, instead of the preset's")
    one.add_argument(
        "--cache", type=a_path, help="latents and text states, for several runs to share (default OUT/cache)"
    )
    one.add_argument("--allow-contradictions", action="store_true",
                     help="train although preferences contradict what the vectors say users ban")  # fmt: skip
    one.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")
    one.add_argument("--seed", type=at_least(0), default=0)

    one = command(groups, "presets", presets, "list presets, or print one", "psalign presets mini-quickstart")
    one.add_argument("name", nargs="?")
