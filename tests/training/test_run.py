"""A run from a preset: adapter shapes that fit, and those that make no sense."""

import pytest

from psalign.errors import UsageError
from psalign.training.run import check_shape


def test_shapes_that_make_sense():
    check_shape("prompt", {})
    check_shape("prompt", {"n_tokens": 8, "rank": 64, "heads": 4, "depth": 2, "gated": True})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"width": 3}, r"Unknown setting prompt\.adapter\.width; choose one of: n_tokens, proj_rank, rank"),
        ({"rank": "many"}, r"prompt\.adapter\.rank must be a whole number of at least 1; saw 'many'"),
        ({"n_tokens": 0}, "n_tokens must be a whole number of at least 1; saw 0"),
        ({"depth": True}, "depth must be a whole number"),
        ({"gated": 1}, "gated must be true or false; saw 1"),
        ({"heads": 3}, "rank must be a multiple of heads; saw 64 and 3"),
    ],
)
def test_shapes_that_make_no_sense(shape, message):
    with pytest.raises(UsageError, match=message):
        check_shape("prompt", shape)
