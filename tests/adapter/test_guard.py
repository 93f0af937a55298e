"""The adapter on a UNet: what it must never change, what it must refuse."""

import asyncio
import contextvars
import copy
import functools
import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from helpers import LLM_DIM, RECIPE, for_users, tiny_adapter, tiny_unet, unet_inputs, vectors
from psalign.adapter.adapter import cross_attentions
from psalign.adapter.attach import attach
from psalign.adapter.prompt import PromptAdapter
from psalign.adapter.text import encode_texts
from psalign.adapter.users import RowUsers
from psalign.diffusion.base_models import load_pipeline
from psalign.errors import CheckpointError, GuardError, RecipeMismatch
from psalign.users.profile import UserProfile
from psalign.users.views import batch_of

KINDS = [("prompt", 1), ("prompt", 4), ("published", 1), ("published", 4)]


def rows(inputs, *numbers):
    return {name: value[list(numbers)] for name, value in inputs.items()}


@pytest.mark.parametrize(("kind", "n_tokens"), KINDS)
@torch.no_grad()
def test_untrained_adapter_is_the_base_bit_for_bit(kind, n_tokens):
    unet, inputs = tiny_unet(), unet_inputs(3)
    base = unet(**inputs).sample
    psa = attach(unet, tiny_adapter(unet, kind, n_tokens=n_tokens, trained=False))
    assert torch.equal(unet(**for_users(psa, inputs, vectors(3))).sample, base)


@pytest.mark.parametrize(("kind", "n_tokens"), KINDS)
@torch.no_grad()
def test_trained_adapter_steers_and_every_way_out_is_the_base(kind, n_tokens):
    unet, inputs = tiny_unet(), unet_inputs(3)
    base = unet(**inputs).sample
    psa = attach(unet, tiny_adapter(unet, kind, n_tokens=n_tokens))
    steered = unet(**for_users(psa, inputs, vectors(3))).sample
    assert (steered - base).abs().amax((1, 2, 3)).min() > 1e-3
    assert torch.equal(unet(**for_users(psa, inputs, vectors(3), scale=0.0)).sample, base)
    assert torch.equal(unet(**for_users(psa, inputs, [None] * 3)).sample, base)
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
    together = unet(**for_users(psa, inputs, users, scale=scales)).sample
    for i in range(4):
        alone = unet(**for_users(psa, rows(inputs, i), [users[i]], scale=scales[i])).sample
        torch.testing.assert_close(together[i : i + 1], alone, atol=2e-5, rtol=0)


@pytest.mark.parametrize("kind", ["prompt", "published"])
@torch.no_grad()
def test_the_unconditional_text_is_not_rewritten(kind):
    """prompt: unconditional rows are the base. published: they are the projection of a zero vector."""
    unet, inputs = tiny_unet(), unet_inputs(4)
    base = unet(**inputs).sample
    psa = attach(unet, tiny_adapter(unet, kind))
    prompts, negative = rows(inputs, 2, 3), rows(inputs, 0, 1)
    states = negative["encoder_hidden_states"]
    both = unet(**{**inputs, **text_only(for_users(psa, prompts, vectors(2), negative=states))}).sample
    conditional = unet(**for_users(psa, prompts, vectors(2))).sample
    torch.testing.assert_close(both[2:], conditional, atol=2e-5, rtol=0)
    if kind == "prompt":
        torch.testing.assert_close(both[:2], base[:2], atol=2e-5, rtol=0)
    else:
        null = unet(**for_users(psa, negative, torch.zeros(2, LLM_DIM))).sample
        torch.testing.assert_close(both[:2], null, atol=2e-5, rtol=0)


def text_only(inputs):
    return {name: inputs[name] for name in ("encoder_hidden_states", "cross_attention_kwargs")}


@pytest.mark.parametrize("n_tokens", [1, 4])
@torch.no_grad()
def test_published_is_text_attention_plus_scaled_user_attention(n_tokens):
    """to_out(Attn(q, text) + scale * Attn(q, user)), written out by hand for one cross-attention."""
    unet = tiny_unet()
    adapter = tiny_adapter(unet, "published", n_tokens=n_tokens)
    attention, layer = next(iter(cross_attentions(unet).values())), adapter.layers[0]
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
    behind = psa._terms.behind(RowUsers(vectors(2), torch.full((2,), 0.7)), like=text)
    got = attention(hidden, encoder_hidden_states=torch.cat([text, behind], dim=1))
    torch.testing.assert_close(got, by_hand, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("kind", "n_tokens"), KINDS)
@torch.no_grad()
def test_replaced_attention_processors_do_not_lose_the_adapter(kind, n_tokens):
    unet, inputs = tiny_unet(), unet_inputs(2)
    psa = attach(unet, tiny_adapter(unet, kind, n_tokens=n_tokens))
    inputs = for_users(psa, inputs, vectors(2))
    before = unet(**inputs).sample
    for change in (
        lambda: unet.set_attention_slice("max"),
        unet.set_default_attn_processor,
        unet.fuse_qkv_projections,
    ):
        change()
        torch.testing.assert_close(unet(**inputs).sample, before, atol=1e-4, rtol=0)


@torch.no_grad()
def test_the_prompt_is_rewritten_once_and_the_terms_are_computed_once():
    for kind, inside in (("prompt", "rewriter"), ("published", "user_proj")):
        unet = tiny_unet()
        psa = attach(unet, tiny_adapter(unet, kind))
        calls = []
        getattr(psa.adapter, inside).register_forward_hook(lambda *_, calls=calls: calls.append(1))
        inputs = for_users(psa, unet_inputs(1), vectors(1))
        first = unet(**inputs).sample
        assert torch.equal(unet(**inputs).sample, first)
        assert len(calls) == 1


def test_gradients_reach_every_weight_that_can_learn():
    """Keys of `published` with one user token never matter (a softmax over one key is 1); all else does."""
    for kind, n_tokens in (("prompt", 4), ("published", 1)):
        unet = tiny_unet().requires_grad_(False)
        psa = attach(unet, tiny_adapter(unet, kind, n_tokens=n_tokens))
        inputs = unet_inputs(3)
        noisy, timesteps, states = inputs["sample"], inputs["timestep"], inputs["encoder_hidden_states"]
        users = RowUsers(vectors(3), torch.ones(3))
        if kind == "prompt":  # a row by its vector, one by its list and one by limits in words
            bans, known = torch.tensor([[0.0] * 7, [1.0] * 7, [0.0] * 7]), torch.tensor([False, True, True])
            limits = torch.randn((3, 3, 2, 16), generator=torch.Generator().manual_seed(0))
            strength = torch.tensor([[0.0] * 3, [0.0] * 3, [1.0] * 3])
            users = replace(users, bans=bans, is_known=known, limits=limits, limit_strength=strength)
            psa.adapter.is_sharp = False
        psa.denoise(noisy, timesteps, states, users=users).square().mean().backward()
        weights = psa.adapter.named_parameters()
        silent = [name for name, weight in weights if weight.grad is None or not weight.grad.any()]
        assert [name for name in silent if "to_k_user" not in name] == []


@pytest.mark.parametrize("kind", ["prompt", "published"])
@torch.no_grad()
def test_what_training_calls_is_what_a_pipeline_gets(kind):
    unet, inputs = tiny_unet(), unet_inputs(2)
    base = unet(**inputs).sample
    psa = attach(unet, tiny_adapter(unet, kind))
    noisy, timesteps, states = inputs["sample"], inputs["timestep"], inputs["encoder_hidden_states"]
    users = RowUsers(vectors(2), torch.tensor([1.0, 0.5]))
    trained = psa.denoise(noisy, timesteps, states, users=users)
    drawn = unet(**for_users(psa, inputs, vectors(2), scale=[1.0, 0.5])).sample
    torch.testing.assert_close(trained, drawn, atol=2e-5, rtol=0)
    assert torch.equal(psa.denoise(noisy, timesteps, states), base)


@pytest.mark.parametrize("kind", ["prompt", "published"])
def test_gradients_are_the_same_with_gradient_checkpointing(kind):
    """Layers that are computed a second time, in the backward pass, see the same text and the same terms."""
    gradients = []
    for checkpointing in (False, True):
        unet = tiny_unet().requires_grad_(False).train()
        psa = attach(unet, tiny_adapter(unet, kind))
        if checkpointing:
            unet.enable_gradient_checkpointing()
        inputs = unet_inputs(2)
        users = RowUsers(vectors(2), torch.ones(2))
        predicted = psa.denoise(
            *(inputs[name] for name in ("sample", "timestep", "encoder_hidden_states")), users=users
        )
        with psa.disabled(), torch.no_grad():  # another call in between: it must leave no trace
            unet(**unet_inputs(3))
        predicted.square().mean().backward()
        gradients.append([w.grad for w in psa.adapter.parameters() if w.grad is not None])
    for plain, checkpointed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, checkpointed, atol=1e-6, rtol=1e-4)


@torch.no_grad()
def test_a_replaced_cross_attention_is_noticed():
    unet = tiny_unet()
    psa = attach(unet, tiny_adapter(unet, "published"))
    block = unet.mid_block.attentions[0].transformer_blocks[0]
    block.attn2 = copy.deepcopy(block.attn2)
    with pytest.raises(GuardError, match="1 of 7 cross-attentions have lost the adapter"):
        unet(**for_users(psa, unet_inputs(2), vectors(2)))


def disable_twice(psa):
    with psa.disabled(), psa.disabled():
        pass


def changed(psa, change):
    """Inputs for two users with guidance, changed after they were made."""
    inputs = unet_inputs(4)
    prompts = {**inputs, "encoder_hidden_states": inputs["encoder_hidden_states"][2:]}
    made = for_users(psa, prompts, vectors(2), negative=inputs["encoder_hidden_states"][:2])
    states = change(made["encoder_hidden_states"], inputs["encoder_hidden_states"])
    rows = len(states)
    return {
        **made,
        "sample": torch.zeros(rows, 4, 8, 8),
        "timestep": torch.full((rows,), 500),
        "encoder_hidden_states": states,
    }


def in_place(states, raw):
    states[3] = raw[3]
    return states


def behind_the_count(states, raw):
    """A change that torch's own count of changes does not see."""
    states.data[3] = raw[3]
    return states


# What is done to the text [negative of two users, prompts of two users]; raw: the same before it was rewritten.
CHANGES = {
    "a raw prompt": lambda states, raw: torch.cat([states[:3], raw[3:]]),
    "a change in place": in_place,
    "a change in place that torch does not count": behind_the_count,
    "prompts in another order": lambda states, raw: states[[0, 1, 3, 2]],
    "prompts first": lambda states, raw: states[[2, 3, 0, 1]],
    "one user's prompt for both": lambda states, raw: states[[0, 1, 2, 2]],
    "a row that is no text of the call": lambda states, raw: states + 1e-3,
    "one row too many": lambda states, raw: torch.cat([states, states[:1]]),
    "tokens in another order": lambda states, raw: states.flip(1),
    "prompts mixed": lambda states, raw: torch.cat([states[:2], states[2:].mean(0, keepdim=True).expand(2, -1, -1)]),
}


@pytest.mark.parametrize("kind", ["prompt", "published"])
@pytest.mark.parametrize("change", CHANGES)
@torch.no_grad()
def test_text_that_was_changed_after_it_was_rewritten_is_refused(kind, change):
    unet = tiny_unet()
    psa = attach(unet, tiny_adapter(unet, kind))
    same = changed(psa, lambda states, raw: states)
    unet(**same)

    def change_it(states, raw):
        if states.shape[1] > raw.shape[1]:  # kind `published`: a mark stands behind the text
            raw = torch.cat([raw, states[:, -1:].nan_to_num(0, 1, 1)], dim=1)
        return CHANGES[change](states, raw)

    with pytest.raises(GuardError, match="was not rewritten for these users"):
        unet(**changed(psa, change_it))


@pytest.mark.parametrize("kind", ["prompt", "published"])
@torch.no_grad()
def test_another_number_of_latents_is_refused(kind):
    unet = tiny_unet()
    psa = attach(unet, tiny_adapter(unet, kind))
    inputs = for_users(psa, unet_inputs(2), vectors(2))
    with pytest.raises(GuardError, match="2 rows of text for 4 rows of latents"):
        unet(**{**inputs, "sample": torch.zeros(4, 4, 8, 8), "timestep": torch.tensor(500)})


def of_another_adapter(psa, unet):
    other = tiny_unet()
    return unet(**for_users(attach(other, tiny_adapter(other, "prompt")), unet_inputs(1), vectors(1)))


def of_another_call(psa, unet):
    """A text that was rewritten for these users, with what came with the text of other users."""
    one, two = (for_users(psa, unet_inputs(1, seed=seed), vectors(1, seed=seed)) for seed in (2, 3))
    return unet(**{**one, "cross_attention_kwargs": two["cross_attention_kwargs"]})


def raw_as_another_calls_negative(psa, unet):
    """A raw prompt that another call, still under way, has for a negative prompt."""
    raw = unet_inputs(1)
    other = for_users(psa, unet_inputs(1, seed=9), vectors(1), negative=raw["encoder_hidden_states"])
    try:
        return unet(**raw)
    finally:
        assert other


def rewrite(psa, *rows, **more):
    return psa.rewrite(unet_inputs(1)["encoder_hidden_states"], *rows, **{"recipe": RECIPE, **more})


REFUSED = {
    "no users": (lambda psa, unet: unet(**unet_inputs(2)), "UNet2DConditionModel was called without users"),
    "a raw prompt that is a negative prompt elsewhere": (raw_as_another_calls_negative, "called without users"),
    "text of another adapter": (of_another_adapter, "made by another adapter"),
    "text of another call": (of_another_call, "not rewritten for these users"),
    "three users for two rows": (lambda psa, unet: for_users(psa, unet_inputs(2), vectors(3)), "3 users for 2 prompts"),
    "text of another width": (
        lambda psa, unet: psa.rewrite(torch.zeros(1, 5, 24), vectors(1), recipe=RECIPE),
        "text states have width 24; the adapter is for 16",
    ),
    "a scale below zero": (lambda psa, unet: rewrite(psa, vectors(1), scale=-1.0), "at least 0"),
    "an infinite scale": (
        lambda psa, unet: rewrite(psa, vectors(1), scale=float("inf")),
        "scale must be finite and at least 0",
    ),
    "a vector of another width": (lambda psa, unet: rewrite(psa, torch.zeros(1, 3)), r"takes \(12,\)"),
    "a vector with nan": (lambda psa, unet: rewrite(psa, torch.full((1, LLM_DIM), torch.nan)), "not finite"),
    "nobody": (lambda psa, unet: rewrite(psa, []), "No users"),
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


@torch.no_grad()
def test_text_that_comes_alone_is_recognised_while_its_call_is_under_way():
    """A stand-in for the UNet may pass the text on and drop what came with it."""
    unet = tiny_unet()
    psa = attach(unet, tiny_adapter(unet, "prompt"))
    inputs = for_users(psa, unet_inputs(2), vectors(2))
    wanted = unet(**inputs).sample
    call = inputs.pop("cross_attention_kwargs")
    assert torch.equal(unet(**inputs).sample, wanted)
    del call
    with pytest.raises(GuardError, match="called without users"):
        unet(**inputs)


@torch.no_grad()
def test_disabled_is_for_its_own_thread_alone():
    unet, inputs = tiny_unet(), unet_inputs(1)
    psa = attach(unet, tiny_adapter(unet, "prompt"))
    with psa.disabled(), ThreadPoolExecutor(1) as others:
        unet(**inputs)
        with pytest.raises(GuardError, match="called without users"):
            others.submit(lambda: unet(**inputs)).result()


@torch.no_grad()
def test_what_was_rewritten_stays_so_where_the_adapter_is_disabled():
    for kind in ("prompt", "published"):
        unet = tiny_unet()
        psa = attach(unet, tiny_adapter(unet, kind))
        inputs = for_users(psa, unet_inputs(1), vectors(1))
        wanted = unet(**inputs).sample
        with psa.disabled():
            assert torch.equal(unet(**inputs).sample, wanted)


@torch.no_grad()
def test_a_denoiser_that_lost_the_guard_draws_nothing_for_kind_published():
    unet = tiny_unet()
    psa = attach(unet, tiny_adapter(unet, "published"))
    inputs = for_users(psa, unet_inputs(1), vectors(1))
    psa.unload()
    inputs.pop("cross_attention_kwargs")
    assert unet(**inputs).sample.isnan().all()


def test_vectors_of_another_recipe_are_refused():
    unet = tiny_unet()
    psa = attach(unet, tiny_adapter(unet, "prompt"))
    with pytest.raises(RecipeMismatch, match="made by recipe other; the adapter was trained with tests"):
        rewrite(psa, vectors(1), recipe="other")


@pytest.mark.parametrize("kind", ["prompt", "published"])
def test_an_adapter_of_another_base_is_refused(kind):
    adapter = tiny_adapter(tiny_unet(context_dim=24), kind)
    with pytest.raises(CheckpointError, match="text states of width 24; this UNet's are 16"):
        attach(tiny_unet(), adapter)


@torch.no_grad()
def test_a_cross_attention_replaced_with_what_holds_it_is_noticed():
    for path in ("mid_block.attentions.0", "up_blocks.0.attentions", "mid_block.attentions.0.transformer_blocks.0"):
        unet = tiny_unet()
        psa = attach(unet, tiny_adapter(unet, "published"))
        parent, _, name = path.rpartition(".")
        unet.get_submodule(parent)._modules[name] = tiny_unet().get_submodule(path)
        with pytest.raises(GuardError, match="cross-attentions have lost the adapter"):
            unet(**for_users(psa, unet_inputs(1), vectors(1)))


@torch.no_grad()
def test_a_wrap_around_a_block_keeps_the_adapter():
    class Wrap(torch.nn.Module):
        def __init__(self, module):
            super().__init__()
            self.module = module

        def forward(self, *args, **kwargs):
            return self.module(*args, **kwargs)

    unet = tiny_unet()
    psa = attach(unet, tiny_adapter(unet, "published"))
    inputs = for_users(psa, unet_inputs(1), vectors(1))
    wanted = unet(**inputs).sample
    unet.mid_block.attentions[0] = Wrap(unet.mid_block.attentions[0])
    torch.testing.assert_close(unet(**inputs).sample, wanted)


@torch.no_grad()
def test_text_that_is_used_again_goes_through_the_weights_of_today():
    """Kind published: the terms of a call are kept as long as no output layer changes."""
    unet = tiny_unet()
    psa = attach(unet, tiny_adapter(unet, "published"))
    inputs = for_users(psa, unet_inputs(1), vectors(1))
    unet(**inputs)
    out = next(iter(cross_attentions(unet).values())).to_out[0]
    for change in (lambda: out.weight.mul_(1.5), lambda: setattr(out.weight, "data", out.weight.data * 2)):
        change()
        fresh = unet(**for_users(psa, unet_inputs(1), vectors(1))).sample
        torch.testing.assert_close(unet(**inputs).sample, fresh)


@torch.no_grad()
def test_disabled_ends_with_its_block_for_all_that_was_started_inside():
    unet, inputs = tiny_unet(), unet_inputs(1)
    psa = attach(unet, tiny_adapter(unet, "prompt"))

    async def draw(ended):
        await ended.wait()
        unet(**inputs)

    async def main():
        ended = asyncio.Event()
        with psa.disabled():
            task = asyncio.create_task(draw(ended))
            with pytest.raises(GuardError, match="called without users"):
                await asyncio.to_thread(lambda: unet(**inputs))
            await asyncio.sleep(0)
        ended.set()
        with pytest.raises(GuardError, match="called without users"):
            await task

    asyncio.run(main())

    def preview():
        with psa.disabled():
            yield unet(**inputs)

    left_open = preview()
    contextvars.copy_context().run(next, left_open)
    left_open.close()  # in another context than it was opened in
    assert not psa.is_disabled
    with pytest.raises(GuardError, match="called without users"):
        unet(**inputs)


@torch.no_grad()
def test_a_denoiser_is_not_traced_with_a_users_text():
    unet = tiny_unet()
    psa = attach(unet, tiny_adapter(unet, "published"))
    inputs = for_users(psa, unet_inputs(1), vectors(1))

    def call(sample):
        return unet(**{**inputs, "sample": sample}, return_dict=False)[0]

    with pytest.raises(GuardError, match="would keep that user"):
        torch.jit.trace(call, (inputs["sample"],), check_trace=False)


@torch.no_grad()
def test_phrases_that_go_round_the_prompt_are_refused():
    unet = tiny_unet()
    psa = attach(unet, tiny_adapter(unet, "prompt"))
    inputs = for_users(psa, unet_inputs(1), vectors(1))
    inputs["cross_attention_kwargs"] = {**inputs["cross_attention_kwargs"], "gligen": {"objs": torch.zeros(1)}}
    with pytest.raises(GuardError, match="GLIGEN's phrases reach the UNet as they are"):
        unet(**inputs)


def test_the_text_of_a_call_is_neither_saved_nor_sent():
    unet = tiny_unet()
    psa = attach(unet, tiny_adapter(unet, "prompt"))
    made = for_users(psa, unet_inputs(1), vectors(1))["cross_attention_kwargs"]
    with pytest.raises(GuardError, match="cannot be saved or sent"):
        pickle.dumps(made)
    assert copy.deepcopy(made)["psa"] is made["psa"]


ODD = {
    "pooled of another count": ({"pooled": torch.zeros(3, 6)}, "pooled_prompt_embeds has 3 rows for 1 prompts"),
    "pooled with tokens": ({"pooled": torch.zeros(1, 1, 6)}, "must be a floating-point tensor of 2 dimensions"),
    "unconditional texts of another length": ({"negative": torch.zeros(1, 4, 16)}, r"\(1, 5, 16\) and .* differ"),
    "unconditional texts of another count": ({"negative": torch.zeros(2, 5, 16)}, "has 2 rows for 1 prompts"),
    "whole numbers": ({"negative": torch.zeros(1, 5, 16).int()}, "must be a floating-point tensor of 3 dimensions"),
}


@pytest.mark.parametrize("case", ODD)
def test_text_states_that_do_not_belong_together(case):
    unet = tiny_unet()
    more, message = ODD[case]
    for kind in ("prompt", "published"):
        psa = attach(unet, tiny_adapter(unet, kind))
        with pytest.raises(GuardError, match=message):
            rewrite(psa, vectors(1), **more)
        psa.unload()


def test_a_raw_prompt_that_a_users_call_left_unchanged_is_not_known():
    """Nothing of the prompt falls under what this user limits, so its text is the very one a pipeline makes."""
    pipe = load_pipeline("mini")
    pipe.set_progress_bar_config(disable=True)
    adapter = PromptAdapter(recipe=RECIPE, context_dim=pipe.unet.config.cross_attention_dim)
    psa = attach(pipe, adapter.eval())
    made = psa.encode(pipe, "a red cat", batch_of([UserProfile(user_id="1", banned=())]))
    assert torch.equal(made["prompt_embeds"], encode_texts(pipe, "a red cat").prompt_embeds)
    with pytest.raises(GuardError, match="called without users"):
        pipe("a red cat", num_inference_steps=1)
    pipe(**made, num_inference_steps=1)


def test_an_encode_prompt_that_gives_other_values_is_refused(mini_pipeline, monkeypatch):
    whole = mini_pipeline.encode_prompt

    @functools.wraps(whole)
    def with_a_mask(*given, **named):
        return (*whole(*given, **named), None)

    monkeypatch.setattr(mini_pipeline, "encode_prompt", with_a_mask)
    with pytest.raises(GuardError, match=r"gives 3 values of a layout that is not known here.\nPass the text states"):
        encode_texts(mini_pipeline, "a red cat")
