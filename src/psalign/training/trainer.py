"""Trains an adapter by an objective: on captions, or on pairs of pictures with one UNet as policy and reference.

Place on the path of data: from SAGE rows to adapter weights. Runs on accelerate, in one process or many; a run that is
killed goes on from its last checkpoint and ends with the same weights.
"""

from __future__ import annotations

import math
import resource
import shutil
import signal
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..adapter.adapter import PSAAdapter
from ..adapter.checkpoint import save_adapter
from ..adapter.guard import AttachedAdapter
from ..adapter.prompt import PromptAdapter
from ..diffusion.shards import Shard
from ..errors import CheckpointError, OutputError, TrainingError, TrainingStopped
from ..files import write_json
from ..progress import Progress
from .caption_objective import CaptionObjective
from .captions import Captions
from .checkpoints import load_newest, random_states, save_checkpoint, set_random_states
from .config import TrainingConfig
from .identity import RunIdentity
from .log import Log
from .objective import Objective, ReferenceErrors, figure_cells
from .optimizer import make_optimizer, schedule
from .pairs import Pairs
from .validation import Validation, by_cell, cell_columns

BEST = "best.json"  # beside adapter_best
SPEED = ("lr", "grad_norm", "pairs_per_s", "peak_memory_mb")
FIRST_SCALE = 2.0**8  # of the loss in fp16, which grows while nothing overflows
SMALLEST_SCALE = 2.0**-10  # below it nothing is left of the gradient


class Trainer:
    """One training run in a folder: checkpoints/, log.csv, val.csv, validation/, adapter/, adapter_best/."""

    def __init__(
        self,
        objective: Objective | CaptionObjective,
        pairs: Pairs | Captions,
        config: TrainingConfig,
        out: Path,
        *,
        data: Mapping[str, str],
        validation: Validation | None = None,
    ) -> None:
        """objective: of the adapter to train. pairs: rows that it learns from. data: fingerprints of what is trained
        on, by what it is: users, rows and UNet."""
        self.objective: Any = objective  # which goes with its own kind of rows
        self.pairs: Any = pairs
        self.config, self.out, self.validation = config, out, validation
        # Precision and accumulation are our own: accelerate's Accelerator has one setting of them, and one kind of
        # device, for all the life of a process, and divides the loss too.
        self.device = objective.device  # which may be another GPU than the one accelerate takes first
        self.shard = Shard(str(self.device))
        self.trained = objective.adapter.requires_grad_(True).float()
        self.parameters = [weight for weight in self.trained.parameters() if weight.requires_grad]
        self.optimizer = make_optimizer(self.parameters, config)
        self.scaler = torch.amp.GradScaler(
            self.device.type, init_scale=FIRST_SCALE, enabled=config.mixed_precision == "fp16"
        )
        self.average = [weight.detach().clone() for weight in self.parameters] if config.ema else []
        self.reference = ReferenceErrors(len(pairs), config.reference_draws) if config.reference_draws else None
        self.pairs_per_step = config.batch_size * config.accumulation * self.shard.count
        # Without diffusers' own entries: one of them is a list in the order of a set, another in every process.
        shape = {name: value for name, value in self.trained.config.items() if not name.startswith("_")}
        self.identity = RunIdentity(config, self.pairs_per_step, shape, data, self.shard.count)
        self.step, self.best = 0, math.inf
        self.window = _Window(len(objective.figures))
        folder = out / "tensorboard" if config.tensorboard and self.is_main else None
        self.log = Log(out / "log.csv", (*objective.figures, *SPEED, *cell_columns()), tensorboard=folder)
        self.val_log = Log(out / "val.csv", validation.columns if validation else (), tensorboard=folder)

    @property
    def attached(self) -> AttachedAdapter | None:
        """The adapter on the UNet; None where it is trained beside it."""
        attached: AttachedAdapter | None = self.objective.attached
        return attached

    @property
    def is_main(self) -> bool:
        """Whether this is the process that writes files."""
        return self.shard.is_first

    def train(self) -> PSAAdapter:
        """Take the steps that are left and write the adapter.

        Raises TrainingError where the loss or its gradient is not finite, TrainingStopped after a SIGTERM, once a
        checkpoint is written.
        """
        self._resume()
        self.trained.train()
        bar = Progress(total=self.config.steps, initial=self.step, desc="training", unit="step", mininterval=1,
                   disable=not self.is_main)  # fmt: skip
        with _sigterm() as stop_asked, bar:
            while self.step < self.config.steps:
                stop = self._take_step(stop_asked.is_set())
                bar.update()
                if self._is_due(self.config.log_every):
                    bar.set_postfix(loss=f"{self._write_window():.3f}", refresh=False)
                if self._is_due(self.config.validate_every):
                    self._validate()
                if self._is_due(self.config.save_every) or stop:
                    self._save()
                if stop and self.step < self.config.steps:
                    raise TrainingStopped(
                        f"Stopped by SIGTERM after step {self.step}, which is saved in {self.out / 'checkpoints'}.",
                        hint="Run the same command again: it goes on from there.",
                    )
        self.log.close()
        self.val_log.close()
        self.trained.eval()
        if isinstance(self.trained, PromptAdapter):
            self.trained.is_sharp = True
        with self._averaged():
            if self.is_main:
                save_adapter(self.trained, self.out / "adapter")
        self._use_average()
        self.shard.wait()
        return self.trained

    # --- a step -------------------------------------------------------------------------------------------------------

    def _take_step(self, stop: bool = False) -> bool:
        """One step of the optimiser. Returns whether any process was asked to stop."""
        started = time.perf_counter()
        lr = self.config.lr * schedule(self.step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.zero_grad(set_to_none=True)
        if isinstance(self.trained, PromptAdapter):
            self.trained.is_sharp = self.step >= self.config.soft_steps
        plan = self.pairs.plan(self.step, size=self.pairs_per_step, config=self.config)
        figures, cells, reference = self._gradients(plan)
        stopped, figures, cells, reference = self._together(stop, figures, cells, reference)
        if self.reference is not None:
            self.reference.store(plan, reference)
        norm = self._apply(plan)
        self.step += 1
        seconds = time.perf_counter() - started
        self.window.add(figures, cells, {"lr": lr, "grad_norm": norm, "seconds": seconds})
        return stopped

    def _gradients(self, plan: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Gradients of this process's part of a step; the parts of all processes and passes add up to the step's mean.

        Returns the objective's figures; pairs ranked rightly and seen, [2, figure_cells()]; and the reference's
        errors of the step's pairs, [G, 2], where they are kept: 0 for those of other processes.
        """
        totals = self.objective.totals(plan, self.pairs)
        figures = torch.zeros(len(self.objective.figures), device=self.device)
        cells = torch.zeros(2, len(figure_cells()), device=self.device)
        reference = torch.zeros(0 if self.reference is None else len(plan), 2, device=self.device)
        for turn in range(self.config.accumulation):
            index = turn * self.shard.count + self.shard.index
            part = plan.part(index, self.config.batch_size)
            batch = self.pairs.batch(part, seed=self.config.seed).to(self.device)
            known = self.reference.look_up(part) if self.reference is not None else None
            outcome = self.objective(batch, totals, known)
            if self.reference is not None:
                reference[index * self.config.batch_size :][: len(part)] = outcome.reference
            if not math.isfinite(outcome.loss.item()):
                raise TrainingError(
                    f"The loss of step {self.step} is {outcome.loss.item()}; "
                    f"its rows are {self.pairs.row_numbers(part)}.",
                    hint="Lower training.lr, or look at these rows of metadata.jsonl.",
                )
            self.scaler.scale(outcome.loss).backward()
            figures += outcome.figures
            cells += torch.stack([outcome.right, outcome.seen])
        return figures, cells, reference

    def _together(
        self, stop: bool, figures: torch.Tensor, cells: torch.Tensor, reference: torch.Tensor
    ) -> tuple[bool, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Sums over all processes: gradients, figures, and whether anyone was asked to stop, in one message.

        With them go the reference's errors: a pair may be another process's the next time, and after a resume all
        processes know what the first one had saved.
        """
        if self.shard.count == 1:
            return stop, figures.cpu(), cells.cpu(), reference.cpu()
        for weight in self.parameters:
            if weight.grad is None:
                weight.grad = torch.zeros_like(weight)
        stops = torch.tensor([float(stop)], device=self.device)
        gradients = [weight.grad for weight in self.parameters if weight.grad is not None]
        parts = [*gradients, reference, figures, cells, stops]
        summed = self.shard.sum(torch.cat([part.flatten().float() for part in parts]))
        back = [
            piece.view_as(part) for piece, part in zip(summed.split([p.numel() for p in parts]), parts, strict=True)
        ]
        for weight, gradient in zip(self.parameters, back, strict=False):
            weight.grad = gradient
        return bool(back[-1] > 0), back[-3].cpu(), back[-2].cpu(), back[-4].cpu()

    def _apply(self, plan: Any) -> float:
        """Clip (where clip is above 0) and take the step. Returns the gradient's norm before clipping."""
        self.scaler.unscale_(self.optimizer)
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, self.config.clip or math.inf))
        if not math.isfinite(norm) and (not self.scaler.is_enabled() or self.scaler.get_scale() < SMALLEST_SCALE):
            raise TrainingError(
                f"The gradient of step {self.step} is not finite; its rows are {self.pairs.row_numbers(plan)}.",
                hint="Lower training.lr, or look at these rows of metadata.jsonl.",
            )
        self.scaler.step(self.optimizer)  # in fp16, a gradient that overflowed is left out and the scale lowered
        self.scaler.update()
        if self.average:
            with torch.no_grad():
                torch._foreach_lerp_(self.average, self.parameters, 1 - self.config.ema)
        return norm

    # --- reporting ---------------------------------------------------------------------------------------------------

    def _is_due(self, every: int) -> bool:
        return self.step == self.config.steps or bool(every and self.step % every == 0)

    def _write_window(self) -> float:
        """Log the mean over the steps since the last line. Returns its loss."""
        known = dict(zip(self.objective.figures, self.window.figures.tolist(), strict=True))
        shown = {name: value for name, value in known.items() if name in self.objective.figures_in_play}
        figures = self.window.means(self.pairs_per_step, shown)
        self.window = _Window(len(known))
        if self.is_main:
            self.log.add(self.step, {**figures, "peak_memory_mb": peak_memory_mb(self.device)})
        return float(figures["loss"])

    def _validate(self) -> None:
        """Measure, draw, and keep the adapter where its loss is the lowest so far; the first process alone."""
        if self.validation is None:
            return
        self.trained.eval()
        if self.is_main:
            with self._averaged():
                figures = self.validation.measure(self.objective)
                if self.attached is not None:
                    self.validation.draw(self.attached, self.step)
                if figures["loss"] < self.best:
                    self.best = figures["loss"]
                    save_adapter(self.trained, self.out / "adapter_best")
                    write_json(self.out / BEST, {"step": self.step, "loss": self.best})
            self.val_log.add(self.step, figures)
        self.shard.wait()
        self.trained.train()

    @contextmanager
    def _averaged(self) -> Iterator[None]:
        """Within it the adapter's weights are their moving average, where one is kept."""
        kept = [weight.detach().clone() for weight in self.parameters] if self.average else []
        self._use_average()
        try:
            yield
        finally:
            for weight, own in zip(self.parameters, kept, strict=False):
                weight.data.copy_(own)

    def _use_average(self) -> None:
        for weight, mean in zip(self.parameters, self.average, strict=False):
            weight.data.copy_(mean)

    # --- going on -----------------------------------------------------------------------------------------------------

    def _save(self) -> None:
        states = self.shard.gather([random_states()])
        if self.is_main:
            state = {
                "run": self.identity.name,
                "step": self.step,
                "adapter": self.trained.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scaler": self.scaler.state_dict(),
                "average": self.average,
                "reference": None if self.reference is None else self.reference.errors,
                "best": self.best,
                "window": vars(self.window),
                "random": states,
            }
            save_checkpoint(self.out / "checkpoints", state, step=self.step, keep=self.config.keep)
        self.shard.wait()

    def _resume(self) -> None:
        self.identity.require_same(self.out)
        state = load_newest(self.out / "checkpoints", run=self.identity.name)
        if state is None:
            if (self.out / "adapter").exists():
                raise OutputError(
                    f"{self.out} holds an adapter but no checkpoint of its run.",
                    hint=f"Move {self.out / 'adapter'} away to train it again, or choose another --out.",
                )
        else:
            self._take_over(state)
        if self.is_main:
            if state is None:
                self._remove_unsaved()
            self.identity.write(self.out)
            self.log.open(step=self.step)
            if self.validation is not None:
                self.val_log.open(step=self.step)
        self.shard.wait()

    def _remove_unsaved(self) -> None:
        """Remove what a run that ended before its first checkpoint found best: it may have had other settings."""
        if (self.out / BEST).is_file() and (self.out / "adapter_best").is_dir():
            shutil.rmtree(self.out / "adapter_best")
            (self.out / BEST).unlink()

    def _take_over(self, state: dict[str, Any]) -> None:
        self.trained.load_state_dict(state["adapter"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(state["scaler"])
        self.average = [mean.to(self.device) for mean in state["average"]]
        if self.reference is not None:
            self.reference.errors = state["reference"]
        self.step, self.best = state["step"], state["best"]
        if self.step > self.config.steps:
            raise CheckpointError(
                f"{self.out} has taken {self.step} steps already; expected at most the {self.config.steps} asked for.",
                hint=f"Give --steps {self.step} or more, or train anew into another --out.",
            )
        vars(self.window).update(state["window"])
        own = state["random"]
        if self.shard.index < len(own):
            set_random_states(own[self.shard.index])


class _Window:
    """Sums over the steps since the last line of the log."""

    def __init__(self, figures: int) -> None:
        self.steps = 0
        self.figures = torch.zeros(figures)
        self.cells = torch.zeros(2, len(figure_cells()))
        self.others: dict[str, float] = {}

    def add(self, figures: torch.Tensor, cells: torch.Tensor, others: dict[str, float]) -> None:
        self.steps += 1
        self.figures, self.cells = self.figures + figures, self.cells + cells
        self.others = {name: self.others.get(name, 0.0) + value for name, value in others.items()}

    def means(self, pairs_per_step: int, sums: dict[str, float]) -> dict[str, float]:
        """Means of the figures whose sums are given, of what else is logged, and of the cells."""
        figures = {name: value / self.steps for name, value in sums.items()}
        others = {name: value / self.steps for name, value in self.others.items()}
        others["pairs_per_s"] = pairs_per_step / max(others.pop("seconds"), 1e-9)
        return {**figures, **others, **by_cell(*self.cells)}


def peak_memory_mb(device: torch.device) -> float:
    """The most memory this process has held: of its GPU, or, where it trains on none, of the machine."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    status = Path("/proc/self/status")
    if status.is_file():  # getrusage would also count what the process was forked from
        held_kb = next(line.split()[1] for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return round(int(held_kb) * 1024 / 1e6, 1)
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


@contextmanager
def _sigterm() -> Iterator[threading.Event]:
    """An event that a SIGTERM sets, instead of ending the process; in the main thread alone."""
    stops = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stops
        return
    before = signal.signal(signal.SIGTERM, lambda *_: stops.set())
    try:
        yield stops
    finally:
        signal.signal(signal.SIGTERM, before)
