"""One call of a pipeline: text states in, pictures out, each from a seed of its own.

Place on the path of data: the heart of step 6, for those who write folders and those who serve.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import Any

import numpy as np
import torch

from ..errors import GenerationError, release
from .places import modules_of


def draw_pictures(
    pipeline: Any, text: Mapping[str, Any], seeds: Sequence[int], *, steps: int, guidance: float, **more: Any
) -> np.ndarray:
    """Pictures of B rows of text, float RGB [0, 1], [B, H, W, 3]; not checked (see finished_pictures).

    text: arguments of the call that `encode` of an adapter gives, or text states. seeds: one a row; each row has its
    own CPU generator. more: other arguments of the call, as height, width and callback_on_step_end.
    """
    arguments: dict[str, Any] = {
        **text,
        "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "output_type": "np",
        **more,
    }
    with _tidied(pipeline):
        pictures: np.ndarray = pipeline(**arguments).images
    return pictures


@contextmanager
def _tidied(pipeline: Any) -> Iterator[None]:
    """Where a call fails or is left, do what a pipeline does only at the end of a whole one: free its tensors, take
    offloaded models off the device, and turn SDXL's VAE, which decodes in float32, back to its own dtype."""
    parts = [(part, next(part.parameters()).dtype) for part in modules_of(pipeline)]
    try:
        yield
    except BaseException as err:
        release(err)
        with suppress(RuntimeError):  # of a GPU that takes no more calls; `err` says why
            pipeline.maybe_free_model_hooks()
            for part, dtype in parts:
                if next(part.parameters()).dtype != dtype:
                    part.to(dtype=dtype)
        raise


def finished_pictures(pictures: np.ndarray, names: Sequence[str], *, hint: str) -> np.ndarray:
    """Pictures as uint8 RGB [0, 255]. Raises GenerationError, which names pictures that are not finite, with a hint."""
    broken = [name for name, picture in zip(names, pictures, strict=True) if not np.isfinite(picture).all()]
    if broken:
        raise GenerationError(
            f"{len(broken)} of {len(names)} pictures are not finite: {', '.join(broken[:5])}.", hint=hint
        )
    return (pictures * 255).round().astype(np.uint8)
