"""Trains the mini base from scratch: a standard StableDiffusionPipeline folder that draws the mini world.

Place on the path of data: makes what diffusion/base_models.py loads as "mini".

Three stages, each resumable and seeded: the autoencoder on drawings; then the text encoder and UNet together
on its latents, with the captions of the mini dataset; then the text encoder alone on the world's whole
language (rewording.py). The text encoder also learns from words alone (words.py), so that names of one thing
and things of one kind lie close together, as they do for a text encoder that has read the world.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ...diffusion.base_models import load_pipeline
from ...files import Record, read_json, write_json
from ...fingerprints import fingerprint, weights_fingerprint
from .. import world
from ..pixels import to_pixels
from .drawings import Drawings, encode
from .rewording import RewordingConfig, train_language
from .stages import Stage, write_record
from .tokenizer import MAX_TOKENS, build_tokenizer, corpus
from .words import Meaning, Words

if TYPE_CHECKING:
    from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import CLIPTextModel, CLIPTokenizer


# By name: diffusers forgets positional arguments when one scheduler is made from another's config.
NOISE_SCHEDULE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
}


@dataclass(frozen=True)
class BaseConfig:
    """Budget of the mini base.

    The defaults made the shipped weights (weights/base/training.json has the times).
    """

    seed: int = 7
    pictures: int = 24_000
    autoencoder_steps: int = 5_000
    autoencoder_batch: int = 16
    autoencoder_lr: float = 1e-3
    kl_weight: float = 1e-4
    denoiser_steps: int = 4_400
    denoiser_batch: int = 64
    denoiser_lr: float = 1e-3
    words_weight: float = 0.1
    caption_dropout: float = 0.1
    language: RewordingConfig = field(default_factory=RewordingConfig)


@dataclass(frozen=True)
class Kept:
    """What is taken from another mini base, not trained: its autoencoder; with unet also its UNet.

    The UNet comes with the text encoder that it was trained with, where the language begins.
    """

    folder: Path
    unet: bool = False


def train_base(folder: Path, config: BaseConfig, *, work: Path, kept: Kept | None = None) -> StableDiffusionPipeline:
    """Train all stages and write the pipeline to folder as fp16 safetensors.

    work: keeps the checkpoints to resume from. kept: stages that another base has behind it; None: train all.
    Raises OutputError where the folder of kept has no record of its training.
    """
    torch.manual_seed(config.seed)
    seconds: Record = {}
    tokenizer = build_tokenizer(work / "tokenizer")
    more = {} if kept is None else {"kept": _kept_record(kept)}
    if kept is not None and kept.unet:
        pipeline = load_pipeline("mini", source=str(kept.folder))
    else:
        drawings = draw_training_set(config)
        if kept is not None:
            autoencoder = load_pipeline("mini", source=str(kept.folder)).vae.eval()
        else:
            autoencoder, seconds["autoencoder"] = train_autoencoder(drawings, config, work=work)
        text_encoder, unet, seconds["text encoder and UNet"] = train_denoiser(
            drawings, autoencoder, tokenizer, config, work=work
        )
        pipeline = assemble(autoencoder, text_encoder, tokenizer, unet)
    text_encoder, seconds["language"] = train_language(
        pipeline, tokenizer, config.language, seed=config.seed + 2, work=work
    )
    pipeline = assemble(pipeline.vae, text_encoder, tokenizer, pipeline.unet)
    _write(folder, pipeline)
    write_record(folder, "train-base", config, {stage: round(taken) for stage, taken in seconds.items()}, **more)
    return pipeline.to(torch.float32)


def assemble(
    autoencoder: AutoencoderKL, text_encoder: CLIPTextModel, tokenizer: CLIPTokenizer, unet: UNet2DConditionModel
) -> StableDiffusionPipeline:
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    pipeline = StableDiffusionPipeline(
        vae=autoencoder,
        text_encoder=text_encoder,
        tokenizer=tokenizer,
        unet=unet,
        scheduler=DPMSolverMultistepScheduler(**NOISE_SCHEDULE, steps_offset=1),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _write(folder: Path, pipeline: StableDiffusionPipeline) -> None:
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    # transformers computes in the type the config names, diffusers in float32: say float32 for both.
    for part, more in (("text_encoder", {"dtype": "float32"}), ("unet", {}), ("vae", {})):
        path = folder / part / "config.json"
        settings = {**json.loads(path.read_text()), **more}
        settings.pop("_name_or_path", None)  # a folder of the machine that trains
        write_json(path, settings)


def _kept_record(kept: Kept) -> Record:
    """What is kept, and the record of its training."""
    of = read_json(kept.folder / "training.json", what="the record of a mini base", needs=("config", "sha256"))
    return {"parts": ["vae", "unet"] if kept.unet else ["vae"], "training": of}


def draw_training_set(config: BaseConfig) -> Drawings:
    """Drawings of random scenes without the held-out combinations."""
    rng = np.random.default_rng(config.seed)
    scenes = [world.sample_scene(rng) for _ in range(config.pictures)]
    return Drawings(scenes, np.stack([world.draw(scene, seed=i) for i, scene in enumerate(scenes)]))


# --- autoencoder ---------------------------------------------------------------------------------------------------


def new_autoencoder() -> AutoencoderKL:
    from diffusers import AutoencoderKL

    widths = (32, 64, 96, 128)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=widths,
        layers_per_block=1,
        latent_channels=16,
        norm_num_groups=8,
        sample_size=world.SIZE_PX,
        scaling_factor=1.0,
    )


def train_autoencoder(drawings: Drawings, config: BaseConfig, *, work: Path) -> tuple[AutoencoderKL, float]:
    """Train the autoencoder on pixels; its scaling factor makes latents of unit variance.

    Returns it and the seconds.
    """
    torch.manual_seed(config.seed)
    model = new_autoencoder()

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(drawings), (config.autoencoder_batch,), generator=generator)
        pixels = to_pixels(drawings.pictures[rows.numpy()])
        if step % 2:  # mirrored pictures double the set
            pixels = pixels.flip(-1)
        with torch.autocast("cpu", torch.bfloat16):
            posterior = model.encode(pixels).latent_dist
            noise = torch.randn(posterior.mean.shape, generator=generator)
            decoded = model.decode(posterior.mean + posterior.std * noise).sample
        error = decoded.float() - pixels
        kl = 0.5 * (posterior.mean.float() ** 2 + posterior.var.float() - 1 - posterior.logvar.float()).mean()
        return error.abs().mean() + 2 * error.square().mean() + config.kl_weight * kl

    drawn = drawings.pictures[:64].tobytes().hex()
    stage = Stage(
        "autoencoder",
        {"model": model},
        steps=config.autoencoder_steps,
        lr=config.autoencoder_lr,
        seed=config.seed,
        made_of=(config.pictures, config.autoencoder_batch, config.kl_weight, drawn),
    )
    seconds = stage.run(loss, work=work)
    means, stds = encode(model, drawings.pictures[:2048])
    model.register_to_config(scaling_factor=float(1 / (means + stds * torch.randn_like(means)).std()))
    return model.eval(), seconds


# --- text encoder and UNet -----------------------------------------------------------------------------------------


def new_text_encoder(tokenizer: CLIPTokenizer) -> CLIPTextModel:
    from transformers import CLIPTextConfig, CLIPTextModel

    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=128,
            intermediate_size=512,
            num_hidden_layers=2,
            num_attention_heads=4,
            max_position_embeddings=MAX_TOKENS,
            projection_dim=128,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def new_unet() -> UNet2DConditionModel:
    from diffusers import UNet2DConditionModel

    return UNet2DConditionModel(
        sample_size=8,
        in_channels=16,
        out_channels=16,
        block_out_channels=(64, 128),
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        cross_attention_dim=128,
        attention_head_dim=4,
        norm_num_groups=16,
    )


def train_denoiser(
    drawings: Drawings, autoencoder: AutoencoderKL, tokenizer: CLIPTokenizer, config: BaseConfig, *, work: Path
) -> tuple[CLIPTextModel, UNet2DConditionModel, float]:
    """Train text encoder and UNet together on noise prediction and on words. Returns both and the seconds."""
    torch.manual_seed(config.seed + 1)
    text_encoder, unet = new_text_encoder(tokenizer), new_unet().to(memory_format=torch.channels_last)
    words = Words(tokenizer)
    head = torch.nn.Linear(128, len(tokenizer), bias=False)
    torch.nn.init.normal_(head.weight, std=0.02)
    schedule = _noise_schedule()
    started = time.perf_counter()
    means, stds = encode(autoencoder, drawings.pictures)
    encode_s = time.perf_counter() - started
    scale = autoencoder.config.scaling_factor

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        rng = np.random.default_rng((config.seed, step))
        rows = rng.integers(len(drawings), size=config.denoiser_batch)
        scenes = [drawings.scenes[row] for row in rows]
        captions = [
            "" if rng.random() < config.caption_dropout else world.sample_caption(scene, rng) for scene in scenes
        ]
        meant = [
            Meaning(scene.motifs, scene.categories) if text else Meaning()
            for scene, text in zip(scenes, captions, strict=True)
        ]
        sentences, meanings = words.sentences(rng, config.denoiser_batch // 4)
        ids = words.ids([*captions, *sentences])
        states = text_encoder(ids).last_hidden_state
        latents = (means[rows] + stds[rows] * torch.randn(means[rows].shape, generator=generator)) * scale
        denoising = _noise_error(unet, schedule, latents, states[: len(rows)], generator)
        return denoising + config.words_weight * words.loss(ids, head(states), [*meant, *meanings])

    parts: dict[str, torch.nn.Module] = {"text_encoder": text_encoder, "unet": unet, "head": head}
    stage = Stage(
        "denoiser",
        parts,
        steps=config.denoiser_steps,
        lr=config.denoiser_lr,
        seed=config.seed + 1,
        made_of=(asdict(config), weights_fingerprint({"": autoencoder}), fingerprint(corpus())),
    )
    seconds = stage.run(loss, work=work)
    # Convolutions trained faster channels-last; safetensors wants the plain layout.
    return text_encoder.eval(), unet.to(memory_format=torch.contiguous_format).eval(), encode_s + seconds


def _noise_error(
    unet: Any, schedule: Any, latents: torch.Tensor, states: torch.Tensor, generator: torch.Generator
) -> torch.Tensor:
    """Mean squared error of the predicted noise, weighted by min(SNR, 5) / SNR.

    Source: Hang et al. 2023, arXiv:2303.09556.
    """
    noise = torch.randn(latents.shape, generator=generator)
    timesteps = torch.randint(1000, (len(latents),), generator=generator)
    predicted = unet(schedule.add_noise(latents, noise, timesteps), timesteps, states).sample
    snr = (schedule.alphas_cumprod / (1 - schedule.alphas_cumprod))[timesteps]
    weight = snr.clamp(max=5) / snr
    return (weight[:, None, None, None] * (predicted - noise).square()).mean() / weight.mean()


def _noise_schedule() -> Any:
    from diffusers import DDPMScheduler

    return DDPMScheduler(**NOISE_SCHEDULE, clip_sample=False)
