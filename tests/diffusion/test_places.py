"""Parts of a pipeline are moved together and go back to where each was, also after an error."""

from types import SimpleNamespace

import pytest
import torch

from psalign.diffusion.places import modules_of, on_device, same_places


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


def test_a_part_that_refuses_to_be_moved_may_stay(pipeline):
    class Quantised(Part):
        def to(self, place):
            raise ValueError("`.to` is not supported")

    pipeline.components["text_encoder"] = Quantised("cuda:1")
    with same_places(pipeline):
        pipeline.components["vae"].to("meta")
    assert places(pipeline) == ["cuda:1", "cpu", "cuda:1"]
