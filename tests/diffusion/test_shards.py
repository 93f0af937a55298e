"""A process alone; several are shown by tests/cli/test_generate.py, with processes."""

import pytest
import torch

from psalign.diffusion.shards import Shard
from psalign.errors import UsageError


def test_a_process_alone_has_everything():
    shard = Shard("cpu")
    shard.wait()
    assert (shard.index, shard.count, shard.is_first, shard.device) == (0, 1, True, torch.device("cpu"))
    assert (shard.share("abc"), shard.gather(["a"]), shard.from_first(lambda: 3)) == ("abc", ["a"], 3)


@pytest.mark.parametrize("count", [1, 2, 3, 5])
def test_shares_are_disjoint_and_complete(count):
    shares = []
    for index in range(count):
        shard = Shard("cpu")
        shard.index, shard.count = index, count
        shares += shard.share(list(range(7)))
    assert sorted(shares) == list(range(7))


@pytest.mark.parametrize("name", ["magic", "cuda:x", "xpu"])
def test_a_device_that_is_not_there(name):
    with pytest.raises(UsageError, match=f"There is no device '{name}' here; choose one of: cpu"):
        Shard(name)
