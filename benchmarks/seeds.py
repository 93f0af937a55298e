"""Figures over training seeds: mean and 95 % interval of Student's t; and the figures of one run, by suite."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from psalign.evaluation.metrics.limits import PictureFacts, judge_folder, rates
from psalign.evaluation.results import ResultRow
from psalign.ids import level_of
from psalign.mini.detector import load_detector
from psalign.records import PromptRow

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


def of_results(rows: Sequence[ResultRow], dataset: str) -> dict[str, dict[str, Any]]:
    """Figures of a dataset in results.csv, by method; of levels by level."""
    found: dict[str, dict[str, Any]] = {}
    for row in rows:
        if row.dataset == dataset:
            name = row.level.removeprefix("level_") if row.level.startswith("level_") else row.method
            found.setdefault(name, {})[row.metrics] = asdict(row.estimate)
    return found


def of_pictures(folder: Path, prompts: Sequence[PromptRow]) -> dict[str, dict[str, Any]]:
    """Figures of the pictures of a mini dataset's prompts in one folder, by suite; "levels" has them by level."""
    by_name = {row.file_name: row for row in prompts}
    suites: dict[str, list[PictureFacts]] = {}
    levels: dict[str, list[PictureFacts]] = {}
    for facts in judge_folder(folder, load_detector()):
        row = by_name[facts.file_name]
        level = level_of(row.user_id)
        if level is not None:
            levels.setdefault(str(level), []).append(facts)
        elif not facts.seen_user:
            suites.setdefault(row.meta["suite"], []).append(facts)
    found = {suite: {name: asdict(one) for name, one in rates(facts).items()} for suite, facts in suites.items()}
    return found | {"levels": {level: asdict(rates(facts)["any_motif"]) for level, facts in sorted(levels.items())}}
