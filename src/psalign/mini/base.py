"""Trains the mini base from scratch: a standard StableDiffusionPipeline folder that draws the mini world.

Place on the path of data: makes what diffusion/base_models.py loads as "mini".

Two stages, each resumable and seeded: the autoencoder on drawings, then the text encoder and UNet together on its
latents. The text encoder also learns from words alone (each token predicts the words around it, in captions and in
sentences that say what things are), so that things of one kind lie close together, as they do for a text encoder that
has read the world.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch.nn import functional as F

from ..files import write_json
from ..records import file_fingerprint
from . import world
from .pixels import to_pictures, to_pixels
from .stages import Stage, weights_name
from .tokenizer import MAX_TOKENS, build_tokenizer

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
    """Budget of the mini base. The defaults made the shipped weights (weights/base/training.json has the times)."""

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


@dataclass(frozen=True)
class Drawings:
    """Scenes of the base's training and their pictures, uint8 RGB [0, 255], [P, 64, 64, 3]."""

    scenes: list[world.Scene]
    pictures: np.ndarray


def train_base(folder: Path, config: BaseConfig, *, work: Path) -> StableDiffusionPipeline:
    """Train all stages and write the pipeline to folder as fp16 safetensors.

    work: keeps the checkpoints to resume from.
    """
    from diffusers import DPMSolverMultistepScheduler, StableDiffusionPipeline

    torch.manual_seed(config.seed)
    drawings = draw_training_set(config)
    autoencoder, autoencoder_s = train_autoencoder(drawings, config, work=work)
    tokenizer = build_tokenizer(work / "tokenizer")
    text_encoder, unet, denoiser_s = train_denoiser(drawings, autoencoder, tokenizer, config, work=work)
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
    pipeline.to(torch.float16).save_pretrained(folder, safe_serialization=True)
    # transformers computes in the type the config names, diffusers in float32: say float32 for both.
    text_config = folder / "text_encoder" / "config.json"
    write_json(text_config, {**json.loads(text_config.read_text()), "dtype": "float32"})
    weights = sorted(folder.rglob("*.safetensors"))
    seconds = {"autoencoder": round(autoencoder_s), "text encoder and UNet": round(denoiser_s)}
    record = {
        "command": "psalign mini train-base",
        "config": asdict(config),
        "seconds": seconds,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "sha256": {str(path.relative_to(folder)): file_fingerprint(path) for path in weights},
    }
    write_json(folder / "training.json", record)
    return pipeline.to(torch.float32)


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
        rows = torch.randint(len(drawings.scenes), (config.autoencoder_batch,), generator=generator)
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


@torch.no_grad()
def encode(model: AutoencoderKL, pictures: np.ndarray, *, batch: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Posterior means and standard deviations of pictures, each [P, 16, 8, 8], not scaled."""
    parts = [model.encode(to_pixels(pictures[i : i + batch])).latent_dist for i in range(0, len(pictures), batch)]
    return torch.cat([p.mean for p in parts]), torch.cat([p.std for p in parts])


@torch.no_grad()
def reconstruct(model: AutoencoderKL, pictures: np.ndarray, *, batch: int = 64) -> np.ndarray:
    """Pictures through the autoencoder and back, uint8 RGB."""
    parts = []
    for i in range(0, len(pictures), batch):
        latents = model.encode(to_pixels(pictures[i : i + batch])).latent_dist.mean
        parts.append(to_pictures(model.decode(latents).sample))
    return np.concatenate(parts)


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of uint8 pictures in dB: the mean over pictures."""
    error = ((a.astype(np.float64) - b.astype(np.float64)) ** 2).reshape(len(a), -1).mean(1)
    return float((10 * np.log10(255**2 / np.maximum(error, 1e-9))).mean())


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
    snr = schedule.alphas_cumprod / (1 - schedule.alphas_cumprod)

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        rng = np.random.default_rng((config.seed, step))
        rows = rng.integers(len(drawings.scenes), size=config.denoiser_batch)
        captions = [_caption(drawings.scenes[row], rng, config.caption_dropout) for row in rows]
        kinds = [drawings.scenes[row].categories if text else () for row, text in zip(rows, captions, strict=True)]
        told, told_kinds = words.sentences(rng, config.denoiser_batch // 4)
        ids = words.ids(captions + told)
        states = text_encoder(ids).last_hidden_state
        latents = (means[rows] + stds[rows] * torch.randn(means[rows].shape, generator=generator)) * scale
        noise = torch.randn(latents.shape, generator=generator)
        timesteps = torch.randint(1000, (len(rows),), generator=generator)
        noisy = schedule.add_noise(latents, noise, timesteps)
        predicted = unet(noisy, timesteps, states[: len(rows)]).sample
        weight = snr[timesteps].clamp(max=5) / snr[timesteps]
        denoising = (weight[:, None, None, None] * (predicted - noise).square()).mean() / weight.mean()
        return denoising + config.words_weight * words.loss(ids, head(states), kinds + told_kinds)

    parts: dict[str, torch.nn.Module] = {"text_encoder": text_encoder, "unet": unet, "head": head}
    stage = Stage(
        "denoiser",
        parts,
        steps=config.denoiser_steps,
        lr=config.denoiser_lr,
        seed=config.seed + 1,
        made_of=(asdict(config), weights_name(autoencoder)),
    )
    seconds = stage.run(loss, work=work)
    # Convolutions trained faster channels-last; safetensors wants the plain layout.
    return text_encoder.eval(), unet.to(memory_format=torch.contiguous_format).eval(), encode_s + seconds


class Words:
    """What the text encoder learns from words.

    Each token predicts itself and the words around it; the end of a sentence, and all after it, predicts every word of
    the sentence and the kinds of the motifs it spoke of.
    """

    around = 5

    def __init__(self, tokenizer: CLIPTokenizer) -> None:
        self.tokenizer = tokenizer
        self._cache: dict[str, list[int]] = {}
        self._sentences = [
            (sentence, (category,))
            for sentence, category in zip(world.definitions(), _definition_categories(), strict=True)
        ]
        self._kind_ids = {c: self._encode(kind)[1 : 1 + len(kind.split())] for c, kind in world.KINDS.items()}

    def sentences(self, rng: np.random.Generator, count: int) -> tuple[list[str], list[tuple[str, ...]]]:
        """Random definitions and the categories they speak of."""
        rows = [self._sentences[i] for i in rng.integers(len(self._sentences), size=count)]
        return [text for text, _ in rows], [kinds for _, kinds in rows]

    def ids(self, texts: Sequence[str]) -> torch.Tensor:
        """Token ids [B, T]."""
        return torch.tensor([self._encode(text) for text in texts])

    def loss(self, ids: torch.Tensor, logits: torch.Tensor, kinds: Sequence[Sequence[str]]) -> torch.Tensor:
        """Mean cross-entropy of the words to predict. ids: [B, T]; logits: [B, T, V]; kinds: categories of each row."""
        logp = F.log_softmax(logits, dim=-1)
        end = (ids == self.tokenizer.eos_token_id).int().argmax(1, keepdim=True)  # [B, 1]
        position = torch.arange(ids.shape[1])[None]
        inside = (position > 0) & (position < end)  # [B, T]
        total, count = logp.new_zeros(()), 0
        for offset in range(-self.around, self.around + 1):
            target, there = ids.roll(-offset, 1), inside & inside.roll(-offset, 1)
            total = total - (logp.gather(-1, target[..., None])[..., 0] * there).sum()
            count += int(there.sum())
        told = torch.zeros(ids.shape[0], logits.shape[-1]).scatter_add_(1, ids, inside.float()).clamp(max=1)
        for row, categories in enumerate(kinds):
            for category in categories:
                told[row, self._kind_ids[category]] = 2.0
        closing = -torch.einsum("btv,bv->bt", logp, told / told.sum(1, keepdim=True).clamp(min=1))
        after = (position >= end) & inside.any(1, keepdim=True)
        return total / count + (closing * after).sum() / after.sum()

    def _encode(self, text: str) -> list[int]:
        if text not in self._cache:
            encoded = self.tokenizer(text, padding="max_length", truncation=True, max_length=MAX_TOKENS)
            self._cache[text] = list(encoded.input_ids)
        return self._cache[text]


def _definition_categories() -> list[str]:
    per_motif = len(world.definitions()) // len(world.MOTIFS)
    return [c for c, motifs in world.CATEGORY_MOTIFS.items() for _ in range(per_motif * len(motifs))]


def _caption(scene: world.Scene, rng: np.random.Generator, dropout: float) -> str:
    if rng.random() < dropout:
        return ""
    wordings = world.WORDINGS + world.HELD_OUT_WORDINGS
    kinds = rng.choice(3, size=2, p=(0.5, 0.3, 0.2)).tolist()
    return world.caption(scene, wordings[rng.integers(len(wordings))], kinds=kinds)


def _noise_schedule() -> Any:
    from diffusers import DDPMScheduler

    return DDPMScheduler(**NOISE_SCHEDULE, clip_sample=False)
