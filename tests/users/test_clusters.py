"""Groups of users: told apart where they are apart, and drawn."""

import numpy as np
import pytest
from PIL import Image

from psalign.errors import ExtraMissing, UsageError
from psalign.users.clusters import cluster_table, cluster_users, draw_clusters, draw_levels
from psalign.users.levels import level_bans
from psalign.users.population import sample_profiles
from psalign.users.profile import UserProfile
from psalign.users.store import EmbeddingStore
from psalign.users.vectors import StructuredEmbedder
from taxonomies import CATEGORIES

GROUPS = [("Hate",), ("Violence", "Shocking"), CATEGORIES]


class Apart:
    """Three kinds of users, far from each other."""

    def __init__(self):
        self.recipe = StructuredEmbedder(2).recipe

    def embed(self, profiles):
        places = {bans: [20.0 * i, 5.0 * i * i] for i, bans in enumerate(GROUPS)}
        noise = np.random.default_rng(0).normal(size=(len(profiles), 2))
        return (np.array([places[profile.banned] for profile in profiles]) + noise).astype(np.float32)


@pytest.fixture(scope="module")
def store():
    people = [UserProfile(user_id=f"u{i}", banned=GROUPS[i % 3]) for i in range(90)]
    return EmbeddingStore.build(people, Apart())


def test_groups_are_found_with_their_number(store):
    clusters = cluster_users(store)
    assert clusters.k == 3
    assert max(clusters.silhouettes, key=clusters.silhouettes.get) == 3
    assert set(clusters.silhouettes) == set(range(2, 10))
    groups = [set(clusters.labels[i::3]) for i in range(3)]
    assert [len(group) for group in groups] == [1, 1, 1]
    assert len(set().union(*groups)) == 3
    assert clusters.centres.sum() == 3


def test_the_table_tells_what_a_group_bans(store):
    rows = cluster_table(cluster_users(store, k=3), store)
    assert sorted(row["users"] for row in rows) == [30, 30, 30]
    for row in rows:
        banned = {category for category in CATEGORIES if row[category] == 1.0}
        assert banned in [set(bans) for bans in GROUPS]
        assert store.banned(row["centre"]) == tuple(c for c in CATEGORIES if c in banned)


def test_groups_of_fewer_than_five_are_not_described():
    people = [UserProfile(user_id=f"u{i}", banned=GROUPS[0] if i < 30 else GROUPS[1]) for i in range(34)]
    store = EmbeddingStore.build(people, Apart())
    large, small = sorted(cluster_table(cluster_users(store, k=2), store), key=lambda row: str(row["users"]))
    assert (large["users"], large["Hate"]) == (30, 1.0)
    assert small["users"] == "fewer than 5"
    assert {small[name] for name in ("centre", *CATEGORIES)} == {""}


@pytest.mark.slow
def test_pictures(store, tmp_path):
    draw_clusters(cluster_users(store), store, tmp_path / "clusters.png")
    draw_levels([(f"level {i}", bans) for i, bans in enumerate(level_bans())], tmp_path / "levels.png")
    for name in ("clusters", "levels"):
        picture = np.asarray(Image.open(tmp_path / f"{name}.png").convert("RGB"))
        assert picture.shape[0] > 300
        assert len(np.unique(picture.reshape(-1, 3), axis=0)) > 50


def test_too_few_users_and_no_library(store, monkeypatch):
    few = EmbeddingStore.build(sample_profiles(2, seed=1), StructuredEmbedder(4))
    with pytest.raises(UsageError, match="need at least 2 groups and 3 users; saw 2"):
        cluster_users(few)
    monkeypatch.setitem(__import__("sys").modules, "sklearn.cluster", None)
    with pytest.raises(ExtraMissing, match=r"pip install 'psalign\[cluster\]'"):
        cluster_users(store)
