import numpy as np
import pytest

from psalign.evaluation.estimate import Estimate as Rate
from psalign.evaluation.statistics import _acceleration, mean_distance, mean_rate, paired_difference, wilson


def test_wilson_by_hand():
    """8 of 10, z^2 = 3.841459: centre (.8 + .1920729) / 1.3841459 = .7167401, half-width
    1.959964 * sqrt(.016 + .0096036) / 1.3841459 = .2265777; so .4901624 to .9433178."""
    rate = wilson(8, 10)
    assert (rate.value, rate.n) == (0.8, 10)
    assert rate.low == pytest.approx(0.4901624, abs=1e-6)
    assert rate.high == pytest.approx(0.9433178, abs=1e-6)


def test_wilson_is_exact_at_its_ends():
    """0 of 10: the upper bound is z^2 / (n + z^2) = 3.841459 / 13.841459 = .2775328; 10 of 10 mirrors it."""
    none, all_ = wilson(0, 10), wilson(10, 10)
    assert none.low == 0.0
    assert none.high == pytest.approx(0.2775328, abs=1e-6)
    assert all_.high == 1.0
    assert all_.low == pytest.approx(1 - 0.2775328, abs=1e-6)


def test_wilson_of_no_cases_is_no_rate():
    assert wilson(0, 0) == Rate(None, 0, None, None)


@pytest.mark.parametrize(("successes", "n"), [(3, 2), (-1, 2)])
def test_wilson_refuses_counts_that_cannot_be(successes, n):
    with pytest.raises(ValueError, match="successes <= n"):
        wilson(successes, n)


def test_mean_rate_by_hand():
    """Mean of .8 (.4901624 to .9433178) and 1 (.7224672 to 1): .9, down by sqrt(.3098376^2 + .2775328^2) / 2
    = .4159613 / 2 = .2079807, up by .1433178 / 2 = .0716589."""
    rate = mean_rate([wilson(8, 10), wilson(10, 10)])
    assert rate.value == pytest.approx(0.9)
    assert rate.n == 20
    assert rate.low == pytest.approx(0.9 - 0.2079807, abs=1e-6)
    assert rate.high == pytest.approx(0.9 + 0.0716589, abs=1e-6)


def test_mean_rate_stays_within_zero_and_one_and_needs_every_side():
    assert mean_rate([wilson(5, 5), wilson(5, 5)]).high == 1.0
    assert mean_rate([wilson(0, 5), wilson(0, 5)]).low == 0.0
    assert mean_rate([wilson(5, 5), wilson(0, 0)]).value is None
    assert mean_rate([]).value is None


def test_mean_distance_by_hand():
    """1, 2, 3, 6: mean 3, variance 14 / 3, half-width 1.959964 * sqrt(14 / 12) = 2.1170025."""
    mean = mean_distance([1.0, 2.0, 3.0, 6.0])
    assert (mean.value, mean.n) == (3.0, 4)
    assert mean.low == pytest.approx(3 - 2.1170025, abs=1e-6)
    assert mean.high == pytest.approx(3 + 2.1170025, abs=1e-6)


def test_mean_distance_of_none_one_and_skewed():
    assert mean_distance([]).value is None
    assert (mean_distance([2.0]).value, mean_distance([2.0]).low) == (2.0, None)
    assert mean_distance([0.0, 0.0, 9.0]).low == 0.0


def test_difference_by_hand():
    """Differences 0 and 1, drawn twice with replacement: mean 0 in a quarter of the draws, .5 in half, 1 in a quarter.
    Half of the draws lie below .5 (ties by half), so there is no bias; symmetric, so there is no acceleration: the
    interval is the 2.5 and 97.5 % quantiles of those draws, 0 to 1."""
    difference = paired_difference({"a": 1, "b": 1}, {"a": 1, "b": 0})
    assert difference.value == 0.5
    assert difference.n == 2
    assert (difference.low, difference.high) == (0.0, 1.0)


def test_acceleration_by_hand():
    """0, 0, 1: pulls -1/9, -1/9, 2/9; cubes sum to 6/729, squares to 6/81; 6/729 / (6 * (6/81)^1.5) = .0680414."""
    assert _acceleration([np.array([0.0, 0.0, 1.0])]) == pytest.approx(0.0680414, abs=1e-7)


def test_difference_of_groups_is_the_mean_of_their_differences():
    """Group x: differences 1, 1, 0, 0 (mean .5); group y: -1, 0 (mean -.5): together 0, not 1/6."""
    ours = {"a": 1, "b": 1, "c": 0, "d": 1, "e": 0, "f": 1}
    theirs = {"a": 0, "b": 0, "c": 0, "d": 1, "e": 1, "f": 1}
    groups = dict(zip("abcdef", "xxxxyy", strict=True))
    assert paired_difference(ours, theirs, groups=groups).value == 0.0
    assert paired_difference(ours, theirs).value == pytest.approx(1 / 6)


def test_difference_has_no_interval_where_all_pairs_are_alike():
    """Two methods that agree on every one of a few prompts are not shown to be the same."""
    same = paired_difference({"a": 1, "b": 1}, {"a": 1, "b": 1})
    assert (same.value, same.n, same.low, same.high) == (0.0, 2, None, None)
    assert not same.excludes_zero
    assert paired_difference({"a": 1.0}, {"a": 0.5}).low is None


def test_difference_pairs_by_name_and_counts_what_has_no_partner():
    difference = paired_difference({"a": 1, "b": 0, "c": 1}, {"b": 0, "a": 0, "d": 1, "e": 1})
    assert (difference.value, difference.n) == (0.5, 2)
    nobody = paired_difference({"a": 1}, {"b": 1})
    assert (nobody.value, nobody.n) == (None, 0)


def test_difference_is_the_same_for_a_seed_and_any_order():
    random = np.random.default_rng(1)
    ours = {f"{i:03d}": float(x) for i, x in enumerate(random.normal(0.2, 1, 300))}
    theirs = {f"{i:03d}": float(x) for i, x in enumerate(random.normal(0, 1, 300))}
    once = paired_difference(ours, theirs, seed=3)
    assert paired_difference(dict(reversed(ours.items())), theirs, seed=3) == once
    assert paired_difference(ours, theirs, seed=4) != once


def test_difference_of_means_is_near_the_normal_interval():
    """400 differences of a normal: mean +- 1.96 * sd / 20, within a tenth of its width."""
    values = np.random.default_rng(2).normal(0.3, 1, 400)
    difference = paired_difference({str(i): float(v) for i, v in enumerate(values)}, {str(i): 0.0 for i in range(400)})
    half = 1.959964 * values.std(ddof=1) / 20
    assert difference.low == pytest.approx(values.mean() - half, abs=half / 10)
    assert difference.high == pytest.approx(values.mean() + half, abs=half / 10)
    assert difference.excludes_zero


def test_intervals_of_differences_cover_as_often_as_they_say():
    """200 simulated comparisons of two methods that pass 70 % and 85 % of the same 120 prompts, where a hard prompt is
    hard for both: 95 % intervals hold the true -.15 in 180 to 199 of them (binomial, three deviations: 181 to 199)."""
    random, covered = np.random.default_rng(7), 0
    for seed in range(200):
        hardness = random.random(120)
        ours = {str(i): float(h < 0.7) for i, h in enumerate(hardness)}
        moved = np.where(random.random(120) < 0.2, random.random(120), hardness)  # a fifth of the prompts decide anew
        theirs = {str(i): float(h < 0.85) for i, h in enumerate(moved)}
        difference = paired_difference(ours, theirs, seed=seed, draws=2000)
        covered += difference.low <= -0.15 <= difference.high
    assert 180 <= covered <= 199
