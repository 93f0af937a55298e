"""Makes pictures: prompts and users in, PNG files and manifest.jsonl out.

Place on the path of data: step 6. A picture depends on its own row and seed, not on its batch; a run that was
interrupted goes on from the pictures on disk.
"""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any, Protocol

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from ..adapter.guard import AttachedAdapter
from ..errors import DatasetError, GuardError, OutputError, RecipeMismatch, UsageError
from ..records import ManifestRow, PromptRow, Record, fingerprint, read_jsonl, write_bytes, write_json, write_jsonl
from .base_models import base_fingerprint

PERSONAL = frozenset(
    {"age", "age_group", "gender", "religion", "physical_condition", "mental_condition", "user_data"}
)  # columns of a profile, which no prompt row may carry into a manifest


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
        if self.scale < 0:
            raise UsageError(f"scale must be at least 0; saw {self.scale}.")


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
    Raises, before anything is written, OutputError where `out` holds another run, EmbeddingMissing for a user without
    a vector; with an adapter UsageError for rows of no user, RecipeMismatch for vectors it was not trained with.
    """
    check_rows(rows)
    if attached is not None:
        check_users(rows, users, attached)
    manifest = [_manifest_row(row, config, users) for row in rows]
    open_run(
        out,
        {
            "config": asdict(config),
            "base": base_fingerprint(pipeline),
            "rows": fingerprint([asdict(row) for row in rows]),
            "users": users.fingerprint,
            "drawn_users": _users_fingerprint(rows, users, with_vectors=attached is not None),
        },
    )
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
    """Pictures of a batch of rows, uint8 RGB [B, H, W, 3]; each from its own CPU generator.

    Raises GuardError for pictures that are not finite.
    """
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
    broken = [row.file_name for row, picture in zip(rows, pictures, strict=True) if not np.isfinite(picture).all()]
    if broken:
        raise GuardError(
            f"{len(broken)} of {len(rows)} pictures are not finite: {', '.join(broken[:5])}.",
            hint="Lower --scale or --guidance; if that does not help, the weights are broken.",
        )
    return (pictures * 255).round().astype(np.uint8)


def check_rows(rows: Sequence[PromptRow]) -> None:
    """Raises UsageError for no rows at all, or two that would write one file."""
    if not rows:
        raise UsageError("No prompts to draw.")
    names = [row.file_name for row in rows]
    twice = sorted({name for name in names if names.count(name) > 1})[:5] if len(set(names)) < len(names) else []
    if twice:
        raise UsageError(f"Two rows write one file: {', '.join(twice)}.")


def check_users(rows: Sequence[PromptRow], users: Users, attached: AttachedAdapter) -> None:
    """Raises UsageError, RecipeMismatch or EmbeddingMissing for rows that the adapter cannot draw."""
    nobody = [row.file_name for row in rows if row.user_id is None]
    if nobody:
        raise UsageError(
            f"{len(nobody)} of {len(rows)} rows have no user, and an adapter draws for users: {', '.join(nobody[:5])}.",
            hint="Give each row a user_id, or draw for a level.",
        )
    trained = attached.adapter.config.recipe
    if users.fingerprint != trained:
        raise RecipeMismatch(
            f"These user vectors were made by recipe {users.fingerprint}; the adapter was trained with {trained}.",
            hint="Run: psalign embed --users users.csv --like <the vectors the adapter was trained with>",
        )
    users.vectors(_user_ids(rows))


def open_run(out: Path, run: dict[str, Any]) -> None:
    """Claim a folder for a run, or go on with it. Raises OutputError where another run's pictures are there."""
    mark, name = out / "run.json", fingerprint(run)
    if mark.exists() and json.loads(mark.read_text())["fingerprint"] == name:
        return
    drawn = any(out.rglob("*.png"))
    if drawn and mark.exists():
        raise OutputError(
            f"{out} holds pictures of another run (other prompts, users, adapter, base or settings).",
            hint="Choose another --out, or remove that folder.",
        )
    if drawn:
        raise OutputError(
            f"{out} has pictures but no run.json: they are not of this run.", hint="Choose another --out."
        )
    (out / "manifest.jsonl").unlink(missing_ok=True)  # of a run whose pictures are gone
    write_json(mark, {"fingerprint": name, **run})


def write_picture(path: Path, picture: np.ndarray) -> None:
    """Write uint8 RGB [H, W, 3] as PNG, whole or not at all."""
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="PNG")
    write_bytes(path, stream.getvalue())


def load_prompts(path: Path) -> list[PromptRow]:
    """Prompt rows of a JSON-lines file; a user id that is a number gets seven digits.

    Raises DatasetError that names file and row for a row that is none, or that carries columns of a profile.
    """
    return [_prompt_row(record, f"{path}, row {number}") for number, record in enumerate(read_jsonl(path), start=1)]


def _prompt_row(record: Record, where: str) -> PromptRow:
    try:
        row = PromptRow(**record)
    except TypeError as err:
        raise DatasetError(f"{where}: not a prompt row ({err}).") from err
    checks = {
        "file_name": (_is_picture_name(row.file_name), "a relative path without '..' that ends in .png"),
        "prompt": (isinstance(row.prompt, str), "text"),
        "seed": (_is_whole(row.seed) and row.seed < 2**63, "a whole number from 0 to 2**63 - 1"),
        "user_id": (row.user_id is None or _is_user_id(row.user_id), "text, a whole number or null"),
        "meta": (isinstance(row.meta, dict), "a JSON object"),
    }
    for name, (fine, expected) in checks.items():
        if not fine:
            raise DatasetError(f"{where}: {name} must be {expected}; saw {getattr(row, name)!r}.")
    personal = sorted({key for key in _keys(row.meta) if _column(key) in PERSONAL})
    if personal:
        raise DatasetError(
            f"{where}: meta has {', '.join(personal)}; profiles never travel with pictures.",
            hint="Keep profiles in the users file; a row names its user by user_id alone.",
        )
    name, user_id = str(PurePosixPath(row.file_name)), row.user_id
    return replace(row, file_name=name, user_id=None if user_id is None else _seven_digits(str(user_id)))


def _is_picture_name(name: Any) -> bool:
    if not isinstance(name, str) or not name.isprintable() or "\\" in name:
        return False
    path = PurePosixPath(name)
    return path.suffix == ".png" and not name.endswith("/") and not path.is_absolute() and ".." not in path.parts


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_user_id(value: Any) -> bool:
    return bool(value) if isinstance(value, str) else _is_whole(value)


def _seven_digits(user_id: str) -> str:
    """A number as every file of ours spells it: 33 -> "0000033"."""
    return user_id.zfill(7) if user_id.isdecimal() else user_id


def _keys(value: Any) -> Iterator[str]:
    """Every key of a JSON value, at any depth."""
    inside = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    yield from value if isinstance(value, dict) else ()
    for part in inside:
        yield from _keys(part)


def _column(key: str) -> str:
    return re.sub(r"[\s-]+", "_", key.strip().lower())


def _user_ids(rows: Sequence[PromptRow]) -> list[str]:
    return sorted({row.user_id for row in rows if row.user_id is not None})


def _users_fingerprint(rows: Sequence[PromptRow], users: Users, *, with_vectors: bool) -> str:
    """Names what a run's pictures take from its users: their bans and, with an adapter, their vectors."""
    ids = _user_ids(rows)
    vectors = users.vectors(ids).tobytes().hex() if with_vectors else None
    return fingerprint([[users.banned(user_id) for user_id in ids], vectors])


def _manifest_row(row: PromptRow, config: GenerationConfig, users: Users) -> ManifestRow:
    level = re.fullmatch(r"level_([0-5])", row.user_id or "")
    return ManifestRow(
        file_name=row.file_name,
        prompt=row.prompt,
        seed=row.seed,
        method=config.method,
        base=config.base,
        user_id=row.user_id,
        banned=users.banned(row.user_id) if row.user_id is not None else (),
        level=int(level[1]) if level else None,
        scale=config.scale,
        adapter=config.adapter,
        recipe=users.fingerprint,
        meta=row.meta,
    )
