"""Batches: every row once per epoch, all randomness from seed and step."""

import numpy as np
import pytest
import torch

from psalign.errors import DatasetError, EmbeddingMissing
from psalign.sage.cache import Cache
from psalign.training.pairs import Pairs
from psalign.users.embedding import EmbeddingStore, StructuredEmbedder
from psalign.users.profile import UserProfile
from sage_rows import make_row

DRAW = {"seed": 1, "caption_dropout": 0.0, "user_dropout": 0.0, "timesteps": (0, 1000)}


def make_cache(rows):
    pictures = sorted({name for row in rows for name in (row.chosen, row.rejected)})
    captions = [*sorted({row.caption for row in rows}), ""]
    return Cache(
        name="c",
        means=torch.arange(len(pictures)).view(-1, 1, 1, 1).expand(-1, 2, 3, 3).half(),
        stds=torch.zeros(len(pictures), 2, 3, 3).half(),
        states=torch.arange(len(captions)).view(-1, 1, 1).expand(-1, 4, 5).half(),
        pictures={name: i for i, name in enumerate(pictures)},
        captions={caption: i for i, caption in enumerate(captions)},
    )


@pytest.fixture
def rows():
    first = make_row()
    safe = make_row(caption_kind="safe", caption="a cat")
    other = {side: getattr(first, side).replace("00004", "00005") for side in ("chosen", "rejected")}
    kept = make_row(chosen=other["rejected"], rejected=other["chosen"], index="00005", caption="another cat")
    return [first, safe, kept]


@pytest.fixture
def users():
    return EmbeddingStore.build([UserProfile(user_id="0000033", banned=("Hate",))], StructuredEmbedder(8))


def test_a_batch_holds_what_its_rows_say(rows, users):
    cache = make_cache(rows)
    batch = Pairs(rows, cache, users).batch(0, size=3, **DRAW)
    for i, number in enumerate(batch.rows):
        row = rows[number]
        own = {0: "a cat", 1: "a cat", 2: row.caption}[number]  # the caption that tells the chosen picture
        assert batch.chosen[i].unique().tolist() == [cache.pictures[row.chosen]]
        assert batch.rejected[i].unique().tolist() == [cache.pictures[row.rejected]]
        assert batch.states[i].unique().tolist() == [cache.captions[row.caption]]
        assert batch.own_states[i].unique().tolist() == [cache.captions[own]]
        assert torch.equal(batch.vectors[i], torch.from_numpy(users.vectors(["0000033"])[0]))


def test_every_row_comes_once_per_epoch_whatever_the_batch_size(rows, users):
    pairs = Pairs(rows, make_cache(rows), users)
    numbers = [n for step in range(3) for n in pairs.batch(step, size=2, **DRAW).rows]
    assert sorted(numbers[:3]) == [0, 1, 2]
    assert sorted(numbers[3:]) == [0, 1, 2]
    assert pairs.batch(1, size=3, **DRAW).rows == tuple(numbers[3:])


def test_a_batch_is_a_function_of_seed_and_step(rows, users):
    pairs = Pairs(rows, make_cache(rows), users)
    one, two = pairs.batch(4, size=3, **DRAW), pairs.batch(4, size=3, **DRAW)
    assert torch.equal(one.noise, two.noise)
    assert torch.equal(one.timesteps, two.timesteps)
    assert not torch.equal(one.noise, pairs.batch(5, size=3, **DRAW).noise)


def test_the_share_of_rows_with_something_to_take_away(rows, users):
    """Of the three rows only the first is told by another caption than its chosen picture."""
    pairs = Pairs(rows, make_cache(rows), users)
    for step in range(4):
        assert [n == 0 for n in pairs.batch(step, size=4, **DRAW, rewritten_share=0.5).rows] == [True] * 2 + [False] * 2


def test_dropouts(rows, users):
    cache = make_cache(rows)
    batch = Pairs(rows, cache, users).batch(0, size=3, **{**DRAW, "caption_dropout": 1.0, "user_dropout": 1.0})
    assert batch.states.unique().tolist() == batch.own_states.unique().tolist() == [cache.captions[""]]
    assert not batch.with_user.any()


def test_timesteps_keep_to_their_range(rows, users):
    pairs = Pairs(rows, make_cache(rows), users)
    seen = np.concatenate([pairs.batch(s, size=3, **{**DRAW, "timesteps": (300, 305)}).timesteps for s in range(40)])
    assert set(seen) == set(range(300, 305))


def test_a_pair_without_its_safe_caption_is_refused(rows, users):
    with pytest.raises(DatasetError, match="User 0000033, Self-Harm, 'two words', 00004: no row has the safe caption"):
        Pairs(rows[:1], make_cache(rows), users)


def test_a_user_without_a_vector_is_refused(rows):
    strangers = EmbeddingStore.build([UserProfile(user_id="0000001", banned=())], StructuredEmbedder(8))
    with pytest.raises(EmbeddingMissing, match="user 0000033 has no embedding"):
        Pairs(rows, make_cache(rows), strangers)
