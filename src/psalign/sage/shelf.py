"""Tensors on disk by key, in shards: each written whole, mapped into memory, and found again whoever wrote it.

Place on the path of data: under sage/cache.py.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save

from ..files import write_bytes
from ..records import fingerprint

Tensors = dict[str, torch.Tensor]


class Shelf:
    """Tensors of one kind in a folder. A shard names its keys in its own header, so there is no index to lose."""

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
        """The rows of these keys, in their order. Raises KeyError for one that is not there."""
        places: dict[str, tuple[int, int]] = {}
        paths = self._paths()
        for number, path in enumerate(paths):
            places.update({key: (number, row) for row, key in enumerate(_keys(path))})
        where = np.array([places[key] for key in keys], dtype=np.int64).reshape(-1, 2)
        shards: list[Tensors] = []
        used = set(where[:, 0].tolist())
        for number, path in enumerate(paths):
            shards.append(_mapped(path) if number in used else {})
        return Rows(shards, where)

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
    """Tensors that the system reads from the file as they are looked at."""
    with safe_open(path, framework="pt") as opened:
        return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118  no dict


def _keys(path: Path) -> list[str]:
    """Keys of a shard; one that is damaged is removed, so that what it held is made again."""
    try:
        with safe_open(path, framework="pt") as opened:
            keys: list[str] = json.loads((opened.metadata() or {})["keys"])
            return keys
    except (SafetensorError, KeyError, ValueError):
        path.unlink(missing_ok=True)
        return []
