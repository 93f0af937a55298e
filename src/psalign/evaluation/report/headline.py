"""The report's headline in words, computed from its numbers: who is best, by how much, and whether that is sure.

Place on the path of data: step 8, the first lines of the benchmark's report.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from html import unescape

from psalign.files import Record

from ..metrics.facts import differences
from ..statistics import Difference
from .contenders import METHOD_TITLES, OURS, Contender, arena_title, competitors
from .findings import Arena
from .tables import BENCHMARK_METRICS, Metric, points, show_value

# What decides an arena: the first of these that two methods have; and its name in a sentence.
DECISIVE = {
    "pass": "pass rate",
    "judge_pass": "pass rate by the judge",
    "inpro": "InPro",
    "suppressed": "share of suppressed motifs",
}
PRICES = ("fid", "clip")  # the first that an arena has says what pictures lose


@dataclass(frozen=True)
class Ranking:
    """Best of an arena and the best of the other methods, by its decisive metric.

    overlap: whether their intervals do; None where one of them has none. difference: of their pass rates on the same
    prompts, where facts about single pictures say it.
    """

    arena: Arena
    metric: str
    best: Contender
    second: Contender
    overlap: bool | None
    difference: Difference | None

    def rate(self, who: Contender) -> Record:
        return self.arena.rates[who][self.metric]

    @property
    def is_tie(self) -> bool:
        return bool(self.rate(self.best)["value"] == self.rate(self.second)["value"])

    @property
    def is_sure(self) -> bool:
        """The intervals lie apart, or the interval of the difference on the same prompts lies above zero."""
        return self.overlap is False or (self.difference is not None and (self.difference.low or 0.0) > 0)


def rank(arena: Arena) -> Ranking | None:
    """None where fewer than two methods share a decisive metric."""
    for name in DECISIVE:
        metric = BENCHMARK_METRICS[name]
        having = [who for who in arena.contenders if arena.rates[who].get(name, {}).get("value") is not None]
        ordered = sorted(competitors(having), key=lambda who: _goodness(arena.rates[who][name], metric), reverse=True)
        others = [who for who in ordered if who.method != ordered[0].method]
        if others:
            best, second = ordered[0], others[0]
            between = _difference(arena, best, second) if name in ("pass", "judge_pass") else None
            return Ranking(arena, name, best, second, _overlap(arena, name, best, second), between)
    return None


def title(rankings: Sequence[Ranking]) -> str:
    """The page's title: one sentence."""
    if not rankings:
        return "One method alone: nothing to compare with yet"
    if len(rankings) == 1:
        one = rankings[0]
        if not one.is_sure or one.is_tie:
            return f"{one.best.title} and {one.second.title} cannot be told apart by {DECISIVE[one.metric]}"
        return f"{one.best.title} has the {_end(one.metric)} {DECISIVE[one.metric]}"
    sure = Counter(one.best.method for one in rankings if one.is_sure)
    if not sure:
        return f"In none of {len(rankings)} comparisons is one method clearly best"
    method, count = sure.most_common(1)[0]
    name = METHOD_TITLES.get(method, (method, ""))[0]
    return (
        f"{name} is clearly best in {'all ' if count == len(rankings) else f'{count} of '}{len(rankings)} comparisons"
    )


def sentences(arenas: Sequence[Arena], rankings: Sequence[Ranking]) -> list[str]:
    """What came out, as plain text: each ranking, then what ours costs where that was measured."""
    return [_ranked(one) for one in rankings] + [told for arena in arenas if (told := _price(arena))]


def _ranked(one: Ranking) -> str:
    metric = BENCHMARK_METRICS[one.metric]
    best, second = (unescape(show_value(one.rate(who), metric)) for who in (one.best, one.second))
    where = arena_title(one.arena.dataset, one.arena.base)
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
            f"{points(apart.low)} to {points(apart.high)} points."
        )
    if one.overlap is None:
        return "Without intervals, how sure this order is cannot be said."
    return "Their intervals overlap, so which of the two is better is not sure."


def _price(arena: Arena) -> str:
    """FID (or CLIPScore) of the base model and of ours, each row's own user or mildest to strictest level."""
    base = arena.rates.get(Contender("base"), {})
    name = next((name for name in PRICES if base.get(name, {}).get("value") is not None), None)
    ours = [who for who in arena.contenders if who.method == OURS and name in arena.rates[who]]
    if name is None or not ours:
        return ""
    metric = BENCHMARK_METRICS[name]
    own = [who for who in ours if who.strictness is None]
    told = [
        f"{unescape(show_value(arena.rates[who][name], metric))} for {who.title}"
        for who in (own or dict.fromkeys((ours[0], ours[-1])))
    ]
    value = unescape(show_value(base[name], metric))
    return f"{arena_title(arena.dataset, arena.base)}: {metric.title} is {value} for the base, {' and '.join(told)}."


def _end(name: str) -> str:
    return "highest" if BENCHMARK_METRICS[name].higher_is_better else "lowest"


def _goodness(rate: Record, metric: Metric) -> float:
    value = float(rate["value"])
    return value if metric.higher_is_better else -value


def _difference(arena: Arena, one: Contender, other: Contender) -> Difference | None:
    if one in arena.facts and other in arena.facts:
        return differences(arena.facts[one], arena.facts[other])["pass"]
    return None


def _overlap(arena: Arena, name: str, one: Contender, other: Contender) -> bool | None:
    a, b = arena.rates[one][name], arena.rates[other][name]
    if None in (a["low"], a["high"], b["low"], b["high"]):
        return None
    return bool(a["low"] <= b["high"] and b["low"] <= a["high"])
