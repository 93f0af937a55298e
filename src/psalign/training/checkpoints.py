"""Training checkpoints: everything a run needs to go on, each written whole or not at all.

Place on the path of data: under training/trainer.py.
"""

from __future__ import annotations

import io
import pickle
import re
import zipfile
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..records import write_bytes


def save_checkpoint(folder: Path, state: dict[str, Any], *, step: int, keep: int) -> None:
    """Write step-<n>.pt and remove all but the newest `keep`."""
    stream = io.BytesIO()
    torch.save(state, stream)
    write_bytes(folder / f"step-{step:08d}.pt", stream.getvalue())
    for old in list_checkpoints(folder)[:-keep]:
        old.unlink()


def load_newest(folder: Path, *, run: str) -> dict[str, Any] | None:
    """State of the newest checkpoint, or None where there is none.

    run: fingerprint of the run. Raises CheckpointError where it is broken or of another run.
    """
    paths = list_checkpoints(folder)
    if not paths:
        return None
    try:
        state: dict[str, Any] = torch.load(paths[-1], weights_only=True)
    except (RuntimeError, EOFError, zipfile.BadZipFile, OSError, ValueError, pickle.UnpicklingError) as err:
        raise CheckpointError(
            f"{paths[-1]} cannot be read: {err}", hint="Remove that file: the run goes on from the one before it."
        ) from err
    if state.get("run") != run:
        raise CheckpointError(
            f"{folder} holds checkpoints of another run (other data, base, users or settings).",
            hint="Choose another --out, or remove that folder.",
        )
    return state


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if re.fullmatch(r"step-\d{8}\.pt", path.name))
