"""A pipeline of SD1.5 or SDXL in full size, with random weights, for commands whose time and memory are to be measured.

    python benchmarks/full_size.py --base sd15 --out outputs/full-sd15 [--device cuda]
    psalign train --preset psa-sd15 --model outputs/full-sd15 ...

Time and memory do not depend on what weights say. What such a model draws is noise. The tokenizer is mini's. Weights
are written in fp16: 2 GB (SD1.5) or 7 GB (SDXL).
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from captions import CLIP_G, CLIP_L
from diffusers import AutoencoderKL, DDIMScheduler, StableDiffusionPipeline, StableDiffusionXLPipeline
from inference import UNETS, make_unet
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from psalign.diffusion.base_models import BASES, mini_folder

WIDTHS = (128, 256, 512, 512)  # of the VAE


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", choices=tuple(UNETS), default="sd15")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu", help="where the weights are drawn")
    arguments = parser.parse_args()
    make_pipeline(arguments.base, arguments.device).to(torch.float16).save_pretrained(arguments.out)
    print(f"{arguments.base} in full size, random weights: {arguments.out}")


def make_pipeline(base: str, device: str) -> Any:
    tokenizer = CLIPTokenizer.from_pretrained(mini_folder() / "tokenizer")
    with torch.device(device):
        vae = AutoencoderKL(
            block_out_channels=WIDTHS, layers_per_block=2, latent_channels=4,
            down_block_types=("DownEncoderBlock2D",) * 4, up_block_types=("UpDecoderBlock2D",) * 4,
            sample_size=BASES[base].size_px,
        )  # fmt: skip
        encoder = CLIPTextModel(_config(CLIP_L, tokenizer))
    parts = {"vae": vae, "text_encoder": encoder, "tokenizer": tokenizer, "unet": make_unet(base, device)}
    parts["unet"].register_to_config(sample_size=BASES[base].size_px // 8)
    schedule = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False}
    parts["scheduler"] = DDIMScheduler(**schedule, set_alpha_to_one=False, steps_offset=1)
    if base == "sd15":
        none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        return StableDiffusionPipeline(**parts, **none)
    with torch.device(device):
        second = CLIPTextModelWithProjection(_config(CLIP_G, tokenizer))
    return StableDiffusionXLPipeline(**parts, text_encoder_2=second, tokenizer_2=tokenizer, add_watermarker=False)


def _config(shape: dict[str, int], tokenizer: CLIPTokenizer) -> CLIPTextConfig:
    """A CLIP text encoder's configuration; it reads 77 tokens of the tokenizer."""
    own = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    own |= {"pad_token_id": tokenizer.pad_token_id, "projection_dim": shape["hidden_size"]}
    return CLIPTextConfig(**shape, **own, vocab_size=49408, max_position_embeddings=77)


if __name__ == "__main__":
    main()
