from itertools import combinations, pairwise

import pytest

from psalign.errors import ProfileError
from psalign.users.levels import choose_levels, level_profiles
from psalign.users.policy import banned_categories
from psalign.users.population import sample_profiles
from psalign.users.profile import UserProfile
from taxonomies import CATEGORIES


def bans_of(profiles):
    return [set(banned_categories(profile)) for profile in profiles]


def user(*banned, user_id=None):
    return UserProfile(user_id=user_id or "u" + "".join(banned), banned=banned)


def assert_nested(profiles):
    bans = bans_of(profiles)
    assert len(bans) == 6
    assert bans[0] == set()
    assert bans[5] == set(CATEGORIES)
    assert all(before < after for before, after in pairwise(bans))


def test_fixed_levels():
    profiles = level_profiles()
    assert_nested(profiles)
    assert [profile.user_id for profile in profiles] == [f"level_{level}" for level in range(6)]
    assert bans_of(profiles)[1:5] == [
        {"Shocking", "Violence"},
        {"Shocking", "Violence", "Sexuality", "Propaganda"},
        {"Shocking", "Violence", "Sexuality", "Propaganda", "Self-Harm"},
        {"Shocking", "Violence", "Sexuality", "Propaganda", "Self-Harm", "Harassment"},
    ]


def test_fixed_levels_hold_no_personal_data():
    for profile in level_profiles():
        assert set(profile.model_dump(exclude_none=True)) == {"user_id", "banned"}


def test_levels_of_a_population_are_its_own_users():
    population = sample_profiles(1000, seed=0)
    levels = choose_levels(population)
    assert_nested(levels)
    assert all(profile in population for profile in levels)
    assert levels == choose_levels(population)


def test_the_most_even_chain_wins():
    """With all 128 ban lists seven steps are shared by five levels: two of two and three of one at best."""
    population = [user(*bans) for size in range(8) for bans in combinations(CATEGORIES, size)]
    levels = choose_levels(population)
    assert_nested(levels)
    sizes = [len(bans) for bans in bans_of(levels)]
    assert sorted(after - before for before, after in pairwise(sizes)) == [1, 1, 1, 2, 2]


def test_of_users_with_equal_bans_the_first_is_taken():
    again = [profile.model_copy(update={"user_id": f"again_{i}"}) for i, profile in enumerate(level_profiles())]
    assert choose_levels([*level_profiles(), *again]) == level_profiles()


def test_a_population_that_cannot_give_them():
    with pytest.raises(ProfileError, match="Of 1 users none bans nothing and none bans everything; levels need both"):
        choose_levels([user("Hate")])
    with pytest.raises(ProfileError, match=r"Of 1 users none bans everything;"):
        choose_levels([user(user_id="free")])
    no_chain = [user(user_id="free"), user(*CATEGORIES), *(user(category) for category in CATEGORIES)]
    with pytest.raises(ProfileError, match="have no 6 nested steps from nothing to everything"):
        choose_levels(no_chain)
