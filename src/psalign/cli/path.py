"""Commands of the path of data: quickstart, train, presets."""

from __future__ import annotations

import argparse
import gc
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError
from . import from_nothing
from .options import PUBLISHED, a_number, a_path, add_model, add_out, add_preset, at_least, command, given
from .tables import summary

if TYPE_CHECKING:
    from ..files import Record
    from ..training.config import TrainingConfig
    from ..users.embedding import EmbeddingStore

DEFAULT_PRESET = "mini-quickstart"


def quickstart(arguments: argparse.Namespace) -> None:
    from ..diffusion.shards import Shard
    from ..quickstart import run
    from .settings import EVERYTHING, load_settings

    preset = load_settings(arguments, reads=EVERYTHING)
    device = str(Shard(arguments.device).device)
    metrics = run(arguments.out, preset, seed=arguments.seed, device=device, force=arguments.force)
    print(summary(metrics))
    print(f"\nReport:  {arguments.out / 'report.html'}\nNumbers: {arguments.out / 'metrics.json'}")


def train(arguments: argparse.Namespace) -> None:
    from ..config import load_preset
    from ..diffusion.shards import Shard
    from ..sage.rows import dataset_root
    from ..training.identity import require_same_settings
    from ..training.run import has_split, load_rows, train_adapter, training_config
    from ..users.embedding import EmbeddingStore
    from .settings import load_settings

    if arguments.kind not in load_preset(arguments.preset, changes=arguments.set):
        raise UsageError(
            f"{arguments.preset} says nothing of adapters of kind {arguments.kind}.",
            hint=f"Choose another --preset, or give a file that has a section `{arguments.kind}`.",
        )
    reads = ("base", "pictures", "generation", arguments.kind)
    preset = load_settings(arguments, reads=reads, flags=_changes(arguments))
    config = training_config(preset, arguments.kind)
    if arguments.rows is not None and config.objective != "captions":
        raise UsageError("--rows is for training by captions; pictures are as many as the steps need.")
    shard = Shard(arguments.device)
    if arguments.from_nothing:
        users = from_nothing.prepare(arguments, preset, config, shard)
    else:
        arguments.data = dataset_root(arguments.data)
        users = EmbeddingStore.load(arguments.embeddings)
    require_same_settings(
        arguments.out,
        replace(config, seed=arguments.seed),
        pairs_per_step=config.batch_size * config.accumulation * shard.count,
        users=users.fingerprint,
    )
    pipeline = _pipeline(arguments, preset, config, str(shard.device))
    if config.objective == "captions":
        users = _with_ban_lists(arguments, users)
    cache = arguments.cache or arguments.out / "cache"
    how = {"kind": arguments.kind, "preset": preset, "allow_contradictions": arguments.allow_contradictions}
    rows: dict[str, Any] = {
        split: load_rows(arguments.data, cache, pipeline, users, split=split, most=_most(arguments, split), **how)
        for split in ("train", "val")
        if split == "train" or (config.validation_pairs and has_split(arguments.data, split))
    }
    if config.objective == "captions" and shard.is_first:
        print("Learning from captions alone: no picture is read, and none needs to be there.", file=sys.stderr)
    if config.needs_text_alone:  # what the text encoders say is on disk
        pipeline.text_encoder = pipeline.text_encoder_2 = None
    train_adapter(
        preset,
        arguments.kind,
        pipeline,
        rows["train"],
        users,
        arguments.out,
        seed=arguments.seed,
        unseen=rows.get("val"),
    )
    print(f"Adapter: {arguments.out / 'adapter'}", flush=True)
    if arguments.from_nothing and arguments.sheet:
        del pipeline, rows  # what the whole pipeline needs the memory of
        gc.collect()
        from_nothing.draw_sheet(arguments, preset, users, shard)


def _fill_train(arguments: argparse.Namespace) -> None:
    """An output folder of the preset's own, and what --data published stands for."""
    if arguments.out is None:
        name = "mini" if arguments.preset == DEFAULT_PRESET else Path(arguments.preset).stem
        arguments.out = Path("trained_models") / name
    from_nothing.fill(arguments)


def _most(arguments: argparse.Namespace, split: str) -> int | None:
    """Rows of a split to learn from, or to validate on: a tenth as many."""
    if arguments.rows is None:
        return None
    return int(arguments.rows) if split == "train" else max(1, arguments.rows // 10)


def _pipeline(arguments: argparse.Namespace, preset: Record, config: TrainingConfig, device: str) -> Any:
    """The base model, or no more of it than training needs: its text side."""
    from ..diffusion.base_models import is_single_file, load_pipeline
    from ..diffusion.text_side import load_text_side
    from ..training.config import PRECISIONS

    text_alone = config.needs_text_alone and not is_single_file(arguments.model)
    load = load_text_side if text_alone else load_pipeline
    dtype = PRECISIONS[config.mixed_precision]
    return load(
        preset.get("base", "mini"), source=arguments.model, device=device, dtype=dtype, variant=arguments.variant
    )


def _with_ban_lists(arguments: argparse.Namespace, users: EmbeddingStore) -> EmbeddingStore:
    """The users, and those of a file of captions that are nothing but a ban list, embedded as the others were."""
    from ..sage.caption_rows import is_caption_file, read_caption_rows
    from ..users.embedding import EmbeddingStore
    from ..users.language_model import embedder_for
    from ..users.profile import UserProfile

    if not is_caption_file(arguments.data):
        return users
    lists = {row.user_id: row.banned for row in read_caption_rows(arguments.data) if row.banned is not None}
    new = [UserProfile(user_id=user_id, banned=bans) for user_id, bans in lists.items() if user_id not in users]
    if not new:
        return users
    embedder = embedder_for(users.recipe, model=arguments.llm)
    return users.joined(EmbeddingStore.build(new, embedder, statistics_of=users))


def _changes(arguments: argparse.Namespace) -> list[str]:
    """Flags that stand for settings of the section that is trained."""
    section = f"{arguments.kind}.training"
    return [f"{section}.{name}={value}" for name, value in given(arguments, "steps", "batch_size", "lr").items()]


def _data(text: str) -> Path | str:
    return PUBLISHED if text == PUBLISHED else a_path(text)


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
    one.add_argument("--force", action="store_true",
                     help="make again what other settings decide, although the run in --out is finished")  # fmt: skip
    one.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")

    one = command(groups, "train", train, "train an adapter on a SAGE dataset",
                   "psalign train --data data/mini --embeddings data/embeddings/mini "
                   "--out trained_models/mini")  # fmt: skip
    one.add_argument("--data", type=_data, required=True,
                     help="SAGE dataset in either layout, a file of captions, or the word published: the published "
                          "captions and users, and all else that is not there, are fetched "
                          "(docs/TRAINING.md)")  # fmt: skip
    one.add_argument("--embeddings", type=a_path,
                     help="user vectors (psalign embed; of published data they are made, by default in "
                          f"{from_nothing.VECTORS})")  # fmt: skip
    one.add_argument("--kind", choices=("prompt", "published"), default="prompt", help="of adapter (default prompt)")
    add_preset(one, DEFAULT_PRESET)
    one.add_argument("--out", type=a_path, help="where to write (default trained_models/mini, or of the preset's name)")
    one.set_defaults(fill=_fill_train)
    add_model(one)
    one.add_argument("--variant", help="of the base model's files, as fp16: half the download")
    one.add_argument("--llm", help="language model of the user vectors, for users who have none: of a captions "
                                   "file, or of published data")  # fmt: skip
    one.add_argument(
        "--rows", type=at_least(2), help="the most captions to train on, taken evenly from the dataset (default all)"
    )
    one.add_argument(
        "--no-sheet", dest="sheet", action="store_false", help="of published data: draw no sheet at the end"
    )
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
