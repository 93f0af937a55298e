"""Trains an adapter with Diffusion-DPO: one UNet, with the adapter bypassed for the reference.

Place on the path of data: from SAGE pairs to adapter weights. Runs on accelerate; a run that is killed goes on from its
last checkpoint and ends with the same weights.
"""

from __future__ import annotations

import math
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from ..adapter.adapter import PSAAdapter
from ..adapter.checkpoint import save_adapter
from ..adapter.condition import KEY, Condition
from ..adapter.guard import AttachedAdapter
from ..errors import ExtraMissing, OutputError, TrainingError, UsageError
from ..records import fingerprint, write_csv, write_json
from .checkpoints import load_newest, save_checkpoint
from .loss import diffusion_dpo_loss, squared_error
from .pairs import PairBatch, Pairs


@dataclass(frozen=True)
class TrainingConfig:
    """How an adapter is trained.

    dpo_weight, beta: of the preference loss.
    anchor: what the policy's prediction on the chosen picture is held to, times anchor_weight: "noise" (its denoising
    error), or "caption" (the base's own prediction for the caption that tells that picture).
    caption_dropout, user_dropout: shares of rows. timesteps: drawn from [low, high).
    rewritten_share: share of a batch for which something is to be taken away; None: as the dataset has it.
    tensorboard: also log to out/tensorboard (needs the extra of that name).
    """

    steps: int = 800
    batch_size: int = 16
    lr: float = 1e-3
    warmup_steps: int = 50
    weight_decay: float = 0.01
    clip: float = 1.0
    dpo_weight: float = 1.0
    beta: float = 1000.0
    anchor: str = "noise"
    anchor_weight: float = 200.0
    caption_dropout: float = 0.1
    user_dropout: float = 0.1
    timesteps: tuple[int, int] = (0, 1000)
    rewritten_share: float | None = None
    accumulation: int = 1
    mixed_precision: str = "no"
    save_every: int = 200
    keep: int = 2
    log_every: int = 10
    tensorboard: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        for name, choices in (("anchor", ("noise", "caption")), ("mixed_precision", ("no", "bf16"))):
            if getattr(self, name) not in choices:
                raise UsageError(f"Unknown {name} '{getattr(self, name)}'; choose one of: {', '.join(choices)}.")
        for name in ("steps", "batch_size", "lr", "accumulation", "save_every", "keep", "log_every"):
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"training.{name} must be more than 0 and finite; saw {getattr(self, name)}.")
        for name in ("beta", "dpo_weight", "anchor_weight", "weight_decay", "clip", "warmup_steps"):
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"training.{name} must be at least 0 and finite; saw {getattr(self, name)}.")
        for name in ("caption_dropout", "user_dropout", "rewritten_share"):
            if not 0 <= (getattr(self, name) or 0.0) <= 1:
                raise UsageError(f"training.{name} must be between 0 and 1; saw {getattr(self, name)}.")
        if len(self.timesteps) != 2 or not 0 <= self.timesteps[0] < self.timesteps[1] <= 1000:
            raise UsageError(f"training.timesteps must be [low, high) within 0 and 1000; saw {list(self.timesteps)}.")
        if not self.dpo_weight and not self.anchor_weight:
            raise UsageError("training.dpo_weight and training.anchor_weight are both 0: there is nothing to learn.")


class Trainer:
    """One training run in a folder: checkpoints/, log.csv, adapter/."""

    def __init__(
        self,
        attached: AttachedAdapter,
        pairs: Pairs,
        noise_scheduler: Any,
        config: TrainingConfig,
        out: Path,
        *,
        data: str,
    ) -> None:
        from accelerate import Accelerator

        self.attached, self.pairs, self.config, self.out = attached, pairs, config, out
        # Precision and accumulation are our own: accelerate's are one setting per process, and divide the loss too.
        self.accelerator = Accelerator(cpu=attached.unet.device.type == "cpu")
        if self.accelerator.num_processes > 1:
            raise UsageError(f"Training runs in one process; saw {self.accelerator.num_processes}.")
        self.alphas = noise_scheduler.alphas_cumprod.to(self.accelerator.device)
        adapter = attached.adapter.requires_grad_(True).float()
        self.trained = adapter
        self.optimizer = torch.optim.AdamW(adapter.parameters(), lr=config.lr, weight_decay=config.weight_decay)
        # Without diffusers' own entries: one of them is a list in the order of a set, another in every process.
        shape = {name: value for name, value in adapter.config.items() if not name.startswith("_")}
        self.run_name = fingerprint({"config": asdict(config), "adapter": shape, "data": data})
        self.step = 0
        self.log: list[dict[str, float]] = []
        self.writer = _tensorboard(out / "tensorboard") if config.tensorboard else None

    def train(self) -> PSAAdapter:
        """Take the steps that are left and write the adapter. Raises TrainingError where the loss is not finite."""
        self._resume()
        self.attached.adapter.train()
        bar = tqdm(total=self.config.steps, initial=self.step, desc="training", unit="step", mininterval=1)
        while self.step < self.config.steps:
            started = time.perf_counter()
            figures = self._take_step()
            figures["pairs_per_s"] = self.config.batch_size * self.config.accumulation / (time.perf_counter() - started)
            self._record(figures)
            bar.update()
            bar.set_postfix(loss=f"{figures['loss']:.3f}", refresh=False)
            if self.step % self.config.save_every == 0 or self.step == self.config.steps:
                self._save()
        bar.close()
        self._write_log()
        if self.writer is not None:
            self.writer.close()
        self.attached.adapter.eval()
        save_adapter(self.attached.adapter, self.out / "adapter")
        return self.attached.adapter

    def _take_step(self) -> dict[str, float]:
        for group in self.optimizer.param_groups:
            group["lr"] = self.config.lr * self._schedule()
        self.optimizer.zero_grad(set_to_none=True)
        sums: dict[str, float] = {}
        for part in range(self.config.accumulation):
            batch = self._batch(self.step * self.config.accumulation + part)
            with torch.autocast(batch.noise.device.type, torch.bfloat16, enabled=self.config.mixed_precision == "bf16"):
                loss, figures = self.losses(batch)
            if not math.isfinite(loss.item()):
                raise TrainingError(
                    f"The loss of step {self.step} is {loss.item()}; its rows are {list(batch.rows)}.",
                    hint="Lower training.lr, or look at these rows of metadata.jsonl.",
                )
            self.accelerator.backward(loss / self.config.accumulation)
            for name, value in figures.items():
                sums[name] = sums.get(name, 0.0) + value / self.config.accumulation
        norm = torch.nn.utils.clip_grad_norm_(self.trained.parameters(), self.config.clip)
        if not math.isfinite(norm):
            raise TrainingError(
                f"The gradient of step {self.step} is not finite; its rows are {list(batch.rows)}.",
                hint="Lower training.lr, or look at these rows of metadata.jsonl.",
            )
        self.optimizer.step()
        self.step += 1
        return {**sums, "grad_norm": float(norm)}

    def losses(self, batch: PairBatch) -> tuple[torch.Tensor, dict[str, float]]:
        """The loss of a batch and the figures to log."""
        config, unet = self.config, self.attached.unet
        with_dpo = config.dpo_weight > 0
        latents = torch.cat([batch.chosen, batch.rejected]) if with_dpo else batch.chosen
        copies = 2 if with_dpo else 1
        noise, timesteps, states = (_copies(x, copies) for x in (batch.noise, batch.timesteps, batch.states))
        noisy = self._add_noise(latents, noise, timesteps)
        condition = self._condition(batch, copies)
        predicted = unet(noisy, timesteps, states, cross_attention_kwargs={KEY: condition}).sample
        errors = squared_error(predicted, noise)
        loss = predicted.new_zeros((), dtype=torch.float32)
        figures: dict[str, float] = {}
        pairs = len(batch.chosen)
        if with_dpo:
            reference = squared_error(self._base(noisy, timesteps, states), noise)
            kept = batch.with_user if batch.with_user.any() else torch.ones_like(batch.with_user)
            dpo, margins = diffusion_dpo_loss(
                (errors[:pairs][kept], errors[pairs:][kept]),
                (reference[:pairs][kept], reference[pairs:][kept]),
                beta=config.beta,
            )
            loss = loss + config.dpo_weight * dpo
            figures |= {
                "dpo": dpo.item(),
                "accuracy": (margins > 0).float().mean().item(),
                "margin": margins.mean().item(),
            }
        if config.anchor_weight:
            anchor = self._anchor(batch, noisy[:pairs], predicted[:pairs])
            loss = loss + config.anchor_weight * anchor
            figures["anchor"] = anchor.item()
        return loss, {"loss": loss.item(), "chosen_error": errors[:pairs].mean().item(), **figures}

    def _condition(self, batch: PairBatch, copies: int) -> Condition:
        """Rows without a user are the base.

        Kind `published` has a null user instead, the zero vector, and trains it.
        """
        vectors, present = batch.vectors, batch.with_user
        if self.attached.adapter.config.kind == "published":
            vectors, present = vectors * present[:, None], torch.ones_like(present)
        scale = torch.ones(copies * len(present), device=vectors.device)
        return Condition(_copies(vectors, copies), _copies(present, copies), scale, owner=self.attached, guided=False)

    def _anchor(self, batch: PairBatch, noisy: torch.Tensor, predicted: torch.Tensor) -> torch.Tensor:
        """Mean squared error to the anchor over rows with a user; a trained null user is held to the base itself."""
        kept, target = batch.with_user, batch.noise
        null_user = self.attached.adapter.config.kind == "published"
        if self.config.anchor == "caption" or null_user:
            states = torch.where(kept[:, None, None], batch.own_states, batch.states)
            base = self._base(noisy, batch.timesteps, states)
            with_noise = kept[:, None, None, None] & (self.config.anchor == "noise")
            target = torch.where(with_noise, batch.noise, base)
        counted = torch.ones_like(kept) if null_user else kept
        return (squared_error(predicted, target) * counted).sum() / counted.sum().clamp(min=1)

    @torch.no_grad()
    def _base(self, noisy: torch.Tensor, timesteps: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
        """The noise that the UNet predicts with the adapter bypassed: the reference."""
        with self.attached.disabled():
            predicted: torch.Tensor = self.attached.unet(noisy, timesteps, states).sample
        return predicted

    def _add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        alpha = self.alphas[timesteps].view(-1, 1, 1, 1)
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise

    def _batch(self, number: int) -> PairBatch:
        config = self.config
        return self.pairs.batch(
            number,
            size=config.batch_size,
            seed=config.seed,
            caption_dropout=config.caption_dropout,
            user_dropout=config.user_dropout,
            timesteps=config.timesteps,
            rewritten_share=config.rewritten_share,
        ).to(self.accelerator.device)

    def _schedule(self) -> float:
        """Linear warm-up, then cosine to a tenth."""
        config = self.config
        if self.step < config.warmup_steps:
            return (self.step + 1) / config.warmup_steps
        done = (self.step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
        return 0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * done))

    def _record(self, figures: dict[str, float]) -> None:
        self.log.append({"step": self.step, **figures})
        if self.writer is not None:
            for name, value in figures.items():
                self.writer.add_scalar(f"training/{name}", value, self.step)
        if self.step % self.config.log_every == 0:
            self._write_log()

    def _write_log(self) -> None:
        write_csv(self.out / "log.csv", self.log)

    def _save(self) -> None:
        state = {
            "run": self.run_name,
            "step": self.step,
            "adapter": self.trained.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "log": self.log,
        }
        save_checkpoint(self.out / "checkpoints", state, step=self.step, keep=self.config.keep)

    def _resume(self) -> None:
        state = load_newest(self.out / "checkpoints", run=self.run_name)
        if state is None:
            if (self.out / "adapter").exists():
                raise OutputError(
                    f"{self.out} holds an adapter but no checkpoint of its run.", hint="Choose another --out."
                )
            write_json(self.out / "run.json", {"run": self.run_name, "config": asdict(self.config)})
            return
        self.trained.load_state_dict(state["adapter"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.log = state["step"], state["log"]


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ExtraMissing("tensorboard", "tensorboard") from None
    return SummaryWriter(str(folder))


def _copies(x: torch.Tensor, copies: int) -> torch.Tensor:
    return torch.cat([x] * copies) if copies > 1 else x
