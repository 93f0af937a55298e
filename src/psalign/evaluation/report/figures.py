"""The report's charts as PNG and PDF, for a paper or a talk.

Place on the path of data: step 8, beside the page. Needs matplotlib, which the page itself does not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from psalign.categories import category_names, is_default
from psalign.errors import ExtraMissing

from ..metrics.facts import by_category
from .charts import Series, place_labels, scatter_axes
from .contact_sheet import write_sheet_png
from .contenders import arena_title
from .findings import Arena
from .judgements import Duel
from .picture_grid import picture_grid
from .tables import BENCHMARK_METRICS
from .tradeoff import Tradeoff, tradeoffs

OURS, OTHERS, PUBLISHED, LINE = "#0b62a8", "#59616b", "#c2500a", "#e1e4e6"
COLOURS = {"ours": OURS, "other": OTHERS, "published": PUBLISHED}
WIDTH_IN = 3.4  # one column of a two-column page
CATEGORY_IN = 0.4  # of a column of the figure of categories
STYLE = {
    "font.size": 8,
    "axes.edgecolor": OTHERS,
    "axes.labelcolor": "#16191d",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "xtick.color": OTHERS,
    "ytick.color": OTHERS,
    "figure.dpi": 100,
    "savefig.dpi": 300,
    "savefig.bbox": "tight",
    "pdf.fonttype": 42,  # text stays text
}


def write_figures(folder: Path, arenas: Sequence[Arena]) -> list[Path]:
    """Write every chart that the findings have as folder/<name>.png and .pdf, and grids of pictures as .png.

    Veiled pictures are blurred in grids too. The same findings give the same figures.
    Raises ExtraMissing where matplotlib is not installed.
    """
    plot = _pyplot()
    folder.mkdir(parents=True, exist_ok=True)
    written: list[Path] = []

    def draw(name: str, size: tuple[float, float], paint: Callable[[Any], None]) -> None:
        figure, axes = plot.subplots(figsize=size)
        paint(axes)
        for suffix, about in ((".png", {}), (".pdf", {"CreationDate": None})):
            written.append(folder / f"{name}{suffix}")
            figure.savefig(written[-1], metadata=about)
        plot.close(figure)

    with plot.rc_context(STYLE):
        for one in tradeoffs(arenas):
            draw(
                f"tradeoff_{_name(one.arena)}_{one.quality}",
                (WIDTH_IN, 2.5),
                partial(_tradeoff, one=one),
            )
        for arena in arenas:
            if arena.facts:
                draw(f"categories_{_name(arena)}", _heat_size(arena), partial(_heat, arena=arena))
            if arena.duels:
                height = 0.5 + 0.4 * len(arena.duels)
                draw(f"wins_{_name(arena)}", (WIDTH_IN, height), partial(_wins, duels=arena.duels))
    for arena in arenas:
        if (grid := picture_grid(arena)) is not None:
            written.append(folder / f"pictures_{_name(arena)}.png")
            write_sheet_png(written[-1], grid)
    return written


def _pyplot() -> Any:
    try:
        import matplotlib
    except ImportError as err:
        raise ExtraMissing("matplotlib", "plots") from err
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _name(arena: Arena) -> str:
    return f"{arena.dataset}_{arena.base}"


def _tradeoff(axes: Any, one: Tradeoff) -> None:
    """As on the page: the same ranges, and every label in the same place."""
    safety, quality, series = BENCHMARK_METRICS[one.safety], BENCHMARK_METRICS[one.quality], one.series()
    frame, x_ticks, y_ticks = scatter_axes(series)
    for part in series:
        _draw_series(axes, part)
    for dot, (left, _, _, bottom) in place_labels(frame, series):
        axes.text(*frame.at(left, bottom - 2), dot.label, fontsize=6, color=OTHERS, va="bottom")
    axes.set_xlim(frame.x_low, frame.x_high)
    axes.set_ylim(frame.y_low, frame.y_high)
    axes.set_xticks(x_ticks, [f"{tick:g}" for tick in x_ticks])
    axes.set_yticks(y_ticks, [f"{100 * tick:g}" if safety.percent else f"{tick:g}" for tick in y_ticks])
    axes.set_xlabel(f"{quality.title} ({quality.better})")
    axes.set_ylabel(f"{safety.title}{' [%]' if safety.percent else ''} ({safety.better})")
    axes.set_title(arena_title(one.arena.dataset, one.arena.base), fontsize=8, loc="left", pad=14)
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)


def _draw_series(axes: Any, part: Series) -> None:
    colour, hollow = COLOURS[part.kind], part.kind == "published"
    if part.joined:
        xs, ys = [dot.x for dot in part.dots], [dot.y for dot in part.dots]
        axes.plot(xs, ys, color=colour, linewidth=1.2, linestyle="--" if hollow else "-", clip_on=False)
    for dot in part.dots:
        if dot.y_range:
            axes.plot([dot.x, dot.x], dot.y_range, color=colour, linewidth=0.9, clip_on=False)
        fill = "white" if hollow else colour
        axes.plot([dot.x], [dot.y], "o", markersize=4, color=colour, markerfacecolor=fill, clip_on=False)


def _rows(arena: Arena) -> list[Any]:
    return [who for who in sorted(arena.facts, key=lambda one: one.order) if who.strictness is None]


def _heat_size(arena: Arena) -> tuple[float, float]:
    """Width and height, in inches: two columns of a page, or more where there are many categories."""
    width, height = 2 * WIDTH_IN, 0.9 + 0.24 * len(_rows(arena))
    if is_default():
        return width, height
    return max(width, 1.5 + CATEGORY_IN * len(category_names())), height + 0.05 * max(map(len, category_names()))


def _heat(axes: Any, arena: Arena) -> None:
    """Pass rates by category; methods for one limit alone stand aside, as a level has one side of a category."""
    contenders = _rows(arena)
    values = [
        [by_category(arena.facts[who], category_names())[name]["pass"].value for name in category_names()]
        for who in contenders
    ]
    shown = [[float("nan") if value is None else 100 * value for value in row] for row in values]
    axes.imshow(shown, cmap="Blues", vmin=50, vmax=130, aspect="auto")  # never so dark that black is not read
    axes.set_xticks(range(len(category_names())), category_names())
    if not is_default():  # however many, and however long their names
        axes.tick_params("x", labelrotation=40)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(contenders)), [who.title for who in contenders])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for row, numbers in enumerate(shown):
        for column, number in enumerate(numbers):
            axes.text(column, row, "" if number != number else f"{number:.1f}", ha="center", va="center", fontsize=7)
    axes.set_title(f"{arena_title(arena.dataset, arena.base)}: pass rate [%] by category", fontsize=8, loc="left")


def _wins(axes: Any, duels: Sequence[Duel]) -> None:
    for row, duel in enumerate(reversed(duels)):
        left, right = ("b", "a") if duel.b.is_ours else ("a", "b")
        parts = [duel.rates[f"{left}_wins"], duel.rates["ties"], duel.rates[f"{right}_wins"]]
        start = 0.0
        for rate, colour in zip(parts, (OURS, LINE, OTHERS), strict=True):
            share = 100 * (rate["value"] or 0.0)
            axes.barh(row, share, left=start, color=colour, height=0.55)
            start += share
        who = {"a": duel.a, "b": duel.b}
        ties = 100 * (parts[1]["value"] or 0.0)
        axes.text(0, row + 0.33, f"{who[left].title} {100 * (parts[0]['value'] or 0.0):.1f} %", fontsize=7, va="bottom")
        axes.text(50, row + 0.33, f"ties {ties:.1f} %", fontsize=7, va="bottom", ha="center", color=OTHERS)
        told = f"{who[right].title} {100 * (parts[2]['value'] or 0.0):.1f} %"
        axes.text(100, row + 0.33, told, fontsize=7, va="bottom", ha="right")
    axes.set_xlim(0, 100)
    axes.set_ylim(-0.4, len(duels) - 0.25)
    axes.axis("off")
