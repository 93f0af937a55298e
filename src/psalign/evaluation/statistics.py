"""Rates, means and differences with their 95 % intervals.

Place on the path of data: step 7, under every number that is shown. Written by hand, for SciPy is no
dependency of this package (the extras bring it), and it has neither MOVER nor a bootstrap of paired
strata.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from .estimate import NO_CASES, Estimate

Z = 1.959963984540054  # two-sided 95 % point of the normal distribution
DRAWS = 10_000  # of a bootstrap
AT_ONCE = 1_000_000  # numbers held while drawing


def wilson(successes: int, n: int) -> Estimate:
    """Share of successes in n independent cases, with Wilson's score interval.

    Raises ValueError unless 0 <= successes <= n.
    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".
    """
    if not 0 <= successes <= n:
        raise ValueError(f"expected 0 <= successes <= n, saw {successes} of {n}")
    if n == 0:
        return NO_CASES
    share = successes / n
    widened = 1 + Z**2 / n
    centre = (share + Z**2 / (2 * n)) / widened
    half = Z * math.sqrt(share * (1 - share) / n + Z**2 / (4 * n**2)) / widened
    # At the two ends the bound is exact; the sums above only come near it.
    low = 0.0 if successes == 0 else centre - half
    high = 1.0 if successes == n else centre + half
    return Estimate(share, n, low, high)


def mean_rate(rates: Sequence[Estimate]) -> Estimate:
    """Unweighted mean of rates of independent cases; n is their sum. NO_CASES where one of them has no cases.

    The interval recovers each rate's variance from its own (Wilson) bounds: low = mean - sqrt(sum (p -
    l)^2) / k, and the same upwards, so it stays sensible at 0 and 1, where a normal interval has no width.
    Source: Newcombe 1998, Statistics in Medicine 17:873, method 10; Zou and Donner 2008 (MOVER).
    """
    below, above, values = 0.0, 0.0, []
    for rate in rates:
        if rate.value is None or rate.low is None or rate.high is None:
            return NO_CASES
        values.append(rate.value)
        below += (rate.value - rate.low) ** 2
        above += (rate.high - rate.value) ** 2
    if not values:
        return NO_CASES
    k = len(values)
    middle = sum(values) / k
    low, high = middle - math.sqrt(below) / k, middle + math.sqrt(above) / k
    return Estimate(middle, sum(rate.n for rate in rates), max(0.0, low), min(1.0, high))


def mean(values: Sequence[float]) -> Estimate:
    """Mean of n measurements of any sign with the normal 95 % interval; a single one has no interval."""
    n = len(values)
    if n < 2:
        return Estimate(values[0] if n else None, n)
    middle = math.fsum(values) / n
    half = Z * math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (n - 1) / n)
    return Estimate(middle, n, middle - half, middle + half)


def mean_distance(distances: Sequence[float]) -> Estimate:
    """Mean of n distances (at least 0) with the normal 95 % interval, cut at 0; none for n = 1."""
    plain = mean(distances)
    return plain if plain.low is None else replace(plain, low=max(0.0, plain.low))


def paired_difference(
    ours: Mapping[str, float],
    theirs: Mapping[str, float],
    *,
    groups: Mapping[str, str] | None = None,
    seed: int = 0,
    draws: int = DRAWS,
) -> Estimate:
    """Mean of ours less theirs over shared prompts, by the bias-corrected, accelerated bootstrap.

    ours, theirs: one number for each prompt, by its name; outcomes count 1 and 0. A prompt is drawn with
    both of its numbers, so that what makes it hard for both cancels. groups: names a group for each
    prompt; the difference is then the unweighted mean of the groups' differences, and prompts are drawn
    within their group (as pass is the mean of suppressed and kept). The same seed gives the same interval,
    whatever the order of the prompts. There is no interval where the pairs do not differ among each other:
    nothing then says how far they might.
    Source: Efron 1987, "Better bootstrap confidence intervals"; DiCiccio and Efron 1996, section 3.
    """
    shared = sorted(ours.keys() & theirs.keys())
    if not shared:
        return NO_CASES
    pairs: dict[str, list[float]] = {}
    for name in shared:
        pairs.setdefault(groups[name] if groups else "", []).append(ours[name] - theirs[name])
    strata = [np.array(pairs[group], dtype=np.float64) for group in sorted(pairs)]
    value = float(np.mean([stratum.mean() for stratum in strata]))
    acceleration = _acceleration(strata)
    if acceleration is None:
        return Estimate(value, len(shared))
    rng = np.random.default_rng(seed)
    means = np.mean([_resampled_means(stratum, rng, draws) for stratum in strata], axis=0)
    low, high = _corrected_quantiles(means, value, acceleration)
    return Estimate(value, len(shared), low, high)


def _acceleration(strata: Sequence[NDArray[np.float64]]) -> float | None:
    """A sixth of the skewness of each pair's pull on the mean of means; None where no pair pulls."""
    pull = np.concatenate([(stratum - stratum.mean()) / (len(stratum) * len(strata)) for stratum in strata])
    spread = float((pull**2).sum())
    return float((pull**3).sum()) / (6 * spread**1.5) if spread > 1e-24 else None


def _resampled_means(values: NDArray[np.float64], rng: np.random.Generator, draws: int) -> NDArray[np.float64]:
    """Means of n values drawn from values with replacement, `draws` times.

    Drawn as counts of the distinct values: outcomes have at most three differences.
    """
    distinct, counts = np.unique(values, return_counts=True)
    drawn = [
        rng.multinomial(len(values), counts / len(values), size=size) @ distinct / len(values)
        for size in _portions(draws, each=len(distinct))
    ]
    return np.concatenate(drawn)


def _portions(draws: int, *, each: int) -> Iterator[int]:
    most = max(1, AT_ONCE // each)
    for start in range(0, draws, most):
        yield min(most, draws - start)


def _corrected_quantiles(means: NDArray[np.float64], value: float, acceleration: float) -> tuple[float, float]:
    normal = NormalDist()
    tiny = 1e-12 * max(1.0, abs(value))  # sums of the same numbers in another order are ties
    below, ties = float((means < value - tiny).mean()), float((np.abs(means - value) <= tiny).mean())
    share = min(max(below + ties / 2, 0.5 / len(means)), 1 - 0.5 / len(means))
    bias = normal.inv_cdf(share)

    def corrected(z: float) -> float:
        moved = bias + z
        return normal.cdf(bias + moved / (1 - acceleration * moved))

    low, high = np.quantile(means, [corrected(-Z), corrected(Z)])
    return float(low), float(high)
