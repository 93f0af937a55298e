"""One number about one folder of pictures.

Place on the path of data: step 7, what evaluation/metrics.py gives and results.csv keeps.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Score:
    """A metric's value over n cases with its 95 % interval (None where it has none).

    value: None where n is 0; the note says why. fingerprint: names all that the number depends on, pictures, weights,
    thresholds and reference. note: what a reader must know beside the number.
    """

    metric: str
    value: float | None
    n: int
    low: float | None
    high: float | None
    fingerprint: str
    note: str = ""
