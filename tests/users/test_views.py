"""Users known by one source alone."""

import numpy as np

from psalign.categories import category_names
from psalign.users.profile import UserProfile
from psalign.users.store import EmbeddingStore
from psalign.users.vectors import StructuredEmbedder
from psalign.users.views import VectorsAlone, WordsAlone, batch_of

PEOPLE = [UserProfile(user_id=str(i), banned=("Hate",) if i % 2 else ()) for i in range(4)]
STORE = EmbeddingStore.build(PEOPLE, StructuredEmbedder(8), exact=True)


def test_vectors_alone_hide_the_list_from_the_adapter_and_not_from_who_measures():
    users = VectorsAlone(STORE)
    batch = users.batch(["0000001", None])
    assert batch.bans == (None, None)
    assert np.array_equal(batch.vectors[0], STORE.vectors(["0000001"], exact=False)[0])
    assert users.banned("0000001") == ("Hate",)
    assert users.fingerprint == STORE.fingerprint


def test_a_batch_of_profiles_needs_no_vector_and_keeps_the_floor():
    child = UserProfile(user_id="a", age=8, limits=("no spiders", "harassment"))
    batch = batch_of([child, None])
    assert batch.vectors == (None, None)
    assert batch.limits == ((("spiders", 1.0),), ())
    bans = dict(zip(category_names(), batch.bans[0], strict=True))
    assert bans == {name: float(name != "Propaganda") for name in category_names()}
    assert batch.bans[1] is None


def test_words_alone_are_limits_and_nothing_else():
    users = WordsAlone("recipe", {"a": ("a sword", "spiders")}, {"a": ("Violence",)})
    batch = users.batch(["a", None])
    assert batch.limits == ((("a sword", 1.0), ("spiders", 1.0)), ())
    assert batch.vectors == batch.bans == (None, None)
    assert users.banned("a") == ("Violence",)
    assert users.banned("b") is None
