"""The benchmark of a UNet call: every variant is timed on mini and leaves the base as it was; the guard's share."""

import argparse

import pytest
import torch
from inference import VARIANTS, Way, guard_share, make_inputs, make_unet


@pytest.fixture(scope="module")
def unet():
    return make_unet("mini")


@pytest.fixture(scope="module")
def arguments():
    return argparse.Namespace(model="mini", users=2, size=64)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_is_timed_and_leaves_the_unet_as_it_was(name, unet, arguments):
    inputs, before = make_inputs(unet, arguments), dict(unet.attn_processors)
    way = Way(name, unet, arguments, torch.device("cpu"))
    _, step, peak = way.time(inputs)
    assert step > 0
    assert peak == 0  # which only a GPU says
    assert (way.adapter_bytes > 0) == (name != "base")
    assert unet.attn_processors == before


def test_the_guard_recognises_the_text_that_is_timed(unet, arguments):
    assert guard_share(unet, make_inputs(unet, arguments), 1.0, rounds=2) > 0
