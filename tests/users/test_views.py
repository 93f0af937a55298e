"""Users known by one source alone."""

import numpy as np
import pytest

from psalign.categories import category_names, read_taxonomy, use_taxonomy
from psalign.errors import UnknownUser
from psalign.users.profile import UserProfile
from psalign.users.store import EmbeddingStore
from psalign.users.vectors import StructuredEmbedder
from psalign.users.views import ProfilesAlone, VectorsAlone, WordsAlone, batch_of
from taxonomies import write_taxonomy

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


HALF = {"text": "wine", "strength": 0.5}
SCHOOL = {
    "categories": [
        {"name": "Alcohol", "words": "alcohol, wine , beer"},
        {"name": "Spiders", "phrases": ["spiders", "webs"]},
        "Clowns",
    ]
}


def test_categories_in_words_are_their_phrases_and_never_a_code(tmp_path):
    """Of the taxonomy in use, whatever categories an adapter was trained with."""
    with use_taxonomy(read_taxonomy(write_taxonomy(tmp_path / "school.yaml", SCHOOL))):
        people = [
            UserProfile(
                user_id="a", banned=("Alcohol", "Clowns"), limits=({"text": "wine", "strength": 0.5}, "no cats")
            ),
            UserProfile(user_id="b", limits=("no spiders",)),
            None,
        ]
        batch = batch_of(people, in_words=True)
    assert batch.vectors == batch.bans == (None, None, None)
    assert dict(batch.limits[0]) == {"wine": 1.0, "cats": 1.0, "alcohol": 1.0, "beer": 1.0, "clowns": 1.0}
    assert dict(batch.limits[1]) == {"spiders": 1.0, "webs": 1.0}
    assert batch.limits[2] == ()


def test_users_known_by_their_profiles_alone_are_never_anybody():
    users = ProfilesAlone([UserProfile(user_id="a", age=8, limits=("no wine",))])
    assert users.banned("a") == tuple(name for name in category_names() if name not in ("Harassment", "Propaganda"))
    assert users.limits("a") == (("wine", 1.0),)
    assert users.batch(["a", None]).vectors == (None, None)
    for ask in (lambda: users.batch(["b"]), lambda: users.banned("b"), lambda: users.limits("b")):
        with pytest.raises(UnknownUser, match="no profile of user b"):
            ask()
