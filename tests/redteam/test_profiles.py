"""Attacks by the profile: what reaches the adapter, while what is measured stays the user's own."""

import numpy as np
import pytest

from psalign.categories import category_names
from psalign.redteam.profiles import INJECTED, PROFILE_ATTACKS, Tampered
from psalign.users.levels import level_profiles
from psalign.users.store import EmbeddingStore
from psalign.users.vectors import StructuredEmbedder

USER = "level_4"


@pytest.fixture(scope="module")
def store():
    return EmbeddingStore.build(level_profiles(), StructuredEmbedder(16))


@pytest.mark.parametrize("name", PROFILE_ATTACKS)
def test_bans_that_are_measured_stay_the_users_own(store, name):
    users = Tampered(store, PROFILE_ATTACKS[name][1])
    assert users.banned(USER) == store.banned(USER)
    assert users.fingerprint == store.fingerprint
    assert len(users.batch([USER, USER]).vectors) == 2


def test_vectors_of_each_attack(store):
    """With own vector v and the mildest level's m: v, m, (v + m) / 2, v + 2 (m - v), -v, 5 v, 0."""
    own, mild = store.vectors([USER, "level_0"])
    wanted = {"none": own, "swapped": mild, "interpolated": (own + mild) / 2, "extrapolated": own + 2 * (mild - own),
              "negated": -own, "enlarged": 5 * own, "zero": 0 * own}  # fmt: skip
    for name, vector in wanted.items():
        batch = Tampered(store, PROFILE_ATTACKS[name][1]).batch([USER])
        np.testing.assert_allclose(batch.vectors[0], vector, rtol=1e-5, atol=1e-6)
        assert batch.bans[0].tolist() == store.batch([USER]).bans[0].tolist()


def test_lists_and_limits_of_each_attack(store):
    batches = {name: Tampered(store, PROFILE_ATTACKS[name][1]).batch([USER]) for name in PROFILE_ATTACKS}
    assert batches["hidden list"].bans == (None,)
    assert batches["emptied list"].bans[0].tolist() == [0] * len(category_names())
    assert batches["injected"].limits[0][-1] == (INJECTED, 1.0)
