"""Edited UNet weights: applied, restored bit for bit, and refused where they are another model's."""

import re

import pytest
import torch
from safetensors.torch import save_file

from psalign.baselines.edited_unet import edited_unet
from psalign.errors import CheckpointError, UsageError
from tiny_pipelines import PIPELINES, draw

PREFIXES = ("", "unet.", "model.diffusion_model.")


@pytest.fixture(scope="module", params=["sd15", pytest.param("sdxl", marks=pytest.mark.long)])
def pipeline(request):
    return PIPELINES[request.param]()


@pytest.fixture(scope="module")
def sd15():
    return PIPELINES["sd15"]()


def edits_of(pipeline, *, everything=False):
    """Some of the weights, or all of them, moved at random."""
    random, weights = torch.Generator().manual_seed(6), pipeline.unet.state_dict()
    moved = {key: value for key, value in weights.items() if everything or ".attn2.to_v" in key}
    return {key: value + 0.3 * torch.randn(value.shape, generator=random) for key, value in moved.items()}


def state(pipeline):
    return {key: value.clone() for key, value in pipeline.unet.state_dict().items()}


@pytest.mark.parametrize("everything", [False, True])
def test_weights_are_applied_and_restored_bit_for_bit(pipeline, tmp_path, everything):
    save_file(edits_of(pipeline, everything=everything), tmp_path / "esdu.safetensors")
    before, base = state(pipeline), draw(pipeline)
    with edited_unet(pipeline, tmp_path / "esdu.safetensors"):
        edited = state(pipeline)
        assert not torch.allclose(draw(pipeline), base, atol=1e-4)
    changed = {key for key, value in edited.items() if not torch.equal(value, before[key])}
    assert changed == set(edits_of(pipeline, everything=everything))
    assert all(torch.equal(value, before[key]) for key, value in state(pipeline).items())
    assert torch.equal(draw(pipeline), base)


@pytest.mark.parametrize("prefix", PREFIXES)
def test_prefixes_of_the_field_and_a_folder(sd15, tmp_path, prefix):
    edits, before = edits_of(sd15), state(sd15)
    save_file({f"{prefix}{key}": value for key, value in edits.items()}, tmp_path / "uce.safetensors")
    with edited_unet(sd15, tmp_path):
        assert all(torch.equal(state(sd15)[key], value) for key, value in edits.items())
    assert all(torch.equal(value, before[key]) for key, value in state(sd15).items())


def test_restored_after_a_failure_inside(sd15, tmp_path):
    save_file(edits_of(sd15), tmp_path / "a.safetensors")
    before = state(sd15)
    with pytest.raises(RuntimeError, match="no memory"), edited_unet(sd15, tmp_path):
        raise RuntimeError("no memory")
    assert all(torch.equal(value, before[key]) for key, value in state(sd15).items())


def test_faults_name_what_is_wrong(sd15, tmp_path):
    key, good = next((key, value) for key, value in sd15.unet.state_dict().items() if value.ndim == 2)
    faults = {
        "7 keys are unknown to this UNet: input_blocks.0, input_blocks.1, input_blocks.2, input_blocks.3, "
        "input_blocks.4 and 2 more. Expected a UNet of diffusers.": {
            f"model.diffusion_model.input_blocks.{i}": torch.ones(2) for i in range(7)
        },
        f"1 keys are of another shape than this UNet's: {key}.": {key: torch.zeros(3, 3)},
        f"expected finite numbers in {key}.": {key: torch.full_like(good, torch.nan)},
        "has no weights.": {},
    }
    before = state(sd15)
    for number, (message, weights) in enumerate(faults.items()):
        path = tmp_path / f"{number}.safetensors"
        save_file(weights, path)
        with pytest.raises(CheckpointError, match=re.escape(message)), edited_unet(sd15, path):
            raise AssertionError("these weights must not be applied")
    assert all(torch.equal(value, before[key]) for key, value in state(sd15).items())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("weights.pt", r"weights.pt is no .safetensors file; other formats can run code"),
        ("broken.safetensors", "broken.safetensors cannot be read as safetensors"),
        ("nowhere", "nowhere: expected one .safetensors file; saw nothing there"),
        (".", "expected one .safetensors file; saw broken.safetensors, other.safetensors.\nName the file itself."),
    ],
)
def test_files_that_cannot_be_read(sd15, tmp_path, name, message):
    for file in ("weights.pt", "broken.safetensors", "other.safetensors"):
        (tmp_path / file).write_bytes(b"no tensors here")
    with pytest.raises(CheckpointError, match=message), edited_unet(sd15, tmp_path / name):
        raise AssertionError("there are no weights")


def test_a_unet_that_is_not_in_memory(tmp_path):
    pipeline = PIPELINES["sd15"]()
    save_file(edits_of(pipeline), tmp_path / "a.safetensors")
    pipeline.unet.to("meta")
    with pytest.raises(UsageError, match=r"offloaded layer by layer(?s:.*)Give --offload model or none"):
        edited_unet(pipeline, tmp_path).__enter__()
