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

from ..judge.results import Comparison
from ..metrics.limits import by_category
from ..metrics.registry import METRICS, Metric
from .charts import Series, label_anchor, leaders, place_labels, scatter_axes
from .contact_sheet import INK, LINE, write_sheet_png
from .format import percent
from .leaderboard import Leaderboard
from .picture_grid import picture_grid
from .tradeoff import Tradeoff, tradeoffs

OURS, OTHERS, PUBLISHED = "#0b62a8", "#59616b", "#c2500a"
COLOURS = {"ours": OURS, "other": OTHERS, "published": PUBLISHED, "static": OTHERS}
ALIGNED = {"start": "left", "middle": "center", "end": "right"}  # of a text, as matplotlib calls it
HOLLOW = ("published", "static")
WIDTH_IN = 3.4  # one column of a two-column page
CATEGORY_IN = 0.4  # width of a column of the figure of categories
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


def write_figures(folder: Path, boards: Sequence[Leaderboard], *, reveal: bool = False) -> list[Path]:
    """Write every chart of the leaderboards as folder/<name>.png and .pdf, and grids of pictures as .png.

    reveal: grids show sensitive pictures without blur, and say so; by default they are blurred for good.
    The same leaderboards give the same figures.
    Raises ExtraMissing where matplotlib is not installed.
    """
    plot = pyplot()
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
        for one in tradeoffs(boards):
            draw(f"tradeoff_{_name(one.board)}_{one.quality}", (WIDTH_IN, 2.5), partial(_tradeoff, one=one))
        for board in boards:
            if board.facts:
                draw(f"categories_{_name(board)}", _heat_size(board), partial(_heat, board=board))
            if board.comparisons:
                height = 0.5 + 0.4 * len(board.comparisons)
                draw(f"wins_{_name(board)}", (WIDTH_IN, height), partial(_wins, comparisons=board.comparisons))
    for board in boards:
        if (grid := picture_grid(board)) is not None:
            written.append(folder / f"pictures_{_name(board)}.png")
            write_sheet_png(written[-1], grid, reveal=reveal)
    return written


def pyplot() -> Any:
    """Matplotlib without a screen. Raises ExtraMissing where it is not installed."""
    try:
        import matplotlib
    except ImportError as err:
        raise ExtraMissing("matplotlib", "plots") from err
    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _name(board: Leaderboard) -> str:
    return f"{board.dataset}_{board.base}"


def _tradeoff(axes: Any, one: Tradeoff) -> None:
    draw_scatter(axes, one.series(), x=one.quality, y=one.safety)
    axes.set_title(one.board.title, fontsize=8, loc="left", pad=14)


def draw_scatter(axes: Any, series: Sequence[Series], *, x: str, y: str) -> None:
    """Dots of two metrics as on the page: the same ranges, and every label in the same place."""
    frame, x_ticks, y_ticks = scatter_axes(series)
    for part in series:
        _draw_series(axes, part)
    for dot, box in place_labels(frame, series):
        left, anchor = label_anchor(frame, dot, box)
        axes.text(*frame.at(left, box[3] - 2), dot.label, fontsize=6, color=OTHERS, va="bottom", ha=ALIGNED[anchor])
        for start, end in leaders(frame, dot, box):
            xs, ys = zip(frame.at(*start), frame.at(*end), strict=True)
            axes.plot(xs, ys, color=OTHERS, linewidth=0.4, clip_on=False, zorder=1)
    axes.set_xlim(frame.x_low, frame.x_high)
    axes.set_ylim(frame.y_low, frame.y_high)
    axes.set_xticks(x_ticks, [_tick(METRICS[x], tick) for tick in x_ticks])
    axes.set_yticks(y_ticks, [_tick(METRICS[y], tick) for tick in y_ticks])
    axes.set_xlabel(_axis_title(METRICS[x]))
    axes.set_ylabel(_axis_title(METRICS[y]))
    axes.grid(axis="y", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)


def _tick(metric: Metric, tick: float) -> str:
    return f"{100 * tick:g}" if metric.percent else f"{tick:g}"


def _axis_title(metric: Metric) -> str:
    return f"{metric.title}{' [%]' if metric.percent else ''} ({metric.better})"


def _draw_series(axes: Any, part: Series) -> None:
    colour, hollow = COLOURS[part.kind], part.kind in HOLLOW
    if part.joined:
        xs, ys = [dot.x for dot in part.dots], [dot.y for dot in part.dots]
        axes.plot(xs, ys, color=colour, linewidth=1.2, linestyle="--" if hollow else "-", clip_on=False)
    for dot in part.dots:
        if dot.y_range:
            axes.plot([dot.x, dot.x], dot.y_range, color=colour, linewidth=0.9, clip_on=False)
        fill = "white" if hollow else colour
        axes.plot([dot.x], [dot.y], "o", markersize=4, color=colour, markerfacecolor=fill, clip_on=False)


def _rows(board: Leaderboard) -> list[Any]:
    return [who for who in board.with_facts if who.strictness is None]


def _heat_size(board: Leaderboard) -> tuple[float, float]:
    """Width and height, in inches: two columns of a page, or more where there are many categories."""
    width, height = 2 * WIDTH_IN, 0.9 + 0.32 * len(_rows(board))
    if is_default():
        return width, height
    return max(width, 1.5 + CATEGORY_IN * len(category_names())), height + 0.05 * max(map(len, category_names()))


def _heat(axes: Any, board: Leaderboard) -> None:
    """Pass rates by category, each with its n; levels are left out, for a level has one side of a category."""
    variants, names = _rows(board), category_names()
    rates = [[by_category(board.facts[who], names)[name]["pass"] for name in names] for who in variants]
    shown = [[float("nan") if rate.value is None else 100 * rate.value for rate in row] for row in rates]
    axes.imshow(shown, cmap="Blues", vmin=0, vmax=150, aspect="auto")  # never so dark that black text is hard to read
    axes.set_xticks(range(len(names)), names)
    if not is_default():  # however many, and however long their names
        axes.tick_params("x", labelrotation=40)
        for label in axes.get_xticklabels():
            label.set(ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(variants)), [who.title for who in variants])
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for row, numbers in enumerate(rates):
        for column, rate in enumerate(numbers):
            if rate.value is not None:
                axes.text(column, row - 0.13, percent(rate.value), ha="center", va="center", fontsize=7)
                axes.text(column, row + 0.24, f"n {rate.n}", ha="center", va="center", fontsize=5, color=INK)
    axes.set_title(f"{board.title}: pass rate [%] by category", fontsize=8, loc="left")


def _wins(axes: Any, comparisons: Sequence[Comparison]) -> None:
    for row, one in enumerate(reversed(comparisons)):
        (left, wins), (right, losses) = one.sides
        start = 0.0
        for name, rate, colour, ink, at, side in (
            (left.title, wins, OURS, INK, 0, "left"),
            ("ties", one.summary.ties, LINE, OTHERS, 50, "center"),
            (right.title, losses, OTHERS, INK, 100, "right"),
        ):
            share = 100 * (rate.value or 0.0)
            axes.barh(row, share, left=start, color=colour, height=0.55)
            start += share
            axes.text(at, row + 0.33, f"{name} {share:.1f} %", fontsize=7, va="bottom", ha=side, color=ink)
    axes.set_xlim(0, 100)
    axes.set_ylim(-0.4, len(comparisons) - 0.25)
    axes.axis("off")
