"""A look at a run from outside its training pairs: losses on unseen users, and the same pictures again and again.

Place on the path of data: beside training/trainer.py, between steps 4 and 6.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageFont

from ..adapter.guard import AttachedAdapter
from ..categories import current
from ..decoding import encode
from ..diffusion.generate import Drawing, GenerationConfig
from ..diffusion.places import on_device
from ..diffusion.prompts import derive_seed
from ..files import write_bytes
from ..records import PromptRow
from ..sage.caption_rows import CaptionRow, side_of
from ..sage.rows import SageRow
from ..users.store import EmbeddingStore
from .caption_objective import FIGURES as CAPTION_FIGURES
from .caption_objective import CaptionObjective
from .captions import Captions
from .config import TrainingConfig
from .objective import FIGURES, Objective, figure_cells
from .pairs import SIDES, Pairs

LABEL_PX, CELL_PX, GAP_PX, MARGIN_PX = 40, 128, 8, 12
PAPER, INK, BANNED, ALLOWED = (255, 255, 255), (40, 40, 40), (179, 66, 74), (60, 130, 80)


def cell_columns() -> tuple[str, ...]:
    slugs = current().slugs
    return tuple(f"accuracy_{side}_{slugs[category]}" for side, category in figure_cells())


@dataclass
class Validation:
    """Pairs of split `val`, with the same noise and timesteps at every look, and a few (user, prompt) pictures.

    pairs: of the split. pipeline: what draws, its UNet the one that is trained. generation: how.
    """

    pairs: Pairs | Captions
    users: EmbeddingStore
    pipeline: Any
    generation: GenerationConfig
    out: Path
    config: TrainingConfig
    device: torch.device

    @property
    def columns(self) -> tuple[str, ...]:
        figures = CAPTION_FIGURES if self.config.objective == "captions" else FIGURES
        return (*figures, *cell_columns())

    @torch.no_grad()
    def measure(self, trained: Objective | CaptionObjective) -> dict[str, float]:
        """Figures of the objective over fixed pairs; the share ranked rightly of each category, banned and allowed."""
        objective: Any = trained.for_validation()
        size = min(self.config.validation_pairs, len(self.pairs))
        plan: Any = self.pairs.plan(0, size=size, config=objective.config)
        totals = objective.totals(plan, self.pairs)
        figures = torch.zeros(len(objective.figures))
        right, seen = torch.zeros(len(figure_cells())), torch.zeros(len(figure_cells()))
        for index in range(-(-size // self.config.batch_size)):
            part = plan.part(index, self.config.batch_size)
            outcome = objective(self.pairs.batch(part, seed=0).to(self.device), totals)
            figures, right, seen = (
                figures + outcome.figures.cpu(),
                right + outcome.right.cpu(),
                seen + outcome.seen.cpu(),
            )
        known = dict(zip(objective.figures, figures.tolist(), strict=True))
        for name in ("visual", "visual_accuracy"):
            known.pop(name, None)
        return {**known, **by_cell(right, seen)}

    def draw(self, attached: AttachedAdapter, step: int) -> None:
        """Write validation/step-<n>.png: each prompt by the base, and below as its user may see it."""
        rows = self._shown()
        if not rows:
            return
        prompts = [
            PromptRow(f"{i}.png", row.caption, derive_seed(i), user_id=row.user_id) for i, row in enumerate(rows)
        ]
        config = replace(self.generation, batch_size=len(rows))
        with on_device(self.pipeline, self.device), torch.no_grad():
            with attached.disabled():
                base = self._batches(prompts, config, None)
            steered = self._batches(prompts, config, attached)
        write_bytes(self.out / "validation" / f"step-{step:08d}.png", sheet(rows, base, steered))

    def _batches(
        self, prompts: Sequence[PromptRow], config: GenerationConfig, attached: AttachedAdapter | None
    ) -> np.ndarray:
        size = self.generation.batch_size
        parts = [prompts[start : start + size] for start in range(0, len(prompts), size)]
        drawing = Drawing(self.pipeline, config, self.users, attached)
        return np.concatenate([drawing.batch(part) for part in parts])

    def _shown(self) -> list[SageRow | CaptionRow]:
        """Rows to draw: banned, allowed and safe in turn, of as many categories and users as there are."""
        by_side: dict[str, list[SageRow | CaptionRow]] = {side: [] for side in SIDES}
        seen: set[tuple[str, str | None]] = set()
        rows: Sequence[SageRow | CaptionRow] = self.pairs.rows
        for number, row in enumerate(rows):
            side = SIDES[self.pairs.table[number, -1]]
            if (side, row.category) not in seen:
                seen.add((side, row.category))
                by_side[side].append(row)
        longest = max(len(rows) for rows in by_side.values())
        turns = [rows[i] for i in range(longest) for rows in by_side.values() if i < len(rows)]
        return turns[: self.config.validation_pictures]


def by_cell(right: torch.Tensor, seen: torch.Tensor) -> dict[str, float]:
    """Shares ranked rightly, by column; cells that no pair fell into are left out."""
    shares = zip(cell_columns(), right.tolist(), seen.tolist(), strict=True)
    return {name: hits / count for name, hits, count in shares if count}


def sheet(rows: Sequence[SageRow | CaptionRow], base: np.ndarray, steered: np.ndarray) -> bytes:
    """A PNG: one column a row of the split, base above, steered below. base, steered: uint8 RGB [B, H, W, 3]."""
    width = 2 * MARGIN_PX + len(rows) * (CELL_PX + GAP_PX) - GAP_PX
    image = Image.new("RGB", (width, 2 * MARGIN_PX + LABEL_PX + 2 * CELL_PX + GAP_PX), PAPER)
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(12)
    for column, row in enumerate(rows):
        left = MARGIN_PX + column * (CELL_PX + GAP_PX)
        side = _side_label(row)
        draw.text((left, MARGIN_PX), row.category or "", INK, font)
        draw.text((left, MARGIN_PX + 16), side, {"banned": BANNED, "allowed": ALLOWED}.get(side, INK), font)
        for line, pictures in enumerate((base, steered)):
            cell = Image.fromarray(pictures[column]).resize((CELL_PX, CELL_PX), Image.Resampling.LANCZOS)
            image.paste(cell, (left, MARGIN_PX + LABEL_PX + line * (CELL_PX + GAP_PX)))
    return encode(image)


def _side_label(row: SageRow | CaptionRow) -> str:
    side = row.side if isinstance(row, CaptionRow) else side_of(row)
    return "safe caption" if side == "safe" else side
