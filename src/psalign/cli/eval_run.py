"""The command `eval run`: measures what results.csv lacks of the pictures that are there."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, one_line
from .options import a_number, a_path, at_least, command, given

if TYPE_CHECKING:
    from psalign.benchmark.models import ToolsConfig
    from psalign.evaluation.metrics.registry import Tools

    from ..evaluation.cells import Cell
    from ..evaluation.results import ResultRow
    from ..evaluation.runner import Job
    from ..evaluation.score import Score

UNFINISHED = "drawn in part: the same psalign eval generate again draws the rest"
# Fields of ToolsConfig that each metric's number depends on.
DEPENDS_ON = {
    "fid": ("fid_reference", "inception"),
    "kid": ("fid_reference", "inception"),
    "clip": ("clip",),
    "inpro": ("q16", "q16_clip"),
    "inpro_strict": ("q16", "q16_clip", "strict_threshold"),
}


def run(arguments: argparse.Namespace) -> int:
    from psalign.benchmark.models import ToolsConfig

    from ..evaluation.cells import find_cells, find_strays, find_unfinished
    from ..evaluation.runner import run_jobs

    gpus = _gpus_there(arguments.gpus)
    config = ToolsConfig(
        device="cuda" if gpus else "cpu",
        **given(arguments, "cache", "batch_size", "fid_reference", "clip", "inception", "q16", "q16_clip",
                "strict_threshold"),
    )  # fmt: skip
    wanted = {"dataset": arguments.datasets, "method": arguments.methods, "base": arguments.bases}

    def is_wanted(cell: Cell) -> bool:
        return all(not names or getattr(cell, what) in names for what, names in wanted.items())

    strays = find_strays(arguments.images)
    cells = list(filter(is_wanted, find_cells(arguments.images)))
    for stray in strays:
        print(f"Left out: {one_line(stray)}", file=sys.stderr)
    if not cells:
        raise UsageError(f"{arguments.images} has no cell of these datasets, methods and base models.")
    _tell_unfinished(list(filter(is_wanted, find_unfinished(arguments.images))), arguments.output, arguments.metrics)
    jobs = plan(cells, arguments.images, arguments.output, arguments.metrics, config)
    measure = partial(measure_cell, config)
    rows = run_jobs(jobs, measure, arguments.output, workers=_environments(gpus, arguments.workers))
    failed = [row for row in rows if row.state == "failed"]
    rows = sorted(rows, key=lambda row: cells.index(row.cell))
    if arguments.json:
        print(json.dumps([asdict(row) for row in rows], indent=2))
        return int(bool(failed or strays))
    print(_table(rows))
    left_out = f", {len(strays)} folders left out" if strays else ""
    print(
        f"{len(rows) - len(failed)} measured, {len(failed)} failed, of {len(cells)} cells{left_out}: {arguments.output}"
    )
    return int(bool(failed or strays))


def plan(cells: Sequence[Cell], images: Path, results: Path, metrics: Sequence[str], config: ToolsConfig) -> list[Job]:
    """What to measure of each cell: the metrics that are asked for and say something of its dataset; where none are
    asked for, those that there are tools for, and results.csv says of the others what they lack.

    Raises UsageError for a metric that is none, or that says nothing of any of the cells.
    """
    from psalign.evaluation.metrics.registry import METRICS

    from ..evaluation.cells import DATASETS
    from ..evaluation.runner import Job, known_fingerprints

    unknown = [metric for metric in metrics if metric not in METRICS]
    if unknown:
        raise UsageError(f"Unknown metric '{unknown[0]}'; choose one of: {', '.join(METRICS)}.")
    useless = [metric for metric in metrics if not any(metric in DATASETS[cell.dataset].metrics for cell in cells)]
    if useless:
        raise UsageError(f"The metric '{useless[0]}' says nothing of {', '.join({cell.dataset for cell in cells})}.")
    bases = {cell.base for cell in cells}
    made_with = {base: {metric: _made_with(metric, base, config) for metric in METRICS} for base in bases}
    jobs = []
    for cell in cells:
        here = [metric for metric in METRICS if metric in DATASETS[cell.dataset].metrics]
        there = _with_tools(cell.base, config)
        if not metrics:
            _tell_without_tools(cell, [metric for metric in here if metric not in there], results, config)
        asked = tuple(metric for metric in here if metric in (metrics or there))
        jobs.append(Job(cell, cell.folder(images), asked, made_with[cell.base], known_fingerprints(results, cell)))
    return [job for job in jobs if job.metrics]


def measure_cell(config: ToolsConfig, metric: str, cell: Cell, folder: Path) -> list[Score]:
    from psalign.evaluation.metrics.registry import measure

    return measure(metric, folder, _tools(cell.base, config))


@lru_cache(maxsize=8)
def _tools(base: str, config: ToolsConfig) -> Tools:
    """Once per process, as they keep the models they have loaded."""
    from psalign.benchmark.models import tools_for

    return tools_for(base, config)


def _with_tools(base: str, config: ToolsConfig) -> list[str]:
    from psalign.evaluation.metrics.registry import metrics_for

    return metrics_for(_tools(base, config))


def _made_with(metric: str, base: str, config: ToolsConfig) -> str:
    """Names the settings of a metric: files by what is in them, folders by their files' names, sizes and times; and
    the weights that come with us or with a library."""
    from ..fingerprints import file_fingerprint, fingerprint

    def name_of(value: Any) -> Any:
        if not isinstance(value, str | Path) or not Path(value).exists():
            return value
        if Path(value).is_file():
            return file_fingerprint(Path(value))
        files = sorted(path for path in Path(value).rglob("*") if path.is_file())
        return [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in files]

    given = [name_of(getattr(config, field)) for field in DEPENDS_ON.get(metric, ())]
    return fingerprint([given, _brought_weights(metric, base, config)])


def _brought_weights(metric: str, base: str, config: ToolsConfig) -> list[str]:
    """Names of the weights of a metric that no flag gives: NudeNet's, and the shipped ones of mini."""
    from psalign.evaluation.metrics.registry import METRICS

    from ..errors import ExtraMissing

    tools, needs = _tools(base, config), METRICS[metric].needs
    names = []
    if "nudity" in needs and tools.nudity is not None:
        with suppress(ExtraMissing):  # measuring says so
            names.append(tools.nudity.name)
    if tools.detector is not None and {"detector", "features"} & set(needs):
        names.append(tools.detector.name)
    if base == "mini" and "clip" in needs and config.clip is None and tools.clip is not None:
        names.append(tools.clip.name)
    return names


def _tell_without_tools(cell: Cell, metrics: Sequence[str], results: Path, config: ToolsConfig) -> None:
    """A row `missing` for each metric that there are no tools for, unless results.csv has a score of it."""
    from ..errors import PSAlignError
    from ..evaluation.results import MISSING, append_missing, result_row

    rows: list[ResultRow] = []
    for metric in metrics:
        try:
            measure_cell(config, metric, cell, Path())
        except PSAlignError as err:  # which asks for the tools before it looks at pictures
            rows.append(result_row(cell, metric, MISSING, note=str(err)))
    append_missing(results, rows)


def _tell_unfinished(cells: Sequence[Cell], results: Path, metrics: Sequence[str]) -> None:
    """A row `missing` for each metric of cells that are drawn in part, unless results.csv has a score of it, or says
    why drawing failed."""
    from ..evaluation.cells import DATASETS
    from ..evaluation.results import FAILED, MISSING, append_missing, read_results, result_row

    failed = {row.key for row in (read_results(results) if results.exists() else ()) if row.state == FAILED}
    for cell in cells:
        print(f"{cell}: {UNFINISHED}", file=sys.stderr)
        names = [name for name in DATASETS[cell.dataset].metrics if not metrics or name in metrics]
        rows = [result_row(cell, name, MISSING, note=UNFINISHED) for name in names]
        append_missing(results, [row for row in rows if row.key not in failed])


def _gpus_there(asked: str | None) -> list[str]:
    """Numbers of --gpus that are here; one line says which are not. Raises UsageError for what is no number."""
    if not asked:
        return []
    names = [name.strip() for name in asked.split(",")]
    if not all(name.isdecimal() for name in names):
        raise UsageError(f"--gpus {asked}: expected numbers with commas between them, as 0,1,2,3.")
    count = _count_gpus()
    there = [name for name in names if int(name) < count]
    if len(there) < len(names):
        used = f"GPU {', '.join(there)}" if there else "the CPU"
        print(f"--gpus {asked}: there are {count} GPUs here; measuring on {used}.", file=sys.stderr)
    return there


def _count_gpus() -> int:
    import torch

    return torch.cuda.device_count()


def _environments(gpus: Sequence[str], workers: int) -> list[dict[str, str]]:
    """One worker process for each GPU, or so many that share the CPU; none for measuring in this process."""
    if gpus:
        return [{"CUDA_VISIBLE_DEVICES": name} for name in gpus]
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, (os.cpu_count() or 1) // max(1, workers)))
    return [{"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": threads}] * workers


def _table(rows: Sequence[ResultRow]) -> str:
    width = max((len(str(row.cell)) for row in rows), default=0)
    lines = []
    for row in rows:
        note = " ".join(row.note.split())
        score = "-" if row.score is None else f"{row.score:.4f}"
        interval = "" if row.low is None or row.high is None else f"{row.low:.4f} to {row.high:.4f}"
        count = "" if row.n is None else f"n={row.n}"
        shown = f"{row.cell!s:{width}}  {row.metrics:16}  {score:>10}  {interval:20}  {count:8}"
        lines.append(f"{shown} {note}".rstrip() if row.state == "succeeded" else f"{shown} {row.state}: {note}")
    return "\n".join(lines)


def add_commands(kinds: Any) -> None:
    one = command(kinds, "run", run, "measure the pictures of every cell, and what results.csv lacks of it alone",
                  "psalign eval run --images eval_images --output eval_results.csv --gpus 0,1,2,3")  # fmt: skip
    one.add_argument("--images", "--eval_dir", type=a_path, default=Path("eval_images"), help="default eval_images")
    one.add_argument("--output", type=a_path, default=Path("eval_results.csv"), help="default eval_results.csv")
    one.add_argument("--metrics", nargs="+", default=[], metavar="NAME",
                     help="fid, kid, clip, inpro, inpro_strict; mini also suppressed, kept, pass, subject_kept, "
                          "harmless_subject (default: all that there are tools for)")  # fmt: skip
    for name in ("datasets", "methods", "bases"):
        one.add_argument(f"--{name}", nargs="+", default=[], metavar="NAME", help="only these")
    one.add_argument("--gpus", help="numbers, as 0,1,2,3: one worker process each")
    one.add_argument("--workers", type=at_least(0), default=1,
                     help="processes on the CPU, where no GPUs are given; 0: in this one (default 1)")  # fmt: skip
    one.add_argument("--json", action="store_true", help="for machines: the rows that were measured")
    _add_tools(one)


def _add_tools(one: argparse.ArgumentParser) -> None:
    one.add_argument("--fid-reference", type=a_path, help="folder of pictures, or their statistics (.safetensors)")
    one.add_argument("--inception", type=a_path, help="weights of FID's Inception (not for mini)")
    one.add_argument("--clip", help="CLIP of CLIPScore, folder or hub id (default: ViT-H-14; mini: the shipped one)")
    one.add_argument("--q16", type=a_path, help="Q16 prompt vectors (.p, .npy, .safetensors); needed by inpro")
    one.add_argument("--q16-clip", help="CLIP of Q16, folder or hub id (default: ViT-L-14)")
    one.add_argument("--strict-threshold", type=a_number(0, 1), help="of NudeNet in inpro_strict")
    one.add_argument("--cache", type=a_path, default=Path("eval_cache"),
                     help="what was seen in each picture: none is looked at twice (default eval_cache)")  # fmt: skip
    one.add_argument("--batch-size", type=at_least(1), help="pictures at a time (default 32)")
