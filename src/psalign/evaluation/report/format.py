"""Numbers as a reader sees them: as many digits as the interval allows, and its ends beside them.

Place on the path of data: step 8, for every number on the page and in the figures.
"""

from __future__ import annotations

import math

from ..estimate import Estimate
from ..metrics.registry import Metric

SHARE = Metric("share", "", "", None)  # of something that is no metric of the table


def value(number: Estimate, metric: Metric = SHARE) -> str:
    """The value with its unit: "93.1 %"; "none" without cases."""
    if number.value is None:
        return "none"
    digits = decimals(number, metric)
    return f"{percent(number.value, digits)}\u00a0%" if metric.percent else f"{number.value:.{digits}f}"


def interval(number: Estimate, metric: Metric = SHARE) -> str:
    """The ends of the interval, without unit: "91.3 to 94.5"."""
    if number.value is None:
        return "no cases"
    if number.interval is None:
        return "no interval"
    digits = decimals(number, metric)
    low, high = (percent(end, digits) if metric.percent else f"{end:.{digits}f}" for end in number.interval)
    return f"{low} to {high}"


def decimals(number: Estimate, metric: Metric = SHARE) -> int:
    """Digits behind the point: two significant digits of half the interval, at most one for a percentage."""
    most = 1 if metric.percent else metric.digits
    if number.interval is None:
        return most
    half = (number.interval[1] - number.interval[0]) / 2 * (100 if metric.percent else 1)
    return most if half <= 0 else min(most, max(0, 1 - math.floor(math.log10(half))))


def percent(share: float, digits: int = 1) -> str:
    """A share in per cent; 100 and 0 are kept for shares that are exactly 1 and 0."""
    shown, step = 100 * share, 10.0**-digits
    if 0 < share < 1:
        shown = min(max(shown, 0.5 * step), 100 - 0.51 * step)
    return f"{shown:.{digits}f}"


def points(share: float) -> str:
    """A difference of shares in points, with its sign: +12.3."""
    shown = f"{100 * share:+.1f}".replace("-", "\u2212")
    return "0.0" if shown in ("+0.0", "\u22120.0") else shown


def duration(seconds: float) -> str:
    """A time as people say it: "0.4 s", "42 s", "3 min 05 s", "2 h 10 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f}\u00a0s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}\u00a0s"
    if whole < 3600:
        return f"{whole // 60}\u00a0min {whole % 60:02d}\u00a0s"
    return f"{whole // 3600}\u00a0h {whole % 3600 // 60:02d}\u00a0min"
