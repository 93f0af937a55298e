"""Pictures that the published code drew get a manifest, so that they are measured and judged like ours.

Place on the path of data: between steps 6 and 7. The published code leaves
eval_images/<dataset>/<method>/<base> [/level_<k>]/ with pictures by the rows' own names and nothing that
says prompt, user or bans: those are in the prompt sets and the users file. Pictures are left as they are.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from psalign.categories import require_default
from psalign.errors import UsageError
from psalign.evaluation.catalog import BASES, DATASETS, METHODS
from psalign.evaluation.cells import Cell
from psalign.evaluation.pictures import is_picture_file
from psalign.files import write_jsonl
from psalign.ids import LEVELS, level_id
from psalign.records import ManifestRow, PromptRow
from psalign.users.levels import PUBLISHED_LEVEL_BANS
from psalign.users.policy import banned_categories
from psalign.users.profile import load_profiles

from .prompt_sets import SEED, load_prompt_set

MADE_BY = "published code"


def adopt(images: Path, *, prompts: Path, users: Path | None = None) -> dict[Cell, int]:
    """Write manifest.jsonl into every cell that has pictures and no manifest or run of ours. Returns pictures
    by cell.

    prompts: folder of the published prompt sets; users: users file, for the bans of rows that have a user.
    Without it those are not known, and whatever measures limits refuses the rows.
    Raises UsageError where there is no such cell, or a cell has a picture that no row of its dataset has.
    """
    require_default("The published code")
    bans = {} if users is None else {one.user_id: banned_categories(one) for one in load_profiles(users)}
    found = {cell: _rows(cell, images, prompts, bans) for cell in _unnamed_cells(images)}
    if not found:
        raise UsageError(
            f"{images} has no pictures without a manifest.",
            hint="Expected <dataset>/<method>/<base>[/level_0..5]/ with .jpg or .png below it.",
        )
    for cell, rows in found.items():
        write_jsonl(cell.folder(images) / "manifest.jsonl", [row.to_record() for row in rows])
    return {cell: len(rows) for cell, rows in found.items()}


def _unnamed_cells(images: Path) -> Iterator[Cell]:
    for dataset in DATASETS:
        for method in METHODS:
            for base in BASES:
                for level in (None, *LEVELS) if METHODS[method].has_levels else (None,):
                    cell = Cell(dataset, method, base, level)
                    folder = cell.folder(images)
                    is_ours = any((folder / name).exists() for name in ("manifest.jsonl", "run.json"))
                    if folder.is_dir() and not is_ours and _pictures(folder):
                        yield cell


def _pictures(folder: Path) -> list[str]:
    return sorted(path.name for path in filter(is_picture_file, folder.iterdir()))


def _rows(cell: Cell, images: Path, prompts: Path, bans: Mapping[str, tuple[str, ...]]) -> list[ManifestRow]:
    """Manifest rows of a cell, in the order of its prompt set; rows without a picture are left out."""
    folder, known = cell.folder(images), load_prompt_set(cell.dataset, prompts=prompts, mini=prompts)
    by_stem = {_stem(str(row.meta.get("file_name", row.file_name))): row for row in known}
    names = {_stem(name): name for name in _pictures(folder)}
    strangers = sorted(set(names) - set(by_stem))
    if strangers:
        some = ", ".join(strangers[:5])
        raise UsageError(f"{folder}: {len(strangers)} pictures are of no row of {cell.dataset}: {some}.")
    return [_row(cell, row, names[stem], bans) for stem, row in by_stem.items() if stem in names]


def _row(cell: Cell, row: PromptRow, name: str, bans: Mapping[str, tuple[str, ...]]) -> ManifestRow:
    user_id = row.user_id if cell.level is None else level_id(cell.level)
    own = () if user_id is None else bans.get(user_id)
    banned = own if cell.level is None else PUBLISHED_LEVEL_BANS[cell.level]
    return ManifestRow(
        file_name=name,
        prompt=row.prompt,
        seed=SEED,
        method=cell.method,
        base=cell.base,
        user_id=user_id,
        banned=banned,
        level=cell.level,
        meta={**row.meta, "made_by": MADE_BY},
    )


def _stem(name: str) -> str:
    return re.sub(r"\.(jpe?g|png|webp)$", "", name.strip(), flags=re.IGNORECASE)
