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

from PIL import Image, ImageDraw, ImageFilter, ImageFont

from psalign.files import write_bytes

from ..pictures import Picture

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

INK, SOFT, LINE, PAPER, BANNED = "#16191d", "#5b636e", "#e1e4e6", "#ffffff", "#c2500a"
CELL_PX, GAP_PX, GROUP_PX, LABEL_PX, MARGIN_PX = 128, 14, 14, 190, 24
CAPTION_GAP_PX = 14
FRAME_PX = 3  # of the outline, drawn outside the picture with as much paper between, so that it shows on any ground
MAX_SHOWN_PX = 256  # of a picture inside a page
VEIL_PX = 14  # radius of the blur over a picture of CELL_PX
# Without a script: the box before the sheet takes all of its veils away, the box in a veil takes that one away.
REVEAL = (
    '<input class="reveal" type="checkbox" id="reveal-{name}">'
    '<label class="reveal-all" for="reveal-{name}">Show every blurred picture of this table</label>'
)
LEGEND = "Outlined: this user bans what the prompt asks for, so the motif must be gone. Elsewhere it must be there."


@dataclass(frozen=True)
class SheetRow:
    """One row of pictures, uint8 RGB [H, W, 3] each; None where there is none.

    banned: for each picture, whether this row's user bans what its prompt asks for (outlined); empty: none is.
    new_group: leave a wider gap above this row.
    """

    label: str
    note: str
    pictures: Sequence[Picture | None]
    banned: Sequence[bool] = ()
    new_group: bool = False

    def bans(self, column: int) -> bool:
        return bool(self.banned) and self.banned[column]


@dataclass(frozen=True)
class Sheet:
    """Captions of the columns, and the rows. column_notes: a word under each caption (its category), or empty.

    veiled: for each column, whether its pictures and caption are blurred until a reader asks for them; empty: none is.
    name: of this sheet among those of a page.
    Raises ValueError where a row has not exactly one picture for each column.
    """

    columns: Sequence[str]
    rows: Sequence[SheetRow]
    column_notes: Sequence[str] = ()
    veiled: Sequence[bool] = ()
    name: str = "sheet"

    def __post_init__(self) -> None:
        width = len(self.columns)
        if len(self.column_notes) not in (0, width):
            raise ValueError(f"expected {width} column notes or none, saw {len(self.column_notes)}")
        if len(self.veiled) not in (0, width):
            raise ValueError(f"expected {width} veils or none, saw {len(self.veiled)}")
        for row in self.rows:
            if len(row.pictures) != width or len(row.banned) not in (0, width):
                raise ValueError(f"row '{row.label}': expected {width} pictures, saw {len(row.pictures)}")

    def veils(self, column: int) -> bool:
        return bool(self.veiled) and self.veiled[column]

    def note(self, column: int) -> str:
        return self.column_notes[column] if self.column_notes else ""


def picture_uri(picture: Picture) -> str:
    """A picture, uint8 RGB [H, W, 3], as a data URI that a page can hold; a large one is made smaller."""
    image, content = Image.fromarray(picture), io.BytesIO()
    if max(image.size) > MAX_SHOWN_PX:
        image.thumbnail((MAX_SHOWN_PX, MAX_SHOWN_PX), Image.Resampling.LANCZOS)
        image.save(content, "JPEG", quality=86)
        kind = "jpeg"
    else:
        image.save(content, "PNG", optimize=True)
        kind = "png"
    return f"data:image/{kind};base64," + base64.b64encode(content.getvalue()).decode("ascii")


def sheet_html(sheet: Sheet) -> str:
    """The sheet as an HTML table; every text in it is escaped."""
    heads = "".join(
        f'<th scope="col">{_caption_html(caption, veiled=sheet.veils(column))}'
        f'<span class="note">{escape(sheet.note(column))}</span></th>'
        for column, caption in enumerate(sheet.columns)
    )
    reveal = REVEAL.format(name=escape(sheet.name)) if any(sheet.veiled) else ""
    rows = "\n".join(_row_html(sheet, row) for row in sheet.rows)
    return (
        f'{reveal}<div class="scroll" tabindex="0" role="region" aria-label="Sheet of pictures"><table class="sheet">'
        f"<thead><tr><td></td>{heads}</tr></thead>\n<tbody>{rows}</tbody></table></div>"
    )


def write_sheet_png(path: Path, sheet: Sheet) -> None:
    """Draw the sheet as a PNG: labels on the left, captions wrapped on top, pictures at 128 pixels."""
    small, normal = ImageFont.load_default(14), ImageFont.load_default(17)
    shown = ["(prompt not shown)" if sheet.veils(column) else text for column, text in enumerate(sheet.columns)]
    captions = [wrap(caption, small, CELL_PX) for caption in shown]
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
            if picture is not None:
                corner, veiled = (_column_left(column), row_top), sheet.veils(column)
                _draw_cell(image, draw, picture, corner, banned=row.bans(column), veiled=veiled)
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


def _caption_html(caption: str, *, veiled: bool) -> str:
    if not veiled:
        return f'<span class="caption">{escape(caption)}</span>'
    box = '<input type="checkbox" aria-label="Show this prompt">'
    return f'<label class="veil words">{box}<span class="caption">{escape(caption)}</span></label>'


def _row_html(sheet: Sheet, row: SheetRow) -> str:
    cells = "".join(_cell_html(sheet, row, column) for column in range(len(sheet.columns)))
    group = ' class="group"' if row.new_group else ""
    return (
        f'<tr{group}><th scope="row"><span class="label">{escape(row.label)}</span>'
        f'<span class="note">{escape(row.note)}</span></th>{cells}</tr>'
    )


def _cell_html(sheet: Sheet, row: SheetRow, column: int) -> str:
    picture, banned = row.pictures[column], row.bans(column)
    if picture is None:
        return '<td class="absent"><span>not drawn</span></td>'
    veiled = sheet.veils(column)
    # What a veil hides is not told by the name of its box either.
    told = f"prompt {column + 1}, {sheet.note(column)}" if veiled else sheet.columns[column]
    told = escape(f"{row.label}: {told}{', banned for this user' if banned else ''}")
    image = (
        f'<img src="{picture_uri(picture)}" loading="lazy" width="{picture.shape[1]}" height="{picture.shape[0]}" '
        f'alt="{told}">'
    )
    if veiled:
        image = f'<label class="veil"><input type="checkbox" aria-label="Show {told}">{image}<span>show</span></label>'
    return f"<td{' class=banned' if banned else ''}>{image}</td>"


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
    image: Image.Image,
    draw: ImageDraw.ImageDraw,
    picture: Picture,
    corner: tuple[int, int],
    *,
    banned: bool,
    veiled: bool,
) -> None:
    cell = Image.fromarray(picture).resize((CELL_PX, CELL_PX), Image.Resampling.LANCZOS)
    cell = cell.filter(ImageFilter.GaussianBlur(VEIL_PX)) if veiled else cell
    image.paste(cell, corner)
    left, top = corner
    draw.rectangle((left - 1, top - 1, left + CELL_PX, top + CELL_PX), outline=LINE)
    if banned:
        far = CELL_PX - 1 + 2 * FRAME_PX
        box = (left - 2 * FRAME_PX, top - 2 * FRAME_PX, left + far, top + far)
        draw.rounded_rectangle(box, radius=4, outline=BANNED, width=FRAME_PX)
