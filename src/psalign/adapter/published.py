"""Kind `published`: user tokens in every cross-attention, exactly as the published adapter computes them.

Place on the path of data: step 5, kind `published`.

Attention output = to_out(Attn(q, text) + scale * Attn(q, user)). `to_out` is affine, so the user's part of it is a
term of its own, and a hook behind the whole attention adds it: whatever attention processor (SDPA, sliced, fused, an
IP-Adapter's, another library's) made the first part, and whatever LoRA changed `to_out`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import nn
from torch.nn import functional as F

if TYPE_CHECKING:
    from diffusers.models.attention_processor import Attention

    from .adapter import PSAAdapter
    from .condition import Condition


class UserAttention(nn.Module):
    """Keys and values of the user's tokens for one cross-attention of width C; both start at zero, as published.

    keys: False where they were dropped because they never matter (one user token).
    """

    def __init__(self, token_dim: int, width: int, *, keys: bool = True) -> None:
        super().__init__()
        if keys:
            self.to_k_user = nn.Linear(token_dim, width, bias=False)
            nn.init.zeros_(self.to_k_user.weight)
        self.to_v_user = nn.Linear(token_dim, width, bias=False)
        nn.init.zeros_(self.to_v_user.weight)


@dataclass
class Steering:
    """What one cross-attention adds in one UNet call.

    One user token: `term` [B, 1, C], final. More: `key` and `value`, [B, N, C]. strength: [B, 1, 1].
    absent: [B, 1, 1], True for rows that keep their very bits; None where there are none.
    """

    strength: torch.Tensor
    absent: torch.Tensor | None
    term: torch.Tensor | None
    key: torch.Tensor
    value: torch.Tensor

    def add(self, attention: Attention, hidden: torch.Tensor, attended: torch.Tensor) -> torch.Tensor:
        """The output of the cross-attention with the user's part, [B, L, C].

        hidden: what it was called with, [B, L, C]; attended: what it gave.
        """
        term = self.term
        if term is None:
            user = attend(attention, hidden, self.key.to(hidden.dtype), self.value.to(hidden.dtype))
            term = self.strength.to(hidden.dtype) * through_output(attention, user)
        steered = attended + term.to(attended.dtype)
        return steered if self.absent is None else torch.where(self.absent, attended, steered)


def steer(
    adapter: PSAAdapter, attentions: list[Attention], condition: Condition, unconditional: int, *, like: torch.Tensor
) -> list[Steering]:
    """Everything that depends on the users alone, for each cross-attention; computed once per call.

    unconditional: how many rows come first that are nobody's prompt: they get the projection of a zero vector, as
    published. like: any tensor of the UNet's call, for device and dtype. Exact for N = 1: a softmax over one key is 1,
    so keys never matter, and the user's part is one vector for every pixel.
    """
    vectors, strength = condition.vectors, condition.strength
    if unconditional:
        vectors, strength = torch.cat([torch.zeros_like(vectors), vectors]), strength.repeat(2)
    tokens = adapter.user_tokens(vectors.to(device=adapter.device, dtype=adapter.dtype))  # [B, N, D]
    scale = strength.to(like)[:, None, None]
    absent = scale == 0 if bool((strength == 0).any()) else None
    values = [value.to(like) for value in adapter.user_values(tokens)]
    if tokens.shape[1] == 1:
        terms = [scale * through_output(*pair).to(like) for pair in zip(attentions, values, strict=True)]
        return [Steering(scale, absent, term, value, value) for term, value in zip(terms, values, strict=True)]
    keys = [key.to(like) for key in adapter.user_keys(tokens)]
    return [Steering(scale, absent, None, key, value) for key, value in zip(keys, values, strict=True)]


def attend(attention: Attention, hidden: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Attn(q, user) of one layer, [B, L, C]. hidden: what the cross-attention was called with, [B, L, C]."""
    q, k, v = (
        x.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for x in (attention.to_q(hidden), keys, values)
    )  # [B, H, L or N, C/H]
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def through_output(attention: Attention, user: torch.Tensor) -> torch.Tensor:
    """What `to_out` makes of the user's part [B, L, C] alone, without its bias."""
    out = attention.to_out[0]
    place = next(out.parameters()).device
    if place.type != "meta":  # weights that are offloaded layer by layer fetch their input themselves
        user = user.to(place)
    if type(out) is nn.Linear and place.type != "meta":
        made = F.linear(user, out.weight)
    else:  # a LoRA, a quantised layer: affine too
        made = out(user) - out(torch.zeros_like(user[:1, :1]))
    return made / attention.rescale_output_factor
