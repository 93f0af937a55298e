"""The report: one HTML page of leaderboards and, for a whole run, its sheet and curves.

Place on the path of data: step 8, the end. The page is report.html.j2, its style report.css.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from psalign.files import Record, write_text

from ..catalog import DATASETS, METHODS
from ..cells import Variant, competitors
from ..estimate import Estimate
from ..judge.results import Comparison
from ..metrics.registry import METRICS
from . import format as show
from .charts import curve_chart, level_chart, scatter_chart
from .contact_sheet import Sheet, picture_uri
from .headline import Ranking, rank, sentences, title
from .leaderboard import Leaderboard
from .picture_grid import picture_grid
from .tables import (
    TableCell,
    category_tables,
    difference_table,
    holding_tables,
    levels_of,
    method_tables,
    number_cell,
    ours_alone,
    user_tables,
)
from .tradeoff import Tradeoff, tradeoffs

if TYPE_CHECKING:
    from jinja2 import Template

Curves = Mapping[str, Sequence[Record]]

LEAD = (
    "Every method drew the same prompts. This page says what of the unwanted is gone, what of the wanted is kept, and "
    "what safe pictures lose."
)
LEGEND = {"ours": "PSAlign", "other": "other methods", "published": "published"}  # of the dots of a chart
FEW = 100  # cases: a number of fewer is said to be of few
POSITION_FOLLOWED = 0.2  # of pairs: from here on a reader is warned
# Columns of a training log: their name for a reader, and whether they lie between 0 and 1.
CURVES = {
    "loss": ("loss", False),
    "implicit_accuracy": ("implicit accuracy", True),
    "accuracy": ("implicit accuracy", True),
}


@dataclass(frozen=True)
class RunParts:
    """What a whole run adds to the page.

    summary: the lead in place of the benchmark's. sheet: pictures in place of a grid for each leaderboard.
    curves: name of a run -> its log records, each {"step", "loss", "implicit_accuracy" or "accuracy",
    ...}. seconds: by part.
    """

    summary: str = LEAD
    sheet: Sheet | None = None
    curves: Curves = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)


def write_report(path: Path, boards: Sequence[Leaderboard], *, about: Record, run: RunParts | None = None) -> None:
    """Write the report as one HTML file. about: what stands in its fine print, by title.

    Browsers allow the page no request and no script: nothing that slipped in could fetch anything.
    """
    parts = run or RunParts()
    rankings = [ranking for board in boards if (ranking := rank(board))]
    levels = [(board, found) for board in boards if (found := levels_of(board))]
    compared = [board for board in boards if board not in ours_alone(boards) and not levels_of(board)]
    charts = [_tradeoff(one) for one in tradeoffs(boards)]
    legend = [(kind, name) for kind, name in LEGEND.items() if any(kind in chart["kinds"] for chart in charts)]
    sheets = [parts.sheet] if parts.sheet else [grid for board in boards if (grid := picture_grid(board))]
    page = _template().render(
        css=_resource("report.css"),
        title=title(rankings),
        lead=parts.summary,
        points=sentences(boards, rankings),
        strip=_strip(rankings),
        methods=[(board, method_tables(board)) for board in compared],
        holding=list(holding_tables(boards)),
        tradeoffs=charts,
        differences=[table for board in boards if (table := difference_table(board))],
        levels=[(board.title, level_chart(found), found) for board, found in levels],
        categories=[table for board in compared for table in category_tables(board)],
        users=user_tables(boards),
        comparisons=[(board.title, [_comparison(board, one) for one in board.comparisons])
                     for board in boards if board.comparisons],
        sheets=sheets,
        whole=parts.sheet is not None,
        curves=list(_curves(parts.curves)),
        seconds=parts.seconds,
        limits=list(_limits(boards)),
        faults=[fault for board in boards for fault in _faults(board)],
        numbers=list(_numbers(boards)),
        drawn={f"{board.title}, {who.title}": one.run.get("config", {})
               for board in boards for who, one in board.drawn.items()},
        about=about,
        legend=legend,
        has_published=any(board.published for board in boards),
    )  # fmt: skip
    write_text(path, page)


@cache
def _template() -> Template:
    from jinja2 import BaseLoader, Environment, StrictUndefined
    from markupsafe import Markup

    environment = Environment(
        loader=BaseLoader(), autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.globals |= {"show": show, "picture_uri": picture_uri, "svg": Markup, "METRICS": METRICS}
    environment.filters["pretty"] = lambda value: json.dumps(value, indent=2, default=str, ensure_ascii=False)
    return environment.from_string(_resource("report.html.j2"))


def _resource(name: str) -> str:
    return (resources.files(__package__) / name).read_text(encoding="utf-8")


# --- the head -------------------------------------------------------------------------------------------------------


def _strip(rankings: Sequence[Ranking]) -> tuple[str, list[tuple[Estimate, TableCell, str, str]]]:
    """Large figures of ours on the first leaderboard that has shares to show: label, then figures, each with
    its cell, its meaning, and the base model's."""
    for ranking in rankings:
        board = ranking.board
        ours = board.ours(competitors(board.variants))
        rates = board.rates.get(ours, {}) if ours else {}
        names = [name for name, metric in METRICS.items() if metric.percent and name in rates][:4]
        if ours and names:
            base = board.rates.get(Variant("base"), {})
            figures = [
                (rates[name], number_cell(rates[name], METRICS[name]), METRICS[name].meaning,
                 show.value(base[name], METRICS[name]) if name in base else "")
                for name in names
            ]  # fmt: skip
            return f"{ours.title}, {board.title}", figures
    return "", []


# --- charts and comparisons -----------------------------------------------------------------------------------------


def _tradeoff(one: Tradeoff) -> Record:
    quality, safety, series = METRICS[one.quality], METRICS[one.safety], one.series()
    source = "" if one.quality_from == one.board.dataset else f" of {DATASETS[one.quality_from].title}"
    caption = f"{safety.title} against {quality.title}"
    chart = scatter_chart(
        series,
        x_title=f"{quality.title}{source}, {quality.better}",
        title=f"{caption}, {one.board.title}",
        percent_y=safety.percent,
    )
    return {"title": one.board.title, "caption": f"{safety.title} ({safety.better}) against {quality.title}",
            "chart": chart, "kinds": {part.kind for part in series},
            "joined": any(part.joined and len(part.dots) > 1 for part in series)}  # fmt: skip


def _comparison(board: Leaderboard, one: Comparison) -> Record:
    """A pairwise comparison as the template draws it, ours to the left."""
    summary, ((left, wins), (right, losses)) = one.summary, one.sides
    followed = summary.position_bias.value
    warnings = []
    if followed is not None and followed >= POSITION_FOLLOWED:
        warnings.append(
            f"This judge follows the position in {show.percent(followed)}\u00a0% of pairs: its verdicts say little."
        )
    if one.biased:
        warnings.append("Asked by a template that is not blind to methods.")
    return {
        "left": left.title, "right": right.title,
        "rates": [rate.estimate for rate in (wins, summary.ties, losses)],
        "failed": summary.failed, "n": wins.n,
        "position_bias": summary.position_bias.estimate, "self_agreement": summary.self_agreement.estimate,
        "published": _published_wins(board, left, right), "warnings": [*warnings, *one.all_remarks],
    }  # fmt: skip


def _published_wins(board: Leaderboard, left: Variant, right: Variant) -> str:
    """Published shares of the same two methods, whichever of them was a."""
    for one, other, mine in ((left, right, "a_wins"), (right, left, "b_wins")):
        rates = board.published.get(Variant(f"{one.method}_vs_{other.method}", "user"))
        if rates and None in (one.strictness, other.strictness):
            wins, ties = (show.percent(rates[name].value or 0.0) for name in (mine, "ties"))
            return f"published: wins {wins}\u00a0%, ties {ties}\u00a0%"
    return ""


def _curves(curves: Curves) -> Iterator[tuple[str, str, str]]:
    """Name of a run, what is drawn, and its chart."""
    for run, records in curves.items():
        name = METHODS[f"psa-{run}"].title if f"psa-{run}" in METHODS else run
        for key, (label, unit_range) in CURVES.items():
            points = list(_points(records, key))
            if len(points) > 1:
                yield name, label, curve_chart(points, title=f"{name}, {label}", unit_range=unit_range)


def _points(records: Iterable[Record], key: str) -> Iterator[tuple[float, float]]:
    for record in records:
        if record.get(key) not in (None, ""):
            value = float(record[key])
            if math.isfinite(value):
                yield float(record["step"]), value


# --- limits and fine print ------------------------------------------------------------------------------------------


def _faults(board: Leaderboard) -> Iterator[tuple[str, str]]:
    """Where numbers are missing, and why: one for each reason, with all of its metrics and methods."""
    metrics: dict[tuple[Variant, str, str], list[str]] = {}
    for fault in board.faults:
        reason = " ".join(fault.note.split()) or "no reason was given"
        metrics.setdefault((fault.variant, fault.state, reason), []).append(METRICS[fault.metric].title)
    variants: dict[tuple[str, str, str], list[str]] = {}
    for (who, state, reason), names in sorted(metrics.items(), key=lambda item: item[0][0].order):
        variants.setdefault((state, reason, ", ".join(names)), []).append(who.title)
    for (state, reason, lacking), titles in variants.items():
        yield f"{board.title}: {', '.join(titles)}", f"{lacking} {state}: {reason}"


def _limits(boards: Sequence[Leaderboard]) -> Iterator[str]:
    for board in boards:
        where = board.title
        for who, marks in board.marks.items():
            yield f"{where}: {who.title} is confounded, for it was drawn otherwise than fair: {'; '.join(marks)}."
        biased = [who.title for who, judgement in board.judgements.items() if judgement.biased]
        if biased:
            yield f"{where}: the judge of {', '.join(biased)} was asked by a template that is not blind to methods."
        failed = [f"{one.summary.failed} of {who.title}" for who, one in board.judgements.items() if one.summary.failed]
        if failed:
            yield f"{where}: judgements failed and are in no rate: {', '.join(failed)}."
        remarks = dict.fromkeys(remark for judgement in board.judgements.values() for remark in judgement.all_remarks)
        yield from (f"{where}: {remark}" for remark in (*remarks, *board.remarks))
        small = [number.n for rates in board.rates.values() for number in rates.values() if 0 < number.n < FEW]
        if small:
            yield f"{where}: some numbers are of few cases (from n = {min(small)})."
    without = [board.title for board in boards if not board.facts]
    if without:
        yield f"No facts about single pictures, so no categories and no paired differences: {'; '.join(without)}."
    if not any(board.comparisons for board in boards):
        yield "No two methods were compared picture by picture (--judge results_compare)."
    yield "A detector or a judge can be wrong; FID and CLIPScore say nothing about a single picture."


def _numbers(boards: Sequence[Leaderboard]) -> Iterator[tuple[str, ...]]:
    """Every number with its fingerprint: rows of a table."""
    for board in boards:
        for who in board.variants:
            for name, number in board.rates[who].items():
                metric = METRICS[name]
                shown = (show.value(number, metric), show.interval(number, metric), str(number.n))
                yield board.title, who.title, metric.title, *shown, board.fingerprints.get((who, name), "")
