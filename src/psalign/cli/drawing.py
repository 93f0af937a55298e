"""Options of commands that draw pictures, and the sampling and the pipeline that they stand for."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from .options import add_base, at_least, given

if TYPE_CHECKING:
    from ..diffusion.generate import GenerationConfig


OWN = "the base model's own"


def add_drawing(one: argparse.ArgumentParser, *, batches: bool = True) -> None:
    """batches: whether the command draws batches of a fixed size."""
    add_base(one)
    add_sampling(one, batches=batches)
    one.set_defaults(dtype="fp32")


def add_sampling(
    one: argparse.ArgumentParser, *, batches: bool = True, steps: str = OWN, guidance: str = OWN, dtype: str = "fp32"
) -> None:
    """steps, guidance, dtype: their defaults, as the help says them."""
    one.add_argument("--steps", type=at_least(1), help=f"denoising steps (default: {steps})")
    one.add_argument("--guidance", type=float, help=f"classifier-free guidance scale (default: {guidance})")
    one.add_argument("--scheduler", help=f"ddim, dpm, euler, euler-a, heun, unipc (default: {OWN})")
    if batches:
        one.add_argument("--batch-size", type=at_least(1), help=f"pictures at a time (default: {OWN})")
    one.add_argument("--dtype", help=f"fp32, fp16 or bf16 (default: {dtype})")
    one.add_argument("--offload", default="none", help="none, model or sequential (default none)")
    one.add_argument("--device", help="default: this process's GPU, or the CPU")
    one.add_argument("--local-files-only", action="store_true", help="download nothing")


def sampling(arguments: argparse.Namespace, **more: Any) -> GenerationConfig:
    """The settings of a run, with the base model's own where the command line has none.

    more: other settings.
    """
    from ..diffusion.generate import GenerationConfig

    asked = given(arguments, "steps", "guidance", "batch_size", "scheduler", "dtype")
    return GenerationConfig.for_base(arguments.base, **asked, **more)


def load(arguments: argparse.Namespace, device: str, **more: Any) -> Any:
    """The base model's pipeline. more: other parts of `Loading`."""
    from ..diffusion.base_models import load_pipeline

    return load_pipeline(arguments.base, device=device, **loading(arguments), **more)


def loading(arguments: argparse.Namespace) -> dict[str, Any]:
    """Parts of `Loading` that the command line gives, but for the device."""
    source = {} if arguments.model is None else {"source": arguments.model}
    return {**source, **given(arguments, "dtype", "scheduler", "offload", "local_files_only")}


def device_of(arguments: argparse.Namespace) -> str:
    """The device that is asked for, or this process's own."""
    from ..diffusion.shards import Shard

    return str(Shard(arguments.device).device)
