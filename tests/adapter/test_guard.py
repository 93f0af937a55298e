"""The adapter on a UNet: what it must never change, what it must refuse."""

import copy

import pytest
import torch
from torch.nn import functional as F

from helpers import LLM_DIM, RECIPE, tiny_adapter, tiny_unet, unet_inputs, vectors
from psalign.adapter.adapter import PSAAdapter, cross_attentions
from psalign.adapter.attach import attach
from psalign.errors import CheckpointError, GuardError, RecipeMismatch, UsageError

KINDS = [("prompt", 1), ("prompt", 4), ("gated", 4), ("published", 1), ("published", 4)]


def rows(inputs, *numbers):
    return {name: value[list(numbers)] for name, value in inputs.items()}


@pytest.mark.parametrize(("kind", "n_tokens"), KINDS)
@torch.no_grad()
def test_untrained_adapter_is_the_base_bit_for_bit(kind, n_tokens):
    unet, inputs = tiny_unet(), unet_inputs(3)
    base = unet(**inputs).sample
    psa = attach(unet, tiny_adapter(unet, kind, n_tokens=n_tokens, trained=False))
    assert torch.equal(unet(**inputs, **psa.condition(vectors(3), recipe=RECIPE)).sample, base)


@pytest.mark.parametrize(("kind", "n_tokens"), KINDS)
@torch.no_grad()
def test_trained_adapter_steers_and_every_way_out_is_the_base(kind, n_tokens):
    unet, inputs = tiny_unet(), unet_inputs(3)
    base = unet(**inputs).sample
    psa = attach(unet, tiny_adapter(unet, kind, n_tokens=n_tokens))
    steered = unet(**inputs, **psa.condition(vectors(3), recipe=RECIPE)).sample
    assert (steered - base).abs().amax((1, 2, 3)).min() > 1e-3
    assert torch.equal(unet(**inputs, **psa.condition(vectors(3), recipe=RECIPE, scale=0.0)).sample, base)
    assert torch.equal(unet(**inputs, **psa.condition([None] * 3, recipe=RECIPE)).sample, base)
    with psa.disabled():
        assert torch.equal(unet(**inputs).sample, base)
    psa.unload()
    assert torch.equal(unet(**inputs).sample, base)


@pytest.mark.parametrize(("kind", "n_tokens"), KINDS)
@torch.no_grad()
def test_a_batch_of_users_scales_and_no_user_equals_single_runs(kind, n_tokens):
    unet, inputs = tiny_unet(), unet_inputs(4)
    psa = attach(unet, tiny_adapter(unet, kind, n_tokens=n_tokens))
    users, scales = [*vectors(3), None], [1.0, 0.5, 1.5, 1.0]
    together = unet(**inputs, **psa.condition(users, recipe=RECIPE, scale=scales)).sample
    for i in range(4):
        alone = unet(**rows(inputs, i), **psa.condition([users[i]], recipe=RECIPE, scale=scales[i])).sample
        torch.testing.assert_close(together[i : i + 1], alone, atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", ["prompt", "published"])
@torch.no_grad()
def test_guidance_puts_unconditional_rows_first(kind):
    """prompt: unconditional rows are the base. published: they are the projection of a zero vector."""
    unet, inputs = tiny_unet(), unet_inputs(4)
    inputs["sample"][:2] = inputs["sample"][2:]
    base = unet(**inputs).sample
    psa = attach(unet, tiny_adapter(unet, kind))
    both = unet(**inputs, **psa.condition(vectors(2), recipe=RECIPE)).sample
    conditional = unet(**rows(inputs, 2, 3), **psa.condition(vectors(2), recipe=RECIPE, guided=False)).sample
    torch.testing.assert_close(both[2:], conditional, atol=2e-5, rtol=0)
    if kind == "prompt":
        torch.testing.assert_close(both[:2], base[:2], atol=2e-5, rtol=0)
    else:
        null = unet(**rows(inputs, 0, 1), **psa.condition(torch.zeros(2, LLM_DIM), recipe=RECIPE, guided=False)).sample
        torch.testing.assert_close(both[:2], null, atol=2e-5, rtol=0)


@pytest.mark.parametrize("n_tokens", [1, 4])
@torch.no_grad()
def test_published_is_text_attention_plus_scaled_user_attention(n_tokens):
    """to_out(Attn(q, text) + scale * Attn(q, user)), written out by hand for one cross-attention."""
    unet = tiny_unet()
    adapter = tiny_adapter(unet, "published", n_tokens=n_tokens)
    attention, layer = cross_attentions(unet)[0], adapter.layers[0]
    hidden, text = torch.randn(2, 6, attention.to_q.in_features), torch.randn(2, 5, 16)
    tokens = adapter.user_tokens(vectors(2))

    def attend(q, k, v):
        q, k, v = (x.unflatten(-1, (attention.heads, -1)).transpose(1, 2) for x in (q, k, v))
        weights = F.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1)
        return (weights @ v).transpose(1, 2).flatten(2)

    q = attention.to_q(hidden)
    by_hand = attend(q, attention.to_k(text), attention.to_v(text))
    by_hand = by_hand + 0.7 * attend(q, layer.to_k_user(tokens), layer.to_v_user(tokens))
    by_hand = attention.to_out[0](by_hand)

    psa = attach(unet, adapter)
    condition = psa.condition(vectors(2), recipe=RECIPE, scale=0.7)["cross_attention_kwargs"]["psa"]
    psa._steer_by(psa._steering(condition, text, 0, lora_scale=1.0))
    torch.testing.assert_close(attention(hidden, encoder_hidden_states=text), by_hand, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("kind", "n_tokens"), KINDS)
@torch.no_grad()
def test_replaced_attention_processors_do_not_lose_the_adapter(kind, n_tokens):
    unet, inputs = tiny_unet(), unet_inputs(2)
    psa = attach(unet, tiny_adapter(unet, kind, n_tokens=n_tokens))
    users = psa.condition(vectors(2), recipe=RECIPE)
    before = unet(**inputs, **users).sample
    for replace in (
        lambda: unet.set_attention_slice("max"),
        unet.set_default_attn_processor,
        unet.fuse_qkv_projections,
    ):
        replace()
        torch.testing.assert_close(unet(**inputs, **users).sample, before, atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_rewritten_prompt_is_computed_once_per_call():
    unet, inputs = tiny_unet(), unet_inputs(2)
    psa = attach(unet, tiny_adapter(unet, "prompt"))
    calls = []
    psa.adapter.rewriter.register_forward_hook(lambda *_: calls.append(1))
    users = psa.condition(vectors(2), recipe=RECIPE)
    first = unet(**inputs, **users).sample
    assert torch.equal(unet(**inputs, **users).sample, first)
    assert len(calls) == 1
    unet(**{**inputs, "encoder_hidden_states": inputs["encoder_hidden_states"].clone()}, **users)
    assert len(calls) == 2


def test_gradients_reach_every_weight_that_can_learn():
    """Keys of `published` with one user token never matter (a softmax over one key is 1); all else does."""
    for kind, n_tokens in (("prompt", 4), ("gated", 4), ("published", 1)):
        unet = tiny_unet().requires_grad_(False)
        psa = attach(unet, tiny_adapter(unet, kind, n_tokens=n_tokens))
        users = psa.condition(vectors(2), recipe=RECIPE)
        unet(**unet_inputs(2), **users).sample.square().mean().backward()
        weights = psa.adapter.named_parameters()
        silent = [name for name, weight in weights if weight.grad is None or not weight.grad.any()]
        assert [name for name in silent if "to_k_user" not in name] == []


def other_condition():
    unet = tiny_unet()
    return attach(unet, tiny_adapter(unet, "prompt")).condition(vectors(1), recipe=RECIPE)


@torch.no_grad()
def test_a_replaced_cross_attention_is_noticed():
    unet = tiny_unet()
    psa = attach(unet, tiny_adapter(unet, "published"))
    block = unet.mid_block.attentions[0].transformer_blocks[0]
    block.attn2 = copy.deepcopy(block.attn2)
    with pytest.raises(GuardError, match="1 of 7 cross-attentions have lost the adapter"):
        unet(**unet_inputs(2), **psa.condition(vectors(2), recipe=RECIPE))


def disable_twice(psa):
    with psa.disabled(), psa.disabled():
        pass


REFUSED = {
    "no users": (lambda psa, unet: unet(**unet_inputs(2)), "called without users"),
    "three users for two rows": (
        lambda psa, unet: unet(**unet_inputs(2), **psa.condition(vectors(3), recipe=RECIPE)),
        "2 rows for 3 users",
    ),
    "guidance over fewer prompts than users": (
        lambda psa, unet: unet(
            **{**unet_inputs(4), "sample": torch.zeros(4, 4, 8, 8)}, **psa.condition(vectors(4), recipe=RECIPE)
        ),
        "two equal halves",
    ),
    "two prompts for one user": (
        lambda psa, unet: unet(**unet_inputs(2), **psa.condition(vectors(1), recipe=RECIPE)),
        "2 different rows for 1 users: half of them would have no user",
    ),
    "users made ready for another adapter": (
        lambda psa, unet: unet(**unet_inputs(1), **other_condition()),
        "made ready for another adapter",
    ),
    "a scale below zero": (lambda psa, unet: psa.condition(vectors(1), recipe=RECIPE, scale=-1.0), "at least 0"),
    "guidance that was ruled out": (
        lambda psa, unet: unet(**unet_inputs(4), **psa.condition(vectors(2), recipe=RECIPE, guided=False)),
        "4 rows for 2 users",
    ),
    "a vector of another width": (lambda psa, unet: psa.condition(torch.zeros(1, 3), recipe=RECIPE), r"takes \(12,\)"),
    "a vector with nan": (
        lambda psa, unet: psa.condition(torch.full((1, LLM_DIM), torch.nan), recipe=RECIPE),
        "not finite",
    ),
    "an infinite scale": (
        lambda psa, unet: psa.condition(vectors(1), recipe=RECIPE, scale=float("inf")),
        "scale must be finite and at least 0",
    ),
    "nobody": (lambda psa, unet: psa.condition([], recipe=RECIPE), "No users"),
    "disabled twice": (lambda psa, unet: disable_twice(psa), "disabled already"),
    "attached twice": (lambda psa, unet: attach(unet, tiny_adapter(unet, "prompt")), "has an adapter already"),
}


@pytest.mark.parametrize("case", REFUSED)
@torch.no_grad()
def test_the_guard_refuses(case):
    unet = tiny_unet()
    psa = attach(unet, tiny_adapter(unet, "prompt"))
    call, message = REFUSED[case]
    with pytest.raises(GuardError, match=message):
        call(psa, unet)


def test_vectors_of_another_recipe_are_refused():
    unet = tiny_unet()
    psa = attach(unet, tiny_adapter(unet, "prompt"))
    with pytest.raises(RecipeMismatch, match="made by recipe other; the adapter was trained with tests"):
        psa.condition(vectors(1), recipe="other")


@pytest.mark.parametrize("kind", ["prompt", "published"])
def test_an_adapter_of_another_base_is_refused(kind):
    adapter = tiny_adapter(tiny_unet(context_dim=24), kind)
    with pytest.raises(CheckpointError, match="text states of width 24; this UNet's are 16"):
        attach(tiny_unet(), adapter)


def test_unknown_kind():
    with pytest.raises(UsageError, match="Unknown adapter kind 'magic'; choose one of: prompt, published"):
        PSAAdapter(kind="magic")
