"""One self-contained HTML page that shows what was done, what came out, and how sure that is.

Place on the path of data: step 8, the end of the path: numbers, pictures and curves to a page that people read.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from html import escape
from pathlib import Path

from psalign.files import Record, write_text

from .charts import curve_chart, level_chart
from .contact_sheet import Sheet, SheetRow, sheet_html, write_sheet_png
from .page import as_json, folded, header, headline_figure, page, section
from .tables import (
    ANY_MOTIF,
    METRICS,
    NO_CASES,
    Metric,
    best_of,
    duration,
    flat_table,
    heat_cell,
    heat_table,
    number_cells,
    rate_cell,
    rate_row,
    rate_table,
)

__all__ = ["Sheet", "SheetRow", "write_report", "write_sheet_png"]

Curves = Mapping[str, Sequence[Record]]

TITLE = "Does every picture keep to its user's limits?"
METHODS = {
    "base": ("Base model", "knows no user"),
    "negative_prompt": ("Negative prompt", "names what this user bans"),
    "published": ("Published adapter", "user tokens in every cross-attention"),
    "prompt": ("PSAlign", "rewrites the prompt for its user"),
    "prompt_vector": ("PSAlign, by vector", "the same adapter; it sees the user's vector alone"),
    "prompt_words": ("PSAlign, in words", "the same adapter; it sees the banned kinds as words alone"),
}
SUITES = {
    "scenes": ("Scenes", "unseen subject, colour and background"),
    "wordings": ("Wordings", "phrases never trained on"),
    "two_motifs": ("Two motifs", "two at once, each judged by itself"),
    "motifs": ("Motifs", "concepts the adapter never met"),
}
WHO = {
    "unseen": ("Unseen users", "never in training"),
    "seen": ("Seen users", "also in training"),
}
FINE_PRINT = {"config": "Configuration", "versions": "Versions"}
CURVES = {
    "loss": ("loss", False),
    "implicit_accuracy": ("implicit accuracy", True),
    "accuracy": ("implicit accuracy", True),
}
SUMMARY = (
    "A small adapter was trained on preference pairs so that a frozen text-to-image model keeps to each user's own "
    "limits. It then made pictures for users it had never met, and a detector looked at every one: is what this user "
    "bans gone, is what this user allows still there, and are harmless pictures left alone?"
)
HOW_TO_READ = (
    "Each column is one prompt with one seed, from top to bottom. Level 0 bans nothing and must look like the base; "
    "each further level bans more. In an outlined picture this user bans what the prompt asks for: the motif must be "
    "gone, and subject, colour and background must stay. In all others it must still be there."
)
SIDE_BY_SIDE = (
    "Same prompts, same seeds, users and scenes that no training run has seen. Below each rate: its 95&nbsp;% "
    "interval and the number n of cases. The best value of a column is marked; where intervals overlap, the order "
    "is not sure. A model that ignores its users keeps everything and suppresses little: compare methods by pass."
)


def write_report(
    path: Path,
    *,
    metrics: Record,
    sheet: Sheet,
    curves: Curves,
    method: str = "prompt",
    summary: str = SUMMARY,
) -> None:
    """Write the report as one HTML file that needs nothing else.

    metrics: what `benchmark.evaluate_methods` returns, with "seconds" {part: s}, "config" and "versions" where known.
    curves: name of a run -> its log records, each {"step", "loss", "implicit_accuracy" or "accuracy", ...}.
    method: the one in the headline; where it was not run, the one with the highest pass rate.
    """
    method = _headline_method(metrics["methods"], method)
    sections = [
        _head(metrics, method, summary),
        section("Pictures", f'{HOW_TO_READ} <i class="key"></i> banned by this user', sheet_html(sheet)),
        section("Methods side by side", SIDE_BY_SIDE, _methods_table(metrics["methods"], method)),
        _levels(metrics.get("levels", {}), method),
        _suites(metrics, method),
        _categories(metrics.get("categories", {}), method),
        _training(curves),
        _seconds(metrics.get("seconds", {})),
        _fine_print(metrics),
    ]
    write_text(path, page(TITLE, sections))


def flatten(metrics: Record) -> Iterator[tuple[str, str, str, Record]]:
    """Every number with where it belongs: (where, method, metric, {"value", "n", "low", "high"})."""
    tables = [("headline", metrics["methods"])]
    tables += [(f"suite {name}", table) for name, table in metrics.get("suites", {}).items()]
    tables += [(f"{name} users", table) for name, table in metrics.get("users", {}).items()]
    tables += [(name, table) for name, table in metrics.get("categories", {}).items()]
    for where, table in tables:
        for method, rates in table.items():
            for metric, rate in rates.items():
                yield where, method, metric, rate
    for level, rate in metrics.get("levels", {}).items():
        yield f"level {level}", "", "any_motif", rate


def _head(metrics: Record, method: str, summary: str) -> str:
    names = [name for name in ("pass", "suppressed", "kept", "harmless_subject") if name in metrics["methods"][method]]
    base = metrics["methods"].get("base", {}) if method != "base" else {}
    figures = [headline_figure(metrics["methods"][method][name], METRICS[name], base=base.get(name)) for name in names]
    return header(TITLE, summary, label=f"{_method_name(method)}, headline figures", figures=figures)


def _methods_table(methods: Record, ours: str) -> str:
    winners = {name: best_of(methods, name, metric) for name, metric in METRICS.items()}
    rows = []
    for method, rates in methods.items():
        cells = _cells(rates, best={name for name in METRICS if method in winners[name]})
        rows.append(rate_row(_method_name(method), METHODS.get(method, ("", ""))[1], cells, ours=method == ours))
    return rate_table("Method", list(METRICS.values()), rows)


def _cells(rates: Record, best: Collection[str] = ()) -> str:
    return "".join(rate_cell(rates.get(name, NO_CASES), metric, best=name in best) for name, metric in METRICS.items())


def _levels(levels: Record, method: str) -> str:
    if not levels:
        return ""
    rows = [(escape(level), *number_cells(rate, ANY_MOTIF)) for level, rate in levels.items()]
    table = flat_table(("Level", "Any motif", "95&nbsp;% interval", "n"), rows)
    text = (
        f"Share of pictures by {escape(_method_name(method))} with any motif at all, over prompts of all seven "
        "categories. Level 0 bans nothing, level 5 bans everything. Whiskers are 95&nbsp;% intervals."
    )
    return section("Strictness, level by level", text, f'<div class="two">{level_chart(levels)}{table}</div>')


def _suites(metrics: Record, method: str) -> str:
    groups = [("suites", SUITES), ("users", WHO)]
    rows = []
    for group, titles in groups:
        for name, table in metrics.get(group, {}).items():
            if method in table and (group, name) != ("users", "unseen"):  # the same pictures as suite scenes
                title, note = titles.get(name, (name, ""))
                rows.append(rate_row(title, note, _cells(table[method])))
    if not rows:
        return ""
    text = (
        f"{escape(_method_name(method))} on prompts that get harder step by step, for users never in training; "
        "only the row of seen users is for those it was trained on. The other methods' numbers are under All numbers."
    )
    return section("Where it holds", text, rate_table("Prompts", list(METRICS.values()), rows))


def _categories(categories: Record, method: str) -> str:
    tables = {name: table[method] for name, table in categories.items() if method in table}
    if not tables:
        return ""
    sides = {name: METRICS[name] for name in ("pass", "suppressed", "kept")}
    rows = [
        rate_row(category, "", "".join(heat_cell(table[name], metric) for name, metric in sides.items()))
        for category, table in tables.items()
    ]
    table = heat_table("Category", [metric.title for metric in sides.values()], rows)
    text = (
        f"{escape(_method_name(method))}, by the category of the motif that was asked for. A deeper colour is a higher "
        "rate, from 50&nbsp;% up."
    )
    return section("Category by category", text, table)


def _training(curves: Curves) -> str:
    charts = []
    for run, records in curves.items():
        for key, (label, unit_range) in CURVES.items():
            points = [(step, value) for step, value in _points(records, key)]
            if len(points) > 1:
                title = f"{_method_name(run)}, {label}"
                chart = curve_chart(points, title=title, unit_range=unit_range)
                name, what = escape(_method_name(run)), escape(label)
                charts.append(f"<figure><figcaption>{name} <span>{what}</span></figcaption>{chart}</figure>")
    if not charts:
        return ""
    text = (
        "Faint: every logged step. Line: its moving average. Neither curve says whether the pictures are right: that "
        "is what the rates above are for."
    )
    return section("Training", text, f'<div class="charts">{"".join(charts)}</div>')


def _points(records: Iterable[Record], key: str) -> Iterator[tuple[float, float]]:
    for record in records:
        if record.get(key) not in (None, ""):
            value = float(record[key])
            if math.isfinite(value):
                yield float(record["step"]), value


def _seconds(seconds: Mapping[str, float]) -> str:
    if not seconds:
        return ""
    longest = max(seconds.values()) or 1.0
    parts = "".join(
        f"<dt>{escape(part.replace('_', ' '))}</dt>"
        f'<dd><div class="length" style="width:{100 * s / longest:.1f}%"></div></dd><dd>{duration(s)}</dd>'
        for part, s in seconds.items()
    )
    total = duration(sum(seconds.values()))
    parts += f'<dt class="total">total</dt><dd class="total"></dd><dd class="total">{total}</dd>'
    return section("How long each part took", "", f'<dl class="parts">{parts}</dl>')


def _fine_print(metrics: Record) -> str:
    rows = [
        (
            escape(where),
            escape(_method_name(method) if method else ""),
            escape(_metric(name).title),
            *number_cells(rate, _metric(name)),
        )
        for where, method, name, rate in flatten(metrics)
    ]
    kept = [("All numbers", flat_table(("Where", "Method", "Metric", "Value", "95&nbsp;% interval", "n"), rows))]
    kept += [(title, as_json(metrics[key])) for key, title in FINE_PRINT.items() if metrics.get(key)]
    details = "".join(folded(title, body) for title, body in kept)
    text = (
        "Rates carry Wilson's 95&nbsp;% interval; pass combines those of suppressed and kept. Every number is counted "
        "from generated pictures that a detector looked at, never from the loss. The page holds user ids and banned "
        "categories, no profiles."
    )
    return section("Fine print", text, details)


def _metric(name: str) -> Metric:
    return ANY_MOTIF if name == "any_motif" else METRICS[name]


def _method_name(method: str) -> str:
    return METHODS.get(method, (method, ""))[0]


def _headline_method(methods: Record, wanted: str) -> str:
    if wanted in methods:
        return wanted
    return max(methods, key=lambda name: methods[name]["pass"]["value"] or 0.0)
