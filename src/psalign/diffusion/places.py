"""Which device the parts of a pipeline are on.

Place on the path of data: under steps 4 to 6. Training on a GPU takes VAE and text encoder off it, and puts them back.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


def modules_of(pipeline: Any) -> list[Any]:
    """The parts of a pipeline that have weights."""
    parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    return [part for part in parts if next(part.parameters(), None) is not None]


def is_quantised(part: Any) -> bool:
    """Whether a library keeps a part's weights as whole numbers (bitsandbytes and its like)."""
    return getattr(part, "hf_quantizer", None) is not None or bool(getattr(part, "is_quantized", False))


def is_offloaded(part: torch.nn.Module) -> bool:
    """Whether hooks of accelerate or diffusers bring a part's weights to a device for its calls alone."""
    return any(
        hasattr(module, "_hf_hook") or "group_offloading" in getattr(registry, "hooks", ())
        for module in part.modules()
        for registry in [getattr(module, "_diffusers_hook", None)]
    )


def is_movable(part: Any) -> bool:
    """Whether a part may be moved or cast: quantised weights refuse it, and hooks move those that are offloaded."""
    return not is_quantised(part) and not is_offloaded(part)


@contextmanager
def same_places(pipeline: Any) -> Iterator[None]:
    """Whatever is moved within it is afterwards where it was."""
    parts = [part for part in modules_of(pipeline) if is_movable(part)]
    places = [next(part.parameters()).device for part in parts]
    try:
        yield
    finally:
        for part, place in zip(parts, places, strict=True):
            if next(part.parameters()).device != place:
                part.to(place)


@contextmanager
def on_device(pipeline: Any, device: torch.device) -> Iterator[None]:
    """Within it all parts of a pipeline that may be moved are on one device; after it they are where they were."""
    with same_places(pipeline):
        for part in modules_of(pipeline):
            if is_movable(part) and next(part.parameters()).device != device:
                part.to(device)
        yield
