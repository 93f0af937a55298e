"""Drawings that the mini models learn from and are checked on, and what an autoencoder makes of them.

Place on the path of data: under the other files of mini/factory/.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch

from .. import world
from ..pixels import to_pictures, to_pixels

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


@dataclass(frozen=True)
class Drawings:
    """Scenes and their pictures, uint8 RGB [0, 255], [P, 64, 64, 3]."""

    scenes: list[world.Scene]
    pictures: np.ndarray

    def __len__(self) -> int:
        return len(self.scenes)


def draw_any(count: int, rng: np.random.Generator) -> Drawings:
    """`count` random scenes of any combination."""
    scenes = [world.sample_scene(rng, held_out=None) for _ in range(count)]
    return Drawings(scenes, np.stack([world.draw(scene, seed=int(rng.integers(2**31))) for scene in scenes]))


@torch.no_grad()
def encode(model: AutoencoderKL, pictures: np.ndarray, *, batch: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """Posterior means and standard deviations of pictures, each [P, 16, 8, 8], not scaled."""
    parts = [model.encode(to_pixels(pictures[i : i + batch])).latent_dist for i in range(0, len(pictures), batch)]
    return torch.cat([p.mean for p in parts]), torch.cat([p.std for p in parts])


def reconstruct(model: AutoencoderKL, pictures: np.ndarray) -> np.ndarray:
    """Pictures through the autoencoder and back, uint8 RGB."""
    return through_autoencoder(model, pictures, 0.0, seed=0)


@torch.no_grad()
def through_autoencoder(autoencoder: AutoencoderKL, pictures: np.ndarray, noise: float, *, seed: int) -> np.ndarray:
    """Pictures, uint8 RGB, through the autoencoder; half of them get up to `noise` on their latents."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for start in range(0, len(pictures), 64):
        latents = autoencoder.encode(to_pixels(pictures[start : start + 64])).latent_dist.mean
        strength = noise * torch.rand((len(latents), 1, 1, 1), generator=generator) / autoencoder.config.scaling_factor
        strength = strength * (torch.rand(strength.shape, generator=generator) < 0.5)
        noised = latents + strength * torch.randn(latents.shape, generator=generator)
        parts.append(to_pictures(autoencoder.decode(noised).sample))
    return np.concatenate(parts)


def some_through_autoencoder(
    autoencoder: AutoencoderKL, pictures: np.ndarray, rng: np.random.Generator, *, share: float, noise: float, seed: int
) -> None:
    """Replace a share of pictures by what the autoencoder makes of them (see through_autoencoder), in place."""
    through = np.flatnonzero(rng.random(len(pictures)) < share)
    if len(through):
        pictures[through] = through_autoencoder(autoencoder, pictures[through], noise, seed=seed)
