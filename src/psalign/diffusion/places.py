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


@contextmanager
def same_places(pipeline: Any) -> Iterator[None]:
    """Whatever is moved within it is afterwards where it was."""
    parts = modules_of(pipeline)
    places = [next(part.parameters()).device for part in parts]
    try:
        yield
    finally:
        for part, place in zip(parts, places, strict=True):
            if next(part.parameters()).device != place:  # a quantised part refuses to be moved, also to where it is
                part.to(place)


@contextmanager
def on_device(pipeline: Any, device: torch.device) -> Iterator[None]:
    """Within it all parts of a pipeline are on one device; after it they are where they were."""
    with same_places(pipeline):
        for part in modules_of(pipeline):
            if next(part.parameters()).device != device:
                part.to(device)
        yield
