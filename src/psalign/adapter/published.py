"""Kind `published`: user tokens in every cross-attention, exactly as the published adapter computes them.

Place on the path of data: step 5, kind `published`.

Attention output = to_out(Attn(q, text) + scale * Attn(q, user)). `to_out` is affine, so the user's part of it is a
term of its own, and a hook behind the whole attention adds it: whatever attention processor (SDPA, sliced, fused, an
IP-Adapter's, another library's) made the first part, and whatever LoRA changed `to_out`.

The hooks keep nothing of a call. What a row's user adds stands behind the row's text states in the same tensor,
[R, T + X, D], and so goes wherever the row goes; a hook in front of each cross-attention takes it off again.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from diffusers.configuration_utils import register_to_config
from torch import nn
from torch.nn import functional as F

from ..errors import GuardError
from .adapter import PSAAdapter, UserProjection, cross_attentions
from .recognition import KnownText, Place
from .users import RowUsers

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel
    from diffusers.models.attention_processor import Attention

Args = tuple[Any, ...]  # of a call, as a hook receives them
Kwargs = dict[str, Any]

# The one keyword that diffusers' attention drops silently where its processor does not know it; no UNet's does.
CARRIER = "ip_hidden_states"


class PublishedAdapter(PSAAdapter):
    """Keys and values of the user's tokens for every cross-attention.

    base, recipe, context_dim: see PSAAdapter; tokens have R = D. llm_dim: width of user vectors. widths: C of every
    cross-attention in the UNet's order. n_tokens: N user tokens, 1 as published. proj_rank, value_rank, with_keys:
    smaller forms (see compress.py): projection and values go through that many dimensions; no keys.
    """

    kind = "published"

    @register_to_config
    def __init__(
        self,
        base: str = "mini",
        recipe: str = "",
        llm_dim: int = 64,
        context_dim: int = 128,
        widths: tuple[int, ...] = (),
        n_tokens: int = 1,
        proj_rank: int = 0,
        value_rank: int = 0,
        with_keys: bool = True,
    ) -> None:
        super().__init__()
        self.user_proj = UserProjection(llm_dim, n_tokens, context_dim, proj_rank)
        if value_rank:
            self.to_shared = nn.Linear(context_dim, value_rank, bias=False)
        self.layers = nn.ModuleList(UserAttention(value_rank or context_dim, width, keys=with_keys) for width in widths)

    @property
    def n_tokens(self) -> int:
        return int(self.config.n_tokens)

    def user_values(self, tokens: torch.Tensor) -> list[torch.Tensor]:
        """User tokens [B, N, D] -> values of every cross-attention, [B, N, C] each."""
        shared = self.to_shared(tokens) if self.config.value_rank else tokens
        return [layer.to_v_user(shared) for layer in self.layers]  # type: ignore[union-attr,operator]


class FoldedAdapter(PSAAdapter):
    """A published adapter whose user vectors are the values themselves (see compress.py): [B, sum of C].

    base, recipe, context_dim: see PSAAdapter. widths: C of every cross-attention in the UNet's order.
    """

    kind = "published"
    n_tokens = 1

    @register_to_config
    def __init__(
        self, base: str = "mini", recipe: str = "", context_dim: int = 128, widths: tuple[int, ...] = ()
    ) -> None:
        super().__init__()
        self.null_user = nn.Parameter(torch.zeros(sum(widths)))

    @property
    def llm_dim(self) -> int:
        return sum(self.config.widths)

    def user_tokens(self, vectors: torch.Tensor) -> torch.Tensor:
        return (vectors + self.null_user)[:, None]

    def user_values(self, tokens: torch.Tensor) -> list[torch.Tensor]:
        """[B, 1, sum of C] -> values of every cross-attention, [B, 1, C] each."""
        return list(tokens.split(tuple(self.config.widths), dim=-1))


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


class UserTerms:
    """The hooks on a UNet's cross-attentions that add the user's part; `behind` makes what they read.

    length: X, the number of tokens behind the text of every row. With one user token a softmax over one key is 1, so
    what a layer adds is one vector for every pixel: the X tokens hold those vectors of all layers. With more user
    tokens they hold the row's strength, then the user tokens themselves.
    """

    def __init__(self, unet: UNet2DConditionModel, adapter: PSAAdapter) -> None:
        self.unet, self.adapter = unet, adapter
        self.is_one_token = adapter.n_tokens == 1
        width = adapter.config.context_dim
        self.length = -(-sum(adapter.config.widths) // width) if self.is_one_token else 1 + adapter.n_tokens
        found = cross_attentions(unet)
        self._hooks = [TermHook(self, attention, layer) for layer, attention in enumerate(found.values())]
        self._ways = [edge for name in found for edge in _way(unet, name)]

    def behind(self, users: RowUsers, *, like: torch.Tensor, lora_scale: float = 1.0) -> torch.Tensor:
        """What rows add, [R, X, D]. users: one per row. like: for dtype and device."""
        adapter = self.adapter
        vectors, scale = (x.to(device=adapter.device, dtype=adapter.dtype) for x in (users.vectors, users.strength))
        scale = scale[:, None, None]
        tokens = adapter.user_tokens(vectors)
        if not self.is_one_token:
            return torch.cat([scale.expand(-1, 1, tokens.shape[-1]), tokens], dim=1).to(like)
        with _lora_scaled(self.unet, lora_scale):
            values = zip(self._hooks, adapter.user_values(tokens), strict=True)
            terms = [through_output(hook.attention, value.to(like)).to(like) for hook, value in values]
        joined = scale.to(like) * torch.cat(terms, dim=-1)  # [R, 1, sum of C]
        width = adapter.config.context_dim
        return F.pad(joined, (0, self.length * width - joined.shape[-1])).unflatten(-1, (-1, width))[:, 0]

    def joined(self, states: torch.Tensor, users: RowUsers | None) -> torch.Tensor:
        """Text states with what rows add behind them, [R, T + X, D]: nothing, for the base, without users."""
        if users is None:
            return F.pad(states, (0, 0, 0, self.length))
        return torch.cat([states, self.behind(users, like=states)], dim=1)

    @torch.no_grad()
    def of_call(self, known: KnownText, places: list[Place], *, like: torch.Tensor, lora_scale: float) -> torch.Tensor:
        """`behind` for rows of a call's text, computed once as long as no output layer changes.

        An unconditional row adds the projection of a zero vector, as published.
        """
        weights = self._weights()
        key = (tuple(places), lora_scale, like.dtype, like.device, weights)
        if weights is not None and known.terms is not None and known.terms[0] == key:
            return known.terms[1]
        rows = [place.row for place in places]
        is_prompt = torch.tensor([place.is_prompt for place in places])
        users = RowUsers(known.users.vectors[rows] * is_prompt[:, None], known.users.strength[rows])
        behind = self.behind(users, like=like, lora_scale=lora_scale)
        known.terms = (key, behind)
        return behind

    def require_all(self) -> None:
        """Raises GuardError where a cross-attention was replaced, alone or with what holds it: its hooks are gone."""
        hooked = [hook.attention for hook in self._hooks if hook.is_hooked()]
        if len(hooked) == len(self._hooks) and all(outer._modules.get(name) is at for outer, name, at in self._ways):
            return
        here = {id(attention) for attention in cross_attentions(self.unet).values()}  # wraps around blocks are fine
        kept = {id(attention) for attention in hooked}
        lost = max(len(self._hooks) - len(kept & here), len(here - kept))
        if lost:
            raise GuardError(
                f"{lost} of {len(self._hooks)} cross-attentions have lost the adapter: something replaced them.",
                hint="Call unload() and attach the adapter again, after what changes the UNet.",
            )

    def _weights(self) -> tuple[Any, ...] | None:
        """What names the output layers' weights at this moment; None with LoRA or offloading."""
        outs = [hook.attention.to_out[0] for hook in self._hooks]
        if any(type(out) is not nn.Linear or out.weight.device.type == "meta" for out in outs):
            return None
        return tuple((id(out), out.weight._version, out.weight.data_ptr()) for out in outs)

    def remove(self) -> None:
        for hook in self._hooks:
            hook.before.remove()
            hook.after.remove()


class TermHook:
    """Both hooks of one cross-attention. start, end: where its term lies among those of all layers."""

    def __init__(self, terms: UserTerms, attention: Attention, layer: int) -> None:
        self.terms, self.attention, self.layer = terms, attention, layer
        widths = terms.adapter.config.widths
        self.start, self.end = sum(widths[:layer]), sum(widths[: layer + 1])
        self.before = attention.register_forward_pre_hook(self._take_off, with_kwargs=True)
        self.after = attention.register_forward_hook(self._add, with_kwargs=True)

    def is_hooked(self) -> bool:
        attention = self.attention
        return self.before.id in attention._forward_pre_hooks and self.after.id in attention._forward_hooks

    def _take_off(self, attention: Attention, args: Args, kwargs: Kwargs) -> tuple[Args, Kwargs]:
        given = kwargs["encoder_hidden_states"]
        states, others = (given[0], given[1:]) if isinstance(given, tuple) else (given, None)  # an IP-Adapter's tuple
        text, behind = states[:, : -self.terms.length], states[:, -self.terms.length :]
        text = text if others is None else (text, *others)
        return args, {**kwargs, "encoder_hidden_states": text, CARRIER: behind}

    def _add(self, attention: Attention, args: Args, kwargs: Kwargs, attended: torch.Tensor) -> torch.Tensor:
        behind: torch.Tensor = kwargs[CARRIER]
        if self.terms.is_one_token:
            return attended + behind.flatten(1)[:, None, self.start : self.end].to(attended.dtype)
        hidden = args[0] if args else kwargs["hidden_states"]
        layer = self.terms.adapter.layers[self.layer]
        tokens = behind[:, 1:].to(layer.to_v_user.weight.dtype)
        keys, values = layer.to_k_user(tokens).to(hidden.dtype), layer.to_v_user(tokens).to(hidden.dtype)
        user = through_output(attention, attend(attention, hidden, keys, values))
        return attended + behind[:, :1, :1].to(attended.dtype) * user.to(attended.dtype)


def _way(unet: nn.Module, name: str) -> Iterator[tuple[nn.Module, str, nn.Module]]:
    """From the UNet to a module inside: each outer module, a name in it, and the module of that name."""
    outer = unet
    for part in name.split("."):
        inner = outer.get_submodule(part)
        yield outer, part, inner
        outer = inner


def attend(attention: Attention, hidden: torch.Tensor, keys: torch.Tensor, values: torch.Tensor) -> torch.Tensor:
    """Attn(q, user) of one layer, [B, L, C]. hidden: what the cross-attention was called with, [B, L, C]."""
    q, k, v = (
        x.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for x in (attention.to_q(hidden), keys, values)
    )  # [B, H, L or N, C/H]
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def through_output(attention: Attention, user: torch.Tensor) -> torch.Tensor:
    """What `to_out` makes of the user's part [B, L, C] alone, without its bias."""
    out = attention.to_out[0]
    weight = next(out.parameters())
    if weight.device.type != "meta":  # weights that are offloaded layer by layer fetch their input themselves
        user = user.to(weight.device)
    if type(out) is nn.Linear and weight.device.type != "meta" and weight.dtype == user.dtype:
        made = F.linear(user, out.weight)
    else:  # a LoRA, a quantised layer, weights that are stored in another dtype than they work in: affine too
        made = out(user) - out(torch.zeros_like(user[:1, :1]))
    return made / attention.rescale_output_factor


@contextmanager
def _lora_scaled(unet: nn.Module, scale: float) -> Iterator[None]:
    """LoRA layers at the strength that this call asks for, as diffusers sets it inside the UNet's forward."""
    from diffusers.utils import scale_lora_layers, unscale_lora_layers

    is_scaled = scale != 1.0 and getattr(unet, "_hf_peft_config_loaded", False)
    if is_scaled:
        scale_lora_layers(unet, scale)
    try:
        yield
    finally:
        if is_scaled:
            unscale_lora_layers(unet, scale)
