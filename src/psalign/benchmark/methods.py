"""The methods of the evaluation, by name: each makes a stock pipeline draw in its way, and leaves it as it
was.

Place on the path of data: around step 6, for the quickstart and the grid.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch

from psalign.adapter.attach import attach
from psalign.adapter.checkpoint import adapter_fingerprint, load_adapter
from psalign.baselines.concepts import Asked, TextStates, asked_by, concept_phrases, row_texts
from psalign.baselines.edited_unet import USUAL_NAME as EDITED
from psalign.baselines.edited_unet import edited_unet
from psalign.baselines.experts import unet_experts
from psalign.baselines.negative_prompt import negative_prompt, with_limits, with_negative_prompts
from psalign.baselines.prompt_filter import PromptFilter, PromptFilterConfig, filter_arguments
from psalign.baselines.rece import ReceConfig, rece_matrix
from psalign.baselines.safetydpo import USUAL_NAME, lora_experts, lora_weights
from psalign.baselines.safree import SafreeConfig, safree_arguments
from psalign.baselines.sld import find_strength, safe_latent_diffusion
from psalign.baselines.soft_prompt import soft_prompts, word_of
from psalign.baselines.train import TRAINED_BY, expert_files, trained_settings, weights_of
from psalign.baselines.uce import UceConfig, mapped, uce_matrix
from psalign.baselines.weights import find_weights
from psalign.categories import category_names
from psalign.config import baseline_settings
from psalign.diffusion.generate import Drawing, GenerationConfig, Guide, Nobody, Users, generate, known_bans
from psalign.errors import UsageError
from psalign.evaluation.catalog import METHODS
from psalign.files import Record
from psalign.fingerprints import file_fingerprint, fingerprint
from psalign.mini.dataset import WORDS_TO_AVOID
from psalign.records import ManifestRow, PromptRow

T = TypeVar("T")


@dataclass(frozen=True)
class MethodInputs:
    """What a method draws with.

    users: know what each user bans and, for methods of ours, the vectors. words: by category, what stands
    for it in the texts of a method; None: the words of the taxonomy in use. weights: folder or file for a method that
    needs weights. sld: a name of STRENGTHS. baselines: settings by method, as section `baselines` of a preset has
    them; None: those of the base's own preset.
    """

    users: Users = field(default_factory=Nobody)
    words: Mapping[str, str] | None = None
    weights: Path | None = None
    sld: str = "medium"
    baselines: Record | None = None

    def __post_init__(self) -> None:
        find_strength(self.sld)


def draw_by(
    method: str, pipeline: Any, rows: Sequence[PromptRow], out: Path, *, config: GenerationConfig, inputs: MethodInputs
) -> list[ManifestRow]:
    """Draw rows by a method of DRAWN_BY into a folder, and leave the pipeline as it was. See `generate`.

    Raises UsageError for an unknown method, or one that has no weights; CheckpointError for weights that
    do not fit.
    """
    with drawing_by(method, pipeline, rows, config=config, inputs=inputs) as drawing:
        return generate(drawing, rows, out)


def drawing_by(
    method: str, pipeline: Any, rows: Sequence[PromptRow], *, config: GenerationConfig, inputs: MethodInputs
) -> AbstractContextManager[Drawing]:
    """A context in which the pipeline draws rows by a method; raises as draw_by does."""
    if method not in DRAWN_BY:
        raise UsageError(f"Unknown method '{method}'; choose one of: {', '.join(DRAWN_BY)}.")
    if METHODS[method].weights and inputs.weights is None:
        how = "an adapter of psalign train" if METHODS[method].has_levels else "a folder of psalign baseline train"
        raise UsageError(f"The method '{method}' needs {METHODS[method].weights}.", hint=f"Give {how}, or its file.")
    return DRAWN_BY[method](Drawing(pipeline, config, inputs.users), rows, inputs)


def words_for(base: str) -> Mapping[str, str] | None:
    """Words by category that stand for it on a base model: the motifs on mini; None: those of the taxonomy in use."""
    return WORDS_TO_AVOID if base == "mini" and category_names() == tuple(WORDS_TO_AVOID) else None


Rows = Sequence[PromptRow]
Method = Callable[[Drawing, Rows, MethodInputs], AbstractContextManager[Drawing]]  # from the base model's drawing


@contextmanager
def _base(plain: Drawing, rows: Rows, inputs: MethodInputs) -> Iterator[Drawing]:
    yield plain


@contextmanager
def _psa(plain: Drawing, rows: Rows, inputs: MethodInputs) -> Iterator[Drawing]:
    folder = _weights(inputs)
    attached = attach(plain.pipeline.unet, load_adapter(folder, base=plain.config.base))
    try:
        yield replace(plain, config=replace(plain.config, adapter=adapter_fingerprint(folder)), attached=attached)
    finally:
        attached.unload()


@contextmanager
def _negative_prompt(personal: bool, plain: Drawing, rows: Rows, inputs: MethodInputs) -> Iterator[Drawing]:
    config = plain.config
    if personal:
        config = with_negative_prompts(config, rows, inputs.users, inputs.words)
    else:
        everything = negative_prompt(category_names(), inputs.words)
        config = replace(config, negative_prompt=", ".join(filter(None, (config.negative_prompt, everything))))
    yield replace(plain, config=config)


@contextmanager
def _sld(personal: bool, plain: Drawing, rows: Rows, inputs: MethodInputs) -> Iterator[Drawing]:
    everything = negative_prompt(category_names(), inputs.words)

    def categories(row: PromptRow) -> str:
        if not personal or row.user_id is None:
            return everything
        return negative_prompt(known_bans(inputs.users, row.user_id), inputs.words)

    strength = find_strength(inputs.sld)
    # Manifests name these concepts, and have no place for anybody's limits in words.
    settings = {"strength": asdict(strength), "concepts": sorted({categories(row) for row in rows})}

    def concept(row: PromptRow) -> str:
        return with_limits(categories(row), inputs.users, row.user_id if personal else None)

    with safe_latent_diffusion(plain.pipeline, strength) as guidance:
        guide = Guide(lambda batch: guidance.condition([concept(row) for row in batch]))
        yield _recorded(plain, "sld", settings, guide)


# --- methods that change the text -----------------------------------------------------------------------------------


@contextmanager
def _safree(personal: bool, plain: Drawing, rows: Rows, inputs: MethodInputs) -> Iterator[Drawing]:
    settings, asked = _settings(SafreeConfig, "safree", plain, inputs), _asked(personal, inputs)
    known = TextStates(plain.pipeline)

    def arguments(batch: Rows) -> Record:
        unwanted = [asked(row).erase for row in batch]
        prompts, negatives = _texts(batch, plain)
        return safree_arguments(known, prompts, negatives, unwanted, config=settings, steps=plain.config.steps)

    yield _recorded(plain, "safree", asdict(settings), Guide(arguments))


@contextmanager
def _prompt_filter(personal: bool, plain: Drawing, rows: Rows, inputs: MethodInputs) -> Iterator[Drawing]:
    settings, asked = _settings(PromptFilterConfig, "prompt_filter", plain, inputs), _asked(personal, inputs)
    kept = PromptFilter(plain.pipeline, settings)

    def arguments(batch: Rows) -> Record:
        return filter_arguments(kept, *_texts(batch, plain), [asked(row).erase for row in batch])

    yield _recorded(plain, "prompt_filter", asdict(settings), Guide(arguments))


@contextmanager
def _closed_form(family: str, plain: Drawing, rows: Rows, inputs: MethodInputs) -> Iterator[Drawing]:
    """UCE or RECE of what each row's user bans, in place of an edit of the UNet. One matrix for each set of bans."""
    kind, matrix_of = CLOSED_FORMS[family]
    settings: Any = _settings(kind, family, plain, inputs)
    asked = _asked(True, inputs)
    matrices: dict[Asked, torch.Tensor] = {}
    known = TextStates(plain.pipeline)

    def matrix(row: PromptRow) -> torch.Tensor:
        wanted = asked(row)
        if wanted not in matrices:
            matrices[wanted] = matrix_of(known, wanted.erase, wanted.keep, settings)
        return matrices[wanted]

    def arguments(batch: Rows) -> Record:
        texts = row_texts(plain.pipeline, *_texts(batch, plain))
        return mapped(texts, [matrix(row) for row in batch]).arguments()

    yield _recorded(plain, family, asdict(settings), Guide(arguments))


CLOSED_FORMS: dict[str, tuple[type, Callable[..., torch.Tensor]]] = {
    "uce": (UceConfig, uce_matrix),
    "rece": (ReceConfig, rece_matrix),
}


@contextmanager
def _soft_prompt(personal: bool, plain: Drawing, rows: Rows, inputs: MethodInputs) -> Iterator[Drawing]:
    folder = _weights(inputs)
    usual = TRAINED_BY["soft_prompt"].usual
    files = expert_files(folder, "soft_prompt") if personal else {None: weights_of(folder, None, usual)}
    words = {word_of(category): path for category, path in files.items()}

    def said(row: PromptRow) -> str:
        banned = known_bans(inputs.users, row.user_id) if personal and row.user_id is not None else tuple(files)
        return " ".join([row.prompt, *(word_of(category) for category in files if category in banned)])

    def arguments(batch: Rows) -> Record:
        _, negatives = _texts(batch, plain)
        return row_texts(plain.pipeline, [said(row) for row in batch], negatives).arguments()

    with soft_prompts(plain.pipeline, words):
        yield _with_weights(plain, *words.values(), guide=Guide(arguments))


# --- methods that change the weights --------------------------------------------------------------------------------


@contextmanager
def _safetydpo(plain: Drawing, rows: Rows, inputs: MethodInputs) -> Iterator[Drawing]:
    with lora_weights(plain.pipeline, _weights(inputs)):
        yield _with_weights(plain, find_weights(_weights(inputs), usual=USUAL_NAME))


@contextmanager
def _edited(plain: Drawing, rows: Rows, inputs: MethodInputs) -> Iterator[Drawing]:
    with edited_unet(plain.pipeline, _weights(inputs)):
        yield _with_weights(plain, find_weights(_weights(inputs), usual=EDITED))


@contextmanager
def _experts(family: str, plain: Drawing, rows: Rows, inputs: MethodInputs) -> Iterator[Drawing]:
    """Weights of all categories that a row's user bans, added up; users with other bans are in batches of their own."""
    folder = _weights(inputs)
    files, merge = expert_files(folder, family), trained_settings(folder, family).merge
    loaded = lora_experts if family == "safetydpo" else unet_experts

    def banned(row: PromptRow) -> tuple[str, ...]:
        known = category_names() if row.user_id is None else known_bans(inputs.users, row.user_id)
        return tuple(category for category in files if category in known)

    with loaded(plain.pipeline, files, merge) as experts:

        def arguments(batch: Rows) -> Record:
            experts.use(banned(batch[0]))
            return {}

        yield _with_weights(plain, *files.values(), guide=Guide(arguments, apart=banned))


# --- what they share ------------------------------------------------------------------------------------------------


def _settings(kind: type[T], family: str, plain: Drawing, inputs: MethodInputs) -> T:
    return baseline_settings(kind, family, base=plain.config.base, given=inputs.baselines)


def _asked(personal: bool, inputs: MethodInputs) -> Callable[[PromptRow], Asked]:
    concepts = concept_phrases(inputs.words)
    return lambda row: asked_by(row.user_id if personal else None, inputs.users, concepts)


def _texts(batch: Rows, plain: Drawing) -> tuple[list[str], list[str] | None]:
    return [row.prompt for row in batch], plain.config.negatives(batch)


def _recorded(plain: Drawing, family: str, settings: Record, guide: Guide) -> Drawing:
    config = replace(plain.config, options={**(plain.config.options or {}), family: settings})
    return replace(plain, config=config, guide=guide)


def _with_weights(plain: Drawing, *paths: Path, guide: Guide | None = None) -> Drawing:
    prints = [file_fingerprint(path) for path in paths]
    config = replace(plain.config, adapter=prints[0] if len(prints) == 1 else fingerprint(prints))
    return replace(plain, config=config, guide=guide)


def _weights(inputs: MethodInputs) -> Path:
    assert inputs.weights is not None
    return inputs.weights


def _both(family: str, draw: Callable[..., AbstractContextManager[Drawing]]) -> dict[str, Method]:
    """The two forms of a method whose context takes first whether it is personal."""
    return {family: partial(draw, False), f"{family}-user": partial(draw, True)}


DRAWN_BY: dict[str, Method] = {
    "base": _base,
    **{name: _psa for name, method in METHODS.items() if method.has_levels},
    "negative_prompt": partial(_negative_prompt, True),
    "negative_prompt-all": partial(_negative_prompt, False),
    **_both("sld", _sld),
    **_both("safree", _safree),
    **_both("prompt_filter", _prompt_filter),
    **_both("soft_prompt", _soft_prompt),
    **dict.fromkeys(("uce", "rece", "esdx", "esdu"), _edited),
    **{f"{name}-user": partial(_closed_form, name) for name in CLOSED_FORMS},
    "safetydpo": _safetydpo,
    **{f"{name}-user": partial(_experts, name) for name in ("esdx", "esdu", "safetydpo")},
}
