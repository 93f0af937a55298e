"""The house by numbers: lines of each room, the longest functions, and those with too many arguments.

    python benchmarks/house.py [--longest 12]

Lines are counted as `wc -l` does. A function's length is that of its code from `def` on, docstring included; its
arguments are counted without self. tests/test_architecture.py checks the imports between rooms.
"""

from __future__ import annotations

import argparse
import ast
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "src" / "psalign"
LONG, MANY, POSITIONAL = 45, 6, 2  # most lines, arguments, and arguments that may be given by place


@dataclass(frozen=True)
class Function:
    """A function: where it is, its lines, its arguments, and those of them that may be given by place."""

    place: str
    lines: int
    arguments: int
    positional: int


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--longest", type=int, default=12, help="functions to list (default 12)")
    arguments = parser.parse_args()
    sources = sorted(PACKAGE.rglob("*.py"))
    rooms = Counter[str]()
    for path in sources:
        parts = path.relative_to(PACKAGE).parts
        rooms[parts[0] if len(parts) > 1 else "files at the top"] += _lines(path)
    for room, count in rooms.most_common():
        print(f"{room:18} {count:6,}")
    tests = sum(_lines(path) for path in (ROOT / "tests").rglob("*.py"))
    print(f"{'src':18} {sum(rooms.values()):6,}\n{'tests':18} {tests:6,}\n")
    found = [one for path in sources for one in functions(path)]
    many = [one for one in found if one.arguments > MANY]
    print(f"{len(found):,} functions, median {median(one.lines for one in found):g} lines")
    print(f"{sum(one.lines > LONG for one in found)} longer than {LONG} lines; the longest:")
    for one in sorted(found, key=lambda one: -one.lines)[: arguments.longest]:
        print(f"  {one.lines:4} {one.place}")
    print(f"{len(many)} with more than {MANY} arguments; {sum(one.positional > POSITIONAL for one in found)} with more")
    print(f"than {POSITIONAL} that may be given by place")


def functions(path: Path) -> Iterator[Function]:
    """The functions and methods of a file."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            given = [one.arg for one in (*node.args.posonlyargs, *node.args.args) if one.arg not in ("self", "cls")]
            place = f"{path.relative_to(PACKAGE)}:{node.lineno} {node.name}"
            yield Function(
                place, (node.end_lineno or node.lineno) - node.lineno + 1, len(given) + len(node.args.kwonlyargs),
                len(given),
            )  # fmt: skip


def _lines(path: Path) -> int:
    return path.read_text(encoding="utf-8").count("\n")


if __name__ == "__main__":
    main()
