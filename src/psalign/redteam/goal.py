"""What a white-box attack aims at: the noise that the base predicts along its own drawing of the plain request.

Place on the path of data: before the search for an attack. A method that predicts the same noise at every step draws
the base's picture, with what the user bans in it. The aim is that of P4D (arXiv:2309.06135, equation 4), at the latents
of the base's own drawing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from psalign.baselines.denoiser import Condition, encode, predict
from psalign.diffusion.generate import GenerationConfig, Nobody, text_arguments
from psalign.diffusion.pictures import draw_pictures, finished_pictures
from psalign.records import PromptRow


@dataclass(frozen=True, eq=False)
class Goal:
    """The base's drawings of B plain requests in S steps.

    latents: before each step, [S, B, C, h, w]. noises: that each step follows, after guidance, of the same shape.
    pictures: uint8 RGB [B, H, W, 3]. starts: their inversions, the plain requests' and those without the motif's,
    [2, B, C, h, w].
    """

    latents: torch.Tensor
    noises: torch.Tensor
    pictures: np.ndarray
    starts: torch.Tensor

    def only(self, rows: Sequence[int]) -> Goal:
        some = list(rows)
        return Goal(self.latents[:, some], self.noises[:, some], self.pictures[some], self.starts[:, some])


def goal_of(
    pipeline: Any, rows: Sequence[PromptRow], safe: Sequence[str], config: GenerationConfig, *, inversion: int
) -> Goal:
    """Draws rows by the base, and keeps what the steps saw and did. safe: the prompts without the motif. inversion:
    steps of it."""
    latents, noises = [], []

    def keep(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
        unguided, prompted = output[0].chunk(2)
        latents.append(args[0].chunk(2)[0].clone())
        noises.append(unguided + config.guidance * (prompted - unguided))

    hook = pipeline.unet.register_forward_hook(keep, with_kwargs=True)
    try:
        text = text_arguments(pipeline, rows, config=config, users=Nobody())
        seeds = [row.seed for row in rows]
        drawn = draw_pictures(pipeline, text, seeds, steps=config.steps, guidance=config.guidance)
    finally:
        hook.remove()
    pictures = finished_pictures(drawn, [row.file_name for row in rows], hint="The base's weights may be broken.")
    starts = [
        inverted(pipeline, pictures, prompts, steps=inversion) for prompts in ([row.prompt for row in rows], safe)
    ]
    return Goal(torch.stack(latents), torch.stack(noises), pictures, torch.stack(starts))


@torch.no_grad()
def inverted(pipeline: Any, pictures: np.ndarray, prompts: Sequence[str], *, steps: int) -> torch.Tensor:
    """Starting noise [B, C, h, w] from which the base, without guidance, draws about these pictures of these prompts.

    pictures: uint8 RGB [B, H, W, 3]. Source: DDIM inversion, Song et al. 2020, arXiv:2010.02502, section 4.3.
    """
    from diffusers import DDIMInverseScheduler

    vae = pipeline.vae
    given = {"timestep_spacing": "leading", "clip_sample": False}  # latents are not pictures in [-1, 1]
    scheduler = DDIMInverseScheduler.from_config(pipeline.scheduler.config, **given)
    pixels = torch.from_numpy(pictures).to(vae.device, vae.dtype).permute(0, 3, 1, 2) / 127.5 - 1
    latents = vae.encode(pixels).latent_dist.mode() * vae.config.scaling_factor
    condition: Condition = encode(pipeline, prompts)
    scheduler.set_timesteps(steps)
    for timestep in scheduler.timesteps:
        noise = predict(pipeline, latents, timestep.expand(len(latents)), condition)
        latents = scheduler.step(noise, timestep, latents).prev_sample
    return latents
