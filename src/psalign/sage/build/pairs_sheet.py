"""A sheet of a dataset's pairs, to look at before training on it: safe beside unsafe, with their captions.

Place on the path of data: the last step of a build.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from ...decoding import encode
from ...files import write_bytes

CELL_PX, GAP_PX, MARGIN_PX, LINE_PX, COLUMNS = 160, 10, 18, 15, 3
TITLE_PX, CAPTION_LINES = 22, 4
PAPER, INK, SOFT, LINE = "#ffffff", "#16191d", "#5b636e", "#e1e4e6"
_PAIR_PX = (2 * CELL_PX + GAP_PX, TITLE_PX + CELL_PX + GAP_PX + (CAPTION_LINES + 1) * LINE_PX)


@dataclass(frozen=True)
class SheetPair:
    """title: category and concept. safe, unsafe: files of the pictures."""

    title: str
    safe: Path
    unsafe: Path
    safe_caption: str
    unsafe_caption: str


def write_pairs_sheet(path: Path, pairs: Sequence[SheetPair]) -> None:
    """Write a PNG: pairs in rows of three, the safe picture on the left of each."""
    lines = (len(pairs) + COLUMNS - 1) // COLUMNS
    columns = min(COLUMNS, len(pairs))
    width = 2 * MARGIN_PX + columns * _PAIR_PX[0] + (columns - 1) * 3 * GAP_PX
    image = Image.new("RGB", (width, 2 * MARGIN_PX + lines * (_PAIR_PX[1] + GAP_PX)), PAPER)
    pen = ImageDraw.Draw(image)
    for number, pair in enumerate(pairs):
        line, column = divmod(number, COLUMNS)
        left = MARGIN_PX + column * (_PAIR_PX[0] + 3 * GAP_PX)
        _draw_pair(image, pen, pair, left, MARGIN_PX + line * (_PAIR_PX[1] + GAP_PX))
    write_bytes(path, encode(image))


def _draw_pair(image: Image.Image, pen: ImageDraw.ImageDraw, pair: SheetPair, left: int, top: int) -> None:
    bold, small = ImageFont.load_default(15), ImageFont.load_default(12)
    pen.text((left, top), pair.title, INK, bold)
    sides = ((pair.safe, "safe: ", pair.safe_caption), (pair.unsafe, "unsafe: ", pair.unsafe_caption))
    for place, (file, kind, caption) in enumerate(sides):
        x, y = left + place * (CELL_PX + GAP_PX), top + TITLE_PX
        with Image.open(file) as picture:
            image.paste(picture.convert("RGB").resize((CELL_PX, CELL_PX), Image.Resampling.LANCZOS), (x, y))
        pen.rectangle((x - 1, y - 1, x + CELL_PX, y + CELL_PX), outline=LINE)
        for number, words in enumerate(wrap(kind + caption, small)):
            pen.text((x, y + CELL_PX + 4 + number * LINE_PX), words, SOFT, small)


def wrap(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> list[str]:
    """At most CAPTION_LINES lines of a caption, each as wide as a picture; "..." where more is left."""
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".strip()
        if not lines[-1] or font.getlength(longer) <= CELL_PX:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines if len(lines) <= CAPTION_LINES else [*lines[: CAPTION_LINES - 1], f"{lines[CAPTION_LINES - 1]} ..."]
