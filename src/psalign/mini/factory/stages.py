"""One training stage of a mini model: a fixed number of seeded steps that goes on where it was interrupted.

Place on the path of data: under the trainings of mini/factory/.
"""

from __future__ import annotations

import copy
import io
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from ...errors import CheckpointError
from ...files import write_bytes, write_json
from ...fingerprints import file_fingerprint, fingerprint
from ...progress import Progress
from ...tensors import read_pickled


def write_record(folder: Path, command: str, config: Any, seconds: Any, **more: Any) -> None:
    """Write folder/training.json: how the weights of a folder were made, and their digests.

    command: of `psalign mini`. config: a dataclass. more: other entries.
    """
    weights = sorted(folder.rglob("*.safetensors"))
    record = {
        "command": f"psalign mini {command}",
        "config": asdict(config),
        **more,
        "seconds": seconds,
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "sha256": {str(path.relative_to(folder)): file_fingerprint(path) for path in weights},
    }
    write_json(folder / "training.json", record)


class Stage:
    """Trains modules with AdamW, warm-up and cosine decay; they end with the moving average of their weights.

    steps: the number of steps. A checkpoint is written every `save_every` steps and never removed, so a
    finished stage is not run again. made_of: all else that decides the weights; a checkpoint made of
    something else is refused.
    """

    save_every = 250
    warmup_steps = 100
    decay = 0.998  # of the moving average
    weight_decay = 0.01

    def __init__(
        self,
        name: str,
        modules: dict[str, torch.nn.Module],
        *,
        steps: int,
        lr: float,
        seed: int,
        made_of: Sequence[object] = (),
    ) -> None:
        self.run_name = fingerprint([steps, lr, seed, self.weight_decay, *made_of])
        self.name, self.steps, self.lr, self.seed = name, steps, lr, seed
        self.model = torch.nn.ModuleDict(modules)
        self.average = copy.deepcopy(self.model).requires_grad_(False)
        weights, decay = self.model.parameters(), self.weight_decay
        self.optimizer = torch.optim.AdamW(weights, lr=lr, weight_decay=decay, fused=True)
        self.step, self.seconds = 0, 0.0

    def run(self, loss: Callable[[int, torch.Generator], torch.Tensor], *, work: Path) -> float:
        """Take the steps that are left. Returns seconds.

        loss: called with (step, generator), from which it must draw all its randomness.
        """
        path = work / f"{self.name}.pt"
        if path.exists():
            self._load(path)
        self.model.train()
        bar = Progress(total=self.steps, initial=self.step, desc=self.name, mininterval=5)
        shown = math.nan
        while self.step < self.steps:
            started = time.perf_counter()
            value = loss(self.step, torch.Generator().manual_seed(self.seed * 1_000_003 + self.step))
            self._update(value)
            shown = value.item() if math.isnan(shown) else 0.98 * shown + 0.02 * value.item()
            self.seconds += time.perf_counter() - started
            bar.update()
            bar.set_postfix(loss=f"{shown:.4f}", refresh=False)
            if self.step % self.save_every == 0 or self.step == self.steps:
                self._save(path)
        bar.close()
        self.model.load_state_dict(self.average.state_dict())
        return self.seconds

    def _update(self, value: torch.Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr * self._schedule()
        self.optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        decay = min(self.decay, (1 + self.step) / (10 + self.step))
        with torch.no_grad():
            for mean, weight in zip(self.average.parameters(), self.model.parameters(), strict=True):
                mean.lerp_(weight, 1 - decay)
            for kept, buffer in zip(self.average.buffers(), self.model.buffers(), strict=True):
                kept.copy_(buffer)

    def _schedule(self) -> float:
        if self.step < self.warmup_steps:
            return (self.step + 1) / self.warmup_steps
        done = (self.step - self.warmup_steps) / max(1, self.steps - self.warmup_steps)
        return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * done))

    def _save(self, path: Path) -> None:
        state = {
            "run": self.run_name,
            "model": self.model.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "step": self.step,
            "seconds": self.seconds,
        }
        stream = io.BytesIO()
        torch.save(state, stream)
        write_bytes(path, stream.getvalue())

    def _load(self, path: Path) -> None:
        state = read_pickled(path, hint="Remove that file and run the same command again.")
        if not isinstance(state, dict) or state.get("run") != self.run_name:
            raise CheckpointError(
                f"{path} is a checkpoint of other settings, drawings or weights than this run's.",
                hint="Choose another --work, or remove that file.",
            )
        self.model.load_state_dict(state["model"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["step"], state["seconds"]
