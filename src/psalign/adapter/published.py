"""Kind `published`: user tokens in every cross-attention, exactly as the published adapter computes them.

Place on the path of data: step 5, kind `published`.

Attention output = to_out(Attn(q, text) + scale * Attn(q, user)). The second term is added to the input of `to_out`
by a hook there, so it does not matter which attention processor (SDPA, sliced, fused, another library's) made the
first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention


class UserAttention(nn.Module):
    """Keys and values of the user's tokens for one cross-attention of width C; both start at zero, as published."""

    def __init__(self, context_dim: int, width: int) -> None:
        super().__init__()
        self.to_k_user = nn.Linear(context_dim, width, bias=False)
        self.to_v_user = nn.Linear(context_dim, width, bias=False)
        nn.init.zeros_(self.to_k_user.weight)
        nn.init.zeros_(self.to_v_user.weight)


def fold(layers: nn.ModuleList, user_tokens: torch.Tensor) -> list[torch.Tensor]:
    """The user term of every layer for one token per user: [B, 1, C] each.

    Exact for N = 1: a softmax over one key is 1, so keys never matter and the term is the value itself.
    """
    if user_tokens.shape[1] != 1:
        raise ValueError(f"Only one token per user can be folded; saw {user_tokens.shape[1]}.")
    return [layer.to_v_user(user_tokens) for layer in layers]  # type: ignore[operator]


def attend(layer: UserAttention, attention: Attention, hidden: torch.Tensor, user_tokens: torch.Tensor) -> torch.Tensor:
    """Attn(q, user) of one layer, [B, L, C]. hidden: what the cross-attention was called with, [B, L, C]."""
    heads = attention.heads
    q, k, v = attention.to_q(hidden), layer.to_k_user(user_tokens), layer.to_v_user(user_tokens)
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v))  # [B, H, L or N, C/H]
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
