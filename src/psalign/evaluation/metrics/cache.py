"""Batched inference over pictures, whose results are kept on disk: no model sees the same picture twice.

Place on the path of data: step 7, between folders of pictures and metrics of single pictures.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, TypeVar

from psalign.errors import EvaluationError
from psalign.files import append_bytes, parse_json
from psalign.fingerprints import fingerprint

from ..pictures import MAKE_AGAIN, Picture, Pictures, read_picture, refuse

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
READERS = 4  # threads that decode pictures while the model computes


class Lazy(Generic[T_co]):
    """A model that is loaded at its first use. name: called without loading it, names its weights."""

    def __init__(self, name: Callable[[], str], load: Callable[[], T_co]) -> None:
        self._name, self._load = name, load

    @cached_property
    def name(self) -> str:
        return self._name()

    @cached_property
    def _loaded(self) -> T_co:
        return self._load()

    def __call__(self) -> T_co:
        return self._loaded


@dataclass(frozen=True)
class Unreadable:
    """In the place of a picture: its name and why it cannot be read."""

    reason: str


class PictureCache:
    """A JSON-lines file of results, each under a key; a file of its own for each model.

    Lines are appended whole, so several processes may share it. Each line has a digest of itself: a line
    that a kill cut short, or that was changed since, does not count, and its result is computed again.
    """

    def __init__(self, folder: Path | None, name: str) -> None:
        self.path = folder / f"{name}.jsonl" if folder is not None else None

    def read(self) -> dict[str, Any]:
        if self.path is None or not self.path.exists():
            return {}
        known = {}
        for line in self.path.read_text(encoding="utf-8", errors="replace").splitlines():
            try:
                record = parse_json(line)
                key, value, digest = record["key"], record["value"], record["digest"]
            except (ValueError, KeyError, TypeError):
                continue
            if isinstance(key, str) and digest == fingerprint([key, value]):
                known[key] = value
        return known

    def add(self, values: Mapping[str, Any]) -> None:
        if self.path is None or not values:
            return
        records = ({"key": key, "value": value, "digest": fingerprint([key, value])} for key, value in values.items())
        lines = "".join(json.dumps(record) + "\n" for record in records)
        append_bytes(self.path, ("\n" + lines).encode(), sync=False)  # after what a kill may have cut short


@dataclass(frozen=True)
class Inference(Generic[T]):
    """How a model runs over pictures.

    prepare: makes the model's input of one picture, in a thread of its own. run: takes a batch of inputs
    and their places in the folder, and returns one JSON-able result for each.
    """

    prepare: Callable[[Picture], T]
    run: Callable[[list[T], list[int]], list[Any]]


def infer(
    pictures: Pictures, make: Callable[[], Inference[T]], *, keys: Sequence[str], cache: PictureCache, batch_size: int
) -> list[Any]:
    """One result for each picture, from the cache where it has one; `make` is called only where it has not.

    keys: one for each picture, naming its digest and all else that the result depends on.
    Raises EvaluationError that lists the first five pictures that cannot be read.
    """
    known = cache.read()
    wanted = [i for i, key in enumerate(keys) if key not in known]
    if wanted:
        inference, paths = make(), pictures.paths
        found = read_batches(pictures.folder, [paths[i] for i in wanted], inference.prepare, batch_size=batch_size)
        for number, batch in enumerate(found):
            places = wanted[number * batch_size : number * batch_size + len(batch)]
            fresh = dict(zip([keys[i] for i in places], inference.run(batch, places), strict=True))
            cache.add(fresh)
            known |= fresh
    return [known[key] for key in keys]


def read_batches(
    folder: Path, paths: Sequence[Path], prepare: Callable[[Picture], T], *, batch_size: int, hint: str = MAKE_AGAIN
) -> Iterator[list[T]]:
    """Prepared pictures in order; the next batch is read meanwhile. hint: what to do about a broken picture.

    Raises EvaluationError that lists the first five broken ones; nothing comes after the first.
    """

    def one(path: Path) -> T | Unreadable:
        try:
            return prepare(read_picture(path))
        except EvaluationError as err:
            return Unreadable(f"{path.relative_to(folder).as_posix()} ({err.__cause__})")

    unreadable: list[str] = []
    with ThreadPoolExecutor(READERS) as pool:
        waiting: deque[list[Future[T | Unreadable]]] = deque()
        for start in range(0, len(paths) + batch_size, batch_size):
            part = list(paths[start : start + batch_size])
            if part:
                waiting.append([pool.submit(one, path) for path in part])
            if len(waiting) > 1 or (waiting and not part):
                batch = [future.result() for future in waiting.popleft()]
                unreadable += [picture.reason for picture in batch if isinstance(picture, Unreadable)]
                if not unreadable:
                    yield [picture for picture in batch if not isinstance(picture, Unreadable)]
    refuse(folder, "cannot be read as pictures", unreadable, hint=hint)
