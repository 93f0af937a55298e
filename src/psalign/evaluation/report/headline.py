"""The report's headline, computed from its numbers: who is best, by how much, and whether that is sure.

Place on the path of data: step 8, the first lines of the benchmark's report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from ..catalog import METHODS, OURS
from ..cells import Variant, competitors
from ..estimate import NO_CASES, Estimate
from ..metrics.limits import differences
from ..metrics.registry import METRICS
from . import format as show
from .leaderboard import Leaderboard

# What decides a leaderboard: the first of these metrics that two methods have, and its name in a sentence.
DECISIVE = {
    "pass": "pass rate",
    "judge_pass": "pass rate by the judge",
    "inpro": "InPro",
    "suppressed": "share of suppressed motifs",
}
PRICES = ("fid", "clip")  # the first of these says what pictures lose


@dataclass(frozen=True)
class Ranking:
    """The best of a leaderboard and the best of the other methods, by its decisive metric.

    overlap: whether their intervals share a number; None where one of them has no interval. difference:
    pass rate of the best less that of the second on the same prompts, where facts give it.
    """

    board: Leaderboard
    metric: str
    best: Variant
    second: Variant
    overlap: bool | None
    difference: Estimate | None

    def rate(self, who: Variant) -> Estimate:
        return self.board.rates[who][self.metric]

    @property
    def is_tie(self) -> bool:
        return bool(self.rate(self.best).value == self.rate(self.second).value)

    @property
    def is_sure(self) -> bool:
        """The intervals lie apart, or the interval of the difference on the same prompts lies above zero."""
        return self.overlap is False or (self.difference is not None and (self.difference.low or 0.0) > 0)


def rank(board: Leaderboard) -> Ranking | None:
    """None where fewer than two methods share a decisive metric."""
    for name in DECISIVE:
        metric = METRICS[name]
        having = [who for who in board.variants if board.rates[who].get(name, NO_CASES).value is not None]
        # Of equal views of our adapter the one that knows the ban list stands for all.
        ordered = sorted(
            competitors(having),
            key=lambda who: (metric.merit(board.rates[who][name]), who.method in OURS),
            reverse=True,
        )
        others = [who for who in ordered if _family(who) != _family(ordered[0])]
        if others:
            best, second = ordered[0], others[0]
            overlap = board.rates[best][name].overlaps(board.rates[second][name])
            between = _difference(board, best, second) if name in ("pass", "judge_pass") else None
            return Ranking(board, name, best, second, overlap, between)
    return None


def title(rankings: Sequence[Ranking]) -> str:
    """The page's title: one sentence."""
    if not rankings:
        return "One method alone: nothing to compare with yet"
    if len(rankings) == 1:
        one = rankings[0]
        if not one.is_sure or one.is_tie:
            return f"{one.best.title} and {one.second.title} do not differ clearly in {DECISIVE[one.metric]}"
        return f"{one.best.title} has the {_end(one.metric)} {DECISIVE[one.metric]}"
    sure = Counter(one.best.method for one in rankings if one.is_sure)
    if not sure:
        return f"In none of {len(rankings)} comparisons is one method clearly best"
    method, count = sure.most_common(1)[0]
    name = METHODS[method].title if method in METHODS else method
    if count < len(rankings):
        return f"{name} is clearly best in {count} of {len(rankings)} comparisons"
    return f"{name} is clearly best in {'both' if count == 2 else f'all {count}'} comparisons"


def sentences(boards: Sequence[Leaderboard], rankings: Sequence[Ranking]) -> list[str]:
    """What came out, as plain text: each ranking, then what ours costs where that was measured."""
    return [_ranked(one) for one in rankings] + [text for board in boards if (text := _price(board))]


def _ranked(one: Ranking) -> str:
    metric = METRICS[one.metric]
    best, second = (show.value(one.rate(who), metric) for who in (one.best, one.second))
    where = one.board.title
    if one.is_tie:
        return f"{where}: {one.best.title} and {one.second.title} have the same {DECISIVE[one.metric]}, {best}."
    return (
        f"{where}: {one.best.title} has the {_end(one.metric)} {DECISIVE[one.metric]}, {best}, "
        f"before {one.second.title} with {second}. {_sureness(one)}"
    )


def _sureness(one: Ranking) -> str:
    if one.overlap is False:
        return "Their intervals do not overlap."
    apart = one.difference
    if one.is_sure and apart is not None and apart.low is not None and apart.high is not None:
        return (
            "Their intervals overlap, but on the same prompts the difference is clear: "
            f"{show.points(apart.low)} to {show.points(apart.high)} points."
        )
    if one.overlap is None:
        return "Without intervals, how sure this order is cannot be said."
    return "Their intervals overlap, so which of the two is better is not sure."


def _price(board: Leaderboard) -> str:
    """FID (or CLIPScore) of the base model and of ours, each row's own user or mildest to strictest level."""
    base = board.rates.get(Variant("base"), {})
    name = next((name for name in PRICES if base.get(name, NO_CASES).value is not None), None)
    ours = [who for who in board.variants if who.is_ours and name in board.rates[who]]
    if name is None or not ours:
        return ""
    metric = METRICS[name]
    own = [who for who in ours if who.strictness is None]
    parts = [
        f"{show.value(board.rates[who][name], metric)} for {who.title}"
        for who in (own or dict.fromkeys((ours[0], ours[-1])))
    ]
    value = show.value(base[name], metric)
    return f"{board.title}: {metric.title} is {value} for the base, {' and '.join(parts)}."


def _family(who: Variant) -> str:
    """The method; the views of one adapter of ours are one method."""
    return OURS[0] if who.method.startswith(OURS[0]) else who.method


def _end(name: str) -> str:
    return "highest" if METRICS[name].direction == "higher" else "lowest"


def _difference(board: Leaderboard, one: Variant, other: Variant) -> Estimate | None:
    if one in board.facts and other in board.facts:
        return differences(board.facts[one], board.facts[other])["pass"]
    return None
