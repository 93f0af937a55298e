"""Loads what the service draws with: base model, adapter, and vectors of people where the adapter needs them."""

from __future__ import annotations

from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any

from ..adapter.attach import attach
from ..adapter.checkpoint import load_adapter
from ..diffusion.base_models import BASES, BaseModel, find_base, load_pipeline
from ..diffusion.shards import find_device
from ..errors import CheckpointError, RecipeMismatch, UsageError
from ..files import read_json
from ..users.store import EmbeddingStore
from .artist import Artist
from .requests import Offer
from .service import Loaded
from .whose import UNKNOWN, Strangers, Unknown

MOST_STEPS = 200


@dataclass(frozen=True)
class Recipe:
    """What is served. base: a name of BASES, or a folder with a model of one of these layouts.

    adapter: its folder or file. embeddings: folder of user vectors; needed by kind `published`. name: of the model in
    requests; None: that of the base. steps, guidance: None: the base's own. max_steps: that a request may ask for.
    fixed_batch, refuses: see Artist. unknown: what is done for a person that nobody registered. in_words: see batch_of;
    it needs no vectors. how: see Loading.
    """

    base: str
    adapter: Path
    embeddings: Path | None = None
    name: str | None = None
    steps: int | None = None
    guidance: float | None = None
    max_steps: int = MOST_STEPS
    fixed_batch: int = 0
    refuses: bool = False
    unknown: Unknown = "refuse"
    in_words: bool = False
    how: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Raises UsageError."""
        if self.unknown not in UNKNOWN:
            raise UsageError(f"For unknown people choose one of: {', '.join(UNKNOWN)}.")
        if self.name == "":
            raise UsageError("The name of the model is empty.")
        if self.guidance is not None and not 0 <= self.guidance < inf:
            raise UsageError(f"guidance must be a finite number of at least 0; saw {self.guidance}.")
        if min(self.max_steps, 1 if self.steps is None else self.steps) < 1:
            raise UsageError(f"steps and max_steps must be at least 1; saw {self.steps} and {self.max_steps}.")
        if self.in_words and self.embeddings is not None:
            raise UsageError("--in-words needs no vectors: people are known by their profiles. Leave out --embeddings.")


def load(recipe: Recipe) -> Loaded:
    """Raises CheckpointError, RecipeMismatch, TaxonomyMismatch, UsageError."""
    base, source = base_of(recipe.base)
    how = {"device": own_device(), **({"source": source} if source else {}), **recipe.how}
    find_device(how["device"])
    adapter = load_adapter(recipe.adapter, base=base.name, in_words=recipe.in_words)
    store = None if recipe.embeddings is None else EmbeddingStore.load(recipe.embeddings)
    trained = adapter.config.recipe
    if store is not None and store.fingerprint != trained:
        raise RecipeMismatch(
            f"These user vectors were made by recipe {store.fingerprint}; the adapter was trained with {trained}.",
            hint="Run: psalign embed --users users.csv --like <the vectors the adapter was trained with>",
        )
    if store is None and not getattr(adapter.config, "categories", 0):
        raise UsageError(
            f"An adapter of kind '{adapter.kind}' knows people by their vectors alone.", hint="Give --embeddings."
        )
    pipeline = load_pipeline(base.name, **how)
    artist = Artist(pipeline, attach(pipeline, adapter), fixed_batch=recipe.fixed_batch, refuses=recipe.refuses)
    return Loaded(artist, _offer(recipe, base, pipeline), Strangers(recipe.unknown, store, in_words=recipe.in_words))


def _offer(recipe: Recipe, base: BaseModel, pipeline: Any) -> Offer:
    steps = recipe.steps or base.steps
    guidance = base.guidance if recipe.guidance is None else recipe.guidance
    halvings = len(pipeline.unet.config.block_out_channels) - 1
    multiple = int(pipeline.vae_scale_factor) * 2**halvings
    return Offer(recipe.name or base.name, base, guidance, steps, max(steps, recipe.max_steps), multiple)


def own_device() -> str:
    """The GPU where there is one, else the CPU."""
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def base_of(name: str) -> tuple[BaseModel, str | None]:
    """The row of a base model, and the folder where `name` is one. Raises CheckpointError, UsageError."""
    folder = Path(name)
    if name in BASES or not folder.is_dir():
        return find_base(name), None
    if not (folder / "unet" / "config.json").is_file():
        raise CheckpointError(
            f"{name} is no base model: it has no unet/config.json.",
            hint=f"Give --base a folder that diffusers wrote, or one of: {', '.join(BASES)}.",
        )
    config = read_json(folder / "unet" / "config.json", what="a base model's UNet", fault=CheckpointError)
    width = config.get("cross_attention_dim")
    row = next((base for base in BASES.values() if base.context_dim == width), None)
    if row is None:
        raise CheckpointError(f"{name} is no model of the layouts {', '.join(BASES)}: its text states differ.")
    return row, name
