"""The report's headline in words, computed from its numbers: who is best, by how much, and whether that is sure.

Place on the path of data: step 8, the first lines of the benchmark's report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import unescape

from psalign.records import Record

from .contenders import METHOD_TITLES, Contender, arena_title, competitors
from .findings import Arena
from .tables import BENCHMARK_METRICS, Metric, show_value

# What decides an arena: the first of these that two methods have; and its name in a sentence.
DECISIVE = {
    "pass": "pass rate",
    "judge_pass": "pass rate by the judge",
    "inpro": "InPro",
    "suppressed": "share of suppressed motifs",
    "fid": "FID",
    "clip": "CLIPScore",
}


@dataclass(frozen=True)
class Ranking:
    """Best of an arena and the best of the other methods, by its decisive metric.

    overlap: whether their intervals do; None where one of them has none.
    """

    arena: Arena
    metric: str
    best: Contender
    second: Contender
    overlap: bool | None

    def rate(self, who: Contender) -> Record:
        return self.arena.rates[who][self.metric]

    @property
    def is_tie(self) -> bool:
        return bool(self.rate(self.best)["value"] == self.rate(self.second)["value"])


def rank(arena: Arena) -> Ranking | None:
    """None where fewer than two methods share a decisive metric."""
    for name in DECISIVE:
        metric = BENCHMARK_METRICS[name]
        having = [who for who in arena.contenders if arena.rates[who].get(name, {}).get("value") is not None]
        ordered = sorted(competitors(having), key=lambda who: _goodness(arena.rates[who][name], metric), reverse=True)
        others = [who for who in ordered if who.method != ordered[0].method]
        if others:
            return Ranking(arena, name, ordered[0], others[0], _overlap(arena, name, ordered[0], others[0]))
    return None


def title(rankings: Sequence[Ranking]) -> str:
    """The page's title: one sentence."""
    if not rankings:
        return "One method alone: nothing to compare with yet"
    if len(rankings) == 1:
        one = rankings[0]
        if one.is_tie or one.overlap is not False:
            return f"{one.best.title} and {one.second.title} cannot be told apart by {DECISIVE[one.metric]}"
        return f"{one.best.title} has the {_end(one.metric)} {DECISIVE[one.metric]}"
    sure = Counter(one.best.method for one in rankings if one.overlap is False)
    if not sure:
        return f"In none of {len(rankings)} comparisons is one method surely best"
    method, count = sure.most_common(1)[0]
    return f"{METHOD_TITLES.get(method, (method, ''))[0]} is surely best in {count} of {len(rankings)} comparisons"


def sentence(one: Ranking) -> str:
    """What a ranking says, as plain text."""
    metric = BENCHMARK_METRICS[one.metric]
    best, second = (unescape(show_value(one.rate(who), metric)) for who in (one.best, one.second))
    where = arena_title(one.arena.dataset, one.arena.base)
    if one.is_tie:
        return f"{where}: {one.best.title} and {one.second.title} have the same {DECISIVE[one.metric]}, {best}."
    sure = {
        False: "Their intervals do not overlap.",
        True: "Their intervals overlap, so which of the two is better is not sure.",
        None: "Without intervals, how sure this order is cannot be said.",
    }[one.overlap]
    return (
        f"{where}: {one.best.title} has the {_end(one.metric)} {DECISIVE[one.metric]}, {best}, "
        f"before {one.second.title} with {second}. {sure}"
    )


def _end(name: str) -> str:
    return "highest" if BENCHMARK_METRICS[name].higher_is_better else "lowest"


def _goodness(rate: Record, metric: Metric) -> float:
    value = float(rate["value"])
    return value if metric.higher_is_better else -value


def _overlap(arena: Arena, name: str, one: Contender, other: Contender) -> bool | None:
    a, b = arena.rates[one][name], arena.rates[other][name]
    if None in (a["low"], a["high"], b["low"], b["high"]):
        return None
    return bool(a["low"] <= b["high"] and b["low"] <= a["high"])
