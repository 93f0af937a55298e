"""The picture of the leaderboard: what methods suppress against what they keep, and attacks against quality.

Place on the path of data: step 8 of the leaderboard, from results to one PNG.
"""

from __future__ import annotations

from pathlib import Path

from psalign.evaluation.catalog import METHODS
from psalign.evaluation.report.charts import Dot, Series
from psalign.evaluation.report.figures import COLOURS, STYLE, WIDTH_IN, draw_scatter, pyplot

from .config import OWN
from .page import LIMITS, PRICES, Column, Figures

LEGEND = {"ours": "ours", "other": "personal", "static": "one limit for all"}  # by kind of series
PANELS = ((LIMITS[1], LIMITS[0]), (PRICES[0], LIMITS[5]))  # x and y of each


def write_figure(path: Path, figures: Figures) -> None:
    """Both panels as a PNG. Raises ExtraMissing where matplotlib is not installed."""
    plot = pyplot()
    with plot.rc_context(STYLE):
        figure, axes = plot.subplots(1, 2, figsize=(2.6 * WIDTH_IN, 3.4))
        for panel, (x, y) in zip(axes, PANELS, strict=True):
            series = _series(figures, x, y)
            if series:
                draw_scatter(panel, series, x=x.metric, y=y.metric)
            else:
                panel.set_axis_off()  # nothing was measured on both axes
        figure.legend(
            handles=[
                plot.Line2D([], [], marker="o", linestyle="", color=COLOURS[kind], label=label,
                            markerfacecolor="white" if kind == "static" else COLOURS[kind])
                for kind, label in LEGEND.items()
            ],
            loc="upper center", ncols=len(LEGEND), frameon=False,
        )  # fmt: skip
        figure.savefig(path)
        plot.close(figure)


def _kind(method: str) -> str:
    if method.startswith("psa-"):
        return "ours"
    return "other" if METHODS[method].personal else "static"


def _series(figures: Figures, x: Column, y: Column) -> list[Series]:
    # Where both forms of a method were labelled, no label could be read.
    labelled = {
        OWN,
        "psa-published",
        *(name for name in figures.methods if METHODS[name].personal and _kind(name) != "ours"),
    }
    found: dict[str, list[Dot]] = {kind: [] for kind in ("static", "other", "ours")}
    for method in figures.methods:
        across, up = figures.of(method, x), figures.of(method, y)
        if across.value is not None and up.value is not None:
            label = METHODS[method].title.removesuffix(", own") if method in labelled else ""
            found[_kind(method)].append(Dot(across.value, up.value, label, method, up.interval))
    return [Series(kind, dots) for kind, dots in found.items() if dots]
