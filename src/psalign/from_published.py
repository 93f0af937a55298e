"""Training on the published captions with nothing at hand: they are fetched, their users embedded, a sheet
drawn.

Place on the path of data: before and after training. Each stage leaves files that the next start finds, so
the same command goes on wherever it was ended.
"""

from __future__ import annotations

import shutil
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from . import before_after, downloads, embed
from .config import settings
from .diffusion.base_models import BaseModel, find_base
from .diffusion.generate import GenerationConfig
from .diffusion.hub import hub_language_model, hub_pipeline
from .diffusion.shards import Shard
from .errors import GenerationError, PSAlignError, UsageError, reason_of
from .files import Record
from .locks import locked
from .sage import download, limit_rows
from .users import language_model
from .users.language_model import MINILM, ResumableEmbedder, TransformersEmbedder
from .users.profile import load_profiles
from .users.store import EmbeddingStore
from .users.store_files import INDEX, UNFINISHED
from .users.vectors import Embedder, Recipe, StructuredEmbedder

WAIT_S = 3600.0  # for another command that fetches or embeds the same
SLOW = "There is no GPU here: this takes hours. --rows 4000, --steps 1000 and --no-sheet make it shorter."
STATE_BYTES = 2  # of a number of a text state


@dataclass(frozen=True)
class Sources:
    """Where a run finds what it learns from, and writes to.

    data, embeddings: folders of captions and vectors, filled where they are empty. out, cache: folders of the run.
    model, variant: place and variant of the base model; None: the usual ones.
    llm: language model of the vectors; None: the small one, where it is installed.
    rows: the most captions to train on; None: all. noise_share: that of the training, which adds captions.
    """

    data: Path
    embeddings: Path
    out: Path
    cache: Path
    model: str | None = None
    variant: str | None = None
    llm: str | None = None
    rows: int | None = None
    noise_share: float = 0.0


def prepare(sources: Sources, base_name: str, shard: Shard) -> tuple[Sources, EmbeddingStore]:
    """Say what is to be fetched, fetch it, and make the users' vectors.

    Returns the sources with the place of the base, and the users. Raises UsageError for a base without a
    published source, and what fetching and embedding raise.
    """
    base = find_base(base_name)
    if base.source is None:
        raise not_served()
    sources = replace(sources, model=shard.from_first(lambda: _fetch_all(sources, base, str(shard.device))))
    users = EmbeddingStore.load(sources.embeddings, profiles=load_profiles(sources.data / "users.csv"))
    if shard.is_first:
        about = f"{users.recipe.backend}, width {users.width}"
        print(f"User vectors: {sources.embeddings} ({about}).", file=sys.stderr)
    return sources, users


def not_served() -> UsageError:
    """The error of settings that the published captions do not serve."""
    return UsageError(
        "The published captions describe real things and come without pictures: they train adapters of kind prompt, "
        "by captions, for real base models.",
        hint="Run: psalign train --preset psa-sd15 --data published (or psa-sdxl)",
    )


def draw_sheet(sources: Sources, preset: Record, users: Any, shard: Shard) -> None:
    """Draw the sheet of a finished adapter, where the whole pipeline fits into memory.

    Raises GenerationError where it cannot be drawn; the adapter is whole then too.
    """
    place = str(sources.model)
    loading = before_after.loading_for(str(shard.device), source=place, variant=sources.variant)
    lacking = shard.from_first(lambda: before_after.lacks_memory(place, loading))
    if lacking:
        if shard.is_first:
            print(f"No sheet was drawn: {lacking}. The adapter is whole.", file=sys.stderr)
        return
    if shard.is_first:
        print("Drawing a sheet; it may be interrupted, the adapter is whole (--no-sheet draws none).", file=sys.stderr)
    config = settings(GenerationConfig, preset.get("generation"), section="generation")
    config = replace(config, base=str(preset["base"]))
    try:
        path = before_after.draw_before_after(sources.out, sources.data, users, loading=loading, config=config)
    except (PSAlignError, MemoryError, torch.OutOfMemoryError) as err:
        raise GenerationError(
            f"The sheet cannot be drawn: {reason_of(err)}\nThe adapter is whole: {sources.out / 'adapter'}",
            hint="Run the same command again to draw it, or leave it out: --no-sheet.",
        ) from err
    if shard.is_first:
        print(f"Sheet:   {path}")


def _fetch_all(sources: Sources, base: BaseModel, device: str) -> str:
    """Captions, vectors and base, in this order. Returns where the base lies."""
    source = sources.model or str(base.source)
    pipeline = hub_pipeline(source, sources.variant)
    wanted = [download.captions_download(sources.data)]
    if sources.llm and sources.llm != MINILM and not _has_vectors(sources.embeddings):
        reader = hub_language_model(sources.llm)
        wanted += [reader.download("language model")] if reader else []
    if pipeline is not None:
        wanted.append(pipeline.download("base model", licence=base.licence if source == base.source else None))
    slow = [SLOW] if device.startswith("cpu") and sources.rows is None else []
    downloads.announce([one for one in wanted if one], notes=[downloads.OFFENSIVE, _written(sources, base), *slow])
    with locked(sources.data, sources.embeddings, wait_s=WAIT_S):
        download.fetch_captions(sources.data)
        _make_vectors(sources, device)
    return source if pipeline is None else str(pipeline.fetch())


def _written(sources: Sources, base: BaseModel) -> str:
    count = {one.name: one.rows for one in download.CAPTIONS}
    rows = count["train/metadata.jsonl"] + count["val/metadata.jsonl"]
    if sources.rows is not None:
        rows = min(rows, sources.rows + max(1, sources.rows // 10))
    limited = min(rows, limit_rows.MOST_ROWS)
    rows += round(2 * (rows + limited) * sources.noise_share / (1 - sources.noise_share))  # a copy has two captions
    size = rows * STATE_BYTES * (77 * base.context_dim + base.pooled_dim)
    return f"Written: text states of at most {rows:,} captions, {size / 1e9:.1f} GB, to {sources.cache}."


def _has_vectors(folder: Path) -> bool:
    return (folder / INDEX).is_file() or any(folder.glob("*.npy"))


def _make_vectors(sources: Sources, device: str) -> None:
    """Vectors of the dataset's users, where the folder has none; those that are there must be of `llm`, if it
    is given.

    They are made by `llm`, or by the encoder of the extra `minilm` where it is installed, or from the fields
    alone.
    """
    folder, model = sources.embeddings, sources.llm or (MINILM if language_model.has_minilm() else None)
    if _has_vectors(folder):
        recipe = EmbeddingStore.load(folder).recipe
        if sources.llm and not _is_made_by(recipe, sources.llm):
            raise UsageError(
                f"{folder} holds vectors of backend {recipe.backend}, not of {sources.llm}; nothing was done.",
                hint="Leave --llm out, or give --embeddings another folder.",
            )
        return
    fields = "the fields of profiles alone (better: the extra minilm, or --llm)"
    print(f"Making user vectors by {f'the language model {model}' if model else fields}.", file=sys.stderr)

    def embedder() -> Embedder:
        if model is None:
            return StructuredEmbedder()
        return ResumableEmbedder(TransformersEmbedder(model, device=device), folder / UNFINISHED)

    embed.embed_users(sources.data, folder, embedder, exact=model is not None)
    shutil.rmtree(folder / UNFINISHED, ignore_errors=True)


def _is_made_by(recipe: Recipe, model: str) -> bool:
    name = str(recipe.options.get("model"))
    if model == MINILM or Path(model).is_dir():
        return name == language_model.model_name(model, None)
    return name.partition("@")[0] == model
