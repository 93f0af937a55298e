"""The folder that a dataset is written into: claimed by a fingerprint, and filled with links to pictures.

Place on the path of data: under the makers of datasets: build, import and export.
"""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path

from ..categories import taxonomy_mark
from ..errors import OutputError
from ..files import read_json, write_bytes, write_json

OTHER_OUT = "Choose another --out, or remove that folder."


def claim(out: Path, mark: str, fingerprint: str, *, what: str) -> None:
    """Take a folder for one dataset, or go on. mark: file with the claim; what: "export", for messages.

    Raises OutputError where the folder holds anything else.
    """
    fault = partial(OutputError, hint=OTHER_OUT)
    path = out / mark
    if path.is_file() and read_json(path, what=f"the mark of an {what}", fault=fault).get("fingerprint") == fingerprint:
        return
    if out.is_dir() and any(out.iterdir()):
        raise fault(f"{out} is not empty and not this {what} (another dataset, other ids or settings).")
    write_json(path, {"fingerprint": fingerprint, **taxonomy_mark()})


def place_picture(source: Path, path: Path) -> None:
    """Give a picture another name, by a hard link or else by a copy. A file that is there stays."""
    try:
        os.link(source, path)
    except FileExistsError:
        return
    except OSError:
        write_bytes(path, source.read_bytes(), sync=False)
