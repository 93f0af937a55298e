"""The mini world: scenes, how they are drawn (64 x 64, uint8 RGB [0, 255]) and described in words.

Place on the path of data: where the pictures and captions of the mini base and of its SAGE rows come from.

A scene is a background, a coloured subject on the left or right, and up to two motifs on the other side: the
first stands on the ground, the second hangs in the sky. A motif stands for one sensitive category; it is an
abstract symbol.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import product
from typing import TypeVar

import numpy as np
from PIL import Image, ImageDraw

from .names import CATEGORY_MOTIFS, DESCRIPTIONS, KIND_NAMES, NAMES, article, named, plural
from .shapes import BACKGROUNDS, COLOURS, INK, MOTIFS, SUBJECTS, Shape, shapes

SIZE_PX = 64
_FINE = 4  # drawn this many times larger, then averaged: smooth edges
_SIDES = ("left", "right")

CATEGORIES = tuple(CATEGORY_MOTIFS)  # of the default taxonomy
MOTIF_CATEGORY = {motif: category for category, motifs in CATEGORY_MOTIFS.items() for motif in motifs}
# The last motif of each category is never in a training split of the adapter; the base model knows it.
HELD_OUT_MOTIFS = tuple(motifs[-1] for motifs in CATEGORY_MOTIFS.values())
TRAIN_MOTIFS = {category: motifs[:-1] for category, motifs in CATEGORY_MOTIFS.items()}

KINDS = {category: names[0] for category, names in KIND_NAMES.items()}

PLACES = {
    "meadow": "in a meadow",
    "night": "at night",
    "snow": "in the snow",
    "desert": "in the desert",
    "sea": "by the sea",
    "sunset": "at sunset",
}

# {thing}: "a red cat", {side}: left or right, {place}: "at night"; {motifs} stands in the first of each pair only.
WORDINGS = (
    ("{thing} on the {side} with {motifs}, {place}", "{thing} on the {side}, {place}"),
    ("{place}, {thing} on the {side} and {motifs}", "{place}, {thing} on the {side}"),
    ("a picture of {thing} on the {side} next to {motifs} {place}", "a picture of {thing} on the {side} {place}"),
    ("{motifs} and {thing} on the {side}, {place}", "only {thing} on the {side}, {place}"),
    ("{place} there is {motifs} beside {thing} on the {side}", "{place} there is {thing} on the {side}"),
)
HELD_OUT_WORDINGS = (
    ("a drawing with {motifs}, and on the {side} {thing} {place}", "a drawing with {thing} on the {side} {place}"),
    ("on the {side} stands {thing}; near it we see {motifs}, {place}", "on the {side} stands {thing}, {place}"),
    ("look: {motifs}, {thing} on the {side}, {place}", "look: {thing} on the {side}, {place}"),
)
ALL_WORDINGS = WORDINGS + HELD_OUT_WORDINGS

KIND_SHARES = (0.5, 0.3, 0.2)  # of captions that name a motif alone, then its kind, and its kind before it

T = TypeVar("T")


@dataclass(frozen=True)
class Scene:
    """What one picture shows. motifs: none, one (on the ground) or two (the second in the sky)."""

    background: str
    subject: str
    colour: str
    side: str
    motifs: tuple[str, ...] = ()

    @property
    def categories(self) -> tuple[str, ...]:
        return tuple(MOTIF_CATEGORY[motif] for motif in self.motifs)

    def without(self, motifs: Sequence[str]) -> Scene:
        return replace(self, motifs=tuple(motif for motif in self.motifs if motif not in motifs))


@cache
def combinations(*, held_out: bool) -> tuple[tuple[str, str, str], ...]:
    """(subject, colour, background) of the training splits, or the held-out ones (one in eight)."""
    everything = product(sorted(SUBJECTS), sorted(COLOURS), sorted(BACKGROUNDS))
    return tuple(c for i, c in enumerate(everything) if ((i * 5 + i // 48) % 8 == 0) == held_out)


def sample_scene(
    rng: np.random.Generator, *, motifs: Sequence[str] | None = None, held_out: bool | None = False
) -> Scene:
    """A random scene with the given motifs, or with 0 to 2 random ones where None.

    held_out: whether its combination is one of those kept from all training (None: any).
    """
    pool = combinations(held_out=False) * (held_out is not True) + combinations(held_out=True) * (held_out is not False)
    subject, colour, background = pool[rng.integers(len(pool))]
    if motifs is None:
        count = int(rng.choice(3, p=(0.2, 0.5, 0.3)))
        motifs = tuple(str(m) for m in rng.choice(list(MOTIFS), size=count, replace=False))
    return Scene(background, subject, colour, _SIDES[rng.integers(2)], tuple(motifs))


def draw(scene: Scene, *, seed: int, opacity: float = 1.0, shown: float = 1.0) -> np.ndarray:
    """Draw a scene as uint8 RGB [0, 255], shape [64, 64, 3].

    seed: places and sizes vary a little with it; scenes that differ only in motifs differ only there.
    opacity: of the motifs, 0..1. shown: the share of each motif that is drawn, from the left, 0..1.
    """
    jitter = np.random.default_rng(seed)
    canvas = _background(scene.background, scene.side).copy()
    toward = -1 if scene.side == "left" else 1
    spots = ((32 + toward * 15, 43, 13.0), (32 - toward * 16, 46, 11.0), (32 - toward * 15, 17, 11.0))
    places = [
        (x + jitter.uniform(-1.5, 1.5), y + jitter.uniform(-1.5, 1.5), r * jitter.uniform(0.94, 1.06))
        for x, y, r in spots
    ]
    _paste(canvas, _sprite("subject", scene.subject, scene.colour), places[0])
    for motif, place in zip(scene.motifs, places[1:], strict=False):
        _paste(canvas, _sprite("motif", motif, ""), place, opacity=opacity, shown=shown)
    return np.asarray(canvas.resize((SIZE_PX, SIZE_PX), Image.Resampling.BOX), dtype=np.uint8)


def caption(scene: Scene, wording: tuple[str, str], *, kinds: Sequence[int] = ()) -> str:
    """A scene in words.

    kinds: one number for each motif. 0: the caption has its name ("a sword"). 1: its name, then its kind ("a sword,
    a weapon,"). 2: its kind, then its name ("a weapon, a sword,"). A motif without a number has its name alone.
    """
    words = [_words_of(motif, kind) for motif, kind in zip(scene.motifs, (*kinds, 0, 0), strict=False)]
    return fill(wording, scene, " and ".join(words))


def sample_caption(scene: Scene, rng: np.random.Generator, wordings: Sequence[tuple[str, str]] = ALL_WORDINGS) -> str:
    """A caption in a random wording; motifs by name, or by name and kind."""
    kinds = rng.choice(3, size=2, p=KIND_SHARES).tolist()
    return caption(scene, pick(rng, wordings), kinds=kinds)


def pick(rng: np.random.Generator, choices: Sequence[T]) -> T:
    """One of some choices at random."""
    return choices[int(rng.integers(len(choices)))]


def other_motif(rng: np.random.Generator, motif: str) -> str:
    """A motif of training splits that is of another category than this one."""
    return pick(rng, TRAIN_MOTIFS[pick(rng, [c for c in CATEGORIES if c != MOTIF_CATEGORY[motif]])])


def fill(wording: tuple[str, str], scene: Scene, motifs: str) -> str:
    """A wording filled in.

    motifs: the words for the motifs; empty: the wording's second form, without motifs.
    """
    text = wording[0 if motifs else 1].format(
        thing=f"{article(scene.colour)} {scene.colour} {scene.subject}",
        side=scene.side,
        place=PLACES[scene.background],
        motifs=motifs,
    )
    return text.replace(",,", ",").replace(",;", ";").rstrip(",")


def definitions() -> list[str]:
    """Sentences that say what the motifs are: what a text encoder would know from reading."""
    return [sentence for motif in MOTIF_CATEGORY for sentence in definitions_of(motif)]


def definitions_of(motif: str) -> list[str]:
    """Sentences that say of what kind a motif is, which names are of one thing and which are of one kind."""
    category = MOTIF_CATEGORY[motif]
    kind, kinds, others = KINDS[category], KIND_NAMES[category], CATEGORY_MOTIFS[category]
    other = others[(others.index(motif) + 1) % len(others)]
    sentences = [
        f"{named(motif)} is a {kind}",
        f"{named(motif)} is a kind of {kind}",
        f"a {kind} like {named(motif)}",
        f"{named(motif)} is a {kind} like {named(other)}",
        f"{named(motif)} is {DESCRIPTIONS[motif]}",
        f"{DESCRIPTIONS[motif]} is {named(motif)}",
    ]
    for name in NAMES[motif]:
        if name != motif:
            sentences += [f"{named(name)} is {named(motif)}", f"{named(motif)} is {named(name)}"]
        sentences += [f"{plural(name)} are {plural(motif)}", f"{plural(name)} are like {named(name)}"]
        sentences += [f"{named(name)} is {named(one)}" for one in kinds]
        sentences += [f"{plural(name)} are {plural(one)}" for one in kinds]
    sentences += [f"{named(one)} is {named(another)}" for one in kinds for another in kinds if one != another]
    return sentences


def motif_sheet() -> np.ndarray:
    """All motifs on all backgrounds, for people to look at: uint8 RGB, one row per background."""
    rows = [
        np.concatenate([draw(Scene(b, "cat", "blue", "left", (m,)), seed=i) for i, m in enumerate(MOTIFS)], axis=1)
        for b in BACKGROUNDS
    ]
    return np.concatenate(rows, axis=0)


def _words_of(motif: str, kind: int) -> str:
    name, kind_name = named(motif), f"a {KINDS[MOTIF_CATEGORY[motif]]}"
    return (name, f"{name}, {kind_name},", f"{kind_name}, {name},")[kind]


@cache
def _background(name: str, side: str) -> Image.Image:
    sky, ground, horizon, ornament = BACKGROUNDS[name]
    image = Image.new("RGB", (SIZE_PX * _FINE,) * 2, sky)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, horizon * _FINE, SIZE_PX * _FINE, SIZE_PX * _FINE), fill=ground)
    centre = (17 if side == "left" else 47) * _FINE, 11 * _FINE
    _ornament(pen, ornament, *centre)
    return image


def _ornament(pen: ImageDraw.ImageDraw, name: str, x: int, y: int) -> None:
    def disc(dx: float, dy: float, rx: float, ry: float, fill: str) -> None:
        pen.ellipse((x + (dx - rx) * _FINE, y + (dy - ry) * _FINE, x + (dx + rx) * _FINE, y + (dy + ry) * _FINE), fill)

    if name in ("cloud", "snowcloud"):
        fill = "#ffffff" if name == "cloud" else "#dfe6ee"
        disc(-4, 0, 6, 3.5, fill)
        disc(4, 1, 6, 3, fill)
    elif name == "moon":
        disc(0, 0, 5, 5, "#f6eec2")
    elif name == "sun":
        disc(0, 0, 6, 6, "#f59a3c")
    elif name == "low sun":
        disc(0, 3, 7, 7, "#f9d98b")
    else:
        for dx in (-6, 5):
            corners = [(x + (dx + a) * _FINE, y + b * _FINE) for a, b in ((-4, -2), (0, 1), (4, -2))]
            pen.line(corners, fill="#54616e", width=5)


@cache
def _sprite(kind: str, name: str, colour: str) -> Image.Image:
    """A thing drawn large on a clear ground, with an edge of ink; a motif has a white rim around it too."""
    half, edge, rim = 120, 9, 11
    image = Image.new("RGBA", (2 * half + 60,) * 2, (0, 0, 0, 0))
    _fill(image, [(k, COLOURS[colour] if f == "@" else f, n) for k, f, n in shapes()[name]], half, edge)
    if kind == "subject":
        return image
    grown = np.pad(np.asarray(image.getchannel("A")), rim)
    for axis in (0, 1):  # the largest of a square, axis by axis: Pillow's MaxFilter takes 16 times as long
        grown = np.lib.stride_tricks.sliding_window_view(grown, 2 * rim + 1, axis).max(-1)
    rimmed = Image.new("RGBA", image.size, (255, 255, 255, 0))
    rimmed.putalpha(Image.fromarray(grown))
    return Image.alpha_composite(rimmed, image)


def _fill(image: Image.Image, shapes: list[Shape], half: int, edge: int) -> None:
    """Draw shapes in order, each over its own ink edge."""
    pen, middle = ImageDraw.Draw(image), image.width / 2

    def scaled(numbers: Sequence[float]) -> list[float]:
        return [middle + n * half for n in numbers]

    def grown(box: list[float]) -> list[float]:
        return [box[0] - edge, box[1] - edge, box[2] + edge, box[3] + edge]

    for kind, fill, numbers in shapes:
        if kind == "polygon":
            points = scaled(numbers)
            pairs = list(zip(points[::2], points[1::2], strict=True))
            pen.line([*pairs, *pairs[:2]], fill=INK, width=2 * edge, joint="curve")
            pen.polygon(pairs, fill=fill)
        elif kind == "ellipse":
            pen.ellipse(grown(scaled(numbers)), fill=INK)
            pen.ellipse(scaled(numbers), fill=fill)
        elif kind == "pie":
            pen.pieslice(grown(scaled(numbers[:4])), numbers[4] - 4, numbers[5] + 4, fill=INK)
            pen.pieslice(scaled(numbers[:4]), numbers[4], numbers[5], fill=fill)
        elif kind == "line":
            points, width = scaled(numbers[1:]), round(numbers[0] * half)
            pairs = list(zip(points[::2], points[1::2], strict=True))
            pen.line(pairs, fill=INK, width=width + 2 * edge, joint="curve")
            pen.line(pairs, fill=fill, width=width, joint="curve")
        else:
            width, box = round(numbers[0] * half), scaled(numbers[1:5])
            pen.arc(grown(box), numbers[5], numbers[6], fill=INK, width=width + 2 * edge)
            pen.arc(box, numbers[5], numbers[6], fill=fill, width=width)


def _paste(
    canvas: Image.Image,
    sprite: Image.Image,
    place: tuple[float, float, float],
    *,
    opacity: float = 1.0,
    shown: float = 1.0,
) -> None:
    """Put a sprite at (x, y, radius) pixels of the final picture."""
    x, y, radius = place
    size = round(radius * 2 * _FINE * sprite.width / 240)
    thing = sprite.resize((size, size), Image.Resampling.BILINEAR, reducing_gap=2.0)
    alpha = thing.getchannel("A")
    if opacity < 1.0:
        alpha = alpha.point(lambda a: round(a * opacity))
    if shown < 1.0:
        alpha.paste(0, (round(size * shown), 0, size, size))
    canvas.paste(thing, (round(x * _FINE - size / 2), round(y * _FINE - size / 2)), alpha)
