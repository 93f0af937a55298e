"""The methods of the evaluation, by name: each makes a stock pipeline draw in its way, and leaves it as it
was.

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
from psalign.evaluation.catalog import METHODS
from psalign.fingerprints import file_fingerprint
from psalign.records import ManifestRow, PromptRow

CONCEPTS = ("all", "user")  # what SLD keeps rows away from: all categories, or those that each row's user bans


@dataclass(frozen=True)
class MethodInputs:
    """What a method draws with.

    users: know what each user bans and, for methods of ours, the vectors. words: by category, what stands
    for it in a text of negative_prompt and sld; None: the words of the taxonomy in use. weights: folder or
    file for a method that needs weights. sld: a name of STRENGTHS. sld_concepts: a name of CONCEPTS.
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
class Drawing:
    """What `generate` is given inside a method's context."""

    config: GenerationConfig
    attached: AttachedAdapter | None = None
    guide: Guide | None = None


def draw_by(
    method: str, pipeline: Any, rows: Sequence[PromptRow], out: Path, *, config: GenerationConfig, inputs: MethodInputs
) -> list[ManifestRow]:
    """Draw rows by a method of DRAWN_BY into a folder, and leave the pipeline as it was. See `generate`.

    Raises UsageError for an unknown method, or one that has no weights; CheckpointError for weights that
    do not fit.
    """
    if method not in DRAWN_BY:
        raise UsageError(f"Unknown method '{method}'; choose one of: {', '.join(DRAWN_BY)}.")
    if METHODS[method].weights and inputs.weights is None:
        raise UsageError(f"The method '{method}' needs {METHODS[method].weights}.")
    with DRAWN_BY[method](pipeline, rows, config, inputs) as drawing:
        return generate(
            pipeline,
            rows,
            out,
            config=drawing.config,
            users=inputs.users,
            attached=drawing.attached,
            guide=drawing.guide,
        )


Rows = Sequence[PromptRow]
Method = Callable[[Any, Rows, GenerationConfig, MethodInputs], AbstractContextManager[Drawing]]


@contextmanager
def _base(
    pipeline: Any, rows: Sequence[PromptRow], config: GenerationConfig, inputs: MethodInputs
) -> Iterator[Drawing]:
    yield Drawing(config)


@contextmanager
def _psa(pipeline: Any, rows: Rows, config: GenerationConfig, inputs: MethodInputs) -> Iterator[Drawing]:
    folder = _weights(inputs)
    attached = attach(pipeline.unet, load_adapter(folder, base=config.base))
    try:
        yield Drawing(replace(config, adapter=adapter_fingerprint(folder)), attached)
    finally:
        attached.unload()


@contextmanager
def _negative_prompt(
    pipeline: Any, rows: Sequence[PromptRow], config: GenerationConfig, inputs: MethodInputs
) -> Iterator[Drawing]:
    yield Drawing(with_negative_prompts(config, rows, inputs.users, inputs.words))


@contextmanager
def _sld(pipeline: Any, rows: Rows, config: GenerationConfig, inputs: MethodInputs) -> Iterator[Drawing]:
    everything = negative_prompt(category_names(), inputs.words)

    def categories(row: PromptRow) -> str:
        if inputs.sld_concepts == "all" or row.user_id is None:
            return everything
        return negative_prompt(known_bans(inputs.users, row.user_id), inputs.words)

    strength = find_strength(inputs.sld)
    # Manifests name these concepts, and have no place for anybody's limits in words.
    settings = {"strength": asdict(strength), "concepts": sorted({categories(row) for row in rows})}

    def concept(row: PromptRow) -> str:
        return with_limits(categories(row), inputs.users, row.user_id)

    with safe_latent_diffusion(pipeline, strength) as guidance:
        configured = replace(config, options={**(config.options or {}), "sld": settings})
        yield Drawing(configured, guide=lambda batch: guidance.condition([concept(row) for row in batch]))


@contextmanager
def _safetydpo(
    pipeline: Any, rows: Sequence[PromptRow], config: GenerationConfig, inputs: MethodInputs
) -> Iterator[Drawing]:
    with lora_weights(pipeline, _weights(inputs)):
        yield Drawing(replace(config, adapter=file_fingerprint(find_weights(_weights(inputs), usual=USUAL_NAME))))


@contextmanager
def _edited(
    pipeline: Any, rows: Sequence[PromptRow], config: GenerationConfig, inputs: MethodInputs
) -> Iterator[Drawing]:
    with edited_unet(pipeline, _weights(inputs)):
        yield Drawing(replace(config, adapter=file_fingerprint(find_weights(_weights(inputs)))))


def _weights(inputs: MethodInputs) -> Path:
    assert inputs.weights is not None
    return inputs.weights


DRAWN_BY: dict[str, Method] = {
    "base": _base,
    **{name: _psa for name, method in METHODS.items() if method.has_levels},
    "safetydpo": _safetydpo,
    "esdu": _edited,
    "uce": _edited,
    "sld": _sld,
    "negative_prompt": _negative_prompt,
}
