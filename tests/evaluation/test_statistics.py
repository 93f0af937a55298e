import pytest

from psalign.evaluation.statistics import mean_distance, mean_rate, wilson
from psalign.records import Rate


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
