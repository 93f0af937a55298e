"""Sharded tensors: found by key whoever wrote them, and made again where a shard is damaged."""

import pytest
import torch

from psalign.sage.cache.store import Rows, ShardedStore


def put(store, *keys):
    store.put(keys, {"value": torch.tensor([[float(int(key)), 1.0] for key in keys])})


def test_rows_come_from_any_shard_in_the_order_asked_for(tmp_path):
    store = ShardedStore(tmp_path, "numbers")
    put(store, "3", "1")
    put(store, "2")
    assert store.keys() == {"1", "2", "3"}
    rows = ShardedStore(tmp_path, "numbers").rows(["1", "2", "3", "1"])
    assert len(rows) == 4
    assert rows.read("value", [3, 0, 1, 2])[:, 0].tolist() == [1, 1, 2, 3]
    assert rows.names() == {"value"}


def test_kinds_are_apart(tmp_path):
    put(ShardedStore(tmp_path, "a"), "1")
    assert ShardedStore(tmp_path, "b").keys() == set()


def test_a_key_that_is_not_there(tmp_path):
    with pytest.raises(KeyError, match="7"):
        ShardedStore(tmp_path, "numbers").rows(["7"])


@pytest.mark.parametrize("keep", [0, 4, 60])
def test_a_damaged_shard_is_removed(tmp_path, keep):
    store = ShardedStore(tmp_path, "numbers")
    put(store, "1")
    put(store, "2", "3")
    path = next(
        path for path in tmp_path.iterdir() if path.stat().st_size == max(p.stat().st_size for p in tmp_path.iterdir())
    )
    path.write_bytes(path.read_bytes()[:keep])
    assert store.keys() == {"1"}
    assert not path.exists()


def test_only_what_is_read_is_in_memory(tmp_path):
    """A shard of 64 MB is mapped; reading one row of it brings in that row's pages."""
    store = ShardedStore(tmp_path, "large")
    store.put([str(i) for i in range(64)], {"value": torch.zeros(64, 1 << 18)})
    before = resident_bytes()
    rows = store.rows([str(i) for i in range(64)])
    assert rows.read("value", [5]).shape == (1, 1 << 18)
    assert resident_bytes() - before < 16e6


def resident_bytes():
    with open("/proc/self/statm") as stream:
        return int(stream.read().split()[1]) * 4096


def test_rows_in_memory():
    rows = Rows.of(a=torch.arange(3), b=torch.arange(3) * 10)
    assert rows.read("b", [2, 0]).tolist() == [20, 0]
