"""What `psalign train --data published` does beside training: say what it fetches, fetch it, embed users, draw a sheet.

Each stage leaves files that the next start finds, so the same command goes on wherever it was ended.
"""

from __future__ import annotations

import argparse
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..categories import require_default
from ..errors import GenerationError, PSAlignError, UsageError, reason_of
from .options import OFFENSIVE, PUBLISHED, PUBLISHED_CAPTIONS

if TYPE_CHECKING:
    from ..diffusion.base_models import BaseModel
    from ..diffusion.shards import Shard
    from ..files import Record
    from ..training.config import TrainingConfig
    from ..users.embedding import Embedder, EmbeddingStore, Recipe

WAIT_S = 3600.0  # for another command that fetches or embeds the same
VECTORS = Path("data/embeddings/sage")
SLOW = "There is no GPU here: this takes hours. --rows 4000, --steps 1000 and --no-sheet make it shorter."
STATE_BYTES = 2  # of a number of a text state


def fill(arguments: argparse.Namespace) -> None:
    """Where `published` lies, and its vectors."""
    arguments.from_nothing = arguments.data == PUBLISHED
    if arguments.from_nothing:
        require_default("The published data")
        arguments.data = PUBLISHED_CAPTIONS
        arguments.embeddings = arguments.embeddings or VECTORS
    elif arguments.embeddings is None:
        raise UsageError("the following arguments are required: --embeddings", hint="Run: psalign train --help")


def prepare(arguments: argparse.Namespace, preset: Record, config: TrainingConfig, shard: Shard) -> EmbeddingStore:
    """Say what is to be fetched, fetch it, and make the users' vectors. --model is then where the base lies.

    Raises UsageError for settings that captions alone do not serve; whatever fetching and embedding raise.
    """
    from ..diffusion.base_models import find_base
    from ..users.embedding import EmbeddingStore
    from ..users.profile import load_profiles

    base = find_base(preset.get("base", "mini"))
    if base.source is None or config.objective != "captions":
        raise UsageError(
            "The published captions tell real things and come without pictures: they train adapters of kind prompt, "
            "by captions, for real base models.",
            hint="Run: psalign train --preset psa-sd15 --data published (or psa-sdxl)",
        )
    arguments.model = shard.from_first(lambda: _fetch_all(arguments, base, config, str(shard.device)))
    people = load_profiles(arguments.data / "users.csv")
    users = EmbeddingStore.load(arguments.embeddings, profiles=people)
    if shard.is_first:
        about = f"{users.recipe.backend}, width {users.width}"
        print(f"User vectors: {arguments.embeddings} ({about}).", file=sys.stderr)
    return users


def _fetch_all(arguments: argparse.Namespace, base: BaseModel, config: TrainingConfig, device: str) -> str:
    """Captions, vectors and base, in this order. Returns where the base lies."""
    from ..diffusion.hub import hub_language_model, hub_pipeline
    from ..downloads import tell
    from ..files import locked
    from ..sage.download import captions_download, fetch_captions
    from ..users.embedding import INDEX

    source = arguments.model or str(base.source)
    pipeline = hub_pipeline(source, arguments.variant)
    needs_vectors = not _has_vectors(arguments.embeddings, INDEX)
    language_model = hub_language_model(arguments.llm) if arguments.llm and needs_vectors else None
    wanted = [captions_download(arguments.data)]
    if language_model is not None and arguments.llm != "minilm":
        wanted.append(language_model.download("language model"))
    if pipeline is not None:
        wanted.append(pipeline.download("base model", licence=base.licence if source == base.source else None))
    slow = [SLOW] if device.startswith("cpu") and arguments.rows is None else []
    tell([one for one in wanted if one], notes=[OFFENSIVE, _written(arguments, base), *slow])
    with locked(arguments.data, arguments.embeddings, wait_s=WAIT_S):
        fetch_captions(arguments.data)
        _make_vectors(arguments, device)
    return source if pipeline is None else str(pipeline.fetch())


def _written(arguments: argparse.Namespace, base: BaseModel) -> str:
    from ..sage.download import CAPTIONS

    count = {one.name: one.rows for one in CAPTIONS}
    rows = count["train/metadata.jsonl"] + count["val/metadata.jsonl"]
    if arguments.rows is not None:
        rows = min(rows, arguments.rows + max(1, arguments.rows // 10))
    size = rows * STATE_BYTES * (77 * base.context_dim + base.pooled_dim)
    place = arguments.cache or arguments.out / "cache"
    return f"Written: text states of at most {rows:,} captions, {size / 1e9:.1f} GB, to {place}."


def _has_vectors(folder: Path, index: str) -> bool:
    return (folder / index).is_file() or any(folder.glob("*.npy"))


def _make_vectors(arguments: argparse.Namespace, device: str) -> None:
    """Vectors of the dataset's users, where the folder has none; those that are there must be of --llm, if it is given.

    They are made by --llm, or by the encoder of the extra `minilm` where it is installed, or from the fields alone.
    """
    from ..quickstart import embed_users
    from ..users.embedding import INDEX, UNFINISHED, EmbeddingStore, StructuredEmbedder
    from ..users.language_model import MINILM, ResumableEmbedder, TransformersEmbedder, has_minilm

    folder, model = arguments.embeddings, arguments.llm or (MINILM if has_minilm() else None)
    if _has_vectors(folder, INDEX):
        recipe = EmbeddingStore.load(folder).recipe
        if arguments.llm and not _is_made_by(recipe, arguments.llm):
            raise UsageError(
                f"{folder} holds vectors of backend {recipe.backend}, not of {arguments.llm}; nothing was done.",
                hint="Leave --llm out, or give --embeddings another folder.",
            )
        return
    how = (
        f"the language model {model}" if model else "the fields of profiles alone (better: the extra minilm, or --llm)"
    )
    print(f"Making user vectors by {how}.", file=sys.stderr)

    def embedder() -> Embedder:
        if model is None:
            return StructuredEmbedder()
        return ResumableEmbedder(TransformersEmbedder(model, device=device), folder / UNFINISHED)

    embed_users(arguments.data, folder, embedder, exact=model is not None)
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


def _is_made_by(recipe: Recipe, model: str) -> bool:
    from ..users.language_model import MINILM, model_name

    name = str(recipe.options.get("model"))
    if model == MINILM or Path(model).is_dir():
        return name == model_name(model, None)
    return name.partition("@")[0] == model


def draw_sheet(arguments: argparse.Namespace, preset: Record, users: Any, shard: Shard) -> None:
    """The sheet of a finished adapter, where the whole pipeline fits into memory.

    Raises GenerationError where it cannot be drawn; the adapter is whole then too.
    """
    from dataclasses import replace

    import torch

    from ..before_after import draw_before_after, lacks_memory, loading_for
    from ..config import settings
    from ..diffusion.generate import GenerationConfig

    loading = loading_for(str(shard.device), source=arguments.model, variant=arguments.variant)
    lacking = shard.from_first(lambda: lacks_memory(arguments.model, loading))
    if lacking:
        if shard.is_first:
            print(f"No sheet was drawn: {lacking}. The adapter is whole.", file=sys.stderr)
        return
    if shard.is_first:
        print("Drawing a sheet; it may be interrupted, the adapter is whole (--no-sheet draws none).", file=sys.stderr)
    config = settings(GenerationConfig, preset.get("generation"), section="generation")
    config = replace(config, base=str(preset["base"]))
    try:
        path = draw_before_after(arguments.out, arguments.data, users, loading=loading, config=config)
    except (PSAlignError, MemoryError, torch.OutOfMemoryError) as err:
        raise GenerationError(
            f"The sheet cannot be drawn: {reason_of(err)}\nThe adapter is whole: {arguments.out / 'adapter'}",
            hint="Run the same command again to draw it, or leave it out: --no-sheet.",
        ) from err
    if shard.is_first:
        print(f"Sheet:   {path}")
