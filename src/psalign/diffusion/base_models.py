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
    cross_attentions: how many in the UNet. steps, guidance: of sampling, unless something else is asked for.
    pipeline: class of diffusers.
    """

    name: str
    source: str | None
    size_px: int
    context_dim: int
    pooled_dim: int
    cross_attentions: int
    steps: int = 50
    guidance: float = 7.5
    pipeline: str = "StableDiffusionPipeline"


BASES = {
    base.name: base
    for base in (
        BaseModel("mini", None, size_px=64, context_dim=128, pooled_dim=0, cross_attentions=7, steps=15, guidance=4.0),
        BaseModel("sd15", "stable-diffusion-v1-5/stable-diffusion-v1-5", 512, 768, 0, 16),
        BaseModel(
            "sdxl",
            "stabilityai/stable-diffusion-xl-base-1.0",
            1024,
            2048,
            1280,
            70,
            pipeline="StableDiffusionXLPipeline",
        ),
    )
}


DTYPES = {"fp32": "float32", "fp16": "float16", "bf16": "bfloat16"}
OFFLOADS = {"none": "none", "model": "enable_model_cpu_offload", "sequential": "enable_sequential_cpu_offload"}
SCHEDULERS = {
    "ddim": "DDIMScheduler",
    "dpm": "DPMSolverMultistepScheduler",
    "euler": "EulerDiscreteScheduler",
    "euler-a": "EulerAncestralDiscreteScheduler",
    "heun": "HeunDiscreteScheduler",
    "unipc": "UniPCMultistepScheduler",
}


def find_base(name: str) -> BaseModel:
    """A row of BASES. Raises UsageError that lists the choices."""
    if name not in BASES:
        raise UsageError(f"Unknown base model '{name}'; choose one of: {', '.join(BASES)}.")
    return BASES[name]


def mini_folder() -> Path:
    """Where the shipped mini base lies."""
    return Path(str(resources.files("psalign") / "mini" / "weights" / "base"))


def load_pipeline(
    base: str,
    *,
    source: str | None = None,
    device: str = "cpu",
    dtype: str = "fp32",
    scheduler: str | None = None,
    offload: str = "none",
) -> Any:
    """The stock diffusers pipeline of a base model, with progress bars off and its UNet frozen.

    source: another folder, hub id, or single file (.safetensors, .ckpt) of the same architecture. dtype: fp32, fp16 or
    bf16. scheduler: a name of SCHEDULERS instead of the model's own. offload: "none"; "model" keeps one model at a time
    on the device (SDXL in 8 GB, SD1.5 in 4 GB, with fp16); "sequential" one layer at a time, slowly.
    Raises CheckpointError where it cannot be loaded or is another architecture, UsageError for an unknown name.
    """
    row = find_base(base)
    place = source or row.source or str(mini_folder())
    pipeline = _load(row, place, _choose("dtype", dtype, DTYPES))
    width = pipeline.unet.config.cross_attention_dim
    if width != row.context_dim:
        raise CheckpointError(
            f"{place} is not a '{base}' model: its text states have width {width}, expected {row.context_dim}."
        )
    if scheduler is not None:
        pipeline.scheduler = _scheduler(scheduler, pipeline.scheduler)
    pipeline.set_progress_bar_config(disable=True)
    pipeline.unet.requires_grad_(False)
    return _place(pipeline, device, _choose("offload", offload, OFFLOADS))


def _load(row: BaseModel, place: str, dtype: str) -> Any:
    import diffusers
    import torch

    kind = getattr(diffusers, row.pipeline)
    single = Path(place).suffix in (".safetensors", ".ckpt")
    more = {} if single or row.pipeline != "StableDiffusionPipeline" else {"safety_checker": None}
    read = kind.from_single_file if single else kind.from_pretrained
    try:
        pipeline = read(place, dtype=getattr(torch, dtype), **more)
    except (OSError, ValueError, TypeError) as err:
        raise CheckpointError(
            f"The base model '{row.name}' cannot be loaded from {place}: {str(err).splitlines()[0]}",
            hint="Give --model a folder that diffusers wrote, a hub id, or a single .safetensors file.",
        ) from err
    # A pipeline that was loaded in one dtype may hold parts in another (the text encoders of some checkpoints).
    return pipeline.to(dtype=getattr(torch, dtype))


def _scheduler(name: str, own: Any) -> Any:
    import diffusers

    return getattr(diffusers, _choose("scheduler", name, SCHEDULERS)).from_config(own.config)


def _place(pipeline: Any, device: str, offload: str) -> Any:
    if offload == "none":
        return pipeline.to(device)
    if device == "cpu":
        raise UsageError(f"Offloading ('{offload}') needs a device to offload from; saw device 'cpu'.")
    pipeline.vae.enable_slicing()
    getattr(pipeline, offload)(device=device)
    return pipeline


def _choose(what: str, name: str, table: dict[str, str]) -> str:
    if name not in table:
        raise UsageError(f"Unknown {what} '{name}'; choose one of: {', '.join(table)}.")
    return table[name]


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
