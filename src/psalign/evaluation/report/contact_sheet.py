"""A sheet of pictures: one column per prompt, one row per user or level, the same seed down a column.

Place on the path of data: step 8, drawn into the report as HTML and into the README as PNG.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image, ImageDraw, ImageFilter, ImageFont

from psalign.decoding import encode
from psalign.files import write_bytes

from ..pictures import Picture

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

INK, SOFT, LINE, PAPER, BANNED = "#16191d", "#5b636e", "#e1e4e6", "#ffffff", "#c2500a"
CELL_PX, GAP_PX, GROUP_PX, LABEL_PX, MARGIN_PX = 128, 14, 14, 190, 24
CAPTION_GAP_PX = 14
FRAME_PX = 3  # of the outline, drawn outside the picture with as much paper between, so that it shows on any ground
MAX_SHOWN_PX = 256  # of a picture inside a page
VEIL_PX = 14  # radius of the blur over a picture of CELL_PX
FAILED_PX = 22  # of the mark in a picture's corner
LEGEND = "Outlined: this user bans what the prompt asks for, so the motif must be gone. Elsewhere it must be there."
FAILED_LEGEND = "A cross marks a picture where it is otherwise."
REVEALED = "Sensitive pictures are shown without blur, as asked for (--reveal)."


@dataclass(frozen=True)
class SheetRow:
    """One row of pictures, uint8 RGB [H, W, 3] each; None: it was not drawn.

    banned: one flag for each picture: this row's user bans what the prompt asks for, and the picture is outlined;
    empty: no picture is. failed: one flag for each picture: a banned motif is there, or an allowed one is missing;
    empty: no picture failed. new_group: leave a wider gap above this row. notes: a line below each picture,
    which the page alone shows; it may be "". empty: no picture has one.
    """

    label: str
    note: str
    pictures: Sequence[Picture | None]
    banned: Sequence[bool] = ()
    new_group: bool = False
    failed: Sequence[bool] = ()
    notes: Sequence[str] = ()

    def bans(self, column: int) -> bool:
        return bool(self.banned) and self.banned[column]

    def fails(self, column: int) -> bool:
        return bool(self.failed) and self.failed[column]

    def state(self, column: int) -> str:
        """In words what a reader sees of a picture beside it."""
        words = ("banned for this user" if self.bans(column) else "", "failed" if self.fails(column) else "")
        return ", ".join(filter(None, words))


@dataclass(frozen=True)
class Sheet:
    """Captions of the columns, and the rows. column_notes: a word under each caption, or empty.

    veiled: one flag for each column: its pictures and caption are blurred until a reader reveals them; empty: no
    column is. name: the name of this sheet within a page. title: the heading above it.
    Raises ValueError where a row has not exactly one picture for each column.
    """

    columns: Sequence[str]
    rows: Sequence[SheetRow]
    column_notes: Sequence[str] = ()
    veiled: Sequence[bool] = ()
    name: str = "sheet"
    title: str = ""

    def __post_init__(self) -> None:
        width = len(self.columns)
        if len(self.column_notes) not in (0, width):
            raise ValueError(f"expected {width} column notes or none, saw {len(self.column_notes)}")
        if len(self.veiled) not in (0, width):
            raise ValueError(f"expected {width} veils or none, saw {len(self.veiled)}")
        for row in self.rows:
            if len(row.pictures) != width or {len(row.banned), len(row.failed), len(row.notes)} - {0, width}:
                raise ValueError(f"row '{row.label}': expected {width} pictures, saw {len(row.pictures)}")

    def veils(self, column: int) -> bool:
        return bool(self.veiled) and self.veiled[column]

    @property
    def has_failed(self) -> bool:
        return any(any(row.failed) for row in self.rows)

    def note(self, column: int) -> str:
        return self.column_notes[column] if self.column_notes else ""


def picture_uri(picture: Picture) -> str:
    """A picture, uint8 RGB [H, W, 3], as a data URI that a page can hold; a large one is made smaller."""
    image, kind = Image.fromarray(picture), "png"
    if max(image.size) > MAX_SHOWN_PX:
        image.thumbnail((MAX_SHOWN_PX, MAX_SHOWN_PX), Image.Resampling.LANCZOS)
        kind = "jpeg"
    content = encode(image, "JPEG", quality=86) if kind == "jpeg" else encode(image)
    return f"data:image/{kind};base64," + base64.b64encode(content).decode("ascii")


def write_sheet_png(path: Path, sheet: Sheet, *, reveal: bool = False) -> None:
    """Draw the sheet as a PNG: labels on the left, captions wrapped on top, pictures at 128 pixels.

    reveal: show veiled pictures and prompts too; the file says so below them.
    """
    small, normal = ImageFont.load_default(14), ImageFont.load_default(17)
    veiled = [sheet.veils(column) and not reveal for column in range(len(sheet.columns))]
    shown = ["(prompt not shown)" if hidden else text for hidden, text in zip(veiled, sheet.columns, strict=True)]
    captions = [wrap(caption, small, CELL_PX) for caption in shown]
    note_px = 18 if sheet.column_notes else 0
    top = MARGIN_PX + max(map(len, captions), default=0) * 17 + note_px + CAPTION_GAP_PX
    tops = _row_tops(sheet, top)
    width = MARGIN_PX * 2 + LABEL_PX + len(sheet.columns) * (CELL_PX + GAP_PX) - GAP_PX
    legend = _legend(sheet, revealed=reveal and any(sheet.veiled))
    image = Image.new("RGB", (width, tops[-1] - GAP_PX + (30 * len(legend)) + MARGIN_PX), PAPER)
    draw = ImageDraw.Draw(image)
    for column, caption in enumerate(captions):
        left, first = _column_left(column), top - CAPTION_GAP_PX - note_px - len(caption) * 17
        draw.multiline_text((left, first), "\n".join(caption), INK, small, spacing=3)
        draw.text((left, top - CAPTION_GAP_PX - note_px), sheet.note(column), SOFT, small)
    for row, row_top in zip(sheet.rows, tops, strict=False):
        _draw_label(draw, row, row_top, normal, small)
        for column in range(len(sheet.columns)):
            _draw_cell(image, row, column, (_column_left(column), row_top), veiled=veiled[column])
    for number, line in enumerate(legend):
        draw.text((_column_left(0), tops[-1] + 2 + 24 * number), line, SOFT, small)
    write_bytes(path, encode(image))


def _legend(sheet: Sheet, *, revealed: bool) -> list[str]:
    """What is drawn, in words."""
    outlined = any(any(row.banned) for row in sheet.rows)
    first = " ".join(filter(None, (LEGEND if outlined else "", FAILED_LEGEND if sheet.has_failed else "")))
    return [line for line in (first, REVEALED if revealed else "") if line]


def wrap(text: str, font: Font, width_px: int) -> list[str]:
    """Lines of text that fit a width; a word wider than it gets a line of its own."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font.getlength(longer) <= width_px:
            lines[-1] = longer
        else:
            lines.append(word)
    return lines


def _row_tops(sheet: Sheet, top: int) -> list[int]:
    """Top of each row, then where the next one would be."""
    tops = [top]
    for number, _ in enumerate(sheet.rows):
        following = number + 1 < len(sheet.rows) and sheet.rows[number + 1].new_group
        tops.append(tops[-1] + CELL_PX + GAP_PX + (GROUP_PX if following else 0))
    return tops


def _column_left(column: int) -> int:
    return MARGIN_PX + LABEL_PX + column * (CELL_PX + GAP_PX)


def _draw_label(draw: ImageDraw.ImageDraw, row: SheetRow, top: int, normal: Font, small: Font) -> None:
    note = wrap(row.note, small, LABEL_PX - 20)
    middle = top + (CELL_PX - 22 - 17 * len(note)) // 2
    draw.text((MARGIN_PX, middle), row.label, INK, normal)
    for number, line in enumerate(note):
        draw.text((MARGIN_PX, middle + 24 + 17 * number), line, SOFT, small)


def _draw_cell(image: Image.Image, row: SheetRow, column: int, corner: tuple[int, int], *, veiled: bool) -> None:
    picture, draw = row.pictures[column], ImageDraw.Draw(image)
    if picture is None:
        return
    cell = Image.fromarray(picture).resize((CELL_PX, CELL_PX), Image.Resampling.LANCZOS)
    image.paste(cell.filter(ImageFilter.GaussianBlur(VEIL_PX)) if veiled else cell, corner)
    left, top = corner
    right = left + CELL_PX
    draw.rectangle((left - 1, top - 1, right, top + CELL_PX), outline=LINE)
    if row.bans(column):
        far = 2 * FRAME_PX
        box = (left - far, top - far, right - 1 + far, top + CELL_PX - 1 + far)
        draw.rounded_rectangle(box, radius=4, outline=BANNED, width=FRAME_PX)
    if row.fails(column):
        draw.rectangle((right - FAILED_PX, top, right - 1, top + FAILED_PX - 1), fill=BANNED)
        a, b, c, d = right - FAILED_PX + 6, top + 6, right - 7, top + FAILED_PX - 7
        for line in ((a, b, c, d), (a, d, c, b)):
            draw.line(line, fill=PAPER, width=3)
