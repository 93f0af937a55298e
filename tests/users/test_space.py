"""Whitening and the exact ban code: by hand, and what a store gives out and keeps."""

import numpy as np
import pytest

from psalign.errors import RecipeMismatch
from psalign.users.levels import level_profiles
from psalign.users.policy import banned_categories
from psalign.users.population import sample_profiles
from psalign.users.profile import UserProfile
from psalign.users.space import CODE_WEIGHT, LONGEST, Space
from psalign.users.store import EmbeddingStore
from psalign.users.vectors import StructuredEmbedder
from taxonomies import CATEGORIES

PEOPLE = sample_profiles(80, seed=5)


def raw_vectors(count=60, width=10):
    """Spread 100 in one direction, .01 in others: as of a language model."""
    rng = np.random.default_rng(0)
    turn = np.linalg.qr(rng.standard_normal((width, width)))[0]
    return (rng.standard_normal((count, width)) * np.geomspace(100, 0.01, width) @ turn + 5).astype(np.float32)


def test_whitened_directions_have_the_same_spread_and_no_correlation():
    raw = raw_vectors()
    space = Space.of(raw, whitened=6)
    placed = (raw - space.mean) @ space.directions
    assert placed.shape == (60, 6)
    np.testing.assert_allclose(np.cov(placed.T, bias=True), np.eye(6), atol=1e-2)
    np.testing.assert_allclose(placed.mean(0), 0, atol=1e-3)


def test_a_vector_unlike_the_population_keeps_its_direction_and_loses_its_length():
    raw = raw_vectors()
    space = Space.of(raw, whitened=6)
    whole, most = (raw - space.mean) @ space.directions, LONGEST * 6**0.5
    lengths = np.linalg.norm(whole, axis=1)
    assert (lengths < most).all()
    np.testing.assert_allclose(space.place(raw), whole, rtol=2e-3, atol=2e-3)
    far = space.place(space.mean + 50 * (raw - space.mean))
    np.testing.assert_allclose(np.linalg.norm(far, axis=1), most, rtol=1e-4)
    np.testing.assert_allclose(far / most, whole / lengths[:, None], rtol=5e-2, atol=5e-3)


def test_a_direction_needs_users_and_some_spread():
    assert Space.of(raw_vectors(12), whitened=96).directions.shape == (10, 3)  # four users a direction
    flat = np.repeat(raw_vectors()[:, :2], 5, axis=1)  # two directions are all there is
    assert Space.of(flat, whitened=96).directions.shape == (10, 2)


def test_the_bits_of_a_user_do_not_depend_on_the_others():
    raw = raw_vectors()
    space = Space.of(raw, whitened=5)
    assert np.array_equal(space.place(raw)[7], space.place(raw[7:8])[0])
    assert space.place(raw[:0]).shape == (0, 5)


LISTS = [banned_categories(profile) for profile in PEOPLE[:60]]


def test_the_code_is_the_ban_list():
    space = Space.of(raw_vectors(), bans=LISTS)
    code = space.code([("Hate", "Shocking"), (), CATEGORIES])
    expected = np.array([[1, -1, -1, -1, -1, 1, -1], [-1] * 7, [1] * 7]) * CODE_WEIGHT
    assert np.array_equal(code, expected.astype(np.float32))
    assert Space.of(raw_vectors()).code([(), ()]).shape == (2, 0)


def test_a_code_is_estimated_by_ridge_regression():
    """By hand: (X'X + r I)^-1 X'(Y - mean Y), X centred, r = .003 times the trace of X'X over the width."""
    raw = raw_vectors()
    space = Space.of(raw, bans=LISTS)
    x = raw.astype(float) - raw.mean(0, dtype=float)
    y = np.array([[1.0 if category in bans else -1.0 for category in CATEGORIES] for bans in LISTS])
    inverse = np.linalg.inv(x.T @ x + 0.003 * np.trace(x.T @ x) / 10 * np.eye(10))
    told = x @ inverse @ x.T @ (y - y.mean(0)) + y.mean(0)
    np.testing.assert_allclose(space.estimated_code(raw), CODE_WEIGHT * np.clip(2 * told, -1, 1), atol=1e-3)
    wide = Space.of(np.tile(raw, 8), bans=LISTS)  # more coordinates than users: the other form of the same solution
    assert wide.estimated_code(np.tile(raw, 8)).shape == (60, 7)


def test_vectors_of_people_tell_their_bans(store):
    """The structured vectors hold the bans: estimated codes have the signs of the exact ones."""
    ids = [profile.user_id for profile in PEOPLE]
    exact, estimated = store.vectors(ids)[:, -7:], store.vectors(ids, exact=False)[:, -7:]
    assert (np.sign(exact) == np.sign(estimated)).mean() > 0.97
    assert np.array_equal(store.batch(ids[:1], exact=False).vectors[0], store.vectors(ids[:1], exact=False)[0])


@pytest.fixture
def store():
    return EmbeddingStore.build(PEOPLE, StructuredEmbedder(), whitened=12, exact=True)


def test_a_store_gives_out_vectors_with_their_codes(store, tmp_path):
    assert (store.width, store.code_width) == (12 + 7, 7)
    ids = [PEOPLE[3].user_id, PEOPLE[8].user_id]
    vectors = store.vectors(ids)
    for profile, vector in zip((PEOPLE[3], PEOPLE[8]), vectors, strict=True):
        bans = [category in banned_categories(profile) for category in CATEGORIES]
        assert np.array_equal(vector[-7:] > 0, bans)
    store.save(tmp_path / "vectors")
    loaded = EmbeddingStore.load(tmp_path / "vectors")
    assert loaded.fingerprint == store.fingerprint
    assert np.array_equal(loaded.vectors(ids), vectors)
    assert np.array_equal(loaded.batch([ids[0], None]).vectors[0], vectors[0])
    assert loaded.without([ids[0]]).width == store.width


def test_users_join_in_the_same_space(store):
    later = EmbeddingStore.build(level_profiles(), StructuredEmbedder(), statistics_of=store)
    both = store.joined(later)
    assert both.fingerprint == later.fingerprint == store.fingerprint
    assert len(both) == len(PEOPLE) + 6
    assert np.array_equal(both.vectors(["level_3"]), later.vectors(["level_3"]))
    assert both.banned("level_3") == later.banned("level_3")
    assert len(store.joined(both)) == len(both)  # whoever is there is not taken twice


def test_another_space_has_another_name(store):
    names = {
        EmbeddingStore.build(PEOPLE, StructuredEmbedder(), whitened=whitened, exact=exact).fingerprint
        for whitened in (0, 12)
        for exact in (False, True)
    }
    assert len(names) == 4
    with pytest.raises(RecipeMismatch):
        EmbeddingStore.build([UserProfile(user_id="a", banned=())], StructuredEmbedder(8), statistics_of=store)
