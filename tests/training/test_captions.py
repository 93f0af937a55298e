"""What a step draws of captions: a function of seed and step, in epochs, with ban lists, vectors and limits."""

from collections import Counter

import numpy as np
import pytest
import torch

from psalign.errors import DatasetError
from psalign.sage.cache.texts import build_texts
from psalign.training.captions import CaptionPlan, caption_tokens
from psalign.training.config import TrainingConfig
from training_captions import CALM, make_captions


def plans(captions, config, *, steps=6, size=4):
    return [captions.plan(step, size=size, config=config) for step in range(steps)]


def same(one, other):
    return all(np.array_equal(vars(one)[name], vars(other)[name]) for name in vars(one))


def test_every_row_once_per_epoch_and_the_same_again():
    captions, config = make_captions(), TrainingConfig(**CALM, seed=3)
    drawn = plans(captions, config)
    for epoch in (drawn[:3], drawn[3:]):
        assert Counter(np.concatenate([plan.rows for plan in epoch]).tolist()) == Counter(range(12))
    assert not np.array_equal(drawn[0].rows, drawn[3].rows)
    assert all(same(one, other) for one, other in zip(drawn, plans(make_captions(), config), strict=True))
    assert len({plan.reading for plan in drawn}) == 6


def test_parts_of_a_step_are_the_step():
    """Whoever takes which part, in one process or several, sees the same rows, dropouts and queries."""
    captions = make_captions(limited=True)
    config = TrainingConfig(caption_dropout=0.3, list_dropout=0.3)
    plan = captions.plan(5, size=8, config=config)
    parts = [plan.part(index, 2) for index in range(4)]
    for name in ("rows", "captioned", "with_list"):
        assert np.array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(plan, name))
    assert {part.reading for part in parts} == {plan.reading}
    whole, halves = captions.batch(plan), [captions.batch(part) for part in parts]
    for name in ("states", "chosen", "vectors", "bans", "is_known", "limits", "limit_strength", "rewritten"):
        assert torch.equal(torch.cat([getattr(half, name) for half in halves]), getattr(whole, name))


def test_a_share_has_something_to_take_away():
    captions = make_captions()
    plan = captions.plan(0, size=8, config=TrainingConfig(**CALM, rewritten_share=0.25))
    assert (captions.table[plan.rows, 0] != captions.table[plan.rows, 1]).sum() == 2
    captions.table = captions.table[captions.table[:, 0] == captions.table[:, 1]]
    with pytest.raises(DatasetError, match=r"2 of the 8 rows of a step are to have something to take away"):
        captions.plan(0, size=8, config=TrainingConfig(rewritten_share=0.25))


def test_a_row_goes_by_its_ban_list_or_by_its_vector_and_an_unknown_list_is_never_an_empty_one():
    captions = make_captions(120)
    plan = captions.plan(0, size=120, config=TrainingConfig(caption_dropout=0.0, list_dropout=0.3))
    users = captions.batch(plan).users
    own = captions.table[plan.rows, 3]
    assert torch.equal(users.vectors, captions.vectors[own])
    is_unknown = torch.tensor([int(captions.rows[row].user_id) % 5 == 4 for row in plan.rows])
    assert not users.is_known[is_unknown].any()
    assert 10 < (~users.is_known & ~is_unknown).sum() < 60  # hidden
    assert not users.bans[~users.is_known].any()
    assert (users.bans[users.is_known].sum(1) == 1).all()
    everybody = captions.batch(captions.plan(0, size=120, config=TrainingConfig(**CALM))).users
    assert torch.equal(everybody.is_known.sum(), (~is_unknown).sum())


def test_a_row_with_limits_has_no_user_and_nothing_else():
    captions = make_captions(60, limited=True)
    batch = captions.batch(captions.plan(0, size=20, config=TrainingConfig(**CALM, limit_share=0.4)))
    with_limits = batch.limit_strength.sum(1) > 0
    assert with_limits.sum() == 8  # .4 of 20
    assert batch.is_known[with_limits].all()
    assert not batch.bans[with_limits].any()
    assert not batch.vectors[with_limits].any()
    row = int(with_limits.nonzero()[0])
    number = int(captions.plan(0, size=20, config=TrainingConfig(**CALM, limit_share=0.4)).rows[row])
    phrases = captions.rows[number].limits
    assert int(batch.limit_strength[row].sum()) == len(phrases)
    assert torch.equal(batch.limits[row, : len(phrases)], captions.phrases[: len(phrases)])


def test_rows_of_one_kind_alone_need_no_share():
    captions = make_captions(12, limited=True)
    captions.table = captions.table[captions.table[:, 3] < 0]
    assert len(captions.plan(0, size=6, config=TrainingConfig(**CALM))) == 6
    captions = make_captions()
    assert len(captions.plan(0, size=6, config=TrainingConfig(**CALM, limit_share=1.0))) == 6


def test_a_dropped_caption_is_empty_on_both_sides():
    captions = make_captions()
    plan = CaptionPlan(np.arange(3), np.array([False, True, True]), np.ones(3, bool), reading=0)
    batch = captions.batch(plan)
    empty = captions.texts.rows.read("states", [captions.texts.empty])[0].float()
    assert torch.equal(batch.states[0], empty)
    assert torch.equal(batch.chosen[0], empty)
    assert not batch.rewritten[0]


def test_states_beyond_the_memory_are_read_from_disk():
    held, read = make_captions(), make_captions(memory_gb=1e-9)
    assert held.states is not None
    assert read.states is None
    plan = held.plan(1, size=4, config=TrainingConfig())
    assert torch.equal(held.batch(plan).states, read.batch(plan).states)


def test_which_captions_are_known_to_be_safe():
    captions = make_captions()
    assert captions.safe_captions == sorted(f"caption {i}" for i in (2, 5, 8, 11))
    captions.rows = [row for row in captions.rows if row.side != "safe"]
    assert set(captions.safe_captions) == {f"caption {i}" for i in (1, 4, 7, 10)}  # what is drawn instead


def test_a_token_stays_where_the_caption_of_the_chosen_picture_has_it_anywhere():
    captions = make_captions()
    plan = captions.plan(0, size=12, config=TrainingConfig(**CALM))
    stays = captions.batch(plan).stays
    for number, row in enumerate(plan.rows):
        caption, chosen = (captions.tokens[captions.table[row, column]].tolist() for column in (0, 1))
        assert stays[number].tolist() == [token in chosen for token in caption]


def test_tokens_are_those_of_every_caption_in_the_order_of_its_number(mini_pipeline, tmp_path):
    texts = build_texts(["a red cat", "a cat with a sword", "a dog " * 100], mini_pipeline, tmp_path)
    tokens = caption_tokens(mini_pipeline.tokenizer, texts)
    length = texts.rows.read("states", [0]).shape[1]
    assert tokens.shape == (4, length)
    for caption, number in texts.numbers.items():
        own = mini_pipeline.tokenizer(caption, truncation=True, max_length=length).input_ids
        assert tokens[number, : len(own)].tolist() == own
