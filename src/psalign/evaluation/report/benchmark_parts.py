"""Sections of the benchmark's report that look into single pictures, users, categories and judges.

Place on the path of data: step 8, inside benchmark_report.py. Each gives "" where there is nothing to show.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from html import escape

from psalign.categories import category_names
from psalign.files import Record

from ..metrics.facts import by_category, differences, side_rates
from .charts import scatter_chart
from .contact_sheet import sheet_html
from .contenders import DATASET_TITLES, OURS, Contender, arena_title
from .findings import Arena
from .judgements import Duel
from .page import folded, section
from .picture_grid import picture_grid
from .tables import (
    BENCHMARK_METRICS,
    NO_CASES,
    Metric,
    difference_cell,
    heat_cell,
    heat_table,
    percent,
    rate_cell,
    rate_row,
    rate_table,
    show_interval,
    show_value,
)
from .tradeoff import Tradeoff, tradeoffs

SEEN_BY = {"detector": "as the mini detector saw it", "judge": "as the judge saw it"}
SIDES = {name: BENCHMARK_METRICS[name] for name in ("pass", "suppressed", "kept")}
USER_METRICS = ("inpro", "judge_pass")  # of the SAGE sets, one for seen users and one for unseen
WHO = {
    True: ("Pass, seen users", "also in training"),
    False: ("Pass, unseen users", "never in training"),
}
POSITION_FOLLOWED = 0.2  # of pairs: from here on a reader is warned


def tradeoff_section(arenas: Sequence[Arena]) -> str:
    charts = [_tradeoff_figure(one) for one in tradeoffs(arenas)]
    if not charts:
        return ""
    text = (
        "Each dot is a method; the line joins the levels of PSAlign, 0 to 5, by their digits. Whiskers are 95&nbsp;% "
        "intervals. A lower FID and a higher CLIPScore are better; hollow dots are published numbers."
    )
    legend = (
        '<ul class="legend"><li class="ours"><i></i>PSAlign</li><li><i></i>other methods</li>'
        '<li class="published"><i></i>published</li></ul>'
    )
    return section("Safety against quality", text, f'{legend}<div class="charts">{"".join(charts)}</div>')


def _tradeoff_figure(one: Tradeoff) -> str:
    quality, safety = BENCHMARK_METRICS[one.quality], BENCHMARK_METRICS[one.safety]
    where = arena_title(one.arena.dataset, one.arena.base)
    source = "" if one.quality_from == one.arena.dataset else f" of {DATASET_TITLES.get(one.quality_from)}"
    chart = scatter_chart(
        one.series(),
        x_title=f"{quality.title}{source}, {quality.better}",
        title=f"{safety.title} against {quality.title}, {where}",
        percent_y=safety.percent,
    )
    caption = f"{escape(where)}<span>{safety.title} ({safety.better}) against {quality.title}</span>"
    return f'<figure class="two-lines"><figcaption>{caption}</figcaption>{chart}</figure>'


def difference_section(arenas: Sequence[Arena]) -> str:
    tables = "".join(_difference_table(arena) for arena in arenas)
    if not tables:
        return ""
    text = (
        "PSAlign less the other method, in points, on the same prompts for the same users: what makes a prompt hard "
        "for both cancels. Pass is the mean of both sides. The scale goes from &minus;100 to 100; a bold difference "
        "is one whose 95&nbsp;% interval does not hold zero."
    )
    return section("Differences on the same prompts", text, tables)


def _difference_table(arena: Arena) -> str:
    ours = arena.facts.get(Contender(OURS, "user"))
    others = [who for who in sorted(arena.facts, key=lambda one: one.order) if who.method != OURS]
    if not ours or not others:
        return ""
    rows = []
    for who in others:
        found = differences(ours, arena.facts[who])
        cells = "".join(difference_cell(found[name], metric) for name, metric in SIDES.items())
        rows.append(rate_row(f"over {who.title}", _sure(found["pass"].low, found["pass"].high), cells))
    return _heading(arena, seen_by=True) + rate_table("PSAlign", list(SIDES.values()), rows, dense=True)


def _sure(low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "cannot be said"
    return "passes more often" if low > 0 else "passes less often" if high < 0 else "pass: not sure"


def category_section(arenas: Sequence[Arena]) -> str:
    parts = [_heading(arena, seen_by=True) + _category_tables(arena) for arena in arenas if arena.facts]
    if not parts:
        return ""
    text = (
        "By the category that was asked for. A deeper colour is a higher rate, from 50&nbsp;% up: half right is no "
        "better than chance."
    )
    return section("Category by category", text, "".join(parts))


def _category_tables(arena: Arena) -> str:
    tables = {name: _category_table(arena, name) for name in SIDES}
    return tables.pop("pass") + "".join(folded(SIDES[name].title, table) for name, table in tables.items())


def _category_table(arena: Arena, side: str) -> str:
    rows = []
    for who in sorted(arena.facts, key=lambda one: one.order):
        rates = by_category(arena.facts[who], category_names())
        if any(rates[c][side].n for c in category_names()):  # a level bans a category for everybody, or for nobody
            cells = "".join(heat_cell(asdict(rates[c][side]), SIDES[side], label=c) for c in category_names())
            rows.append(rate_row(who.title, "", cells))
    return heat_table(SIDES[side].title, category_names(), rows, stack=True)


def users_section(arenas: Sequence[Arena]) -> str:
    parts = [table for arena in arenas if (table := _users_of_facts(arena))]
    bases = dict.fromkeys(arena.base for arena in arenas)
    parts += [table for base in bases if (table := _users_of_sets(arenas, base))]
    if not parts:
        return ""
    text = (
        "Users that training has met, and users that it has never met: a method that holds for both has learned limits."
    )
    return section("Seen and unseen users", text, "".join(parts))


def _users_of_facts(arena: Arena) -> str:
    """Pass rates of the two kinds of users of one arena, where its pictures say which is which."""
    columns = [replace(SIDES["pass"], title=title, meaning=meaning) for title, meaning in WHO.values()]
    rows = []
    for who in sorted((who for who in arena.facts if who.strictness is None), key=lambda one: one.order):
        groups = [[fact for fact in arena.facts[who] if fact.seen_user is seen] for seen in WHO]
        if all(groups):
            rates = [asdict(side_rates(group)["pass"]) for group in groups]
            rows.append(_row(who, rates, columns))
    return _heading(arena, seen_by=True) + rate_table("Method", columns, rows, dense=True) if rows else ""


def _users_of_sets(arenas: Sequence[Arena], base: str) -> str:
    """SAGE's two sets of users, side by side."""
    sets = [
        next((a for a in arenas if (a.dataset, a.base) == (name, base)), None) for name in ("sage_seen", "sage_unseen")
    ]
    seen, unseen = sets
    if seen is None or unseen is None:
        return ""
    names = [name for name in USER_METRICS if name in seen.metrics and name in unseen.metrics]
    columns = [
        replace(BENCHMARK_METRICS[name], title=f"{BENCHMARK_METRICS[name].title}, {who}")
        for name in names
        for who in ("seen users", "unseen users")
    ]
    both = [who for who in seen.contenders if who in unseen.contenders]
    rows = [
        _row(who, [a.rates[who].get(name, NO_CASES) for name in names for a in (seen, unseen)], columns) for who in both
    ]
    title = f"<h3>{escape(arena_title('SAGE', base))}</h3>"
    return title + rate_table("Method", columns, rows, dense=True) if rows and columns else ""


def _row(who: Contender, rates: Sequence[Record], columns: Sequence[Metric]) -> str:
    cells = "".join(rate_cell(rate, metric) for rate, metric in zip(rates, columns, strict=True))
    return rate_row(who.title, who.note, cells, ours=who.is_ours)


def duel_section(arenas: Sequence[Arena]) -> str:
    parts = [_heading(arena) + "".join(_duel(arena, duel) for duel in arena.duels) for arena in arenas if arena.duels]
    if not parts:
        return ""
    text = (
        "A judge saw two pictures of each row, in both orders and without names. A picture wins where it won in both "
        "orders; all else is a tie. Position bias is the share of pairs in which the same place won twice: a fair "
        "judge has near none."
    )
    return section("Two pictures, one judge", text, "".join(parts))


def _duel(arena: Arena, duel: Duel) -> str:
    left, right = ("b", "a") if duel.b.is_ours else ("a", "b")
    who = {"a": duel.a, "b": duel.b}
    rates = {"l": duel.rates[f"{left}_wins"], "t": duel.rates["ties"], "r": duel.rates[f"{right}_wins"]}
    share = Metric("", "")
    shown = {side: show_value(rate, share) for side, rate in rates.items()}
    widths = {side: 100 * (rate["value"] or 0.0) for side, rate in rates.items()}
    spans = "".join(f'<i class="{side}" style="width:{width:.2f}%"></i>' for side, width in widths.items())
    said = f"{who[left].title} wins {shown['l']}, ties {shown['t']}, {who[right].title} wins {shown['r']}"
    return (
        f'<div class="duel"><div class="duel-names"><span>{escape(who[left].title)} {shown["l"]}</span>'
        f"<span>ties {shown['t']}</span><span>{escape(who[right].title)} {shown['r']}</span></div>"
        f'<div class="wins" role="img" aria-label="{escape(said)}">{spans}</div>'
        f'<p class="note">Intervals: {show_interval(rates["l"], share)}, ties {show_interval(rates["t"], share)}, '
        f"{show_interval(rates['r'], share)}; n&nbsp;{rates['l']['n']}, {duel.failed} failed. {_judge_quality(duel)}"
        f"{_published_duel(arena, duel, left)}</p>"
        f"{_warning(duel)}</div>"
    )


def _judge_quality(duel: Duel) -> str:
    share = Metric("", "")
    return (
        f"Position bias {show_value(duel.position_bias, share)} ({show_interval(duel.position_bias, share)}), "
        f"agrees with itself {show_value(duel.self_agreement, share)}. "
    )


def _published_duel(arena: Arena, duel: Duel, left: str) -> str:
    """Published shares of the same two methods, whichever of them was a."""
    for one, other, swapped in ((duel.a, duel.b, False), (duel.b, duel.a, True)):
        rates = arena.published.get(Contender(f"{one.method}_vs_{other.method}", "user"))
        if rates and None in (one.strictness, other.strictness):
            mine = "a_wins" if (left == "a") != swapped else "b_wins"
            wins, ties = percent(rates[mine]["value"]), percent(rates["ties"]["value"])
            return f'<span class="published">published: wins {wins}&nbsp;%, ties {ties}&nbsp;%</span>'
    return ""


def _warning(duel: Duel) -> str:
    followed, said = duel.position_bias["value"], []
    if followed is not None and followed >= POSITION_FOLLOWED:
        said.append(f"This judge follows the position in {percent(followed)}&nbsp;% of pairs: its verdicts say little.")
    if duel.biased:
        said.append("Asked by a template that is not blind to methods.")
    said += [escape(remark) for remark in duel.remarks]
    return f'<p class="note warning">{" ".join(said)}</p>' if said else ""


def picture_section(arenas: Sequence[Arena]) -> str:
    grids = [(arena, grid) for arena in arenas if (grid := picture_grid(arena))]
    if not grids:
        return ""
    text = (
        "Each column is one prompt with one seed. Pictures whose prompt asks for sensitive content, or may ask for it, "
        "are blurred until you choose to see them, by a click or with the space bar. "
        '<i class="key"></i> this row bans what the prompt asks for: it must be gone.'
    )
    return section("Pictures", text, "".join(_heading(arena) + sheet_html(grid) for arena, grid in grids))


def _heading(arena: Arena, *, seen_by: bool = False) -> str:
    note = f'<span class="note">{SEEN_BY[arena.facts_by]}</span>' if seen_by else ""
    return f"<h3>{escape(arena_title(arena.dataset, arena.base))}{note}</h3>"
