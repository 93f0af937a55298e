"""What a command is about to fetch: a table of things with host, size, licence and folder, printed before.

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
    """One thing to be fetched.

    what: a few words and its name on the host. host: name of the server. size: bytes; None where it is not
    known. licence: name of the licence. to: the folder it is written into.
    """

    what: str
    host: str
    size: int | None
    licence: str
    to: Path


def announce(downloads: Sequence[Download], *, notes: Sequence[str] = ()) -> None:
    """Print to stderr what will be fetched, then the notes; print nothing where nothing will be fetched."""
    if not downloads:
        return
    rows = [(one.what, f"from {one.host}", _size(one.size), one.licence, f"to {one.to}") for one in downloads]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join([*(cell.ljust(width) for cell, width in zip(row[:4], widths, strict=True)), row[4]])
             for row in rows]  # fmt: skip
    known = [one.size for one in downloads if one.size is not None]
    total = f"Total: {'at least ' * (len(known) < len(rows))}{_size(sum(known))}."
    text = ["To be fetched:", *(f"  {line}" for line in lines), total, *notes]
    print("\n".join(text), file=sys.stderr, flush=True)


def _size(size: int | None) -> str:
    if size is None:
        return "size not known"
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"
