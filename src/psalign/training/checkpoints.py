"""Training checkpoints: everything a run needs to go on, each written whole or not at all.

Place on the path of data: under training/trainer.py.
"""

from __future__ import annotations

import io
import re
from pathlib import Path
from typing import Any

import torch

from ..errors import CheckpointError
from ..files import write_bytes
from ..tensors import read_pickled


def save_checkpoint(folder: Path, state: dict[str, Any], *, step: int, keep: int) -> None:
    """Write step-<n>.pt, through to the disk, and remove all but the newest `keep`.

    Raises OutputError where the disk is full; the checkpoints that are there stay.
    """
    stream = io.BytesIO()
    torch.save(state, stream)
    write_bytes(folder / f"step-{step:08d}.pt", stream.getvalue())
    for old in [*list_checkpoints(folder)[:-keep], *folder.glob(".step-*.part")]:  # parts: of runs that were killed
        old.unlink()


def load_newest(folder: Path, *, run: str) -> dict[str, Any] | None:
    """State of the newest checkpoint, or None where there is none.

    run: fingerprint of the run. Raises CheckpointError where it is broken or of another run.
    """
    paths = list_checkpoints(folder)
    if not paths:
        return None
    before = f"the run goes on from {paths[-2].name}" if len(paths) > 1 else "the run starts from the beginning"
    state: Any = read_pickled(paths[-1], hint=f"Remove that file and run the same command: {before}.")
    if not isinstance(state, dict) or state.get("run") != run:
        raise CheckpointError(
            f"{folder} holds checkpoints of another run (other data, base, users or settings).",
            hint="Choose another --out (with --cache, latents are not made again), or remove that folder.",
        )
    return dict(state)


def list_checkpoints(folder: Path) -> list[Path]:
    """Checkpoints of a folder, oldest first."""
    if not folder.is_dir():
        return []
    return sorted(path for path in folder.iterdir() if re.fullmatch(r"step-\d{8}\.pt", path.name))


def random_states() -> dict[str, Any]:
    """States of this process's random generators. The trainer draws from none of them; what users add may."""
    gpu = [torch.cuda.get_rng_state()] if torch.cuda.is_available() else []
    return {"cpu": torch.get_rng_state(), "gpu": gpu}


def set_random_states(states: dict[str, Any]) -> None:
    torch.set_rng_state(states["cpu"])
    if states["gpu"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["gpu"][0])
