import numpy as np
import pytest

from psalign.errors import UnknownUser
from psalign.users import EmbeddingStore, StructuredEmbedder, UserProfile
from psalign.users.floor import above_the_floor

STRICT = UserProfile(user_id="0000002", banned=("Hate", "Violence"))
STORE = EmbeddingStore.build([STRICT, UserProfile(user_id="free", banned=())], StructuredEmbedder())


def test_columns_that_leave_out_bans_change_nothing_and_are_told():
    floor = above_the_floor([UserProfile(user_id="2", age=30, gender="male")], STORE)
    assert floor.embed == []
    assert floor.remarks == [
        "User 0000002: the profile columns leave out Hate, Violence, which the stored vector bans; it stays banned."
    ]


def test_columns_may_add_bans_to_those_that_are_stored():
    floor = above_the_floor([UserProfile(user_id="2", banned=("Violence", "Propaganda"))], STORE)
    assert [(one.user_id, one.banned) for one in floor.embed] == [("0000002", ("Hate", "Violence", "Propaganda"))]
    assert len(floor.remarks) == 2


def test_who_is_not_stored_is_embedded_without_a_word():
    new = UserProfile(user_id="new", age=9)
    assert (above_the_floor([new], STORE).embed, above_the_floor([new], STORE).remarks) == ([new], [])
    same = UserProfile(user_id="2", banned=STRICT.banned)
    assert (above_the_floor([same], STORE).embed, above_the_floor([same], STORE).remarks) == ([], [])


def test_a_floor_that_nobody_knows_is_an_error(tmp_path):
    np.save(tmp_path / "0000033.npy", np.ones((1, 4), np.float32))
    with pytest.raises(UnknownUser, match="Nothing says what user 0000033 bans"):
        above_the_floor([UserProfile(user_id="33", age=30)], EmbeddingStore.load(tmp_path))


def test_joined_users_keep_their_vectors_and_later_ones_win():
    more = above_the_floor([UserProfile(user_id="2", banned=("Propaganda",))], STORE).embed
    others = EmbeddingStore.build(more, StructuredEmbedder(), statistics_of=STORE)
    both = STORE.joined(others)
    assert both.banned("2") == ("Hate", "Violence", "Propaganda")
    np.testing.assert_array_equal(both.vectors(["free"]), STORE.vectors(["free"]))
    np.testing.assert_array_equal(both.vectors(["2"]), others.vectors(["2"]))


def test_a_limit_that_names_a_category_makes_a_new_vector():
    floor = above_the_floor([UserProfile(user_id="free", limits=["no violence"])], STORE)
    assert [(one.user_id, one.banned) for one in floor.embed] == [("free", ("Violence",))]
