"""The rows of a SAGE dataset, whichever of its two layouts it has.

Place on the path of data: where training joins at step 4. Layout A: {split}/metadata.jsonl beside the pictures; layout
B: images/, annotations.csv and prompts.csv. docs/DATA.md has both, column by column.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from pathlib import Path

from ..categories import require_taxonomy
from ..errors import DatasetError
from ..files import read_json
from . import layout_a, layout_b
from .layout_a import METADATA, parse_row, to_record, write_split
from .preference import SPLITS, SageRow, picture_name, unsafe_is_chosen

__all__ = [
    "METADATA", "SPLITS", "Banned", "SageRow", "dataset_root", "find_splits", "has_rows", "load_split", "needs_bans",
    "parse_row", "picture_folder", "picture_name", "read_splits", "to_record", "unsafe_is_chosen", "write_split",
]  # fmt: skip

Banned = Callable[[str], Collection[str]]  # categories that a user bans, by user id
UNPACKED = "sage_dataset"
MARK = "dataset.json"  # of a dataset that was built here
HINT = "docs/DATA.md has both layouts. To try without SAGE: psalign mini build --out data/mini"


def dataset_root(folder: Path) -> Path:
    """Where the dataset of a folder lies: there, or in sage_dataset/ inside it, where the published zip unpacks."""
    inside = folder / UNPACKED
    return inside if not _has_dataset(folder) and _has_dataset(inside) else folder


def _has_dataset(root: Path) -> bool:
    return layout_b.is_layout_b(root) or any((root / split / METADATA).is_file() for split in SPLITS)


def load_split(root: Path, split: str, *, banned: Banned | None = None, check_pictures: bool = True) -> list[SageRow]:
    """Rows of a split. banned: what users ban, joined to the rows; preferences of layout B follow from it.

    Raises DatasetError for a broken row (file and line), missing pictures (the first five), no rows; whatever `banned`
    raises for a user it does not know.
    """
    if split not in SPLITS:
        raise DatasetError(f"Unknown split '{split}'; choose one of: {', '.join(SPLITS)}.")
    if split not in find_splits(root):
        raise _no_split(root, split)
    rows = []
    for row in read_splits(root, banned=banned, only=split, where=str(root / split / METADATA))[split]:
        if isinstance(row, DatasetError):
            raise row
        rows.append(row)
    if not rows:
        raise DatasetError(f"{root / split / METADATA} has no rows.")
    if check_pictures:
        _require_pictures(picture_folder(root, split), rows)
    return rows


def find_splits(root: Path) -> list[str]:
    """Splits of a dataset; none where there is no dataset.

    Raises DatasetError where both layouts are there, or annotations.csv of layout B cannot be read.
    """
    found = [split for split in SPLITS if (root / split / METADATA).is_file()]
    if not layout_b.is_layout_b(root):
        return found
    if found:
        raise DatasetError(
            f"{root} has both layouts: {found[0]}/{METADATA} and {layout_b.ANNOTATIONS}.", hint="Keep one of them."
        )
    pairs = layout_b.read_pairs(root)
    return [split for split in SPLITS if split in pairs]


def has_rows(root: Path, split: str) -> bool:
    """Whether a dataset has a split, with a row in it that may be broken."""
    path = root / split / METADATA
    return split in find_splits(root) and (not path.is_file() or path.stat().st_size > 0)


def read_splits(
    root: Path, *, banned: Banned | None = None, only: str | None = None, where: str | None = None
) -> dict[str, Iterator[SageRow | DatasetError]]:
    """Rows of every split (or of one), each fault in its place. where: what messages call a file of layout A."""
    require_taxonomy_of(root)
    splits = [split for split in find_splits(root) if only in (None, split)]
    if not layout_b.is_layout_b(root):
        read = {split: layout_a.read_rows(root / split / METADATA, where=where or split) for split in splits}
        return read if banned is None else {split: _joined(rows, banned) for split, rows in read.items()}
    if banned is None:
        raise DatasetError(
            f"{root} has layout B, which does not say what its users ban.",
            hint="Give its users file (--users), or profile columns in annotations.csv.",
        )
    pairs = layout_b.read_pairs(root)
    return {split: _rows_of_pairs(pairs[split], banned) for split in splits}


def require_taxonomy_of(root: Path) -> None:
    """Raises TaxonomyMismatch for a dataset that was built here with other categories than those in use."""
    if (root / MARK).is_file():
        about = read_json(root / MARK, what="what a dataset was made with", fault=DatasetError)
        if "fingerprint" in about:  # else it is not of ours, and its rows alone tell
            require_taxonomy(about.get("taxonomy"), of=f"the dataset in {root}")


def needs_bans(root: Path) -> bool:
    """Whether a dataset's preferences follow from what its users ban, as in layout B, and are not in its rows."""
    return layout_b.is_layout_b(root)


def picture_folder(root: Path, split: str) -> Path:
    """Where the pictures of a split lie."""
    return root / layout_b.IMAGES if layout_b.is_layout_b(root) else root / split


def _joined(rows: Iterator[SageRow | DatasetError], banned: Banned) -> Iterator[SageRow | DatasetError]:
    for row in rows:
        yield row if isinstance(row, DatasetError) else replace(row, banned=tuple(banned(row.user_id)))


def _rows_of_pairs(pairs: list[layout_b.Pair | DatasetError], banned: Banned) -> Iterator[SageRow | DatasetError]:
    for pair in pairs:
        if isinstance(pair, DatasetError):
            yield pair
        else:
            yield from pair.rows(banned(pair.unsafe.user_id))


def _no_split(root: Path, split: str) -> DatasetError:
    found = find_splits(root)
    if layout_b.is_layout_b(root):
        return DatasetError(
            f"{root / layout_b.ANNOTATIONS} has no rows of split '{split}'; it has {', '.join(found) or 'none'}."
        )
    if found:
        return DatasetError(f"{root / split / METADATA} does not exist; there are the splits {', '.join(found)}.")
    return DatasetError(f"{root} has no SAGE dataset: no {split}/{METADATA}, no {layout_b.ANNOTATIONS}.", hint=HINT)


def _require_pictures(folder: Path, rows: list[SageRow]) -> None:
    names = sorted({name for row in rows for name in (row.chosen, row.rejected)})
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise DatasetError(f"{len(missing)} pictures are missing from {folder}: {', '.join(missing[:5])}.")
