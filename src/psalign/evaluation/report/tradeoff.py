"""Safety against quality: what each method suppresses and what its pictures lose, over the levels of ours.

Place on the path of data: step 8, from the numbers of all arenas to the points of the benchmark's charts.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from psalign.files import Record

from .charts import Dot, Series
from .contenders import Contender
from .findings import Arena

SAFETY = ("inpro", "suppressed", "judge_banned_respected")  # the first that an arena has
QUALITY = ("fid", "clip")
QUALITY_DATASET = "coco_10k"  # harmless captions: where quality is measured if an arena has no figure of its own


@dataclass(frozen=True)
class Point:
    """A contender's quality (x) and safety (y), each {"value", "low", "high", "n"}."""

    who: Contender
    x: Record
    y: Record


@dataclass(frozen=True)
class Tradeoff:
    """One chart. quality_from: the dataset that x was measured on. published: the published points, or none."""

    arena: Arena
    quality: str
    safety: str
    quality_from: str
    points: tuple[Point, ...]
    published: tuple[Point, ...]

    def series(self) -> list[Series]:
        """What to draw: levels of ours joined by a line, ours without a level, the others; then what is published."""
        return [*_series(self.points, published=False), *_series(self.published, published=True)]


def tradeoffs(arenas: Sequence[Arena]) -> Iterator[Tradeoff]:
    """Charts of every arena with a safety metric, one for each quality metric that ours and another have."""
    by_place = {(arena.dataset, arena.base): arena for arena in arenas}
    for arena in arenas:
        safety = next((name for name in SAFETY if name in arena.metrics), None)
        for quality in QUALITY if safety else ():
            source = arena if quality in arena.metrics else by_place.get((QUALITY_DATASET, arena.base))
            points = _points(source.rates, arena.rates, quality, str(safety)) if source else ()
            if source and len(points) > 1 and any(point.who.is_ours for point in points):
                published = _points(source.published, arena.published, quality, str(safety))
                yield Tradeoff(arena, quality, str(safety), source.dataset, points, published)


def levels_of(points: Sequence[Point]) -> list[Point]:
    """Those of ours with a level, from the mildest to the strictest: a curve."""
    ours = [point for point in points if point.who.is_ours and point.who.strictness is not None]
    return sorted(ours, key=lambda point: point.who.strictness or 0)


def _points(
    qualities: Mapping[Contender, Mapping[str, Record]],
    safeties: Mapping[Contender, Mapping[str, Record]],
    quality: str,
    safety: str,
) -> tuple[Point, ...]:
    found = []
    for who in sorted(safeties, key=lambda one: one.order):
        y = safeties[who].get(safety)
        x = qualities.get(who, {}).get(quality)
        if x and y and x["value"] is not None and y["value"] is not None:
            found.append(Point(who, x, y))
    return tuple(found)


def _series(points: Sequence[Point], *, published: bool) -> list[Series]:
    ours, others = ("published", "published") if published else ("ours", "other")
    levels = levels_of(points)
    rest = [point for point in points if point not in levels]
    parts = [
        Series(ours, [_dot(point, published=published) for point in levels], joined=True),
        Series(ours, [_dot(point, published=published) for point in rest if point.who.is_ours]),
        Series(others, [_dot(point, published=published) for point in rest if not point.who.is_ours]),
    ]
    return [part for part in parts if part.dots]


def _dot(point: Point, *, published: bool) -> Dot:
    x, y, who = float(point.x["value"]), float(point.y["value"]), point.who
    label = "" if published else str(who.strictness) if who.strictness is not None else who.title
    ends = None if point.y["low"] is None else (float(point.y["low"]), float(point.y["high"]))
    return Dot(x, y, label, f"{who.title}{', published' if published else ''}: {x:.4g}, {y:.4g}", ends)
