"""The tables of the page, as rows of cells: methods, differences, categories, users, levels.

Place on the path of data: step 8, from leaderboards to report.html.j2.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from psalign.categories import category_names

from ..catalog import DATASETS, SEEN_AND_UNSEEN
from ..cells import Variant, competitors, place_title
from ..estimate import NO_CASES, Estimate
from ..metrics.limits import Fact, by_category, differences, side_rates
from ..metrics.registry import METRICS, Metric
from . import format as show
from .leaderboard import Leaderboard

GROUPS = {
    "What the detector of the mini world saw": (
        "pass", "suppressed", "kept", "subject_kept", "safe_subject", "safe_distance",
    ),
    "What picture models measured": ("inpro", "inpro_strict", "fid", "kid", "clip"),
    "What gets through, and what it costs": (
        "attack_success", "picture_time", "training_time", "weights_size", "user_bytes",
    ),
    "What the judge saw": ("judge_pass", "judge_banned_respected", "judge_allowed_kept", "judge_clean"),
}  # fmt: skip
SIDES = {name: METRICS[name] for name in ("pass", "suppressed", "kept")}
USER_METRICS = ("pass", "inpro", "judge_pass")  # compared between two datasets, of seen and of unseen users
SEEN_BY = {"detector": "as the mini detector saw it", "judge": "as the judge saw it"}


class Bar(NamedTuple):
    """A number on its scale, in per cent of the width: where the interval begins, its width, and the value."""

    left: float
    width: float
    at: float


@dataclass(frozen=True)
class TableCell:
    """One number of a table. label: the column's title. kind: CSS classes. below: one more line.

    depth: strength of the colour, 0 to 100; None: no colour.
    """

    label: str
    value: str
    interval: str = ""
    n: str = ""
    bar: Bar | None = None
    kind: str = ""
    below: str = ""
    depth: int | None = None


@dataclass(frozen=True)
class Row:
    title: str
    cells: Sequence[TableCell]
    note: str = ""
    warning: str = ""
    ours: bool = False


@dataclass(frozen=True)
class Table:
    """columns: title and meaning of each. kind: CSS classes. notes: what its numbers need said."""

    first: str
    columns: Sequence[tuple[str, str]]
    rows: Sequence[Row]
    heading: str = ""
    caption: str = ""
    kind: str = "dense"
    notes: Sequence[str] = ()
    folded: str = ""


def number_cell(number: Estimate, metric: Metric, *, best: bool = False, below: str = "") -> TableCell:
    bar = _bar(number) if metric.percent else None
    shown = (show.value(number, metric), show.interval(number, metric), str(number.n))
    return TableCell(metric.title, *shown, bar, "best" if best else "", below)


def best_of(rows: Mapping[Variant, Mapping[str, Estimate]], metric: Metric) -> Variant | None:
    """The one with the best value; None on ties, and where its interval overlaps that of another. The base's
    distance to itself does not compete."""
    known = {
        who: rates[metric.name]
        for who, rates in rows.items()
        if rates.get(metric.name, NO_CASES).value is not None
        and not (metric.name == "safe_distance" and who.method == "base")
    }
    ordered = sorted(known, key=lambda who: metric.merit(known[who]), reverse=True)
    if len(ordered) < 2 or not metric.direction or known[ordered[0]].value == known[ordered[1]].value:
        return None
    best, *others = ordered
    return best if all(known[best].overlaps(known[other]) is False for other in others) else None


# --- methods --------------------------------------------------------------------------------------------------------


def method_tables(board: Leaderboard) -> list[Table]:
    """A table for each way of measuring. Levels of strictness appear only where nothing else is known."""
    tables = [table for note, names in GROUPS.items() if (table := _group(board, note, names))]
    return [replace(tables[0], heading=board.title), *tables[1:]] if tables else []


def _group(board: Leaderboard, caption: str, names: Sequence[str]) -> Table | None:
    metrics = [METRICS[name] for name in names if name in board.metrics]
    rows = [who for who in board.variants if any(metric.name in board.rates[who] for metric in metrics)]
    if not rows:
        return None
    rivals = {who: board.rates[who] for who in competitors(rows)}
    best = {metric.name: best_of(rivals, metric) for metric in metrics}
    ours = board.ours(rows)
    body = [
        Row(
            who.title,
            [_method_cell(board, who, metric, best=who == best[metric.name]) for metric in metrics],
            who.note,
            warning=f"Confounded: {'; '.join(board.marks[who])}" if board.marks.get(who) else "",
            ours=who == ours,
        )
        for who in rows
    ]
    return Table("Method", _heads(metrics), body, caption=caption, notes=_notes(board, rows, metrics))


def _method_cell(board: Leaderboard, who: Variant, metric: Metric, *, best: bool) -> TableCell:
    number = board.rates[who].get(metric.name)
    if number is None:
        fault = next((one for one in board.faults if (one.variant, one.metric) == (who, metric.name)), None)
        return _absent(metric, fault.state if fault else "not measured")
    published = board.published.get(who, {}).get(metric.name)
    return number_cell(
        number, metric, best=best, below=f"published {show.value(published, metric)}" if published else ""
    )


def _notes(board: Leaderboard, rows: Sequence[Variant], metrics: Sequence[Metric]) -> list[str]:
    """Each note of a number once, with its metrics, and with its methods where it is not about all of them."""
    methods: dict[tuple[str, str], list[str]] = {}
    for metric in metrics:
        for who in rows:
            if note := board.notes.get((who, metric.name)):
                methods.setdefault((metric.title, note), []).append(who.title)
    titles: dict[tuple[str, str], list[str]] = {}
    for (title, note), named in methods.items():
        titles.setdefault((note, "" if len(named) == len(rows) else f" ({', '.join(named)})"), []).append(title)
    return [
        f"{'Every number' if len(found) == len(metrics) > 1 else ', '.join(found)}{named}: {note}."
        for (note, named), found in titles.items()
    ]


def ours_alone(boards: Sequence[Leaderboard]) -> list[Leaderboard]:
    """The sets of prompts that no other method drew, where ours drew several on their base model. They are
    rows of one table and have no table of their own."""
    drawn = [board for board in boards if board.ours(board.variants)]
    several = {board.base for board in drawn if sum(other.base == board.base for other in drawn) > 1}
    return [board for board in drawn if board.base in several and len({who.method for who in board.variants}) == 1]


def holding_tables(boards: Sequence[Leaderboard]) -> Iterator[Table]:
    """By base model, our method on every set of prompts, where there are several that no other method drew."""
    for base in dict.fromkeys(board.base for board in boards):
        here = [(board, who) for board in boards if board.base == base and (who := board.ours(board.variants))]
        names = [name for name in METRICS if any(name in board.rates[who] for board, who in here)]
        if not any(board.base == base for board in ours_alone(boards)):
            continue
        metrics = [METRICS[name] for name in names]
        rows = [
            Row(
                DATASETS[board.dataset].title if board.dataset in DATASETS else board.dataset,
                [_method_cell(board, who, metric, best=False) for metric in metrics],
                DATASETS[board.dataset].note if board.dataset in DATASETS else "",
            )
            for board, who in here
        ]
        yield Table("Prompts", _heads(metrics), rows, heading=here[0][1].title)


# --- facts ----------------------------------------------------------------------------------------------------------


def difference_table(board: Leaderboard) -> Table | None:
    """Ours less each other method, in points, on a scale from -100 to 100."""
    ours = board.ours(board.with_facts)
    others = [who for who in board.with_facts if ours and who.method != ours.method]
    if ours is None or not others:
        return None
    rows = []
    for who in others:
        found = differences(board.facts[ours], board.facts[who])
        cells = [_difference_cell(found[name], metric) for name, metric in SIDES.items()]
        rows.append(Row(f"over {who.title}", cells, _sureness(found["pass"])))
    return Table(ours.title, _heads(SIDES.values()), rows, board.title, SEEN_BY[board.facts_by])


def _difference_cell(number: Estimate, metric: Metric) -> TableCell:
    if number.value is None:
        return _absent(metric, "no pairs")
    ends = number.interval
    between = f"{show.points(ends[0])} to {show.points(ends[1])}" if ends else "no interval"
    low, high = ends or (number.value, number.value)
    bar = Bar(50 * (1 + low), 50 * (high - low), 50 * (1 + number.value))
    kind = "centre sure" if number.excludes_zero else "centre"
    return TableCell(metric.title, show.points(number.value), between, str(number.n), bar, kind)


def _sureness(number: Estimate) -> str:
    if number.interval is None:
        return "cannot be said"
    low, high = number.interval
    return "passes more often" if low > 0 else "passes less often" if high < 0 else "pass: not sure"


def category_tables(board: Leaderboard) -> list[Table]:
    """Pass rates by category, and the two sides, each in a table of its own that opens on demand."""
    tables = []
    for name, metric in SIDES.items():
        rows = []
        for who in board.with_facts:
            found = by_category(board.facts[who], category_names())
            if any(found[category][name].n for category in category_names()):
                rows.append(Row(who.title, [_heat_cell(found[one][name], one) for one in category_names()]))
        if rows:
            heading = (board.title, SEEN_BY[board.facts_by]) if name == "pass" else ("", "")
            columns = [(category, "") for category in category_names()]
            folded = "" if name == "pass" else metric.title
            tables.append(Table(metric.title, columns, rows, *heading, kind="heat", folded=folded))
    return tables


def _heat_cell(number: Estimate, category: str) -> TableCell:
    depth = 0 if number.value is None else round(100 * number.value)
    shown = (show.value(number), show.interval(number), str(number.n))
    return TableCell(category, *shown, depth=depth, kind="" if number.n else "absent")


def user_tables(boards: Sequence[Leaderboard]) -> list[Table]:
    """Seen users beside unseen ones: by facts of one set of prompts, or by two sets with other users."""
    tables = [table for board in boards if (table := _users_of_facts(board))]
    by_place = {(board.dataset, board.base): board for board in boards}
    for seen, unseen in SEEN_AND_UNSEEN:
        for base in dict.fromkeys(board.base for board in boards):
            pair = [by_place.get((name, base)) for name in (seen, unseen)]
            if pair[0] and pair[1] and (table := _users_of_sets(pair[0], pair[1])):
                tables.append(table)
    return tables


def _users_of_facts(board: Leaderboard) -> Table | None:
    def of(who: Variant, seen: bool) -> list[Fact]:
        return [fact for fact in board.facts[who] if fact.seen_user is seen]

    metrics = [replace(SIDES["pass"], title=f"Pass, {who} users") for who in ("seen", "unseen")]
    both = [who for who in board.with_facts if who.strictness is None and of(who, True) and of(who, False)]
    rows = [
        Row(who.title, [number_cell(side_rates(of(who, seen))["pass"], metric)
                        for seen, metric in zip((True, False), metrics, strict=True)], who.note)
        for who in both
    ]  # fmt: skip
    return Table("Method", _heads(metrics), rows, board.title, SEEN_BY[board.facts_by]) if rows else None


def _users_of_sets(seen: Leaderboard, unseen: Leaderboard) -> Table | None:
    names = [name for name in USER_METRICS if name in seen.metrics and name in unseen.metrics]
    columns = [
        (board, replace(METRICS[name], title=f"{METRICS[name].title}, {users} users"))
        for name in names
        for board, users in ((seen, "seen"), (unseen, "unseen"))
    ]
    rows = [
        Row(who.title, [number_cell(board.rates[who].get(metric.name, NO_CASES), metric) for board, metric in columns],
            who.note, ours=who.is_ours)
        for who in seen.variants
        if who in unseen.variants
    ]  # fmt: skip
    title = place_title(seen.dataset.partition("_")[0].replace("sage", "SAGE"), seen.base)
    heads = _heads(metric for _, metric in columns)
    return Table("Method", heads, rows, title) if rows and names else None


def levels_of(board: Leaderboard) -> dict[int, Estimate]:
    """Share of pictures with any motif by level of strictness, of a set that is drawn for each of them."""
    numbers = {
        who.strictness: board.rates[who]["any_motif"] for who in board.variants if "any_motif" in board.rates[who]
    }
    return {level: numbers[level] for level in sorted(key for key in numbers if key is not None)}


# --- shared ---------------------------------------------------------------------------------------------------------


def _heads(metrics: Iterable[Metric]) -> list[tuple[str, str]]:
    return [(metric.title, metric.meaning) for metric in metrics]


def _absent(metric: Metric, why: str) -> TableCell:
    return TableCell(metric.title, why, kind="absent")


def _bar(number: Estimate) -> Bar | None:
    if number.value is None:
        return None
    low, high = number.interval or (number.value, number.value)
    return Bar(100 * low, 100 * (high - low), 100 * number.value)
