"""The cells of the evaluation: which prompts, drawn by which method on which base model, and where that lies on disk.

Place on the path of data: the seam between steps 6 and 7, eval_images/<dataset>/<method>/<base>[/level_<k>]/.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from psalign.errors import EvaluationError, UsageError


@dataclass(frozen=True)
class Dataset:
    """A set of prompts. has_users: its rows are for users. metrics: that say something about its pictures."""

    name: str
    title: str
    has_users: bool
    metrics: tuple[str, ...]


QUALITY = ("fid", "kid", "clip")
SAFETY = ("inpro", "inpro_strict", "clip")
MINI = (*QUALITY, "suppressed", "kept", "pass", "subject_kept", "harmless_subject")

DATASETS = {
    one.name: one
    for one in (
        Dataset("debug", "a few prompts to try things on", False, SAFETY),
        Dataset("coco_10k", "harmless captions of photographs", False, QUALITY),
        Dataset("i2p_4073", "prompts that ask for inappropriate pictures", False, SAFETY),
        Dataset("CoProv2_test", "prompts about unsafe concepts", False, SAFETY),
        Dataset("sage_seen", "unsafe prompts of users known from training", True, SAFETY),
        Dataset("sage_unseen", "unsafe prompts of users not known from training", True, SAFETY),
        Dataset("ud_1434", "prompts that ask for unsafe pictures", False, SAFETY),
        Dataset("mini", "the mini world's prompts", True, MINI),
    )
}
METHODS = ("base", "psa", "safetydpo", "esdu", "uce", "sld", "negative_prompt")
BASES = ("sd15", "sdxl", "mini")
LEVELS = range(6)

NO_LEVEL, OWN_USER = "none", "user"


@dataclass(frozen=True)
class Cell:
    """Pictures of one dataset by one method on one base model.

    level: of strictness, 0 to 5, of the user that method `psa` draws every row for; None: each row's own user.
    """

    dataset: str
    method: str
    base: str
    level: int | None = None

    def __post_init__(self) -> None:
        """Raises UsageError for a name that is none, or a level that does not exist or is not psa's."""
        known = {"dataset": tuple(DATASETS), "method": METHODS, "base": BASES}
        for what, names in known.items():
            if getattr(self, what) not in names:
                told = {"base": "base model"}.get(what, what)
                raise UsageError(f"Unknown {told} '{getattr(self, what)}'; choose one of: {', '.join(names)}.")
        if self.level is not None and (self.method != "psa" or self.level not in LEVELS):
            raise UsageError(f"Levels are 0 to 5 and of method psa; saw {self.level} of {self.method}.")

    @property
    def level_name(self) -> str:
        """As results.csv says it: level_<k>, `user` for psa with each row's own user, `none` for other methods."""
        if self.level is not None:
            return f"level_{self.level}"
        return OWN_USER if self.method == "psa" else NO_LEVEL

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the folders, outermost first."""
        level = () if self.level is None else (f"level_{self.level}",)
        return (self.dataset, self.method, self.base, *level)

    def folder(self, root: Path) -> Path:
        return root.joinpath(*self.parts)

    def __str__(self) -> str:
        return "/".join(self.parts)


def find_cells(root: Path) -> list[Cell]:
    """Cells whose pictures are all there (they have a manifest), in the order of the tables above.

    Manifests that lie where no cell is are left out: find_strays names them. Raises UsageError where there is no cell,
    or EvaluationError where there are strays alone.
    """
    found, strays = _sort_out((path.parent for path in root.rglob("manifest.jsonl")), root)
    if not found:
        if strays:
            raise strays[0]
        raise UsageError(
            f"{root} holds no cell: expected {root}/<dataset>/<method>/<base>[/level_k]/manifest.jsonl.",
            hint="Draw first: psalign eval generate --help",
        )
    return found


def find_strays(root: Path) -> list[EvaluationError]:
    """An error for each folder with a manifest or a run.json that is no cell; it says why, and what to do."""
    marked = {path.parent for name in ("manifest.jsonl", "run.json") for path in root.rglob(name)}
    return _sort_out(sorted(marked), root)[1]


def find_unfinished(root: Path) -> list[Cell]:
    """Cells of which pictures are being drawn, or were until something stopped it: a run.json, and no manifest yet."""
    folders = [path.parent for path in root.rglob("run.json") if not path.with_name("manifest.jsonl").exists()]
    return _sort_out(folders, root)[0]


def _sort_out(folders: Iterable[Path], root: Path) -> tuple[list[Cell], list[EvaluationError]]:
    """The cells among folders, in the order of the tables, and errors for the others."""
    cells, strays = [], []
    for folder in folders:
        try:
            cells.append(_cell_of(folder, root))
        except EvaluationError as err:
            strays.append(err)
    return sorted(cells, key=_order), strays


def _cell_of(folder: Path, root: Path) -> Cell:
    parts = folder.relative_to(root).parts
    level = re.fullmatch(r"level_([0-5])", parts[-1]) if len(parts) == 4 else None
    try:
        if len(parts) != (4 if level else 3):
            raise UsageError("It is too deep or not deep enough.")
        return Cell(parts[0], parts[1], parts[2], int(level[1]) if level else None)
    except UsageError as err:
        raise EvaluationError(
            f"{folder} is no cell of {root}: {err}",
            hint=f"Move it out of {root}, or to <dataset>/<method>/<base>[/level_0..5] below it.",
        ) from err


def _order(cell: Cell) -> tuple[int, int, int, int]:
    level = -1 if cell.level is None else cell.level
    return list(DATASETS).index(cell.dataset), BASES.index(cell.base), METHODS.index(cell.method), level
