"""The command `eval leaderboard`: every method under the same prompts and attacks, as one page."""

from __future__ import annotations

import argparse
from typing import Any

from ..evaluation.catalog import METHODS
from .drawing import device_of
from .options import a_path, add_device, add_out, at_least, command
from .settings import EVERYTHING, load_settings


def leaderboard(arguments: argparse.Namespace) -> None:
    from ..diffusion.base_models import find_base
    from ..leaderboard.run import make_leaderboard, write_page

    arguments.preset = arguments.preset or f"leaderboard-{find_base(arguments.base).name}"
    preset = load_settings(arguments, reads=EVERYTHING)
    if arguments.methods:
        preset["leaderboard"] = {**preset.get("leaderboard", {}), "methods": arguments.methods}
    device = device_of(arguments)
    page = make_leaderboard(arguments.out, preset, workers=arguments.workers, device=device, beside=arguments.beside)
    if arguments.page is not None:
        page = write_page(arguments.out, arguments.page)
    print(f"Page:    {page}\nNumbers: {arguments.out / 'results.csv'}")
    print(
        f"Report:  psalign eval report --images {arguments.out / 'pictures'} --results {arguments.out / 'results.csv'}"
    )


def add_commands(kinds: Any) -> None:
    one = command(kinds, "leaderboard", leaderboard,
                  "choose settings, train, draw, attack and measure every method, and write one page",
                  "psalign eval leaderboard --base mini --workers 2 --out outputs/leaderboard")  # fmt: skip
    one.add_argument("--base", default="mini", help="base model (default mini, which alone has a detector)")
    one.add_argument("--preset", help="shipped preset or .yaml file (default: leaderboard-BASE)")
    one.add_argument("--set", action="append", default=[], metavar="leaderboard.NAME=VALUE", help="one setting")
    one.add_argument("--methods", nargs="+", choices=[name for name in METHODS if name != "psa"], metavar="NAME",
                     help="only these, base and psa-prompt (default: all)")  # fmt: skip
    one.add_argument("--workers", type=at_least(1), default=1, help="processes that share the work (default 1)")
    one.add_argument("--beside", type=a_path, metavar="DIR",
                     help="another leaderboard's folder, for the rows of methods that are not made here")  # fmt: skip
    one.add_argument("--page", type=a_path, metavar="FILE.md", help="another place for the page and its picture")
    add_device(one)
    add_out(one, "outputs/leaderboard")
