"""Text states of other programs, rewritten by an adapter alone: the same bits as `encode` gives."""

import pytest
import torch

from helpers import tiny_adapter
from psalign.adapter.attach import attach
from psalign.adapter.prompt import PromptAdapter
from psalign.adapter.states import rewrite_states
from psalign.adapter.text import Texts, encode_texts
from psalign.adapter.words import phrase_states
from psalign.errors import GuardError
from psalign.users.profile import UserProfile
from psalign.users.views import batch_of
from tiny_pipelines import sdxl_pipeline

PROMPTS = ["a red cat with a sword", "a tree", "a blue fox with pills, at night", "a dog"]
PEOPLE = [
    UserProfile(user_id="anna", banned=("Violence",)),
    UserProfile(user_id="ben", banned=(), limits=("no skulls", "I can't stand swords")),
    None,
    UserProfile(user_id="carl", age=9, limits=("no needles",)),
]


def random_adapter(width, **more):
    """A PromptAdapter with random weights and matches for everybody; it takes limits in words."""
    torch.manual_seed(1)
    adapter = PromptAdapter(context_dim=width, words=True, rank=8, heads=2, **more).eval()
    with torch.no_grad():
        for weight in adapter.parameters():
            weight.copy_(torch.randn_like(weight) * 0.3)
        adapter.matcher.bans_bias.fill_(4.0)
    return adapter


def reader(pipe):
    return lambda phrase: phrase_states(pipe, [phrase])[0]


@pytest.mark.parametrize("scale", [1.0, 0.0, [1.0, 0.5, 1.0, 1.5]])
@pytest.mark.parametrize("negative", [None, "blurry", ["blurry", None, "", "a sword"]])
def test_the_same_bits_as_encode(mini_pipeline, scale, negative):
    adapter = random_adapter(128)
    psa = attach(mini_pipeline, adapter)
    users = batch_of(PEOPLE)
    encoded = psa.encode(mini_pipeline, PROMPTS, users, negative_prompt=negative, scale=scale)
    texts = encode_texts(mini_pipeline, PROMPTS, negative)
    made = rewrite_states(adapter, texts, users, read=reader(mini_pipeline), scale=scale)
    assert all(torch.equal(encoded[name], value) for name, value in made.arguments().items())
    changed = [not torch.equal(one, other) for one, other in zip(made.prompt_embeds, texts.prompt_embeds, strict=True)]
    assert changed == ([False] * 4 if scale == 0.0 else [True, True, False, True])  # row 2 has no user


def test_the_same_bits_as_encode_with_a_pooled_state():
    pipe = sdxl_pipeline()
    adapter = random_adapter(2048, base="sdxl", pooled_dim=1280)
    users = batch_of(PEOPLE)
    encoded = attach(pipe, adapter).encode(pipe, PROMPTS, users, negative_prompt="blurry")
    made = rewrite_states(adapter, encode_texts(pipe, PROMPTS, "blurry"), users, read=reader(pipe))
    assert len(made.arguments()) == 4
    assert all(torch.equal(encoded[name], value) for name, value in made.arguments().items())


def test_a_long_prompt_is_rewritten_window_by_window():
    adapter, users = random_adapter(16, pooled_dim=6), batch_of([UserProfile(user_id="anna", banned=("Violence",))])
    states, pooled = torch.randn(1, 10, 16), torch.randn(1, 6)
    made = rewrite_states(adapter, Texts(states, pooled_prompt_embeds=pooled), users, window=5)
    one, two = (rewrite_states(adapter, Texts(x, pooled_prompt_embeds=pooled), users) for x in states.split(5, dim=1))
    assert torch.equal(made.prompt_embeds, torch.cat([one.prompt_embeds, two.prompt_embeds], dim=1))
    assert torch.equal(made.pooled_prompt_embeds, one.pooled_prompt_embeds)
    assert not torch.equal(one.pooled_prompt_embeds, two.pooled_prompt_embeds)


ANNA = batch_of([UserProfile(user_id="anna", banned=("Violence",))])
BEN = batch_of([UserProfile(user_id="ben", banned=(), limits=("no skulls",))])


@pytest.mark.parametrize(
    ("states", "users", "more", "message"),
    [
        ((1, 5, 12), ANNA, {}, "width 12; the adapter is for 16"),
        ((2, 5, 16), ANNA, {}, "1 users for 2 prompts"),
        ((1, 5, 16), ANNA, {"window": 3}, "5 tokens; expected whole windows of 3"),
        ((1, 5, 16), ANNA, {"window": 0}, "expected whole windows of 0"),
        ((1, 5, 16), ANNA, {"scale": float("nan")}, "scale"),
        ((1, 5, 16), BEN, {}, "nothing was given that encodes them"),
        ((1, 5, 16), BEN, {"read": lambda phrase: torch.zeros(2, 12)}, r"shape \(2, 12\)"),
        ((1, 5, 16), BEN, {"read": lambda phrase: torch.full((2, 16), torch.nan)}, "not finite"),
        ((1, 5, 16), None, {}, "Expected users"),
    ],
)
def test_what_does_not_fit_is_refused(states, users, more, message):
    with pytest.raises(GuardError, match=message):
        rewrite_states(random_adapter(16), Texts(torch.randn(states)), users, **more)


def test_the_published_kind_is_refused(mini_pipeline):
    adapter = tiny_adapter(mini_pipeline.unet, "published")
    with pytest.raises(GuardError, match="works inside the UNet"):
        rewrite_states(adapter, Texts(torch.randn(1, 5, 128)), ANNA)
