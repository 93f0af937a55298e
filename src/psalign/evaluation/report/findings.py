"""All that a benchmark left on disk, by arena (a set of prompts on a base model) and contender, checked at the door.

Place on the path of data: step 8, from eval_images/, results.csv and a judge's folders to the benchmark's report.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from psalign.categories import is_default
from psalign.errors import EvaluationError, PSAlignError, one_line
from psalign.files import Record, read_json
from psalign.records import ManifestRow

from ..cells import DATASETS, find_cells
from ..metrics.facts import Fact, facts_of
from ..metrics.verdicts import Detector, judge_folder
from ..pictures import complete_rows
from ..results import FAILED, SUCCEEDED, ResultRow, read_results
from .contenders import Contender, arena_order
from .judgements import Duel, Judgement, read_judgements, read_summaries
from .published import add_figures, read_published
from .tables import BENCHMARK_METRICS, Metric

FAIR_POLICY = "paired"  # of seeds, as run.json says it: one for each prompt, whatever the method
SAME = ("steps", "guidance", "scheduler", "negative_prompt")  # settings that a fair comparison shares


@dataclass(frozen=True)
class Drawn:
    """Pictures of one contender: their folder, manifest rows by file name, and how they were drawn (run.json)."""

    folder: Path
    rows: dict[str, ManifestRow]
    run: Record


@dataclass(frozen=True)
class Fault:
    """A number that is not there, and why."""

    contender: Contender
    metric: str
    state: str
    note: str


@dataclass
class Arena:
    """One set of prompts on one base model, and all that is known of it.

    rates, published: metrics by contender, each {"value", "n", "low", "high"}; notes: what a reader must know of a
    number, by contender and metric. facts: of single pictures, by a detector or, where there is none, by a judge.
    marks: why a contender's numbers do not compare with the base model's. remarks: what else a reader must know.
    left_out: why a contender has no number: its pictures cannot be judged, whatever results.csv says.
    """

    dataset: str
    base: str
    rates: dict[Contender, dict[str, Record]] = field(default_factory=dict)
    published: dict[Contender, dict[str, Record]] = field(default_factory=dict)
    notes: dict[tuple[Contender, str], str] = field(default_factory=dict)
    fingerprints: dict[tuple[Contender, str], str] = field(default_factory=dict)
    drawn: dict[Contender, Drawn] = field(default_factory=dict)
    facts: dict[Contender, list[Fact]] = field(default_factory=dict)
    facts_by: str = ""
    judgements: dict[Contender, Judgement] = field(default_factory=dict)
    duels: list[Duel] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    marks: dict[Contender, list[str]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    left_out: dict[Contender, str] = field(default_factory=dict)

    @property
    def contenders(self) -> list[Contender]:
        """Those with a number, in the order of every table."""
        return sorted((one for one, rates in self.rates.items() if rates), key=lambda one: one.order)

    @property
    def metrics(self) -> list[str]:
        """Metrics that a contender has, in the order of every table."""
        return [name for name in BENCHMARK_METRICS if any(name in rates for rates in self.rates.values())]

    def leave_out(self, who: Contender, why: PSAlignError) -> None:
        """Take everything of a contender out whose pictures cannot be judged; the reason stands in its place."""
        note = self.left_out[who] = one_line(why)
        names = [*self.rates.pop(who, {}), *DATASETS[self.dataset].metrics]
        reported = {fault.metric for fault in self.faults if fault.contender == who}
        self.faults += [Fault(who, name, FAILED, note) for name in dict.fromkeys(names) if name not in reported]
        for known in (self.drawn, self.judgements, self.facts):
            known.pop(who, None)
        self.duels = [duel for duel in self.duels if who not in (duel.a, duel.b)]


def load_findings(
    images: Path, results: Path, *, judge: Sequence[Path] = (), detector: Callable[[], Detector] | None = None
) -> list[Arena]:
    """Everything a report shows, in its order.

    images: eval_images/<dataset>/<method>/<base>[/level_k]; detector: loaded and asked where a cell's base is mini.
    A cell whose manifest, run.json or pictures cannot be trusted is left out of everything, and its arena says why.
    Raises UsageError for a folder that has nothing in it, EvaluationError for a file that is not there or cannot be
    trusted: unknown metrics, numbers that are not finite or cannot be rates, broken judgements.
    """
    arenas: dict[tuple[str, str], Arena] = {}

    def arena(dataset: str, base: str) -> Arena:
        return arenas.setdefault((dataset, base), Arena(dataset, base))

    _add_results(arena, results)
    judgements, duels = read_judgements(judge)
    for judgement in judgements:
        _add_judgement(arena(judgement.dataset, judgement.base), judgement)
    for duel in duels:
        arena(duel.dataset, duel.base).duels.append(duel)
    _add_cells(arena, images)
    published = add_figures(read_published(), read_summaries(judge))
    for key, found in arenas.items():
        found.published = published.get(key, {})
        _add_facts(found, detector)
        found.marks = {one: marks for one in found.drawn if (marks := _marks(found, one))}
    return [arenas[key] for key in sorted(arenas, key=arena_order)]


def _add_results(arena: Callable[[str, str], Arena], path: Path) -> None:
    rows = read_results(path)
    if not rows:
        raise EvaluationError(f"{path} has no rows.", hint="Measure first: psalign eval run --help")
    for row in rows:
        where = f"{path}: {row.dataset}, {row.method}, {row.base_model}"
        if row.metrics not in BENCHMARK_METRICS:
            known = ", ".join(BENCHMARK_METRICS)
            raise EvaluationError(f"{where}: unknown metric {row.metrics!r}; the metrics are: {known}.")
        here, who = arena(row.dataset, row.base_model), Contender(row.method, row.level)
        if row.state != SUCCEEDED:
            here.faults.append(Fault(who, row.metrics, row.state, row.note))
            continue
        here.rates.setdefault(who, {})[row.metrics] = _rate(row, BENCHMARK_METRICS[row.metrics])
        here.fingerprints[who, row.metrics] = row.fingerprint
        if row.note:
            here.notes[who, row.metrics] = row.note


def _rate(row: ResultRow, metric: Metric) -> Record:
    """Raises EvaluationError for a share that is none, or an interval that does not hold its value."""
    rate = {"value": row.score, "n": row.n or 0, "low": row.low, "high": row.high}
    told = f"{row.cell} at {row.level}, {row.metrics}: {row.score} ({row.low} to {row.high})"
    numbers = [number for number in (row.score, row.low, row.high) if number is not None]
    if metric.percent and not all(0 <= number <= 1 for number in numbers):
        raise EvaluationError(f"{told} is no share; expected numbers from 0 to 1.")
    if (row.low is None) != (row.high is None) or (row.score is None and row.low is not None):
        raise EvaluationError(f"{told} is half an interval; expected score, low and high, or no interval at all.")
    if row.score is not None and row.low is not None and row.high is not None:
        tiny = 1e-9 * max(1.0, abs(row.score))
        if not row.low - tiny <= row.score <= row.high + tiny:
            raise EvaluationError(f"{told}: the value lies outside its interval.")
    return rate


def _add_judgement(arena: Arena, judgement: Judgement) -> None:
    """A contender has one row: judged for its own users, by a blind template where both were asked; else the first."""
    who, before = judgement.contender, arena.judgements.get(judgement.contender)
    if judgement.is_for_a_level:
        arena.remarks.append(f"{who.title} was also judged for {judgement.judged_for}'s users; not in the tables.")
        return
    if before is not None:
        by = "by a template that is not blind" if judgement.biased != before.biased else "a second time"
        arena.remarks.append(f"{who.title} was also judged {by}; not in the tables.")
    if before is not None and (judgement.biased or not before.biased):
        return
    arena.judgements[who] = judgement
    arena.rates.setdefault(who, {}).update(judgement.rates)
    if judgement.failed:
        for metric in judgement.rates:
            arena.notes[who, metric] = f"{judgement.failed} judgements failed"


def _add_cells(arena: Callable[[str, str], Arena], images: Path) -> None:
    for cell in find_cells(images):
        folder = cell.folder(images)
        here, who = arena(cell.dataset, cell.base), Contender(cell.method, cell.level_name)
        try:
            rows = {row.file_name: row for row in complete_rows(folder)}
            here.drawn[who] = Drawn(folder, rows, _read_run(folder / "run.json"))
        except PSAlignError as err:
            here.leave_out(who, err)


def _read_run(path: Path) -> Record:
    if not path.is_file():
        return {}
    fault = partial(EvaluationError, hint=f"Draw {path.parent} again, or leave it out of --images.")
    run = read_json(path, what="how pictures were drawn", fault=fault)
    config = run.get("config") or {}
    if not isinstance(config, dict) or not isinstance(config.get("options") or {}, dict):
        raise fault(f"{path} is damaged: its config is no JSON object; expected how pictures were drawn.")
    return run


def _marks(arena: Arena, who: Contender) -> list[str]:
    """What differs from how the base model's pictures were drawn, apart from the method."""
    base, cell = arena.drawn.get(Contender("base")), arena.drawn[who]
    policy = ((cell.run.get("config") or {}).get("options") or {}).get("seed_policy", FAIR_POLICY)
    marks = [] if policy == FAIR_POLICY else [f"seed policy '{policy}'"]
    if base is None or who.method == "base":
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


def _add_facts(arena: Arena, detector: Callable[[], Detector] | None) -> None:
    if arena.base == "mini" and detector is not None and arena.drawn and is_default():  # it knows no other categories
        look = detector()
        for who, cell in list(arena.drawn.items()):
            try:
                seen = judge_folder(cell.folder, look)
            except PSAlignError as err:
                arena.leave_out(who, err)
                continue
            try:
                facts = facts_of(seen)
            except PSAlignError as err:  # its rows do not say what they ask for, or what their users ban
                arena.remarks.append(f"{who.title} has no facts about single pictures: {one_line(err)}")
                continue
            if facts:
                arena.facts[who] = facts
        arena.facts_by = "detector"
    if not arena.facts:
        arena.facts = {who: one.facts for who, one in arena.judgements.items() if one.facts}
        arena.facts_by = "judge"
