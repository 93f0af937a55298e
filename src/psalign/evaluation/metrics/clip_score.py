"""CLIPScore: how well each picture shows what its prompt says.

Place on the path of data: step 7, from pictures and their prompts to one number each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from psalign.fingerprints import fingerprint

from ..pictures import Pictures
from .cache import Inference, PictureCache, infer
from .clip_model import ClipModel


@dataclass(frozen=True)
class Match:
    """A picture beside its prompt. score: 100 * cosine. cut: the prompt was longer than the model reads."""

    score: float
    cut: bool


def clip_scores(
    pictures: Pictures, model: ClipModel, *, cache: Path | None = None, batch_size: int = 32
) -> list[Match]:
    """100 * cosine of each picture with its prompt, in the manifest's order; never cut off at 0.

    Source: Hessel et al. 2021, arXiv:2104.08718, without its factor 2.5 and its max with 0: as published.
    """
    prompts = [row.prompt for row in pictures.rows]

    def run(prepared: list[np.ndarray], places: list[int]) -> list[Sequence[float | bool]]:
        texts = model.encode_text([prompts[place] for place in places])
        cosines = (model.encode_image(prepared).double() * texts.embeddings.double()).sum(-1)
        return [(100 * cosine, cut) for cosine, cut in zip(cosines.tolist(), texts.cut, strict=True)]

    found = infer(
        pictures,
        lambda: Inference(model.prepare, run),
        keys=[fingerprint(pair) for pair in zip(pictures.digests, prompts, strict=True)],
        cache=PictureCache(cache, f"clip-{model.name}"),
        batch_size=batch_size,
    )
    return [Match(float(score), bool(cut)) for score, cut in found]
