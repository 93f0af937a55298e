"""Every variant of the benchmark of training takes a step on mini."""

import argparse

import pytest

from training import ON_CAPTIONS, VARIANTS, Parts, Unit, make_way


@pytest.fixture(scope="module")
def arguments():
    return argparse.Namespace(model="mini", size=64, pairs=1, device="cpu", dtype="fp32", checkpointing=False)


@pytest.fixture(scope="module")
def parts(arguments):
    return Parts(arguments)


@pytest.mark.slow
@pytest.mark.parametrize("name", [*VARIANTS, *ON_CAPTIONS])
def test_a_variant_takes_a_step_and_leaves_the_base_as_it_was(name, parts, arguments):
    before = {key: weight.clone() for key, weight in parts.unet.state_dict().items()}
    way = make_way(name, parts, arguments)
    assert parts.timed(way.step) > 0
    assert way.pairs >= arguments.pairs
    after = parts.unet.state_dict()
    assert after.keys() == before.keys()
    assert all((after[key] == weight).all() for key, weight in before.items())


def test_the_unit_reads_two_pictures_of_a_pair(parts, arguments):
    assert parts.timed(Unit(parts, arguments).step) > 0
