"""The page that answers for a whole benchmark: who is best, how sure that is, what it costs, and what is missing.

Place on the path of data: step 8, from findings to one HTML file; its parts for single judges and pictures are in
benchmark_parts.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path

from psalign.files import Record, write_text

from .benchmark_parts import (
    category_section,
    difference_section,
    duel_section,
    picture_section,
    tradeoff_section,
    users_section,
)
from .contenders import OURS, Contender, arena_title, competitors
from .findings import Arena
from .headline import Ranking, rank, sentences, title
from .page import as_json, folded, header, headline_figure, page, section
from .tables import (
    BENCHMARK_METRICS,
    METRIC_GROUPS,
    absent_cell,
    best_of,
    flat_table,
    number_cells,
    rate_cell,
    rate_row,
    rate_table,
    show_value,
)

LEAD = (
    "Every method drew the same prompts. This page says what of the unwanted is gone, what of the wanted is kept, and "
    "what harmless pictures lose."
)
ALL_METHODS = (
    "Below each number: its 95&nbsp;% interval and the number n of cases. <em>best</em> marks the best value among "
    "methods; where intervals overlap, the order is not sure. A model that draws nothing suppresses everything: read "
    "what is suppressed together with what is kept. Published numbers stand below ours where the same cell was "
    "published; they are not ours and have no intervals."
)
PUBLISHED = (
    "Published numbers: arXiv 2508.01151 and its repository M-E-AGI-Lab/PSAlign, commit 2dde9226. Paper and repository "
    "disagree on pass rates; shown are the repository's. Its own method had other seeds and another negative prompt "
    "than the rest, its judge knew the methods' names, and its rates of the judge are over all rows: its banned "
    "respected stands beside our clean, and its allowed respected asks less than our allowed kept."
)
NOTHING_MISSING = "<p>No cell is missing, and none has failed.</p>"
FEW = 100  # cases: below that a reader is told
HOW = (
    "Rates carry Wilson's 95&nbsp;% interval; pass combines those of suppressed and kept; differences are "
    "bootstrapped over prompts (BCa, 10,000 draws, fixed seed). The page holds user ids and categories at most, "
    "no profiles."
)


def write_benchmark_report(path: Path, arenas: Sequence[Arena], *, about: Record) -> None:
    """Write the report as one HTML file that needs nothing else.

    about: what made it, told in the fine print: "command", "versions", ...
    """
    rankings = [ranking for arena in arenas if (ranking := rank(arena))]
    sections = [
        _head(arenas, rankings),
        section("All methods", ALL_METHODS, "".join(_arena(arena) for arena in arenas)),
        tradeoff_section(arenas),
        difference_section(arenas),
        category_section(arenas),
        users_section(arenas),
        duel_section(arenas),
        picture_section(arenas),
        _limits(arenas),
        _fine_print(arenas, about),
    ]
    write_text(path, page(title(rankings), sections))


def _head(arenas: Sequence[Arena], rankings: Sequence[Ranking]) -> str:
    return header(title(rankings), LEAD, points=sentences(arenas, rankings), **_strip(rankings))


def _strip(rankings: Sequence[Ranking]) -> Record:
    """Large figures of ours in the first arena that has shares to show."""
    for ranking in rankings:
        ours = next((who for who in competitors(ranking.arena.contenders) if who.method == OURS), None)
        rates = ranking.arena.rates.get(ours, {}) if ours else {}
        names = [name for name, metric in BENCHMARK_METRICS.items() if metric.percent and name in rates][:4]
        if ours and names:
            base = ranking.arena.rates.get(Contender("base"), {})
            figures = [headline_figure(rates[n], BENCHMARK_METRICS[n], base=base.get(n)) for n in names]
            where = arena_title(ranking.arena.dataset, ranking.arena.base)
            return {"label": f"{ours.title}, {where}", "figures": figures}
    return {}


def _arena(arena: Arena) -> str:
    tables = "".join(_group(arena, note, names) for note, names in METRIC_GROUPS.items())
    heading = f"<h3>{escape(arena_title(arena.dataset, arena.base))}</h3>"
    return heading + (tables or '<p class="soft">No number of this set was measured; see Limits.</p>')


def _group(arena: Arena, note: str, names: Sequence[str]) -> str:
    shown = [name for name in names if name in arena.metrics]
    rows = [who for who in arena.contenders if any(name in arena.rates[who] for name in shown)]
    if not rows:
        return ""
    best = {
        name: best_of({w: arena.rates[w] for w in competitors(rows)}, name, BENCHMARK_METRICS[name]) for name in shown
    }
    body = [
        rate_row(
            who.title,
            who.note,
            "".join(_cell(arena, who, name, best=who in best[name]) for name in shown),
            ours=who.method == OURS,
            warning=f"Confounded: {'; '.join(marks)}" if (marks := arena.marks.get(who)) else "",
        )
        for who in rows
    ]
    return rate_table("Method", [BENCHMARK_METRICS[name] for name in shown], body, caption=note, dense=True) + _notes(
        arena, rows, shown
    )


def _notes(arena: Arena, rows: Sequence[Contender], shown: Sequence[str]) -> str:
    """What must be known of the numbers above: each note once, with whom it is about where that is not everybody."""
    about: dict[tuple[str, str], list[Contender]] = {}
    for name in shown:
        for who in rows:
            if note := arena.notes.get((who, name)):
                about.setdefault((BENCHMARK_METRICS[name].title, note), []).append(who)
    by_note: dict[tuple[str, str], list[str]] = {}
    for (metric, note), whom in about.items():
        named = "" if len(whom) == len(rows) else ", ".join(who.title for who in whom)
        by_note.setdefault((note, named), []).append(metric)
    told = [
        f"{'Every number' if len(metrics) == len(shown) > 1 else ', '.join(metrics)}"
        f"{f' ({named})' if named else ''}: {note}."
        for (note, named), metrics in by_note.items()
    ]
    return f'<ul class="plain notes">{"".join(f"<li>{escape(one)}</li>" for one in told)}</ul>' if told else ""


def _cell(arena: Arena, who: Contender, name: str, *, best: bool) -> str:
    metric, rate = BENCHMARK_METRICS[name], arena.rates[who].get(name)
    if rate is None:
        fault = next((f for f in arena.faults if (f.contender, f.metric) == (who, name)), None)
        return absent_cell(metric, fault.state if fault else "not measured")
    published = arena.published.get(who, {}).get(name)
    below = f'<span class="published">published {show_value(published, metric)}</span>' if published else ""
    return rate_cell(rate, metric, best=best, below=below)


def _limits(arenas: Sequence[Arena]) -> str:
    told = [f"<li>{escape(limit)}</li>" for limit in _limit_sentences(arenas)]
    faults = "".join(f"<li>{fault}</li>" for arena in arenas for fault in _faults(arena))
    missing = f'<h3>Missing and failed</h3><ul class="plain">{faults}</ul>' if faults else NOTHING_MISSING
    return section("Limits", "", f'<ul class="plain">{"".join(told)}</ul>{missing}')


def _faults(arena: Arena) -> Iterator[str]:
    """One item for each reason, as HTML: a cell that was not drawn lacks all of its metrics, and a tool all cells."""
    metrics: dict[tuple[Contender, str, str], list[str]] = {}
    for fault in arena.faults:
        reason = " ".join(fault.note.split()) or "no reason was given"
        metrics.setdefault((fault.contender, fault.state, reason), []).append(BENCHMARK_METRICS[fault.metric].title)
    whom: dict[tuple[str, str, str], list[str]] = {}
    for (who, state, reason), names in sorted(metrics.items(), key=lambda item: item[0][0].order):
        whom.setdefault((state, reason, ", ".join(names)), []).append(who.title)
    for (state, reason, lacking), titles in whom.items():
        where = escape(f"{arena_title(arena.dataset, arena.base)}: {', '.join(titles)}")
        yield f"<strong>{where}</strong>, {lacking} {escape(state)}: {escape(reason)}"


def _limit_sentences(arenas: Sequence[Arena]) -> Iterator[str]:
    for arena in arenas:
        where = arena_title(arena.dataset, arena.base)
        for who, marks in arena.marks.items():
            yield f"{where}: {who.title} is confounded, for it was drawn otherwise than fair: {'; '.join(marks)}."
        biased = [who.title for who, judgement in arena.judgements.items() if judgement.biased]
        if biased:
            yield f"{where}: the judge of {', '.join(biased)} was asked by a template that is not blind to methods."
        failed = [f"{one.failed} of {who.title}" for who, one in arena.judgements.items() if one.failed]
        if failed:
            yield f"{where}: judgements failed and are in no rate: {', '.join(failed)}."
        remarks = dict.fromkeys(remark for judgement in arena.judgements.values() for remark in judgement.remarks)
        yield from (f"{where}: {remark}" for remark in (*remarks, *arena.remarks))
        small = [rate["n"] for rates in arena.rates.values() for rate in rates.values() if 0 < rate["n"] < FEW]
        if small:
            yield f"{where}: some numbers are of few cases (from n = {min(small)})."
    without = [arena_title(arena.dataset, arena.base) for arena in arenas if not arena.facts]
    if without:
        yield f"No facts about single pictures, so no categories and no paired differences: {'; '.join(without)}."
    if not any(arena.duels for arena in arenas):
        yield "No two methods were compared picture by picture (--judge results_compare)."
    yield "A detector or a judge can be wrong; FID and CLIPScore say nothing about a single picture."


def _fine_print(arenas: Sequence[Arena], about: Record) -> str:
    numbers = [
        (
            escape(arena_title(arena.dataset, arena.base)),
            escape(who.title),
            BENCHMARK_METRICS[name].title,
            *number_cells(rate, BENCHMARK_METRICS[name]),
            escape(arena.fingerprints.get((who, name), "")),
        )
        for arena in arenas
        for who in arena.contenders
        for name, rate in arena.rates[who].items()
    ]
    heads = ("Where", "Method", "Metric", "Value", "95&nbsp;% interval", "n", "Fingerprint")
    drawn = {
        f"{arena.dataset}, {arena.base}, {who.title}": one.run.get("config", {})
        for arena in arenas
        for who, one in arena.drawn.items()
    }
    kept = [folded("All numbers", flat_table(heads, numbers))]
    kept += [folded("How the pictures were drawn", as_json(drawn))] if drawn else []
    kept.append(folded("How this page was made", as_json(about)))
    return section("Fine print", f"{HOW} {PUBLISHED}", "".join(kept))
