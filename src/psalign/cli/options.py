"""Options that commands share, and how their values are read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..errors import UsageError

Command = Callable[[argparse.Namespace], int | None]


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps examples as they are written."""


def command(groups: Any, name: str, run: Command, purpose: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = groups.add_parser(
        name,
        help=purpose,
        description=purpose[0].upper() + purpose[1:] + ".",
        epilog=f"Example:  {example}",
        formatter_class=Formatter,
    )
    parser.set_defaults(command=run)
    return parser


def add_preset(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--preset", default=default, help=f"shipped preset or .yaml file (default {default})")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.NAME=VALUE", help="change one setting")


def add_out(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--out", type=Path, default=Path(default), help=f"where to write (default {default})")


def add_model(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", help="another folder or hub id of the base model")


def at_least(low: int) -> Callable[[str], int]:
    def whole_number(text: str) -> int:
        if not text.lstrip("-").isdigit() or int(text) < low:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {low}, saw {text!r}")
        return int(text)

    return whole_number


def level(text: str) -> int:
    if text not in ("0", "1", "2", "3", "4", "5"):
        raise UsageError(f"Level must be 0, 1, 2, 3, 4 or 5; saw {text!r}.")
    return int(text)


def ask_to_send(what: str, host: str, *, yes: bool, flag: str, of: str) -> None:
    """Show what would leave this machine, and go on only where that is agreed to. Raises UsageError."""
    print(f"This sends to {host}: {what}.", file=sys.stderr)
    if yes:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{of} leave this machine only where you agree.", hint=f"Add {flag}.")
    print("Send them? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("Nothing was sent.")


def given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}
