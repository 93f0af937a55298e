"""The base models: one table, one loader.

Place on the path of data: what step 6 draws with and what training holds frozen.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, UsageError
from ..records import file_fingerprint, fingerprint


@dataclass(frozen=True)
class BaseModel:
    """A base model. source: hub id or folder; None is shipped inside the package.

    size_px: of pictures. context_dim, pooled_dim: widths D and P of the text states.
    cross_attentions: how many in the UNet.
    """

    name: str
    source: str | None
    size_px: int
    context_dim: int
    pooled_dim: int
    cross_attentions: int


BASES = {
    base.name: base
    for base in (
        BaseModel("mini", None, size_px=64, context_dim=128, pooled_dim=0, cross_attentions=7),
        BaseModel("sd15", "stable-diffusion-v1-5/stable-diffusion-v1-5", 512, 768, 0, 16),
        BaseModel("sdxl", "stabilityai/stable-diffusion-xl-base-1.0", 1024, 2048, 1280, 70),
    )
}


def find_base(name: str) -> BaseModel:
    """A row of BASES. Raises UsageError that lists the choices."""
    if name not in BASES:
        raise UsageError(f"Unknown base model '{name}'; choose one of: {', '.join(BASES)}.")
    return BASES[name]


def mini_folder() -> Path:
    """Where the shipped mini base lies."""
    return Path(str(resources.files("psalign") / "mini" / "weights" / "base"))


def load_pipeline(base: str, *, source: str | None = None, device: str = "cpu") -> Any:
    """The stock diffusers pipeline of a base model in fp32, with progress bars off.

    source: another folder or hub id of the same architecture.
    Raises CheckpointError where it cannot be loaded or is another architecture.
    """
    import torch
    from diffusers import DiffusionPipeline

    row = find_base(base)
    place = source or row.source or str(mini_folder())
    try:
        pipeline = DiffusionPipeline.from_pretrained(place, safety_checker=None)
    except (OSError, ValueError) as err:
        raise CheckpointError(f"The base model '{base}' cannot be loaded from {place}: {err}") from err
    width = pipeline.unet.config.cross_attention_dim
    if width != row.context_dim:
        raise CheckpointError(
            f"{place} is not a '{base}' model: its text states have width {width}, expected {row.context_dim}."
        )
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet.requires_grad_(False)
    return pipeline.to(device, torch.float32)


def base_fingerprint(pipeline: Any) -> str:
    """16 hexadecimal digits that name the weights of a pipeline: its files', its hub id, or those in memory."""
    place = getattr(getattr(pipeline, "config", None), "_name_or_path", None)
    if not place:
        return _weights_fingerprint(pipeline)
    if not Path(place).is_dir():
        return fingerprint(str(place))
    return fingerprint([file_fingerprint(path) for path in sorted(Path(place).rglob("*.safetensors"))])


def _weights_fingerprint(pipeline: Any) -> str:
    """For a pipeline that was put together in memory, of components with or without weights."""
    import torch

    digest = hashlib.sha256()
    for name, part in sorted(getattr(pipeline, "components", {}).items()):
        for key, weight in part.state_dict().items() if isinstance(part, torch.nn.Module) else ():
            digest.update(f"{name}.{key} {tuple(weight.shape)} {weight.dtype}".encode())
            digest.update(weight.detach().cpu().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]
