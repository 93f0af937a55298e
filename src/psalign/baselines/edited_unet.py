"""A UNet some of whose weights were edited beforehand to forget concepts: ESD, UCE and RECE, of ours or ready-made.

Place on the path of data: an alternative to steps 3 to 5. Weights are applied; nothing is edited here.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError, UsageError
from ..tensors import read_safetensors, require_numbers
from .weights import find_weights

USUAL_NAME = "edited.safetensors"  # as psalign baseline train writes it
PREFIXES = ("unet.", "model.diffusion_model.")
SHOWN = 5


@contextmanager
def edited_unet(pipeline: Any, place: Path) -> Iterator[None]:
    """Within it the pipeline's UNet has the weights of a safetensors file, all of its own or only the edited ones;
    afterwards its own again, bit for bit.

    Raises CheckpointError for a file that is missing, cannot be read, has keys that this UNet has not (it names the
    first five), other shapes, or numbers that are not finite; UsageError for a UNet that is not in memory.
    """
    weights = dict(pipeline.unet.state_dict(keep_vars=True))
    edits = read_edits(place, weights)
    require_in_memory(weights, edits)
    originals = {name: weights[name].detach().clone() for name in edits}
    try:
        write_weights(weights, edits)
        yield
    finally:
        write_weights(weights, originals)


def read_edits(place: Path, weights: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Edited weights of a UNet by the UNet's own names; the prefixes that such files have in the field are taken off.

    weights: those of the UNet. Raises CheckpointError, see edited_unet.
    """
    path = find_weights(place, usual=USUAL_NAME)
    edits = {_own_name(name): weight for name, weight in read_safetensors(path)[0].items()}
    _refuse(path, "unknown to this UNet", [name for name in edits if name not in weights], "a UNet of diffusers")
    shapes = [name for name, weight in edits.items() if weight.shape != weights[name].shape]
    _refuse(path, "of another shape than this UNet's", shapes, "weights of the same base model")
    require_numbers(edits, path)
    if not edits:
        raise CheckpointError(f"{path} has no weights.")
    return edits


def require_in_memory(weights: dict[str, torch.Tensor], names: Iterable[str]) -> None:
    """Raises UsageError where a UNet is offloaded layer by layer. names: of the weights that are edited."""
    if any(weights[name].is_meta for name in names):
        raise UsageError(
            "The UNet is offloaded layer by layer, so its weights cannot be edited.",
            hint="Give --offload model or none.",
        )


@torch.no_grad()
def write_weights(weights: dict[str, torch.Tensor], values: dict[str, torch.Tensor]) -> None:
    """Copy values into the weights of these names."""
    for name, value in values.items():
        weights[name].copy_(value)


def _own_name(name: str) -> str:
    for prefix in PREFIXES:
        name = name.removeprefix(prefix)
    return name


def _refuse(path: Path, fault: str, names: list[str], expected: str) -> None:
    if names:
        shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
        raise CheckpointError(f"{path}: {len(names)} keys are {fault}: {shown}. Expected {expected}.")
