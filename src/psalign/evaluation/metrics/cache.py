"""What a model saw in each picture, kept on disk so that no picture is looked at twice by the same model.

Place on the path of data: step 7, between folders of pictures and the metrics that look at one picture at a time.
"""

from __future__ import annotations

import json
import os
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from psalign.errors import EvaluationError
from psalign.files import parse_json
from psalign.fingerprints import file_fingerprint, fingerprint
from psalign.records import ManifestRow

from ..pictures import MAKE_AGAIN, Picture, complete_rows, read_picture, refuse

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)
READERS = 4  # threads that decode pictures while the model computes


class Lazy(Generic[T_co]):
    """A model that is loaded at its first use. name: called without loading it, names its weights."""

    def __init__(self, name: Callable[[], str], load: Callable[[], T_co]) -> None:
        self._name, self._load = name, load
        self._named: str | None = None
        self._loaded: T_co | None = None

    @property
    def name(self) -> str:
        if self._named is None:
            self._named = self._name()
        return self._named

    def __call__(self) -> T_co:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded


@dataclass(frozen=True)
class Unreadable:
    """In the place of a picture: its name and why it cannot be read."""

    told: str


@dataclass(frozen=True)
class Pictures:
    """Pictures of a folder: their manifest rows and the digests of their files, in the manifest's order."""

    folder: Path
    rows: list[ManifestRow]
    digests: list[str]

    @property
    def paths(self) -> list[Path]:
        return [self.folder / row.file_name for row in self.rows]

    def chosen(self, keep: Callable[[ManifestRow], bool]) -> Pictures:
        pairs = [(row, digest) for row, digest in zip(self.rows, self.digests, strict=True) if keep(row)]
        return Pictures(self.folder, [row for row, _ in pairs], [digest for _, digest in pairs])


def open_pictures(folder: Path) -> Pictures:
    """The complete pictures of a folder. Raises EvaluationError where one is missing, twice, or without a row."""
    rows = complete_rows(folder)
    return Pictures(folder, rows, [file_fingerprint(folder / row.file_name) for row in rows])


class PictureCache:
    """A JSON-lines file of results, each under a key; a file of its own for each model.

    Lines are appended whole, so several processes may share it. Each has a digest of itself: what a kill cut short, or
    what was changed since by whatever means, is computed again.
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
        self.path.parent.mkdir(parents=True, exist_ok=True)
        file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        try:
            size = os.fstat(file).st_size
            whole = size == 0 or os.pread(file, 1, size - 1) == b"\n"
            os.write(file, (("" if whole else "\n") + lines).encode())
        finally:
            os.close(file)


@dataclass(frozen=True)
class Look(Generic[T]):
    """How a model looks at pictures. prepare: one picture, in a thread of its own; see: a batch of what that gave.

    see is given the prepared pictures and their places in the folder, and returns one JSON-able result each.
    """

    prepare: Callable[[Picture], T]
    see: Callable[[list[T], list[int]], list[Any]]


def look_at(
    pictures: Pictures, look: Callable[[], Look[T]], *, keys: Sequence[str], cache: PictureCache, batch_size: int
) -> list[Any]:
    """One result for each picture, from the cache where it has one; `look` is called only where it has not.

    keys: one for each picture, naming its digest and all else that the result depends on.
    Raises EvaluationError that lists the first five pictures that cannot be read.
    """
    known = cache.read()
    wanted = [i for i, key in enumerate(keys) if key not in known]
    if wanted:
        how = look()
        paths = pictures.paths
        found = read_batches(pictures.folder, [paths[i] for i in wanted], how.prepare, batch_size=batch_size)
        for number, batch in enumerate(found):
            places = wanted[number * batch_size : number * batch_size + len(batch)]
            fresh = dict(zip([keys[i] for i in places], how.see(batch, places), strict=True))
            cache.add(fresh)
            known |= fresh
    return [known[key] for key in keys]


def read_batches(
    folder: Path, paths: Sequence[Path], prepare: Callable[[Picture], T], *, batch_size: int, hint: str = MAKE_AGAIN
) -> Iterator[list[T]]:
    """Prepared pictures in order, the next batch being read while one is used. hint: what to do about a bad one.

    Raises EvaluationError that lists the first five that cannot be read; from the first on, nothing more is given.
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
                unreadable += [picture.told for picture in batch if isinstance(picture, Unreadable)]
                if not unreadable:
                    yield [picture for picture in batch if not isinstance(picture, Unreadable)]
    refuse(folder, "cannot be read as pictures", unreadable, hint=hint)
