"""Parts of a pipeline are moved together and go back to where each was, also after an error."""

from types import SimpleNamespace

import pytest
import torch
from accelerate import cpu_offload, cpu_offload_with_hook
from diffusers.hooks import apply_group_offloading

from psalign.diffusion.places import is_movable, modules_of, on_device, same_places
from tiny_pipelines import PROMPTS, sd15_pipeline

CPU = torch.device("cpu")


class Part(torch.nn.Module):
    """A part that only says where it is: two devices are not to be had everywhere."""

    def __init__(self, place):
        super().__init__()
        self.place = torch.device(place)

    def parameters(self, recurse=True):
        yield SimpleNamespace(device=self.place)

    def to(self, place):
        self.place = torch.device(place)
        return self


@pytest.fixture
def pipeline():
    return SimpleNamespace(components={"unet": Part("cuda:1"), "vae": Part("cpu"), "tokenizer": object(), "none": None})


def places(pipeline):
    return [str(part.place) for part in modules_of(pipeline)]


def test_within_it_all_parts_are_on_one_device(pipeline):
    with on_device(pipeline, torch.device("cuda:1")):
        assert places(pipeline) == ["cuda:1", "cuda:1"]
    assert places(pipeline) == ["cuda:1", "cpu"]


def move_and_fail(pipeline):
    with same_places(pipeline):
        for part in modules_of(pipeline):
            part.to("meta")
        raise ValueError("on the way")


def test_whatever_is_moved_goes_back_also_after_an_error(pipeline):
    with pytest.raises(ValueError, match="on the way"):
        move_and_fail(pipeline)
    assert places(pipeline) == ["cuda:1", "cpu"]


class Quantised(Part):
    """As bitsandbytes leaves it."""

    def to(self, place):
        raise ValueError("`.to` is not supported")


@pytest.mark.parametrize("mark", [{"is_quantized": True}, {"hf_quantizer": object()}])
def test_a_quantised_part_stays_where_it_is(pipeline, mark):
    part = pipeline.components["text_encoder"] = Quantised("cuda:1")
    vars(part).update(mark)
    with same_places(pipeline):
        pipeline.components["vae"].to("meta")
    with on_device(pipeline, CPU):
        assert places(pipeline) == ["cpu", "cpu", "cuda:1"]
    assert places(pipeline) == ["cuda:1", "cpu", "cuda:1"]


def in_groups(part, device):
    apply_group_offloading(part, onload_device=device, offload_type="leaf_level")


@pytest.mark.parametrize("offload", [cpu_offload, cpu_offload_with_hook, in_groups])
def test_an_offloaded_part_is_left_to_its_hooks(offload):
    pipe = sd15_pipeline()
    for part in (pipe.text_encoder, pipe.vae):
        offload(part, CPU)
        assert not is_movable(part)
    before = places_of_weights(pipe)
    with on_device(pipe, CPU):
        assert places_of_weights(pipe) == before
        pipe(PROMPTS, num_inference_steps=1, output_type="latent", height=32, width=32)
    assert places_of_weights(pipe) == before
    assert is_movable(pipe.unet)


def places_of_weights(pipe):
    return [weight.device.type for part in modules_of(pipe) for weight in part.parameters()]
