"""What the weights of a baseline are made from: the words and pictures of a base model.

Place on the path of data: before step 6, for methods of the evaluation that need weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from psalign.baselines.concepts import concept_phrases
from psalign.baselines.pairs import PicturePairs
from psalign.baselines.steps import StepsConfig
from psalign.baselines.train import TRAINED_BY, Source
from psalign.files import Record

from .methods import words_for


def source_for(
    family: str, pipeline: Any, base: str, *, data: Path | None, cache: Path, framing: Record | None = None
) -> Source:
    """What a baseline is made from on a base model: its words and, for a method that learns from them, pictures.

    data: a dataset with pictures. cache: folder of their latents and texts. Raises as PicturePairs does.
    """
    pairs = None
    if TRAINED_BY[family].needs_pictures and data is not None:  # without them, train_baseline says so
        pairs = PicturePairs(pipeline, data, cache, framing=framing)
    return Source(pipeline, concept_phrases(words_for(base)), pairs)


def with_seed(family: str, given: Record, seed: int) -> Record:
    """Settings of a baseline with a seed, where its training has one."""
    return {**given, "seed": seed} if issubclass(TRAINED_BY[family].config, StepsConfig) else given
