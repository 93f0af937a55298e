"""Writes a diffusers SD1.5 pipeline as the single .safetensors file that such models are often shared as.

The layout is that of the first Stable Diffusion code: model.diffusion_model, first_stage_model, cond_stage_model.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

LEVELS = 4  # of blocks, in the UNet and in the autoencoder
UNET = {
    "time_embedding.linear_1": "time_embed.0", "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0", "conv_norm_out": "out.0", "conv_out": "out.2",
    "mid_block.resnets.0": "middle_block.0", "mid_block.attentions.0": "middle_block.1",
    "mid_block.resnets.1": "middle_block.2",
    **{f"down_blocks.{i}.{kind}.{j}": f"input_blocks.{3 * i + j + 1}.{k}"
       for i in range(LEVELS) for j in range(2) for k, kind in enumerate(("resnets", "attentions"))},
    **{f"down_blocks.{i}.downsamplers.0.conv": f"input_blocks.{3 * i + 3}.0.op" for i in range(LEVELS)},
    **{f"up_blocks.{i}.{kind}.{j}": f"output_blocks.{3 * i + j}.{k}"
       for i in range(LEVELS) for j in range(3) for k, kind in enumerate(("resnets", "attentions"))},
    **{f"up_blocks.{i}.upsamplers.0": f"output_blocks.{3 * i + 2}.{min(i, 1) + 1}" for i in range(LEVELS)},
}  # fmt: skip
VAE = {
    "mid_block.resnets.0": "mid.block_1", "mid_block.resnets.1": "mid.block_2", "mid_block.attentions.0": "mid.attn_1",
    "conv_norm_out": "norm_out",
    **{f"down_blocks.{i}.resnets.{j}": f"down.{i}.block.{j}" for i in range(LEVELS) for j in range(3)},
    **{f"down_blocks.{i}.downsamplers.0": f"down.{i}.downsample" for i in range(LEVELS)},
    **{f"up_blocks.{i}.resnets.{j}": f"up.{LEVELS - 1 - i}.block.{j}" for i in range(LEVELS) for j in range(3)},
    **{f"up_blocks.{i}.upsamplers.0": f"up.{LEVELS - 1 - i}.upsample" for i in range(LEVELS)},
}  # fmt: skip
OF_RESNETS = {
    "norm1": "in_layers.0", "conv1": "in_layers.2", "norm2": "out_layers.0", "conv2": "out_layers.3",
    "time_emb_proj": "emb_layers.1", "conv_shortcut": "skip_connection",
}  # fmt: skip
OF_VAE = {"conv_shortcut": "nin_shortcut"}
OF_ATTENTION = {"group_norm": "norm", "to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"}


def save_single_file(pipe: Any, path: Path) -> Path:
    """Write the pipeline's weights into one file. Returns it."""
    weights: dict[str, torch.Tensor] = {}
    for name, weight in pipe.unet.state_dict().items():
        inside = OF_RESNETS if ".resnets." in name else {}
        weights[f"model.diffusion_model.{_renamed(name, UNET, inside)}"] = weight
    for name, weight in pipe.vae.state_dict().items():
        side, _, rest = name.partition(".") if name.startswith(("encoder.", "decoder.")) else ("", "", name)
        inside = OF_ATTENTION if ".attentions." in name else OF_VAE
        linear = ".attentions." in name and weight.ndim == 2  # a 1 x 1 convolution there
        key = ".".join(part for part in ("first_stage_model", side, _renamed(rest, VAE, inside)) if part)
        weights[key] = weight[:, :, None, None] if linear else weight
    for name, weight in pipe.text_encoder.state_dict().items():
        weights[f"cond_stage_model.transformer.text_model.{name.removeprefix('text_model.')}"] = weight
    save_file({name: weight.contiguous() for name, weight in weights.items()}, path)
    return path


def _renamed(name: str, blocks: dict[str, str], inside: dict[str, str]) -> str:
    """A weight's name in the other layout: its block's, and within that its own."""
    block = next((old for old in blocks if name.startswith(f"{old}.")), "")
    rest = name.removeprefix(f"{block}.") if block else name
    part = next((old for old in inside if rest.startswith(f"{old}.")), "")
    rest = inside[part] + rest.removeprefix(part) if part else rest
    return f"{blocks[block]}.{rest}" if block else rest
