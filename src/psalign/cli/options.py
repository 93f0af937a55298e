"""Options that several commands have, each written once, and how values are read."""

from __future__ import annotations

import argparse
import difflib
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn

from ..errors import UsageError
from ..ids import LEVELS

MOST = 2**63 - 1  # of a seed that torch takes
MAX_LENGTH = 40  # of a number, in characters
LANGUAGE_MODEL = "Qwen/Qwen2.5-7B-Instruct"
FORCE = "replace what is there"
PUBLISHED = "published"  # as --data: the published captions and users, which are fetched
PUBLISHED_CAPTIONS = Path("data/sage")  # where they go
Command = Callable[[argparse.Namespace], int | None]


class Formatter(argparse.RawDescriptionHelpFormatter):
    """Keeps examples as they are written."""


class Parser(argparse.ArgumentParser):
    """Reports what makes no sense as one message of ours, with the word that was probably meant."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"allow_abbrev": False, **settings})

    def error(self, message: str) -> NoReturn:
        """Raises UsageError."""
        raise UsageError(f"{message}{self._meant(message)}", hint=f"Run: {self.prog} --help")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            words = list(map(str, action.choices))
            meant = _did_you_mean(str(value), words)
            raise argparse.ArgumentError(action, f"invalid choice: {value!r} (choose from {', '.join(words)}){meant}")

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse does, but unknown flags are an error of this parser, which has flags to suggest."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def _meant(self, message: str) -> str:
        words = message.removeprefix("unrecognized arguments: ").split() if message.startswith("unrec") else []
        flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
        return next(filter(None, (_did_you_mean(word.partition("=")[0], flags) for word in words)), "")


def _did_you_mean(word: str, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1, cutoff=0.6)
    near = near or [one for one in known if len(word) > 3 and one.startswith(word)][:1]
    return f". Did you mean {near[0]}?" if near else ""


def command(groups: Any, name: str, run: Command, purpose: str, example: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = groups.add_parser(
        name,
        help=purpose,
        description=purpose[0].upper() + purpose[1:] + ".",
        epilog=f"Example:  {example}",
        formatter_class=Formatter,
    )
    parser.add_argument("--quiet", "-q", action="store_true", help="no progress on stderr")
    parser.add_argument("--taxonomy", type=a_path, default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.set_defaults(command=run, command_name=parser.prog.partition(" ")[2])
    return parser


def group(groups: Any, name: str, purpose: str) -> Any:
    """A group of commands; alone it prints its help."""
    parser = groups.add_parser(name, help=purpose, formatter_class=Formatter)
    parser.set_defaults(parser=parser, command=None)  # a group inside a command must not run that command
    return parser.add_subparsers(metavar="COMMAND")


def a_path(text: str) -> Path:
    """A path of the command line. An empty one would be the folder that the command runs in."""
    if not text.strip() or not text.isprintable():
        raise argparse.ArgumentTypeError(f"expected a path, saw {text[:40]!r}")
    return Path(text)


def a_number(low: float = -math.inf, high: float = math.inf, *, above: bool = False) -> Callable[[str], float]:
    """A finite number of a range; above: low itself is not in it."""
    wanted = f"of {'more than' if above else 'at least'} {low:g}" if high == math.inf else f"from {low:g} to {high:g}"

    def number(text: str) -> float:
        try:
            value = float(text) if len(text) <= MAX_LENGTH else math.nan
        except ValueError:
            value = math.nan
        if not math.isfinite(value) or not low <= value <= high or (above and value == low):
            expected = "a finite number" if low == -math.inf else f"a number {wanted}"
            raise argparse.ArgumentTypeError(f"expected {expected}, saw {text[:MAX_LENGTH]!r}")
        return value

    return number


def at_least(low: int, most: int = MOST) -> Callable[[str], int]:
    """A whole number of a range."""

    def whole_number(text: str) -> int:
        digits = text.removeprefix("-")
        value = int(text) if digits.isascii() and digits.isdecimal() and len(text) <= MAX_LENGTH else None
        if value is None or value < low:
            raise argparse.ArgumentTypeError(f"expected a whole number of at least {low}, saw {text[:MAX_LENGTH]!r}")
        if value > most:
            raise argparse.ArgumentTypeError(f"expected a whole number of at most {most}, saw {text!r}")
        return value

    return whole_number


def level(text: str) -> int:
    if text not in map(str, LEVELS):
        raise UsageError(f"Level must be 0, 1, 2, 3, 4 or 5; saw {text!r}.")
    return int(text)


def given(arguments: argparse.Namespace, *names: str) -> dict[str, Any]:
    return {name: getattr(arguments, name) for name in names if getattr(arguments, name) is not None}


# --- options --------------------------------------------------------------------------------------------------------


def add_preset(one: argparse.ArgumentParser, default: str) -> None:
    one.add_argument("--preset", default=default, help=f"shipped preset or .yaml file (default {default})")
    one.add_argument("--set", action="append", default=[], metavar="SECTION.NAME=VALUE", help="change one setting")


def add_out(one: argparse.ArgumentParser, default: str, *, force: str | None = None) -> None:
    """--out, and with `force` --force, whose help it is."""
    one.add_argument("--out", type=a_path, default=Path(default), help=f"where to write (default {default})")
    if force:
        add_force(one, force)


def add_force(one: argparse.ArgumentParser, help: str = FORCE) -> None:
    one.add_argument("--force", action="store_true", help=help)


def add_seed(one: argparse.ArgumentParser, default: int = 0, help: str | None = None) -> None:
    one.add_argument("--seed", type=at_least(0), default=default, help=help)


def add_users(one: argparse.ArgumentParser, help: str = "users.csv or users.jsonl", *, required: bool = True) -> None:
    one.add_argument("--users", type=a_path, required=required, help=help)


def add_embeddings(
    one: argparse.ArgumentParser, help: str = "user vectors (psalign embed)", *, required: bool = True
) -> None:
    one.add_argument("--embeddings", type=a_path, required=required, help=help)


def add_in_words(one: argparse.ArgumentParser) -> None:
    one.add_argument("--in-words", action="store_true",
                     help="give banned categories to the adapter as their phrases in the taxonomy in use, so that one "
                          "trained with other categories keeps them")  # fmt: skip


def add_base(one: argparse.ArgumentParser) -> None:
    one.add_argument("--base", default="mini", help="base model: mini, sd15 or sdxl (default mini)")
    add_model(one)


def add_model(one: argparse.ArgumentParser) -> None:
    one.add_argument("--model", help="another folder or hub id of the base model")


def add_device(one: argparse.ArgumentParser) -> None:
    one.add_argument("--device", help="cpu, cuda, cuda:1, ... (default: a GPU where there is one)")


def add_baselines(one: argparse.ArgumentParser) -> None:
    """Settings of the methods to compare with."""
    one.add_argument("--baselines", metavar="PRESET", help="preset with other settings (default: baselines-BASE)")
    one.add_argument("--sld", default="medium", metavar="NAME", help="weak, medium, strong or max (default medium)")


def add_variant(one: argparse.ArgumentParser) -> None:
    one.add_argument("--variant", help="of the base model's files, as fp16: half the download")


def add_language_model(
    one: argparse.ArgumentParser, flag: str, help: str = "language model: hub id, folder, or its name"
) -> None:
    """The flag of a language model, and that of the number type of a local one."""
    one.add_argument(flag, default=LANGUAGE_MODEL, help=help)
    dtype = "--dtype" if flag == "--model" else f"{flag}-dtype"
    one.add_argument(dtype, choices=("fp32", "fp16", "bf16"), default="fp32", help="of a local language model")


def add_endpoint(one: argparse.ArgumentParser, sent: str) -> None:
    """An OpenAI-compatible endpoint, and the consent to send things to it.

    sent: what those are, as "profiles".
    """
    one.add_argument("--base-url", help="of an OpenAI-compatible endpoint (default: OPENAI_BASE_URL)")
    one.add_argument("--timeout-s", type=a_number(0, above=True), default=60.0, help="of one request (default 60)")
    one.add_argument(f"--yes-send-{sent}", action="store_true", help=f"agree that {sent} leave this machine")
