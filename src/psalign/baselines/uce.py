"""Baseline UCE: concepts edited out of the cross-attentions in closed form, with a list of what must stay.

Place on the path of data: an alternative to steps 3 to 5. The static form edits the weights of the UNet beforehand; the
personal form solves the same equation for what one user bans, and applies it to the text.

Source: Gandikota et al. 2024, arXiv:2308.14761, equation 7. For every matrix W of keys and values, over states c of
what is erased (its target is c*) and states p of what is preserved,

    W' = argmin  a * sum |W' c - W c*|^2 + b * sum |W' p - W p|^2 + r * |W' - W|^2
       = W (a * sum c* c^T + b * sum p p^T + r I) (a * sum c c^T + b * sum p p^T + r I)^-1  =  W P

P has nothing of W in it: one matrix [D, D] for all cross-attentions, and W P applied to a text is W applied to P times
that text. So a user's edit needs no weights of its own: their text is multiplied by their P.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from ..adapter.text import Texts
from ..config import check_range
from ..errors import UsageError
from .concepts import TextStates

LAYERS = ("attn2.to_k.weight", "attn2.to_v.weight")


@dataclass(frozen=True)
class UceConfig:
    """templates: texts in which a phrase is erased, {} is its place. target: what is put in its place. preserve: texts
    that must stay. erase_weight, preserve_weight, ridge: a, b and r of the equation, all in units of states as they
    are."""

    templates: tuple[str, ...] = ("{}",)
    target: str = ""
    preserve: tuple[str, ...] = ()
    erase_weight: float = 1.0
    preserve_weight: float = 1.0
    ridge: float = 0.1

    def __post_init__(self) -> None:
        """Raises UsageError for a value that makes no sense."""
        if not self.templates or any("{}" not in template for template in self.templates):
            raise UsageError("templates must be texts with {} for the phrase, at least one.")
        check_range("erase_weight", self.erase_weight, 0, above=True)
        check_range("preserve_weight", self.preserve_weight, 0)
        check_range("ridge", self.ridge, 0, above=True)


@dataclass(frozen=True)
class States:
    """Text states of an edit, float64: erased and their targets [N, D], preserved [M, D]."""

    erased: torch.Tensor
    targets: torch.Tensor
    preserved: torch.Tensor


def states_of(known: TextStates, erase: Sequence[str], keep: Sequence[str], config: UceConfig) -> States:
    """States of phrases in every template, from their last word to the end, each beside the target's at that distance.

    keep: phrases that are preserved in every template, beside the config's own texts.
    Raises UsageError where there is nothing to erase.
    """
    if not erase:
        raise UsageError("There is no phrase to erase.")
    erased, targets = [], []
    for template in config.templates:
        target, to = _tail(known, template.format(config.target))
        for phrase in erase:
            states, start = _tail(known, template.format(phrase))
            count = min(len(states) - start, len(target) - to)
            erased.append(states[start : start + count])
            targets.append(target[to : to + count])
    texts = [*config.preserve, *(template.format(phrase) for template in config.templates for phrase in keep)]
    preserved = [states[1:] for states in (_tail(known, text)[0] for text in texts)]
    like = torch.cat(erased)
    return States(like, torch.cat(targets), torch.cat(preserved) if preserved else like[:0])


def solve(states: States, config: UceConfig) -> torch.Tensor:
    """P of the module's equation, float64 [D, D]; the identity where erased states equal their targets."""
    c, target, p = states.erased, states.targets, states.preserved
    rest = config.preserve_weight * p.T @ p + config.ridge * torch.eye(c.shape[1], dtype=c.dtype)
    wanted = config.erase_weight * target.T @ c + rest
    seen = config.erase_weight * c.T @ c + rest
    return torch.linalg.solve(seen, wanted.T).T  # seen is symmetric: wanted @ seen^-1


def uce_matrix(known: TextStates, erase: Sequence[str], keep: Sequence[str], config: UceConfig) -> torch.Tensor:
    """P that erases phrases and keeps others, float64 [D, D]; the identity where nothing is erased."""
    if not erase:
        return torch.eye(known.pipe.unet.config.cross_attention_dim, dtype=torch.float64)
    return solve(states_of(known, erase, keep, config), config)


def edited_weights(unet: Any, matrix: torch.Tensor) -> dict[str, torch.Tensor]:
    """The UNet's keys and values of text after an edit, by the UNet's names: what stock diffusers loads."""
    weights = {name: weight for name, weight in unet.state_dict().items() if name.endswith(LAYERS)}
    return {name: (weight.double().cpu() @ matrix).to(weight.dtype) for name, weight in weights.items()}


def mapped(texts: Texts, matrices: Sequence[torch.Tensor]) -> Texts:
    """Each row's text, prompt and unconditional one, as a UNet that was edited by the row's matrix reads it.

    matrices: P of each row, [D, D]. Pooled states (SDXL) stay, since no cross-attention reads them.
    """
    stacked = torch.stack(list(matrices)).to(texts.prompt_embeds)
    negative = texts.negative_prompt_embeds
    return replace(
        texts,
        prompt_embeds=texts.prompt_embeds @ stacked.mT,
        negative_prompt_embeds=None if negative is None else negative @ stacked.mT,
    )


def _tail(known: TextStates, text: str) -> tuple[torch.Tensor, int]:
    """States of a text [T, D], float64 on the CPU, and the place of its last word; of an empty text, of its end."""
    states, end = known(text)
    return states.double().cpu(), max(1, end - 1)
