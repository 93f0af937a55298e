"""LoRA weights of SafetyDPO: loaded, unloaded bit for bit, and refused where they change nothing."""

import pytest
import torch
from safetensors.torch import save_file

from psalign.baselines import safetydpo
from psalign.baselines.safetydpo import lora_weights
from psalign.errors import CheckpointError, ExtraMissing, GuardError
from tiny_pipelines import PIPELINES, draw, save_lora


@pytest.mark.parametrize(
    ("base", "by_file"),
    [
        ("sd15", False),
        pytest.param("sd15", True, marks=pytest.mark.long),
        pytest.param("sdxl", False, marks=pytest.mark.long),
    ],
)
def test_loaded_and_unloaded_bit_for_bit(base, by_file, tmp_path):
    place = save_lora(base, tmp_path)
    pipeline = PIPELINES[base]()
    before, base_picture = {k: v.clone() for k, v in pipeline.unet.state_dict().items()}, draw(pipeline)
    with lora_weights(pipeline, place / safetydpo.USUAL_NAME if by_file else place):
        assert not torch.allclose(draw(pipeline), base_picture, atol=1e-4)
    after = pipeline.unet.state_dict()
    assert after.keys() == before.keys()
    assert all(torch.equal(after[key], before[key]) for key in before)
    assert torch.equal(draw(pipeline), base_picture)


def test_what_is_no_lora_of_this_model(tmp_path):
    pipeline = PIPELINES["sd15"]()
    base_picture = draw(pipeline)
    save_file({"something.weight": torch.ones(2, 2)}, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match=r"a.safetensors (is no LoRA for|has no LoRA for the UNet of) this model"):
        lora_weights(pipeline, tmp_path).__enter__()
    with pytest.raises(CheckpointError, match="is no LoRA for this model"):
        lora_weights(pipeline, save_lora("sdxl", tmp_path / "sdxl")).__enter__()
    assert torch.equal(draw(pipeline), base_picture)


def test_a_lora_that_is_there_already(tmp_path):
    pipeline, place = PIPELINES["sd15"](), save_lora("sd15", tmp_path)
    with lora_weights(pipeline, place), pytest.raises(GuardError, match=r"has a LoRA already\.\nCall pipe.unload"):
        lora_weights(pipeline, place).__enter__()


def test_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setattr(safetydpo, "find_spec", lambda name: None)
    with pytest.raises(ExtraMissing, match=r"peft is not installed.*'lora'"):
        lora_weights(None, tmp_path).__enter__()
