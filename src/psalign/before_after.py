"""A sheet of a new adapter: mild prompts by the base model, and below as three users see them, from the same
seeds.

Place on the path of data: after training, steps 6 and 8; `psalign train --data published` ends with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np

from .benchmark.methods import MethodInputs, draw_by
from .categories import category_names
from .diffusion.base_models import Loading, count_weights, load_pipeline
from .diffusion.generate import GenerationConfig, Nobody
from .diffusion.prompts import derive_seed
from .diffusion.shards import Shard
from .evaluation.pictures import read_picture
from .evaluation.report.contact_sheet import Sheet, SheetRow, write_sheet_png
from .files import read_template
from .records import PromptRow
from .sage.dataset import load_split
from .users.store import EmbeddingStore

SHOWN_USERS = 3
MOST_STEPS, SCHEDULER = 25, "dpm"  # of a picture: as good as 50 of the base's own sampler, in half the time
BYTES = {"fp32": 4, "fp16": 2, "bf16": 2}
DRAWING_BYTES = 2_000_000_000  # beside the weights, while a picture is drawn


def draw_before_after(
    out: Path, data: Path, users: EmbeddingStore, *, loading: Loading, config: GenerationConfig
) -> Path:
    """Write out/sheet.png with the adapter of a finished run; its pictures are in out/sheet, and those there
    stay.

    data: SAGE dataset, of whose users three are shown. loading: how the whole pipeline is read. config:
    sampling.
    Raises CheckpointError where the base cannot be loaded, GenerationError where a picture cannot be drawn.
    """
    texts = read_prompts()
    people = pick_users(data, users)
    config = replace(config, steps=min(config.steps, MOST_STEPS), scheduler=loading.scheduler, dtype=loading.dtype)
    pipeline = load_pipeline(config.base, **asdict(loading))
    folders = {method: out / "sheet" / method for method in ("base", "psa")}
    draw_by("base", pipeline, _rows(texts, None), folders["base"], config=replace(config, method="base"),
            inputs=MethodInputs(Nobody()))  # fmt: skip
    steered = [row for user in people for row in _rows(texts, user)]
    draw_by("psa", pipeline, steered, folders["psa"], config=replace(config, method="psa"),
            inputs=MethodInputs(users, weights=out / "adapter"))  # fmt: skip
    path = out / "sheet.png"
    if Shard().is_first:
        write_sheet_png(path, _sheet(texts, people, users, folders))
    return path


def read_prompts() -> list[tuple[str | None, str]]:
    """Prompts of the sheet, each with the category that it leans to, or None."""
    lines = read_template("sheet_prompts.txt").splitlines()
    pairs = [line.split(": ", 1) for line in lines if not line.startswith("#")]
    return [(category if category in category_names() else None, text) for category, text in pairs]


def pick_users(data: Path, users: EmbeddingStore) -> list[str]:
    """Three users never trained on, with different limits, neither none nor all."""
    found: dict[tuple[str, ...], str] = {}
    for row in load_split(data, "test_unseen", check_pictures=False):
        banned = users.known_bans(row.user_id)
        if 1 < len(banned) < 5:
            found.setdefault(banned, row.user_id)
    return list(found.values())[:SHOWN_USERS]


def describe_bans(banned: Sequence[str]) -> str:
    """What a user bans, as a sheet says it."""
    if len(banned) in (0, len(category_names())):
        return "bans everything" if banned else "bans nothing"
    return "bans " + ", ".join(banned)


def read_pictures(folder: Path, rows: Sequence[PromptRow]) -> list[np.ndarray]:
    """Pictures of rows, uint8 RGB [H, W, 3] each."""
    return [read_picture(folder / row.file_name) for row in rows]


def lacks_memory(place: str, loading: Loading) -> str:
    """Why a whole pipeline does not fit into the memory that is free; empty where it does."""
    import psutil

    needed = count_weights(place, loading.variant) * BYTES[loading.dtype] + DRAWING_BYTES
    free = psutil.virtual_memory().available
    if needed <= free:
        return ""
    return f"the whole pipeline needs about {needed / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free"


def loading_for(device: str, *, source: str, variant: str | None) -> Loading:
    """How the whole pipeline is read for a sheet: on a GPU in fp16, and on CUDA one model at a time."""
    if device.startswith("cpu"):
        return Loading(source, device, scheduler=SCHEDULER, variant=variant)
    offload = "model" if device.startswith("cuda") else "none"
    return Loading(source, device, "fp16", SCHEDULER, offload, variant)


def _rows(texts: Sequence[tuple[str | None, str]], user: str | None) -> list[PromptRow]:
    return [
        PromptRow(f"{user or 'base'}_{i}.png", text, derive_seed(i), user_id=user) for i, (_, text) in enumerate(texts)
    ]


def _sheet(
    texts: Sequence[tuple[str | None, str]], people: Sequence[str], users: EmbeddingStore, folders: dict[str, Path]
) -> Sheet:
    table = [SheetRow("Base model", "knows no user", read_pictures(folders["base"], _rows(texts, None)))]
    for user in people:
        banned = users.known_bans(user)
        pictures = read_pictures(folders["psa"], _rows(texts, user))
        outlined = [category in banned for category, _ in texts]
        table.append(
            SheetRow(f"User {user.lstrip('0')}", describe_bans(banned), pictures, outlined, new_group=user == people[0])
        )
    return Sheet([text for _, text in texts], table, [category or "safe" for category, _ in texts])
