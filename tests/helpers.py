"""Small models and vectors that many tests share."""

from __future__ import annotations

import copy
from collections import OrderedDict
from functools import cache
from typing import Any

import torch
from diffusers import UNet2DConditionModel

from psalign.adapter.adapter import PSAAdapter, cross_attention_widths
from psalign.adapter.guard import AttachedAdapter
from psalign.adapter.prompt import PromptAdapter
from psalign.adapter.published import PublishedAdapter

LLM_DIM = 12
RECIPE = "tests"


def tiny_unet(*, seed: int = 0, context_dim: int = 16, blocks: int = 2) -> UNet2DConditionModel:
    """A UNet with random weights and cross-attentions at two depths; with one block it compiles more quickly.

    Like a new one, it leaves torch's generator where making it does.
    """
    made, state = _made_unet(seed, context_dim, blocks)
    torch.manual_seed(seed)  # of a GPU too
    torch.set_rng_state(state)
    return copy.deepcopy(made, empty_dicts(made))


@cache
def _made_unet(seed: int, context_dim: int, blocks: int) -> tuple[UNet2DConditionModel, torch.Tensor]:
    torch.manual_seed(seed)
    return _new_unet(context_dim, blocks), torch.get_rng_state()


def _new_unet(context_dim: int, blocks: int) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=8,
        in_channels=4,
        out_channels=4,
        block_out_channels=(8, 16)[:blocks],
        layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",) * blocks,
        up_block_types=("CrossAttnUpBlock2D",) * blocks,
        cross_attention_dim=context_dim,
        attention_head_dim=4,
        norm_num_groups=4,
    ).eval()


def tiny_adapter(unet: UNet2DConditionModel, kind: str, *, n_tokens: int = 1, trained: bool = True) -> PSAAdapter:
    """An adapter that fits the UNet; trained: with every weight random, and matches for everybody."""
    torch.manual_seed(1)
    shape = {"base": "mini", "recipe": RECIPE, "llm_dim": LLM_DIM, "context_dim": unet.config.cross_attention_dim}
    adapter: PSAAdapter
    if kind == "published":
        adapter = PublishedAdapter(**shape, n_tokens=n_tokens, widths=cross_attention_widths(unet))
    else:
        adapter = PromptAdapter(**shape, n_tokens=n_tokens, rank=8, heads=2)
    adapter.eval()
    if trained:
        with torch.no_grad():
            for weight in adapter.parameters():
                weight.copy_(torch.randn_like(weight) * 0.3)
            if isinstance(adapter, PromptAdapter):
                adapter.matcher.bans_bias.fill_(4.0)
    return adapter


def unet_inputs(batch: int, *, context_dim: int = 16, seed: int = 2) -> dict[str, torch.Tensor]:
    """sample, timestep and encoder_hidden_states for a tiny UNet."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "sample": torch.randn((batch, 4, 8, 8), generator=generator),
        "timestep": torch.full((batch,), 500),
        "encoder_hidden_states": torch.randn((batch, 5, context_dim), generator=generator),
    }


def for_users(psa: AttachedAdapter, inputs: dict[str, Any], users: Any, **more: Any) -> dict[str, Any]:
    """The inputs of a UNet call with the text rewritten for users of the tests' recipe. more: of `rewrite`."""
    text = psa.rewrite(inputs["encoder_hidden_states"], users, recipe=RECIPE, **more)
    states = [text[name] for name in ("negative_prompt_embeds", "prompt_embeds") if name in text]
    kept = {"cross_attention_kwargs": text["cross_attention_kwargs"]}
    return {**inputs, "encoder_hidden_states": torch.cat(states), **kept}


def vectors(count: int, *, seed: int = 3) -> torch.Tensor:
    """User vectors [count, LLM_DIM]."""
    return torch.randn((count, LLM_DIM), generator=torch.Generator().manual_seed(seed))


def copied_pipeline(made, **settings):
    """A pipeline of copies of another's parts. Tokenizers are shared: their copies forget how to decode."""
    known = {id(part): part for name, part in made.components.items() if "tokenizer" in name}
    for part in made.components.values():
        known |= empty_dicts(part) if isinstance(part, torch.nn.Module) else {}
    pipeline = type(made)(**copy.deepcopy(made.components, known), **settings)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def empty_dicts(part: torch.nn.Module) -> dict[int, Any]:
    """New dictionaries for a copy in the place of empty ones, of which every layer has ten: half of the time of a copy.

    Returns them by the id of the old one, as `copy.deepcopy` takes them.
    """
    values = (value for layer in part.modules() for value in vars(layer).values())
    return {id(value): OrderedDict() for value in values if isinstance(value, OrderedDict) and not value}
