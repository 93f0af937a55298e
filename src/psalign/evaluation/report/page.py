"""The frame that every report shares: the page, its sections, its headline figures, and its folded fine print.

Place on the path of data: step 8, round what report.py and benchmark_report.py say.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from html import escape

from psalign.files import Record

from .style import CSS
from .tables import Metric, bar, percent, show_interval, show_value

ALLOWED = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def page(title: str, sections: Iterable[str]) -> str:
    """A page that needs nothing else: its style inside, no script, no request. Empty sections are left out.

    Browsers are told to allow it nothing more: a picture or text that slipped something in could fetch nothing.
    """
    body = "\n".join(part for part in sections if part)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{ALLOWED}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{escape(title)}</title><style>{CSS}</style></head>\n<body><main>\n{body}\n</main></body></html>\n"
    )


def header(title: str, lead: str, *, points: Sequence[str] = (), label: str = "", figures: Sequence[str] = ()) -> str:
    """The top of the page: title, lead, and what came out, point by point.

    figures: of `headline_figure`, at most four; label: what they are.
    """
    told = f'<ul class="plain">{"".join(f"<li>{escape(point)}</li>" for point in points)}</ul>' if points else ""
    strip = f'<dl class="strip" aria-label="{escape(label)}">{"".join(figures)}</dl>' if figures else ""
    return (
        f'<header><p class="eyebrow">PSAlign report</p><h1>{escape(title)}</h1><p class="lead">{escape(lead)}</p>'
        f"{told}{strip}</header>"
    )


def headline_figure(rate: Record, metric: Metric, *, base: Record | None = None) -> str:
    """One large rate with its interval; base: the base model's, written below."""
    shown = "none" if rate["value"] is None else f"{percent(rate['value'])}<small>&nbsp;%</small>"
    beside = "" if base is None or base["value"] is None else f"<br>Base model {show_value(base, metric)}"
    return (
        f'<div><dt>{metric.title}</dt><dd class="figure">{shown}</dd><dd>{bar(rate)}{show_interval(rate, metric)}, '
        f'n&nbsp;{rate["n"]}{beside}</dd><dd class="meaning">{metric.meaning}</dd></div>'
    )


def section(title: str, text: str, body: str) -> str:
    """A section; text and body are HTML already."""
    paragraph = f"<p>{text}</p>" if text else ""
    return f"<section><h2>{escape(title)}</h2>{paragraph}{body}</section>"


def folded(title: str, body: str) -> str:
    """A part that opens when it is asked for; body is HTML already."""
    return f"<details><summary>{escape(title)}</summary>{body}</details>"


def as_json(value: object) -> str:
    return f"<pre>{escape(json.dumps(value, indent=2, default=str, ensure_ascii=False))}</pre>"
