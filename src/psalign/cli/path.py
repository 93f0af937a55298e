"""Commands of the path of data: quickstart, train, presets."""

from __future__ import annotations

import argparse
import gc
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..categories import require_default
from ..config import list_presets, load_preset
from ..errors import UsageError
from .drawing import device_of
from .options import (
    PUBLISHED,
    PUBLISHED_CAPTIONS,
    a_number,
    a_path,
    add_device,
    add_model,
    add_out,
    add_preset,
    add_seed,
    add_variant,
    at_least,
    command,
    given,
)  # fmt: skip
from .settings import RUN, load_settings
from .tables import summary

if TYPE_CHECKING:
    from ..diffusion.shards import Shard
    from ..files import Record
    from ..from_published import Sources
    from ..training.config import TrainingConfig
    from ..users.store import EmbeddingStore

DEFAULT_PRESET = "mini-quickstart"
PUBLISHED_VECTORS = Path("data/embeddings/sage")  # of the published users, which are made where they are not there


def quickstart(arguments: argparse.Namespace) -> None:
    from ..quickstart import run

    preset = load_settings(arguments, reads=RUN)
    device = device_of(arguments)
    rows = run(
        arguments.out, preset, seed=arguments.seed, device=device, force=arguments.force, workers=arguments.workers
    )
    print(summary(rows))
    print(f"\nReport:  {arguments.out / 'report.html'}\nNumbers: {arguments.out / 'results.csv'}")


def train(arguments: argparse.Namespace) -> None:
    from ..diffusion.shards import Shard
    from ..embed import with_ban_lists
    from ..training.identity import require_same_settings
    from ..training.run import TrainingData, train_adapter, training_config

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
    sources, users = _sources_and_users(arguments, preset, config, shard)
    require_same_settings(
        arguments.out,
        replace(config, seed=arguments.seed),
        pairs_per_step=config.batch_size * config.accumulation * shard.count,
        users=users.fingerprint,
    )
    pipeline = _pipeline(arguments, preset, config, str(shard.device))
    if config.objective == "captions":
        users = with_ban_lists(users, arguments.data, model=arguments.llm)
    rows = _rows(arguments, preset, config, pipeline, users)
    if config.objective == "captions" and shard.is_first:
        print("Learning from captions alone: no picture is read, and none needs to be there.", file=sys.stderr)
    if config.needs_text_alone:  # what the text encoders say is on disk
        pipeline.text_encoder = pipeline.text_encoder_2 = None
    data = TrainingData(rows["train"], users, rows.get("val"))
    train_adapter(preset, arguments.kind, pipeline, data, arguments.out, seed=arguments.seed)
    print(f"Adapter: {arguments.out / 'adapter'}", flush=True)
    if sources is not None and arguments.sheet:
        from ..from_published import draw_sheet

        del pipeline, rows, data  # what the whole pipeline needs the memory of
        gc.collect()
        draw_sheet(sources, preset, users, shard)


def _sources_and_users(
    arguments: argparse.Namespace, preset: Record, config: TrainingConfig, shard: Shard
) -> tuple[Sources | None, EmbeddingStore]:
    """The users; with --data published also what was fetched. --data and --model are then where it lies."""
    from ..sage.dataset import dataset_root
    from ..users.store import EmbeddingStore

    if arguments.data != PUBLISHED:
        arguments.data = dataset_root(arguments.data)
        return None, EmbeddingStore.load(arguments.embeddings)
    from ..from_published import Sources, not_served, prepare

    if config.objective != "captions":
        raise not_served()
    arguments.data, embeddings = PUBLISHED_CAPTIONS, arguments.embeddings or PUBLISHED_VECTORS
    given_ones = given(arguments, "model", "variant", "llm", "rows")
    wanted = Sources(
        arguments.data, embeddings, arguments.out, arguments.cache or arguments.out / "cache",
        noise_share=config.noise_share, **given_ones,
    )  # fmt: skip
    sources, users = prepare(wanted, preset.get("base", "mini"), shard)
    arguments.model = sources.model
    return sources, users


def _rows(
    arguments: argparse.Namespace, preset: Record, config: TrainingConfig, pipeline: Any, users: EmbeddingStore
) -> dict[str, Any]:
    """What to learn from, and what to validate on where the dataset has it, by split."""
    from ..training.run import RowSource, has_split, load_rows

    splits = ["train"] + ["val"] * bool(config.validation_pairs and has_split(arguments.data, "val"))
    most = {"train": arguments.rows, "val": arguments.rows and max(1, arguments.rows // 10)}
    data, cache, allowed = arguments.data, arguments.cache or arguments.out / "cache", arguments.allow_contradictions
    sources = {split: RowSource(data, cache, split, most[split], allowed) for split in splits}
    return {
        split: load_rows(source, pipeline, users, kind=arguments.kind, preset=preset)
        for split, source in sources.items()
    }


def _fill_train(arguments: argparse.Namespace) -> None:
    """An output folder of the preset's own. Raises UsageError where nothing says where the vectors are."""
    if arguments.out is None:
        name = "mini" if arguments.preset == DEFAULT_PRESET else Path(arguments.preset).stem
        arguments.out = Path("trained_models") / name
    if arguments.data == PUBLISHED:
        require_default("The published data")
    elif arguments.embeddings is None:
        raise UsageError("the following arguments are required: --embeddings", hint="Run: psalign train --help")


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


def _changes(arguments: argparse.Namespace) -> list[str]:
    """Flags that stand for settings of the section that is trained."""
    section = f"{arguments.kind}.training"
    return [f"{section}.{name}={value}" for name, value in given(arguments, "steps", "batch_size", "lr").items()]


def _data(text: str) -> Path | str:
    return PUBLISHED if text == PUBLISHED else a_path(text)


def presets(arguments: argparse.Namespace) -> None:
    if arguments.name is None:
        print("\n".join(list_presets()))
    else:
        print(json.dumps(load_preset(arguments.name), indent=2))


def add_commands(groups: Any) -> None:
    one = command(groups, "quickstart", quickstart, "dataset, training, pictures, numbers and report on the mini base",
                   "psalign quickstart --out outputs/quickstart")  # fmt: skip
    add_preset(one, "mini-quickstart")
    add_out(one, "outputs/quickstart")
    add_seed(one, help="of training (default 0)")
    one.add_argument("--force", action="store_true",
                     help="make again what other settings decide, although the run in --out is finished")  # fmt: skip
    add_device(one)
    one.add_argument("--workers", type=at_least(1), default=1,
                     help="processes that train and draw side by side (default 1)")  # fmt: skip

    _add_train(groups)
    one = command(groups, "presets", presets, "list presets, or print one", "psalign presets mini-quickstart")
    one.add_argument("name", nargs="?")


def _add_train(groups: Any) -> None:
    one = command(groups, "train", train, "train an adapter on a SAGE dataset",
                   "psalign train --data data/mini --embeddings data/embeddings/mini "
                   "--out trained_models/mini")  # fmt: skip
    one.add_argument("--data", type=_data, required=True,
                     help="SAGE dataset in either layout, a file of captions, or the word published: the published "
                          "captions and users, and all else that is not there, are fetched "
                          "(docs/TRAINING.md)")  # fmt: skip
    one.add_argument("--embeddings", type=a_path,
                     help="user vectors (psalign embed; of published data they are made, by default in "
                          f"{PUBLISHED_VECTORS})")  # fmt: skip
    one.add_argument("--kind", choices=("prompt", "published"), default="prompt", help="of adapter (default prompt)")
    add_preset(one, DEFAULT_PRESET)
    one.add_argument("--out", type=a_path, help="where to write (default trained_models/mini, or of the preset's name)")
    one.set_defaults(fill=_fill_train)
    add_model(one)
    add_variant(one)
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
    add_device(one)
    add_seed(one)
