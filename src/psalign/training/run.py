"""One training run from a preset: pairs from disk, a fresh adapter, and the trainer.

Place on the path of data: what `psalign train` and the quickstart call.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from ..adapter.adapter import PSAAdapter, cross_attention_widths
from ..adapter.attach import attach
from ..config import settings
from ..diffusion.base_models import base_fingerprint, find_base
from ..errors import UsageError
from ..records import Record
from ..sage.cache import build_cache
from ..sage.rows import load_split
from ..users.embedding import EmbeddingStore
from .pairs import Pairs
from .trainer import Trainer, TrainingConfig

SHAPE = ("n_tokens", "proj_rank", "rank", "heads", "depth", "gated")


def load_pairs(data: Path, folder: Path, pipeline: Any, users: EmbeddingStore) -> Pairs:
    """Training pairs of a SAGE dataset, with latents and text states cached in folder."""
    rows = load_split(data, "train")
    cache = build_cache(rows, data / "train", pipeline, folder, base=base_fingerprint(pipeline))
    return Pairs(rows, cache, users)


def new_adapter(
    kind: str, shape: Record, pipeline: Any, users: EmbeddingStore, *, base: str, seed: int = 0
) -> PSAAdapter:
    """An untrained adapter that fits the pipeline and the users' vectors; shape: names of SHAPE.

    Raises UsageError for an unknown name in shape, or a value that makes no sense.
    """
    check_shape(kind, shape)
    torch.manual_seed(seed)
    return PSAAdapter(
        kind=kind,
        base=base,
        recipe=users.fingerprint,
        llm_dim=users.recipe.llm_dim,
        context_dim=pipeline.unet.config.cross_attention_dim,
        pooled_dim=find_base(base).pooled_dim,
        widths=cross_attention_widths(pipeline.unet) if kind == "published" else (),
        **shape,
    )


def check_shape(kind: str, shape: Record) -> None:
    """Raises UsageError for an unknown name, or a value that makes no sense."""
    for name, value in shape.items():
        if name not in SHAPE:
            raise UsageError(f"Unknown setting {kind}.adapter.{name}; choose one of: {', '.join(SHAPE)}.")
        if name == "gated" and not isinstance(value, bool):
            raise UsageError(f"{kind}.adapter.gated must be true or false; saw {value!r}.")
        low = 0 if name == "proj_rank" else 1
        if name != "gated" and (type(value) is not int or value < low):
            raise UsageError(f"{kind}.adapter.{name} must be a whole number of at least {low}; saw {value!r}.")
    rank, heads = shape.get("rank", 64), shape.get("heads", 4)
    if rank % heads:
        raise UsageError(f"{kind}.adapter.rank must be a multiple of heads; saw {rank} and {heads}.")


def train_adapter(
    preset: Record, kind: str, pipeline: Any, pairs: Pairs, users: EmbeddingStore, out: Path, *, seed: int = 0
) -> None:
    """Train one kind of adapter into out/adapter; a finished one is left as it is.

    preset: settings by section; section `kind` has adapter and training. Raises as Trainer does.
    """
    section, base = preset.get(kind) or {}, find_base(preset.get("base", "mini")).name
    config = replace(settings(TrainingConfig, section.get("training"), section=f"{kind}.training"), seed=seed)
    adapter = new_adapter(kind, section.get("adapter") or {}, pipeline, users, base=base, seed=seed)
    attached = attach(pipeline.unet, adapter)
    try:
        Trainer(attached, pairs, pipeline.scheduler, config, out, data=f"{users.fingerprint} {pairs.name}").train()
    finally:
        attached.unload()
