"""Baselines ESD-x and ESD-u: a UNet fine-tuned, through its own frozen self, not to draw a concept.

Place on the path of data: an alternative to steps 3 to 5. No pictures are needed: the frozen UNet is the teacher.

Source: Gandikota et al. 2023, arXiv:2303.07345, equations 5 to 7. With the frozen noise e and the trained one e',

    target = e(x_t) - eta * (e(x_t, c) - e(x_t)),     loss = |e'(x_t, c) - target|^2

ESD-x trains the cross-attentions, ESD-u all other weights. x_t lies on a way from noise to a picture of c.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..config import check_range
from ..errors import UsageError
from .denoiser import Condition, encode, predict
from .steps import Loss, Place, StepsConfig, generator_of, take_steps

CROSS = ".attn2."  # in the names of weights of cross-attentions


@dataclass(frozen=True)
class EsdConfig(StepsConfig):
    """templates: texts that say a phrase, {} is its place. eta: how far the target points away from the concept.
    guidance, sampling_steps: of the sampled trajectories from noise to pictures. ways: trajectories sampled for an
    expert. merge: in the personal form, the factor of each expert's change of the weights."""

    templates: tuple[str, ...] = ("{}",)
    eta: float = 1.0
    guidance: float = 3.0
    sampling_steps: int = 50
    ways: int = 32
    merge: float = 1.0

    def __post_init__(self) -> None:
        """Raises UsageError for a value that makes no sense."""
        super().__post_init__()
        if not self.templates or any("{}" not in template for template in self.templates):
            raise UsageError("templates must be texts with {} for the phrase, at least one.")
        check_range("sampling_steps", self.sampling_steps, 1, 1000)
        check_range("ways", self.ways, 1)
        check_range("eta", self.eta, 0, above=True)
        check_range("merge", self.merge, 0)


def trained_names(unet: Any, *, cross: bool) -> list[str]:
    """Names of the weights that ESD-x trains (cross) or ESD-u (all others)."""
    return [name for name, _ in unet.named_parameters() if (CROSS in name) == cross]


def esd_target(without: torch.Tensor, with_concept: torch.Tensor, eta: float) -> torch.Tensor:
    """What the trained UNet shall predict for the concept: away from it, from where no text leads."""
    return without - eta * (with_concept - without)


@dataclass(frozen=True, eq=False)
class Ways:
    """Noisy latents [W, S, C, H, W] on ways to pictures, the timesteps of their S places, and each way's text."""

    latents: torch.Tensor
    timesteps: torch.Tensor
    texts: Condition
    empty: Condition


@torch.no_grad()
def sample_ways(pipe: Any, phrases: Sequence[str], config: EsdConfig, *, ways: int) -> Ways:
    """Ways from noise to pictures of phrases, drawn by the frozen UNet with DDIM."""
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    scheduler.set_timesteps(config.sampling_steps)
    generator, unet = torch.Generator().manual_seed(config.seed), pipe.unet
    said = [template.format(phrase) for template in config.templates for phrase in phrases]
    order = torch.randperm(len(said), generator=generator).tolist()
    texts, empty = encode(pipe, [said[order[i % len(said)]] for i in range(ways)]), encode(pipe, [""])
    shape = (ways, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
    latents = torch.randn(shape, generator=generator).to(pipe._execution_device) * scheduler.init_noise_sigma
    places = []
    for timestep in scheduler.timesteps:
        places.append(latents.half().cpu())
        parts = []
        for start in range(0, ways, 32):
            rows = slice(start, start + 32)
            part = latents[rows]
            times = timestep.expand(len(part))
            plain = predict(pipe, part, times, empty[[0] * len(part)])
            prompted = predict(pipe, part, times, texts[rows])
            noise = plain + config.guidance * (prompted - plain)
            parts.append(scheduler.step(noise, timestep, part).prev_sample)
        latents = torch.cat(parts)
    return Ways(torch.stack(places, dim=1), scheduler.timesteps.cpu(), texts, empty)


def train_esd(
    pipe: Any, phrases: Sequence[str], config: EsdConfig, *, cross: bool, steps: int, place: Place
) -> dict[str, torch.Tensor]:
    """The weights that were trained so that the UNet draws none of the phrases, by the UNet's names.

    The UNet of the pipeline stays as it is. Raises as take_steps does.
    """
    own = dict(pipe.unet.named_parameters())
    trained = {
        name: own[name].detach().float().clone().requires_grad_() for name in trained_names(pipe.unet, cross=cross)
    }
    ways = sample_ways(pipe, phrases, config, ways=config.ways * (steps // config.steps))
    take_steps(list(trained.values()), _loss(pipe, ways, trained, config), config, steps, place)
    return {name: weight.detach().to(own[name].dtype) for name, weight in trained.items()}


def _loss(pipe: Any, ways: Ways, trained: dict[str, torch.Tensor], config: EsdConfig) -> Loss:
    count, places = ways.latents.shape[:2]

    def loss(step: int) -> torch.Tensor:
        generator = generator_of(config.seed, step)
        rows = torch.randint(count, (config.batch_size,), generator=generator)
        at = torch.randint(places, (config.batch_size,), generator=generator)
        latents = ways.latents[rows, at].float().to(pipe._execution_device)
        times, text = ways.timesteps[at], ways.texts[rows]
        with torch.no_grad():
            plain = predict(pipe, latents, times, ways.empty[[0] * len(rows)])
            prompted = predict(pipe, latents, times, text)
        weights = {name: weight.to(pipe.unet.dtype) for name, weight in trained.items()}
        predicted = predict(pipe, latents, times, text, weights=weights)
        return (predicted - esd_target(plain, prompted, config.eta)).square().mean()

    return loss
