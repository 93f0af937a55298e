"""The published prompt sets, and the mini world's, as rows to draw: one file name, one seed and one user
each.

Place on the path of data: what the grid hands to step 6. Rows are the same for every method.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from psalign.diffusion.prompts import derive_seed, load_prompts, prompt_row, read_csv
from psalign.errors import DatasetError
from psalign.files import Record
from psalign.ids import level_id
from psalign.records import PromptRow
from psalign.sage.download import PROMPT_SETS, PublishedFile

T = TypeVar("T")

SEED = 2025  # the published evaluation's; every row's own seed comes from it
ATTACKED = "mini_attacks"
MINI, SEEN, LEVELS_SUITE = "mini", "mini_seen", "levels"  # the suite `levels` has every prompt once for each level
MAX_NAME = 120  # characters of a file name


def load_prompt_set(name: str, *, prompts: Path, mini: Path, limit: int | None = None) -> list[PromptRow]:
    """Rows of a dataset of the evaluation. prompts: folder of the published CSV files; mini: a mini dataset.

    limit: number of rows, evenly spaced over the whole (the files are sorted by user or category), each
    with the name and the seed that it has in the whole; None: all.
    Raises DatasetError, with the command that fetches or makes it, where the file is missing or is not
    whole.
    """
    rows = _mini_rows(name, mini) if name.startswith(MINI) else _published_rows(PROMPT_SETS[name], prompts)
    return spaced(rows, limit)


def spaced(things: list[T], limit: int | None) -> list[T]:
    """`limit` of the things, evenly spaced, the first among them; all where there are not more."""
    if limit is None or limit >= len(things):
        return things
    return [things[i * len(things) // limit] for i in range(limit)]


def _mini_rows(name: str, folder: Path) -> list[PromptRow]:
    """Rows of `mini` (all but those of levels), of mini_seen, of mini_attacks (every attack), or of a suite of the
    mini dataset, for example mini_scenes.

    The prompts of mini_seen are for users of the training, those of all other suites for users that
    training has never met.
    """
    path = folder / "prompts.jsonl"
    if not path.is_file():
        raise DatasetError(
            f"{path} does not exist: expected the prompts of a mini dataset.",
            hint=f"Run: psalign mini build --out {folder}",
        )
    rows = load_prompts(path)
    if name == MINI:
        return [row for row in rows if row.meta.get("suite") != LEVELS_SUITE]
    if name == ATTACKED:
        return [row for row in rows if str(row.meta.get("suite")).startswith("attack_")]
    if name == SEEN:
        return [row for row in rows if row.meta.get("seen_user")]
    suite = [row for row in rows if f"{MINI}_{row.meta.get('suite')}" == name and not row.meta.get("seen_user")]
    if name != f"{MINI}_{LEVELS_SUITE}":
        return suite
    mildest = level_id(0)  # a cell draws every prompt for its own level
    return [
        replace(row, file_name=row.file_name.removeprefix(f"{mildest}_"), user_id=None)
        for row in suite
        if row.user_id == mildest
    ]


def _published_rows(one: PublishedFile, folder: Path) -> list[PromptRow]:
    path, fetch = folder / f"{one.name}.csv", f"Run: psalign sage download {one.name} --out {folder}"
    if not path.is_file():
        raise DatasetError(f"{path} does not exist: expected the {one.rows:,} prompts of {one.name}.", hint=fetch)
    rows = list(_read(path))
    if len(rows) != one.rows:
        raise DatasetError(f"{path} has {len(rows):,} rows; {one.name} has {one.rows:,}.", hint=f"Remove it. {fetch}")
    return rows


def _read(path: Path) -> Iterator[PromptRow]:
    taken: set[str] = set()
    for number, columns in enumerate(read_csv(path), start=1):
        where = f"{path}, row {number}"
        if not {"caption", "file_name"} <= columns.keys():
            raise DatasetError(f"{where}: expected the columns caption and file_name; saw {', '.join(columns)}.")
        name = _picture_name(columns["file_name"], number, taken)
        taken.add(name.lower())
        yield prompt_row(
            {
                "file_name": name,
                "prompt": columns["caption"],
                "seed": derive_seed(SEED, number - 1),
                "user_id": columns.get("user_id") or None,
                "meta": _meta(columns),
            },
            where,
        )


def _meta(columns: Record) -> Record:
    """All that the file says of a row beside its prompt and its user."""
    return {key: value for key, value in columns.items() if key not in ("caption", "user_id")}


def _picture_name(given: str, number: int, taken: set[str]) -> str:
    """The row's own name as a plain file name that ends in .png; with its number where that is taken or
    empty."""
    stem = re.sub(r"\.(jpe?g|png|webp)$", "", given.strip(), flags=re.IGNORECASE)
    stem = re.sub(r"[^A-Za-z0-9._-]+", "_", stem).strip("._")[:MAX_NAME]
    name = f"{stem or 'row'}.png"
    return name if stem and name.lower() not in taken else f"{stem or 'row'}_{number:06d}.png"
