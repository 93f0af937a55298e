"""The log of a run: one line per window of steps in log.csv, and in tensorboard where that is asked for.

Place on the path of data: under training/trainer.py.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from ..errors import ExtraMissing, OutputError
from ..files import Record, read_text, write_text
from ..tables import parse_csv


class Log:
    """A CSV file of fixed columns, "step" first; lines are appended, and those of steps that are run again are cut."""

    def __init__(self, path: Path, columns: Sequence[str], *, tensorboard: Path | None = None) -> None:
        self.path, self.columns = path, ("step", *columns)
        self.name = path.stem
        self.writer = None if tensorboard is None else _tensorboard(tensorboard)

    def open(self, *, step: int) -> None:
        """Go on after a step: later lines, and one that was cut short, are dropped."""
        kept = [row for row in read_log(self.path) if int(row["step"]) <= step]
        text = io.StringIO()
        writer = csv.DictWriter(text, self.columns, lineterminator="\n", extrasaction="ignore")
        writer.writeheader()
        writer.writerows(kept)
        write_text(self.path, text.getvalue())

    def add(self, step: int, figures: Record) -> None:
        """Append a line; figures that are not known are left empty. Raises OutputError where it cannot be written."""
        try:
            with self.path.open("a", encoding="utf-8", newline="") as stream:
                csv.DictWriter(stream, self.columns, lineterminator="\n").writerow({"step": step, **figures})
        except OSError as err:
            raise OutputError(
                f"{self.path} cannot be written: {err.strerror}.",
                hint="Free some space and run the same command again: it goes on from the last checkpoint.",
            ) from err
        if self.writer is not None:
            for name, value in figures.items():
                self.writer.add_scalar(f"{self.name}/{name}", value, step)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()


def read_log(path: Path) -> list[dict[str, str]]:
    """Whole lines of a log; none where it is not there, nor of a line that was cut short.

    Raises OutputError where it is no log.
    """
    if not path.is_file():
        return []
    fault = partial(OutputError, hint=f"Remove {path} and run the same command: the run goes on, with a new log.")
    text = read_text(path, fault=fault)
    header, rows = parse_csv(text[: text.rfind("\n") + 1], fault=fault, name=str(path))
    if header[:1] not in ([], ["step"]):
        raise fault(f"{path} is damaged: its first column is {header[0][:40]!r}; expected step.")
    whole = [dict(zip(header, cells, strict=True)) for cells in rows if len(cells) == len(header)]
    for number, row in enumerate(whole, start=1):
        if not re.fullmatch(r"[0-9]{1,18}", row["step"]) or not all(map(_is_number, row.values())):
            raise fault(f"{path}, row {number}: expected a step and numbers; saw {','.join(row.values())[:80]!r}.")
    return whole


def _is_number(cell: str) -> bool:
    try:
        return not cell or float(cell) is not None
    except ValueError:
        return False


def _tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise ExtraMissing("tensorboard", "tensorboard") from None
    return SummaryWriter(str(folder))
