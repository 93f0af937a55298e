"""Commands that evaluate: eval adopt, generate, run, judge, report, leaderboard."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from . import eval_generate, eval_judge, eval_leaderboard, eval_report, eval_run
from .options import a_path, add_users, command, group


def adopt(arguments: argparse.Namespace) -> None:
    from ..benchmark.adopt import adopt as write

    for cell, count in write(arguments.images, prompts=arguments.prompts, users=arguments.users).items():
        print(f"{cell}: {count} pictures")


def add_commands(groups: Any) -> None:
    kinds = group(groups, "eval", "draw, measure, judge and report")
    one = command(kinds, "adopt", adopt, "give pictures of the published code a manifest, to measure and judge them",
                  "psalign eval adopt --images eval_images --prompts data/prompts --users users.csv")  # fmt: skip
    one.add_argument("--images", type=a_path, default=Path("eval_images"), help="default eval_images")
    one.add_argument(
        "--prompts", type=a_path, default=Path("data/prompts"), help="published prompt sets (sage download)"
    )
    add_users(one, "users file, for what the rows' own users ban", required=False)
    for part in (eval_generate, eval_run, eval_judge, eval_report, eval_leaderboard):
        part.add_commands(kinds)
