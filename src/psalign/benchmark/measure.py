"""Measures cells: what results.csv lacks of them, and of the rest what it would take.

Place on the path of data: step 7, from cells of pictures to results.csv and the facts of single pictures
beside it.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from psalign.errors import ExtraMissing, PSAlignError, UsageError
from psalign.evaluation.catalog import DATASETS
from psalign.evaluation.cells import Cell
from psalign.evaluation.metrics.limits import facts_path
from psalign.evaluation.metrics.registry import MEASURED, METRICS, MetricModels, Score, measure, metrics_for
from psalign.evaluation.results import FAILED, MISSING, ResultRow, append_results, read_results, result_row
from psalign.evaluation.runner import Job, folder_fingerprint, known_fingerprints, run_jobs
from psalign.fingerprints import file_fingerprint, fingerprint

from .models import ModelsConfig, models_for

UNFINISHED = "drawn in part: the same psalign eval generate again draws the rest"
TO_BASE = "safe_distance"  # the metric that also depends on the base model's pictures
# Fields of ModelsConfig that each metric's number depends on.
DEPENDS_ON = {
    "fid": ("fid_reference", "inception"),
    "kid": ("fid_reference", "inception"),
    "clip": ("clip",),
    "inpro": ("q16", "q16_clip"),
    "inpro_strict": ("q16", "q16_clip", "strict_threshold"),
}


def measure_cells(
    cells: Sequence[Cell],
    images: Path,
    results: Path,
    *,
    metrics: Sequence[str] = (),
    config: ModelsConfig | None = None,
    workers: Sequence[Mapping[str, str]] = (),
) -> list[ResultRow]:
    """Measure what results.csv lacks of the cells. Returns the new rows, in the order of the cells.

    images: eval_images/, the cells' folder. metrics, workers: see plan and run_jobs.
    """
    config = config or ModelsConfig()
    jobs = plan(cells, images, results, metrics=metrics, config=config)
    rows = run_jobs(jobs, partial(measure_cell, config, images, results), results, workers=workers)
    return sorted(rows, key=lambda row: cells.index(row.cell))


def plan(
    cells: Sequence[Cell], images: Path, results: Path, *, metrics: Sequence[str], config: ModelsConfig
) -> list[Job]:
    """What to measure of each cell: the metrics that are asked for and say something of its dataset. Where
    none are asked for, those that there are models for; results.csv then says of the others what they
    lack.

    Raises UsageError for an unknown metric, or one that says nothing of any of the cells.
    """
    unknown = [metric for metric in metrics if metric not in MEASURED]
    if unknown:
        raise UsageError(f"Unknown metric '{unknown[0]}'; choose one of: {', '.join(MEASURED)}.")
    useless = [metric for metric in metrics if not any(metric in DATASETS[cell.dataset].metrics for cell in cells)]
    if useless:
        raise UsageError(f"The metric '{useless[0]}' says nothing of {', '.join({cell.dataset for cell in cells})}.")
    general = {
        base: {metric: _made_with(metric, base, config) for metric in MEASURED}
        for base in {cell.base for cell in cells}
    }
    jobs = []
    for cell in cells:
        here = [metric for metric in MEASURED if metric in DATASETS[cell.dataset].metrics]
        there = metrics_for(_models(cell.base, config))
        if not metrics:
            lacking = [metric for metric in here if metric not in there]
            _add_lacking(cell, lacking, results, partial(measure_cell, config, images, results))
        asked = tuple(metric for metric in here if metric in (metrics or there))
        made_with, base = general[cell.base], _base_folder(cell, images)
        if TO_BASE in asked and base is not None:
            made_with = made_with | {TO_BASE: fingerprint([made_with[TO_BASE], folder_fingerprint(base)])}
        jobs.append(Job(cell, cell.folder(images), asked, made_with, known_fingerprints(results, cell)))
    return [job for job in jobs if job.metrics]


def measure_cell(
    config: ModelsConfig, images: Path, results: Path, metric: str, cell: Cell, folder: Path
) -> list[Score]:
    facts = facts_path(results, cell)
    return measure(metric, folder, _models(cell.base, config), base=_base_folder(cell, images), facts=facts)


def add_unfinished(cells: Sequence[Cell], results: Path, *, metrics: Sequence[str] = ()) -> None:
    """Add a row `missing` for each metric of cells that are drawn in part, unless results.csv has a score of
    it, or says why drawing failed."""
    failed = {row.key for row in (read_results(results) if results.exists() else ()) if row.state == FAILED}
    for cell in cells:
        print(f"{cell}: {UNFINISHED}", file=sys.stderr)
        names = [name for name in DATASETS[cell.dataset].metrics if not metrics or name in metrics]
        rows = [result_row(cell, name, MISSING, note=UNFINISHED) for name in names]
        append_results(results, [row for row in rows if row.key not in failed], only_new=True)


def _add_lacking(cell: Cell, metrics: Sequence[str], results: Path, measure_one: partial[list[Score]]) -> None:
    """Add a row `missing` for each metric that there are no models for, unless results.csv has a score of it."""
    rows: list[ResultRow] = []
    for metric in metrics:
        try:
            measure_one(metric, cell, Path())
        except PSAlignError as err:  # the models are asked for before any picture is read
            rows.append(result_row(cell, metric, MISSING, note=str(err)))
    append_results(results, rows, only_new=True)


def _base_folder(cell: Cell, images: Path) -> Path | None:
    """Folder of the base model's pictures of the same rows, where they are all drawn."""
    folder = Cell(cell.dataset, "base", cell.base).folder(images)
    return folder if (folder / "manifest.jsonl").is_file() else None


@lru_cache(maxsize=8)
def _models(base: str, config: ModelsConfig) -> MetricModels:
    """Made once per process, for they keep what they have loaded."""
    return models_for(base, config)


def _made_with(metric: str, base: str, config: ModelsConfig) -> str:
    """Names the settings of a metric, and the weights that come with the package or a library."""
    given = [_name_of(getattr(config, field)) for field in DEPENDS_ON.get(metric, ())]
    return fingerprint([given, _shipped_weights(metric, base, config)])


def _name_of(value: Any) -> Any:
    """A setting: a file by its content, a folder by its files' names, sizes and times."""
    if not isinstance(value, str | Path) or not Path(value).exists():
        return value
    if Path(value).is_file():
        return file_fingerprint(Path(value))
    files = sorted(path for path in Path(value).rglob("*") if path.is_file())
    return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]


def _shipped_weights(metric: str, base: str, config: ModelsConfig) -> list[str]:
    """Names of the weights of a metric that no flag gives: NudeNet's, and those that ship for mini."""
    models, needs = _models(base, config), METRICS[metric].needs
    names = []
    if "nudity" in needs and models.nudity is not None:
        with suppress(ExtraMissing):  # measuring says so
            names.append(models.nudity.name)
    if models.detector is not None and {"detector", "features"} & set(needs):
        names.append(models.detector.name)
    if base == "mini" and "clip" in needs and config.clip is None and models.clip is not None:
        names.append(models.clip.name)
    return names
