"""Which words an adapter softens, and for which limit: by a matcher that has learned nothing but centre and spread."""

import pytest
import torch

from psalign.adapter.attach import attach
from psalign.adapter.explain import Softened
from psalign.adapter.text import encode_texts
from psalign.errors import GuardError
from psalign.users.vectors import UserBatch
from tiny_pipelines import PIPELINES, adapter_of_limits, random_adapter

PROMPT = "a sword and a red cat on the left, in a meadow"  # its beginning has the very states of the limit


@pytest.fixture
def psa(mini_pipeline):
    return attach(mini_pipeline, adapter_of_limits(mini_pipeline))


def test_the_word_of_a_limit_is_the_first_that_is_softened(psa, mini_pipeline):
    (found,) = psa.explain(mini_pipeline, PROMPT, None, limits=[["a sword"]])
    assert (found.softened[0].word, found.softened[0].cause) == ("sword", "a sword")
    assert found.lines == ("softened: 'sword' for 'a sword'",)
    assert 0.5 <= found.softened[0].match <= 1
    assert found.changes[found.softened[0].place] == found.softened[0].change > 0


def test_a_prompt_that_no_limit_touches_is_left_alone_to_the_bit(psa, mini_pipeline):
    prompts = [PROMPT, PROMPT]
    (alone, both) = psa.explain(mini_pipeline, prompts, None, limits=[["a rose"], []])
    assert alone.softened == both.softened == ()
    assert set(alone.changes) == {0.0}
    text = psa.encode(mini_pipeline, prompts, None, limits=[["a rose"], []])
    assert torch.equal(text["prompt_embeds"], encode_texts(mini_pipeline, prompts).prompt_embeds)


def test_more_limits_never_soften_less(psa, mini_pipeline):
    few = psa.encode(mini_pipeline, [PROMPT], None, limits=[["a sword"]])["prompt_embeds"]
    more = psa.encode(mini_pipeline, [PROMPT], None, limits=[["a rose", "a sword", "a bat"]])["prompt_embeds"]
    torch.testing.assert_close(few, more)


def test_a_limit_of_half_strength_softens_less(psa, mini_pipeline):
    plain = encode_texts(mini_pipeline, [PROMPT]).prompt_embeds
    moved = [
        (psa.encode(mini_pipeline, [PROMPT], None, limits=[[("a sword", one)]])["prompt_embeds"] - plain).norm()
        for one in (1.0, 0.5)
    ]
    assert 0 < moved[1] < moved[0]


def test_states_of_ones_own_need_the_pipeline_for_limits(psa, mini_pipeline):
    plain = encode_texts(mini_pipeline, [PROMPT])
    with pytest.raises(GuardError, match="nothing was given that encodes them"):
        psa.rewrite(plain.prompt_embeds, None, limits=[["a sword"]])
    made = psa.rewrite(plain.prompt_embeds, None, limits=[["a sword"]], pipe=mini_pipeline)
    expected = psa.encode(mini_pipeline, [PROMPT], None, limits=[["a sword"]])
    assert torch.equal(made["prompt_embeds"], expected["prompt_embeds"])


def test_limits_are_encoded_with_the_clip_skip_of_the_states(psa, mini_pipeline, monkeypatch):
    states, given = encode_texts(mini_pipeline, [PROMPT]).prompt_embeds, []

    def encode(pipe, prompts, **options):
        given.append(options)
        return encode_texts(pipe, prompts)

    monkeypatch.setattr("psalign.adapter.words.encode_texts", encode)
    psa.rewrite(states, None, limits=[["a sword"]], pipe=mini_pipeline, clip_skip=1)
    assert [one["clip_skip"] for one in given] == [1]


def test_a_batch_of_users_brings_its_own_limits(psa, mini_pipeline):
    users = UserBatch((None,), "no vectors", (None,), ((("a sword", 1.0),),))
    (found,) = psa.explain(mini_pipeline, [PROMPT], users)
    assert [one.word for one in found.softened] == ["sword"]


@pytest.mark.parametrize("base", list(PIPELINES))
def test_both_layouts_say_category_vector_and_phrase(base):
    """On SDXL a limit goes through both text encoders, as the prompt does."""
    pipeline = PIPELINES[base]()
    psa = attach(pipeline, random_adapter(pipeline, "prompt"))
    causes = {
        one.cause
        for bans in (torch.ones(7), None)
        for vector in 3 * torch.randn((8, 12), generator=torch.Generator().manual_seed(0))
        for found in psa.explain(pipeline, [PROMPT], UserBatch((vector,), "tests", (bans,)))
        for one in found.softened
    }
    assert {"Violence", "the user's vector"} <= causes
    text = psa.encode(pipeline, ["a cat"], None, limits=[["a dog"]])
    assert text["prompt_embeds"].isfinite().all()


def test_as_many_users_as_prompts_are_needed(psa, mini_pipeline):
    with pytest.raises(GuardError, match="1 users for 2 prompts"):
        psa.explain(mini_pipeline, [PROMPT, PROMPT], None, limits=[["a sword"]])


def test_a_line_for_people():
    assert Softened("spider", 5, "spiders", 0.9, 0.2).line == "softened: 'spider' for 'spiders'"
