"""The cells of the benchmark: pictures of one dataset by one method on one base model, in one folder.

Place on the path of data: the seam between steps 6 and 7,
eval_images/<dataset>/<method>/<base>[/level_<k>]/.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from psalign.errors import EvaluationError, UsageError
from psalign.ids import LEVELS, level_id, level_of

from .catalog import BASES, DATASETS, METHODS, OURS

NO_LEVEL, OWN_USER = "none", "user"


@dataclass(frozen=True)
class Variant:
    """A method at a level: "none", "user" (each row's own user), or "level_0" to "level_5".

    Raises EvaluationError for another level.
    """

    method: str
    level: str = NO_LEVEL

    def __post_init__(self) -> None:
        if self.level not in (NO_LEVEL, OWN_USER) and self.strictness is None:
            raise EvaluationError(f"{self.level!r} is no level; expected none, user, or level_0 to level_5.")

    @classmethod
    def of(cls, method: str, level: int | None) -> Variant:
        """The variant of a method and a level as a number; None: each row's own user, or no level."""
        if level is not None:
            return cls(method, level_id(level))
        return cls(method, OWN_USER if method in METHODS and METHODS[method].has_levels else NO_LEVEL)

    @property
    def title(self) -> str:
        name = METHODS[self.method].title if self.method in METHODS else self.method
        return name if self.strictness is None else f"{name}, level {self.strictness}"

    @property
    def note(self) -> str:
        if self.strictness is not None:
            return "every row at this level"
        return METHODS[self.method].note if self.method in METHODS else ""

    @property
    def strictness(self) -> int | None:
        """0 to 5; None where the level is not one and the same for all rows."""
        return level_of(self.level)

    @property
    def is_ours(self) -> bool:
        return self.method in OURS

    @property
    def order(self) -> tuple[int, str, int]:
        """Where it stands in a table: as in METHODS, unknown methods before ours, stricter levels below."""
        known = list(METHODS)
        place = known.index(self.method) if self.method in known else known.index(OURS[0]) - 0.5
        return int(2 * place), self.method, -1 if self.strictness is None else self.strictness


def competitors(variants: Sequence[Variant]) -> list[Variant]:
    """Those that are compared with each other. A level is one limit for every user, so levels are left out
    where two methods draw for each row's own user, or for anybody."""
    personal = [one for one in variants if one.strictness is None]
    return personal if len({one.method for one in personal}) > 1 else list(variants)


def place_title(dataset: str, base: str) -> str:
    """A set of prompts on a base model, as a reader sees it."""
    title = DATASETS[dataset].title if dataset in DATASETS else dataset
    return f"{title}, {BASES.get(base, base)}"


def place_order(place: tuple[str, str]) -> tuple[int, str, int, str]:
    """Where a pair (dataset, base) stands in the report: in the order of the tables above, others after them."""

    def number(name: str, known: Sequence[str]) -> int:
        return known.index(name) if name in known else len(known)

    return number(place[0], list(DATASETS)), place[0], number(place[1], list(BASES)), place[1]


def split_model(model: str) -> tuple[str, int | None]:
    """Method and level of a name like "base" or "psa_level_3". Raises UsageError for another name."""
    match = re.fullmatch(r"([A-Za-z0-9][A-Za-z0-9_-]*?)(?:_level_([0-5]))?", model)
    if match is None:
        raise UsageError(f"{model!r} is no method; expected a name like base, safetydpo, psa or psa_level_3.")
    if "_level_" in match[1]:
        raise UsageError(f"{model!r}: a level is 0, 1, 2, 3, 4 or 5.")
    return match[1], None if match[2] is None else int(match[2])


@dataclass(frozen=True)
class Cell:
    """Pictures of one dataset by one method on one base model.

    level: level of strictness, 0 to 5, for which a method of ours draws every row; None: each row's own user.
    """

    dataset: str
    method: str
    base: str
    level: int | None = None

    def __post_init__(self) -> None:
        """Raises UsageError for an unknown name, or a level that is none or that the method does not have."""
        for what, field, names in (("dataset", "dataset", DATASETS), ("method", "method", METHODS),
                                   ("base model", "base", BASES)):  # fmt: skip
            if getattr(self, field) not in names:
                raise UsageError(f"Unknown {what} '{getattr(self, field)}'; choose one of: {', '.join(names)}.")
        if self.level is not None and (not METHODS[self.method].has_levels or self.level not in LEVELS):
            raise UsageError(f"Levels are 0 to 5 and of method psa; saw {self.level} of {self.method}.")

    @property
    def variant(self) -> Variant:
        return Variant.of(self.method, self.level)

    @property
    def level_name(self) -> str:
        """The level as results.csv has it: `level_3`; without a level `user`, or `none`."""
        return self.variant.level

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the folders, outermost first."""
        level = () if self.level is None else (level_id(self.level),)
        return (self.dataset, self.method, self.base, *level)

    def folder(self, root: Path) -> Path:
        return root.joinpath(*self.parts)

    def __str__(self) -> str:
        return "/".join(self.parts)


def find_cells(root: Path) -> list[Cell]:
    """Cells whose pictures are all there (they have a manifest), in the order of the tables above.

    Manifests that lie where no cell is are left out: find_strays names them. Raises UsageError where there
    is no cell, or EvaluationError where there are strays alone.
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
    """Cells whose drawing has begun and not ended: they have a run.json and no manifest."""
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
    return sorted(cells, key=lambda cell: (place_order((cell.dataset, cell.base)), cell.variant.order)), strays


def _cell_of(folder: Path, root: Path) -> Cell:
    parts = folder.relative_to(root).parts
    level = level_of(parts[-1]) if len(parts) == 4 else None
    try:
        if len(parts) != (3 if level is None else 4):
            raise UsageError("It is too deep or not deep enough.")
        return Cell(parts[0], parts[1], parts[2], level)
    except UsageError as err:
        raise EvaluationError(
            f"{folder} is no cell of {root}: {err}",
            hint=f"Move it out of {root}, or to <dataset>/<method>/<base>[/level_0..5] below it.",
        ) from err
