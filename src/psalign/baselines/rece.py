"""Baseline RECE: UCE, then again and again for the text that would still give what was erased.

Place on the path of data: as UCE, static and personal.

Source: Gong et al. 2024, arXiv:2407.12383, equations 3 to 8. After an edit W' = W P, the state c' of which the edited
keys and values are most like those that the unedited ones had of an erased c is

    c' = argmin  sum |W' c' - W c|^2 + l * |c'|^2  =  (l I + P^T G P)^-1 P^T G c,   G = sum W^T W over all W

c' is erased next, with the same target, from W'; so each round multiplies P by one more matrix of UCE's form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

from ..config import check_range
from .concepts import TextStates
from .uce import LAYERS, States, UceConfig, solve, states_of


@dataclass(frozen=True)
class ReceConfig(UceConfig):
    """rounds: edits after the first one; the paper has 3 for nudity, 2 for unsafe concepts. derived_ridge: l."""

    rounds: int = 2
    derived_ridge: float = 0.1

    def __post_init__(self) -> None:
        """Raises UsageError for a value that makes no sense."""
        super().__post_init__()
        check_range("rounds", self.rounds, 0)
        check_range("derived_ridge", self.derived_ridge, 0, above=True)


def rece_matrix(known: TextStates, erase: Sequence[str], keep: Sequence[str], config: ReceConfig) -> torch.Tensor:
    """P after all rounds, float64 [D, D]; UCE's with no round, the identity where nothing is erased."""
    gram = reading(known.pipe.unet)
    if not erase:
        return torch.eye(len(gram), dtype=torch.float64)
    states = states_of(known, erase, keep, config)
    matrix = solve(states, config)
    for _ in range(config.rounds):
        again = States(derived(states.erased, matrix, gram, config.derived_ridge), states.targets, states.preserved)
        matrix = matrix @ solve(again, config)
    return matrix


def derived(states: torch.Tensor, matrix: torch.Tensor, gram: torch.Tensor, ridge: float) -> torch.Tensor:
    """c' for each of the states [N, D]: what an edited UNet would read nearly as the unedited one read them."""
    edited = matrix.T @ gram
    return torch.linalg.solve(edited @ matrix + ridge * torch.eye(len(gram), dtype=gram.dtype), edited @ states.T).T


def reading(unet: Any) -> torch.Tensor:
    """G: the sum of W^T W over all keys and values of text, float64 [D, D]."""
    weights = [weight for name, weight in unet.state_dict().items() if name.endswith(LAYERS)]
    return torch.stack([weight.double().cpu().T @ weight.double().cpu() for weight in weights]).sum(0)
