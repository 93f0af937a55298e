"""Steps of an optimiser for a baseline: they go on from the last checkpoint, and end with the same weights as if they
had never been interrupted.

Place on the path of data: under the baselines that are trained, each of which says what the loss of a step is.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from ..config import check_range
from ..errors import TrainingError
from ..progress import Progress
from ..training.checkpoints import load_newest, save_checkpoint
from ..training.log import Log

Loss = Callable[[int], torch.Tensor]  # of a step by its number, from which all that is random in it is drawn


@dataclass(frozen=True)
class StepsConfig:
    """steps: of one expert; the static form has as many as all experts together. batch_size: rows of a step.
    clip: the most that a gradient's norm may be; 0: as it comes. save_every: steps between checkpoints."""

    steps: int = 1000
    batch_size: int = 1
    lr: float = 1e-5
    weight_decay: float = 0.0
    clip: float = 1.0
    save_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises UsageError for a value that makes no sense."""
        for name in ("steps", "batch_size", "save_every"):
            check_range(name, getattr(self, name), 1)
        check_range("lr", self.lr, 0, 1, above=True)
        for name in ("weight_decay", "clip", "seed"):
            check_range(name, getattr(self, name), 0)


@dataclass(frozen=True)
class Place:
    """Where a training keeps its state. run: fingerprint of all that decides its weights. name: for the progress."""

    folder: Path
    run: str
    name: str


def take_steps(
    parameters: Sequence[torch.Tensor], loss_of: Loss, config: StepsConfig, steps: int, place: Place
) -> None:
    """Train the parameters in place by `steps` steps of AdamW, from the last checkpoint on.

    Raises TrainingError where a loss is not finite, CheckpointError for checkpoints of another run.
    """
    optimizer = torch.optim.AdamW(parameters, lr=config.lr, weight_decay=config.weight_decay)
    state = load_newest(place.folder / "checkpoints", run=place.run)
    done = 0
    if state is not None:
        done = state["step"]
        optimizer.load_state_dict(state["optimizer"])
        with torch.no_grad():
            for parameter, value in zip(parameters, state["parameters"], strict=True):
                parameter.copy_(value)
    place.folder.mkdir(parents=True, exist_ok=True)
    log = Log(place.folder / "log.csv", ("loss",))
    log.open(step=done)
    bar = Progress(total=steps, initial=done, desc=place.name, unit="step", mininterval=1)
    with bar:
        for step in range(done, steps):
            optimizer.zero_grad(set_to_none=True)
            loss = loss_of(step)
            if not math.isfinite(loss.item()):
                raise TrainingError(f"The loss of step {step} of {place.name} is {loss.item()}.", hint="Lower lr.")
            loss.backward()
            if config.clip:
                torch.nn.utils.clip_grad_norm_(list(parameters), config.clip)
            optimizer.step()
            bar.update()
            log.add(step + 1, {"loss": loss.item()})
            if (step + 1) % config.save_every == 0 and step + 1 < steps:
                values = [parameter.detach().clone() for parameter in parameters]
                saved = {"run": place.run, "step": step + 1, "optimizer": optimizer.state_dict(), "parameters": values}
                save_checkpoint(place.folder / "checkpoints", saved, step=step + 1, keep=2)
    log.close()


def generator_of(seed: int, step: int) -> torch.Generator:
    """All that is random in a step, the same whenever it is run."""
    return torch.Generator().manual_seed((seed << 32) + step)
