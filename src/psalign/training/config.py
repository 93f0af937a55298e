"""How an adapter is trained: every setting of section `training` of a preset.

Place on the path of data: beside training/trainer.py.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass

from ..errors import UsageError
from ..files import Record

ANCHORS = ("noise", "caption")
OBJECTIVES = ("pictures", "captions")
QUERIES = ("samples", "noise", "words", "random")
LOSSES = ("sigmoid", "ipo")
OPTIMIZERS = ("adamw", "adamw8bit", "adafactor")
PRECISIONS = {"no": "fp32", "bf16": "bf16", "fp16": "fp16"}  # of the frozen UNet; the adapter stays in float32
SCHEDULES = ("cosine", "constant_with_warmup")
WEIGHTINGS = ("none", "min_snr")
# What may change between the starts of one run: none of it changes the weights.
WATCHING = ("keep", "save_every", "log_every", "validate_every", "validation_pairs", "validation_pictures",
            "tensorboard", "text_memory_gb", "compile", "gradient_checkpointing", "batch_size",
            "accumulation")  # fmt: skip
SOFT_SHARE, SOFT_WARMUPS = 0.4, 4  # of the steps; of a constant rate, in warm-ups


@dataclass(frozen=True)
class TrainingConfig:
    """How an adapter is trained.

    objective: "captions" (kind `prompt` alone: what the frozen cross-attentions read of the rewritten prompt and of the
    caption of the chosen picture; needs no picture and no pass of the UNet) or "pictures" (the losses below).
    batch_size: pairs in one forward pass of one process; accumulation: passes of one step.
    clip: the most that a gradient's norm may be; 0: as it comes.
    dpo_weight, beta, loss: of the preference loss, "sigmoid" (Diffusion-DPO) or "ipo".
    anchor: what the policy's prediction on the chosen picture is held to, times anchor_weight: "noise" (its denoising
    error), or "caption" (the base's own prediction for the caption of that picture).
    safe_anchor_weight: of holding the prediction for safe captions to the base's own for the same caption.
    visual_share, visual_weight: share of a step's pairs that are a safe picture and a poor rendering of it, and the
    weight of the preference loss on them.
    caption_dropout, user_dropout: shares of rows. timesteps: drawn from [low, high).
    timestep_weighting: "none", or "min_snr" with snr_gamma.
    rewritten_share: share of a step for which something is to be taken away; None: as the dataset has it.
    reference_draws: how many fixed draws of noise and timestep a pair has; the reference's errors are then computed
    once for each. 0: new draws for ever, and a reference pass in every step.
    ema: decay of a moving average of the weights, which is then what is saved; 0: none.
    validate_every: steps between validations on validation_pairs of split `val`, with a sheet of validation_pictures;
    0: at the end alone.
    tensorboard: also log to out/tensorboard (needs the extra of that name).

    Of objective "captions" alone:
    queries: with what the cross-attentions read: queries of the base's own pictures of safe captions ("samples"), of
    one pass on noise ("noise"), of random pixels ("random"), or of these with the keys of words of the captions added
    ("words"). The last two need no pass of the UNet, nor its other weights.
    queries_per_layer: queries that a cross-attention reads with in a step. layers_per_step: cross-attentions that read
    in a step; 0: all. spread_floor: errors of a cross-attention are divided by the variance of what it reads over
    captions, or by this share of the largest such variance, whichever is more; those below a tenth of that share are
    not read with. untouched_weight: of rows whose caption must stay as it is.
    match_weight: of the loss that asks the matcher for a match where a caption must change and for none elsewhere.
    list_dropout: share of rows whose ban list is hidden, so that the user's vector alone must do; all other rows go by
    the list. limit_share: share of rows with limits in words, where a dataset has rows of both kinds.
    noise_share: share of rows that are copies with disturbed captions (sage/noisy_rows.py), at most one half.
    text_memory_gb: text states are held in memory up to so many GB, and beyond it read from disk as they are needed.
    """

    objective: str = "pictures"
    steps: int = 800
    batch_size: int = 16
    accumulation: int = 1
    optimizer: str = "adamw"
    lr: float = 1e-3
    schedule: str = "cosine"
    warmup_steps: int = 50
    weight_decay: float = 0.01
    clip: float = 1.0
    loss: str = "sigmoid"
    dpo_weight: float = 1.0
    beta: float = 1000.0
    anchor: str = "noise"
    anchor_weight: float = 200.0
    safe_anchor_weight: float = 0.0
    visual_share: float = 0.0
    visual_weight: float = 1.0
    caption_dropout: float = 0.1
    user_dropout: float = 0.1
    timesteps: tuple[int, int] = (0, 1000)
    timestep_weighting: str = "none"
    snr_gamma: float = 5.0
    rewritten_share: float | None = None
    reference_draws: int = 0
    ema: float = 0.0
    mixed_precision: str = "no"
    gradient_checkpointing: bool = False
    compile: bool = False
    save_every: int = 200
    keep: int = 2
    log_every: int = 10
    validate_every: int = 0
    validation_pairs: int = 64
    validation_pictures: int = 8
    tensorboard: bool = False
    queries: str = "samples"
    queries_per_layer: int = 32
    layers_per_step: int = 0
    spread_floor: float = 0.1
    untouched_weight: float = 1.0
    match_weight: float = 0.1
    list_dropout: float = 0.5
    limit_share: float = 0.5
    noise_share: float = 0.0
    text_memory_gb: float = 2.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises UsageError for a value that makes no sense."""
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise UsageError(f"Unknown {name} '{getattr(self, name)}'; choose one of: {', '.join(choices)}.")
        for name in _POSITIVE:
            if not 0 < getattr(self, name) < math.inf:
                raise UsageError(f"training.{name} must be more than 0 and finite; saw {getattr(self, name)}.")
        for name, most in _MOST.items():
            if getattr(self, name) > most:
                raise UsageError(f"training.{name} must be at most {most:g}; saw {getattr(self, name)}.")
        for name in _NOT_NEGATIVE:
            if not 0 <= getattr(self, name) < math.inf:
                raise UsageError(f"training.{name} must be at least 0 and finite; saw {getattr(self, name)}.")
        for name in _SHARES:
            if not 0 <= (getattr(self, name) or 0.0) <= 1:
                raise UsageError(f"training.{name} must be between 0 and 1; saw {getattr(self, name)}.")
        if not 0 <= self.ema < 1:
            raise UsageError(f"training.ema must be at least 0 and less than 1; saw {self.ema}.")
        if len(self.timesteps) != 2 or not 0 <= self.timesteps[0] < self.timesteps[1] <= 1000:
            raise UsageError(f"training.timesteps must be [low, high) within 0 and 1000; saw {list(self.timesteps)}.")
        if self.objective == "pictures" and not any((self.dpo_weight, self.anchor_weight)):
            raise UsageError("training.dpo_weight and training.anchor_weight are both 0: there is nothing to learn.")

    @property
    def identity(self) -> Record:
        """The settings that decide the weights. At a constant rate more steps only go on from the same weights."""
        steps = ("steps",) * (self.schedule == "constant_with_warmup")
        return {name: value for name, value in asdict(self).items() if name not in (*WATCHING, *steps)}

    @property
    def soft_steps(self) -> int:
        """The first steps, in which matches below their least still count (adapter/matching.py)."""
        if self.schedule == "constant_with_warmup":  # more steps must only go on from the same weights
            return SOFT_WARMUPS * self.warmup_steps
        return int(SOFT_SHARE * self.steps)

    @property
    def needs_text_alone(self) -> bool:
        """Whether no pass of the UNet is asked for: neither for queries nor for pictures of a validation."""
        draws = self.validation_pairs and self.validation_pictures
        return self.objective == "captions" and self.queries in ("random", "words") and not draws

    @property
    def compares(self) -> bool:
        """Whether rejected pictures are looked at, at all."""
        return self.dpo_weight > 0 or self.visual_share * self.visual_weight > 0


_CHOICES = {
    "objective": OBJECTIVES,
    "queries": QUERIES,
    "anchor": ANCHORS,
    "loss": LOSSES,
    "optimizer": OPTIMIZERS,
    "mixed_precision": tuple(PRECISIONS),
    "schedule": SCHEDULES,
    "timestep_weighting": WEIGHTINGS,
}
_POSITIVE = ("steps", "batch_size", "lr", "accumulation", "save_every", "keep", "log_every", "snr_gamma",
             "queries_per_layer")  # fmt: skip
_SHARES = ("caption_dropout", "user_dropout", "rewritten_share", "visual_share", "list_dropout", "limit_share",
           "noise_share", "spread_floor")  # fmt: skip
_MOST = {
    "lr": 1.0, "weight_decay": 1.0, "steps": 10**8, "batch_size": 1 << 16, "accumulation": 1 << 16,
    "warmup_steps": 10**8, "reference_draws": 1 << 16, "validation_pairs": 10**6, "validation_pictures": 1 << 10,
    "noise_share": 0.5,
}  # fmt: skip
_NOT_NEGATIVE = (
    "beta", "dpo_weight", "anchor_weight", "safe_anchor_weight", "visual_weight", "weight_decay", "clip",
    "warmup_steps", "reference_draws", "validate_every", "validation_pairs", "validation_pictures",
    "layers_per_step", "untouched_weight", "match_weight", "text_memory_gb",
)  # fmt: skip
