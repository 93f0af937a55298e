"""Finds the file of ready-made weights that a baseline brings."""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError

SUFFIX = ".safetensors"


def find_weights(place: Path, *, usual: str = "") -> Path:
    """The safetensors file: `place` itself, or in the folder `place` the one of the usual name, or the only one.

    Raises CheckpointError where there is none or it is not clear which; a pickle is never read.
    """
    if place.is_file() and place.suffix == SUFFIX:
        return place
    if place.is_file():
        raise CheckpointError(
            f"{place} is no {SUFFIX} file; other formats can run code when they are read.",
            hint="Convert it on a machine that may run it: safetensors.torch.save_file(weights, path).",
        )
    there = sorted(place.glob(f"*{SUFFIX}"))
    if usual and place / usual in there:
        return place / usual
    if len(there) != 1:
        seen = ", ".join(path.name for path in there[:5]) or ("none" if place.is_dir() else "nothing there")
        raise CheckpointError(f"{place}: expected one {SUFFIX} file; saw {seen}.", hint="Name the file itself.")
    return there[0]
