"""Measures what results.csv lacks: worker processes share the cells, rows are written as they are done.

Place on the path of data: step 7, from cells to rows of results.csv. The caller passes what measures.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from queue import SimpleQueue

from psalign.errors import PSAlignError, is_out_of_memory, reason_of
from psalign.fingerprints import file_fingerprint, fingerprint
from psalign.processes import ProcessDied, Worker
from psalign.progress import Progress

from .cells import Cell
from .metrics.registry import Score
from .pictures import own_pictures
from .results import FAILED, SUCCEEDED, ResultRow, append_results, read_results, result_row

# Scores of a metric over a cell's pictures. Worker processes get it pickled: a function of a module, or a partial one.
Measure = Callable[[str, Cell, Path], list[Score]]
BROUGHT = "kid"  # comes with `fid` unasked
Ask = Callable[[str, Cell, Path], "list[Score] | str"]  # scores, or why there are none


@dataclass(frozen=True)
class Job:
    """One cell to measure. made_with: by metric, what names the models and settings it is measured with.

    known: fingerprints of scores that results.csv has already, by metric.
    """

    cell: Cell
    folder: Path
    metrics: tuple[str, ...]
    made_with: Mapping[str, str]
    known: Mapping[str, str]


def known_fingerprints(results: Path, cell: Cell) -> dict[str, str]:
    """Fingerprints of the cell's scores in results.csv, by metric, without those of failed metrics."""
    rows = read_results(results) if results.exists() else []
    of_cell = (cell.dataset, cell.method, cell.base, cell.level_name)
    return {row.metrics: row.fingerprint for row in rows if row.key[:4] == of_cell and row.state == SUCCEEDED}


def run_jobs(
    jobs: Sequence[Job], measure: Measure, results: Path, *, workers: Sequence[Mapping[str, str]] = ()
) -> list[ResultRow]:
    """Measure cells and append their rows to results.csv as each is done. Returns the rows.

    workers: one process each, with these environment variables (CUDA_VISIBLE_DEVICES); none: all in this
    process. A metric that fails gives a row that says why. So does a metric whose process ends; another
    process goes on with the next metric. The same call again measures only what failed.
    """
    rows: list[ResultRow] = []
    found = _in_processes(jobs, measure, workers) if workers else _in_this_process(jobs, measure)
    with closing(found), Progress(total=len(jobs), desc="measuring", unit="cell") as bar:
        for new in found:
            if new is None:
                bar.update()
                continue
            if new:
                append_results(results, new)
                rows += new
    return rows


def look_at_inputs(job: Job) -> tuple[dict[str, str], list[ResultRow]]:
    """What names the pictures and the settings of each metric, the first half of a score's fingerprint.

    For a cell that cannot be read nothing, and rows that say so.
    """
    try:
        pictures = folder_fingerprint(job.folder)
        return {metric: fingerprint([pictures, metric, how]) for metric, how in job.made_with.items()}, []
    except OSError as err:
        note = f"{job.folder} cannot be read: {reason_of(err)}"
        return {}, [result_row(job.cell, metric, FAILED, note=note) for metric in job.metrics]


def to_measure(job: Job, inputs: Mapping[str, str]) -> list[str]:
    """The metrics without what is known of the very same pictures and settings."""
    return [
        name for name in job.metrics if name in inputs and not job.known.get(name, "").startswith(f"{inputs[name]}-")
    ]


def measure_job(job: Job, ask: Ask, inputs: Mapping[str, str]) -> Iterator[list[ResultRow]]:
    """Rows of a cell, metric by metric, as each is done."""
    done: set[str] = set()
    wanted = to_measure(job, inputs)
    for metric in wanted:
        if metric in done:
            continue
        scores = ask(metric, job.cell, job.folder)
        if isinstance(scores, str):
            yield [result_row(job.cell, metric, FAILED, note=scores)]
            continue
        done |= {score.metric for score in scores}  # a metric may bring others with it
        kept = [score for score in scores if score.metric in wanted or score.metric == BROUGHT]
        yield [_row(job.cell, score, inputs[score.metric]) for score in kept]


def scores_or_reason(measure: Measure, metric: str, cell: Cell, folder: Path) -> list[Score] | str:
    """Scores of a metric, or why it failed; the other metrics are measured all the same."""
    try:
        return measure(metric, cell, folder)
    except PSAlignError as err:
        return str(err)
    except Exception as err:
        if not isinstance(err, OSError) and not is_out_of_memory(err):
            traceback.print_exc()  # a fault of the program
        return f"{reason_of(err)} ({type(err).__name__})"


def folder_fingerprint(folder: Path) -> str:
    """Names the pictures of a folder and their manifest, by content."""
    files = [folder / "manifest.jsonl", *own_pictures(folder)]
    return fingerprint([[path.relative_to(folder).as_posix(), file_fingerprint(path)] for path in files])


def _row(cell: Cell, score: Score, inputs: str) -> ResultRow:
    # The first half is known before measuring, the second names what the score was made of.
    name = f"{inputs}-{score.fingerprint}"
    return result_row(cell, score.metric, estimate=score.estimate, fingerprint=name, note=score.note)


# --- one process, or several ----------------------------------------------------------------------------------------

Found = Generator["list[ResultRow] | None", None, None]  # rows as they are done; None where a cell is finished


def _in_this_process(jobs: Sequence[Job], measure: Measure) -> Found:
    for job in jobs:
        inputs, failed = look_at_inputs(job)
        yield failed
        yield from measure_job(job, partial(scores_or_reason, measure), inputs)
        yield None


def _in_processes(jobs: Sequence[Job], measure: Measure, environments: Sequence[Mapping[str, str]]) -> Found:
    """A thread for each worker process takes one cell after another; this one gets the rows."""
    workers = [Worker(environment) for environment in environments[: len(jobs)]]
    free: SimpleQueue[Worker] = SimpleQueue()
    rows: SimpleQueue[list[ResultRow] | None] = SimpleQueue()

    def measure_with(worker: Worker, metric: str, cell: Cell, folder: Path) -> list[Score] | str:
        try:
            return worker.call(scores_or_reason, measure, metric, cell, folder)
        except ProcessDied as err:
            return str(err)

    def work(job: Job) -> None:
        worker = free.get()
        try:
            inputs, failed = look_at_inputs(job)
            rows.put(failed)
            for new in measure_job(job, partial(measure_with, worker), inputs):
                rows.put(new)
        finally:
            free.put(worker)
            rows.put(None)

    for worker in workers:
        free.put(worker)
    threads = ThreadPoolExecutor(max_workers=max(1, len(workers)))
    try:
        futures = [threads.submit(work, job) for job in jobs]
        for _ in range(len(jobs)):
            while (new := rows.get()) is not None:
                yield new
            yield None
        for future in futures:
            future.result()  # raises a fault of the program
    finally:
        for worker in workers:
            worker.stop()
        threads.shutdown(cancel_futures=True)
