"""Users known by one source alone."""

import numpy as np
import pytest

from psalign.categories import category_names, read_taxonomy, use_taxonomy
from psalign.errors import LimitError, UnknownUser, UsageError
from psalign.users.levels import level_bans
from psalign.users.policy import banned_categories
from psalign.users.profile import UserProfile
from psalign.users.store import EmbeddingStore
from psalign.users.vectors import StructuredEmbedder
from psalign.users.views import ProfilesAlone, VectorsAlone, WordsAlone, batch_of, described_person, tightened
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


@pytest.mark.parametrize("in_words", [False, True])
def test_a_profile_of_nothing_but_an_id_is_no_user_who_bans_nothing(in_words):
    blank = UserProfile(user_id="x")
    with pytest.raises(UnknownUser, match="Nothing says what user x bans"):
        batch_of([UserProfile(user_id="a", banned=()), blank], in_words=in_words)
    with pytest.raises(UnknownUser, match="user x"):
        ProfilesAlone([blank], in_words=in_words).batch(["x"])
    with pytest.raises(UnknownUser, match="user x"):
        EmbeddingStore.build([blank], StructuredEmbedder(8))


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


# --- a form -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def users_file(tmp_path):
    path = tmp_path / "users.csv"
    rows = ["anna,9,,", 'ben,,,"[""no skulls""]"', 'carl,,"[""Hate""]",']
    path.write_text("\n".join(["User_ID,Age,Banned_Categories,Limits", *rows]), encoding="utf-8")
    return path


def test_what_any_part_of_a_form_bans_is_banned(users_file):
    person = described_person(
        users=users_file, user_id="anna", level=1, banned=["Propaganda"], limits="no skulls;pills"
    )
    by_rule = set(banned_categories(UserProfile(user_id="anna", age=9)))
    assert set(banned_categories(person)) == by_rule | set(level_bans()[1]) | {"Propaganda"}
    assert [limit.text for limit in person.limits] == ["no skulls", "pills"]


@pytest.mark.parametrize(
    ("form", "bans", "words"),
    [
        ({"level": 0}, (), 0),
        ({"level": 5}, category_names(), 0),
        ({"banned": ["Hate"]}, ("Hate",), 0),
        ({"limits": "no skulls\n\nno violence;"}, ("Violence",), 2),
    ],
)
def test_each_part_of_a_form_is_enough(form, bans, words):
    person = described_person(**form)
    assert banned_categories(person) == bans
    assert len(person.limits or ()) == words


def test_a_profile_of_limits_alone_is_enough_and_grows(users_file):
    assert len(described_person(users=users_file, user_id="ben").limits) == 1
    assert len(described_person(users=users_file, user_id="ben", limits="pills").limits) == 2
    assert described_person(users=users_file, user_id="carl", level=0).banned == ("Hate",)


@pytest.mark.parametrize(
    ("form", "error", "message"),
    [
        ({}, UnknownUser, "not taken for none"),
        ({"limits": "  \n"}, UnknownUser, "not taken for none"),
        ({"user_id": "eve", "users": True}, UnknownUser, "no user eve"),
        ({"user_id": "anna"}, UsageError, "no users file"),
        ({"users": True}, UsageError, "no user id"),
        ({"level": 6}, UsageError, "0 to 5"),
        ({"banned": ["Spiders"]}, UsageError, "no category 'Spiders'"),
        ({"limits": ";".join(f"thing {n}" for n in range(40))}, LimitError, "40 limits"),
    ],
)
def test_a_form_that_says_too_little_is_refused(form, error, message, users_file):
    if "users" in form:
        form = {**form, "users": users_file}
    with pytest.raises(error, match=message):
        described_person(**form)


def test_limits_that_are_too_many_together():
    profile = UserProfile(user_id="anna", limits=tuple(f"thing {n}" for n in range(20)))
    with pytest.raises(LimitError, match="too many together"):
        tightened(profile, [f"other {n}" for n in range(20)])
