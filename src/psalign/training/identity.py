"""What decides the weights of a training run, and what of it differs from the run that a folder holds.

Place on the path of data: under training/trainer.py; run.json is what it reads and writes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from ..config import describe_changes
from ..errors import CheckpointError, listed
from ..files import Record, read_json, write_json
from ..fingerprints import fingerprint, versions
from .checkpoints import list_checkpoints
from .config import TrainingConfig

RUN = "run.json"
REMOVE_RUN = "Remove that file and run the same command: the checkpoints themselves name the run that they are of."


@dataclass(frozen=True)
class RunIdentity:
    """A run with the same identity ends with the same weights.

    pairs_per_step: of all processes. adapter: its shape. data: fingerprints of what is trained on, by what it is:
    users, rows and UNet. processes: how many write the same weights, which decides nothing.
    """

    config: TrainingConfig
    pairs_per_step: int
    adapter: Record
    data: Mapping[str, str]
    processes: int = 1

    @property
    def name(self) -> str:
        """The run's fingerprint, which its checkpoints carry."""
        decides = {**self.config.identity, "pairs_per_step": self.pairs_per_step}
        return fingerprint({"config": decides, "adapter": self.adapter, "data": " ".join(self.data.values())})

    def write(self, out: Path) -> None:
        about = {"run": self.name, "config": asdict(self.config), "pairs_per_step": self.pairs_per_step,
                 "adapter": self.adapter, "data": dict(self.data)}  # fmt: skip
        write_json(out / RUN, {**about, "processes": self.processes, **versions()})

    def require_same(self, out: Path) -> None:
        """Raises CheckpointError, with what differs, where `out` has checkpoints of a run with another identity."""
        before = _read_run(out)
        if before is None or before["run"] == self.name:
            return
        changes = _changed_settings(before, self.config, self.pairs_per_step)
        shape = {name: value for name, value in self.adapter.items() if name != "recipe"}  # which the users decide
        known = {name: value for name, value in _section(before, "adapter").items() if name in shape}
        changes += describe_changes(known, {name: shape[name] for name in known}, inside="adapter.")
        changes += describe_changes(_section(before, "data"), dict(self.data))
        if changes:
            raise _other_run(out, changes)


def require_same_settings(out: Path, config: TrainingConfig, *, pairs_per_step: int, users: str) -> None:
    """Raises CheckpointError where `out` has checkpoints of a run with settings or users that decide other weights.

    For a command to call before it reads or encodes anything; users: fingerprint of their vectors.
    """
    before = _read_run(out)
    if before is None:
        return
    changes = _changed_settings(before, config, pairs_per_step)
    data = _section(before, "data")
    changes += describe_changes(data, {**data, **({"users": users} if data else {})})
    if changes:
        raise _other_run(out, changes)


def _changed_settings(before: Record, config: TrainingConfig, pairs_per_step: int) -> list[str]:
    now, was = config.identity, _section(before, "config")
    changes = describe_changes({name: was[name] for name in now if name in was},
                           {name: value for name, value in now.items() if name in was})  # fmt: skip
    if before.get("pairs_per_step") != pairs_per_step:
        changes.append(f"pairs of a step (batch_size * accumulation * processes): "
                       f"{before.get('pairs_per_step')} -> {pairs_per_step}")  # fmt: skip
    return changes


def _read_run(out: Path) -> Record | None:
    """What run.json says of the run whose checkpoints are there; None without them, or without that file.

    Raises CheckpointError where it is damaged.
    """
    path = out / RUN
    if not path.is_file() or not list_checkpoints(out / "checkpoints"):
        return None
    fault = partial(CheckpointError, hint=REMOVE_RUN)
    before = read_json(path, what="what a run was made with", needs=("run", "config", "pairs_per_step"), fault=fault)
    for name in ("config", "adapter", "data"):
        if not isinstance(before.get(name, {}), dict):
            raise fault(f"{path} is damaged: expected a JSON object under {name!r}.")
    return before


def _section(before: Record, name: str) -> dict[str, Any]:
    return dict(before.get(name) or {})


def _other_run(out: Path, changes: list[str]) -> CheckpointError:
    newest = list_checkpoints(out / "checkpoints")[-1]
    cache = f" --cache {out / 'cache'}" if (out / "cache").is_dir() else ""
    kept = ": what is encoded is kept" if cache else ""
    about = f"{out} holds checkpoints of another run, up to {newest.name}, whose weights hang on what differs:"
    return CheckpointError(
        listed(about, changes, len(changes)),
        hint=f"Give it as it was, to go on from there; or train anew: --out {out}-2{cache}{kept}.",
    )
