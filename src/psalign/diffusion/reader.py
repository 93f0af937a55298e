"""What a frozen UNet reads of a prompt: the outputs of its cross-attentions, and of SDXL's pooled text state.

Place on the path of data: step 4 in training by captions, and the training of the mini base's language. A
cross-attention is the only place where a UNet looks at the text, so two texts that every cross-attention reads alike
give the same picture. Reading needs the weights of the cross-attentions alone (`to_k`, `to_v`, `to_out`), and queries
to read with.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

POOL = 512  # queries that each cross-attention has, to draw from
GAINS = (4.0, 16.0)  # of a query's own word over the mean of all words, in logits
SAMPLE_STEPS = 6  # denoising steps of the pictures whose queries are taken


@dataclass(frozen=True)
class Draw:
    """What one step reads with. layers: numbers of cross-attentions. queries: [layers, Q], places in their pools."""

    layers: Sequence[int]
    queries: torch.Tensor


class Reader:
    """Reads text states with the cross-attentions of a UNet.

    pools: queries of every cross-attention, [P, C] each. spreads: [layers], the variance of what each one reads over
    captions, by which its errors are divided; pooled_spread: the same of the pooled text state. drawn_from: numbers of
    the cross-attentions that a step draws from.
    """

    def __init__(self, unet: nn.Module, pools: Sequence[torch.Tensor]) -> None:
        self.unet, self.attentions, self.pools = unet, find_cross_attentions(unet), list(pools)
        self.spreads = torch.ones(len(self.attentions))
        self.pooled_spread = 1.0
        self.drawn_from = list(range(len(self.attentions)))

    def __len__(self) -> int:
        return len(self.attentions)

    @property
    def dtype(self) -> torch.dtype:
        return self.attentions[0].to_k.weight.dtype

    def read(self, states: torch.Tensor, layer: int, queries: torch.Tensor) -> torch.Tensor:
        """What one cross-attention reads of states [B, T, D] with queries [Q] of its pool: [B, Q, C]."""
        attention = self.attentions[layer]
        states = states.to(self.dtype)
        pool = self.pools[layer][queries].expand(len(states), -1, -1)  # [B, Q, C]
        q, k, v = (_split(x, attention.heads) for x in (pool, attention.to_k(states), attention.to_v(states)))
        read: torch.Tensor = attention.to_out[0](F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))
        return read.float()

    def read_pooled(self, pooled: torch.Tensor, time_ids: torch.Tensor) -> torch.Tensor:
        """What SDXL's UNet makes of pooled text states [B, P]: [B, E]. time_ids: sizes of the pictures, [B, 6]."""
        added = {"text_embeds": pooled.to(self.dtype), "time_ids": time_ids}
        read: torch.Tensor = self.unet.get_aug_embed(  # type: ignore[operator]
            emb=pooled.to(self.dtype), encoder_hidden_states=None, added_cond_kwargs=added
        )
        return read.float()

    @torch.no_grad()
    def measure_spreads(
        self,
        states: torch.Tensor,
        pooled: torch.Tensor | None = None,
        time_ids: torch.Tensor | None = None,
        *,
        floor: float = 0.0,
    ) -> None:
        """Take the spreads from the states of a sample of captions, [N, T, D] and [N, P].

        floor: no layer's spread is taken to be below this share of the largest. A layer that reads next to nothing of
        the text moves the picture as little; its error, over its own small spread, would drown the others'. Layers
        below a tenth of the floor are not drawn from at all.
        """
        every = torch.arange(min(32, len(self.pools[0])), device=states.device)
        read = (self.read(states, layer, every) for layer in range(len(self)))
        spreads = torch.stack([one.var(0).mean() for one in read])
        least = floor * float(spreads.max())
        self.spreads = spreads.clamp(min=max(1e-8, least))
        self.drawn_from = (spreads >= least / 10).nonzero().flatten().tolist()
        if pooled is not None and time_ids is not None:
            self.pooled_spread = float(self.read_pooled(pooled, time_ids).var(0).mean().clamp(min=1e-8))

    def error(self, states: torch.Tensor, chosen: torch.Tensor, draw: Draw) -> torch.Tensor:
        """Squared difference between what the UNet reads of two text states, [B], in units of each layer's spread.

        states: [B, T, D]. chosen: text states of the caption of the chosen picture, [B, T, D]; they get no gradient.
        """
        errors = []
        for layer, queries in zip(draw.layers, draw.queries, strict=True):
            with torch.no_grad():
                target = self.read(chosen, layer, queries)
            difference = self.read(states, layer, queries) - target
            errors.append(difference.square().mean((1, 2)) / self.spreads[layer])
        return torch.stack(errors).mean(0)

    def pooled_error(self, pooled: torch.Tensor, chosen: torch.Tensor, time_ids: torch.Tensor) -> torch.Tensor:
        """The same for pooled text states [B, P]."""
        with torch.no_grad():
            target = self.read_pooled(chosen, time_ids)
        return (self.read_pooled(pooled, time_ids) - target).square().mean(1) / self.pooled_spread

    def draw(self, generator: torch.Generator, *, layers: int, queries: int) -> Draw:
        """Layers (0: all) and queries for a step. generator: on the CPU."""
        count = len(self.drawn_from)
        some = layers if 0 < layers < count else count
        chosen = [self.drawn_from[i] for i in torch.randperm(count, generator=generator)[:some].tolist()]
        size = len(self.pools[0])
        picks = torch.randint(size, (len(chosen), min(queries, size)), generator=generator)
        return Draw(sorted(chosen), picks.to(self.pools[0].device))


def find_cross_attentions(unet: nn.Module) -> list[Any]:
    """The cross-attentions (attn2) of a UNet, in the order of its modules."""
    return [module for name, module in unet.named_modules() if name.endswith("attn2")]


# --- queries --------------------------------------------------------------------------------------------------------


@torch.no_grad()
def random_pools(unet: nn.Module, *, seed: int) -> list[torch.Tensor]:
    """Queries of random pixels: noise of spread 1, through each block's own `norm2` and `to_q`. No pass of the UNet."""
    generator = torch.Generator().manual_seed(seed)
    pools = []
    blocks: list[Any] = [block for block in unet.modules() if getattr(block, "attn2", None) is not None]
    for block in blocks:
        weight = block.attn2.to_q.weight
        pixels = torch.randn((POOL, weight.shape[1]), generator=generator).to(weight)
        pools.append(block.attn2.to_q(block.norm2(pixels)))
    return pools


@torch.no_grad()
def word_pools(unet: nn.Module, words: torch.Tensor, *, seed: int) -> list[torch.Tensor]:
    """Queries of pixels that look for a word: those of random pixels, and added to each, in every head, the key of one
    of `words` [N, D] less the mean key. No pass of the UNet.

    Random pixels attend to all tokens nearly alike; the pixels of a picture attend to the words that they show. The
    length of what is added makes that word's logit GAINS above the mean.
    """
    generator, pools = torch.Generator().manual_seed(seed), []
    least, most = GAINS
    for attention, random in zip(find_cross_attentions(unet), random_pools(unet, seed=seed), strict=True):
        keys = attention.to_k(words.to(random))
        picks = torch.randint(len(keys), (POOL,), generator=generator)
        keys = (keys - keys.mean(0))[picks.to(keys.device)].unflatten(1, (attention.heads, -1))  # [P, H, C/H]
        gains = least * (most / least) ** torch.rand((POOL, 1, 1), generator=generator).to(keys)
        added = gains * keys.shape[-1] ** 0.5 * keys / keys.square().sum(-1, keepdim=True).clamp(min=1e-6)
        pools.append(random + added.flatten(1))
    return pools


@torch.no_grad()
def noise_pools(pipeline: Any, captions: Sequence[str], *, seed: int) -> list[torch.Tensor]:
    """Queries of one pass of the UNet on noise, at timesteps from end to end, under safe captions."""
    unet, count = pipeline.unet, len(captions)
    generator = torch.Generator().manual_seed(seed)
    size, channels = unet.config.sample_size, unet.config.in_channels
    latents = torch.randn((count, channels, size, size), generator=generator).to(unet.device, unet.dtype)
    steps = torch.linspace(1, 999, count).long().to(unet.device)
    states = pipeline.encode_prompt(list(captions), unet.device, 1, False)[0]
    with _taken(unet, generator, calls=1) as pools:
        unet(latents, steps, states.to(unet.dtype))
    return [torch.cat(one) for one in pools]


@torch.no_grad()
def sample_pools(pipeline: Any, captions: Sequence[str], *, seed: int) -> list[torch.Tensor]:
    """Queries of the base's own pictures of safe captions, over all their denoising steps."""
    seeds = [torch.Generator().manual_seed(seed * len(captions) + i) for i in range(len(captions))]
    with _taken(pipeline.unet, torch.Generator().manual_seed(seed), calls=SAMPLE_STEPS) as pools:
        pipeline(list(captions), num_inference_steps=SAMPLE_STEPS, generator=seeds, output_type="latent")
    return [torch.cat(one)[:POOL] for one in pools]


@contextmanager
def _taken(unet: nn.Module, generator: torch.Generator, *, calls: int) -> Iterator[list[list[torch.Tensor]]]:
    """Within it POOL / calls queries of every call of every cross-attention are kept."""
    attentions = find_cross_attentions(unet)
    pools: list[list[torch.Tensor]] = [[] for _ in attentions]

    def keep(pool: list[torch.Tensor], queries: torch.Tensor) -> None:
        rows = queries.flatten(0, 1)
        picks = torch.randint(len(rows), (-(-POOL // calls),), generator=generator)
        pool.append(rows[picks.to(rows.device)].clone())

    hooks = [
        attention.to_q.register_forward_hook(lambda _module, _inputs, out, pool=pool: keep(pool, out))
        for attention, pool in zip(attentions, pools, strict=True)
    ]
    try:
        yield pools
    finally:
        for hook in hooks:
            hook.remove()


def _split(x: torch.Tensor, heads: int) -> torch.Tensor:
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)  # [B, H, T, C/H]
