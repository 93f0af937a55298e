"""Training is held to its users: preferences that contradict what the vectors say users ban are refused."""

from dataclasses import replace

import pytest

from psalign.errors import DatasetError
from psalign.sage.names import picture_name
from psalign.sage.preference import unsafe_is_chosen
from psalign.training.run import check_preferences
from psalign.users import EmbeddingStore, StructuredEmbedder, UserProfile
from sage_rows import make_row
from taxonomies import CATEGORIES

PEOPLE = [UserProfile(user_id="1", banned=("Hate", "Violence")), UserProfile(user_id="2", banned=())]
STORE = EmbeddingStore.build(PEOPLE, StructuredEmbedder(8))


def rows_of(people):
    """Both captions of one pair of every category, as the preference rule has them."""
    for user in people:
        for category in CATEGORIES:
            for kind in ("safe", "unsafe"):
                unsafe = unsafe_is_chosen(caption_kind=kind, category=category, banned=user.banned)
                names = [
                    picture_name((user.user_id, category, "c", "00001"), unsafe=side) for side in (unsafe, not unsafe)
                ]
                yield make_row(user_id=user.user_id, category=category, caption_kind=kind, chosen=names[0],
                               rejected=names[1], chose_unsafe=unsafe)  # fmt: skip


def test_rows_that_follow_the_rule_are_fine():
    check_preferences(list(rows_of(PEOPLE)), STORE, where="data, train")


def test_vectors_of_other_users_with_the_same_ids_are_refused():
    """User 1 bans two categories in the rows and none in the store: 2 of 28 rows, the unsafe captions of both."""
    other = EmbeddingStore.build([UserProfile(user_id="1", banned=()), PEOPLE[1]], StructuredEmbedder(8))
    with pytest.raises(DatasetError) as caught:
        check_preferences(list(rows_of(PEOPLE)), other, where="data, train")
    message = str(caught.value)
    assert message.startswith("data, train: 2 of 28 preferences contradict what the vectors say their users ban:")
    assert "row 2, user 0000001, Hate, unsafe caption: chosen is user_0000001_hate_c_00001_s.jpg" in message
    assert "--allow-contradictions" in message


def test_chosen_and_rejected_swapped_are_refused_and_five_are_shown():
    swapped = [
        replace(row, chosen=row.rejected, rejected=row.chosen, chose_unsafe=not row.chose_unsafe)
        for row in rows_of(PEOPLE)
    ]
    with pytest.raises(DatasetError, match="28 of 28 preferences") as caught:
        check_preferences(swapped, STORE, where="data, train")
    assert str(caught.value).count("chosen is") == 5
    assert "and 23 more" in str(caught.value)
