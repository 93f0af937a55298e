"""Which tokens of a prompt fall under what a user does not want to see: a number for each prompt and user token.

Place on the path of data: step 4. A user's tokens come from three sources, each of which may be missing: the vector
that a language model made, the exact list of banned categories, and limits in words. Every source has matches of its
own and the largest counts, so one source, or one limit more, never takes away from another.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn import functional as F

from .adapter import UserProjection
from .users import RowUsers

NEVER = -20.0  # logit of a user token that a row does not have
LEAST_OF_BANS, LEAST_OF_WORDS = 0.25, 0.5  # smaller matches become exactly 0 once the matcher is sharp
SIMILAR = 12.0  # logits for a cosine from 0 to 1, in the space of features
WORDS_RANK = 32  # rank of the learned part of the similarity of words


class TokenMatcher(nn.Module):
    """Compares text states [B, T, D] with user tokens; gives logits [B, T, S], S = N + C + M.

    Vector tokens (N) and category tokens (C) are compared with learned features of a prompt token [R]. A limit in words
    (M) is compared in two ways: its states with the prompt's states, by a similarity that begins as their cosine and so
    works for words that training never met; and its features with the prompt's features, which know kinds ("weapon" of
    a sword). The second way counts more where the limit's breadth, a number computed from its states, is larger.

    context_dim: D. rank: R. llm_dim, n_tokens, proj_rank: see UserProjection. categories: C.
    """

    centre: torch.Tensor
    spread: torch.Tensor

    def __init__(
        self, *, context_dim: int, rank: int, llm_dim: int, n_tokens: int, proj_rank: int, categories: int
    ) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(context_dim))
        self.register_buffer("spread", torch.ones(context_dim))
        self.width = 2 * rank
        self.features = nn.Sequential(nn.Linear(context_dim, 2 * rank), nn.GELU(), nn.Linear(2 * rank, rank))
        self.user_proj = UserProjection(llm_dim, n_tokens, rank, proj_rank)
        self.categories = nn.Parameter(0.1 * torch.randn(categories, rank))
        self.bans_bias = nn.Parameter(torch.tensor([-2.0, -2.0]))  # of vector and category tokens
        self.words_down = nn.Linear(context_dim, WORDS_RANK, bias=False)
        self.words_up = nn.Linear(WORDS_RANK, context_dim, bias=False)
        nn.init.zeros_(self.words_up.weight)  # the similarity begins as a cosine
        self.before_down = nn.Linear(context_dim, WORDS_RANK, bias=False)
        self.before_up = nn.Linear(WORDS_RANK, context_dim + 2 * rank, bias=False)
        nn.init.zeros_(self.before_up.weight)
        self.words_scale = nn.Parameter(torch.full((2,), 2.1))  # logarithms, for last words and for ends of text
        self.words_bias = nn.Parameter(torch.full((2,), -4.0))
        self.breadth = nn.Sequential(nn.Linear(context_dim, 16), nn.GELU(), nn.Linear(16, 1))

    @torch.no_grad()
    def measure(self, states: torch.Tensor) -> None:
        """Take centre and spread of a text state from the states of a sample of captions, [Q, T, D]."""
        words = states[:, 1:].float().flatten(0, 1)  # without the start of text: always equal, an outlier
        self.centre.copy_(words.mean(0))
        self.spread.copy_(words.std(0).clamp(min=1e-3))

    def forward(self, states: torch.Tensor, users: RowUsers) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [B, T, S] twice: of what a token says within its prompt, and of what the token itself adds.

        User tokens stand in the order vector, categories, limits; a row's logit is NEVER for those that it lacks.
        """
        states = self._standard(states)
        before = F.pad(states[:, 1:-1], (0, 0, 2, 0))  # states of the token before; none before the first word
        of_words, of_features = self.before_up(self.before_down(before)).split([states.shape[-1], self.width], dim=-1)
        first, *rest = self.features
        hidden = first(states)
        within = self._logits(states, self._run(rest, hidden), users)
        return within, self._logits(states + of_words, self._run(rest, hidden + of_features), users)

    def _logits(self, states: torch.Tensor, features: torch.Tensor, users: RowUsers) -> torch.Tensor:
        vector = features @ self.user_proj(users.vectors).transpose(1, 2) / 2 + self.bans_bias[0]  # [B, T, N]
        category = features @ self.categories.T + self.bans_bias[1]  # [B, T, C]
        if users.bans is not None and users.is_known is not None:
            vector = vector.masked_fill(users.is_known[:, None, None], NEVER)
            category = category.masked_fill(users.bans[:, None] == 0, NEVER)
        else:
            category = torch.full_like(category, NEVER)
        parts = [vector, category]
        if users.limits is not None and users.limit_strength is not None:
            there = users.limit_strength > 0
            parts.append(self._of_words(states, features, users.limits).masked_fill(~there[:, None], NEVER))
        logits = torch.cat(parts, dim=-1).clamp(min=NEVER)
        if users.caution is not None:
            logits = torch.where(logits > NEVER, logits + users.caution[:, None, None], logits)
        start = torch.full_like(logits[:, :1], NEVER)  # of the text, which says nothing
        return torch.cat([start, logits[:, 1:]], dim=1)

    def matches(self, logits: torch.Tensor, users: RowUsers, *, sharp: bool) -> torch.Tensor:
        """Logits [B, T, S] -> matches [B, T, S] in [0, 1], a limit's times its strength.

        sharp: whether matches below LEAST_OF_BANS and LEAST_OF_WORDS become exactly 0; their gradient stays. Training
        begins with sharp=False: small matches of an untrained matcher must reach the rewriter.
        """
        matches = logits.sigmoid()
        if sharp:
            bans = logits.shape[-1] - (0 if users.limits is None else users.limits.shape[1])
            least = torch.full_like(matches[0, 0], LEAST_OF_WORDS)
            least[:bans] = LEAST_OF_BANS
            matches = matches + (torch.where(matches < least, 0.0, matches) - matches).detach()
        if users.limits is None or users.limit_strength is None:
            return matches
        ones = torch.ones_like(matches[:, 0, : -users.limits.shape[1]])
        return matches * torch.cat([ones, users.limit_strength.to(matches)], dim=-1)[:, None]

    def _of_words(self, states: torch.Tensor, features: torch.Tensor, limits: torch.Tensor) -> torch.Tensor:
        limits = self._standard(limits)  # [B, M, 2, D]
        cosines = torch.einsum("btd,bmkd->btmk", self._words(states), self._words(limits))
        spelled = cosines * self.words_scale.exp() + self.words_bias  # [B, T, M, 2]
        ends = limits[:, :, 1]
        kinds = F.normalize(features, dim=-1) @ F.normalize(self.features(ends), dim=-1).transpose(1, 2)
        kinds = SIMILAR * kinds - 8.0 + self.breadth(ends).transpose(1, 2)  # [B, T, M]
        return torch.cat([spelled, kinds[..., None]], dim=-1).logsumexp(-1)

    @staticmethod
    def _run(layers: Sequence[nn.Module], hidden: torch.Tensor) -> torch.Tensor:
        for layer in layers:
            hidden = layer(hidden)
        return hidden

    def _words(self, states: torch.Tensor) -> torch.Tensor:
        return F.normalize(states + self.words_up(self.words_down(states)), dim=-1)

    def _standard(self, states: torch.Tensor) -> torch.Tensor:
        return (states - self.centre) / self.spread
