"""Commands that evaluate: eval measure, adopt, generate, run, judge, report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from . import eval_generate, eval_judge, eval_report, eval_run
from .options import a_path, add_out, command, group
from .tables import summary


def measure(arguments: argparse.Namespace) -> None:
    from psalign.evaluation.metrics.benchmark import evaluate_methods

    from ..files import require_ours, write_json
    from ..mini.detector import load_detector

    require_ours(arguments.out, b'"methods"', what="a file of metrics", force=arguments.force)
    metrics = evaluate_methods(arguments.pictures, load_detector())
    write_json(arguments.out, metrics)
    print(summary(metrics))


def adopt(arguments: argparse.Namespace) -> None:
    from psalign.benchmark.adopt import adopt as write

    for cell, count in write(arguments.images, prompts=arguments.prompts, users=arguments.users).items():
        print(f"{cell}: {count} pictures")


def add_commands(groups: Any) -> None:
    kinds = group(groups, "eval", "measure, judge and report")
    one = command(kinds, "measure", measure, "measure mini pictures: was each user's limit kept?",
                  "psalign eval measure --pictures outputs/quickstart/pictures --out outputs/metrics.json")  # fmt: skip
    one.add_argument("--pictures", type=a_path, required=True, help="folder with one folder per method")
    add_out(one, "outputs/metrics.json", force="replace a file of another kind")
    one = command(kinds, "adopt", adopt, "give pictures of the published code a manifest, to measure and judge them",
                  "psalign eval adopt --images eval_images --prompts data/prompts --users users.csv")  # fmt: skip
    one.add_argument("--images", type=a_path, default=Path("eval_images"), help="default eval_images")
    one.add_argument(
        "--prompts", type=a_path, default=Path("data/prompts"), help="published prompt sets (sage download)"
    )
    one.add_argument("--users", type=a_path, help="users file, for what the rows' own users ban")
    eval_generate.add_commands(kinds)
    eval_run.add_commands(kinds)
    eval_judge.add_commands(kinds)
    eval_report.add_commands(kinds)
