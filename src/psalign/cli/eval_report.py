"""Command that reports on a whole benchmark: eval report."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import Any

from ..errors import one_line
from ..files import require_ours
from .options import a_path, add_out, command


def report(arguments: argparse.Namespace) -> int:
    from ..evaluation.cells import find_strays
    from ..evaluation.report.leaderboard import load_leaderboards
    from ..evaluation.report.page import write_report
    from ..fingerprints import versions

    page = arguments.out / "report.html"
    require_ours(page, b'<meta http-equiv="Content-Security-Policy"', what="a report", force=arguments.force)
    boards = load_leaderboards(arguments.images, arguments.results, judge=arguments.judge)
    left_out = [one_line(stray) for stray in find_strays(arguments.images)]
    left_out += [why for board in boards for why in board.left_out.values()]
    for why in left_out:
        print(f"Left out: {why}", file=sys.stderr)
    about = {"command": f"psalign {shlex.join(_given())}", **versions()}
    write_report(page, boards, about={"How this page was made": about})
    print(page)
    if arguments.figures:
        from ..evaluation.report.figures import write_figures

        for path in write_figures(arguments.out / "figures", boards, reveal=arguments.reveal):
            print(path)
    return int(bool(left_out))


def _given() -> list[str]:
    """The command line without the folders above: a report may be shared, a home folder's name need not be."""

    def short(word: str) -> str:
        flag, equals, value = word.rpartition("=") if word.startswith("-") else ("", "", word)
        return f"{flag}{equals}{Path(value).name}" if Path(value).is_absolute() else word

    return [short(word) for word in sys.argv[1:]]


def add_commands(kinds: Any) -> None:
    one = command(kinds, "report", report, "report on a whole benchmark: one HTML page, figures as PNG and PDF",
                  "psalign eval report --images eval_images --results eval_results.csv")  # fmt: skip
    one.add_argument("--images", type=a_path, default=Path("eval_images"),
                     help="cells of pictures (default eval_images)")  # fmt: skip
    one.add_argument(
        "--results", type=a_path, default=Path("eval_results.csv"), help="of eval run (default eval_results.csv)"
    )
    one.add_argument(
        "--judge",
        type=a_path,
        nargs="+",
        default=[],
        help="results_evaluate, results_compare, summaries of the published judge",
    )
    one.add_argument(
        "--no-figures", dest="figures", action="store_false", help="no PNG and PDF figures (they need matplotlib)"
    )
    one.add_argument(
        "--reveal", action="store_true", help="figures show sensitive pictures without blur (each figure says so)"
    )
    add_out(one, "outputs/report", force="replace a file of another kind")
