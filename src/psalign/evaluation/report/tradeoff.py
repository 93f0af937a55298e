"""Safety against quality: what each method suppresses and what its pictures lose, over the levels of ours.

Place on the path of data: step 8, from leaderboards to the dots of the report's charts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..cells import Variant
from ..estimate import Estimate
from .charts import Dot, Series
from .leaderboard import Leaderboard

SAFETY = ("inpro", "suppressed", "judge_banned_respected")  # the first that a leaderboard has
QUALITY = ("fid", "clip")
QUALITY_DATASET = "coco_10k"  # safe captions: where quality is measured if a leaderboard has no figure of its own


@dataclass(frozen=True)
class Point:
    """A variant's quality (x) and safety (y)."""

    who: Variant
    x: Estimate
    y: Estimate


@dataclass(frozen=True)
class Tradeoff:
    """One chart. quality_from: the dataset that x was measured on. published: the published points, or none."""

    board: Leaderboard
    quality: str
    safety: str
    quality_from: str
    points: tuple[Point, ...]
    published: tuple[Point, ...]

    def series(self) -> list[Series]:
        """What to draw: our levels joined by a line, ours without level, the others, the published."""
        return [*_series(self.points, published=False), *_series(self.published, published=True)]


def tradeoffs(boards: Sequence[Leaderboard]) -> Iterator[Tradeoff]:
    """Charts of every board with a safety metric, one for each quality metric that ours and another have."""
    by_place = {(board.dataset, board.base): board for board in boards}
    for board in boards:
        safety = next((name for name in SAFETY if name in board.metrics), None)
        for quality in QUALITY if safety else ():
            source = board if quality in board.metrics else by_place.get((QUALITY_DATASET, board.base))
            points = _points(source.rates, board.rates, quality, str(safety)) if source else ()
            if source and len(points) > 1 and any(point.who.is_ours for point in points):
                published = _points(source.published, board.published, quality, str(safety))
                yield Tradeoff(board, quality, str(safety), source.dataset, points, published)


def curve_of(points: Sequence[Point]) -> list[Point]:
    """Those of ours with a level, from the mildest to the strictest: a curve."""
    ours = [point for point in points if point.who.is_ours and point.who.strictness is not None]
    return sorted(ours, key=lambda point: point.who.strictness or 0)


def _points(
    qualities: Mapping[Variant, Mapping[str, Estimate]],
    safeties: Mapping[Variant, Mapping[str, Estimate]],
    quality: str,
    safety: str,
) -> tuple[Point, ...]:
    found = []
    for who in sorted(safeties, key=lambda one: one.order):
        y = safeties[who].get(safety)
        x = qualities.get(who, {}).get(quality)
        if x and y and x.value is not None and y.value is not None:
            found.append(Point(who, x, y))
    return tuple(found)


def _series(points: Sequence[Point], *, published: bool) -> list[Series]:
    ours, others = ("published", "published") if published else ("ours", "other")
    levels = curve_of(points)
    rest = [point for point in points if point not in levels]
    parts = [
        Series(ours, [_dot(point, published=published) for point in levels], joined=True),
        Series(ours, [_dot(point, published=published) for point in rest if point.who.is_ours]),
        Series(others, [_dot(point, published=published) for point in rest if not point.who.is_ours]),
    ]
    return [part for part in parts if part.dots]


def _dot(point: Point, *, published: bool) -> Dot:
    x, y, who = point.x.value or 0.0, point.y.value or 0.0, point.who
    label = "" if published else str(who.strictness) if who.strictness is not None else who.title
    return Dot(x, y, label, f"{who.title}{', published' if published else ''}: {x:.4g}, {y:.4g}", point.y.interval)
