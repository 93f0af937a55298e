from datetime import date, timedelta

import pytest

from psalign.errors import UnknownUser
from psalign.users.limits import Limit
from psalign.users.policy import EXPLICIT, banned_categories, explain, rules, standing_bans
from psalign.users.population import sample_profiles
from psalign.users.profile import VOCABULARY, UserProfile
from taxonomies import CATEGORIES

# The rules by hand, value by value: measured on the 1,001 published users, whose ban lists they give 1001/1001.
CHILD = {"Hate", "Self-Harm", "Sexuality", "Shocking", "Violence"}
OLD = {"Shocking", "Violence"}
FAITH = {"Propaganda", "Sexuality"}
TABLE = {
    ("age_group", "infants & toddlers"): CHILD,
    ("age_group", "children"): CHILD,
    ("age_group", "adolescents"): {"Sexuality"},
    ("age_group", "young adults"): set(),
    ("age_group", "middle-aged"): set(),
    ("age_group", "young elderly"): OLD,
    ("age_group", "elderly"): OLD,
    ("age_group", "long-lived elderly"): OLD,
    ("gender", "male"): set(),
    ("gender", "female"): set(),
    ("religion", "Christianity"): FAITH,
    ("religion", "Islam"): FAITH,
    ("religion", "Buddhism"): FAITH,
    ("religion", "None"): set(),
    ("physical_condition", "visual impairment"): set(),
    ("physical_condition", "hearing impairment"): set(),
    ("physical_condition", "intellectual disability"): {"Harassment", "Propaganda"},
    ("physical_condition", "healthy"): set(),
    ("mental_condition", "depression"): {"Self-Harm", "Shocking"},
    ("mental_condition", "anxiety"): {"Self-Harm", "Shocking"},
    ("mental_condition", "war"): {"Propaganda", "Violence"},
    ("mental_condition", "sexual assault"): {"Harassment", "Sexuality", "Violence"},
    ("mental_condition", "major accidents"): OLD,
    ("mental_condition", "natural disasters"): OLD,
    ("mental_condition", "healthy"): set(),
}


@pytest.mark.parametrize(("item", "bans"), TABLE.items())
def test_each_value_bans_what_the_table_says(item, bans):
    field, value = item
    assert set(banned_categories(UserProfile(user_id="a", **{field: value}))) == bans


@pytest.mark.parametrize("decide", [banned_categories, standing_bans, explain])
def test_a_profile_of_nothing_but_an_id_is_refused(decide):
    """What such a user bans is unknown, and unknown is never none."""
    with pytest.raises(UnknownUser, match="Nothing says what user anna bans"):
        decide(UserProfile(user_id="anna"))


@pytest.mark.parametrize("said", [{"banned": ()}, {"limits": ("no skulls",)}, {"age": 30}, {"religion": "None"}])
def test_any_field_is_enough_and_one_that_is_not_known_sets_off_no_rule(said):
    assert banned_categories(UserProfile(user_id="anna", **said)) == ()


def test_the_table_is_complete_and_the_rules_name_known_words_only():
    assert set(TABLE) == {(field, word) for field, words in VOCABULARY.items() for word in words}
    assert all(set(rule.values) <= set(VOCABULARY[rule.field]) for rule in rules())
    assert all(set(rule.bans) <= set(CATEGORIES) for rule in rules())
    assert len({rule.name for rule in rules()}) == len(rules()) == 9


def test_bans_are_the_union_over_all_fields_in_the_order_of_categories():
    for profile in sample_profiles(200, seed=3):
        union = set().union(*(TABLE[field, getattr(profile, field)] for field in VOCABULARY))
        assert banned_categories(profile) == tuple(category for category in CATEGORIES if category in union)


@pytest.mark.parametrize(("age", "bans"), [(12, CHILD), (13, {"Sexuality"}), (20, set()), (59, set()), (60, OLD)])
def test_the_age_alone_is_enough(age, bans):
    assert set(banned_categories(UserProfile(user_id="a", age=age))) == bans


def test_an_own_ban_list_adds_and_never_removes():
    for profile in sample_profiles(100, seed=4):
        for own in ((), ("Hate",), CATEGORIES):
            both = banned_categories(profile.model_copy(update={"banned": own}))
            assert set(both) == set(banned_categories(profile)) | set(own)


def test_explain_names_the_rules():
    profile = UserProfile(
        user_id="a", age=65, religion="Islam", mental_condition="anxiety", banned=["Hate", "Shocking"]
    )
    assert explain(profile) == {
        "Hate": [EXPLICIT],
        "Violence": ["60 or older"],
        "Self-Harm": ["depression or anxiety"],
        "Sexuality": ["religion"],
        "Shocking": ["60 or older", "depression or anxiety", EXPLICIT],
        "Propaganda": ["religion"],
    }
    assert explain(UserProfile(user_id="a", age=30)) == {}


def test_a_limit_that_is_a_category_bans_it_as_long_as_it_holds():
    day = date(2026, 11, 27)
    limits = [Limit("no violence", 0.1, until=day), Limit("hate", by="guardian"), Limit("no spiders")]
    profile = UserProfile(user_id="a", age=65, limits=limits)
    assert explain(profile, today=day) == {
        "Hate": ["the guardian's limit"],
        "Violence": ["60 or older", "the user's own limit"],
        "Shocking": ["60 or older"],
    }
    assert banned_categories(profile, today=day + timedelta(days=1)) == ("Hate", "Violence", "Shocking")
    alone = UserProfile(user_id="a", limits=[limits[0], limits[2]])
    assert banned_categories(alone, today=day) == ("Violence",)
    assert banned_categories(alone, today=day + timedelta(days=1)) == standing_bans(alone) == ()
