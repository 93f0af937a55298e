"""Export of a SAGE dataset to a folder that `datasets.load_dataset` reads, without this package.

Place on the path of data: beside training. The folder has {split}/metadata.jsonl with its pictures, and a
card (README.md) that describes the splits. Profiles are not exported unless that is asked for.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from ..errors import DatasetError
from ..files import Record, read_template, write_jsonl, write_text
from ..fingerprints import fingerprint
from ..progress import Progress
from ..tables import PROFILE_COLUMNS
from .counts import count_rows
from .dataset import METADATA, find_splits, load_split
from .names import picture_name
from .output import claim, place_picture
from .rows import SageRow

MARK, CARD = "export.json", "README.md"
COLUMNS = {  # of metadata.jsonl as `datasets` shows them, and what they are
    "chosen": "picture that this user should get for the caption",
    "rejected": "picture that they should not get",
    "caption": "prompt",
    "caption_kind": "`unsafe` asks for the concept, `safe` is its rewrite",
    "chosen_kind": "whether the chosen picture is the `unsafe` or the `safe` one of its pair",
    "category": "of the concept",
    "concept": "what the pair of pictures is about",
    "index": "which of the user's pairs of this concept",
    "user_id": "the user who has this preference",
    "severity": "of the unsafe picture, 0 to 5; -1 where it was not rated",
}


@dataclass(frozen=True)
class ExportConfig:
    """name, license: for the card. with_profiles: also write age, religion and health of users."""

    name: str = "SAGE"
    license: str = "unknown"
    with_profiles: bool = False


def export(
    root: Path,
    out: Path,
    config: ExportConfig,
    *,
    rename: Callable[[str], str],
    note: str = "",
) -> dict[str, int]:
    """Write the dataset of root into out, or go on with it. Returns rows by split.

    rename: gives users other ids, in rows and in names of pictures. note: a sentence for the card.
    Raises DatasetError for a dataset that cannot be read, OutputError where `out` holds something else.
    """
    splits = find_splits(root) or ["train"]  # reading train says that there is no dataset
    rows = {split: load_split(root, split) for split in splits}
    named = {split: [_renamed(row, rename) for row in rows[split]] for split in splits}
    records = _records(named, config)
    claim(out, MARK, fingerprint([records, config.name, config.license, note]), what="export")
    for split in splits:
        _write_pictures(root / split, out / split, rows[split], named[split])
        write_jsonl(out / split / METADATA, records[split], private=config.with_profiles)
    counts = {split: len(rows[split]) for split in splits}
    write_text(out / CARD, _card(config, named, note, columns=records[splits[0]][0]))
    return counts


def _renamed(row: SageRow, rename: Callable[[str], str]) -> SageRow:
    """The row under its user's other id, which is part of the names of its pictures too."""
    user_id = rename(row.user_id)

    def name(picture: str, *, unsafe: bool) -> str:
        return picture_name((user_id, *row.pair[1:]), unsafe=unsafe, suffix=PurePosixPath(picture).suffix.lower())

    chosen, rejected = name(row.chosen, unsafe=row.chose_unsafe), name(row.rejected, unsafe=not row.chose_unsafe)
    return replace(row, user_id=user_id, chosen=chosen, rejected=rejected)


def _records(rows: Mapping[str, Sequence[SageRow]], config: ExportConfig) -> dict[str, list[Record]]:
    """Rows of every split's metadata.jsonl, without the columns that are empty in all of them.

    `datasets` needs values of one type in a column, so an empty cell is -1 or "".
    """
    records = {split: [_record(row, config) for row in some] for split, some in rows.items()}
    used = {name for some in records.values() for record in some for name in record if record[name] is not None}
    return {
        split: [{name: _filled(name, value) for name, value in record.items() if name in used} for record in some]
        for split, some in records.items()
    }


def _record(row: SageRow, config: ExportConfig) -> Record:
    """A row of metadata.jsonl; `datasets` makes pictures of the columns that end in _file_name."""
    record: Record = {"chosen_file_name": row.chosen, "rejected_file_name": row.rejected}
    record |= {name: getattr(row, name) for name in COLUMNS if name not in ("chosen", "rejected")}
    return {**record, **_profile(row.user_data)} if config.with_profiles else record


def _filled(name: str, value: Any) -> Any:
    return value if value is not None else -1 if name in ("severity", "age") else ""


def _profile(user_data: Record) -> Record:
    """Profile columns, each of one type."""
    values = {name.lower(): user_data.get(name) for name in PROFILE_COLUMNS}
    age = str(values["age"]).removesuffix(".0")
    texts = {name: None if value is None else str(value) for name, value in values.items()}
    return {**texts, "age": int(age) if age.isdecimal() else None}


def _write_pictures(source: Path, out: Path, rows: Sequence[SageRow], named: Sequence[SageRow]) -> None:
    names: dict[str, str] = {}
    for row, other in zip(rows, named, strict=True):
        for name, new in ((row.chosen, other.chosen), (row.rejected, other.rejected)):
            if names.setdefault(new, name) != name:
                raise DatasetError(f"{names[new]} and {name} of {source} would both be {new}.")
    out.mkdir(parents=True, exist_ok=True)
    for new, name in Progress(names.items(), desc=f"pictures of {out.name}", unit="picture", disable=len(names) < 500):
        place_picture(source / name, out / new)


# --- the card -------------------------------------------------------------------------------------------------------


def _card(config: ExportConfig, rows: Mapping[str, Sequence[SageRow]], note: str, *, columns: Collection[str]) -> str:
    from jinja2 import Environment, StrictUndefined

    names = [name.removesuffix("_file_name") for name in columns]
    environment = Environment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True
    )
    return environment.from_string(read_template("sage_card.md.j2")).render(
        asdict(config),
        quoted=json.dumps,
        note=note,
        size=_size(sum(map(len, rows.values()))),
        counts={split: count_rows(some) for split, some in rows.items()},
        columns={name: COLUMNS.get(name, "of the user, who is simulated") for name in names},
    )


def _size(rows: int) -> str:
    """The hub's word for a number of rows."""
    bounds = ((1_000, "n<1K"), (10_000, "1K<n<10K"), (100_000, "10K<n<100K"), (1_000_000, "100K<n<1M"))
    return next((word for bound, word in bounds if rows < bound), "1M<n<10M")
