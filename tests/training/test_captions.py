"""What a step draws of captions: a function of seed and step, in epochs, with the exact code kept."""

from collections import Counter

import numpy as np
import pytest
import torch

from psalign.errors import DatasetError
from psalign.training.captions import CaptionPlan
from psalign.training.config import TrainingConfig
from training_captions import CALM, CODE, make_captions


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
    captions = make_captions(code=CODE)
    config = TrainingConfig(caption_dropout=0.3, vector_dropout=0.2, code_dropout=0.3, vector_swap=0.2)
    plan = captions.plan(5, size=8, config=config)
    parts = [plan.part(index, 2) for index in range(4)]
    for name in ("rows", "users", "captioned", "with_vector", "with_code"):
        assert np.array_equal(np.concatenate([getattr(part, name) for part in parts]), getattr(plan, name))
    assert {part.reading for part in parts} == {plan.reading}
    whole, halves = captions.batch(plan), [captions.batch(part) for part in parts]
    for name in ("states", "told", "vectors", "rewritten"):
        assert torch.equal(torch.cat([getattr(half, name) for half in halves]), getattr(whole, name))


def test_a_share_has_something_to_take_away():
    captions = make_captions()
    plan = captions.plan(0, size=8, config=TrainingConfig(**CALM, rewritten_share=0.25))
    assert (captions.table[plan.rows, 0] != captions.table[plan.rows, 1]).sum() == 2
    captions.table = captions.table[captions.table[:, 0] == captions.table[:, 1]]
    with pytest.raises(DatasetError, match=r"2 of the 8 rows of a step are to have something to take away"):
        captions.plan(0, size=8, config=TrainingConfig(rewritten_share=0.25))


def test_vectors_and_codes_are_dropped_and_the_code_is_always_the_rows_own():
    captions = make_captions(120, code=CODE)
    captions.vectors[:, -CODE:] = torch.arange(len(captions.vectors))[:, None] + 1.0
    captions.estimates = -captions.vectors[:, -CODE:]
    plan = captions.plan(
        0, size=120, config=TrainingConfig(**CALM, vector_dropout=0.3, code_dropout=0.3, vector_swap=0.2)
    )
    batch = captions.batch(plan)
    vector, code = batch.vectors[:, :-CODE], batch.vectors[:, -CODE:]
    own = torch.from_numpy(captions.table[plan.rows, 3])
    has_vector, has_code = vector.abs().sum(1) > 0, code[:, 0] > 0
    assert (has_vector | has_code).all()  # nobody is left with nothing
    assert 10 < (~has_vector).sum() < 60
    assert 5 < (~has_code).sum() < 60
    assert torch.equal(code[:, 0].abs(), own + 1.0)  # the row's own, exact or estimated
    swapped = plan.users != own.numpy()
    assert 10 < swapped.sum() < 50
    assert has_code.numpy()[swapped].all()  # a vector of another user alone would teach the wrong thing
    calm = captions.batch(captions.plan(0, size=120, config=TrainingConfig(**CALM)))
    assert (calm.vectors != 0).all()
    assert (calm.vectors[:, -1] > 0).all()


def test_vectors_without_a_code_lose_nothing():
    captions = make_captions()
    config = TrainingConfig(**CALM, vector_dropout=0.5, vector_swap=0.5)
    plan = captions.plan(0, size=12, config=config)
    assert torch.equal(captions.batch(plan).vectors, captions.vectors[captions.table[plan.rows, 3]])


def test_a_dropped_caption_is_empty_on_both_sides():
    captions = make_captions()
    plan = CaptionPlan(np.arange(3), np.arange(3), np.array([False, True, True]), *[np.ones(3, bool)] * 2, reading=0)
    batch = captions.batch(plan)
    empty = captions.texts.rows.read("states", [captions.texts.empty])[0].float()
    assert torch.equal(batch.states[0], empty)
    assert torch.equal(batch.told[0], empty)
    assert not batch.rewritten[0]


def test_states_beyond_the_memory_are_read_from_disk():
    held, read = make_captions(), make_captions(memory_gb=1e-9)
    assert held.states is not None
    assert read.states is None
    plan = held.plan(1, size=4, config=TrainingConfig())
    assert torch.equal(held.batch(plan).states, read.batch(plan).states)


def test_safe_captions_are_known_to_be_harmless():
    captions = make_captions()
    assert captions.safe_captions == sorted(f"caption {i}" for i in (2, 5, 8, 11))
    captions.rows = [row for row in captions.rows if row.side != "safe"]
    assert set(captions.safe_captions) == {f"caption {i}" for i in (1, 4, 7, 10)}  # what is drawn instead
