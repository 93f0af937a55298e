"""The command line: each command parses, calls one library function and prints its result.

Place on the path of data: a door to each step. Progress goes to stderr, results to stdout; exit status 0 fine,
1 failure, 2 usage. One file per group of commands, each with an `add_commands`.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from ..errors import OutputError, PSAlignError
from . import adapter, embed, eval, generate, mini, path, sage, users
from .options import Formatter


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command. Returns the exit status."""
    try:
        return _run(_parser().parse_args(argv)) or 0
    except PSAlignError as err:
        print(f"{type(err).__name__}: {err}", file=sys.stderr)
        return err.exit_status
    except KeyboardInterrupt:
        print("\nInterrupted. The same command goes on from what is on disk.", file=sys.stderr)
        return 130


def _run(arguments: argparse.Namespace) -> int | None:
    """Run the command, which may say an exit status.

    Raises OutputError for a path it was given that cannot be used; other faults as they are.
    """
    try:
        status: int | None = arguments.command(arguments)
    except (FileExistsError, NotADirectoryError, IsADirectoryError, PermissionError) as err:
        path = _given_path(err, arguments)
        if path is None:
            raise
        raise OutputError(f"{path} cannot be used: {err.strerror}.") from err
    return status


def _given_path(err: OSError, arguments: argparse.Namespace) -> Path | None:
    """The file an error is about, where it lies on or under a path of the command line, or on the way to it."""
    given = [value for value in vars(arguments).values() if isinstance(value, Path)]
    names = [name for name in (err.filename2, err.filename) if isinstance(name, str)]
    for name in names:
        for one in given:
            path, whole = Path(name).absolute(), one.absolute()
            if path == whole or path in whole.parents or whole in path.parents:
                return Path(name)
            if path.parent == whole.parent and path.name.startswith(f".{whole.name}."):  # written aside, then renamed
                return one
    return None


def _parser() -> argparse.ArgumentParser:
    from .. import __version__

    parser = argparse.ArgumentParser(
        prog="psalign",
        description="Text-to-image diffusion that keeps to each user's own safety limits.",
        epilog="Start with:  psalign quickstart --out outputs/quickstart",
        formatter_class=Formatter,
    )
    parser.add_argument("--version", action="version", version=f"psalign {__version__}")
    groups = parser.add_subparsers(metavar="COMMAND", required=True)
    for room in (path, generate, users, embed, adapter, sage, eval, mini):
        room.add_commands(groups)
    return parser
