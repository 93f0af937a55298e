"""The preference losses.

Place on the path of data: where training joins at step 4.
"""

from __future__ import annotations

import torch
from torch.nn import functional as F

from ..adapter.matching import NEVER

STAYING, QUIET, NARROW = 1.0, 3.0, 0.5  # weights of the terms that hold matches down
Errors = tuple[torch.Tensor, torch.Tensor]


def margins(policy: Errors, reference: Errors) -> torch.Tensor:
    """How much more the policy prefers the chosen picture than the reference does: [B], in units of squared error.

    policy, reference: squared noise errors of chosen and rejected, each [B], averaged over pixels and channels.
    """
    return (reference[0] - reference[1]) - (policy[0] - policy[1])


def preference_loss(margins: torch.Tensor, *, beta: float, kind: str = "sigmoid") -> torch.Tensor:
    """Loss of each pair, [B].

    beta: preference strength; the published launcher uses 5000, with the factor 1/2 kept so that it means the same.
    kind: "sigmoid": -log sigmoid(beta / 2 * margin), Diffusion-DPO; ln 2 where policy and reference agree.
    "ipo": (beta / 2 * margin - 1/2)^2, which stops pushing once the margin is 1 / beta: the squared loss of IPO with
    tau = beta, times beta^2, so that one beta serves both kinds.
    Source: Wallace et al. 2023, arXiv:2311.12908, eq. 14; Azar et al. 2023, arXiv:2310.12036, eq. 17.
    """
    scaled = beta / 2 * margins
    if kind == "ipo":
        return (scaled - 0.5).square()
    return -F.logsigmoid(scaled)


def squared_error(predicted: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Mean squared error of each row, [B, ...] -> [B], in float32."""
    return (predicted.float() - target.float()).square().flatten(1).mean(1)


def min_snr_weights(alphas: torch.Tensor, *, gamma: float) -> torch.Tensor:
    """Weights of timesteps for a model that predicts noise, [B]: min(SNR, gamma) / SNR.

    alphas: cumulative products of the noise schedule at these timesteps, [B].
    Source: Hang et al. 2023, arXiv:2303.09556, section 3.4.
    """
    snr = alphas / (1 - alphas)
    return snr.clamp(max=gamma) / snr


def match_loss(
    logits: tuple[torch.Tensor, torch.Tensor],
    rewritten: torch.Tensor,
    stays: torch.Tensor | None = None,
    *,
    rows: int,
    rewritten_rows: int,
    is_sharp: bool,
) -> torch.Tensor:
    """This batch's share of a step's match loss of kind `prompt`, a scalar.

    A prompt with something to take away must have a match, and no other may have one: binary cross-entropy of its
    largest logit, of both ways of matching. Of matches by what a token itself adds, the match must be of a token that
    goes, and none may be of a token that stays. Once the matcher is sharp, all logits of other prompts are held down,
    and few tokens of a prompt shall match.
    logits: of PromptAdapter.match, [B, T, S] each. rewritten: whether there is something to take away, [B]. stays:
    tokens that the caption of the chosen picture has too, [B, T]; None: it is not known which. rows, rewritten_rows:
    of the whole step.
    """
    label = rewritten.float()
    within, own = logits
    largest = own.amax(-1)  # [B, T]
    stays = torch.zeros_like(largest, dtype=torch.bool) if stays is None else stays
    gone = largest.masked_fill(stays & rewritten[:, None], NEVER).amax(1)
    kept = largest.masked_fill(~stays, NEVER).amax(1)
    total = F.binary_cross_entropy_with_logits(
        torch.stack([within.amax((1, 2)), gone]), label.expand(2, -1), reduction="sum"
    )
    total = (total + STAYING * (F.softplus(kept) * label).sum()) / rows
    if not is_sharp:
        return total
    there = (within > 0.95 * NEVER).float()
    quiet = ((F.softplus(within) + F.softplus(own)) * there).sum((1, 2)) / there.sum((1, 2)).clamp(min=1)
    broad = within.sigmoid().amax(-1).mean(-1)
    total = total + QUIET * (quiet * (1 - label)).sum() / max(1, rows - rewritten_rows)
    return total + NARROW * (broad * label).sum() / max(1, rewritten_rows)
