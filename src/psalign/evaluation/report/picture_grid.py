"""Pictures of one board side by side: a column is a prompt with its seed, a row is a variant.

Place on the path of data: step 8, from folders of pictures to a sheet of the benchmark's report. What a
prompt asks for decides whether its pictures are veiled, never what a detector or judge saw.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from psalign.categories import category_names
from psalign.errors import EvaluationError
from psalign.records import ManifestRow

from ..cells import Variant
from ..judge.cases import asked_categories
from ..pictures import Picture, read_picture
from .contact_sheet import Sheet, SheetRow
from .leaderboard import Drawn, Leaderboard
from .tradeoff import QUALITY_DATASET

COLUMNS = 8
UNKNOWN = "may be sensitive"
BANS_NOT_KNOWN = "bans not known, nothing is outlined"


def picture_grid(board: Leaderboard) -> Sheet | None:
    """One prompt of each category and a safe one, where manifests say; None where there are no pictures.

    Prompts that every variant drew are preferred. A row names its pictures that cannot be read.
    """
    cells = {who: board.drawn[who] for who in sorted(board.drawn, key=lambda one: one.order)}
    names = _choose(list(cells.values()), board.dataset)
    if not names:
        return None
    first = {name: next(cell.rows[name] for cell in cells.values() if name in cell.rows) for name in names}
    return Sheet(
        columns=[first[name].prompt for name in names],
        column_notes=[_note(board.dataset, first[name]) for name in names],
        veiled=[
            any(is_sensitive(board.dataset, c.rows[name]) for c in cells.values() if name in c.rows) for name in names
        ],
        rows=[_row(board, who, names) for who in cells],
        name=f"{board.dataset}-{board.base}",
        title=board.title,
    )


def is_sensitive(dataset: str, row: ManifestRow) -> bool:
    """Whether a prompt asks, or may ask, for sensitive content: what nobody says is safe is not.

    A dataset's words for what a prompt is about need not be among our categories.
    """
    if dataset == QUALITY_DATASET or row.meta.get("kind") == "safe":
        return False
    return bool(row.meta.get("categories") or row.meta.get("category")) or asked_categories(row) != ()


def _choose(cells: Sequence[Drawn], dataset: str) -> list[str]:
    """File names of the prompts to show: of each category a banned or an allowed one, then safe ones."""
    pool = _shared_rows(cells)
    groups: dict[str, list[str]] = {category: [] for category in (*category_names(), UNKNOWN, "")}
    for name, row in pool.items():
        asked = asked_categories(row)
        groups["" if not is_sensitive(dataset, row) else asked[0] if asked else UNKNOWN].append(name)
    chosen = [_one_of(groups[c], pool, c, banned=i % 3 != 2) for i, c in enumerate(category_names()) if groups[c]]
    rest = [*groups[""], *groups[UNKNOWN], *(n for c in category_names() for n in groups[c] if n not in chosen)]
    room = max(0, COLUMNS - len(chosen))
    return [*chosen[:COLUMNS], *rest[: room if len(chosen) < 3 else min(room, 1)]]


def _one_of(names: Sequence[str], pool: Mapping[str, ManifestRow], category: str, *, banned: bool) -> str:
    wanted = [name for name in names if (category in (pool[name].banned or ())) == banned]
    return (wanted or names)[0]


def _shared_rows(cells: Sequence[Drawn]) -> dict[str, ManifestRow]:
    """Rows that all cells have, as the first cell has them; those of any cell where they share none."""
    shared = {name: row for name, row in (cells[0].rows if cells else {}).items() if all(name in c.rows for c in cells)}
    return shared or {name: row for cell in cells for name, row in cell.rows.items()}


def _row(board: Leaderboard, who: Variant, names: Sequence[str]) -> SheetRow:
    cell = board.drawn[who]
    rows = [cell.rows.get(name) for name in names]
    pictures, broken = _read(cell.folder, rows)
    banned = [row is not None and bool(set(asked_categories(row) or ()) & set(row.banned or ())) for row in rows]
    unknown = BANS_NOT_KNOWN if any(row is not None and row.banned is None for row in rows) else ""
    note = ", ".join(filter(None, (who.note, unknown, f"cannot be read: {', '.join(broken)}" if broken else "")))
    failed = {fact.file_name for fact in board.facts.get(who, ()) if not fact.passed}
    marks = [name in failed for name in names]
    return SheetRow(who.title, note, pictures, banned=banned, new_group=who.strictness == 0, failed=marks)


def _read(folder: Path, rows: Sequence[ManifestRow | None]) -> tuple[list[Picture | None], list[str]]:
    """Pictures of rows, None where there is none to show, and the names of those that cannot be read."""
    pictures: list[Picture | None] = []
    broken = []
    for row in rows:
        try:
            pictures.append(None if row is None else read_picture(folder / row.file_name))
        except EvaluationError:
            pictures.append(None)
            broken.append(row.file_name if row else "")
    return pictures, broken


def _note(dataset: str, row: ManifestRow) -> str:
    asked = asked_categories(row)
    return " + ".join(asked) if asked else (UNKNOWN if is_sensitive(dataset, row) else "safe")
