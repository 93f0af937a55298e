"""What a command is about to fetch, said before it does: each thing, its host, size and licence, and where it
goes.

Place on the path of data: before everything, on a machine with a network.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

OFFENSIVE = "Some of the captions are offensive to read. No picture is fetched."  # of the published captions


@dataclass(frozen=True)
class Download:
    """what: a few words and the name it has there. host: where it comes from. size: bytes; None: not known.
    licence: its name. to: folder that it goes to."""

    what: str
    host: str
    size: int | None
    licence: str
    to: Path


def tell(downloads: Sequence[Download], *, notes: Sequence[str] = ()) -> None:
    """Say on stderr what will be fetched, and notes after it; nothing where there is nothing to fetch."""
    if not downloads:
        return
    rows = [(one.what, f"from {one.host}", _size(one.size), one.licence, f"to {one.to}") for one in downloads]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)), row[4]])
             for row in rows]  # fmt: skip
    known = [one.size for one in downloads if one.size is not None]
    total = f"Total: {'at least ' * (len(known) < len(rows))}{_size(sum(known))}."
    print("\n".join(["To be fetched:", *(f"  {line}" for line in lines), total, *notes]), file=sys.stderr, flush=True)


def _size(size: int | None) -> str:
    if size is None:
        return "size not known"
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
