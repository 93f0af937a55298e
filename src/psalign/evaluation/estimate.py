"""One number: a value over n cases with its 95 % interval, from the metric to results.csv and to the page.

Place on the path of data: steps 7 and 8, every number that is shown.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A share in [0, 1], a mean, a distance or a difference, in the unit of its metric.

    value: None where there is no case. n: number of cases; 0 may also stand for a number that the source
    does not say. low, high: ends of the 95 % interval, None where it is not defined.
    """

    value: float | None
    n: int
    low: float | None = None
    high: float | None = None

    @property
    def interval(self) -> tuple[float, float] | None:
        return None if self.low is None or self.high is None else (self.low, self.high)

    @property
    def excludes_zero(self) -> bool:
        """Whether the interval says on which side of zero a difference lies."""
        return self.interval is not None and (self.interval[0] > 0 or self.interval[1] < 0)

    def overlaps(self, other: Estimate) -> bool | None:
        """Whether both intervals share a number; None where one of the two has no interval."""
        if self.interval is None or other.interval is None:
            return None
        return self.interval[0] <= other.interval[1] and other.interval[0] <= self.interval[1]


NO_CASES = Estimate(None, 0)
