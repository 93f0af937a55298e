"""Baseline SafetyDPO: a LoRA that was trained to draw unsafe prompts safely.

Place on the path of data: an alternative to steps 3 to 5. Only ready-made weights are applied; nothing is trained here.
Source: Liu et al. 2024, arXiv:2412.10493.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, ExtraMissing, GuardError, library_errors
from ..tensors import read_safetensors, require_numbers
from .weights import find_weights

USUAL_NAME = "pytorch_lora_weights.safetensors"


@contextmanager
def lora_weights(pipeline: Any, place: Path) -> Iterator[None]:
    """Within it the pipeline draws with the LoRA of a folder or file; afterwards its weights are as they were.

    Raises CheckpointError where it is missing, cannot be read, or changes nothing in this UNet; ExtraMissing without
    the library; GuardError where the pipeline has a LoRA already, which would be unloaded with this one.
    """
    if find_spec("peft") is None:
        raise ExtraMissing("peft", "lora")
    if pipeline.get_list_adapters():
        raise GuardError("The pipeline has a LoRA already.", hint="Call pipe.unload_lora_weights() first.")
    path = find_weights(place, usual=USUAL_NAME)
    try:
        _load(pipeline, path)
        yield
    finally:
        pipeline.unload_lora_weights()


def _load(pipeline: Any, path: Path) -> None:
    require_numbers(read_safetensors(path)[0], path)
    with library_errors(CheckpointError, f"{path} is no LoRA for this model"):
        pipeline.load_lora_weights(path.parent, weight_name=path.name)
    if "unet" not in pipeline.get_list_adapters():
        raise CheckpointError(f"{path} has no LoRA for the UNet of this model.")
