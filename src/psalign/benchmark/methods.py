"""The methods of the evaluation, by name: each makes a stock pipeline draw in its way, and leaves it as it was.

Place on the path of data: around step 6, for the quickstart and the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from psalign.adapter.attach import attach
from psalign.adapter.checkpoint import adapter_fingerprint, load_adapter
from psalign.adapter.guard import AttachedAdapter
from psalign.baselines.edited_unet import edited_unet
from psalign.baselines.negative_prompt import negative_prompt, with_limits, with_negative_prompts
from psalign.baselines.safetydpo import USUAL_NAME, lora_weights
from psalign.baselines.sld import find_strength, safe_latent_diffusion
from psalign.baselines.weights import find_weights
from psalign.categories import category_names
from psalign.diffusion.generate import GenerationConfig, Guide, Nobody, Users, generate, known_bans
from psalign.errors import UsageError
from psalign.files import Record
from psalign.fingerprints import file_fingerprint
from psalign.records import ManifestRow, PromptRow

NEEDS_WEIGHTS = {
    "psa": "an adapter",
    "safetydpo": "LoRA weights",
    "esdu": "edited UNet weights",
    "uce": "edited UNet weights",
}
CONCEPTS = ("all", "user")  # what SLD keeps rows away from: all categories, or those that each row's user bans


@dataclass(frozen=True)
class Means:
    """What methods draw with.

    users: their bans and, for psa, their vectors. words: that stand for each category in a text, for negative_prompt
    and sld; None: those of the taxonomy in use. weights: folder or file of a method of NEEDS_WEIGHTS. sld: a name of
    STRENGTHS; sld_concepts: of CONCEPTS.
    """

    users: Users = field(default_factory=Nobody)
    words: Mapping[str, str] | None = None
    weights: Path | None = None
    sld: str = "medium"
    sld_concepts: str = "all"

    def __post_init__(self) -> None:
        find_strength(self.sld)
        if self.sld_concepts not in CONCEPTS:
            raise UsageError(f"SLD's concepts are those of {' or '.join(CONCEPTS)}; saw '{self.sld_concepts}'.")


@dataclass(frozen=True)
class How:
    """How `generate` draws inside a method's context."""

    config: GenerationConfig
    attached: AttachedAdapter | None = None
    guide: Guide | None = None


def draw_by(
    method: str, pipeline: Any, rows: Sequence[PromptRow], out: Path, *, config: GenerationConfig, means: Means
) -> list[ManifestRow]:
    """Draw rows by a method of DRAWN_BY into a folder, and leave the pipeline as it was. See `generate`.

    Raises UsageError for an unknown method, or one that has no weights; CheckpointError for weights that do not fit.
    """
    if method not in DRAWN_BY:
        raise UsageError(f"Unknown method '{method}'; choose one of: {', '.join(DRAWN_BY)}.")
    if method in NEEDS_WEIGHTS and means.weights is None:
        raise UsageError(f"The method '{method}' needs {NEEDS_WEIGHTS[method]}.")
    with DRAWN_BY[method](pipeline, rows, config, means) as how:
        return generate(
            pipeline, rows, out, config=how.config, users=means.users, attached=how.attached, guide=how.guide
        )


Method = Callable[[Any, Sequence[PromptRow], GenerationConfig, Means], AbstractContextManager[How]]


@contextmanager
def _base(pipeline: Any, rows: Sequence[PromptRow], config: GenerationConfig, means: Means) -> Iterator[How]:
    yield How(config)


@contextmanager
def _psa(pipeline: Any, rows: Sequence[PromptRow], config: GenerationConfig, means: Means) -> Iterator[How]:
    folder = _weights(means)
    attached = attach(pipeline.unet, load_adapter(folder, base=config.base))
    try:
        yield How(replace(config, adapter=adapter_fingerprint(folder)), attached)
    finally:
        attached.unload()


@contextmanager
def _negative_prompt(pipeline: Any, rows: Sequence[PromptRow], config: GenerationConfig, means: Means) -> Iterator[How]:
    yield How(with_negative_prompts(config, rows, means.users, means.words))


@contextmanager
def _sld(pipeline: Any, rows: Sequence[PromptRow], config: GenerationConfig, means: Means) -> Iterator[How]:
    everything = negative_prompt(category_names(), means.words)

    def categories(row: PromptRow) -> str:
        if means.sld_concepts == "all" or row.user_id is None:
            return everything
        return negative_prompt(known_bans(means.users, row.user_id), means.words)

    strength = find_strength(means.sld)
    # Manifests name these concepts, and have no place for anybody's limits in words.
    told = {"strength": asdict(strength), "concepts": sorted({categories(row) for row in rows})}

    def concept(row: PromptRow) -> str:
        return with_limits(categories(row), means.users, row.user_id)

    with safe_latent_diffusion(pipeline, strength) as guidance:
        yield How(_with_option(config, sld=told), guide=lambda batch: guidance.condition([concept(r) for r in batch]))


@contextmanager
def _safetydpo(pipeline: Any, rows: Sequence[PromptRow], config: GenerationConfig, means: Means) -> Iterator[How]:
    with lora_weights(pipeline, _weights(means)):
        yield How(replace(config, adapter=file_fingerprint(find_weights(_weights(means), usual=USUAL_NAME))))


@contextmanager
def _edited(pipeline: Any, rows: Sequence[PromptRow], config: GenerationConfig, means: Means) -> Iterator[How]:
    with edited_unet(pipeline, _weights(means)):
        yield How(replace(config, adapter=file_fingerprint(find_weights(_weights(means)))))


def _weights(means: Means) -> Path:
    assert means.weights is not None
    return means.weights


def _with_option(config: GenerationConfig, **told: Record) -> GenerationConfig:
    return replace(config, options={**(config.options or {}), **told})


DRAWN_BY: dict[str, Method] = {
    "base": _base,
    "psa": _psa,
    "safetydpo": _safetydpo,
    "esdu": _edited,
    "uce": _edited,
    "sld": _sld,
    "negative_prompt": _negative_prompt,
}
