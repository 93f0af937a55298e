"""Measures what results.csv lacks: cells are shared out to worker processes, rows are written as they are done.

Place on the path of data: steps 7 and 8, from cells of pictures to rows of results.csv. What measures is handed in: a
judge sees pictures, not models.
"""

from __future__ import annotations

import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection, wait
from pathlib import Path

from psalign.errors import PSAlignError, is_out_of_memory, reason_of
from psalign.fingerprints import file_fingerprint, fingerprint
from psalign.progress import Progress

from .cells import Cell
from .pictures import own_pictures
from .results import FAILED, SUCCEEDED, ResultRow, append_results, read_results, result_row
from .score import Score

# Scores of a metric over a cell's pictures. Worker processes get it pickled: a function of a module, or a partial one.
Measure = Callable[[str, Cell, Path], list[Score]]


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
    """Fingerprints of the cell's scores in results.csv, by metric; those of metrics that failed are not among them."""
    rows = read_results(results) if results.exists() else []
    of_cell = (cell.dataset, cell.method, cell.base, cell.level_name)
    return {row.metrics: row.fingerprint for row in rows if row.key[:4] == of_cell and row.state == SUCCEEDED}


def run_jobs(
    jobs: Sequence[Job], measure: Measure, results: Path, *, workers: Sequence[Mapping[str, str]] = ()
) -> list[ResultRow]:
    """Measure cells and append their rows to results.csv as each is done. Returns the rows.

    workers: one process each, with these environment variables (CUDA_VISIBLE_DEVICES); none: all in this process.
    A metric that fails gives a row that says why; so does each metric of a cell whose process ends, and another
    process goes on with the rest. The same call again measures what failed, and nothing that is there.
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


def name_inputs(job: Job) -> dict[str, str]:
    """What names the pictures and the settings of each metric; the first half of a score's fingerprint."""
    pictures = folder_fingerprint(job.folder)
    return {metric: fingerprint([pictures, metric, how]) for metric, how in job.made_with.items()}


def look_at_inputs(job: Job) -> tuple[dict[str, str], list[ResultRow]]:
    """What names the inputs of each metric; or of a cell whose files cannot be read nothing, and rows that say so."""
    try:
        return name_inputs(job), []
    except OSError as err:
        note = f"{job.folder} cannot be read: {reason_of(err)}"
        return {}, [result_row(job.cell, metric, FAILED, note=note) for metric in job.metrics]


def to_measure(job: Job, inputs: Mapping[str, str]) -> list[str]:
    """The metrics without what is known of the very same pictures and settings."""
    return [
        name for name in job.metrics if name in inputs and not job.known.get(name, "").startswith(f"{inputs[name]}-")
    ]


def measure_job(job: Job, measure: Measure, inputs: Mapping[str, str]) -> Iterator[list[ResultRow]]:
    """Rows of a cell, metric by metric, as each is done."""
    done: set[str] = set()
    for metric in to_measure(job, inputs):
        if metric in done:
            continue
        try:
            scores = measure(metric, job.cell, job.folder)
        except PSAlignError as err:
            yield [result_row(job.cell, metric, FAILED, note=str(err))]
            continue
        except Exception as err:  # of this metric alone: what the others say is not lost with it
            if not isinstance(err, OSError) and not is_out_of_memory(err):
                traceback.print_exc()  # a fault of the program
            yield [result_row(job.cell, metric, FAILED, note=f"{reason_of(err)} ({type(err).__name__})")]
            continue
        done |= {score.metric for score in scores}  # a metric may bring another with it
        yield [_row(job.cell, score, inputs[score.metric]) for score in scores]


def folder_fingerprint(folder: Path) -> str:
    """Names the pictures of a folder and their manifest, by content."""
    files = [folder / "manifest.jsonl", *own_pictures(folder)]
    return fingerprint([[path.relative_to(folder).as_posix(), file_fingerprint(path)] for path in files])


def _row(cell: Cell, score: Score, inputs: str) -> ResultRow:
    return replace(
        result_row(cell, score.metric, note=score.note),
        score=score.value,
        n=score.n,
        low=score.low,
        high=score.high,
        fingerprint=f"{inputs}-{score.fingerprint}",  # what it was asked of, known before; and what it was made of
    )


# --- one process, or several ----------------------------------------------------------------------------------------

Found = Generator["list[ResultRow] | None", None, None]  # rows as they are done; None where a cell is finished


def _in_this_process(jobs: Sequence[Job], measure: Measure) -> Found:
    for job in jobs:
        inputs, failed = look_at_inputs(job)
        yield failed
        yield from measure_job(job, measure, inputs)
        yield None


class Worker:
    """A process that measures one cell after another. It ends when this end of the pipe is closed."""

    def __init__(self, measure: Measure, environment: Mapping[str, str]) -> None:
        context = multiprocessing.get_context("spawn")  # a forked process could not use a GPU
        self.environment = environment
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, measure), daemon=True)
        with _environment(environment):
            self.process.start()
        theirs.close()
        self.job: Job | None = None
        self.missing: list[str] = []  # metrics of the job that there is no row of yet

    def give(self, job: Job) -> None:
        self.job, self.missing = job, [metric for metric in job.metrics if metric not in job.known]
        with suppress(ConnectionError):  # the process is gone, which take() will say
            self.pipe.send(job)

    def take(self) -> list[ResultRow] | None:
        """Rows, or None when the job is done. Raises EOFError where the process is gone."""
        try:
            message = self.pipe.recv()
        except OSError as err:  # gone before it read its job (ConnectionResetError), or in the middle of a message
            raise EOFError from err
        if isinstance(message, tuple):  # what the job comes to, once the worker has looked at the pictures
            self.missing = list(message)
            return []
        rows: list[ResultRow] | None = message
        told = {row.metrics for row in rows or ()}
        self.missing = [metric for metric in self.missing if metric not in told]
        return rows

    def post_mortem(self) -> list[ResultRow]:
        """Rows that say why the metrics of its job are not there."""
        self.process.join()
        assert self.job is not None
        why = f"the process that measured it ended with exit status {self.process.exitcode}"
        return [result_row(self.job.cell, metric, FAILED, note=why) for metric in self.missing]


def _in_processes(jobs: Sequence[Job], measure: Measure, environments: Sequence[Mapping[str, str]]) -> Found:
    waiting = list(reversed(jobs))
    workers: list[Worker] = []
    try:
        for environment in environments[: len(jobs)]:
            workers.append(_started(measure, environment, waiting))
        while workers:
            ready = wait([worker.pipe for worker in workers])
            for worker in [worker for worker in workers if worker.pipe in ready]:
                try:
                    rows = worker.take()
                except EOFError:
                    workers.remove(worker)
                    yield worker.post_mortem()
                    yield None
                    if waiting:
                        workers.append(_started(measure, worker.environment, waiting))
                    continue
                yield rows
                if rows is None and waiting:
                    worker.give(waiting.pop())
                elif rows is None:
                    workers.remove(worker)
                    worker.pipe.close()
                    worker.process.join()
    finally:
        for worker in workers:
            worker.process.terminate()


def _started(measure: Measure, environment: Mapping[str, str], waiting: list[Job]) -> Worker:
    worker = Worker(measure, environment)
    worker.give(waiting.pop())
    return worker


def _work(pipe: Connection, measure: Measure) -> None:
    """What a worker process does: jobs in, rows out, None after each."""
    sys.stdout = sys.stderr  # results are the first process's to print
    while True:
        try:
            job = pipe.recv()
        except EOFError:
            return
        inputs, failed = look_at_inputs(job)
        pipe.send(tuple(to_measure(job, inputs)))
        if failed:
            pipe.send(failed)
        for rows in measure_job(job, measure, inputs):
            pipe.send(rows)
        pipe.send(None)


@contextmanager
def _environment(changes: Mapping[str, str]) -> Iterator[None]:
    """For processes that start within it."""
    before = {name: os.environ.get(name) for name in changes}
    os.environ.update(changes)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value
