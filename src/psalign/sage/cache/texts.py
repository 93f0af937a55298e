"""The text states of captions, computed once and kept on disk.

Place on the path of data: between SAGE rows and the trainer. Every state has a key of its own (model,
caption), so that another model or caption makes new entries and leaves the others, and an interrupted build
goes on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...fingerprints import fingerprint, weights_fingerprint
from ..share import Share
from .store import Rows, ShardedStore, Tensors, fill

FORMAT = 2
TEXTS_PER_BATCH = 64


@dataclass(frozen=True)
class TextCache:
    """States of captions.

    name: the fingerprint of captions and model. rows: states, float16 [T, D], and, for SDXL, pooled [P].
    numbers: row of each caption; the empty caption is the last.
    """

    name: str
    rows: Rows
    numbers: dict[str, int]

    @property
    def empty(self) -> int:
        """Number of the empty caption."""
        return len(self.numbers) - 1

    def held(self, name: str, memory_gb: float) -> torch.Tensor | None:
        """All rows of a tensor in memory, [Q, ...] float16; None where they need more than memory_gb."""
        first = self.rows.read(name, [0])
        if first.nbytes * len(self.rows) > memory_gb * 1e9:
            return None
        return self.rows.read(name, np.arange(len(self.rows)))


def build_texts(captions: Sequence[str], pipeline: Any, folder: Path, *, share: Share | None = None) -> TextCache:
    """The text states of these captions and of the empty one, after computing those that the folder lacks."""
    share = share or Share()
    captions = [*sorted(set(captions) - {""}), ""]
    encoders = ("text_encoder", "text_encoder_2")
    model = weights_fingerprint({name: getattr(pipeline, name, None) for name in encoders})
    keys = {fingerprint([FORMAT, model, caption]): caption for caption in captions}
    store = ShardedStore(folder, "texts")
    fill(store, keys, lambda part: _encode(pipeline, part), share=share, desc="encoding captions")
    share.wait()
    numbers = {caption: number for number, caption in enumerate(captions)}
    return TextCache(fingerprint(list(keys)), store.rows(list(keys)), numbers)


@torch.no_grad()
def _encode(pipeline: Any, captions: Sequence[str]) -> Tensors:
    states, pooled = [], []
    for start in range(0, len(captions), TEXTS_PER_BATCH):
        encoded = pipeline.encode_prompt(
            list(captions[start : start + TEXTS_PER_BATCH]),
            device=pipeline._execution_device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        states.append(encoded[0].half().cpu())
        if len(encoded) == 4:  # SDXL: states, negative states, pooled, negative pooled
            pooled.append(encoded[2].half().cpu())
    return {"states": torch.cat(states), **({"pooled": torch.cat(pooled)} if pooled else {})}
