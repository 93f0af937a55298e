"""The users of a call: vectors, ban lists and limits in words, checked row by row."""

import numpy as np
import pytest
import torch

from psalign.adapter.prompt import PromptAdapter
from psalign.adapter.published import PublishedAdapter
from psalign.adapter.users import MOST_PHRASES, RowUsers, check_users
from psalign.errors import GuardError, RecipeMismatch
from psalign.records import NO_VECTORS, PUBLISHED_RECIPE
from psalign.users.profile import UserProfile
from psalign.users.store import EmbeddingStore
from psalign.users.vectors import StructuredEmbedder, UserBatch

WIDTH = 3


def adapter(*, words=True):
    return PromptAdapter(recipe="r", llm_dim=WIDTH, context_dim=16, rank=8, heads=2, categories=2, words=words)


def batch(bans=(), limits=(), recipe="r", rows=2):
    return UserBatch(tuple(np.ones(WIDTH, np.float32) for _ in range(rows)), recipe, bans, limits)


def check(users, *, of=None, limits=None, recipe=None, scale=1.0):
    return check_users(of or adapter(), users, recipe=recipe, scale=scale, limits=limits)


def test_a_raw_vector_of_zeros_is_nobody():
    """The published code puts zeros in place of a missing user; kind `published` makes the base model of them."""
    published = PublishedAdapter(recipe=PUBLISHED_RECIPE, llm_dim=WIDTH, context_dim=16, n_tokens=1, widths=(8,))
    zeros = UserBatch((np.ones(WIDTH), None, np.zeros(WIDTH)), PUBLISHED_RECIPE)
    with pytest.raises(GuardError, match=r"User vector 2 is all zeros.*\nEmbed this user, or pass None"):
        check(zeros, of=published)
    assert check(UserBatch(zeros.vectors[:2], PUBLISHED_RECIPE), of=published).rows.strength.tolist() == [1.0, 0.0]


def test_a_list_that_is_not_known_is_not_an_empty_one():
    rows = check(batch(bans=(np.array([1.0, 0.0]), None))).rows
    assert rows.is_known.tolist() == [True, False]
    assert rows.bans.tolist() == [[1.0, 0.0], [0.0, 0.0]]


def test_vectors_alone_say_no_list():
    rows = check(torch.ones(2, WIDTH), recipe="r").rows
    assert not rows.is_known.any()


def test_limits_of_the_users_and_of_the_call_are_united_with_the_greatest_strength():
    own = ((("spiders", 0.5), ("guns", 1.0)), ())
    found = check(batch(limits=own), limits=[["spiders"], [("rain", 0.3)]])
    assert found.phrases == ((("spiders", 1.0), ("guns", 1.0)), (("rain", 0.3),))
    assert check(batch(limits=own), limits=[[("spiders", 0.1)], ()]).phrases[0][0] == ("spiders", 0.5)


def test_limits_alone_need_no_vector_and_no_recipe():
    found = check(None, limits=[["spiders"], []])
    assert found.rows.strength.tolist() == [1.0, 0.0]  # the second row is nobody's: the base
    assert found.rows.is_known.all()


def test_a_ban_list_needs_no_vector_and_kind_published_says_that_it_does():
    users = UserBatch((None, None), "no vectors", (np.array([1.0, 0.0]), None))
    found = check(users)
    assert found.rows.strength.tolist() == [1.0, 0.0]
    assert found.rows.bans.tolist() == [[1.0, 0.0], [0.0, 0.0]]
    published = PublishedAdapter(recipe="r", llm_dim=WIDTH, context_dim=16, widths=(16,))
    with pytest.raises(GuardError, match="a ban list and no vector"):
        check(users, of=published)


def test_kind_published_refuses_vectors_that_lack_a_limit():
    """A category limit that was added after embedding is in the ban list and not in the vector."""
    people = [UserProfile(user_id="1", banned=()), UserProfile(user_id="2", banned=("Hate",))]
    store = EmbeddingStore.build(people, StructuredEmbedder(WIDTH))
    published = PublishedAdapter(recipe=store.fingerprint, llm_dim=WIDTH, context_dim=16, widths=(16,))
    assert len(check(store.batch(["1", "2"]), of=published).rows) == 2
    later = store.with_limits([UserProfile(user_id="1", limits=("no violence",))])
    with pytest.raises(GuardError, match="1 of 2 users ban categories that their vectors do not hold"):
        check(later.batch(["1", "2"]), of=published)
    prompt = PromptAdapter(recipe=store.fingerprint, llm_dim=WIDTH, context_dim=16, rank=8, heads=2)
    assert check(later.batch(["1"]), of=prompt).rows.bans.sum() == 1


def test_a_row_with_no_user_keeps_to_its_limits():
    users = UserBatch((None, np.ones(WIDTH, np.float32)), "r")
    found = check(users, limits=[["spiders"], []])
    assert found.rows.strength.tolist() == [1.0, 1.0]
    assert found.rows.is_known.tolist() == [True, False]


@pytest.mark.parametrize("limits", [[[""], []], [[3], []], [[("a", 0.0)], []], [[("a", 2.0)], []],
                                    [[("a", float("nan"))], []]])  # fmt: skip
def test_what_is_no_limit_is_refused(limits):
    with pytest.raises(GuardError, match="A limit must be a phrase"):
        check(batch(), limits=limits)


def test_too_many_limits_and_lists_of_another_length_are_refused():
    with pytest.raises(GuardError, match=f"{MOST_PHRASES} limits in words at most; saw {MOST_PHRASES + 1}"):
        check(batch(), limits=[[f"thing {i}" for i in range(MOST_PHRASES + 1)], []])
    with pytest.raises(GuardError, match="one list per prompt; saw 1 for 2"):
        check(batch(), limits=[["spiders"]])


def test_an_adapter_that_cannot_keep_limits_says_so_and_not_which():
    published = PublishedAdapter(recipe="r", llm_dim=WIDTH, context_dim=16, widths=(16,))
    for one in (adapter(words=False), published):
        with pytest.raises(GuardError, match="1 of 2 rows have limits in words") as fault:
            check(batch(limits=((("spiders", 1.0),), ())), of=one)
        assert "spiders" not in str(fault.value)


def test_ban_lists_of_another_taxonomy_are_refused():
    with pytest.raises(GuardError, match="row 0 is not 2 numbers of 0 or 1"):
        check(batch(bans=(np.zeros(3), None)))
    with pytest.raises(GuardError, match="row 0 is not 2 numbers of 0 or 1"):
        check(batch(bans=(np.array([0.5, 0]), None)))


def test_an_adapter_that_is_to_go_by_words_refuses_codes_and_vectors():
    """Its own categories are others: a code of the same length would mean other things."""
    by_words = adapter()
    by_words.in_words = True
    coded = UserBatch((None, None), NO_VECTORS, (np.array([1.0, 0.0]), None), ())
    for users in (coded, batch()):
        with pytest.raises(GuardError, match="by limits in words alone"):
            check(users, of=by_words)
    words = UserBatch((None, None), NO_VECTORS, (None, None), ((("wine", 1.0),), ()))
    found = check(words, of=by_words)
    assert found.phrases == ((("wine", 1.0),), ())
    assert found.rows.strength.tolist() == [1.0, 0.0]


def test_vectors_of_another_recipe_are_refused_with_limits_too():
    with pytest.raises(RecipeMismatch):
        check(batch(recipe="other"), limits=[["spiders"], []])


def test_some_rows_are_those_rows():
    rows = RowUsers(torch.arange(6.0).view(3, 2), torch.ones(3), limits=torch.zeros(3, 1, 2, 4),
                    limit_strength=torch.tensor([[0.0], [1.0], [0.0]]))  # fmt: skip
    some = rows[1:2]
    assert some.vectors.tolist() == [[2.0, 3.0]]
    assert some.limit_strength.tolist() == [[1.0]]
    assert some.bans is None


@pytest.mark.parametrize("limits", [["spiders", []], [[], [("spiders", "guns")]], [[("spiders", None)], []]])
def test_limits_that_are_no_list_of_phrases_are_refused(limits):
    """One text in place of a list would become a limit for each of its letters."""
    with pytest.raises(GuardError, match=r"list of phrases|must be a phrase") as fault:
        check(batch(), limits=limits)
    assert "spiders" not in fault.value.args[0]


def test_a_repr_does_not_show_limits():
    assert "spiders" not in repr(check(batch(), limits=[["spiders"], []]))
