"""The name of a base: of its files, its hub id, or the weights in memory."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler

from helpers import tiny_unet
from psalign.diffusion.base_models import base_fingerprint


@pytest.fixture
def pipeline():
    return DDPMPipeline(tiny_unet(), DDPMScheduler())


def test_a_pipeline_made_in_memory_is_named_by_its_weights(pipeline):
    before = base_fingerprint(pipeline)
    assert before == base_fingerprint(DDPMPipeline(tiny_unet(), DDPMScheduler()))
    with torch.no_grad():
        pipeline.unet.conv_in.bias[0] += 1
    assert base_fingerprint(pipeline) != before


def test_a_pipeline_of_a_folder_is_named_by_its_files(pipeline, tmp_path):
    for name in ("a", "b"):
        pipeline.save_pretrained(tmp_path / name)
    first, second = (DDPMPipeline.from_pretrained(tmp_path / name) for name in ("a", "b"))
    assert base_fingerprint(first) == base_fingerprint(second)
    DDPMPipeline(tiny_unet(seed=5), DDPMScheduler()).save_pretrained(tmp_path / "b")
    assert base_fingerprint(first) != base_fingerprint(second)


def test_other_pipelines_have_a_name_too():
    names = [
        base_fingerprint(SimpleNamespace(config=SimpleNamespace(_name_or_path=place))) for place in ("a/b", "a/c", None)
    ]
    assert len({*names, base_fingerprint(object())}) == 3
    assert names[2] == base_fingerprint(object())
