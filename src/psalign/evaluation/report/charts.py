"""Charts as inline SVG, coloured by the page's own style sheet, with axes, ticks and intervals.

Place on the path of data: step 8, inside the report.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from ..estimate import Estimate
from .format import interval, value

WIDTH, HEIGHT = 400, 240
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 14, 40
MAX_POINTS = 240  # of a curve: more do not show at this width
SCATTER_HEIGHT = 300
LETTER_PX, LINE_PX = 6.6, 12.0  # size of a label's letters, which must be guessed: the font is the reader's
LEADER_PX = 10.0  # farthest that a label stands from its dot without a line between them

Anchor = Literal["start", "middle", "end"]  # of a text, as SVG calls it
Box = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Axes:
    """Ranges of both axes, and where a value lies in the picture."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float
    height: int = HEIGHT

    def x(self, value: float) -> float:
        return LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return self.height - BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (self.height - TOP - BOTTOM)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """The values that lie at a place of the picture."""
        across, down = WIDTH - LEFT - RIGHT, self.height - TOP - BOTTOM
        return (
            self.x_low + (x - LEFT) / across * (self.x_high - self.x_low),
            self.y_low + (self.height - BOTTOM - y) / down * (self.y_high - self.y_low),
        )


@dataclass(frozen=True)
class Dot:
    """A point of a scatter chart. label: beside it, or empty; tip: shown on hover; y_range: its interval."""

    x: float
    y: float
    label: str
    tip: str
    y_range: tuple[float, float] | None = None


@dataclass(frozen=True)
class Series:
    """Dots of one kind ("ours", "other" or "published", as in the style sheet), joined by a line or not."""

    kind: str
    dots: Sequence[Dot]
    joined: bool = False


def level_chart(levels: Mapping[int, Estimate]) -> str:
    """Share of pictures with any motif by level: points with their 95 % intervals, joined by a line."""
    dots = [
        Dot(level, rate.value, "", f"Level {level}: {value(rate)} (95 % interval {interval(rate)}, n {rate.n})",
            rate.interval)
        for level, rate in levels.items()
        if rate.value is not None
    ]  # fmt: skip
    axes = Axes(min(levels) - 0.35, max(levels) + 0.35, 0.0, 1.0)
    x_ticks = [(float(level), str(level)) for level in levels]
    y_ticks = [(share / 4, f"{share * 25} %") for share in range(5)]
    body = _series_svg(axes, Series("ours", dots, joined=True))
    return _frame(axes, x_ticks, y_ticks, body, "level", "Share of pictures with any motif by level")


def curve_chart(points: Sequence[tuple[float, float]], *, title: str, unit_range: bool = False) -> str:
    """A training curve over steps: every point faintly, their moving average as the line.

    unit_range: the axis goes from 0 to 1, as for an accuracy.
    """
    steps, values = (np.array(column, dtype=np.float64) for column in zip(*points, strict=True))
    smooth = _smooth(values)
    # Spikes of single steps may leave the picture: the axis is for the curve.
    low, high = (0.0, 1.0) if unit_range else _range(np.concatenate([np.quantile(values, [0.02, 0.98]), smooth]))
    y_ticks = nice_ticks(low, high)
    first, last = float(steps.min()), float(steps.max())
    axes = Axes(first, max(last, first + 1), y_ticks[0], y_ticks[-1])
    body = f'<path class="raw" d="{_path(axes, steps, values)}"/><path class="line" d="{_path(axes, steps, smooth)}"/>'
    x_ticks = [tick for tick in nice_ticks(axes.x_low, axes.x_high) if axes.x_low <= tick <= axes.x_high]
    return _frame(axes, [(x, f"{x:g}") for x in x_ticks], [(y, f"{y:g}") for y in y_ticks], body, "step", title)


def scatter_chart(series: Sequence[Series], *, x_title: str, title: str, percent_y: bool = False) -> str:
    """Dots with their intervals and labels; labels avoid dots and each other where there is room."""
    axes, x_ticks, y_ticks = scatter_axes(series)
    body = "".join(_series_svg(axes, one) for one in series)
    for dot, box in place_labels(axes, series):
        left, anchor = label_anchor(axes, dot, box)
        place = f'x="{left:.1f}" y="{box[3] - 3:.1f}" text-anchor="{anchor}"'
        body += f'<text class="tick" {place}>{escape(dot.label)}</text>'
        for (x, y), (next_x, next_y) in leaders(axes, dot, box):
            body += f'<path class="leader" d="M{x:.1f} {y:.1f}L{next_x:.1f} {next_y:.1f}"/>'
    shown = [(y, f"{100 * y:g} %" if percent_y else f"{y:g}") for y in y_ticks]
    return _frame(axes, [(x, f"{x:g}") for x in x_ticks], shown, body, x_title, title)


def scatter_axes(series: Sequence[Series]) -> tuple[Axes, list[float], list[float]]:
    """Axes that hold all dots and intervals, and their ticks."""
    dots = [dot for one in series for dot in one.dots]
    x_low, x_high = _range(np.array([dot.x for dot in dots]))
    room = 0.04 * (x_high - x_low)  # no dot on the edge
    x_ticks = nice_ticks(x_low, x_high)
    y_ends = [end for dot in dots for end in (dot.y, *(dot.y_range or ()))]
    y_ticks = nice_ticks(*_range(np.array(y_ends)))
    left, right = min(x_ticks[0], x_low - room), max(x_ticks[-1], x_high + room)
    return Axes(left, right, y_ticks[0], y_ticks[-1], SCATTER_HEIGHT), x_ticks, y_ticks


def place_labels(axes: Axes, series: Sequence[Series]) -> Iterator[tuple[Dot, Box]]:
    """A box for each label, in pixels, that covers as little as possible of dots, lines and other labels. The last
    series, which is drawn over the others, has the first choice."""
    taken = [box for one in series for box in _taken(axes, one)]
    for dot in (dot for one in reversed(series) for dot in one.dots if dot.label):
        box = min(_places(axes, dot), key=lambda place: sum(_overlap(place, other) for other in taken))
        taken.append((box[0] - 3, box[1], box[2] + 3, box[3]))
        yield dot, box


def label_anchor(axes: Axes, dot: Dot, box: Box) -> tuple[float, Anchor]:
    """Where a label is fixed in its box, in pixels, and which part of it: the one that is next to its dot. Boxes are
    wide enough for wide letters."""
    if box[2] <= axes.x(dot.x):
        return box[2], "end"
    if box[0] >= axes.x(dot.x):
        return box[0], "start"
    return (box[0] + box[2]) / 2, "middle"


def leaders(axes: Axes, dot: Dot, box: Box) -> Iterator[tuple[tuple[float, float], tuple[float, float]]]:
    """The line from a dot to its label, in pixels, where others may stand between them; none where it is close."""
    x, y = axes.x(dot.x), axes.y(dot.y)
    edge = min(max(x, box[0]), box[2]), min(max(y, box[1]), box[3])
    if math.dist((x, y), edge) > LEADER_PX:
        yield (x, y), edge


def _series_svg(axes: Axes, series: Series) -> str:
    points = [(axes.x(dot.x), axes.y(dot.y)) for dot in series.dots]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points) if series.joined else ""
    marks = []
    for dot, (x, y) in zip(series.dots, points, strict=True):
        ends = [axes.y(end) for end in dot.y_range or ()]
        caps = f"M{x - 4:.1f} {ends[0]:.1f}h8M{x - 4:.1f} {ends[1]:.1f}h8" if ends else ""
        whisker = f'<path class="whisker" d="M{x:.1f} {ends[0]:.1f}V{ends[1]:.1f}{caps}"/>' if ends else ""
        marks.append(
            f'<g><title>{escape(dot.tip)}</title>{whisker}<circle class="dot" cx="{x:.1f}" cy="{y:.1f}" r="4.5"/></g>'
        )
    joined = f'<polyline class="line" points="{line}"/>' if line else ""
    return f'<g class="{series.kind}">{joined}{"".join(marks)}</g>'


def _taken(axes: Axes, series: Series) -> Iterator[Box]:
    """Where dots, whiskers and lines are: a label there could not be read."""
    points = [(axes.x(dot.x), axes.y(dot.y)) for dot in series.dots]
    for dot, (x, y) in zip(series.dots, points, strict=True):
        yield x - 6, y - 6, x + 6, y + 6
        if dot.y_range:
            yield x - 2, axes.y(dot.y_range[1]), x + 2, axes.y(dot.y_range[0])
    for (x, y), (next_x, next_y) in pairwise(points) if series.joined else ():
        steps = max(1, round(math.hypot(next_x - x, next_y - y) / 4))
        for step in range(steps):
            at_x, at_y = x + (next_x - x) * step / steps, y + (next_y - y) * step / steps
            yield at_x - 2, at_y - 2, at_x + 2, at_y + 2


def _places(axes: Axes, dot: Dot) -> Iterator[Box]:
    """Where a dot's label could stand, the best place first; all of them inside the chart."""
    x, y, width = axes.x(dot.x), axes.y(dot.y), LETTER_PX * len(dot.label)
    for far in (8, 14, 22, 34, 50, 70):
        near = far * 0.7
        corners = [(x + far, y - LINE_PX / 2), (x - width / 2, y - far - LINE_PX), (x - width / 2, y + far)]
        corners += [(x - far - width, y - LINE_PX / 2), (x + near, y - near - LINE_PX), (x + near, y + near)]
        corners += [(x - near - width, y - near - LINE_PX), (x - near - width, y + near)]
        for left, top in corners:
            left = min(max(left, LEFT + 2), WIDTH - width - 2)
            top = min(max(top, 0), axes.height - BOTTOM - LINE_PX - 1)
            yield left, top, left + width, top + LINE_PX


def _overlap(one: Box, other: Box) -> float:
    width = min(one[2], other[2]) - max(one[0], other[0])
    height = min(one[3], other[3]) - max(one[1], other[1])
    return max(width, 0.0) * max(height, 0.0)


def nice_ticks(low: float, high: float, *, about: int = 4) -> list[float]:
    """Round numbers, some four steps from low to high, that enclose the range."""
    rough = (high - low) / about or 1.0
    scale = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * scale for factor in (1, 2, 2.5, 5, 10) if factor * scale >= rough * 0.999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(number * step, 12) for number in range(first, last + 1)]


def _frame(
    axes: Axes,
    x_ticks: Sequence[tuple[float, str]],
    y_ticks: Sequence[tuple[float, str]],
    body: str,
    x_title: str,
    title: str,
) -> str:
    right, floor = WIDTH - RIGHT, axes.height - BOTTOM
    grid = "".join(
        f'<path class="grid" d="M{LEFT} {axes.y(value):.1f}H{right}"/>'
        f'<text class="tick" x="{LEFT - 8}" y="{axes.y(value) + 4:.1f}" text-anchor="end">{escape(label)}</text>'
        for value, label in y_ticks
    )
    below = "".join(
        f'<path class="axis" d="M{axes.x(value):.1f} {floor}v4"/>'
        f'<text class="tick" x="{axes.x(value):.1f}" y="{floor + 17}" text-anchor="middle">{escape(label)}</text>'
        for value, label in x_ticks
    )
    across, high = WIDTH - LEFT, axes.height
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {high}" role="img" aria-label="{escape(title)}">{grid}'
        f'<path class="axis" d="M{LEFT} {floor}H{right}"/>{below}'
        f'<text class="tick" x="{(LEFT + right) / 2}" y="{high - 6}" text-anchor="middle">{escape(x_title)}</text>'
        f'<svg x="{LEFT}" y="0" width="{across}" height="{high}" viewBox="{LEFT} 0 {across} {high}">'
        f"{body}</svg></svg>"
    )


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Gaussian moving average over a twentieth of the curve; at both ends over what there is of it."""
    width = max(1, len(values) // 20)
    kernel = np.exp(-0.5 * (np.arange(-2 * width, 2 * width + 1) / width) ** 2)
    if len(kernel) > len(values):
        return values
    weight = np.convolve(np.ones_like(values), kernel, mode="same")
    averaged: NDArray[np.float64] = np.convolve(values, kernel, mode="same") / weight
    return averaged


def _range(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = float(values.min()), float(values.max())
    return (low, high) if high > low else (low - 0.5, high + 0.5)


def _path(axes: Axes, steps: NDArray[np.float64], values: NDArray[np.float64]) -> str:
    every = max(1, math.ceil(len(steps) / MAX_POINTS))
    shown = np.clip(values, axes.y_low, axes.y_high)
    kept = sorted({*range(0, len(steps), every), len(steps) - 1})
    return "M" + "L".join(f"{axes.x(float(steps[i])):.1f} {axes.y(float(shown[i])):.1f}" for i in kept)
