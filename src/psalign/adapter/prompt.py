"""Kind `prompt`: prompt tokens read the user's tokens, and a small block rewrites the prompt as this user may see it.

Place on the path of data: step 5, kind `prompt`.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional as F

from .adapter import PSAAdapter, UserProjection


class PromptAdapter(PSAAdapter):
    """Rewrites the text of a prompt for its user; whatever denoiser comes after reads the rewritten text.

    base, recipe, context_dim: see PSAAdapter. llm_dim: width of user vectors. pooled_dim: width of a pooled text state
    that is rewritten too (SDXL: 1280), or 0. n_tokens: N user tokens. proj_rank: the projection of user vectors goes
    through that many dimensions; 0: straight. rank, heads, depth, gated: see PromptRewriter.
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
        rank: int = 64,
        heads: int = 4,
        depth: int = 1,
        gated: bool = False,
    ) -> None:
        super().__init__()
        self.user_proj = UserProjection(llm_dim, n_tokens, rank, proj_rank)
        self.rewriter = PromptRewriter(
            context_dim=context_dim, rank=rank, heads=heads, depth=depth, gated=gated, pooled_dim=pooled_dim
        )

    def rewritten(
        self, states: torch.Tensor, pooled: torch.Tensor | None, vectors: torch.Tensor, strength: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Text states [B, T, D] and pooled states [B, P] as the users may see them; the same dtype and device.

        vectors: [B, llm_dim]. strength: [B]; 0 leaves a row's very bits, 1 is as trained.
        """
        here: dict[str, Any] = {"device": self.device, "dtype": self.dtype}
        tokens, strength = self.user_tokens(vectors.to(**here)), strength.to(**here)
        changed = _added(states, self.rewriter(states.to(**here), tokens), strength)
        if pooled is None or not self.config.pooled_dim:
            return changed, pooled
        return changed, _added(pooled, self.rewriter.pooled(pooled.to(**here), tokens), strength)


def _added(x: torch.Tensor, change: torch.Tensor, strength: torch.Tensor) -> torch.Tensor:
    """x + strength * change; where strength is 0 the very bits of x, since x + 0 would turn -0.0 into 0.0."""
    strength = strength.view(-1, *[1] * (x.ndim - 1))
    return torch.where((strength == 0).to(x.device), x, x + (strength * change).to(x))


class PromptRewriter(nn.Module):
    """Rewrites text states [B, T, D] for user tokens [B, N, R]; adds exactly nothing until it is trained.

    Works in R dimensions: each of `depth` blocks lets the prompt's tokens attend to the user's tokens, then to each
    other (a token that is let go of is also let go of where later tokens had taken it up), then thinks about both.
    gated: a token may also be exchanged for another state, whatever it said (out = state + gate * (other - state)), not
    only added to: what is taken away need not be known in detail, so words it never met can be let go of too.
    pooled_dim: width of a pooled text state that is rewritten too (SDXL), or 0.
    """

    def __init__(
        self, *, context_dim: int, rank: int, heads: int, depth: int, gated: bool = False, pooled_dim: int = 0
    ) -> None:
        super().__init__()
        self.gated = gated
        self.norm_in = nn.LayerNorm(context_dim)
        self.down = nn.Linear(context_dim, rank)
        self.blocks = nn.ModuleList(PromptBlock(rank, heads) for _ in range(depth))
        self.norm_out = nn.LayerNorm(rank)
        self.up = zero_(nn.Linear(rank, context_dim))
        if gated:
            self.gate = zero_(nn.Linear(rank, 1))
            self.other = nn.Linear(rank, context_dim)
        if pooled_dim:
            self.pooled_down = nn.Linear(pooled_dim, rank)
            self.pooled_block = PromptBlock(rank, heads)
            self.pooled_up = zero_(nn.Linear(rank, pooled_dim))

    def forward(self, states: torch.Tensor, user_tokens: torch.Tensor) -> torch.Tensor:
        """The change to add to states, [B, T, D]."""
        hidden = self.down(self.norm_in(states))  # [B, T, R]
        for block in self.blocks:
            hidden = block(hidden, user_tokens)
        hidden = self.norm_out(hidden)
        change = self.up(hidden)
        if self.gated:
            change = change + torch.tanh(self.gate(hidden)) * (self.other(hidden) - states)
        return change

    def pooled(self, pooled: torch.Tensor, user_tokens: torch.Tensor) -> torch.Tensor:
        """The change to add to a pooled text state [B, P]."""
        hidden = self.pooled_down(F.layer_norm(pooled, pooled.shape[-1:]))[:, None]  # [B, 1, R]
        return self.pooled_up(self.norm_out(self.pooled_block(hidden, user_tokens)))[:, 0]


class PromptBlock(nn.Module):
    """Attention to the user, attention to the prompt, and an MLP over both, each added to what came in."""

    def __init__(self, rank: int, heads: int) -> None:
        super().__init__()
        self.norms = nn.ModuleList(nn.LayerNorm(rank) for _ in range(3))
        self.to_user = Attention(rank, heads)
        self.to_prompt = Attention(rank, heads)
        self.mlp = nn.Sequential(nn.Linear(2 * rank, 4 * rank), nn.GELU(), nn.Linear(4 * rank, rank))

    def forward(self, hidden: torch.Tensor, user_tokens: torch.Tensor) -> torch.Tensor:
        read = self.to_user(self.norms[0](hidden), user_tokens)
        hidden = hidden + read
        normed = self.norms[1](hidden)
        hidden = hidden + self.to_prompt(normed, normed)
        return hidden + self.mlp(torch.cat([self.norms[2](hidden), read], dim=-1))


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
