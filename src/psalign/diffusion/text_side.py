"""The parts of a base model that read text: text encoders, and the cross-attentions of the UNet without the rest of it.

Place on the path of data: what training by captions holds frozen. Of the UNet's weights only those of the
cross-attentions are read from the file (SDXL: 0.55 of 2.6 billion), so that training starts on a small machine.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ..errors import CheckpointError, reason_of
from ..files import read_json
from .base_models import DTYPES, Loading, find_base, mini_folder, require_no_file, require_whole

TEXT = ("tokenizer", "text_encoder")
HINT = "Give --model a folder that diffusers wrote, with safetensors, or a hub id."
READ = ("attn2.to_q.", "attn2.to_k.", "attn2.to_v.", "attn2.to_out.", "norm2.", "add_embedding.")  # parts of names


class CrossAttentions(nn.Module):
    """The cross-attentions of a UNet, each with the norm before it, and what the UNet makes of a pooled text state."""

    def __init__(self, unet: Any) -> None:
        super().__init__()
        self.config = unet.config
        blocks = [block for block in unet.modules() if getattr(block, "attn2", None) is not None]
        self.blocks = nn.ModuleList(_Block(block.norm2, block.attn2) for block in blocks)
        self.add_time_proj, self.add_embedding = (
            getattr(unet, name, None) for name in ("add_time_proj", "add_embedding")
        )
        self._embed = type(unet).get_aug_embed

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    def get_aug_embed(self, emb: torch.Tensor, **given: Any) -> Any:
        """As UNet2DConditionModel.get_aug_embed."""
        return self._embed(self, emb, **given)


class _Block(nn.Module):
    def __init__(self, norm2: nn.Module, attn2: nn.Module) -> None:
        super().__init__()
        self.norm2, self.attn2 = norm2, attn2


def load_text_side(base: str, **how: Any) -> Any:
    """The pipeline of a base model with its text encoders, no VAE, and CrossAttentions in place of the UNet.

    how: see Loading. It encodes prompts and trains by captions, and draws nothing.
    Raises CheckpointError where it cannot be loaded or is another architecture, UsageError for an unknown name.
    """
    import diffusers

    row, loading = find_base(base), Loading(**how)
    place = loading.source or row.source or str(mini_folder())
    kind, dtype = getattr(diffusers, row.pipeline), getattr(torch, DTYPES[loading.dtype])
    more: dict[str, Any] = {"dtype": dtype, "local_files_only": loading.local_files_only, "variant": loading.variant}
    if row.pipeline == "StableDiffusionPipeline":
        more |= {"safety_checker": None, "requires_safety_checker": False}
    require_no_file(place, row.name, hint=HINT)
    try:
        pipeline = kind.from_pretrained(place, unet=None, vae=None, **more)
        unet = read_cross_attentions(_unet_folder(place, loading), dtype=dtype, variant=loading.variant)
    except CheckpointError:
        raise
    except Exception as err:  # over a damaged or foreign folder diffusers raises nearly anything
        raise CheckpointError(
            f"The base model '{row.name}' cannot be loaded from {place}: {reason_of(err)}", hint=HINT
        ) from err
    require_whole(pipeline, row.name, place, parts=TEXT, hint=HINT)
    if unet.config.cross_attention_dim != row.context_dim:
        raise CheckpointError(
            f"{place} is not a '{base}' model: its text states have width {unet.config.cross_attention_dim}, "
            f"expected {row.context_dim}."
        )
    for part in pipeline.components.values():
        if isinstance(part, nn.Module):
            part.to(device=loading.device, dtype=dtype).requires_grad_(False)
    pipeline.unet = unet.to(loading.device).requires_grad_(False)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def read_cross_attentions(folder: Path, *, dtype: torch.dtype, variant: str | None = None) -> CrossAttentions:
    """The cross-attentions of a UNet's folder (config.json and safetensors, in one file or in several).

    Raises CheckpointError where the folder lacks them.
    """
    from diffusers import UNet2DConditionModel

    config = UNet2DConditionModel.load_config(str(folder))
    with torch.device("meta"):
        unet = UNet2DConditionModel.from_config(config)
    wanted = {name for name in unet.state_dict() if any(part in name for part in READ)}
    weights = {name: tensor.to(dtype) for name, tensor in _tensors(folder, wanted, variant)}
    if lacking := sorted(wanted - set(weights)):
        raise CheckpointError(
            f"{folder} lacks {len(lacking)} of {len(wanted)} weights of cross-attentions: {', '.join(lacking[:3])}.",
            hint=HINT,
        )
    unet.load_state_dict(weights, strict=False, assign=True)
    return CrossAttentions(unet).eval()


def _tensors(folder: Path, wanted: set[str], variant: str | None) -> Iterator[tuple[str, torch.Tensor]]:
    """Tensors of these names; nothing else is read from the files."""
    from safetensors import safe_open

    for path in _weight_files(folder, variant):
        with safe_open(path, framework="pt") as opened:
            for name in wanted & set(opened.keys()):
                yield name, opened.get_tensor(name)


def _weight_files(folder: Path, variant: str | None) -> list[Path]:
    stem = "diffusion_pytorch_model" + (f".{variant}" if variant else "")
    index = folder / f"diffusion_pytorch_model.safetensors.index{f'.{variant}' if variant else ''}.json"
    if index.is_file():
        fault = partial(CheckpointError, hint=HINT)
        about = read_json(index, what="the files of weights by name", needs=("weight_map",), fault=fault)
        weight_map = about["weight_map"]
        if not isinstance(weight_map, dict) or not all(isinstance(name, str) for name in weight_map.values()):
            raise fault(f"{index} is damaged: its weight_map names no files.")
        return [folder / Path(name).name for name in sorted(set(weight_map.values()))]
    path = folder / f"{stem}.safetensors"
    if not path.is_file():
        raise CheckpointError(f"{path} does not exist.", hint=HINT)
    return [path]


def _unet_folder(place: str, loading: Loading) -> Path:
    if Path(place).is_dir():
        return Path(place) / "unet"
    from huggingface_hub import snapshot_download

    middle = f".{loading.variant}" if loading.variant else ""
    patterns = ["unet/config.json", f"unet/*{middle}.safetensors", "unet/*.index*.json"]
    ignored = [] if loading.variant else ["unet/*.fp16.*", "unet/*.non_ema.*"]
    folder = snapshot_download(
        place, allow_patterns=patterns, ignore_patterns=ignored, local_files_only=loading.local_files_only
    )
    return Path(folder) / "unet"
