"""Baseline SAFREE: no training; tokens of the prompt that lie near what is unwanted are projected away from it.

Place on the path of data: an alternative to steps 3 to 5. Its personal form takes the user's own words.

Source: Yoon et al. 2024, arXiv:2410.12761, sections 3.1 to 3.3. C has a column for each unwanted phrase, and
P_C = C (C^T C)^-1 C^T; I is the same of the prompt's own texts with one token left out. For token i of the prompt,

    d_i   = |(I - P_C) p_without_i|             distance of the prompt without this token from what is unwanted
    found = d_i > (1 + alpha) * mean of the others' d
    p_i'  = P_I (I - P_C) p_i  where found,  else p_i
    steps = gamma * sigmoid(1 - cos(p, p'))     denoising steps, from the first, that read p'; later ones read p

p_without_i is a text's state at its end. The re-attention of latents in the Fourier domain, a second part of the paper,
is not here: docs/BASELINES.md says why.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn import functional as F

from ..config import check_range
from .concepts import TextStates, end_of_text, row_texts

PAPER_STEPS = 50  # of the paper's runs, which gamma counts in


@dataclass(frozen=True)
class SafreeConfig:
    """alpha: how much farther than the others' mean a distance must be. gamma: most denoising steps, of 50, in which
    the projected text is read; in a run of n steps, that share of them. always: read it in every step instead."""

    alpha: float = 0.01
    gamma: float = 10.0
    always: bool = False

    def __post_init__(self) -> None:
        """Raises UsageError for a value that makes no sense."""
        check_range("alpha", self.alpha, 0)
        check_range("gamma", self.gamma, 0, PAPER_STEPS)


def projector(columns: torch.Tensor) -> torch.Tensor:
    """Orthogonal projection [D, D] on the space of the given vectors [K, D], however many of them depend on others."""
    inverse = torch.linalg.pinv(columns.double())
    return (inverse @ columns.double()).to(columns)


def project_prompt(
    states: torch.Tensor, without: torch.Tensor, unwanted: torch.Tensor, *, alpha: float
) -> tuple[torch.Tensor, torch.Tensor]:
    """The prompt's tokens after projection [N, D], and which of them were found, bool [N].

    states: of the prompt's own tokens [N, D]. without: the prompt without each one, at its end of text [N, D].
    unwanted: phrases at their end of text [K, D].
    """
    away = torch.eye(states.shape[1]).to(states) - projector(unwanted)
    distances = (without @ away).norm(dim=1)
    others = (distances.sum() - distances) / max(1, len(distances) - 1)
    found = distances > (1 + alpha) * others
    projected = states @ away @ projector(without)
    return torch.where(found[:, None], projected, states), found


def steps_for(before: torch.Tensor, after: torch.Tensor, config: SafreeConfig, *, steps: int) -> int:
    """In how many of the first denoising steps the projected text is read. before, after: a text's states [N, D]."""
    if config.always:
        return steps
    likeness = F.cosine_similarity(before.flatten(), after.flatten(), dim=0)
    return round(config.gamma * float((1 - likeness).sigmoid()) * steps / PAPER_STEPS)


@torch.no_grad()
def safree_arguments(
    known: TextStates,
    prompts: Sequence[str],
    negatives: Sequence[str] | None,
    unwanted: Sequence[Sequence[str]],
    *,
    config: SafreeConfig,
    steps: int,
) -> dict[str, Any]:
    """Keyword arguments of one pipeline call: the projected texts, and a callback that goes back to the prompts' own.

    unwanted: phrases of each row; a row of none is the base's. steps: denoising steps of the call.
    """
    texts = row_texts(known.pipe, prompts, negatives)
    states = texts.prompt_embeds.clone()
    lasting = [_rewrite(known, states[i], prompts[i], unwanted[i], config, steps) for i in range(len(prompts))]
    original = texts.prompt_embeds

    def go_back(_: Any, step: int, __: Any, tensors: dict[str, Any]) -> dict[str, Any]:
        """After a step: rows whose steps are over read their own prompt, behind the unconditional rows."""
        given = tensors["prompt_embeds"].clone()
        over = [i for i, count in enumerate(lasting) if step + 1 >= count]
        given[len(given) - len(lasting) :][over] = original[over].to(given)
        return {"prompt_embeds": given}

    first = torch.stack([state if count else own for state, own, count in zip(states, original, lasting, strict=True)])
    return {
        **texts.arguments(),
        "prompt_embeds": first,
        "callback_on_step_end": go_back,
        "callback_on_step_end_tensor_inputs": ["prompt_embeds"],
    }


def _rewrite(
    known: TextStates, states: torch.Tensor, prompt: str, unwanted: Sequence[str], config: SafreeConfig, steps: int
) -> int:
    """Projects the tokens of one prompt in place [T, D]. Returns how many steps shall read them."""
    pipe, end = known.pipe, end_of_text(known.pipe, prompt)
    if not unwanted or end < 3:  # a text of one token has no text without it
        return 0
    own = states[1:end]
    without = TextStates(pipe).ends(leave_one_out(pipe, prompt)).to(states)  # not kept: they come once
    projected, found = project_prompt(own.float(), without.float(), known.ends(unwanted), alpha=config.alpha)
    if not found.any():
        return 0
    before = own.float().clone()
    states[1:end] = projected.to(states)
    return steps_for(before, projected, config, steps=steps)


def leave_one_out(pipe: Any, prompt: str) -> list[str]:
    """The prompt without each of its tokens that are read, as texts."""
    tokens = pipe.tokenizer(prompt, truncation=True, max_length=pipe.tokenizer.model_max_length).input_ids[1:-1]
    return [pipe.tokenizer.decode(tokens[:i] + tokens[i + 1 :]) for i in range(len(tokens))]
