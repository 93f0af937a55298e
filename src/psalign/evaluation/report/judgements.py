"""What a judge left on disk, checked at the door: rates of single models, duels of two, and facts about each picture.

Place on the path of data: step 8, from results_evaluate/ and results_compare/ into the benchmark's report.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from psalign.categories import category_names, require_label
from psalign.errors import EvaluationError, UsageError
from psalign.files import Record, read_json
from psalign.ids import shorten

from ..judge.cases import split_model
from ..metrics.facts import Fact
from .contenders import Contender, contender
from .published import Figures, is_published_summary, read_summary

T = TypeVar("T")

RATES = ("pass", "banned_respected", "allowed_kept", "clean")
SHARES = ("a_wins", "b_wins", "ties")
NAMES: dict[type, str] = {str: "text", dict: "a JSON object", list: "a list"}
HINT = "Run psalign eval judge again with the same --out (replies are kept), or leave that file out of --judge."
_fault = partial(EvaluationError, hint=HINT)
# Of a results file, beside its mode.
PARTS: dict[str, type] = {"dataset": str, "base": str, "judge": dict, "summary": dict, "rows": list}


@dataclass(frozen=True)
class Judgement:
    """A judge's rates of one contender: those of RATES, as judge_pass and so on.

    judged_for: whose users' bans it was judged for, as the judge names models. biased: asked by a template that is not
    blind. failed: rows whose judgement failed; facts: of the others.
    """

    dataset: str
    base: str
    contender: Contender
    judged_for: str
    rates: dict[str, Record]
    facts: list[Fact]
    failed: int
    biased: bool
    remarks: tuple[str, ...]

    @property
    def is_for_a_level(self) -> bool:
        """Judged for a level's user, by a method without levels: no number of its own row in the tables."""
        return self.contender.strictness is None and split_model(self.judged_for)[1] is not None


@dataclass(frozen=True)
class Duel:
    """Two contenders' pictures of the same rows, in both orders: shares of wins and ties, which sum to 1."""

    dataset: str
    base: str
    a: Contender
    b: Contender
    rates: dict[str, Record]
    position_bias: Record
    self_agreement: Record
    failed: int
    biased: bool
    remarks: tuple[str, ...]


def read_judgements(places: Sequence[Path]) -> tuple[list[Judgement], list[Duel]]:
    """Every *.json under the folders, and the files given; summaries of the published judge are left to read_summaries.

    Raises UsageError for a folder without one, EvaluationError for a broken one.
    """
    judgements, duels = [], []
    for path in _files(places):
        record = _read(path)
        if record is None:
            continue
        if record["mode"] == "evaluate":
            judgements.append(_judgement(record, path))
        else:
            duels.append(_duel(record, path))
    return judgements, duels


def read_summaries(places: Sequence[Path]) -> list[Figures]:
    """What the published judge's summaries among the same files say. Raises EvaluationError for a broken one."""
    records = [(path, read_json(path, what="the results of a judge", fault=_fault)) for path in _files(places)]
    return [read_summary(record, path) for path, record in records if is_published_summary(record)]


def _files(places: Sequence[Path]) -> list[Path]:
    paths = []
    for place in places:
        found = [place] if place.is_file() else sorted(place.rglob("*.json"))
        if not found:
            raise UsageError(f"{place} holds no judgements (*.json).", hint="Judge first: psalign eval judge --help")
        paths += found
    return paths


def _read(path: Path) -> Record | None:
    """A results file of ours; None for a summary of the published judge."""
    record = read_json(path, what="the results of a judge", fault=_fault)
    if is_published_summary(record):
        return None
    record = read_json(path, what="the results of a judge", needs=("mode", *PARTS), fault=_fault)
    for key, kind in PARTS.items():
        _typed(record, key, kind, path)
    if record["mode"] not in ("evaluate", "compare"):
        raise _fault(f"{path} is damaged: its mode is {record['mode']!r}; expected evaluate or compare.")
    require_label(
        _typed(record, "taxonomy", str, path) if "taxonomy" in record else None, of=f"the judgements in {path}"
    )
    if not all(isinstance(row, dict) for row in record["rows"]):
        raise _fault(f"{path} is damaged: a row is no JSON object.")
    return record


def _judgement(record: Record, path: Path) -> Judgement:
    summary, level = record["summary"], record.get("level")
    method = _typed(record, "method", str, path)
    if level is not None and (type(level) is not int or not 0 <= level <= 5):
        raise EvaluationError(f"{path} is damaged: its level is {level!r}; expected 0 to 5, or null.", hint=HINT)
    return Judgement(
        dataset=record["dataset"],
        base=record["base"],
        contender=contender(method, level),
        judged_for=_typed(record, "judged_for", str, path) if record.get("judged_for") else method,
        rates={f"judge_{name}": read_rate(_get(summary, name, path), f"{path}, {name}") for name in RATES},
        facts=list(_facts(record["rows"], path)),
        failed=_count(summary, "failed", path),
        biased=bool(record["judge"].get("biased")),
        remarks=_remarks(record, path),
    )


def _duel(record: Record, path: Path) -> Duel:
    summary = record["summary"]
    rates = {name: read_rate(_get(summary, name, path), f"{path}, {name}") for name in SHARES}
    if any(rate["n"] for rate in rates.values()):
        total = sum(rate["value"] or 0.0 for rate in rates.values())
        if not math.isclose(total, 1.0, abs_tol=1e-6):
            raise EvaluationError(f"{path}: wins and ties sum to {total:.4f}; expected 1.", hint=HINT)
    return Duel(
        dataset=record["dataset"],
        base=record["base"],
        a=_side(record, "a", path),
        b=_side(record, "b", path),
        rates=rates,
        position_bias=read_rate(_get(summary, "position_bias", path), f"{path}, position_bias"),
        self_agreement=read_rate(_get(summary, "self_agreement", path), f"{path}, self_agreement"),
        failed=_count(summary, "failed", path),
        biased=bool(record["judge"].get("biased")),
        remarks=_remarks(record, path),
    )


def _side(record: Record, key: str, path: Path) -> Contender:
    try:
        return contender(*split_model(_typed(record, key, str, path)))
    except UsageError as err:
        raise EvaluationError(f"{path} is damaged: {err}", hint=HINT) from err


def _facts(rows: Iterable[Record], path: Path) -> Iterator[Fact]:
    """One fact for each side that a judged row asks for: something its user bans, something its user allows."""
    for row in rows:
        if row.get("failed") or "clean" not in row:
            continue
        name, banned = _typed(row, "file_name", str, path), _typed(row, "banned", list, path)
        given = _typed(row, "asked", list, path) if row.get("asked") else []
        asked = [category for category in category_names() if category in given]
        for is_banned, passed in ((True, row["clean"]), (False, _get(row, "kept", path))):
            side = [category for category in asked if (category in banned) == is_banned]
            if side:
                yield Fact(name, side[0], banned=is_banned, passed=bool(passed))


def _remarks(record: Record, path: Path) -> tuple[str, ...]:
    left = _count(record["summary"], "not_judged", path) if "not_judged" in record["summary"] else 0
    unfinished = [f"{left} rows are not judged yet; the same command goes on."] if left else []
    remarks = _typed(record, "remarks", list, path) if "remarks" in record else []
    return (*map(str, remarks), *unfinished)


def read_rate(record: Any, where: str) -> Record:
    """A rate of a file as {"value", "n", "low", "high"}. Raises EvaluationError where it cannot be one."""
    if not isinstance(record, dict) or type(record.get("n")) is not int or record["n"] < 0:
        raise EvaluationError(f"{where}: expected a rate with value, n, low and high.", hint=HINT)
    rate = {key: record.get(key) for key in ("value", "n", "low", "high")}
    if rate["value"] is None:
        return {**rate, "low": None, "high": None}
    for key in ("value", "low", "high"):
        number = rate[key]
        if number is None and key != "value":
            continue
        if not isinstance(number, int | float) or isinstance(number, bool) or not 0 <= number <= 1:
            raise EvaluationError(f"{where}: {key} is {number}; expected a number from 0 to 1.", hint=HINT)
    return rate


def _count(record: Record, key: str, path: Path) -> int:
    count = _get(record, key, path)
    if type(count) is not int or count < 0:
        raise EvaluationError(f"{path}: {key} is {count!r}; expected a number of rows.", hint=HINT)
    return count


def _get(record: Record, key: str, path: Path) -> Any:
    if key not in record:
        raise EvaluationError(f"{path} is damaged: it has no {key!r} where it was expected.", hint=HINT)
    return record[key]


def _typed(record: Record, key: str, kind: type[T], path: Path) -> T:
    value = _get(record, key, path)
    if not isinstance(value, kind):
        raise EvaluationError(f"{path} is damaged: {key} is {shorten(value)}; expected {NAMES[kind]}.", hint=HINT)
    return value
