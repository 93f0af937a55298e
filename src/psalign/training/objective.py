"""What a batch of pairs teaches: preference loss, anchors, and the figures of its log.

Place on the path of data: step 4 in training, between a batch and its gradient. The reference is the UNet itself with
the adapter bypassed, and comes before the policy: nothing may run between the policy's forward and backward pass, since
checkpointed layers are computed again in the latter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ..adapter.guard import AttachedAdapter
from ..adapter.prompt import PromptAdapter
from ..adapter.users import RowUsers
from ..categories import category_names
from .config import TrainingConfig
from .loss import margins, match_loss, min_snr_weights, preference_loss, squared_error
from .pairs import SIDES, PairBatch, Pairs, Plan
from .schedule import require_noise_schedule

FIGURES = ("loss", "dpo", "accuracy", "margin", "visual", "visual_accuracy", "chosen_error", "rejected_error", "anchor",
           "safe_anchor", "match_loss")  # fmt: skip


def figure_cells() -> tuple[tuple[str, str], ...]:
    """Names of the groups of rows that figures are given for: banned and allowed, by category."""
    return tuple((side, category) for side in SIDES[:2] for category in category_names())


def figures_in_play(config: TrainingConfig) -> tuple[str, ...]:
    """The FIGURES that mean something under a config."""
    known = {
        "loss": True,
        "chosen_error": True,
        **dict.fromkeys(("dpo", "accuracy", "margin", "rejected_error"), config.dpo_weight > 0),
        **dict.fromkeys(("visual", "visual_accuracy"), config.visual_share > 0),
        "anchor": config.anchor_weight > 0,
        "safe_anchor": config.safe_anchor_weight > 0,
        "match_loss": config.match_weight > 0,
    }
    return tuple(name for name in FIGURES if known[name])


@dataclass(frozen=True)
class Totals:
    """How many pairs of a whole step each mean is over, so that parts of a step add up to it exactly."""

    pairs: int
    compared: int
    visual: int
    anchored: int
    safe: int
    rewritten: int = 0

    @classmethod
    def of(cls, plan: Plan, pairs: Pairs, *, null_user: bool) -> Totals:
        """null_user: rows without a user are trained too."""
        rows = pairs.table[plan.rows]
        safe = rows[:, 6] == SIDES.index("safe")
        return cls(
            pairs=len(plan),
            compared=int((plan.with_user & ~plan.visual).sum()),
            visual=int((plan.with_user & plan.visual).sum()),
            anchored=len(plan) if null_user else int(plan.with_user.sum()),
            safe=int((plan.with_user & safe).sum()),
            rewritten=int((plan.with_user & plan.captioned & (rows[:, 2] != rows[:, 3])).sum()),
        )


@dataclass(frozen=True)
class Outcome:
    """loss: scalar with its graph. figures: shares of the step's FIGURES. right, seen: pairs ranked rightly and pairs
    compared, by figure_cells(). reference: the reference's errors of chosen and rejected, [B, 2]."""

    loss: torch.Tensor
    figures: torch.Tensor
    right: torch.Tensor
    seen: torch.Tensor
    reference: torch.Tensor


class ReferenceErrors:
    """The reference's squared errors of chosen and rejected for each fixed draw of each pair, once they are known.

    errors: [2, rows, draws, 2], of pairs and of visual pairs; NaN where not known.
    """

    def __init__(self, rows: int, draws: int) -> None:
        self.errors = torch.full((2, rows, draws, 2), torch.nan)

    def look_up(self, plan: Plan) -> torch.Tensor:
        return self.errors[self._places(plan)]

    def store(self, plan: Plan, errors: torch.Tensor) -> None:
        self.errors[self._places(plan)] = errors

    def _places(self, plan: Plan) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        return tuple(torch.from_numpy(np.asarray(n, np.int64)) for n in (plan.visual, plan.rows, plan.draws))  # type: ignore[return-value]


class Objective:
    """The loss of batches of pairs of pictures.

    alphas: cumulative products of the noise schedule, [1000]. compare: look at rejected pictures even where nothing is
    learned from them, for the figures.
    """

    figures = FIGURES

    def __init__(
        self, attached: AttachedAdapter, config: TrainingConfig, alphas: torch.Tensor, *, compare: bool = False
    ) -> None:
        self.attached, self.config, self.alphas = attached, config, alphas
        self.adapter, self.device = attached.adapter, attached.unet.device
        self.compare_all = compare or config.dpo_weight > 0
        self.null_user = attached.adapter.kind == "published"

    @classmethod
    def of(cls, attached: AttachedAdapter, config: TrainingConfig, noise_scheduler: Any) -> Objective:
        """The objective on a UNet with its noise schedule. Raises UsageError for one that does not predict noise."""
        require_noise_schedule(noise_scheduler)
        return cls(attached, config, noise_scheduler.alphas_cumprod.to(attached.unet.device))

    @property
    def figures_in_play(self) -> tuple[str, ...]:
        names = figures_in_play(self.config)
        return names if isinstance(self.adapter, PromptAdapter) else tuple(n for n in names if n != "match_loss")

    def totals(self, plan: Plan, pairs: Pairs) -> Totals:
        return Totals.of(plan, pairs, null_user=self.null_user)

    def for_validation(self) -> Objective:
        """The same without dropouts and visual pairs, which also looks at rejected pictures."""
        calm = replace(
            self.config, caption_dropout=0.0, user_dropout=0.0, visual_share=0.0, reference_draws=0,
            rewritten_share=None, seed=0,
        )  # fmt: skip
        return Objective(self.attached, calm, self.alphas, compare=True)

    def __call__(self, batch: PairBatch, totals: Totals, known: torch.Tensor | None = None) -> Outcome:
        """known: the reference's errors [B, 2] that need not be computed; NaN where they must be."""
        config, everything = self.config, torch.arange(len(batch), device=batch.noise.device)
        rows = everything if self.compare_all else batch.visual.nonzero()[:, 0]  # of pairs that are compared
        chosen = self._add_noise(batch.chosen, batch, everything)
        rejected = self._add_noise(batch.rejected[rows], batch, rows)
        plain = _Predictions(chosen)
        reference = self._reference(batch, chosen, rejected, rows, known, plain)
        targets = self._targets(batch, chosen, plain)

        both = torch.cat([everything, rows])
        predicted = self._unet(torch.cat([chosen, rejected]), batch, both, policy=True)
        errors = squared_error(predicted, batch.noise[both]) * self._weights(batch, both)
        chosen_errors, rejected_errors = errors[: len(batch)], errors[len(batch) :]
        margin = margins((chosen_errors[rows], rejected_errors), (reference[rows, 0], reference[rows, 1]))
        preference = preference_loss(margin, beta=config.beta, kind=config.loss)
        anchor = squared_error(predicted[: len(batch)], targets) * self._weights(batch, everything)

        with_user, visual = batch.with_user[rows], batch.visual[rows]
        compared, clear = (with_user & ~visual) / max(1, totals.compared), (with_user & visual) / max(1, totals.visual)
        anchored = (batch.with_user | self.null_user) / max(1, totals.anchored)
        safe = self._safe_error(batch, predicted[: len(batch)], plain) * self._weights(batch, everything)
        terms = {
            "dpo": (compared * preference).sum(),
            "visual": (clear * preference).sum(),
            "anchor": (anchored * anchor).sum(),
            "safe_anchor": (safe * (batch.safe & batch.with_user)).sum() / max(1, totals.safe),
        }
        terms["match_loss"] = self._match_loss(batch, totals) * (config.match_weight > 0)
        loss, right = self._weighed(terms), margin > 0
        figures = {
            **terms,
            "loss": loss,
            "accuracy": (compared * right).sum(),
            "margin": (compared * margin).sum(),
            "visual_accuracy": (clear * right).sum(),
            "chosen_error": chosen_errors.sum() / totals.pairs,
            "rejected_error": rejected_errors.sum() / totals.pairs,
        }
        shown = torch.stack([figures[name].detach().float() for name in FIGURES])
        return Outcome(loss, shown, *self._by_cell(batch, rows, right), reference)

    def _weighed(self, terms: dict[str, torch.Tensor]) -> torch.Tensor:
        """The terms of the loss, each with its weight."""
        config = self.config
        return (
            config.match_weight * terms["match_loss"]
            + config.dpo_weight * terms["dpo"]
            + config.visual_weight * terms["visual"] * (config.visual_share > 0)
            + config.anchor_weight * terms["anchor"]
            + config.safe_anchor_weight * terms["safe_anchor"]
        )

    def _match_loss(self, batch: PairBatch, totals: Totals) -> torch.Tensor:
        """Of kind `prompt`: a prompt with something to take away must have a match, and no other may have one."""
        if not isinstance(self.adapter, PromptAdapter):
            return batch.noise.new_zeros((), dtype=torch.float32)
        rows = batch.with_user.nonzero()[:, 0]
        if not len(rows):
            return batch.noise.new_zeros((), dtype=torch.float32)
        logits = self.adapter.match(batch.states[rows], self._users(batch, rows))
        return match_loss(
            logits, batch.rewritten[rows], rows=totals.pairs, rewritten_rows=totals.rewritten,
            is_sharp=self.adapter.is_sharp,
        )  # fmt: skip

    # --- the base's own predictions -----------------------------------------------------------------------------------

    @torch.no_grad()
    def _reference(
        self,
        batch: PairBatch,
        chosen: torch.Tensor,
        rejected: torch.Tensor,
        rows: torch.Tensor,
        known: torch.Tensor | None,
        plain: _Predictions,
    ) -> torch.Tensor:
        """Errors of the base on chosen and rejected, [B, 2]; NaN for pairs that are not compared."""
        errors = torch.full((len(batch), 2), torch.nan, device=chosen.device)
        if known is not None:
            errors = known.to(chosen.device, copy=True)
        missing = errors[rows].isnan().any(1)
        needed = rows[missing]
        if not len(needed):
            return errors
        both = needed.repeat(2)
        predicted = self._unet(torch.cat([chosen[needed], rejected[missing]]), batch, both)
        plain.put(needed, predicted[: len(needed)])
        errors[needed] = (
            (squared_error(predicted, batch.noise[both]) * self._weights(batch, both)).view(2, -1).T.to(errors)
        )
        return errors

    @torch.no_grad()
    def _targets(self, batch: PairBatch, chosen: torch.Tensor, plain: _Predictions) -> torch.Tensor:
        """What the policy's prediction on the chosen picture is held to, [B, C, h, w].

        A null user that is trained is held to the base itself.
        """
        config = self.config
        by_caption = batch.with_user & (config.anchor == "caption") & (config.anchor_weight > 0)
        nobody = ~batch.with_user & self.null_user & (config.anchor_weight > 0)
        own = by_caption & batch.rewritten
        safe = batch.safe & batch.with_user & (config.safe_anchor_weight > 0)
        lacking = ((by_caption & ~batch.rewritten) | nobody | safe) & ~plain.there
        own_rows, plain_rows = own.nonzero()[:, 0], lacking.nonzero()[:, 0]
        targets = torch.where((by_caption | nobody)[:, None, None, None], plain.values, batch.noise)
        if len(own_rows) + len(plain_rows):
            rows = torch.cat([own_rows, plain_rows])  # first with the pictures' captions, then with the rows' own
            predicted = self._unet(chosen[rows], batch, rows, captioned=len(own_rows))
            plain.put(plain_rows, predicted[len(own_rows) :])
            targets = torch.where((by_caption | nobody)[:, None, None, None], plain.values, batch.noise)
            targets[own_rows] = predicted[: len(own_rows)].to(targets)
        return targets

    def _safe_error(self, batch: PairBatch, predicted: torch.Tensor, plain: _Predictions) -> torch.Tensor:
        if not self.config.safe_anchor_weight:
            return predicted.new_zeros(len(batch), dtype=torch.float32)
        return squared_error(predicted, plain.values)

    # --- the UNet -----------------------------------------------------------------------------------------------------

    def _unet(
        self, noisy: torch.Tensor, batch: PairBatch, rows: torch.Tensor, *, policy: bool = False, captioned: int = 0
    ) -> torch.Tensor:
        """The noise that the UNet predicts for rows of a batch. captioned: that many rows, from the first, have the
        caption of the chosen picture in place of their own."""
        dtype = self.attached.unet.dtype
        states = _mixed(batch.own_states, batch.states, rows, captioned).to(dtype)
        added: dict[str, torch.Tensor] = {}
        if batch.pooled is not None and batch.own_pooled is not None and batch.time_ids is not None:
            added["pooled"] = _mixed(batch.own_pooled, batch.pooled, rows, captioned).to(dtype)
            added["time_ids"] = batch.time_ids[rows].to(dtype)
        users = self._users(batch, rows) if policy else None
        return self.attached.denoise(noisy.to(dtype), batch.timesteps[rows], states, users=users, **added)

    def _users(self, batch: PairBatch, rows: torch.Tensor) -> RowUsers:
        """Rows without a user are the base.

        Kind `published` has a null user instead, the zero vector, and trains it.
        """
        vectors, present = batch.vectors[rows], batch.with_user[rows]
        if self.null_user:
            vectors, present = vectors * present[:, None], torch.ones_like(present)
        return RowUsers(vectors, present.float(), batch.bans[rows], batch.is_known[rows])

    def _add_noise(self, latents: torch.Tensor, batch: PairBatch, rows: torch.Tensor) -> torch.Tensor:
        alpha = self.alphas[batch.timesteps[rows]].view(-1, 1, 1, 1)
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * batch.noise[rows]

    def _weights(self, batch: PairBatch, rows: torch.Tensor) -> torch.Tensor:
        """Weights of squared errors, [rows]."""
        if self.config.timestep_weighting == "none":
            return torch.ones(len(rows), device=batch.noise.device)
        return min_snr_weights(self.alphas[batch.timesteps[rows]], gamma=self.config.snr_gamma)

    def _by_cell(self, batch: PairBatch, rows: torch.Tensor, right: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Pairs ranked rightly and pairs seen, by figure_cells()."""
        cells = batch.cells[rows]
        counted = (cells >= 0) & batch.with_user[rows] & ~batch.visual[rows]
        seen = torch.bincount(cells[counted], minlength=len(figure_cells())).float()
        return torch.bincount(cells[counted & right], minlength=len(figure_cells())).float(), seen


class _Predictions:
    """The base's predictions on chosen pictures under the rows' own captions, for the rows where they are known."""

    def __init__(self, like: torch.Tensor) -> None:
        self.values = torch.zeros_like(like)
        self.there = torch.zeros(len(like), dtype=torch.bool, device=like.device)

    def put(self, rows: torch.Tensor, predicted: torch.Tensor) -> None:
        self.values[rows] = predicted.to(self.values)
        self.there[rows] = True


def _mixed(own: torch.Tensor, plain: torch.Tensor, rows: torch.Tensor, captioned: int) -> torch.Tensor:
    if not captioned:
        return plain[rows]
    return torch.cat([own[rows[:captioned]], plain[rows[captioned:]]])
