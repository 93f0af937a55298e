"""prompts.csv of SAGE layout B: what each picture was asked to show.

Place on the path of data: under sage/layout_b.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import DatasetError
from ..files import Record
from .columns import name_columns, read_table
from .preference import read_caption, shorten

IMAGES = "images"
FILE_NAMES = ("filename", "file", "image", "image_name", "image_file", "image_path", "picture")
PROMPT_NAMES: dict[str, Sequence[str]] = {  # of columns, and their other names
    "prompt_id": ("id", "prompt_number"),
    "prompt": ("caption", "text"),
    "concept": (),
    "file_name": FILE_NAMES,
}


class PromptTable:
    """Captions and concepts by prompt_id or, without that column, by the picture's file name.

    asks_for: columns that annotations.csv needs for it. faults: of lines. Raises DatasetError without the columns.
    """

    def __init__(self, path: Path) -> None:
        table, self._name = read_table(path), path.name
        table.require("prompt", "prompt_id|file_name", names=PROMPT_NAMES)
        have = name_columns(dict.fromkeys(table.columns), PROMPT_NAMES, where=path.name)
        self._key = "prompt_id" if "prompt_id" in have else "file_name"
        self.asks_for = ("prompt_id",) if self._key == "prompt_id" else ()
        self.faults: list[DatasetError] = []
        self._told: dict[str, tuple[str, str]] = {}
        for number, record in table.rows:
            try:
                if isinstance(record, DatasetError):
                    raise record
                self._add(record, where=f"{path.name}, row {number}")
            except DatasetError as err:
                self.faults.append(err)

    def _add(self, record: Record, *, where: str) -> None:
        values = name_columns(record, PROMPT_NAMES, where=where)
        key = self._spelt(values[self._key])
        if not key or key in self._told:
            raise DatasetError(f"{where}: {self._key} {shorten(key)} {'stands there twice' if key else 'is empty'}.")
        caption = read_caption(values["prompt"], where=where)
        if not caption:
            raise DatasetError(f"{where}: prompt is empty.")
        self._told[key] = (caption, words_of(values.get("concept", "")))

    def find(self, values: Record, *, where: str) -> tuple[str, str]:
        """Caption and concept (empty: not said) of an annotation. Raises DatasetError where there is none."""
        key = self._spelt(values[self._key])
        if key not in self._told:
            raise DatasetError(f"{where}: {self._name} has no prompt for {self._key} {shorten(key)}.")
        return self._told[key]

    def _spelt(self, text: str) -> str:
        """An id without leading zeros or ".0"; a file name without its folder."""
        if self._key == "file_name":
            return under_images(text)
        digits = text.removesuffix(".0")
        return (digits.lstrip("0") or "0") if digits.isdecimal() else text


def under_images(text: str) -> str:
    return text.removeprefix("./").removeprefix(f"{IMAGES}/")


def words_of(text: str) -> str:
    return " ".join(text.replace("_", " ").split())
