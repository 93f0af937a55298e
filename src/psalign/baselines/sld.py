"""Baseline: Safe Latent Diffusion, which pushes each denoising step away from a text that names what is unsafe.

Place on the path of data: an alternative to steps 3 to 5. It works through hooks on the UNet of any stock pipeline.

Source: Schramowski et al. 2022, arXiv:2211.05105, equations 3 to 8. With u = e(z), c = e(z, prompt), s = e(z, concept):

    (3)  e     = u + g * (c - u - gamma)
    (5)  mu    = min(1, |phi|)  where  c - s < threshold,  else 0        (for each element)
    (6)  phi   = scale * (c - s)
    (7)  gamma = mu * (s - u) + momentum_scale * v                       (without the momentum: 4)
    (8)  v'    = momentum_beta * v + (1 - momentum_beta) * gamma
    gamma does not enter (3) before warm_up steps; v grows meanwhile.

Stock pipelines compute u + g * (c' - u) of the two halves that the UNet returns. Equation 3 is that with

    c' = c - gamma

so a hook behind the UNet subtracts gamma from the half of the prompt, and scheduler and pipeline stay as they are.
The paper prints max(1, |phi|) in (5); as an upper bound of 1 is what its own scales of 200 to 5000 make sense
with (max would multiply the guidance by up to 5000, and scale 0 would not be the base), we read it as min.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from ..errors import GuardError, UsageError

KEY = "sld"  # in cross_attention_kwargs
PAPER_STEPS = 50  # of the paper's runs, which warm_up counts in


@dataclass(frozen=True)
class Strength:
    """How strong, as the paper calls it. scale: s_S. threshold: lambda. momentum_scale: s_m. momentum_beta: beta_m.

    warm_up: delta, denoising steps of 50; in a run of n steps, that share of them.
    """

    scale: float
    warm_up: int
    threshold: float
    momentum_scale: float
    momentum_beta: float


STRENGTHS = {
    "weak": Strength(scale=200, warm_up=15, threshold=0.0, momentum_scale=0.0, momentum_beta=0.0),
    "medium": Strength(scale=1000, warm_up=10, threshold=0.01, momentum_scale=0.3, momentum_beta=0.4),
    "strong": Strength(scale=2000, warm_up=7, threshold=0.025, momentum_scale=0.5, momentum_beta=0.7),
    "max": Strength(scale=5000, warm_up=0, threshold=1.0, momentum_scale=0.5, momentum_beta=0.7),
}


def find_strength(name: str) -> Strength:
    """A row of STRENGTHS. Raises UsageError that lists the choices."""
    if name not in STRENGTHS:
        raise UsageError(f"Unknown strength '{name}' of SLD; choose one of: {', '.join(STRENGTHS)}.")
    return STRENGTHS[name]


@contextmanager
def safe_latent_diffusion(pipeline: Any, strength: Strength) -> Iterator[SafeGuidance]:
    """Within it the pipeline draws by SLD: pipe(prompts, **guidance.condition(concepts)).

    Raises GuardError where the UNet is called without concepts; UsageError without classifier-free guidance.
    """
    guidance = SafeGuidance(pipeline, strength)
    try:
        yield guidance
    finally:
        guidance.remove()


@dataclass(eq=False)
class Call:
    """One pipeline call: text states of a concept per row [B, T, D], pooled [B, P] on SDXL, and what the steps
    remember. active: [B], False for a row without a concept, which is the base's."""

    states: torch.Tensor
    pooled: torch.Tensor | None
    active: torch.Tensor
    steps_done: int = 0
    velocity: torch.Tensor | None = field(default=None, repr=False)


class SafeGuidance:
    """The two hooks on a pipeline's UNet. Between both of one UNet call its Call waits, in that call's thread alone."""

    def __init__(self, pipeline: Any, strength: Strength) -> None:
        self.pipeline, self.strength = pipeline, strength
        self._here = threading.local()
        self._known: dict[str, tuple[torch.Tensor, ...]] = {}
        self._hooks = [
            pipeline.unet.register_forward_pre_hook(self._enter, with_kwargs=True),
            pipeline.unet.register_forward_hook(self._leave, with_kwargs=True),
        ]

    def remove(self) -> None:
        for hook in self._hooks:
            hook.remove()

    def condition(self, concepts: Sequence[str]) -> dict[str, Any]:
        """Keyword arguments for one pipeline call: what each row shall be kept away from; "" for nothing."""
        encoded = [self._encode(concept) for concept in concepts]
        states, *pooled = (torch.cat(parts) for parts in zip(*encoded, strict=True))
        active = torch.tensor([bool(concept) for concept in concepts])
        return {"cross_attention_kwargs": {KEY: Call(states, pooled[0] if pooled else None, active)}}

    @torch.no_grad()
    def _encode(self, concept: str) -> tuple[torch.Tensor, ...]:
        """Text states [1, T, D], and on SDXL the pooled one [1, P]."""
        if concept not in self._known:
            device = self.pipeline._execution_device
            states, _, *pooled = self.pipeline.encode_prompt(
                prompt=[concept], device=device, num_images_per_prompt=1, do_classifier_free_guidance=False
            )
            self._known[concept] = (states, *pooled[:1])
        return self._known[concept]

    def _enter(self, unet: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        """Take the call out of the arguments: attention processors do not know it."""
        given = dict(kwargs.get("cross_attention_kwargs") or {})
        self._here.call = given.pop(KEY, None)
        if self._here.call is None:
            raise GuardError(
                "A UNet with SLD was called without concepts.",
                hint="Pass **guidance.condition(concepts) to the pipeline, one concept per prompt.",
            )
        rows, concepts = len(args[0]), len(self._here.call.active)
        if rows != 2 * concepts:
            raise UsageError(
                f"SLD steers classifier-free guidance: expected {2 * concepts} rows for {concepts} concepts; "
                f"saw {rows}.",
                hint="Give --guidance more than 1.",
            )
        return args, {**kwargs, "cross_attention_kwargs": given or None}

    def _leave(self, unet: Any, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> tuple[torch.Tensor, ...]:
        """The UNet's output with the prompt's half steered."""
        call: Call = self._here.call
        self._here.call = None
        unguided, prompted = output[0].chunk(2)
        concept = self._predict(unet, args, kwargs, call)
        gamma = safety_guidance(unguided.float(), prompted.float(), concept.float(), call, self.strength)
        warm = call.steps_done * PAPER_STEPS >= self.strength.warm_up * self.pipeline.num_timesteps
        call.steps_done += 1
        if warm:
            prompted = (prompted.float() - gamma).to(prompted.dtype)
        return (torch.cat([unguided, prompted]), *output[1:])

    def _predict(self, unet: Any, args: tuple[Any, ...], kwargs: dict[str, Any], call: Call) -> torch.Tensor:
        """The UNet's noise for the concepts, from the same latents [B, C, H, W]; without its hooks."""
        sample, timestep = args[0].chunk(2)[1], args[1]
        like = kwargs["encoder_hidden_states"]
        kwargs = {**kwargs, "encoder_hidden_states": call.states.to(like)}
        added = kwargs.get("added_cond_kwargs")
        if added is not None and call.pooled is not None:
            time_ids = added["time_ids"].chunk(2)[1]
            kwargs["added_cond_kwargs"] = {"text_embeds": call.pooled.to(added["text_embeds"]), "time_ids": time_ids}
        noise: torch.Tensor = unet.forward(sample, timestep, **kwargs)[0]
        return noise


def safety_guidance(
    unguided: torch.Tensor, prompted: torch.Tensor, concept: torch.Tensor, call: Call, strength: Strength
) -> torch.Tensor:
    """gamma of one step [B, C, H, W] from the three noises of the same shape; moves the call's velocity on.

    Source: equations 5 to 8 of the paper, as the module has them.
    """
    difference = prompted - concept
    weight = (strength.scale * difference).abs().clamp(max=1.0)  # eq. 6 and 5
    weight = torch.where(difference < strength.threshold, weight, 0.0)
    weight = weight * call.active.to(weight).reshape(-1, 1, 1, 1)
    velocity = torch.zeros_like(prompted) if call.velocity is None else call.velocity
    gamma = weight * (concept - unguided) + strength.momentum_scale * velocity  # eq. 7
    call.velocity = strength.momentum_beta * velocity + (1 - strength.momentum_beta) * gamma  # eq. 8
    return gamma
