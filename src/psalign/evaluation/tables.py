"""Metrics as a reader sees them: titles and meanings, rates with their intervals, the cells and rows of tables.

Place on the path of data: step 8, inside the report.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from psalign.records import Record


@dataclass(frozen=True)
class Metric:
    """How a metric is shown: its title, one line on what it means, its unit, and which end is the better one."""

    title: str
    meaning: str
    percent: bool = True
    higher_is_better: bool = True


METRICS = {
    "pass": Metric("Pass", "mean of suppressed and kept"),
    "suppressed": Metric("Suppressed", "the user bans it: no banned motif is in the picture"),
    "kept": Metric("Kept", "the user allows it: the motif is in the picture"),
    "subject_kept": Metric("Subject kept", "the right subject, where a motif was asked for too"),
    "harmless_subject": Metric("Harmless", "the right subject, where nothing sensitive was asked for"),
    "harmless_distance": Metric(
        "Distance", "of harmless pictures from the base's, 0 to 255", percent=False, higher_is_better=False
    ),
}
ANY_MOTIF = Metric("Any motif", "share of pictures with at least one motif")
NO_CASES: Record = {"value": None, "n": 0, "low": None, "high": None}


def rate_table(first: str, columns: Sequence[Metric], rows: Sequence[str]) -> str:
    head = "".join(
        f'<th scope="col">{metric.title}<span class="note">{metric.meaning}</span></th>' for metric in columns
    )
    return (
        f'<table class="rates stack"><thead><tr><th scope="col">{first}</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def rate_row(title: str, note: str, cells: str, *, ours: bool = False) -> str:
    below = f'<span class="note">{escape(note)}</span>' if note else ""
    return f'<tr{" class=ours" if ours else ""}><th scope="row">{escape(title)}{below}</th>{cells}</tr>'


def rate_cell(rate: Record, metric: Metric, *, best: bool = False) -> str:
    chip = '<span class="chip">best</span>' if best else ""
    kind = ' class="best"' if best else ""
    return (
        f'<td data-label="{metric.title}"{kind}><div><span class="value">{show_value(rate, metric)}</span>{chip}</div>'
        f'{bar(rate) if metric.percent else ""}<span class="ci">{show_interval(rate, metric)}</span>'
        f'<span class="n">n&nbsp;{rate["n"]}</span></td>'
    )


def heat_cell(rate: Record, metric: Metric) -> str:
    depth = max(0.0, 2 * rate["value"] - 1) if rate["value"] is not None else 0.0  # half right is no better than chance
    return (
        f'<td style="--v:{100 * depth:.0f}%"><span class="value">{show_value(rate, metric)}</span> '
        f'<span class="ci">{show_interval(rate, metric)}</span> <span class="n">n&nbsp;{rate["n"]}</span></td>'
    )


def bar(rate: Record) -> str:
    """The rate on a scale from 0 to 1, its interval behind it."""
    if rate["value"] is None:
        return '<span class="bar"></span>'
    low, high = 100 * rate["low"], 100 * rate["high"]
    return (
        f'<span class="bar" aria-hidden="true"><i style="left:{low:.1f}%;width:{high - low:.1f}%"></i>'
        f'<b style="left:{100 * rate["value"]:.1f}%"></b></span>'
    )


def show_value(rate: Record, metric: Metric) -> str:
    if rate["value"] is None:
        return "none"
    return f"{percent(rate['value'])}&nbsp;%" if metric.percent else f"{rate['value']:.2f}"


def show_interval(rate: Record, metric: Metric) -> str:
    if rate["value"] is None:
        return "no cases"
    if rate["low"] is None:
        return "no interval"
    low, high = (percent(rate[end]) if metric.percent else f"{rate[end]:.2f}" for end in ("low", "high"))
    return f"{low} to {high}"


def percent(share: float) -> str:
    """A share as it is shown, to a tenth of a percent; 100.0 and 0.0 are kept for shares that are exactly 1 and 0."""
    shown = 100 * share
    if 0 < share < 1:
        shown = min(max(shown, 0.05), 99.949)
    return f"{shown:.1f}"


def duration(seconds: float) -> str:
    """A time as people say it: "0.4 s", "42 s", "3 min 05 s", "2 h 10 min"."""
    if seconds < 9.95:
        return f"{seconds:.1f}&nbsp;s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole}&nbsp;s"
    if whole < 3600:
        return f"{whole // 60}&nbsp;min {whole % 60:02d}&nbsp;s"
    return f"{whole // 3600}&nbsp;h {whole % 3600 // 60:02d}&nbsp;min"
