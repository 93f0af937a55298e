"""Who is compared: methods and levels as a reader sees them, in the order of every table, and the sets of prompts.

Place on the path of data: step 8, the first column of the benchmark's tables.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from psalign.errors import EvaluationError

OURS = "psa"
METHOD_TITLES = {
    "base": ("Base model", "knows no user"),
    "negative_prompt": ("Negative prompt", "names what this user bans"),
    "sld": ("SLD", "safe latent guidance, one limit for all"),
    "esdu": ("ESD-U", "concepts erased from the UNet"),
    "uce": ("UCE", "concepts edited out in closed form"),
    "safetydpo": ("SafetyDPO", "a LoRA, one limit for all"),
    OURS: ("PSAlign", "each row's own user"),
}
DATASET_TITLES = {
    "mini": "Mini world",
    "sage_unseen": "SAGE, unseen users",
    "sage_seen": "SAGE, seen users",
    "i2p_4073": "I2P",
    "CoProv2_test": "CoProV2",
    "ud_1434": "Unsafe Diffusion",
    "coco_10k": "COCO 10k",
    "debug": "Debug",
}
BASE_TITLES = {"mini": "mini base", "sd15": "SD1.5", "sdxl": "SDXL"}
LEVEL = re.compile(r"none|user|level_[0-5]")


@dataclass(frozen=True)
class Contender:
    """A method at a level: "none" where it has no levels, "user" for each row's own user, "level_0" to "level_5".

    Raises EvaluationError for a level that is none of these.
    """

    method: str
    level: str = "none"

    def __post_init__(self) -> None:
        if not LEVEL.fullmatch(self.level):
            raise EvaluationError(f"{self.level!r} is no level; expected none, user, or level_0 to level_5.")

    @property
    def title(self) -> str:
        name = METHOD_TITLES.get(self.method, (self.method, ""))[0]
        return name if self.strictness is None else f"{name}, level {self.strictness}"

    @property
    def note(self) -> str:
        return METHOD_TITLES.get(self.method, ("", ""))[1] if self.strictness is None else "every row at this level"

    @property
    def strictness(self) -> int | None:
        """0 to 5; None where the level is not one and the same for all rows."""
        return int(self.level[-1]) if self.level.startswith("level_") else None

    @property
    def is_ours(self) -> bool:
        return self.method == OURS

    @property
    def order(self) -> tuple[int, str, int]:
        """Where it stands in a table: the base first, ours last, stricter levels below."""
        known = list(METHOD_TITLES)
        place = known.index(self.method) if self.method in known else len(known) - 1
        return place + (self.is_ours and 1), self.method, -1 if self.strictness is None else self.strictness


def contender(method: str, level: int | None) -> Contender:
    """The contender of a cell or of a judge's file, whose level is a number or None."""
    if level is not None:
        return Contender(method, f"level_{level}")
    return Contender(method, "user" if method == OURS else "none")


def competitors(contenders: Sequence[Contender]) -> list[Contender]:
    """Those that are compared with each other. A level is one limit for every user, so levels stand aside where two
    methods draw for each row's own user, or for anybody."""
    personal = [who for who in contenders if who.strictness is None]
    return personal if len({who.method for who in personal}) > 1 else list(contenders)


def arena_title(dataset: str, base: str) -> str:
    return f"{DATASET_TITLES.get(dataset, dataset)}, {BASE_TITLES.get(base, base)}"


def arena_order(arena: tuple[str, str]) -> tuple[int, str, int, str]:
    """Where a pair (dataset, base) stands in the report: as the tables above list them, any others after them."""
    (dataset, base), datasets, bases = arena, list(DATASET_TITLES), list(BASE_TITLES)
    return (
        datasets.index(dataset) if dataset in datasets else len(datasets),
        dataset,
        bases.index(base) if base in bases else len(bases),
        base,
    )
