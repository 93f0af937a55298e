"""A SAGE dataset on disk: {split}/metadata.jsonl beside the pictures, a line for each preference (layout A).

Place on the path of data: training starts here (step 4). docs/DATA.md has the columns. Datasets in the other
published layout are imported into this one (sage/import_layout_b.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from ..categories import require_taxonomy
from ..errors import DatasetError
from ..files import Record, parse_jsonl, read_json, write_jsonl
from ..ids import find_user_id, shorten
from ..tables import Columns
from .names import FORM, SUFFIXES, PictureName, pair_name, read_picture_name
from .rows import SPLITS, SageRow, read_caption, read_severity

METADATA = "metadata.jsonl"
MARK = "dataset.json"  # says how a dataset was made here
ANNOTATIONS = "annotations.csv"  # the file that layout B is known by
UNPACKED = "sage_dataset"
NEEDED = ("file_name", "chosen", "rejected", "caption", "user_data")
COLUMNS = Columns({**dict.fromkeys(NEEDED, ()), "severity": ()})
USER = Columns({"user_id": ()})
HINT = "docs/DATA.md describes the layout. To try without SAGE: psalign mini build --out data/mini"


def dataset_root(folder: Path) -> Path:
    """The folder of a dataset: this one, or sage_dataset/ in it, as the published zip unpacks."""
    inside = folder / UNPACKED
    return inside if not _has_dataset(folder) and _has_dataset(inside) else folder


def _has_dataset(root: Path) -> bool:
    return any((root / name).is_file() for name in (ANNOTATIONS, *(f"{split}/{METADATA}" for split in SPLITS)))


def find_splits(root: Path) -> list[str]:
    """The splits of a dataset; an empty list where there is no dataset.

    Raises DatasetError for a dataset in layout B, which has to be imported first.
    """
    found = [split for split in SPLITS if (root / split / METADATA).is_file()]
    if not found and (root / ANNOTATIONS).is_file():
        raise DatasetError(
            f"{root} has layout B ({ANNOTATIONS}), which is imported before it is used.",
            hint=f"Run: psalign sage import {root} --out {root.with_name(f'{root.resolve().name}-imported')}",
        )
    return found


def has_rows(root: Path, split: str) -> bool:
    """Whether a dataset has a split that is not empty; its rows may be broken."""
    return split in find_splits(root) and (root / split / METADATA).stat().st_size > 0


def load_split(root: Path, split: str, *, check_pictures: bool = True) -> list[SageRow]:
    """The rows of a split.

    Raises DatasetError for a broken row (file and line), for missing pictures (the first five) and for no
    rows; TaxonomyMismatch for a dataset that was made with other categories.
    """
    if split not in SPLITS:
        raise DatasetError(f"Unknown split '{split}'; choose one of: {', '.join(SPLITS)}.")
    found = find_splits(root)
    if split not in found:
        if found:
            raise DatasetError(f"{root / split / METADATA} does not exist; there are the splits {', '.join(found)}.")
        raise DatasetError(f"{root} has no SAGE dataset: no {split}/{METADATA}.", hint=HINT)
    require_taxonomy_of(root)
    rows = []
    for row in read_split(root, split, where=str(root / split / METADATA)):
        if isinstance(row, DatasetError):
            raise row
        rows.append(row)
    if not rows:
        raise DatasetError(f"{root / split / METADATA} has no rows.")
    if check_pictures:
        require_pictures(root / split, {name for row in rows for name in (row.chosen, row.rejected)})
    return rows


def read_split(root: Path, split: str, *, where: str | None = None) -> Iterator[SageRow | DatasetError]:
    """The rows of a split, or for a broken row its error. where: the file's name in messages."""
    content = (root / split / METADATA).read_bytes()
    for place, record in parse_jsonl(content, where or split):
        try:
            if isinstance(record, str):
                raise DatasetError(f"{place}: {record}.")
            yield parse_row(record, where=place)
        except DatasetError as err:
            yield err


def require_taxonomy_of(root: Path) -> None:
    """Raises TaxonomyMismatch for a dataset that was made here with other categories than those in use."""
    if (root / MARK).is_file():
        about = read_json(root / MARK, what="what a dataset was made with", fault=DatasetError)
        if "fingerprint" in about:  # else another program wrote it
            require_taxonomy(about.get("taxonomy"), of=f"the dataset in {root}")


def require_pictures(folder: Path, names: Iterable[str]) -> None:
    """Raises DatasetError, with the first five names, where pictures are missing from a folder."""
    missing = [name for name in sorted(names) if not (folder / name).is_file()]
    if missing:
        raise DatasetError(f"{len(missing)} pictures are missing from {folder}: {', '.join(missing[:5])}.")


def write_split(root: Path, split: str, rows: Iterable[SageRow]) -> None:
    """Write root/split/metadata.jsonl."""
    write_jsonl(root / split / METADATA, (to_record(row) for row in rows), private=True)


def to_record(row: SageRow) -> Record:
    """A row in SAGE's spelling; file_name ends in the kind of caption (`..._00004.jpg_u.jpg`), as published."""
    record = {
        "file_name": f"{pair_name(row.pair)}.jpg_{row.caption_kind[0]}.jpg",
        "chosen": row.chosen,
        "rejected": row.rejected,
        "caption": row.caption,
        "user_data": row.user_data,
    }
    return record if row.severity is None else {**record, "severity": row.severity}


def parse_row(record: Record, *, where: str) -> SageRow:
    """A row from a record of metadata.jsonl. Raises DatasetError that says where and what is wrong."""
    values = COLUMNS.name(record, where=where)
    missing = [key for key in NEEDED if key not in values]
    if missing:
        raise DatasetError(f"{where}: {', '.join(missing)} missing; a row has {', '.join(NEEDED)}.")
    caption = read_caption(values["caption"], where=where)
    chosen, rejected = (_parse_name(values[key], where=where) for key in ("chosen", "rejected"))
    if chosen.pair != rejected.pair or chosen.unsafe == rejected.unsafe:
        raise DatasetError(
            f"{where}: chosen and rejected are not the two pictures of one pair: "
            f"{values['chosen']}, {values['rejected']}."
        )
    return SageRow(
        *chosen.pair,
        caption=caption,
        caption_kind=_caption_kind(values["file_name"], where=where),
        chosen=values["chosen"],
        rejected=values["rejected"],
        user_data=_user_data(values["user_data"], chosen.user_id, where=where),
        chose_unsafe=chosen.unsafe,
        severity=read_severity(values.get("severity"), where=where),
    )


def _parse_name(name: Any, *, where: str) -> PictureName:
    found = read_picture_name(name)
    if found is None:
        raise DatasetError(f"{where}: picture name {shorten(name)} is not {FORM}.")
    return found


def _user_data(value: Any, user_id: str, *, where: str) -> Record:
    if not isinstance(value, dict):  # the value may be personal, so it is not shown
        raise DatasetError(f"{where}: user_data must be a JSON object with User_ID; saw {type(value).__name__}.")
    named = USER.name(value, where=f"{where}, user_data").get("user_id")
    if find_user_id(named) != user_id:
        raise DatasetError(f"{where}: user_data is of user {shorten(named)}, the pictures are of user {user_id}.")
    return value


def _caption_kind(file_name: Any, *, where: str) -> str:
    """The kind of a row's caption, by the end of its file_name: `.jpg_u.jpg` as published, or `_u.jpg`."""
    name = file_name.strip().lower() if isinstance(file_name, str) else ""
    stem = next((name.removesuffix(suffix) for suffix in SUFFIXES if name.endswith(suffix)), "")
    for ending, kind in (("_u", "unsafe"), ("_s", "safe")):
        if stem.endswith(ending):
            return kind
    raise DatasetError(f"{where}: file_name {shorten(file_name)} ends neither in _u.jpg (unsafe) nor in _s.jpg (safe).")
