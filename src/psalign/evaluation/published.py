"""The published figures, to be shown beside ours: published.csv, which names its source.

Place on the path of data: step 8, read by the benchmark's report.
"""

from __future__ import annotations

import csv
from importlib import resources

from psalign.files import Record

from .contenders import Contender

Arena = tuple[str, str]  # dataset, base


def read_published() -> dict[Arena, dict[Contender, dict[str, Record]]]:
    """Published numbers by arena, contender and metric, each {"value", "n", "low", "high"}; none has an interval.

    n is 0 where the source does not say. Win rates stand under the contender "<a>_vs_<b>".
    """
    text = (resources.files(__package__) / "published.csv").read_text(encoding="utf-8")
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    found: dict[Arena, dict[Contender, dict[str, Record]]] = {}
    for row in csv.DictReader(lines):
        numbers = found.setdefault((row["dataset"], row["base"]), {})
        rates = numbers.setdefault(Contender(row["method"], row["level"]), {})
        rates[row["metric"]] = {"value": float(row["score"]), "n": int(row["n"] or 0), "low": None, "high": None}
    return found
