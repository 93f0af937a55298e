"""Makes pictures: prompts and users in, PNG files and manifest.jsonl out.

Place on the path of data: step 6. A picture depends on its own row and seed, not on its batch; a run that was
interrupted goes on from the pictures on disk.
"""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..adapter.guard import AttachedAdapter
from ..errors import DatasetError, OutputError, UsageError
from ..records import ManifestRow, PromptRow, fingerprint, read_jsonl, write_bytes, write_json, write_jsonl


class Users(Protocol):
    """What generation needs to know of users: their vectors and bans, never their profiles."""

    @property
    def fingerprint(self) -> str: ...

    def vectors(self, user_ids: Sequence[str]) -> np.ndarray: ...

    def banned(self, user_id: str) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class GenerationConfig:
    """How pictures are made. guidance: classifier-free guidance scale. scale: strength of the adapter, 0 is the base.

    negative_prompts: by user id, for the baseline of that name.
    """

    method: str = "base"
    base: str = "mini"
    steps: int = 15
    guidance: float = 4.0
    scale: float = 1.0
    batch_size: int = 64
    adapter: str | None = None
    negative_prompts: Mapping[str, str] | None = None

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch_size < 1:
            raise UsageError(f"steps and batch_size must be at least 1; saw {self.steps} and {self.batch_size}.")
        if not np.isfinite(self.scale) or not np.isfinite(self.guidance):
            raise UsageError(f"scale and guidance must be finite; saw {self.scale} and {self.guidance}.")


def generate(
    pipeline: Any,
    rows: Sequence[PromptRow],
    out: Path,
    *,
    config: GenerationConfig,
    users: Users,
    attached: AttachedAdapter | None = None,
) -> list[ManifestRow]:
    """Make every picture that is not on disk yet, then write the manifest. Returns its rows.

    attached: the adapter on the pipeline's UNet, or None for a method without one.
    Raises OutputError where `out` holds another run, EmbeddingMissing for a user without a vector.
    """
    check_rows(rows)
    manifest = [_manifest_row(row, config, users) for row in rows]
    open_run(
        out, {"config": asdict(config), "rows": fingerprint([asdict(row) for row in rows]), "users": users.fingerprint}
    )
    if attached is not None:
        users.vectors([row.user_id for row in rows if row.user_id is not None])
    missing = [row for row in rows if not (out / row.file_name).exists()]
    missing.sort(key=lambda row: len(row.prompt))
    for start in tqdm(range(0, len(missing), config.batch_size), desc=config.method, unit="batch", disable=not missing):
        batch = missing[start : start + config.batch_size]
        for row, picture in zip(
            batch, draw_batch(pipeline, batch, config=config, users=users, attached=attached), strict=True
        ):
            write_picture(out / row.file_name, picture)
    write_jsonl(out / "manifest.jsonl", manifest)
    return manifest


def draw_batch(
    pipeline: Any,
    rows: Sequence[PromptRow],
    *,
    config: GenerationConfig,
    users: Users,
    attached: AttachedAdapter | None = None,
) -> np.ndarray:
    """Pictures of a batch of rows, uint8 RGB [B, H, W, 3]; each from its own CPU generator."""
    negatives = config.negative_prompts or {}
    arguments: dict[str, Any] = {
        "prompt": [row.prompt for row in rows],
        "negative_prompt": [negatives.get(row.user_id or "", "") for row in rows],
        "generator": [torch.Generator().manual_seed(row.seed) for row in rows],
        "num_inference_steps": config.steps,
        "guidance_scale": config.guidance,
        "output_type": "np",
    }
    if attached is not None:
        vectors = [None if row.user_id is None else torch.from_numpy(users.vectors([row.user_id])[0]) for row in rows]
        arguments |= attached.condition(
            vectors, recipe=users.fingerprint, scale=config.scale, guided=config.guidance > 1
        )
    pictures = pipeline(**arguments).images
    return (pictures * 255).round().astype(np.uint8)


def check_rows(rows: Sequence[PromptRow]) -> None:
    """Raises UsageError for no rows at all, or two that would write one file."""
    if not rows:
        raise UsageError("No prompts to draw.")
    names = [row.file_name for row in rows]
    twice = sorted({name for name in names if names.count(name) > 1})[:5] if len(set(names)) < len(names) else []
    if twice:
        raise UsageError(f"Two rows write one file: {', '.join(twice)}.")


def open_run(out: Path, run: dict[str, Any]) -> None:
    """Claim a folder for a run, or go on with it. Raises OutputError where another run's pictures are there."""
    mark, name = out / "run.json", fingerprint(run)
    if mark.exists():
        if json.loads(mark.read_text())["fingerprint"] != name:
            raise OutputError(
                f"{out} holds pictures of another run (other prompts, users, adapter or settings).",
                hint="Choose another --out, or remove that folder.",
            )
    elif out.exists() and any(out.glob("*.png")):
        raise OutputError(
            f"{out} has pictures but no run.json: they are not of this run.", hint="Choose another --out."
        )
    else:
        write_json(mark, {"fingerprint": name, **run})


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write uint8 RGB [H, W, 3] as PNG, whole or not at all."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG")
    write_bytes(path, stream.getvalue())


def load_prompts(path: Path) -> list[PromptRow]:
    """Prompt rows of a JSON-lines file. Raises DatasetError for a row that is none."""
    rows = []
    for number, record in enumerate(read_jsonl(path), start=1):
        try:
            rows.append(PromptRow(**record))
        except TypeError as err:
            raise DatasetError(f"{path}, row {number}: not a prompt row ({err}).") from err
    return rows


def _manifest_row(row: PromptRow, config: GenerationConfig, users: Users) -> ManifestRow:
    level = row.user_id.removeprefix("level_") if row.user_id and row.user_id.startswith("level_") else None
    return ManifestRow(
        file_name=row.file_name,
        prompt=row.prompt,
        seed=row.seed,
        method=config.method,
        base=config.base,
        user_id=row.user_id,
        banned=users.banned(row.user_id) if row.user_id is not None else (),
        level=int(level) if level is not None else None,
        scale=config.scale,
        adapter=config.adapter,
        recipe=users.fingerprint,
        meta=row.meta,
    )
