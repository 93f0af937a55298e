"""Commands that evaluate: eval measure, generate, run, judge, report."""

from __future__ import annotations

import argparse
from typing import Any

from . import eval_generate, eval_judge, eval_report, eval_run
from .options import a_path, add_out, command, group
from .tables import summary


def measure(arguments: argparse.Namespace) -> None:
    from ..evaluation.benchmark import evaluate_methods
    from ..files import require_ours, write_json
    from ..mini.detector import load_detector

    require_ours(arguments.out, b'"methods"', what="a file of metrics", force=arguments.force)
    metrics = evaluate_methods(arguments.pictures, load_detector())
    write_json(arguments.out, metrics)
    print(summary(metrics))


def add_commands(groups: Any) -> None:
    kinds = group(groups, "eval", "measure, judge and report")
    one = command(kinds, "measure", measure, "measure mini pictures: was each user's limit kept?",
                  "psalign eval measure --pictures outputs/quickstart/pictures --out outputs/metrics.json")  # fmt: skip
    one.add_argument("--pictures", type=a_path, required=True, help="folder with one folder per method")
    add_out(one, "outputs/metrics.json", force="replace a file of another kind")
    eval_generate.add_commands(kinds)
    eval_run.add_commands(kinds)
    eval_judge.add_commands(kinds)
    eval_report.add_commands(kinds)
