"""Optimisers and learning-rate schedules by name.

Place on the path of data: under training/trainer.py.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch

from ..errors import ExtraMissing, UsageError
from .config import TrainingConfig

FINAL_SHARE = 0.1  # of the learning rate, where the cosine ends


def make_optimizer(parameters: Iterable[torch.nn.Parameter], config: TrainingConfig) -> torch.optim.Optimizer:
    """The optimiser that a config names.

    "adafactor": factored second moments, with steps of the learning rate given. "adamw8bit": AdamW with its moments in
    8 bits, of bitsandbytes.
    Raises ExtraMissing without the extra `8bit`, UsageError where bitsandbytes has no device to run on.
    """
    if config.optimizer == "adamw":
        return torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay, fused=True)
    if config.optimizer == "adafactor":
        # torch also scales a step by the size of the weights, at least 1e-3: those that start at zero would stay there.
        return torch.optim.Adafactor(parameters, lr=config.lr, eps=(None, 1.0), weight_decay=config.weight_decay)
    try:
        import bitsandbytes
    except ImportError:
        raise ExtraMissing("bitsandbytes", "8bit") from None
    parameters = list(parameters)
    if parameters[0].device.type == "cpu":
        raise UsageError(
            "The optimiser adamw8bit needs a GPU; this run is on the CPU.",
            hint="Use --set prompt.training.optimizer=adamw.",
        )
    optimizer: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(
        parameters, lr=config.lr, weight_decay=config.weight_decay
    )
    return optimizer


def schedule(step: int, config: TrainingConfig) -> float:
    """Share of the learning rate at a step: a linear warm-up, then all of it, or a cosine down to FINAL_SHARE."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    if config.schedule == "constant_with_warmup":
        return 1.0
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    return FINAL_SHARE + (1 - FINAL_SHARE) * 0.5 * (1 + math.cos(math.pi * done))
