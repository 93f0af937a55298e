"""Import of a SAGE dataset in layout B into layout A, which is the only one that anything else reads.

Place on the path of data: before training.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from pathlib import Path

from ..fingerprints import fingerprint
from .dataset import MARK, require_pictures, to_record, write_split
from .layout_b import IMAGES, LayoutB
from .output import claim, place_picture

Banned = Callable[[str], Collection[str]]  # categories that a user bans, by user id


def import_layout_b(
    source: LayoutB,
    out: Path,
    *,
    banned: Banned,
    save_users: Callable[[Path], None],
    check_pictures: bool = True,
) -> dict[str, int]:
    """Write a dataset in layout A, or go on with it. Returns the number of rows of each split.

    save_users: writes the users file to a path. check_pictures: False for a dataset without its pictures.
    Raises DatasetError for missing pictures, OutputError where `out` holds something else, and what `banned`
    raises for a user whose bans are not known.
    """
    rows, images = {}, source.root / IMAGES
    pictures: dict[Path, Path] = {}  # files by the paths that they get
    for split, pairs in source.pairs.items():
        rows[split] = [row for pair in pairs for row in pair.rows(banned(pair.unsafe.user_id))]
        for pair, row in zip(pairs, rows[split][::2], strict=True):
            pictures[out / split / row.safe_picture] = images / pair.safe.file_name
            pictures[out / split / row.unsafe_picture] = images / pair.unsafe.file_name
    if check_pictures:
        require_pictures(images, {str(file.relative_to(images)) for file in pictures.values()})
    claim(out, MARK, fingerprint([[to_record(row) for row in some] for some in rows.values()]), what="import")
    save_users(out / "users.csv")
    for path, file in pictures.items() if check_pictures else ():
        path.parent.mkdir(exist_ok=True)
        place_picture(file, path)
    for split, some in rows.items():
        write_split(out, split, some)
    return {split: len(some) for split, some in rows.items()}
