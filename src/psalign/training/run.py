"""One training run from a preset: pairs from disk, a fresh adapter, and the trainer.

Place on the path of data: what `psalign train` and the quickstart call.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..adapter.adapter import PSAAdapter, cross_attention_widths
from ..adapter.attach import attach
from ..adapter.checkpoint import KINDS
from ..adapter.guard import AttachedAdapter
from ..adapter.prompt import PromptAdapter
from ..adapter.words import phrase_states
from ..categories import category_names
from ..config import settings
from ..diffusion.base_models import DTYPES, find_base
from ..diffusion.generate import GenerationConfig
from ..diffusion.places import is_movable, is_offloaded, modules_of, same_places
from ..diffusion.shards import Shard
from ..diffusion.text_side import CrossAttentions
from ..errors import DatasetError, UsageError, listed
from ..files import Record
from ..fingerprints import weights_fingerprint
from ..locks import locked
from ..sage.cache.framing import Framing
from ..sage.cache.latents import PictureSource, build_cache
from ..sage.cache.texts import build_texts
from ..sage.caption_rows import caption_rows, is_caption_file, read_caption_rows
from ..sage.dataset import has_rows, load_split
from ..sage.limit_rows import limit_rows
from ..sage.noisy_rows import Window, noisy_rows
from ..sage.preference import unsafe_is_chosen
from ..sage.rows import SageRow
from ..sage.share import Share
from ..users.store import EmbeddingStore
from .caption_objective import CaptionObjective, make_reader
from .captions import Captions, CaptionTexts, caption_tokens
from .config import PRECISIONS, TrainingConfig
from .objective import Objective
from .pairs import Pairs
from .schedule import require_trainable
from .trainer import Trainer
from .validation import Validation

MEASURED_CAPTIONS = 256  # whose text states a matcher takes its measures from
# Settings of a kind's section `adapter`, and the most that each may be.
SHAPES = {
    "prompt": {"n_tokens": 256, "proj_rank": 1 << 16, "rank": 1 << 14, "heads": 1 << 10, "depth": 64},
    "published": {"n_tokens": 256, "proj_rank": 1 << 16},
}


@dataclass(frozen=True)
class RowSource:
    """Where rows to learn from come from.

    data: a SAGE dataset, or a file of captions. cache: folder that keeps latents and text states. most: the most rows
    that are taken; None: all. allow_contradictions: rows may contradict what the users' vectors say they ban.
    """

    data: Path
    cache: Path
    split: str = "train"
    most: int | None = None
    allow_contradictions: bool = False

    def read(self, users: EmbeddingStore, *, most: int | None, has_pictures: bool) -> list[SageRow]:
        """The first `most` rows of the split, or all. Raises DatasetError for contradictions and unreadable rows."""
        rows = load_split(self.data, self.split, check_pictures=has_pictures)[:most]
        if not self.allow_contradictions:
            check_preferences(rows, users, where=f"{self.data}, {self.split}")
        return rows


def load_pairs(source: RowSource, pipeline: Any, users: EmbeddingStore, *, preset: Record | None = None) -> Pairs:
    """Pairs of a split, the first ones of a source that limits their number, with latents and text states.

    preset: section `pictures` says how pictures are framed; poor renderings are cached where a section trains on them.
    Raises UsageError, before anything is encoded, for a base model that training on pictures would get wrong, and
    DatasetError as RowSource.read does.
    """
    preset, shard = preset or {}, Shard()
    require_trainable(pipeline)
    rows = source.read(users, most=source.most, has_pictures=source.most is None)
    pictures = PictureSource(
        source.data / source.split,
        framing=settings(Framing, preset.get("pictures"), section="pictures"),
        degraded=source.split == "train" and any(training_config(preset, kind).visual_share for kind in KINDS),
    )
    share = Share(shard.index, shard.count, shard.wait)
    cache = build_cache(rows, pipeline, pictures=pictures, folder=source.cache, share=share)
    return Pairs(rows, cache, users)


def load_captions(source: RowSource, pipeline: Any, users: EmbeddingStore, *, preset: Record | None = None) -> Captions:
    """Captions of a split or a file, in whole pairs spread over all of them, with text states. Needs no picture.

    Raises DatasetError as the readers and RowSource.read do.
    """
    data, most, is_train = source.data, source.most, source.split == "train"
    if is_caption_file(data):
        rows = read_caption_rows(data)
        count = min(len(rows), most or len(rows))
        rows = [rows[i * len(rows) // count] for i in range(count)]
    else:
        found = list(spread(source.read(users, most=None, has_pictures=False), most))
        rows = caption_rows(found) + (limit_rows(data / source.split, found)[:most] if is_train else [])
    shard, config = Shard(), training_config(preset or {}, "prompt")
    if is_train and config.noise_share:
        rows = [*rows, *noisy_rows(rows, _window(pipeline.tokenizer), share=config.noise_share)]
    captions = {text for row in rows for text in (row.caption, row.chosen_caption, row.other_caption or "")}
    texts = build_texts(sorted(captions), pipeline, source.cache, share=Share(shard.index, shard.count, shard.wait))
    phrases = sorted({phrase for row in rows for phrase in row.limits or ()})
    states = dict(zip(phrases, phrase_states(pipeline, phrases), strict=True)) if phrases else {}
    tokens = caption_tokens(pipeline.tokenizer, texts)
    return Captions(
        rows, CaptionTexts(texts, tokens, config.text_memory_gb), users, phrases=states, compare=source.split == "val"
    )


def _window(tokenizer: Any) -> Window:
    """What the text encoder behind a tokenizer reads."""
    return Window(
        lambda texts: [len(ids) for ids in tokenizer(texts, verbose=False).input_ids], tokenizer.model_max_length
    )


def spread(rows: Sequence[SageRow], most: int | None) -> Sequence[SageRow]:
    """At most so many rows, in whole pairs that are spread evenly over all; one pair at least."""
    if most is None or len(rows) <= most:
        return rows
    pairs = list(dict.fromkeys(row.pair for row in rows))
    count = max(1, most * len(pairs) // len(rows))
    kept = {pairs[i * len(pairs) // count] for i in range(count)}
    return [row for row in rows if row.pair in kept]


def load_rows(
    source: RowSource, pipeline: Any, users: EmbeddingStore, *, kind: str, preset: Record
) -> Pairs | Captions:
    """What the objective of section `kind` of a preset learns from: captions, or pairs of pictures."""
    load = load_captions if training_config(preset, kind).objective == "captions" else load_pairs
    return load(source, pipeline, users, preset=preset)


def check_preferences(rows: Sequence[SageRow], users: EmbeddingStore, *, where: str) -> None:
    """Raises DatasetError, with the first five, where a row's chosen picture is not the one that the preference rule
    gives for what its user bans: vectors of other users whose ids are the same, or chosen and rejected swapped."""
    bans = {user_id: users.banned(user_id) for user_id in {row.user_id for row in rows}}
    wrong = [
        f"row {number}, user {row.user_id}, {row.category}, {row.caption_kind} caption: chosen is {row.chosen}"
        for number, row in enumerate(rows, start=1)
        if (banned := bans[row.user_id]) is not None  # published vectors do not say it
        and row.chose_unsafe != unsafe_is_chosen(caption_kind=row.caption_kind, category=row.category, banned=banned)
    ]
    if wrong:
        about = f"{where}: {len(wrong)} of {len(rows)} preferences contradict what the vectors say their users ban:"
        raise DatasetError(
            listed(about, wrong),
            hint="Embed the users of this dataset (psalign embed --data), or mean it: --allow-contradictions.",
        )


def has_split(data: Path, split: str) -> bool:
    """Whether a dataset has a split, with a row in it; a file of captions is split "train" alone."""
    return split == "train" if is_caption_file(data) else has_rows(data, split)


@dataclass(frozen=True)
class TrainingData:
    """What a run learns from: rows of its objective (load_rows), and the vectors of their users. unseen: rows to
    validate on, never trained on."""

    rows: Pairs | Captions
    users: EmbeddingStore
    unseen: Pairs | Captions | None = None


def new_adapter(kind: str, shape: Record, pipeline: Any, data: TrainingData, *, base: str, seed: int = 0) -> PSAAdapter:
    """An untrained adapter that fits the pipeline and the users' vectors; shape: names of SHAPES.

    A matcher takes its measures of text states from the rows of data.

    Raises UsageError for an unknown kind, an unknown name in shape, or a value that makes no sense.
    """
    check_shape(kind, shape)
    torch.manual_seed(seed)
    rows, users = data.rows, data.users
    fitting: Record = {
        "base": base,
        "recipe": users.fingerprint,
        "llm_dim": users.width,
        "context_dim": pipeline.unet.config.cross_attention_dim,
    }
    if kind == "prompt":
        fitting |= {"pooled_dim": find_base(base).pooled_dim, "categories": len(category_names())}
        fitting["words"] = isinstance(rows, Captions) and len(rows.phrases) > 0
    else:
        fitting["widths"] = cross_attention_widths(pipeline.unet)
    adapter = KINDS[kind](**fitting, **shape)
    if isinstance(adapter, PromptAdapter):
        texts = rows.texts.rows if isinstance(rows, Captions) else rows.cache.texts
        sample = np.random.default_rng(seed).permutation(len(texts))[:MEASURED_CAPTIONS]
        adapter.matcher.measure(texts.read("states", sample))
    return adapter


def check_shape(kind: str, shape: Record) -> None:
    """Raises UsageError for an unknown kind or name, or a value that makes no sense."""
    if kind not in SHAPES:
        raise UsageError(f"Unknown adapter kind '{kind}'; choose one of: {', '.join(SHAPES)}.")
    for name, value in shape.items():
        if name not in SHAPES[kind]:
            raise UsageError(f"Unknown setting {kind}.adapter.{name}; choose one of: {', '.join(SHAPES[kind])}.")
        low = 0 if name == "proj_rank" else 1
        if type(value) is not int or value < low:
            raise UsageError(f"{kind}.adapter.{name} must be a whole number of at least {low}; saw {value!r}.")
        if value > SHAPES[kind][name]:
            raise UsageError(f"{kind}.adapter.{name} must be at most {SHAPES[kind][name]}; saw {value!r}.")
    rank, heads = shape.get("rank", 64), shape.get("heads", 4)
    if rank % heads:
        raise UsageError(f"{kind}.adapter.rank must be a multiple of heads; saw {rank} and {heads}.")


def train_adapter(preset: Record, kind: str, pipeline: Any, data: TrainingData, out: Path, *, seed: int = 0) -> None:
    """Train one kind of adapter into out/adapter; a finished one is left as it is.

    preset: settings by section; section `kind` has adapter and training. Raises as Trainer does, and OutputError where
    another process trains into `out`.
    """
    section, base = preset.get(kind) or {}, find_base(preset.get("base", "mini")).name
    config = replace(training_config(preset, kind), seed=seed)
    adapter = new_adapter(kind, section.get("adapter") or {}, pipeline, data, base=base, seed=seed)
    with locked(*[out] * Shard().is_first), _made_ready(pipeline, config):
        names = {
            "users": data.users.fingerprint, "rows": data.rows.name,
            "UNet": weights_fingerprint({"unet": pipeline.unet}),
        }  # fmt: skip
        adapter.to(pipeline.unet.device)
        attached = None if isinstance(pipeline.unet, CrossAttentions) else attach(pipeline.unet, adapter)
        validation = None
        if data.unseen is not None and config.validation_pairs:
            drawn = settings(GenerationConfig, preset.get("generation"), section="generation")
            validation = Validation(
                data.unseen, data.users, pipeline, replace(drawn, base=base), out, config, pipeline.unet.device
            )
        try:
            objective = _objective(pipeline, adapter, attached, data.rows, config, base=base)
            Trainer(objective, data.rows, config, out, data=names, validation=validation).train()
        finally:
            if attached is not None:
                attached.unload()


def _objective(
    pipeline: Any,
    adapter: PSAAdapter,
    attached: AttachedAdapter | None,
    pairs: Pairs | Captions,
    config: TrainingConfig,
    *,
    base: str,
) -> Objective | CaptionObjective:
    """The objective of a config. Raises UsageError where rows, adapter or base do not fit it."""
    if config.objective == "captions":
        if not isinstance(adapter, PromptAdapter) or not isinstance(pairs, Captions):
            raise UsageError("Captions train adapters of kind prompt; published ones need pictures.",
                             hint="Use --set published.training.objective=pictures.")  # fmt: skip
        with attached.disabled() if attached is not None else nullcontext():
            reader = make_reader(pipeline, pairs, config, base=base)
        return CaptionObjective(adapter, reader, config, size_px=find_base(base).size_px, attached=attached)
    if attached is None:
        raise UsageError("The objective 'pictures' needs a whole UNet; only its cross-attentions are loaded.")
    return Objective.of(attached, config, pipeline.scheduler)


@contextmanager
def _made_ready(pipeline: Any, config: TrainingConfig) -> Iterator[None]:
    """The pipeline as training wants it: its precision, no VAE or text encoder on a GPU, checkpointing, compiled.
    Afterwards every part is where it was. Parts that are quantised or offloaded stay as they are.

    Raises UsageError for a UNet that is offloaded: training reads its weights between its calls too; and where such
    parts have another precision and the pipeline must draw.
    """
    unet, dtype = pipeline.unet, getattr(torch, DTYPES[PRECISIONS[config.mixed_precision]])
    if is_offloaded(unet):
        raise UsageError(
            "The UNet is offloaded, and training needs its weights on the device all the time.",
            hint="Load the pipeline without offloading, and call pipeline.to(device).",
        )
    for part in modules_of(pipeline):
        if part.dtype != dtype and not is_movable(part) and not config.needs_text_alone:
            raise UsageError(
                f"{type(part).__name__} is quantised or offloaded and stays in {part.dtype}; training would run in "
                f"{dtype}.",
                hint="Set mixed_precision (no, bf16 or fp16) to the precision that the pipeline was loaded in.",
            )
    with same_places(pipeline):
        for part in filter(is_movable, modules_of(pipeline)):
            if part.dtype != dtype:
                part.to(dtype)
            if part is not unet and unet.device.type != "cpu":
                part.to("cpu")
        if config.gradient_checkpointing:
            unet.enable_gradient_checkpointing()
        if config.compile:
            unet.compile(dynamic=True)
        try:
            yield
        finally:
            if config.compile:
                unet._compiled_call_impl = None
            if config.gradient_checkpointing:
                unet.disable_gradient_checkpointing()


def training_config(preset: Record, kind: str) -> TrainingConfig:
    """Section `kind`.training of a preset. Raises UsageError for settings that make no sense."""
    return settings(TrainingConfig, (preset.get(kind) or {}).get("training"), section=f"{kind}.training")
