"""What the text encoder learns from words alone, by hand."""

import math

import numpy as np
import pytest
import torch

from psalign.mini.factory.tokenizer import build_tokenizer
from psalign.mini.factory.words import Meaning, Words

SWORD = Meaning(("sword",), ("Violence",))


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return Words(build_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def loss_where_the_end_says(words, said, text, meaning):
    """How much smaller the loss is where every token predicts the words that are said, than where it knows nothing."""
    ids = words.ids([text])
    blank = torch.zeros(1, ids.shape[1], len(words.tokenizer))
    knows = blank.clone()
    knows[:, :, words._words(said)] = 5.0
    return float(words.loss(ids, knows, [meaning]) - words.loss(ids, blank, [meaning]))


def test_the_loss_is_the_mean_over_all_words_for_logits_that_know_nothing(words):
    """Uniform logits over V words: every term is ln V; the closing term is ln V too."""
    ids = words.ids(["a red cat", "a sword is a weapon"])
    vocabulary = len(words.tokenizer)
    loss = words.loss(ids, torch.zeros(2, ids.shape[1], vocabulary), [Meaning(), SWORD])
    assert loss.item() == pytest.approx(2 * math.log(vocabulary), rel=1e-5)


@pytest.mark.parametrize("said", ["weapon", "sword"])
def test_it_falls_where_the_end_knows_what_is_meant(words, said):
    text = "a dagger near a cat"
    assert loss_where_the_end_says(words, said, text, SWORD) < loss_where_the_end_says(words, said, text, Meaning())


def test_what_is_denied_is_not_asked_of_the_end(words):
    text = "a cat with no sword"
    denied = Meaning(denied=("sword",))
    assert loss_where_the_end_says(words, "sword", text, denied) > loss_where_the_end_says(
        words, "sword", text, Meaning()
    )


def test_an_empty_caption_has_a_loss_that_is_finite(words):
    ids = words.ids(["", "a cat"])
    assert words.loss(ids, torch.randn(2, ids.shape[1], len(words.tokenizer)), [Meaning(), Meaning()]).isfinite()


def test_sentences_are_definitions_and_what_users_say(words):
    texts, meanings = words.sentences(np.random.default_rng(0), 200)
    said = sum(meaning == Meaning() for meaning in meanings)
    assert 20 < said < 80
    assert all(len(m.motifs) == len(m.kinds) == 1 for m in meanings if m != Meaning())
    assert len(set(texts)) > 150
