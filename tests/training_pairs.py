"""Pairs and a trainer on a tiny UNet, without files."""

import torch
from torch import arange

from helpers import LLM_DIM, tiny_adapter, tiny_unet
from psalign.adapter.attach import attach
from psalign.sage.cache.store import Rows
from psalign.training.config import TrainingConfig
from psalign.training.objective import Objective
from psalign.training.pairs import SIDES, Pairs
from psalign.training.trainer import Trainer
from sage_rows import make_row


class Scheduler:
    alphas_cumprod = torch.linspace(0.999, 0.01, 1000)


class MemoryCache:
    """Random latents and states; the last caption is the empty one."""

    variants = ("plain", "degraded")

    def __init__(self, count, *, seed=0):
        generator = torch.Generator().manual_seed(seed)
        means = torch.randn((2 * count, 4, 8, 8), generator=generator)
        poor = means + 0.5 * torch.randn(means.shape, generator=generator)
        self.means = torch.cat([means, poor])
        self.latents = Rows.of(means=self.means, stds=torch.full_like(self.means, 0.1))
        self.texts = Rows.of(states=torch.randn((count + 1, 5, 16), generator=generator))
        self.pictures = {str(i): i for i in range(2 * count)}
        self.empty = count

    def rows_of(self, pictures, *, flipped, degraded):
        return pictures + degraded.astype(int) * len(self.pictures)


def make_pairs(count=12, *, seed=0):
    """Rows in turn banned (told by the next row's caption), allowed, and safe."""
    pairs = Pairs.__new__(Pairs)
    pairs.cache = MemoryCache(count, seed=seed)
    pairs.vectors = torch.randn((count, LLM_DIM), generator=torch.Generator().manual_seed(seed + 1))
    numbers = arange(count)
    pairs.bans = torch.nn.functional.one_hot(numbers % 7, 7).float()
    pairs.is_known = numbers % 4 > 0
    sides = numbers % len(SIDES)
    own = torch.where(sides == 0, (numbers + 1) % count, numbers)
    columns = [numbers, numbers + count, numbers, own, numbers, numbers % 7, sides]
    pairs.table = torch.stack(columns, dim=1).numpy()
    pairs.rows = [make_row(chosen=f"picture_{i}_s.jpg") for i in range(count)]
    return pairs


def new_trainer(out, *, kind="prompt", pairs=None, data="data", n_tokens=1, blocks=1, **settings):
    unet = tiny_unet(blocks=blocks).requires_grad_(False)
    attached = attach(unet, tiny_adapter(unet, kind, trained=False, n_tokens=n_tokens))
    config = TrainingConfig(
        **{"steps": 6, "batch_size": 4, "warmup_steps": 2, "save_every": 2, "log_every": 1, **settings}
    )
    return Trainer(Objective.of(attached, config, Scheduler()), pairs or make_pairs(), config, out, data={"rows": data})


def step_gradients(trainer):
    """The gradient of the trainer's next step, by weight."""
    plan = trainer.pairs.plan(trainer.step, size=trainer.pairs_per_step, config=trainer.config)
    trainer.optimizer.zero_grad(set_to_none=True)
    figures, _, reference = trainer._gradients(plan)
    if trainer.reference is not None:
        trainer.reference.store(plan, reference)
    named = {
        name: weight.grad.clone() for name, weight in trainer.trained.named_parameters() if weight.grad is not None
    }
    return figures, named


def randomise(adapter, *, seed=5, scale=0.2):
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in adapter.parameters():
            weight.add_(scale * torch.randn(weight.shape, generator=generator))
