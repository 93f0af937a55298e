"""Whose limits hold: those of the person, with those of the request; a stranger's are never none."""

import numpy as np
import pytest

from psalign.adapter.users import check_users
from psalign.categories import read_taxonomy, use_taxonomy
from psalign.errors import GuardError, LimitError, UnknownUser
from psalign.serve.artist import joined_users
from psalign.serve.whose import Strangers
from psalign.users.profile import UserProfile
from psalign.users.store import EmbeddingStore
from psalign.users.vectors import StructuredEmbedder
from serving import random_adapter
from taxonomies import write_taxonomy

ANNA = UserProfile(user_id="anna", banned=("Violence",), limits=("no spiders",))


def store(**bans):
    profiles = [UserProfile(user_id=who, banned=tuple(banned)) for who, banned in bans.items()]
    return EmbeddingStore.build(profiles, StructuredEmbedder(12))


def bans(whose):
    return int(whose.users.bans[0].sum())


def test_limits_of_a_request_are_added():
    own, more = (Strangers("refuse").whose(ANNA, asked) for asked in ((), ("no dogs", "no hate", "no spiders")))
    assert dict(own.users.limits[0]) == {"spiders": 1.0}
    assert dict(more.users.limits[0]) == {"spiders": 1.0, "dogs": 1.0}
    assert (bans(own), bans(more)) == (1, 2)
    assert own.source == more.source == "own"


@pytest.mark.parametrize("asked", [["no"], ["\u202eno dogs"], ["x " * 30], [f"no thing{i}" for i in range(33)]])
def test_limits_that_cannot_be_taken_are_an_error(asked):
    with pytest.raises(LimitError):
        Strangers("refuse").whose(ANNA, asked)


def test_a_stranger_is_refused_or_has_the_strictest_limits():
    with pytest.raises(UnknownUser):
        Strangers("refuse").whose(None)
    whose = Strangers("strictest").whose(None, ["no dogs"])
    assert (whose.source, bans(whose), dict(whose.users.limits[0])) == ("strictest", 7, {"dogs": 1.0})


def test_categories_in_words_are_their_phrases_for_the_known_and_for_strangers(tmp_path):
    mine = read_taxonomy(
        write_taxonomy(
            tmp_path / "mine.yaml", {"categories": [{"name": "Things", "phrases": ["swords", "knives"]}, "Dogs"]}
        )
    )
    with use_taxonomy(mine):
        strangers = Strangers("strictest", in_words=True)
        own = strangers.whose(UserProfile(user_id="a", banned=("Things",), limits=("no spiders",)), ["no cats"]).users
        stranger = strangers.whose(None).users
    assert dict(own.limits[0]) == dict.fromkeys(("swords", "knives", "spiders", "cats"), 1.0)
    assert dict(stranger.limits[0]) == dict.fromkeys(("swords", "knives", "dogs"), 1.0)
    for users in (own, stranger):
        assert (users.vectors, users.bans) == ((None,), (None,))


def test_a_stored_vector_and_a_profile_hold_together():
    users = Strangers("refuse", store(anna=("Hate",), ben=())).whose(ANNA).users
    assert users.vectors[0] is not None
    assert users.bans[0].sum() == 2
    assert users.unheld == (1,)  # the vector lacks Violence
    assert dict(users.limits[0]) == {"spiders": 1.0}


def test_a_vector_without_a_ban_list_is_not_taken_for_one_that_bans_nothing():
    held = store(anna=("Hate",), ben=())
    held.held.banned["anna"] = None
    with pytest.raises(UnknownUser, match="without a ban list"):
        Strangers("refuse", held).whose(ANNA)


def test_a_batch_mixes_people_with_and_without_a_vector():
    held = store(anna=("Hate",), ben=())
    one, other = (Strangers("refuse", held).whose(who).users for who in (ANNA, UserProfile(user_id="new", banned=())))
    both = joined_users([other, one])
    assert both.recipe == held.fingerprint
    adapter = random_adapter()
    adapter.register_to_config(recipe=held.fingerprint)
    checked = check_users(adapter, both, recipe=None, scale=1.0)
    assert np.array_equal(checked.rows.bans.sum(1), [0, 2])
    adapter.register_to_config(recipe="another")
    with pytest.raises(Exception, match="recipe"):
        check_users(adapter, both, recipe=None, scale=1.0)


def test_words_for_an_adapter_that_cannot_keep_them_are_refused():
    with pytest.raises(GuardError, match="not trained to keep"):
        check_users(random_adapter(words=False), Strangers("refuse").whose(ANNA).users, recipe=None, scale=1.0)
