"""Which base models can be trained on pictures, told before anything is encoded; and latents as the UNet sees them."""

import diffusers
import numpy as np
import pytest
import torch
from PIL import Image

from psalign.errors import UsageError
from psalign.sage.cache.latents import PictureSource, build_cache
from psalign.sage.rows import SageRow
from psalign.training.run import RowSource, load_pairs
from psalign.training.schedule import require_noise_schedule, require_trainable
from sage_rows import make_row
from tiny_pipelines import PIPELINES


@pytest.mark.parametrize("base", PIPELINES)
@pytest.mark.parametrize(
    "name",
    ["DDIM", "DDPM", "PNDM", "EulerDiscrete", "DPMSolverMultistep", "UniPCMultistep", "LMSDiscrete", "HeunDiscrete"],
)
def test_models_that_predict_noise_can_be_trained_whatever_samples_them(base, name):
    pipeline = PIPELINES[base]()
    pipeline.scheduler = getattr(diffusers, f"{name}Scheduler").from_config(pipeline.scheduler.config)
    require_trainable(pipeline)


OTHER_SCHEDULES = {
    "velocity": ("DDIMScheduler", {"prediction_type": "v_prediction"}, "predicts v_prediction"),
    "the picture": ("DDIMScheduler", {"prediction_type": "sample"}, "predicts sample"),
    "flow": ("FlowMatchEulerDiscreteScheduler", {}, "FlowMatchEulerDiscreteScheduler has no schedule of noise"),
    "flow in a solver": (
        "DPMSolverMultistepScheduler",
        {"use_flow_sigmas": True, "prediction_type": "flow_prediction"},
        "predicts flow_prediction",
    ),
    "flow that says epsilon": ("UniPCMultistepScheduler", {"use_flow_sigmas": True}, "has no schedule of noise"),
    "EDM": ("EDMEulerScheduler", {}, "EDMEulerScheduler has no schedule of noise"),
    "EDM in a solver": ("EDMDPMSolverMultistepScheduler", {}, "has no schedule of noise"),
}


@pytest.mark.parametrize("case", OTHER_SCHEDULES)
def test_other_schedules_are_refused(case):
    name, settings, message = OTHER_SCHEDULES[case]
    with pytest.raises(UsageError, match=rf"from plain latents; of this one, .*{message}"):
        require_noise_schedule(getattr(diffusers, name)(**settings))


def changed(base, part, **settings):
    pipeline = PIPELINES[base]()
    getattr(pipeline, part).register_to_config(**settings)
    return pipeline


def edm():
    pipeline = PIPELINES["sdxl"]()
    pipeline.scheduler = diffusers.EDMEulerScheduler()
    return pipeline


OTHER_MODELS = {
    "an inpainting model": (lambda: changed("sd15", "unet", in_channels=9), "takes 9 channels"),
    "a learned variance": (lambda: changed("sdxl", "unet", out_channels=8), "gives 8"),
    "guidance embedded": (lambda: changed("sd15", "unet", time_cond_proj_dim=256), "has guidance embedded"),
    "shifted latents": (lambda: changed("sdxl", "vae", shift_factor=0.1), "shifts latents by 0.1"),
    "means that SD1.5 ignores": (
        lambda: changed("sd15", "vae", latents_mean=[0.0] * 4, latents_std=[1.0] * 4),
        "latents_mean and latents_std",
    ),
    "EDM": (edm, "EDMEulerScheduler has no schedule of noise"),
}


@pytest.mark.parametrize("case", OTHER_MODELS)
def test_other_models_are_refused_before_anything_is_read_or_encoded(case, tmp_path):
    make, message = OTHER_MODELS[case]
    with pytest.raises(UsageError, match=message):
        load_pairs(RowSource(tmp_path / "no data", tmp_path / "cache"), make(), None)
    assert not (tmp_path / "cache").exists()


def encoded(pipeline, folder) -> torch.Tensor:
    row: SageRow = make_row()
    folder.mkdir(exist_ok=True)
    rng = np.random.default_rng(0)
    for name in (row.chosen, row.rejected):
        Image.fromarray(rng.integers(0, 255, (32, 32, 3), dtype=np.uint8)).save(folder / name, format="PNG")
        rng = np.random.default_rng(0)
    return build_cache([row], pipeline, pictures=PictureSource(folder), folder=folder / "cache").latents


def test_means_and_deviations_of_sdxl_are_taken_off_as_its_pipeline_puts_them_on(tmp_path):
    """(latents - mean) * scaling / std, and scaling / std of the spread; a cache without them is another one."""
    plain = encoded(PIPELINES["sdxl"](), tmp_path)
    mean, std = [0.5, -0.5, 1.0, 0.0], [2.0, 1.0, 0.5, 4.0]
    pipeline = changed("sdxl", "vae", latents_mean=mean, latents_std=std)
    require_trainable(pipeline)
    scaled = encoded(pipeline, tmp_path)
    scaling = pipeline.vae.config.scaling_factor
    for name, shift in (("means", torch.tensor(mean).reshape(1, 4, 1, 1)), ("stds", 0.0)):
        spread = torch.tensor(std).reshape(1, 4, 1, 1)
        first, other = (rows.read(name, np.arange(2)).float() for rows in (plain, scaled))
        expected = (first / scaling - shift) * scaling / spread
        torch.testing.assert_close(other, expected, rtol=2e-3, atol=2e-3)
