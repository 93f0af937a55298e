"""Text of kind `published`: it is left as it is, and a mark behind each row says whose it is.

Place on the path of data: step 5, between the text of a call and `published.py`. Two users may give the same prompt, so
the text itself cannot say it; the row carries it instead, through whatever a pipeline does with rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch

from ..errors import GuardError
from .published import UserTerms
from .recognition import KnownText, Place
from .text import Texts
from .users import RowUsers

_CALLS = itertools.count()


class MarkedText(KnownText):
    """A call's text with its users, whose terms are computed once a call.

    texts: the text states with a mark behind each row. plain: the same states without marks.
    """

    def __init__(self, texts: Texts, owner: object, *, plain: Texts, users: RowUsers) -> None:
        super().__init__(texts, users, owner)
        self.plain = plain
        self._behind: tuple[Any, torch.Tensor] | None = None  # of the last call, by what it depends on

    def without_marks(self, states: torch.Tensor) -> torch.Tensor:
        return states[:, :-1]

    @torch.no_grad()
    def behind(
        self, places: Sequence[Place], terms: UserTerms, *, like: torch.Tensor, lora_scale: float
    ) -> torch.Tensor:
        """What the rows' users add, [R, X, D]; an unconditional row adds the projection of a zero vector, as
        published."""
        weights = terms.weights()
        key = (tuple(places), lora_scale, like.dtype, like.device, weights)
        kept = self._behind
        if weights is not None and kept is not None and kept[0] == key:
            return kept[1]
        rows = [place.index for place in places]
        is_prompt = torch.tensor([place.is_prompt for place in places])
        vectors = self.users.vectors[rows] * is_prompt[:, None]
        behind = terms.behind(vectors, self.users.strength[rows], like=like, lora_scale=lora_scale)
        self._behind = (key, behind)
        return behind

    def unconditional(
        self, places: Sequence[Place], states: torch.Tensor, pooled: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """What a ControlNet may read: the unconditional text in place of the prompts of users.

        Raises GuardError where the call has none.
        """
        steered = [place.is_prompt and bool(self.users.strength[place.index]) for place in places]
        rows = [place.index for place in places]
        if any(steered) and self.plain.negative_prompt_embeds is None:
            raise GuardError(
                "An adapter of kind 'published' cannot keep a ControlNet from reading what a user bans without an "
                "unconditional text.",
                hint="Pass negative= to rewrite(), or use an adapter of kind 'prompt'.",
            )
        states = _exchanged(self.without_marks(states), self.plain.negative_prompt_embeds, rows, steered)
        return states, _exchanged(pooled, self.plain.negative_pooled_prompt_embeds, rows, steered)


def mark(texts: Texts, users: RowUsers, owner: object) -> tuple[MarkedText, Texts]:
    """A call's text with marks, and how it is recognised."""
    call, negative = next(_CALLS), texts.negative_prompt_embeds
    marked = replace(
        texts,
        prompt_embeds=_with_marks(texts.prompt_embeds, call, is_prompt=True),
        negative_prompt_embeds=None if negative is None else _with_marks(negative, call, is_prompt=False),
    )
    return MarkedText(marked, owner, plain=texts, users=users), marked


def _with_marks(states: torch.Tensor, call: int, *, is_prompt: bool) -> torch.Tensor:
    """[B, T, D] -> [B, T + 1, D]: a token of digits, which every type of 16 bits or more holds exactly.

    The rest of the token is infinite: a denoiser that has lost the guard, which takes the mark off, draws nothing.
    """
    tokens = torch.full((len(states), 1, states.shape[-1]), torch.inf, dtype=states.dtype, device=states.device)
    for row in range(len(states)):
        number = (call * 2 + is_prompt) << 16 | row
        digits = [number >> 8 * place & 255 for place in range(8)]
        tokens[row, 0, : len(digits)] = torch.tensor(digits).to(tokens)
    return torch.cat([states, tokens], dim=1)


def _exchanged(
    given: torch.Tensor | None, other: torch.Tensor | None, rows: Sequence[int], exchange: Sequence[bool]
) -> Any:
    """given [R, ...] with other's rows [B, ...] where `exchange` says so."""
    if given is None or other is None or not any(exchange):
        return given
    where = torch.tensor(exchange, device=given.device).view(-1, *[1] * (given.ndim - 1))
    return torch.where(where, other[list(rows)].to(given), given)
