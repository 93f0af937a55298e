"""The command `eval run`: measures what results.csv lacks of the pictures that are there."""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UsageError, one_line
from .options import a_number, a_path, at_least, command, given

if TYPE_CHECKING:
    from ..evaluation.cells import Cell
    from ..evaluation.results import ResultRow


def run(arguments: argparse.Namespace) -> int:
    from ..benchmark.measure import add_unfinished, measure_cells
    from ..benchmark.models import ModelsConfig
    from ..evaluation.cells import find_cells, find_strays, find_unfinished

    gpus = _gpus_there(arguments.gpus)
    config = ModelsConfig(
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
    unfinished = list(filter(is_wanted, find_unfinished(arguments.images)))
    add_unfinished(unfinished, arguments.output, metrics=arguments.metrics)
    rows = measure_cells(
        cells, arguments.images, arguments.output, metrics=arguments.metrics, config=config,
        workers=_environments(gpus, arguments.workers),
    )  # fmt: skip
    failed = sum(row.state == "failed" for row in rows)
    if arguments.json:
        print(json.dumps([row.model_dump() for row in rows], indent=2))
        return int(bool(failed or strays))
    print(_table(rows))
    left_out = f", {len(strays)} folders left out" if strays else ""
    print(f"{len(rows) - failed} measured, {failed} failed, of {len(cells)} cells{left_out}: {arguments.output}")
    return int(bool(failed or strays))


def _gpus_there(asked: str | None) -> list[str]:
    """Numbers of --gpus that are here; one line says which are not. Raises UsageError for what is no number."""
    if not asked:
        return []
    names = [name.strip() for name in asked.split(",")]
    if not all(name.isdecimal() for name in names):
        raise UsageError(f"--gpus {asked}: expected numbers with commas between them, as 0,1,2,3.")
    import torch

    count = torch.cuda.device_count()
    there = [name for name in names if int(name) < count]
    if len(there) < len(names):
        used = f"GPU {', '.join(there)}" if there else "the CPU"
        print(f"--gpus {asked}: there are {count} GPUs here; measuring on {used}.", file=sys.stderr)
    return there


def _environments(gpus: Sequence[str], workers: int) -> list[dict[str, str]]:
    """Of one worker process for each GPU, or of `workers` that share the CPU; none for measuring in this
    process."""
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
                          "safe_subject, safe_distance (default: all that there are models for)")  # fmt: skip
    for name in ("datasets", "methods", "bases"):
        one.add_argument(f"--{name}", nargs="+", default=[], metavar="NAME", help="only these")
    one.add_argument("--gpus", help="numbers, as 0,1,2,3: one worker process each")
    one.add_argument("--workers", type=at_least(0), default=1,
                     help="processes on the CPU, where no GPUs are given; 0: in this one (default 1)")  # fmt: skip
    one.add_argument("--json", action="store_true", help="for machines: the rows that were measured")
    _add_models(one)


def _add_models(one: argparse.ArgumentParser) -> None:
    one.add_argument("--fid-reference", type=a_path, help="folder of pictures, or their statistics (.safetensors)")
    one.add_argument("--inception", type=a_path, help="weights of FID's Inception (not for mini)")
    one.add_argument("--clip", help="CLIP of CLIPScore, folder or hub id (default: ViT-H-14; mini: the shipped one)")
    one.add_argument("--q16", type=a_path, help="Q16 prompt vectors (.p, .npy, .safetensors); needed by inpro")
    one.add_argument("--q16-clip", help="CLIP of Q16, folder or hub id (default: ViT-L-14)")
    one.add_argument("--strict-threshold", type=a_number(0, 1), help="of NudeNet in inpro_strict")
    one.add_argument("--cache", type=a_path, default=Path("eval_cache"),
                     help="folder for each model's results on each picture (default eval_cache)")  # fmt: skip
    one.add_argument("--batch-size", type=at_least(1), help="pictures at a time (default 32)")
