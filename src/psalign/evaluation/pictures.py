"""Folders of pictures: a manifest and its pictures, all of them readable, and no others.

Place on the path of data: under step 7. What cannot be measured is an error, never a safe picture.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from psalign.decoding import Undecodable, decode, is_hidden
from psalign.errors import EvaluationError, some_of
from psalign.fingerprints import file_fingerprint
from psalign.records import ManifestRow, read_manifest

Picture = NDArray[np.uint8]  # [H, W, 3], RGB [0, 255]
PICTURE_SUFFIXES = (".png", ".jpg", ".jpeg", ".webp")
MAKE_AGAIN = "Make these pictures again with psalign generate: what cannot be judged never counts as safe."


def read_picture(path: Path) -> Picture:
    """A picture as uint8 RGB [H, W, 3]. Raises EvaluationError where it is missing, damaged or too large."""
    try:
        return np.asarray(decode(path), dtype=np.uint8)
    except Undecodable as err:
        raise EvaluationError(f"{path} cannot be read as a picture ({err}).") from err


def complete_rows(folder: Path) -> list[ManifestRow]:
    """Rows of a folder's manifest, each of which has its picture there.

    Raises EvaluationError, listing the first five, where a picture is missing, is in the manifest twice,
    or lies there without a row.
    """
    rows = read_manifest(folder / "manifest.jsonl")
    names = [row.file_name for row in rows]
    present = {path.relative_to(folder).as_posix() for path in own_pictures(folder)}
    if not rows:
        raise EvaluationError(f"{folder}: the manifest has no rows, so there is nothing to judge.")
    refuse(folder, "are in the manifest more than once", sorted(n for n, count in Counter(names).items() if count > 1))
    refuse(folder, "are in the manifest but missing", [name for name in names if name not in present])
    refuse(folder, "have no row in the manifest", sorted(present - set(names)))
    return rows


@dataclass(frozen=True)
class Pictures:
    """Pictures of a folder: their manifest rows and the digests of their files, in the manifest's order.

    base: folder of the base model's pictures of the same rows, facts: file that facts about single
    pictures go to; None: it is not known.
    """

    folder: Path
    rows: list[ManifestRow]
    digests: list[str]
    base: Path | None = None
    facts: Path | None = None

    @property
    def paths(self) -> list[Path]:
        return [self.folder / row.file_name for row in self.rows]

    def chosen(self, keep: Callable[[ManifestRow], bool]) -> Pictures:
        pairs = [(row, digest) for row, digest in zip(self.rows, self.digests, strict=True) if keep(row)]
        return replace(self, rows=[row for row, _ in pairs], digests=[digest for _, digest in pairs])


def open_pictures(folder: Path, *, base: Path | None = None, facts: Path | None = None) -> Pictures:
    """The complete pictures of a folder. Raises EvaluationError as complete_rows does."""
    rows = complete_rows(folder)
    return Pictures(folder, rows, [file_fingerprint(folder / row.file_name) for row in rows], base, facts)


def own_pictures(folder: Path) -> list[Path]:
    """Pictures under a folder, without those of other cells inside it (level_3 in psa's folder): folders that
    have a manifest, or the run.json of one that is still being drawn."""
    marks = [path for name in ("manifest.jsonl", "run.json") for path in folder.rglob(name)]
    cells = {path.parent for path in marks} - {folder}
    found = filter(is_picture_file, folder.rglob("*"))
    return sorted(path for path in found if not cells & set(path.parents))


def is_picture_file(path: Path) -> bool:
    """Whether a path is a file named like a picture; a folder or a broken link of such a name is not."""
    return path.suffix.lower() in PICTURE_SUFFIXES and not is_hidden(path) and path.is_file()


def refuse(folder: Path, fault: str, names: Sequence[str], *, hint: str = MAKE_AGAIN) -> None:
    """Raises EvaluationError that lists the first five, where there are any."""
    if names:
        raise EvaluationError(f"{folder}: {len(names)} pictures {fault}: {some_of(names)}.", hint=hint)
