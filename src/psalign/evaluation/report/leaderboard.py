"""All that a benchmark left on disk, by place (prompts and base model) and variant, checked when read.

Place on the path of data: step 8, from pictures, results.csv, facts and judgements to the report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from psalign.errors import EvaluationError, PSAlignError, one_line
from psalign.files import Record, read_json
from psalign.records import ManifestRow

from ..catalog import DATASETS, OURS
from ..cells import Cell, Variant, find_cells, place_order, place_title
from ..estimate import Estimate
from ..judge.results import Comparison, Evaluation, judge_files, read_results_file
from ..metrics.limits import Fact, facts_path, list_facts, read_facts
from ..metrics.registry import METRICS, made_of_facts
from ..pictures import complete_rows
from ..results import FAILED, SUCCEEDED, ResultRow, read_results
from .published import Figures, add_figures, is_published_summary, read_published, read_summary

FAIR_POLICY = "paired"  # of seeds, as run.json says it: one for each prompt, whatever the method
SAME = ("steps", "guidance", "scheduler", "negative_prompt")  # settings that a fair comparison shares
DETECTOR, JUDGE = "detector", "judge"


@dataclass(frozen=True)
class Drawn:
    """Pictures of one variant: their folder, manifest rows by file name, and how they were drawn (run.json)."""

    folder: Path
    rows: dict[str, ManifestRow]
    run: Record


@dataclass(frozen=True)
class Fault:
    """A number that is not there, and why."""

    variant: Variant
    metric: str
    state: str
    note: str


@dataclass
class Leaderboard:
    """One set of prompts on one base model, and all that is known of it, by variant.

    rates, published: estimates by metric. notes: what a reader must know of a number, by variant and
    metric. facts: about single pictures, by a detector or, where there is none, by a judge. marks: why a
    variant's numbers do not compare with the base model's. remarks: what else a reader must know.
    left_out: why a variant has no number: its pictures cannot be judged, whatever results.csv says.
    """

    dataset: str
    base: str
    rates: dict[Variant, dict[str, Estimate]] = field(default_factory=dict)
    published: dict[Variant, dict[str, Estimate]] = field(default_factory=dict)
    notes: dict[tuple[Variant, str], str] = field(default_factory=dict)
    fingerprints: dict[tuple[Variant, str], str] = field(default_factory=dict)
    drawn: dict[Variant, Drawn] = field(default_factory=dict)
    facts: dict[Variant, list[Fact]] = field(default_factory=dict)
    facts_by: str = ""
    judgements: dict[Variant, Evaluation] = field(default_factory=dict)
    comparisons: list[Comparison] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    marks: dict[Variant, list[str]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    left_out: dict[Variant, str] = field(default_factory=dict)

    @property
    def title(self) -> str:
        return place_title(self.dataset, self.base)

    @property
    def variants(self) -> list[Variant]:
        """Those with a number, in the order of every table."""
        return sorted((one for one, rates in self.rates.items() if rates), key=lambda one: one.order)

    @property
    def with_facts(self) -> list[Variant]:
        """Those with facts about single pictures, in the order of every table."""
        return sorted(self.facts, key=lambda one: one.order)

    @property
    def metrics(self) -> list[str]:
        """Metrics that a variant has, in the order of METRICS."""
        return [name for name in METRICS if any(name in rates for rates in self.rates.values())]

    def ours(self, having: Sequence[Variant]) -> Variant | None:
        """Our method for each row's own user, where it is among these."""
        known = {one.method: one for one in having if one.strictness is None}
        return next((known[method] for method in OURS if method in known), None)

    def leave_out(self, variant: Variant, why: PSAlignError) -> None:
        """Take everything of a variant out whose pictures cannot be judged; the reason stands in its place."""
        note = self.left_out[variant] = one_line(why)
        names = [*self.rates.pop(variant, {}), *DATASETS[self.dataset].metrics]
        reported = {fault.metric for fault in self.faults if fault.variant == variant}
        self.faults += [Fault(variant, name, FAILED, note) for name in dict.fromkeys(names) if name not in reported]
        for known in (self.drawn, self.judgements, self.facts):
            known.pop(variant, None)
        self.comparisons = [one for one in self.comparisons if variant not in one.variants]


def load_leaderboards(images: Path, results: Path, *, judge: Sequence[Path] = ()) -> list[Leaderboard]:
    """Everything that a report shows, in its order.

    images: eval_images/<dataset>/<method>/<base>[/level_k]. results: results.csv; facts lie beside it.
    judge: folders and files of results of our judge, and of summaries by the published one. A cell whose
    manifest, run.json or facts cannot be trusted is left out of everything, and its leaderboard says why.
    Raises UsageError for a folder that has nothing in it, EvaluationError for a file that is not there or
    cannot be trusted: unknown metrics, numbers that are not finite or cannot be rates, broken judgements.
    """
    boards: dict[tuple[str, str], Leaderboard] = {}

    def board(dataset: str, base: str) -> Leaderboard:
        return boards.setdefault((dataset, base), Leaderboard(dataset, base))

    _add_results(board, results)
    summaries: list[Figures] = []
    for path, record in judge_files(judge):
        if is_published_summary(record):
            summaries.append(read_summary(record, path))
            continue
        found = read_results_file(record, path)
        if isinstance(found, Comparison):
            board(found.dataset, found.base).comparisons.append(found)
        else:
            _add_judgement(board(found.dataset, found.base), found)
    for cell in find_cells(images):
        _add_cell(board(cell.dataset, cell.base), cell, images, results)
    published = add_figures(read_published(), summaries)
    for place, one in boards.items():
        one.published = published.get(place, {})
        if not one.facts:
            one.facts = {who: facts for who, by in one.judgements.items() if (facts := list(by.facts()))}
            one.facts_by = JUDGE
        one.marks = {who: marks for who in one.drawn if (marks := _marks(one, who))}
    return [boards[place] for place in sorted(boards, key=place_order)]


def _add_results(board: Callable[[str, str], Leaderboard], path: Path) -> None:
    rows = read_results(path)
    if not rows:
        raise EvaluationError(f"{path} has no rows.", hint="Measure first: psalign eval run --help")
    for row in rows:
        where = f"{path}: {row.dataset}, {row.method}, {row.base_model}"
        if row.metrics not in METRICS:
            known = ", ".join(METRICS)
            raise EvaluationError(f"{where}: unknown metric {row.metrics!r}; the metrics are: {known}.")
        here, variant = board(row.dataset, row.base_model), row.variant
        if row.state != SUCCEEDED:
            here.faults.append(Fault(variant, row.metrics, row.state, row.note))
            continue
        _require_share(row)
        here.rates.setdefault(variant, {})[row.metrics] = row.estimate
        here.fingerprints[variant, row.metrics] = row.fingerprint
        if row.note:
            here.notes[variant, row.metrics] = row.note


def _require_share(row: ResultRow) -> None:
    numbers = [number for number in (row.score, row.low, row.high) if number is not None]
    if METRICS[row.metrics].percent and not all(0 <= number <= 1 for number in numbers):
        raise EvaluationError(
            f"{row.cell} at {row.level}, {row.metrics}: {row.score} ({row.low} to {row.high}) is no share; "
            "expected numbers from 0 to 1."
        )


def _add_judgement(board: Leaderboard, judgement: Evaluation) -> None:
    """A variant has one row: for its own users, by a blind template where both were asked; else the first."""
    variant, before = judgement.variant, board.judgements.get(judgement.variant)
    if judgement.is_for_a_level:
        board.remarks.append(f"{variant.title} was also judged for {judgement.judged_for}'s users; not in the tables.")
        return
    if before is not None:
        by = "by a template that is not blind" if judgement.biased != before.biased else "a second time"
        board.remarks.append(f"{variant.title} was also judged {by}; not in the tables.")
    if before is not None and (judgement.biased or not before.biased):
        return
    board.judgements[variant] = judgement
    board.rates.setdefault(variant, {}).update(judgement.rates)
    if judgement.summary.failed:
        for metric in judgement.rates:
            board.notes[variant, metric] = f"{judgement.summary.failed} judgements failed"


def _add_cell(board: Leaderboard, cell: Cell, images: Path, results: Path) -> None:
    folder, variant = cell.folder(images), cell.variant
    try:
        rows = {row.file_name: row for row in complete_rows(folder)}
        board.drawn[variant] = Drawn(folder, rows, _read_run(folder / "run.json"))
        facts = read_facts(facts_path(results, cell))
    except PSAlignError as err:
        board.leave_out(variant, err)
        return
    if facts is None:
        return
    known = board.fingerprints.get((variant, "pass"), board.fingerprints.get((variant, "any_motif"), ""))
    names = [made_of_facts(metric, facts.fingerprint) for metric in ("pass", "any_motif")]
    if known.rpartition("-")[2] not in names:
        board.remarks.append(f"{variant.title}: the facts about its pictures are not those of its numbers; left out.")
    elif found := list_facts(facts.pictures):
        board.facts[variant] = found
        board.facts_by = DETECTOR


def _read_run(path: Path) -> Record:
    if not path.is_file():
        return {}
    fault = partial(EvaluationError, hint=f"Draw {path.parent} again, or leave it out of --images.")
    run = read_json(path, what="how pictures were drawn", fault=fault)
    config = run.get("config") or {}
    if not isinstance(config, dict) or not isinstance(config.get("options") or {}, dict):
        raise fault(f"{path} is damaged: its config is no JSON object; expected how pictures were drawn.")
    return run


def _marks(board: Leaderboard, variant: Variant) -> list[str]:
    """What differs from how the base model's pictures were drawn, apart from the method."""
    base, cell = board.drawn.get(Variant("base")), board.drawn[variant]
    policy = ((cell.run.get("config") or {}).get("options") or {}).get("seed_policy", FAIR_POLICY)
    marks = [] if policy == FAIR_POLICY else [f"seed policy '{policy}'"]
    if base is None or variant.method == "base":
        return marks
    shared = cell.rows.keys() & base.rows.keys()
    seeds = sum(cell.rows[name].seed != base.rows[name].seed for name in shared)
    prompts = sum(cell.rows[name].prompt != base.rows[name].prompt for name in shared)
    other_rows = len(cell.rows.keys() ^ base.rows.keys())
    marks += [f"{seeds} of {len(shared)} pictures from other seeds"] if seeds else []
    marks += [f"{prompts} of {len(shared)} prompts differ"] if prompts else []
    marks += [f"{other_rows} rows on one side only"] if other_rows else []
    ours, theirs = (run.get("config") or {} for run in (cell.run, base.run))
    marks += [
        f"another {name.replace('_', ' ')}" for name in SAME if ours and theirs and ours.get(name) != theirs.get(name)
    ]
    return marks
