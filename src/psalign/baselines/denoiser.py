"""The frozen UNet as trainings of baselines call it: the noise that it predicts for latents and a text.

Place on the path of data: beside step 6, for SD1.5, SDXL and mini alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.func import functional_call


@dataclass(frozen=True, eq=False)
class Condition:
    """Text states of rows [B, T, D], and on SDXL pooled ones [B, P]."""

    states: torch.Tensor
    pooled: torch.Tensor | None = None

    def __getitem__(self, rows: Any) -> Condition:
        return Condition(self.states[rows], None if self.pooled is None else self.pooled[rows])


def encode(pipe: Any, texts: Sequence[str]) -> Condition:
    """Text states of texts, with gradients where the encoder's parameters ask for them."""
    states, _, *pooled = pipe.encode_prompt(
        prompt=list(texts), device=pipe._execution_device, num_images_per_prompt=1, do_classifier_free_guidance=False
    )
    return Condition(states, pooled[0] if pooled else None)


def predict(
    pipe: Any,
    latents: torch.Tensor,
    timesteps: torch.Tensor,
    condition: Condition,
    *,
    weights: Mapping[str, torch.Tensor] | None = None,
) -> torch.Tensor:
    """The noise that the UNet predicts, float32 [B, C, H, W].

    latents: noisy ones of the same shape. timesteps: [B]. weights: in place of some of the UNet's own, by name.
    """
    unet, added = pipe.unet, dict[str, Any]()
    if condition.pooled is not None:
        size = latents.shape[-1] * pipe.vae_scale_factor
        sizes = torch.tensor([[size, size, 0, 0, size, size]]).to(latents).expand(len(latents), -1)
        added = {
            "added_cond_kwargs": {"text_embeds": condition.pooled.to(unet.dtype), "time_ids": sizes.to(unet.dtype)}
        }
    given = (latents.to(unet.dtype), timesteps.to(latents.device))
    named = {"encoder_hidden_states": condition.states.to(unet.dtype), "return_dict": False, **added}
    noise = functional_call(unet, dict(weights or {}), given, named)[0]
    return noise.float()
