"""States of limits in words, from the base's own text encoder, kept and made anew."""

import functools

import pytest
import torch

from psalign.adapter.text import encode_texts
from psalign.adapter.users import CheckedUsers, RowUsers
from psalign.adapter.words import KeptStates, phrase_states, require_readable, with_limits
from psalign.diffusion.base_models import load_pipeline
from psalign.errors import GuardError


@pytest.fixture(scope="module")
def mini():
    return load_pipeline("mini")


def test_a_phrase_is_its_last_word_and_its_end_of_text(mini):
    states = encode_texts(mini, "a red sword").prompt_embeds[0]
    found = phrase_states(mini, ["a red sword"])
    assert torch.equal(found[0], states[[3, 4]])  # start, a, red, sword, end
    assert phrase_states(mini, ["sword", "a sword"]).shape == (2, 2, states.shape[-1])


def test_a_phrase_past_the_encoders_length_is_read_as_far_as_it_goes(mini):
    assert phrase_states(mini, ["sword " * 300]).isfinite().all()


@pytest.mark.parametrize("phrase", ["", "  ", "пауки", "蜘蛛"])
def test_a_phrase_that_the_encoder_cannot_tell_from_nothing_is_refused(mini, phrase):
    with pytest.raises(GuardError, match="knows no word of a limit") as fault:
        require_readable(mini.tokenizer, phrase)
    assert not phrase.strip() or phrase not in str(fault.value)  # a limit is private


def test_a_limit_is_encoded_once(mini, monkeypatch):
    kept, calls = KeptStates(phrase_states), []
    encode = mini.encode_prompt

    @functools.wraps(encode)
    def counted(*arguments, **options):
        calls.append(1)
        return encode(*arguments, **options)

    monkeypatch.setattr(mini, "encode_prompt", counted)
    first = kept.states(mini, ["a sword", "an axe"], {})
    again = kept.states(mini, ["an axe", "a sword"], {})
    assert len(calls) == 2
    assert all(torch.equal(first[name], again[name]) for name in first)


def test_a_text_encoder_that_changed_encodes_anew(mini):
    kept = KeptStates(phrase_states)
    before = kept.states(mini, ["a sword"], {})["a sword"]
    weight = mini.text_encoder.get_input_embeddings().weight
    saved = weight.detach().clone()
    try:
        with torch.no_grad():
            weight.add_(0.1)
        after = kept.states(mini, ["a sword"], {})["a sword"]
    finally:
        with torch.no_grad():
            weight.copy_(saved)
    assert not torch.equal(before, after)


def test_a_text_encoder_in_another_precision_encodes_anew(mini):
    kept = KeptStates(phrase_states)
    try:
        given = []
        for dtype in (torch.float32, torch.bfloat16, torch.float32):
            mini.text_encoder.to(dtype)
            given.append(kept.states(mini, ["a sword"], {})["a sword"])
    finally:
        mini.text_encoder.float()
    assert [states.dtype for states in given] == [torch.float32, torch.bfloat16, torch.float32]


def test_no_more_states_are_kept_than_fit(mini, monkeypatch):
    calls = []
    kept = KeptStates(lambda pipe, texts: calls.append(*texts) or phrase_states(pipe, texts))
    monkeypatch.setattr("psalign.adapter.words.MOST_KEPT", kept.states(mini, ["a rose"], {})["a rose"].numel())
    for text in ("a sword", "a sword", "a rose"):
        kept.states(mini, [text], {})
    assert calls == ["a rose", "a sword", "a sword", "a rose"]


def test_rows_with_fewer_limits_are_filled_up_with_none():
    rows = RowUsers(torch.zeros(2, 3), torch.ones(2))
    users = with_limits(CheckedUsers(rows, ((("a", 1.0), ("b", 0.5)), (("b", 1.0),))),
                        {"a": torch.ones(2, 4), "b": torch.full((2, 4), 2.0)})  # fmt: skip
    assert users.limit_strength.tolist() == [[1.0, 0.5], [1.0, 0.0]]
    assert users.limits[:, :, 0, 0].tolist() == [[1.0, 2.0], [2.0, 0.0]]
    assert with_limits(CheckedUsers(rows, ((), ())), {}) is rows


def test_a_weight_that_was_exchanged_encodes_anew(mini):
    """Another parameter in the same place, of the same count of changes."""
    kept, embeddings = KeptStates(phrase_states), mini.text_encoder.get_input_embeddings()
    saved = embeddings.weight
    try:
        embeddings.weight = torch.nn.Parameter(saved.detach().clone())
        before = kept.states(mini, ["a sword"], {})["a sword"]
        embeddings.weight = torch.nn.Parameter(saved.detach() + 0.1)
        assert not torch.equal(kept.states(mini, ["a sword"], {})["a sword"], before)
    finally:
        embeddings.weight = saved
