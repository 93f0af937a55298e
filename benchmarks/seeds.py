"""Figures over training seeds: mean and 95 % interval of Student's t."""

from __future__ import annotations

import math
import statistics
from typing import Any

T_95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # two-sided, by number of seeds


def over_seeds(rates: list[dict[str, Any]]) -> dict[str, Any]:
    """Mean over seeds and its 95 % interval; n of one seed."""
    values = [rate["value"] for rate in rates]
    mean = statistics.fmean(values)
    half = T_95[len(values)] * statistics.stdev(values) / math.sqrt(len(values)) if len(values) > 1 else math.nan
    return {"value": mean, "half_width": half, "n": rates[0]["n"], "seeds": values}


def cell(figure: dict[str, Any]) -> str:
    digits = 3 if figure["value"] <= 1 else 2
    return f"{figure['value']:.{digits}f} ± {figure['half_width']:.{digits}f} (n={figure['n']})"
