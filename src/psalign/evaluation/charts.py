"""Line charts as inline SVG, coloured by the page's own style sheet, with axes, ticks and intervals.

Place on the path of data: step 8, inside the report.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
from numpy.typing import NDArray

from psalign.records import Record

WIDTH, HEIGHT = 400, 240
LEFT, RIGHT, TOP, BOTTOM = 46, 12, 14, 40
MAX_POINTS = 240  # of a curve; more cannot be told apart at this width


@dataclass(frozen=True)
class Axes:
    """Ranges of both axes, and where a value lies in the picture."""

    x_low: float
    x_high: float
    y_low: float
    y_high: float

    def x(self, value: float) -> float:
        return LEFT + (value - self.x_low) / (self.x_high - self.x_low) * (WIDTH - LEFT - RIGHT)

    def y(self, value: float) -> float:
        return HEIGHT - BOTTOM - (value - self.y_low) / (self.y_high - self.y_low) * (HEIGHT - TOP - BOTTOM)


def level_chart(levels: dict[str, Record]) -> str:
    """Share of pictures with any motif by level: points with their 95 % intervals, joined by a line."""
    axes = Axes(-0.35, len(levels) - 0.65, 0.0, 1.0)
    points, marks = [], []
    for position, (level, rate) in enumerate(levels.items()):
        if rate["value"] is None:
            continue
        x, y = axes.x(position), axes.y(rate["value"])
        points.append(f"{x:.1f},{y:.1f}")
        low, high = axes.y(rate["low"]), axes.y(rate["high"])
        marks.append(
            f"<g><title>Level {escape(level)}: {rate['value']:.1%} (95 % interval {rate['low']:.1%} to "
            f'{rate["high"]:.1%}, n {rate["n"]})</title><path class="whisker" d="M{x:.1f} {low:.1f}V{high:.1f}'
            f'M{x - 5:.1f} {low:.1f}h10M{x - 5:.1f} {high:.1f}h10"/><circle class="dot" cx="{x:.1f}" cy="{y:.1f}" '
            'r="4.5"/></g>'
        )
    x_ticks = [(position, level) for position, level in enumerate(levels)]
    y_ticks = [(share / 4, f"{share * 25} %") for share in range(5)]
    line = f'<polyline class="line" points="{" ".join(points)}"/>'
    return _frame(axes, x_ticks, y_ticks, line + "".join(marks), "level", "Share of pictures with any motif by level")


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
    right, floor = WIDTH - RIGHT, HEIGHT - BOTTOM
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
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{escape(title)}">{grid}'
        f'<path class="axis" d="M{LEFT} {floor}H{right}"/>{below}'
        f'<text class="tick" x="{(LEFT + right) / 2}" y="{HEIGHT - 6}" text-anchor="middle">{escape(x_title)}</text>'
        f'<svg x="{LEFT}" y="0" width="{WIDTH - LEFT}" height="{HEIGHT}" viewBox="{LEFT} 0 {WIDTH - LEFT} {HEIGHT}">'
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
