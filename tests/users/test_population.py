from collections import Counter
from math import sqrt

import pytest

from psalign.errors import UsageError
from psalign.users.policy import banned_categories
from psalign.users.population import SHARES, is_plausible, sample_profiles, split_users
from psalign.users.profile import AGE_GROUPS, VOCABULARY

N = 4000


@pytest.fixture(scope="module")
def population():
    return sample_profiles(N, seed=11)


def assert_distributed(values, shares):
    """Chi-square over the listed values: below its mean (degrees of freedom) plus four standard deviations."""
    counts, total = Counter(values), sum(shares.values())
    assert set(counts) <= set(shares)
    n = sum(counts.values())
    chi2 = sum((counts[value] - n * share / total) ** 2 / (n * share / total) for value, share in shares.items())
    freedom = len(shares) - 1
    assert chi2 < freedom + 4 * sqrt(2 * freedom)


def test_adults_have_the_published_shares(population):
    """No exclusion touches these age groups, so there the shares are the published ones as they stand."""
    adults = [profile for profile in population if profile.age >= 20]
    published = {
        "gender": {"male": 0.5, "female": 0.5},
        "religion": {"Christianity": 0.3, "Islam": 0.2, "Buddhism": 0.2, "None": 0.3},
        "physical_condition": {
            "visual impairment": 0.2, "hearing impairment": 0.2, "intellectual disability": 0.2, "healthy": 0.4,
        },
        "mental_condition": {
            "depression": 0.15, "anxiety": 0.15, "war": 0.075, "sexual assault": 0.075, "major accidents": 0.075,
            "natural disasters": 0.075, "healthy": 0.4,
        },
        "age_group": {
            "young adults": 0.2, "middle-aged": 0.2, "young elderly": 0.1, "elderly": 0.04, "long-lived elderly": 0.01,
        },
    }  # fmt: skip
    for field, shares in published.items():
        assert_distributed([getattr(profile, field) for profile in adults], shares)


def test_age_groups_after_the_exclusions(population):
    """Shares .05 and .20 times the part of draws that is plausible, by hand.

    Infants: no religion (.3) and healthy or natural disasters (.475): .1425.
    Children, nine ages: 4: .3 * .475; 5 to 7: .3 * .85 (no war, no sexual assault); 8 and 9: .85; 10 to 12: .925
    (no war). Mean (.1425 + 3 * .255 + 2 * .85 + 3 * .925) / 9 = .598.
    Adolescents, seven ages: 13 to 17: .925; 18 and 19: 1. Mean .9464.
    """
    assert_distributed(
        [profile.age_group for profile in population],
        {
            "infants & toddlers": 0.05 * 0.1425,
            "children": 0.20 * 0.598,
            "adolescents": 0.20 * 0.9464,
            "young adults": 0.20,
            "middle-aged": 0.20,
            "young elderly": 0.10,
            "elderly": 0.04,
            "long-lived elderly": 0.01,
        },
    )


def test_ages_are_even_within_a_group(population):
    ages = [profile.age for profile in population if profile.age_group == "young adults"]
    assert_distributed(ages, dict.fromkeys(range(20, 35), 1.0))
    assert all(
        AGE_GROUPS[profile.age_group][0] <= profile.age <= AGE_GROUPS[profile.age_group][1] for profile in population
    )


def test_number_of_bans_matches_the_published_population(population):
    """Counts of 0 to 7 bans in the published users.csv, whose people were drawn from the same shares.

    Two samples (n = 4,000 and m = 1,001): chi-square of a 2 x 8 table, 7 degrees of freedom.
    """
    published = (40, 23, 252, 116, 308, 164, 65, 33)
    ours = Counter(len(banned_categories(profile)) for profile in population)
    n, m = len(population), sum(published)
    chi2 = sum((ours[k] * sqrt(m / n) - published[k] * sqrt(n / m)) ** 2 / (ours[k] + published[k]) for k in range(8))
    assert chi2 < 7 + 4 * sqrt(2 * 7)


def test_nobody_is_implausible(population):
    for profile in population:
        if profile.age < 4:
            assert profile.mental_condition in ("healthy", "natural disasters")
        if profile.age < 5:
            assert profile.mental_condition not in ("major accidents", "depression", "anxiety")
        if profile.age < 8:
            assert profile.religion == "None"
        if profile.age < 10:
            assert profile.mental_condition != "sexual assault"
        if profile.age < 18:
            assert profile.mental_condition != "war"


def test_plausible_ages():
    assert not is_plausible(17, {"mental_condition": "war"})
    assert is_plausible(18, {"mental_condition": "war"})
    assert not is_plausible(7, {"religion": "Islam", "mental_condition": "healthy"})
    assert is_plausible(0, {"religion": "None", "mental_condition": "natural disasters"})


def test_shares_sum_to_one_over_the_whole_vocabulary():
    assert {field: len(shares) for field, shares in SHARES.items()} == {
        name: len(it) for name, it in VOCABULARY.items()
    }
    assert all(sum(shares) == pytest.approx(1) for shares in SHARES.values())


def test_the_same_seed_gives_the_same_people():
    assert sample_profiles(50, seed=1) == sample_profiles(50, seed=1)
    assert sample_profiles(50, seed=1) != sample_profiles(50, seed=2)
    assert sample_profiles(20, seed=1) == sample_profiles(50, seed=1)[:20]


def test_ids_run_on_from_first_id():
    assert [profile.user_id for profile in sample_profiles(2, seed=0, first_id=999)] == ["0000999", "0001000"]
    assert sample_profiles(0, seed=0) == []


@pytest.mark.parametrize("arguments", [{"n": -1, "seed": 0}, {"n": 1, "seed": -1}, {"n": 1, "seed": 0, "first_id": 0}])
def test_wrong_numbers_are_refused(arguments):
    with pytest.raises(UsageError, match=r"saw n=.*allowed: n >= 0, seed >= 0, first_id >= 1\."):
        sample_profiles(arguments.pop("n"), **arguments)


def test_splits_are_by_user():
    ids = [f"{i:07d}" for i in range(300)]
    splits = split_users(ids, seed=4, val=20, test=30)
    assert {name: len(members) for name, members in splits.items()} == {
        "train": 250, "val": 20, "test_seen": 30, "test_unseen": 30}  # fmt: skip
    assert set(splits["test_seen"]) <= set(splits["train"])
    apart = [set(splits[name]) for name in ("train", "val", "test_unseen")]
    assert sum(len(part) for part in apart) == len(set().union(*apart)) == 300
    assert splits == split_users(ids, seed=4, val=20, test=30) != split_users(ids, seed=5, val=20, test=30)
    with pytest.raises(UsageError, match="saw 300 users; val=200 and test=50 need at least 301"):
        split_users(ids, seed=0, val=200, test=50)
