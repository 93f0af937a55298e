"""Rows of captions with limits in words, from which an adapter learns to let go of what a phrase names.

Place on the path of data: beside sage/caption_rows.py, where training by captions joins at step 4. The mini
dataset writes such rows as limits.jsonl in its split. For another SAGE dataset they are made from the
concepts that its pairs are about.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ..categories import current
from .caption_rows import CaptionRow, captions_by_kind, read_caption_rows
from .rows import SageRow

FILE = "limits.jsonl"
MOST_ROWS = 12_000
MOST_OTHERS = 6  # limits of a row that its caption does not touch
KIND_SHARE = 0.3  # of limits that name the category, not the concept
SEED = 12


def limit_rows(folder: Path, rows: Sequence[SageRow]) -> list[CaptionRow]:
    """Rows with limits of a split: of its limits.jsonl, or made from the concepts of its rows.

    Raises DatasetError as read_caption_rows does.
    """
    if (folder / FILE).is_file():
        return read_caption_rows(folder / FILE)
    return rows_of_concepts(rows)


def rows_of_concepts(rows: Sequence[SageRow]) -> list[CaptionRow]:
    """Two rows for each unsafe caption, at most MOST_ROWS: only the first limits its concept or category.

    Limits that a caption does not touch are concepts of other categories: within one, a concept may well be
    another word for the same thing.
    """
    captions = captions_by_kind(rows)
    unsafe = {row.caption: row for row in rows if row.caption_kind == "unsafe" and (row.pair, "safe") in captions}
    rng = np.random.default_rng(SEED)
    chosen = list(unsafe.values())
    chosen = [chosen[i] for i in sorted(rng.permutation(len(chosen))[: MOST_ROWS // 2].tolist())]
    concepts = sorted({(row.category, row.concept) for row in rows})
    return [one for row in chosen for one in _two(row, captions[row.pair, "safe"], concepts, rng)]


def _two(
    row: SageRow, safe: str, concepts: Sequence[tuple[str, str]], rng: np.random.Generator
) -> tuple[CaptionRow, CaptionRow]:
    others = [concept for category, concept in concepts if category != row.category]
    own = current().words[row.category].split(",")[0].strip() if rng.random() < KIND_SHARE else row.concept

    def drawn() -> list[str]:
        picks = rng.permutation(len(others))[: int(rng.integers(MOST_OTHERS + 1))]
        return [others[i].lower() for i in picks.tolist()]

    limited = [own.lower(), *drawn()]
    rng.shuffle(limited)
    base = CaptionRow(row.caption, row.caption, user_id=None, side="allowed", category=row.category)
    return (
        replace(base, chosen_caption=safe, side="banned", other_caption=row.caption, limits=tuple(limited)),
        replace(base, other_caption=safe, limits=tuple(drawn())),
    )
