"""Which adapter a path means: a file, an adapter's folder, or the folder of a training run that has one inside.

Place on the path of data: at the door of checkpoint.py.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import CheckpointError
from .convert import find_published

CONFIG = "config.json"
OF_A_RUN = "adapter"  # where psalign train writes it
_CHECKPOINT = re.compile(r"checkpoint-(\d+)")  # where the published trainer writes psa_adapter.bin


def find_adapter(place: Path) -> Path:
    """The file or folder of the adapter: `place` itself; adapter/ inside it (psalign train); or that of the last step
    in checkpoint-<step>/ (the published trainer). `place` again where there is none: its reader says what it expected.

    Raises CheckpointError for a training run that is not finished.
    """
    if not place.is_dir() or (place / CONFIG).is_file() or find_published(place) is not None:
        return place
    if (place / OF_A_RUN / CONFIG).is_file():
        return place / OF_A_RUN
    steps = {int(match[1]): path for path in place.iterdir() if (match := _CHECKPOINT.fullmatch(path.name))}
    written = [step for step, path in steps.items() if find_published(path) is not None]
    if written:
        return steps[max(written)]
    if (place / "checkpoints").is_dir():
        raise CheckpointError(
            f"{place} is a training run that is not finished: it has checkpoints and no adapter yet.",
            hint="Run the same training command again: it goes on, and writes the adapter at its end.",
        )
    return place
