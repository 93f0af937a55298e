"""Which base models can be trained on pictures: what is wrong with one is said before anything is encoded.

Place on the path of data: before the cache of latents. Training adds noise by the model's own schedule and compares
noise with noise; a model that predicts something else, or whose latents are scaled in a way that its own pipeline does
not undo, would be taught something false without a word.
"""

from __future__ import annotations

from typing import Any

import torch

from ..errors import UsageError

NOISE = "epsilon"  # what the UNet has to predict
FLOWS = ("use_flow_sigmas",)  # settings of a scheduler that mean flow matching, whatever prediction_type says


def require_trainable(pipeline: Any) -> None:
    """Raises UsageError for a base model that training on pictures would get wrong."""
    require_noise_schedule(pipeline.scheduler)
    unet, vae = pipeline.unet.config, pipeline.vae.config
    channels = vae.latent_channels
    if unet.in_channels != channels or unet.out_channels != channels:
        raise _refused(
            f"its UNet takes {unet.in_channels} channels and gives {unet.out_channels}, and latents have {channels}: "
            "it was made for inpainting or editing, or predicts a variance too"
        )
    if getattr(unet, "time_cond_proj_dim", None) is not None:
        raise _refused("it has guidance embedded (LCM): it was distilled, and no longer denoises by plain steps")
    if getattr(vae, "shift_factor", None):
        raise _refused(f"its VAE shifts latents by {vae.shift_factor}, which this kind of pipeline does not undo")
    if getattr(vae, "latents_mean", None) is not None and not takes_mean_and_std(pipeline):
        raise _refused("its VAE has latents_mean and latents_std, which this kind of pipeline does not undo")


def require_noise_schedule(scheduler: Any) -> None:
    """Raises UsageError for a scheduler that is not of a model that predicts noise at steps of a cumulative schedule.

    Flow matching and EDM have no such schedule: their samplers call what they predict "epsilon" all the same.
    """
    config = getattr(scheduler, "config", None)
    predicts = getattr(config, "prediction_type", NOISE)
    if predicts != NOISE:
        raise _refused(f"it predicts {predicts}")
    flows = [name for name in FLOWS if getattr(config, name, False)]
    alphas = getattr(scheduler, "alphas_cumprod", None)
    if (
        flows
        or not isinstance(alphas, torch.Tensor)
        or len(alphas) != getattr(config, "num_train_timesteps", len(alphas))
    ):
        raise _refused(f"its {type(scheduler).__name__} has no schedule of noise (flow matching, EDM)")


def takes_mean_and_std(pipeline: Any) -> bool:
    """Whether a pipeline undoes latents_mean and latents_std when it decodes; stock SDXL does, SD1.5 does not."""
    return hasattr(pipeline, "text_encoder_2")


def _refused(why: str) -> UsageError:
    return UsageError(
        f"Training needs a base model that predicts noise (epsilon) from plain latents; of this one, {why}.",
        hint="Give --model a Stable Diffusion 1.5 or SDXL model of that kind. Any model can be drawn with.",
    )
