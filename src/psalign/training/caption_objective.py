"""What a batch of captions teaches: the UNet shall read the rewritten prompt as it reads the chosen picture's caption.

Place on the path of data: step 4 in training, between a batch and its gradient, in place of training/objective.py. The
adapter is trained beside the UNet, not on it: nothing of the UNet runs but its cross-attentions.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..adapter.guard import AttachedAdapter
from ..adapter.prompt import Logits, PromptAdapter
from ..adapter.users import RowUsers
from ..diffusion.base_models import find_base
from ..diffusion.places import on_device
from ..diffusion.reader import Draw, Reader, noise_pools, random_pools, sample_pools, word_pools
from .captions import CaptionBatch, CaptionPlan, Captions
from .config import TrainingConfig
from .loss import match_loss
from .objective import Outcome, figure_cells

FIGURES = ("loss", "rewritten_error", "untouched_error", "match_loss", "pooled_error")
SPREAD_CAPTIONS = 256  # that the spread of what a layer reads is taken from
SAMPLED_CAPTIONS = 16  # whose pictures' queries are taken
VALIDATION_SEED = 0


@dataclass(frozen=True)
class CaptionTotals:
    """How many rows of a whole step each mean is over: of all, with something to take away, with nothing."""

    rows: int
    rewritten: int
    untouched: int

    @classmethod
    def of(cls, plan: CaptionPlan, captions: Captions) -> CaptionTotals:
        rows = captions.table[plan.rows]
        rewritten = int(((rows[:, 0] != rows[:, 1]) & plan.captioned).sum())
        return cls(len(plan), rewritten, len(plan) - rewritten)


class CaptionObjective:
    """The loss of batches of captions.

    attached: the adapter on a whole UNet, which can then draw; None: there is none. size_px: the size of the pictures
    that SDXL's UNet is conditioned on. compare: also compute whether the rewritten prompt is read more like the
    caption of the chosen picture than like that of the rejected one.
    """

    figures = FIGURES
    null_user = False

    def __init__(
        self,
        adapter: PromptAdapter,
        reader: Reader,
        config: TrainingConfig,
        *,
        size_px: int = 1024,
        attached: AttachedAdapter | None = None,
        compare: bool = False,
    ) -> None:
        self.adapter, self.reader, self.config, self.compare = adapter, reader, config, compare
        self.size_px, self.attached = size_px, attached

    @property
    def device(self) -> torch.device:
        device: torch.device = self.reader.pools[0].device
        return device

    @property
    def figures_in_play(self) -> tuple[str, ...]:
        return FIGURES if self.adapter.config.pooled_dim else FIGURES[:-1]

    def totals(self, plan: CaptionPlan, captions: Captions) -> CaptionTotals:
        return CaptionTotals.of(plan, captions)

    def for_validation(self) -> CaptionObjective:
        """The same without dropouts, on the same queries at every look."""
        calm = replace(
            self.config, caption_dropout=0.0, list_dropout=0.0, rewritten_share=None, seed=VALIDATION_SEED,
        )  # fmt: skip
        return CaptionObjective(self.adapter, self.reader, calm, size_px=self.size_px, compare=True)

    def __call__(self, batch: CaptionBatch, totals: CaptionTotals, known: torch.Tensor | None = None) -> Outcome:
        """known: not used; only objectives with a reference have it."""
        draw, users = self._draw(batch.reading), batch.users
        logits = self.adapter.match(batch.states, users)
        rows = self._rows_to_read(batch, users, logits)
        errors, pooled_errors, right = self._read(batch, users, logits, rows, draw)
        total = errors + pooled_errors
        weights = torch.where(batch.rewritten, 1.0, self.config.untouched_weight)
        match = match_loss(
            logits, batch.rewritten, batch.stays, rows=totals.rows, rewritten_rows=totals.rewritten,
            is_sharp=self.adapter.is_sharp,
        )  # fmt: skip
        loss = (weights * total).sum() / totals.rows + self.config.match_weight * match
        figures = {
            "loss": loss,
            "rewritten_error": (errors * batch.rewritten).sum() / max(1, totals.rewritten),
            "untouched_error": (errors * ~batch.rewritten).sum() / max(1, totals.untouched),
            "match_loss": match,
            "pooled_error": pooled_errors.sum() / totals.rows,
        }
        shown = torch.stack([figures[name].detach().float() for name in FIGURES])
        return Outcome(loss, shown, *_by_cell(batch, right), torch.zeros(len(batch), 0, device=loss.device))

    @torch.no_grad()
    def _rows_to_read(self, batch: CaptionBatch, users: RowUsers, logits: Logits) -> torch.Tensor:
        """Rows whose error can be more than 0: those that must change, and those that something matches. All other rows
        keep the very bits of their caption, which is also what they are held to: they have no error and no gradient."""
        if self.compare:
            return torch.arange(len(batch), device=batch.states.device)
        matched = self.adapter.matches(logits, users).amax((1, 2)) > 0
        return (batch.rewritten | matched).nonzero()[:, 0]

    def _read(
        self, batch: CaptionBatch, users: RowUsers, logits: Logits, rows: torch.Tensor, draw: Draw
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Errors of text and pooled states, [B] each; where rows are compared, also whether each is right."""
        nothing = torch.zeros(len(batch), device=batch.states.device)
        if not len(rows):
            return nothing, nothing, None
        pooled = None if batch.pooled is None else batch.pooled[rows]
        some = (logits[0][rows], logits[1][rows])
        changed, pooled = self.adapter.rewritten(batch.states[rows], pooled, users[rows], some)
        errors = nothing.index_copy(0, rows, self.reader.error(changed, batch.chosen[rows], draw))
        pooled_errors = nothing
        if pooled is not None and batch.chosen_pooled is not None:
            error = self.reader.pooled_error(pooled, batch.chosen_pooled[rows], self._sizes(len(rows)))
            pooled_errors = nothing.index_copy(0, rows, error)
        right = self._is_right(batch, changed, pooled, errors + pooled_errors, draw) if self.compare else None
        return errors, pooled_errors, right

    def _draw(self, seed: int) -> Draw:
        generator = torch.Generator().manual_seed(seed)
        return self.reader.draw(generator, layers=self.config.layers_per_step, queries=self.config.queries_per_layer)

    @torch.no_grad()
    def _is_right(
        self, batch: CaptionBatch, changed: torch.Tensor, pooled: torch.Tensor | None, errors: torch.Tensor, draw: Draw
    ) -> torch.Tensor:
        """Whether rows are read more like the chosen picture's caption than like the rejected one's, [B]."""
        assert batch.other is not None
        others = self.reader.error(changed, batch.other, draw)
        if pooled is not None and batch.other_pooled is not None:
            others = others + self.reader.pooled_error(pooled, batch.other_pooled, self._sizes(len(batch)))
        return errors < others

    def _sizes(self, rows: int) -> torch.Tensor:
        """SDXL's size conditions for each row, [rows, 6]: original size, crop offset and target size, in pixels."""
        size = float(self.size_px)
        return torch.tensor([[size, size, 0, 0, size, size]], device=self.device).expand(rows, -1)


def make_reader(pipeline: Any, captions: Captions, config: TrainingConfig, *, base: str) -> Reader:
    """The reader of a base model's cross-attentions, with queries as the config wants them.

    The same for every process and every start of a run: all that is drawn comes from config.seed.
    """
    pools = _pools(pipeline, captions, config)
    reader = Reader(pipeline.unet, [pool.to(pools[0]) for pool in pools])
    rng = _rng(config.seed)
    sample = rng.permutation(len(captions.texts.rows))[:SPREAD_CAPTIONS]
    device, size = pools[0].device, float(find_base(base).size_px)
    states = captions.texts.rows.read("states", sample).to(device)
    pooled = sizes = None
    if "pooled" in captions.texts.rows.names():
        pooled = captions.texts.rows.read("pooled", sample).to(device)
        sizes = torch.tensor([[size, size, 0, 0, size, size]], device=device).expand(len(sample), -1)
    reader.measure_spreads(states, pooled, sizes, floor=config.spread_floor)
    return reader


def _pools(pipeline: Any, captions: Captions, config: TrainingConfig) -> list[torch.Tensor]:
    if config.queries == "random":
        return random_pools(pipeline.unet, seed=config.seed)
    rng, safe = _rng(config.seed), captions.safe_captions
    if config.queries == "words":
        return word_pools(pipeline.unet, _words(captions, rng), seed=config.seed)
    shown = [safe[i] for i in rng.permutation(len(safe))[:SAMPLED_CAPTIONS]]
    make = {"samples": sample_pools, "noise": noise_pools}[config.queries]
    with on_device(pipeline, pipeline.unet.device):
        return make(pipeline, shown, seed=config.seed)


def _words(captions: Captions, rng: np.random.Generator) -> torch.Tensor:
    """Text states [N, D] of the words of some captions, without begin and end of the text."""
    sample = np.sort(rng.permutation(len(captions.texts.rows))[:SPREAD_CAPTIONS])
    tokens = captions.tokens[sample]
    is_word = np.cumsum(tokens == tokens[:, -1:], axis=1) == 0  # a text ends in the token that it is padded with
    is_word[:, 0] = False
    states = captions.texts.rows.read("states", sample)
    return states[torch.from_numpy(is_word)].float()


def _rng(seed: int) -> np.random.Generator:
    return np.random.default_rng((seed, 7))


def _by_cell(batch: CaptionBatch, right: torch.Tensor | None) -> tuple[torch.Tensor, torch.Tensor]:
    """Rows that are right and rows seen, by figure_cells(); none where nothing was compared."""
    if right is None:
        nothing = torch.zeros(len(figure_cells()), device=batch.cells.device)
        return nothing, nothing
    counted = batch.cells >= 0
    seen = torch.bincount(batch.cells[counted], minlength=len(figure_cells())).float()
    return torch.bincount(batch.cells[counted & right], minlength=len(figure_cells())).float(), seen
