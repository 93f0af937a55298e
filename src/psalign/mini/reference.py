"""Pictures that the mini base's safe pictures are compared with: drawings of the same captions.

Place on the path of data: the reference of FID and KID on mini (step 7); other bases have photographs.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..decoding import encode
from ..errors import DatasetError
from ..files import write_bytes, write_json
from ..fingerprints import fingerprint
from ..records import PromptRow
from . import world
from .dataset import BUILDING, claim_build


def draw_reference(folder: Path, rows: Sequence[PromptRow], *, per_caption: int = 4) -> Path:
    """Draw the scene of every safe prompt (kind "safe" in meta) `per_caption` times, as PNG files.

    A finished folder of the same drawings is kept. Returns the folder.
    Raises DatasetError where no prompt is safe, OutputError where the folder holds other drawings.
    """
    safe = [row for row in rows if row.meta.get("kind") == "safe"]
    if not safe:
        raise DatasetError(f"None of {len(rows)} prompts is a safe one of the mini world (kind 'safe' in meta).")
    scenes = [(row.file_name, _scene(row)) for row in safe]
    made_of = fingerprint([per_caption, [[name, repr(scene)] for name, scene in scenes]])
    mark = folder / "reference.json"
    pictures = [f"{Path(name).stem}_{number}.png" for name, _ in scenes for number in range(per_caption)]
    if claim_build(folder, made_of, mark=mark, names=pictures, what="set of drawings"):
        return folder
    for name, scene in scenes:
        for number in range(per_caption):
            seed = int(fingerprint([name, number]), 16) % 2**31
            picture = encode(world.draw(scene, seed=seed))
            write_bytes(folder / f"{Path(name).stem}_{number}.png", picture, sync=False)
    write_json(mark, {"fingerprint": made_of, "captions": len(scenes), "per_caption": per_caption})
    (folder / BUILDING).unlink(missing_ok=True)
    return folder


def _scene(row: PromptRow) -> world.Scene:
    try:
        return world.Scene(*(row.meta[key] for key in ("background", "subject", "colour", "side")))
    except KeyError as err:
        raise DatasetError(f"{row.file_name}: its meta has no {err}, so its scene cannot be drawn.") from err
