"""What the mini world's things look like: names and colours; shapes.json has their shapes.

Place on the path of data: read by mini/world.py, which draws them.

A thing is a list of shapes in a box of [-1, 1] x [-1, 1], y down, drawn in order. A shape is (kind, fill,
numbers):
"polygon" x y x y ..., "ellipse" x0 y0 x1 y1, "line" width x y x y ..., "arc" width x0 y0 x1 y1 start end,
"pie" x0 y0 x1 y1 start end (angles in degrees, clockwise from the right). The fill "@" is the subject's
colour.
"""

from __future__ import annotations

import json
from functools import cache
from importlib import resources

Shape = tuple[str, str, list[float]]

INK = "#1c1c24"  # of edges

COLOURS = {
    "red": "#dc2b2b",
    "orange": "#f58a14",
    "yellow": "#f8d92c",
    "green": "#35a047",
    "blue": "#2c62e0",
    "purple": "#8b3cc0",
    "pink": "#f78fc0",
    "white": "#f6f6f6",
}
# name: sky, ground, height of the horizon in pixels from the top, what the sky holds
BACKGROUNDS = {
    "meadow": ("#9ccdf2", "#63b552", 40, "cloud"),
    "night": ("#1d2350", "#3a3f4c", 40, "moon"),
    "snow": ("#b9c4d2", "#edf2f8", 40, "snowcloud"),
    "desert": ("#fbdca4", "#dcae66", 42, "sun"),
    "sea": ("#c5ecf5", "#3f8fc4", 38, "gulls"),
    "sunset": ("#e9a0a8", "#6b4a6e", 42, "low sun"),
}
# The order of both is that of the outputs of the shipped detector.
SUBJECTS = ("cat", "house", "car", "boat", "tree", "mug", "fish", "robot")
MOTIFS = (
    "sword", "axe", "bomb", "cannon", "arrow", "skull", "spider", "eye", "bat", "ghost", "megaphone", "poster",
    "flag", "badge", "medal", "lips", "heart", "rose", "ribbon", "perfume", "pill", "pit", "shards", "needle",
    "bottle", "chain", "cage", "lasso", "hook", "padlock", "cross", "fence", "thorns", "torch", "wall",
)  # fmt: skip


@cache
def shapes() -> dict[str, list[Shape]]:
    """The shapes of every subject and motif."""
    text = (resources.files("psalign.mini") / "shapes.json").read_text(encoding="utf-8")
    things: dict[str, list[Shape]] = json.loads(text)
    return things
