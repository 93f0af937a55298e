"""The language stage: a larger text encoder begins where the old one was, and learns texts whose picture is known."""

import numpy as np
import pytest
import torch

from psalign.mini import language, world
from psalign.mini.factory.rewording import RewordingConfig, grow, sample, train_language
from psalign.mini.factory.tokenizer import MAX_TOKENS, build_tokenizer

TINY = RewordingConfig(steps=2, batch=4)


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return build_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def ids(tokenizer, text):
    return torch.tensor([tokenizer(text, padding="max_length", max_length=MAX_TOKENS).input_ids])


def test_known_words_keep_their_states_to_the_bit(mini_pipeline, tokenizer):
    old = mini_pipeline.text_encoder
    grown = grow(old, mini_pipeline.tokenizer, tokenizer)
    assert grown.config.num_hidden_layers == old.config.num_hidden_layers + 1
    for text in ("", "a red cat on the left with a sword, a weapon, at night"):
        with torch.no_grad():
            before = old(ids(mini_pipeline.tokenizer, text)).last_hidden_state
            assert torch.equal(grown(ids(tokenizer, text)).last_hidden_state, before)


def test_the_old_words_need_not_have_the_same_numbers(mini_pipeline, tokenizer):
    """A vocabulary of another order: the states follow the words."""
    words = tokenizer.get_vocab()

    class Turned:
        bos_token_id, eos_token_id, pad_token_id = 0, len(words) - 1, len(words) - 1

        def __len__(self):
            return len(words)

        def get_vocab(self):
            return {word: len(words) - 1 - number for word, number in words.items()}

    grown = grow(mini_pipeline.text_encoder, mini_pipeline.tokenizer, Turned())
    number = mini_pipeline.tokenizer.get_vocab()["sword</w>"]
    expected = mini_pipeline.text_encoder.get_input_embeddings().weight[number]
    assert torch.equal(grown.get_input_embeddings().weight[len(words) - 1 - words["sword</w>"]], expected)


def test_texts_have_a_caption_of_the_dataset_that_asks_for_the_same():
    rng = np.random.default_rng(0)
    rows = [sample(rng, RewordingConfig()) for _ in range(400)]
    starts = [wording[0].split("{")[0] for wording in language.MORE_WORDINGS]
    assert sum(row.text == "" for row in rows) > 5
    assert 80 < sum(row.text == row.plain != "" for row in rows) < 250
    for row in rows:
        assert (row.text == "") == (row.plain == "")
        assert not any(start and row.plain.startswith(start) for start in starts)
        assert not set(row.meaning.denied) & set(row.plain.replace(",", "").split())
        assert set(row.meaning.motifs) <= set(row.plain.replace(",", "").split())
        assert {world.MOTIF_CATEGORY[motif] for motif in row.meaning.motifs} <= set(row.meaning.kinds)


@pytest.mark.slow
def test_the_unet_and_the_old_text_encoder_are_left_as_they_were(mini_pipeline, tokenizer, tmp_path):
    before = [p.clone() for part in (mini_pipeline.unet, mini_pipeline.text_encoder) for p in part.parameters()]
    trained, _ = train_language(mini_pipeline, tokenizer, TINY, seed=3, work=tmp_path)
    after = [p for part in (mini_pipeline.unet, mini_pipeline.text_encoder) for p in part.parameters()]
    assert all(map(torch.equal, before, after))
    start = grow(mini_pipeline.text_encoder, mini_pipeline.tokenizer, tokenizer)
    assert not torch.equal(trained.final_layer_norm.weight, start.final_layer_norm.weight)
    again, _ = train_language(mini_pipeline, tokenizer, TINY, seed=3, work=tmp_path)  # finished: nothing is trained
    assert all(map(torch.equal, trained.parameters(), again.parameters()))
