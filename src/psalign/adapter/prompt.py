"""Kind `prompt`: tokens that match what the user does not want are marked, and a block rewrites the prompt.

Place on the path of data: step 5, kind `prompt`.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional as F

from .adapter import PSAAdapter
from .matching import TokenMatcher
from .users import RowUsers

Logits = tuple[torch.Tensor, torch.Tensor]  # of PromptAdapter.match


class PromptAdapter(PSAAdapter):
    """Rewrites the text of a prompt for its user; whatever denoiser comes after reads the rewritten text.

    base, recipe, context_dim: see PSAAdapter. llm_dim: width of user vectors. pooled_dim: width of a pooled text state
    that is rewritten too (SDXL: 1280), or 0. n_tokens: N user tokens that a vector becomes. proj_rank: the projection
    of user vectors goes through that many dimensions; 0: straight. categories: C, of the taxonomy it was trained with.
    words: whether it was trained on limits in words. rank, heads, depth: see PromptRewriter.
    """

    kind = "prompt"

    @register_to_config
    def __init__(
        self,
        base: str = "mini",
        recipe: str = "",
        llm_dim: int = 64,
        context_dim: int = 128,
        pooled_dim: int = 0,
        n_tokens: int = 8,
        proj_rank: int = 0,
        categories: int = 7,
        words: bool = False,
        rank: int = 64,
        heads: int = 4,
        depth: int = 1,
    ) -> None:
        super().__init__()
        self.matcher = TokenMatcher(
            context_dim=context_dim, rank=rank, llm_dim=llm_dim, n_tokens=n_tokens, proj_rank=proj_rank,
            categories=categories,
        )  # fmt: skip
        self.rewriter = PromptRewriter(
            context_dim=context_dim, rank=rank, heads=heads, depth=depth, pooled_dim=pooled_dim
        )
        self.is_sharp = True  # see TokenMatcher.matches; training begins without

    def user_tokens(self, vectors: torch.Tensor) -> torch.Tensor:
        """User vectors [B, llm_dim] -> user tokens [B, N, R]."""
        tokens: torch.Tensor = self.matcher.user_proj(vectors)
        return tokens

    def match(self, states: torch.Tensor, users: RowUsers) -> Logits:
        """Logits [B, T, S], twice, of how surely each token of text states [B, T, D] falls under each user token: by
        what it says within its prompt, and by what the token itself adds."""
        within, own = self.matcher(states.to(device=self.device, dtype=self.dtype), users.to(self))
        return within, own

    def matches(self, logits: Logits, users: RowUsers) -> torch.Tensor:
        """How surely each token falls under anything that its user does not want to see, [B, T, 2] in [0, 1]: by either
        way of match(), and by what the token itself adds."""
        within, own = (self.matcher.matches(one, users, sharp=self.is_sharp).amax(-1) for one in logits)
        return torch.stack([torch.maximum(within, own), own], dim=-1)

    def rewritten(
        self, states: torch.Tensor, pooled: torch.Tensor | None, users: RowUsers, logits: Logits | None = None
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Text states [B, T, D] and pooled states [B, P] as the users may see them; the same dtype and device.

        A row without any match, or of strength 0, keeps its very bits. logits: of match(), where they are known.
        """
        users = users.to(self)
        logits = self.match(states, users) if logits is None else logits
        matches = self.matches(logits, users)  # [B, T, 2]
        largest = matches.amax((1, 2))  # [B]
        if users.limit_strength is not None:  # which weakens the change, and a mark only beside a stronger limit's
            whole = self.matches(logits, replace(users, limit_strength=None)).amax((1, 2))
            weakened = torch.where(whole > 0, largest / whole, 1.0).detach()  # 0 / 0 where nothing is matched
            matches = matches / weakened[:, None, None]
        strength = users.strength * largest
        hidden, change = self.rewriter(states.to(device=self.device, dtype=self.dtype), matches)
        changed = _added(states, change, strength)
        if pooled is None or not self.config.pooled_dim:
            return changed, pooled
        change = self.rewriter.pooled(pooled.to(device=self.device, dtype=self.dtype), hidden)
        return changed, _added(pooled, change, strength)


def _added(x: torch.Tensor, change: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """x + strength * change; where strength is 0 the very bits of x, since x + 0 would turn -0.0 into 0.0."""
    strength = strength.view(-1, *[1] * (x.ndim - 1))
    return torch.where((strength == 0).to(x.device), x, x + (strength * change).to(x))


class PromptRewriter(nn.Module):
    """Rewrites text states [B, T, D] whose tokens are matched [B, T, 2]; adds exactly nothing until it is trained.

    It sees which tokens are matched and never why. A token that is matched by what it adds is a word that is to go.
    One that is matched within its prompt alone is part of a description, or follows a word that is to go and still
    carries its meaning. The rewriter works in R dimensions: in each of `depth` blocks every token attends to the
    prompt and to its matched tokens. A token's state is added to, or exchanged for another state
    (out = state + gate * (other - state)); an exchange needs no knowledge of all that the state held.
    pooled_dim: width of a pooled text state that is rewritten too (SDXL), or 0.
    """

    def __init__(self, *, context_dim: int, rank: int, heads: int, depth: int, pooled_dim: int = 0) -> None:
        super().__init__()
        self.norm_in = nn.LayerNorm(context_dim)
        self.down = nn.Linear(context_dim, rank)
        self.mark = nn.Linear(rank, 2 * rank)  # what a match of either kind adds to a token
        self.blocks = nn.ModuleList(RewriteBlock(rank, heads) for _ in range(depth))
        self.norm_out = nn.LayerNorm(rank)
        self.up = zero_(nn.Linear(rank, context_dim))
        self.gate = zero_(nn.Linear(rank, 1))
        self.other = nn.Linear(rank, context_dim)
        if pooled_dim:
            self.pooled_down = nn.Linear(pooled_dim, rank)
            self.pooled_block = RewriteBlock(rank, heads)
            self.pooled_up = zero_(nn.Linear(rank, pooled_dim))

    def forward(self, states: torch.Tensor, matches: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Hidden states [B, T, R], and the change to add to states, [B, T, D]."""
        hidden = self.down(self.norm_in(states))  # [B, T, R]
        hidden = hidden + (matches[..., None] * self.mark(hidden).unflatten(-1, (2, -1))).sum(-2)
        for block in self.blocks:
            hidden = block(hidden, hidden, matches[..., 0])
        normed = self.norm_out(hidden)
        change = self.up(normed) + torch.tanh(self.gate(normed)) * (self.other(normed) - states)
        return hidden, change

    def pooled(self, pooled: torch.Tensor, hidden: torch.Tensor) -> torch.Tensor:
        """The change to add to a pooled text state [B, P] beside a prompt's hidden states [B, T, R]."""
        own = self.pooled_down(F.layer_norm(pooled, pooled.shape[-1:]))[:, None]  # [B, 1, R]
        return self.pooled_up(self.norm_out(self.pooled_block(own, hidden, None)))[:, 0]


class RewriteBlock(nn.Module):
    """Attention to a prompt, attention to its matched tokens, and an MLP, each added to what came in."""

    def __init__(self, rank: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(rank) for _ in range(3))
        self.to_prompt = Attention(rank, heads)
        self.to_matched = Attention(rank, heads)
        self.mlp = nn.Sequential(nn.Linear(rank, 4 * rank), nn.GELU(), nn.Linear(4 * rank, rank))

    def forward(self, hidden: torch.Tensor, prompt: torch.Tensor, matches: torch.Tensor | None) -> torch.Tensor:
        hidden = hidden + self.to_prompt(self.norms[0](hidden), self.norms[0](prompt))
        marked = self.norms[1](prompt) if matches is None else self.norms[1](hidden) * matches[..., None]
        hidden = hidden + self.to_matched(self.norms[1](hidden), marked)
        return hidden + self.mlp(self.norms[2](hidden))


class Attention(nn.Module):
    """Multi-head attention of queries [B, T, R] to a context [B, N, R]."""

    def __init__(self, rank: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(rank, rank, bias=False)
        self.to_kv = nn.Linear(rank, 2 * rank, bias=False)
        self.to_out = nn.Linear(rank, rank)

    def forward(self, queries: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        q, k, v = (self._split(x) for x in (self.to_q(queries), *self.to_kv(context).chunk(2, dim=-1)))
        attended = F.scaled_dot_product_attention(q, k, v)  # [B, H, T, R/H]
        return self.to_out(attended.transpose(1, 2).flatten(2))

    def _split(self, x: torch.Tensor) -> torch.Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # [B, H, T, R/H]


def zero_(layer: nn.Linear) -> nn.Linear:
    """Start a layer at zero, so that an untrained adapter is the base model."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)
    return layer
