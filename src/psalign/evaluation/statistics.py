"""Rates and means with their 95 % intervals.

Place on the path of data: step 7, under every number that is shown.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

from psalign.records import Rate

Z = 1.959963984540054  # two-sided 95 % point of the normal distribution
NO_CASES = Rate(None, 0, None, None)


@dataclass(frozen=True)
class Mean:
    """A mean of n measurements with its 95 % interval, in the measurements' own unit; None where it is not defined."""

    value: float | None
    n: int
    low: float | None
    high: float | None


def wilson(successes: int, n: int) -> Rate:
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
    return Rate(share, n, low, high)


def mean_rate(rates: Sequence[Rate]) -> Rate:
    """Unweighted mean of rates of independent cases; n is their sum. NO_CASES where one of them has no cases.

    The interval recovers each rate's variance from its own (Wilson) bounds: low = mean - sqrt(sum (p - l)^2) / k, and
    the same upwards, so it stays sensible at 0 and 1, where a normal interval has no width.
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
    return Rate(middle, sum(rate.n for rate in rates), max(0.0, low), min(1.0, high))


def mean(values: Sequence[float]) -> Mean:
    """Mean of n measurements of any sign with the normal 95 % interval; a single one has no interval."""
    n = len(values)
    if n < 2:
        return Mean(values[0] if n else None, n, None, None)
    middle = math.fsum(values) / n
    half = Z * math.sqrt(math.fsum((value - middle) ** 2 for value in values) / (n - 1) / n)
    return Mean(middle, n, middle - half, middle + half)


def mean_distance(distances: Sequence[float]) -> Mean:
    """Mean of n distances (each at least 0) with the normal 95 % interval, cut at 0; one distance has no interval."""
    plain = mean(distances)
    return plain if plain.low is None else replace(plain, low=max(0.0, plain.low))
