"""A sheet of pictures: one column per prompt, one row per user or level, the same seed down a column.

Place on the path of data: step 8, drawn into the report as HTML and into the README as PNG.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from psalign.records import write_bytes

from .pictures import Picture

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

INK, SOFT, LINE, PAPER, BANNED = "#16191d", "#5b636e", "#e1e4e6", "#ffffff", "#c2500a"
CELL_PX, GAP_PX, GROUP_PX, LABEL_PX, MARGIN_PX = 128, 14, 14, 190, 24
CAPTION_GAP_PX = 14
FRAME_PX = 3  # of the outline, drawn outside the picture with as much paper between, so that it shows on any ground
LEGEND = "Outlined: this user bans what the prompt asks for, so the motif must be gone. Elsewhere it must be there."


@dataclass(frozen=True)
class SheetRow:
    """One row of pictures, uint8 RGB [H, W, 3] each.

    banned: for each picture, whether this row's user bans what its prompt asks for (outlined); empty: none is.
    new_group: leave a wider gap above this row.
    """

    label: str
    note: str
    pictures: Sequence[Picture]
    banned: Sequence[bool] = ()
    new_group: bool = False

    def bans(self, column: int) -> bool:
        return bool(self.banned) and self.banned[column]


@dataclass(frozen=True)
class Sheet:
    """Captions of the columns, and the rows. column_notes: a word under each caption (its category), or empty.

    Raises ValueError where a row has not exactly one picture for each column.
    """

    columns: Sequence[str]
    rows: Sequence[SheetRow]
    column_notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        width = len(self.columns)
        if len(self.column_notes) not in (0, width):
            raise ValueError(f"expected {width} column notes or none, saw {len(self.column_notes)}")
        for row in self.rows:
            if len(row.pictures) != width or len(row.banned) not in (0, width):
                raise ValueError(f"row '{row.label}': expected {width} pictures, saw {len(row.pictures)}")

    def note(self, column: int) -> str:
        return self.column_notes[column] if self.column_notes else ""


def picture_uri(picture: Picture) -> str:
    """A picture, uint8 RGB [H, W, 3], as a data URI that a page can hold."""
    content = io.BytesIO()
    Image.fromarray(picture).save(content, "PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(content.getvalue()).decode("ascii")


def sheet_html(sheet: Sheet) -> str:
    """The sheet as an HTML table; every text in it is escaped."""
    heads = "".join(
        f'<th scope="col"><span class="caption">{escape(caption)}</span>'
        f'<span class="note">{escape(sheet.note(column))}</span></th>'
        for column, caption in enumerate(sheet.columns)
    )
    rows = "\n".join(_row_html(sheet, row) for row in sheet.rows)
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="Sheet of pictures"><table class="sheet">'
        f"<thead><tr><td></td>{heads}</tr></thead>\n<tbody>{rows}</tbody></table></div>"
    )


def write_sheet_png(path: Path, sheet: Sheet) -> None:
    """Draw the sheet as a PNG: labels on the left, captions wrapped on top, pictures at 128 pixels."""
    small, normal = ImageFont.load_default(14), ImageFont.load_default(17)
    captions = [wrap(caption, small, CELL_PX) for caption in sheet.columns]
    lines = max((len(caption) for caption in captions), default=0)
    note_px = 18 if sheet.column_notes else 0
    top = MARGIN_PX + lines * 17 + note_px + CAPTION_GAP_PX
    tops = _row_tops(sheet, top)
    width = MARGIN_PX * 2 + LABEL_PX + len(sheet.columns) * (CELL_PX + GAP_PX) - GAP_PX
    legend_px = 30 if any(any(row.banned) for row in sheet.rows) else 0
    image = Image.new("RGB", (width, tops[-1] - GAP_PX + legend_px + MARGIN_PX), PAPER)
    draw = ImageDraw.Draw(image)
    for column, caption in enumerate(captions):
        left, first = _column_left(column), top - CAPTION_GAP_PX - note_px - len(caption) * 17
        for number, line in enumerate(caption):
            draw.text((left, first + number * 17), line, INK, small)
        draw.text((left, top - CAPTION_GAP_PX - note_px), sheet.note(column), SOFT, small)
    for row, row_top in zip(sheet.rows, tops, strict=False):
        _draw_label(draw, row, row_top, normal, small)
        for column, picture in enumerate(row.pictures):
            _draw_cell(image, draw, picture, (_column_left(column), row_top), banned=row.bans(column))
    if legend_px:
        draw.text((_column_left(0), tops[-1] + 2), LEGEND, SOFT, small)
    content = io.BytesIO()
    image.save(content, "PNG", optimize=True)
    write_bytes(path, content.getvalue())


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


def _row_html(sheet: Sheet, row: SheetRow) -> str:
    cells = "".join(
        f'<td{" class=banned" if row.bans(column) else ""}><img src="{picture_uri(picture)}" loading="lazy" '
        f'width="{picture.shape[1]}" height="{picture.shape[0]}" '
        f'alt="{escape(row.label)}: {escape(caption)}{", banned for this user" if row.bans(column) else ""}"></td>'
        for column, (caption, picture) in enumerate(zip(sheet.columns, row.pictures, strict=True))
    )
    group = ' class="group"' if row.new_group else ""
    return (
        f'<tr{group}><th scope="row"><span class="label">{escape(row.label)}</span>'
        f'<span class="note">{escape(row.note)}</span></th>{cells}</tr>'
    )


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


def _draw_cell(
    image: Image.Image, draw: ImageDraw.ImageDraw, picture: Picture, corner: tuple[int, int], *, banned: bool
) -> None:
    cell = Image.fromarray(picture).resize((CELL_PX, CELL_PX), Image.Resampling.LANCZOS)
    image.paste(cell, corner)
    left, top = corner
    draw.rectangle((left - 1, top - 1, left + CELL_PX, top + CELL_PX), outline=LINE)
    if banned:
        far = CELL_PX - 1 + 2 * FRAME_PX
        box = (left - 2 * FRAME_PX, top - 2 * FRAME_PX, left + far, top + far)
        draw.rounded_rectangle(box, radius=4, outline=BANNED, width=FRAME_PX)
