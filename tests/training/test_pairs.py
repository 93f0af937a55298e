"""Steps: every row once per epoch, all randomness from seed, row and draw."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from psalign.errors import DatasetError, EmbeddingMissing
from psalign.sage.cache.latents import Cache
from psalign.sage.cache.store import Rows
from psalign.training.config import TrainingConfig
from psalign.training.pairs import Pairs
from psalign.users.profile import UserProfile
from psalign.users.store import EmbeddingStore
from psalign.users.vectors import StructuredEmbedder
from sage_rows import make_row

CALM = TrainingConfig(caption_dropout=0.0, user_dropout=0.0, seed=1)


def make_cache(rows, *, variants=("plain",)):
    """Latents of picture p in variant v are p + 100 v everywhere; states of caption q are q."""
    pictures = sorted({name for row in rows for name in (row.chosen, row.rejected)})
    captions = [*sorted({row.caption for row in rows}), ""]
    values = torch.cat([torch.arange(len(pictures)) + 100.0 * v for v in range(len(variants))])
    count = len(values)
    return Cache(
        name="c",
        latents=Rows.of(
            means=values.view(-1, 1, 1, 1).expand(-1, 2, 3, 3).half(),
            stds=torch.zeros(count, 2, 3, 3).half(),
            sizes=torch.zeros(count, 6, dtype=torch.int32),
        ),
        texts=Rows.of(states=torch.arange(len(captions)).view(-1, 1, 1).expand(-1, 4, 5).half()),
        pictures={name: i for i, name in enumerate(pictures)},
        captions={caption: i for i, caption in enumerate(captions)},
        variants=variants,
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


def batch_of(pairs, step, *, size, config=CALM):
    plan = pairs.plan(step, size=size, config=config)
    return plan, pairs.batch(plan, seed=config.seed)


def test_a_batch_holds_what_its_rows_say(rows, users):
    cache = make_cache(rows)
    plan, batch = batch_of(Pairs(rows, cache, users), 0, size=3)
    for i, number in enumerate(plan.rows):
        row = rows[number]
        own = {0: "a cat", 1: "a cat", 2: row.caption}[number]  # the caption of the chosen picture
        assert batch.chosen[i].unique().tolist() == [cache.pictures[row.chosen]]
        assert batch.rejected[i].unique().tolist() == [cache.pictures[row.rejected]]
        assert batch.states[i].unique().tolist() == [cache.captions[row.caption]]
        assert batch.own_states[i].unique().tolist() == [cache.captions[own]]
        assert batch.rewritten[i] == (number == 0)
        assert batch.safe[i] == (number == 1)
        assert torch.equal(batch.vectors[i], torch.from_numpy(users.vectors(["0000033"])[0]))
    assert not batch.visual.any()
    # Self-Harm is category 3 of 7: banned in row 0, allowed in row 2, nothing in the safe row.
    assert [batch.cells[list(plan.rows).index(n)].item() for n in range(3)] == [3, -1, 7 + 3]


def test_every_row_comes_once_per_epoch_whatever_the_batch_size(rows, users):
    pairs = Pairs(rows, make_cache(rows), users)
    numbers = [n for step in range(3) for n in pairs.plan(step, size=2, config=CALM).rows]
    assert sorted(numbers[:3]) == [0, 1, 2]
    assert sorted(numbers[3:]) == [0, 1, 2]
    assert pairs.plan(1, size=3, config=CALM).rows.tolist() == numbers[3:]


def test_a_draw_is_the_same_in_any_batch(rows, users):
    """A step of four in two parts, and a step of two twice, are the very same pairs."""
    pairs = Pairs(rows, make_cache(rows), users)
    config = replace(CALM, user_dropout=0.5, caption_dropout=0.5)
    plan = pairs.plan(0, size=4, config=config)
    whole = pairs.batch(plan, seed=1)
    for index in range(2):
        for plan_of_two in (plan.part(index, 2), pairs.plan(index, size=2, config=config)):
            part = pairs.batch(plan_of_two, seed=1)
            for name, values in vars(part).items():
                if isinstance(values, torch.Tensor):
                    assert torch.equal(values, getattr(whole, name)[2 * index : 2 * index + 2]), name


def test_other_epochs_and_seeds_draw_anew(rows, users):
    pairs = Pairs(rows, make_cache(rows), users)
    noise = []
    for step, seed in ((0, 1), (1, 1), (0, 2)):
        plan, batch = batch_of(pairs, step, size=3, config=replace(CALM, seed=seed))
        noise.append(batch.noise[list(plan.rows).index(0)])
    assert not torch.equal(noise[0], noise[1])
    assert not torch.equal(noise[0], noise[2])
    assert noise[0].std() == pytest.approx(1, abs=0.5)


def test_fixed_draws_come_again(rows, users):
    pairs = Pairs(rows, make_cache(rows), users)
    config = replace(CALM, reference_draws=2)

    def noise_of_first(step):
        plan, batch = batch_of(pairs, step, size=3, config=config)
        return batch.noise[list(plan.rows).index(0)]

    assert torch.equal(noise_of_first(0), noise_of_first(2))
    assert not torch.equal(noise_of_first(0), noise_of_first(1))


def test_the_share_of_rows_with_something_to_take_away(rows, users):
    """Of the three rows only the first is told by another caption than its chosen picture."""
    pairs = Pairs(rows, make_cache(rows), users)
    for step in range(4):
        plan = pairs.plan(step, size=4, config=replace(CALM, rewritten_share=0.5))
        assert (plan.rows == 0).tolist() == [True] * 2 + [False] * 2


def test_a_share_of_pairs_that_there_are_none_of_is_refused(rows, users):
    """Not a smaller step than was asked for, whose parts would be empty."""
    first, safe, kept = rows
    for some, config, what in (
        ([safe, kept], {"rewritten_share": 0.5}, r"2 of the 4 .* with something to take away \(rewritten_share\)"),
        ([kept], {"visual_share": 0.25}, r"1 of the 4 .* with a safe caption \(visual_share\); the dataset has none"),
    ):
        pairs = Pairs(some, make_cache(some), users)
        with pytest.raises(DatasetError, match=what):
            pairs.plan(0, size=4, config=replace(CALM, **config))
    assert (
        len(Pairs([first, safe], make_cache(rows), users).plan(0, size=4, config=replace(CALM, rewritten_share=1))) == 4
    )


def test_visual_pairs_are_a_safe_picture_and_its_poor_rendering(rows, users):
    cache = make_cache(rows, variants=("plain", "degraded"))
    plan, batch = batch_of(Pairs(rows, cache, users), 0, size=4, config=replace(CALM, visual_share=0.5))
    assert plan.visual.tolist() == batch.visual.tolist() == [True, True, False, False]
    safe = cache.pictures[rows[1].chosen]
    for i in range(2):
        assert plan.rows[i] == 1
        assert batch.chosen[i].unique().tolist() == [safe]
        assert batch.rejected[i].unique().tolist() == [100 + safe]
        assert batch.states[i].unique().tolist() == [cache.captions["a cat"]]


def test_both_pictures_of_a_pair_are_mirrored_together(rows, users):
    pairs = Pairs(rows, make_cache(rows, variants=("plain", "flipped")), users)
    seen = set()
    for step in range(20):
        plan, batch = batch_of(pairs, step, size=3)
        chosen, rejected = (latents.flatten(1).mean(1) >= 100 for latents in (batch.chosen, batch.rejected))
        assert chosen.tolist() == rejected.tolist() == plan.flipped.tolist()
        seen |= set(plan.flipped.tolist())
    assert seen == {True, False}


def test_dropouts(rows, users):
    cache = make_cache(rows)
    _, batch = batch_of(Pairs(rows, cache, users), 0, size=3, config=replace(CALM, caption_dropout=1, user_dropout=1))
    assert batch.states.unique().tolist() == batch.own_states.unique().tolist() == [cache.captions[""]]
    assert not batch.with_user.any()
    assert not batch.rewritten.any()


def test_dropouts_keep_to_their_shares(rows, users):
    pairs = Pairs(rows, make_cache(rows), users)
    plan = pairs.plan(0, size=900, config=replace(CALM, caption_dropout=0.2, user_dropout=0.1))
    assert 1 - plan.captioned.mean() == pytest.approx(0.2, abs=0.05)
    assert 1 - plan.with_user.mean() == pytest.approx(0.1, abs=0.04)
    together = (~plan.captioned & ~plan.with_user).mean()
    assert together == pytest.approx(0.02, abs=0.02)  # the one does not depend on the other


def test_timesteps_keep_to_their_range(rows, users):
    pairs = Pairs(rows, make_cache(rows), users)
    config = replace(CALM, timesteps=(300, 305))
    seen = np.concatenate([pairs.plan(step, size=3, config=config).timesteps for step in range(40)])
    assert set(seen) == set(range(300, 305))


def test_sdxl_batches_have_pooled_states_and_sizes(rows, users):
    cache = make_cache(rows)
    texts = Rows.of(**cache.texts.shards[0], pooled=torch.arange(4).view(-1, 1).expand(-1, 6).half())
    plan, batch = batch_of(Pairs(rows, replace(cache, texts=texts), users), 0, size=3)
    first = list(plan.rows).index(0)
    assert batch.pooled[first].unique().tolist() == [cache.captions[rows[0].caption]]
    assert batch.own_pooled[first].unique().tolist() == [cache.captions["a cat"]]
    assert batch.time_ids.shape == (3, 6)


def test_rows_are_told_by_number_and_picture(rows, users):
    pairs = Pairs(rows, make_cache(rows), users)
    plan = pairs.plan(0, size=3, config=CALM)
    told = pairs.row_numbers(plan, limit=2)
    assert f"{plan.rows[0]} ({rows[plan.rows[0]].chosen})" in told
    assert told.endswith("and 1 more")


def test_a_pair_without_its_safe_caption_is_refused(rows, users):
    with pytest.raises(DatasetError, match="user 0000033, Self-Harm, 'two words', 00004: no row has the safe caption"):
        Pairs(rows[:1], make_cache(rows), users)


def test_a_user_without_a_vector_is_refused(rows):
    strangers = EmbeddingStore.build([UserProfile(user_id="0000001", banned=())], StructuredEmbedder(8))
    with pytest.raises(EmbeddingMissing, match="user 0000033 has no embedding"):
        Pairs(rows, make_cache(rows), strangers)
