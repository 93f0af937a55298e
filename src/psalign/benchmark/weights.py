"""Weights of a baseline for the grid: trained in one call, from the words and pictures of a base model.

Place on the path of data: before step 6, for methods of the evaluation that need weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from psalign.baselines.concepts import concept_phrases
from psalign.baselines.pairs import PicturePairs
from psalign.baselines.steps import StepsConfig
from psalign.baselines.train import TRAINED_BY, Source, train_baseline
from psalign.files import Record

from .methods import words_for


def train_weights(
    family: str, pipeline: Any, out: Path, *, base: str, given: Record, seed: int = 0, data: Path | None = None,
    cache: Path | None = None, framing: Record | None = None, experts_alone: bool = False,
) -> Path:  # fmt: skip
    """Train what a baseline lacks in a folder. Returns the file of its static form.

    given: its settings. data: a dataset with pictures, for a method that learns from them. cache: folder of their
    latents and texts; None: inside out. experts_alone: leave out the static form.
    Raises as PicturePairs and train_baseline do.
    """
    how = TRAINED_BY[family]
    if issubclass(how.config, StepsConfig):
        given = {**given, "seed": seed}
    pairs = None
    if how.needs_pictures and data is not None:  # without them, train_baseline says so
        pairs = PicturePairs(pipeline, data, cache or out / "cache", framing=framing)
    source = Source(pipeline, concept_phrases(words_for(base)), pairs)
    return train_baseline(family, source, out, base=base, given=given, experts_alone=experts_alone)
