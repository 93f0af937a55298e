"""The command line: each command parses, calls one library function and prints its result.

Place on the path of data: a door to each step. Progress goes to stderr, results to stdout. One file per group
of commands, each with an `add_commands`. Every error passes through `main`: what a user can mend ends in one
message and a status of EXIT_STATUSES, a fault of the program keeps its traceback.
"""

from __future__ import annotations

import argparse
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from ..categories import VARIABLE, current
from ..errors import OutputError, PSAlignError, UsageError
from ..locks import locked
from ..progress import set_quiet
from . import adapter, baseline, completion, demo, embed, eval, generate, mini, path, redteam, sage, serve, users
from .environment import explain_error
from .options import Formatter, Parser, a_path

# docs/COMMANDS.md has this table.
EXIT_STATUSES = {
    0: "done",
    1: "failed: the message says what was wrong and what to do",
    2: "a command, flag, setting or value that makes no sense; nothing was done",
    130: "interrupted (Ctrl-C); the same command goes on",
    143: "ended by SIGTERM; training saved a checkpoint first, `serve` drew what it had taken in",
}
OUTPUTS = ("out", "output", "npy", "picture", "results")  # arguments that name what is written
SHARED_OUTPUTS = ("eval generate", "eval run")  # several processes may write there: cells and rows have locks


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status."""
    arguments = argparse.Namespace()
    try:
        with _quiet_libraries():
            status = _run(_parser().parse_args(argv, arguments))
            sys.stdout.flush()  # a closed pipe fails here, not when the interpreter ends
        return status or 0
    except PSAlignError as err:
        return _end(f"{type(err).__name__}: {err}", err.exit_status)
    except KeyboardInterrupt:
        return _end("\nInterrupted. The same command goes on from what is on disk.", 130)
    except (OSError, MemoryError, RuntimeError) as err:
        message = explain_error(err, arguments)
        if message is None:
            raise
        return _end(f"OutputError: {message}", OutputError.exit_status)


def _end(message: str, status: int) -> int:
    with suppress(OSError, ValueError):
        print(message, file=sys.stderr)
    try:
        sys.stdout.flush()
    except (OSError, ValueError):  # nobody reads: what is left in the buffer must not fail again at the end
        with suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _run(arguments: argparse.Namespace) -> int | None:
    """Run the command, which may return an exit status, while no other process writes what it writes."""
    if getattr(arguments, "command", None) is None:  # a group of commands without one
        arguments.parser.print_help()
        return 0
    with _taxonomy(arguments):
        return _run_command(arguments)


@contextmanager
def _taxonomy(arguments: argparse.Namespace) -> Iterator[None]:
    """With the taxonomy of the command line, which processes that the command starts use as well."""
    named, before = getattr(arguments, "taxonomy", None), os.environ.get(VARIABLE)
    try:
        if named is not None:
            os.environ[VARIABLE] = str(named.resolve())
        current()  # reports a file that is no taxonomy before anything else
        yield
    finally:
        if named is not None:
            os.environ.pop(VARIABLE)
            os.environ.update({} if before is None else {VARIABLE: before})


def _run_command(arguments: argparse.Namespace) -> int | None:
    set_quiet(arguments.quiet)
    if hasattr(arguments, "fill"):
        arguments.fill(arguments)
    _require_other_output(arguments)
    inputs = [getattr(arguments, name) for name in getattr(arguments, "holds", ()) if getattr(arguments, name)]
    with locked(*_to_lock(arguments), inputs=inputs):
        status: int | None = arguments.command(arguments)
    return status


def _to_lock(arguments: argparse.Namespace) -> list[Path]:
    """What a command alone may write.

    Of the processes of `accelerate launch` the first one holds it for all.
    """
    if os.environ.get("RANK", "0") != "0" or arguments.command_name in SHARED_OUTPUTS:
        return []
    found = [getattr(arguments, name, None) for name in OUTPUTS if name != "results"]
    return [place for place in found if isinstance(place, Path)]


def _require_other_output(arguments: argparse.Namespace) -> None:
    """Raises UsageError where a command would write what it reads, or two things into one place."""
    seen: dict[str, str] = {}
    given = {name: value for name, value in vars(arguments).items() if name not in OUTPUTS}
    for name, value in [*given.items(), *((name, getattr(arguments, name, None)) for name in OUTPUTS)]:
        for place in value if isinstance(value, list) else [value]:
            if not isinstance(place, Path) or place == Path("/dev/null"):
                continue
            whole, flag = os.path.realpath(place), name.replace("_", "-")
            if whole in seen and name in OUTPUTS:
                raise UsageError(f"{place} is both {seen[whole]} and {flag}; nothing was done.", hint=OTHER)
            seen.setdefault(whole, flag)


OTHER = "Choose another path to write to."


@contextmanager
def _quiet_libraries() -> Iterator[None]:
    """Hide what libraries say about themselves; PYTHONWARNINGS shows it again."""
    for name in ("DIFFUSERS_VERBOSITY", "TRANSFORMERS_VERBOSITY"):
        os.environ.setdefault(name, "error")
    with warnings.catch_warnings():
        if not sys.warnoptions:
            warnings.simplefilter("ignore")
        yield


@cache  # a program that runs many commands makes it once
def _parser() -> Parser:
    from .. import __version__

    parser = Parser(
        prog="psalign",
        description="Text-to-image diffusion that keeps to each user's own safety limits.",
        epilog="Start with:  psalign quickstart --out outputs/quickstart",
        formatter_class=Formatter,
    )
    parser.add_argument("--version", action="version", version=f"psalign {__version__}")
    parser.add_argument("--taxonomy", type=a_path, metavar="FILE",
                        help="categories of your own, with their rules and words (docs/USERS.md)")  # fmt: skip
    parser.set_defaults(parser=parser)
    groups = parser.add_subparsers(metavar="COMMAND")
    for room in (path, generate, users, embed, adapter, sage, baseline, redteam, eval, serve, demo, mini, completion):
        room.add_commands(groups)
    return parser
