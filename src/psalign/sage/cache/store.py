"""Tensors on disk by key, in shards that are written whole and mapped into memory.

Place on the path of data: under the caches of latents and of text states.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ...files import write_bytes
from ...fingerprints import fingerprint
from ...progress import Progress
from ..share import Share

Tensors = dict[str, torch.Tensor]
T = TypeVar("T")
SHARD = 256  # entries


class ShardedStore:
    """Tensors of one kind in a folder. The keys of a shard are in its header."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind = folder, kind

    def put(self, keys: Sequence[str], tensors: Tensors) -> None:
        """Write a shard: one row of every tensor for each key."""
        content = save(
            {name: tensor.contiguous() for name, tensor in tensors.items()}, metadata={"keys": json.dumps(list(keys))}
        )
        write_bytes(self.folder / f"{self.kind}-{fingerprint(list(keys))}.safetensors", content)

    def keys(self) -> set[str]:
        return {key for path in self._paths() for key in _keys(path)}

    def rows(self, keys: Sequence[str]) -> Rows:
        """The rows of these keys, in their order. Raises KeyError for an unknown key."""
        places: dict[str, tuple[int, int]] = {}
        paths = self._paths()
        for number, path in enumerate(paths):
            places.update({key: (number, row) for row, key in enumerate(_keys(path))})
        where = np.array([places[key] for key in keys], dtype=np.int64).reshape(-1, 2)
        used = set(where[:, 0].tolist())
        return Rows([_mapped(path) if number in used else {} for number, path in enumerate(paths)], where)

    def _paths(self) -> list[Path]:
        return sorted(self.folder.glob(f"{self.kind}-*.safetensors"))


class Rows:
    """Rows of sharded tensors. shards: tensors [n, ...] by name; where: shard and row of each, [R, 2]."""

    def __init__(self, shards: Sequence[Tensors], where: np.ndarray) -> None:
        self.shards, self.where = shards, where

    @classmethod
    def of(cls, **tensors: torch.Tensor) -> Rows:
        """Rows of tensors in memory."""
        count = len(next(iter(tensors.values())))
        return cls([tensors], np.stack([np.zeros(count, np.int64), np.arange(count)], axis=1))

    def __len__(self) -> int:
        return len(self.where)

    def names(self) -> set[str]:
        return set(self.shards[int(self.where[0, 0])])

    def read(self, name: str, numbers: Sequence[int] | np.ndarray) -> torch.Tensor:
        """Rows [B, ...] of one tensor. Only these rows are read from disk."""
        return torch.stack([self.shards[shard][name][row] for shard, row in self.where[np.asarray(numbers)].tolist()])


def _mapped(path: Path) -> Tensors:
    """Tensors of a file, which the system reads from disk when they are used."""
    with safe_open(path, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  no dict


def _keys(path: Path) -> list[str]:
    """Keys of a shard. A damaged shard is removed, so that its tensors are made again."""
    try:
        with safe_open(path, framework="pt") as opened:
            keys: list[str] = json.loads((opened.metadata() or {})["keys"])
            return keys
    except (SafetensorError, KeyError, ValueError):
        path.unlink(missing_ok=True)
        return []


def fill(
    store: ShardedStore, things: Mapping[str, T], encode: Callable[[list[T]], Tensors], *, share: Share, desc: str
) -> None:
    """Encode the things, by key, that a store lacks, shard by shard. desc: text of the progress bar."""
    known = store.keys()
    missing = [key for key in things if key not in known]
    shards = [missing[start : start + SHARD] for start in range(0, len(missing), SHARD)][share.index :: share.count]
    share.wait()  # so that every process has seen the same store
    for keys in Progress(shards, desc=desc, unit="shard", disable=len(shards) < 2):
        store.put(keys, encode([things[key] for key in keys]))
