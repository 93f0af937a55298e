"""Metrics as a reader sees them: titles and meanings, rates with their intervals, the cells and rows of tables.

Place on the path of data: step 8, inside the report.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import TypeVar

from psalign.files import Record

from ..statistics import Difference

Row = TypeVar("Row")


@dataclass(frozen=True)
class Metric:
    """How a metric is shown: its title, one line on what it means, its unit, and which end is the better one.

    percent: a share in [0, 1], shown as a percentage; others are shown plain, to `digits` decimals.
    """

    title: str
    meaning: str
    percent: bool = True
    higher_is_better: bool = True
    digits: int = 2

    @property
    def better(self) -> str:
        return f"{'higher' if self.higher_is_better else 'lower'} is better"


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
# Of the benchmark: results.csv's names first, then the judge's as we name them beside the detector's.
BENCHMARK_METRICS = {
    **{name: METRICS[name] for name in ("pass", "suppressed", "kept", "subject_kept", "harmless_subject")},
    "inpro": Metric("InPro", "inappropriate by the published thresholds", higher_is_better=False),
    "inpro_strict": Metric("InPro, strict", "any exposed class counts too", higher_is_better=False),
    "fid": Metric("FID", "distance from real pictures", percent=False, higher_is_better=False),
    "kid": Metric("KID", "the same for few pictures", percent=False, higher_is_better=False, digits=4),
    "clip": Metric("CLIPScore", "fit to the prompt, 100 times cosine", percent=False),
    "judge_pass": Metric("Judge: pass", "both sides kept, as a judge sees it"),
    "judge_banned_respected": Metric("Judge: banned gone", "asked for what the user bans: nothing banned is there"),
    "judge_allowed_kept": Metric("Judge: allowed kept", "asked for what the user allows: it is there"),
    "judge_clean": Metric("Judge: clean", "nothing banned is there, whatever was asked for"),
}
METRIC_GROUPS = {
    "What the detector of the mini world saw": ("pass", "suppressed", "kept", "subject_kept", "harmless_subject"),
    "What picture models measured": ("inpro", "inpro_strict", "fid", "kid", "clip"),
    "What the judge saw": ("judge_pass", "judge_banned_respected", "judge_allowed_kept", "judge_clean"),
}
ANY_MOTIF = Metric("Any motif", "share of pictures with at least one motif")
NO_CASES: Record = {"value": None, "n": 0, "low": None, "high": None}


def rate_table(
    first: str, columns: Sequence[Metric], rows: Sequence[str], *, caption: str = "", dense: bool = False
) -> str:
    """A table of rows of `rate_cell`s. dense: intervals and n on one line, and no wider than its columns need."""
    head = "".join(
        f'<th scope="col">{metric.title}<span class="note">{metric.meaning}</span></th>' for metric in columns
    )
    told = f"<caption>{escape(caption)}</caption>" if caption else ""
    kind = f' dense" style="--columns:{len(columns)}' if dense else ""
    return (
        f'<table class="rates stack{kind}">{told}<thead><tr><th scope="col">{first}</th>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table>"
    )


def heat_table(first: str, columns: Sequence[str], rows: Sequence[str], *, stack: bool = False) -> str:
    """A table whose cells are coloured by `heat_cell`. stack: its rows are cards on a narrow screen."""
    head = "".join(f'<th scope="col">{escape(column)}</th>' for column in columns)
    return (
        f'<table class="rates heat{" stack" if stack else ""}"><thead><tr><th scope="col">{escape(first)}</th>{head}'
        f"</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    )


def flat_table(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A plain table that scrolls in itself; columns and cells are HTML already."""
    head = "".join(f'<th scope="col">{column}</th>' for column in columns)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Table">'
        f'<table class="flat"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def number_cells(rate: Record, metric: Metric) -> tuple[str, str, str]:
    """Value, interval and n, for `flat_table`."""
    return show_value(rate, metric), show_interval(rate, metric), str(rate["n"])


def best_of(rows: Mapping[Row, Mapping[str, Record]], name: str, metric: Metric) -> set[Row]:
    """Rows with the best value; none where all are equal. A base's distance to itself does not compete."""
    values = {
        row: rates[name]["value"]
        for row, rates in rows.items()
        if name in rates and rates[name]["value"] is not None and (name != "harmless_distance" or row != "base")
    }
    if len(set(values.values())) < 2:
        return set()
    target = max(values.values()) if metric.higher_is_better else min(values.values())
    return {row for row, value in values.items() if value == target}


def rate_row(title: str, note: str, cells: str, *, ours: bool = False, warning: str = "") -> str:
    below = f'<span class="note">{escape(note)}</span>' if note else ""
    below += f'<span class="note warning">{escape(warning)}</span>' if warning else ""
    return f'<tr{" class=ours" if ours else ""}><th scope="row">{escape(title)}{below}</th>{cells}</tr>'


def rate_cell(rate: Record, metric: Metric, *, best: bool = False, below: str = "") -> str:
    """A number with its bar, interval and n. below: one more line, as HTML."""
    chip = '<span class="chip">best</span>' if best else ""
    kind = ' class="best"' if best else ""
    return (
        f'<td data-label="{metric.title}"{kind}><div><span class="value">{show_value(rate, metric)}</span>{chip}</div>'
        f'{bar(rate) if metric.percent else ""}<span class="ci">{show_interval(rate, metric)}</span>'
        f'<span class="n">n&nbsp;{rate["n"]}</span>{below}</td>'
    )


def absent_cell(metric: Metric, why: str) -> str:
    """Where a number would stand: in a word, why there is none."""
    return f'<td data-label="{metric.title}" class="absent"><span class="value">{escape(why)}</span></td>'


def difference_cell(difference: Difference, metric: Metric) -> str:
    """A difference of two shares in points, on a scale from -100 to 100 with its interval."""
    if difference.value is None:
        return absent_cell(metric, "no pairs")
    drawn = {"value": difference.value, "low": difference.low, "high": difference.high}
    kind = ' class="best"' if difference.excludes_zero else ""
    if difference.low is None or difference.high is None:
        between, shown = "no interval", '<span class="bar centre" aria-hidden="true"></span>'
    else:
        between = f"{points(difference.low)} to {points(difference.high)}"
        shown = bar({key: (1 + number) / 2 for key, number in drawn.items() if number is not None}, kind="bar centre")
    return (
        f'<td data-label="{metric.title}"{kind}><div><span class="value">{points(difference.value)}</span></div>'
        f'{shown}<span class="ci">{between}</span><span class="n">n&nbsp;{difference.n}</span></td>'
    )


def points(share: float) -> str:
    """A difference of shares in points, with its sign: +12.3."""
    shown = f"{100 * share:+.1f}".replace("-", "\u2212")
    return "0.0" if shown in ("+0.0", "\u22120.0") else shown


def heat_cell(rate: Record, metric: Metric, *, label: str = "") -> str:
    """label: the column's title, for cards on a narrow screen."""
    depth = max(0.0, 2 * rate["value"] - 1) if rate["value"] is not None else 0.0  # half right is no better than chance
    named = f' data-label="{escape(label)}"' if label else ""
    return (
        f'<td{named} style="--v:{100 * depth:.0f}%"><span class="value">{show_value(rate, metric)}</span> '
        f'<span class="ci">{show_interval(rate, metric)}</span> <span class="n">n&nbsp;{rate["n"]}</span></td>'
    )


def bar(rate: Record, *, kind: str = "bar") -> str:
    """The rate on a scale from 0 to 1, its interval behind it where it has one."""
    if rate["value"] is None:
        return '<span class="bar"></span>'
    if rate["low"] is None:
        return f'<span class="{kind}" aria-hidden="true"><b style="left:{100 * rate["value"]:.1f}%"></b></span>'
    low, high = 100 * rate["low"], 100 * rate["high"]
    return (
        f'<span class="{kind}" aria-hidden="true"><i style="left:{low:.1f}%;width:{high - low:.1f}%"></i>'
        f'<b style="left:{100 * rate["value"]:.1f}%"></b></span>'
    )


def show_value(rate: Record, metric: Metric) -> str:
    if rate["value"] is None:
        return "none"
    return f"{percent(rate['value'])}&nbsp;%" if metric.percent else f"{rate['value']:.{metric.digits}f}"


def show_interval(rate: Record, metric: Metric) -> str:
    if rate["value"] is None:
        return "no cases"
    if rate["low"] is None:
        return "no interval"
    low, high = (percent(rate[end]) if metric.percent else f"{rate[end]:.{metric.digits}f}" for end in ("low", "high"))
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
