"""Commands that evaluate: eval measure, adopt, generate, run, judge, report."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from . import eval_generate, eval_judge, eval_report, eval_run
from .options import add_out, command
from .tables import summary


def measure(arguments: argparse.Namespace) -> None:
    from ..evaluation.benchmark import evaluate_methods
    from ..mini.detector import load_detector
    from ..records import write_json

    metrics = evaluate_methods(arguments.pictures, load_detector())
    write_json(arguments.out, metrics)
    print(summary(metrics))


def adopt(arguments: argparse.Namespace) -> None:
    from ..adopt import adopt as write

    for cell, count in write(arguments.images, prompts=arguments.prompts, users=arguments.users).items():
        print(f"{cell}: {count} pictures")


def add_commands(groups: Any) -> None:
    kinds = groups.add_parser("eval", help="measure, judge and report").add_subparsers(metavar="COMMAND", required=True)
    one = command(kinds, "measure", measure, "measure mini pictures: was each user's limit kept?",
                  "psalign eval measure --pictures outputs/quickstart/pictures --out outputs/metrics.json")  # fmt: skip
    one.add_argument("--pictures", type=Path, required=True, help="folder with one folder per method")
    add_out(one, "outputs/metrics.json")
    one = command(kinds, "adopt", adopt, "give pictures of the published code a manifest, to measure and judge them",
                  "psalign eval adopt --images eval_images --prompts data/prompts --users users.csv")  # fmt: skip
    one.add_argument("--images", type=Path, default=Path("eval_images"), help="default eval_images")
    one.add_argument("--prompts", type=Path, default=Path("data/prompts"), help="published prompt sets (sage download)")
    one.add_argument("--users", type=Path, help="users file, for what the rows' own users ban")
    eval_generate.add_commands(kinds)
    eval_run.add_commands(kinds)
    eval_judge.add_commands(kinds)
    eval_report.add_commands(kinds)
