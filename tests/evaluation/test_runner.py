"""The runner: measures what is not known, in this process or in workers, and goes on after failures and deaths."""

import os
import signal
import time
from functools import partial
from pathlib import Path

import pytest

from psalign.errors import EvaluationError
from psalign.evaluation import runner
from psalign.evaluation.cells import Cell
from psalign.evaluation.estimate import Estimate
from psalign.evaluation.metrics.registry import Score
from psalign.evaluation.results import append_results, read_results, result_row
from psalign.evaluation.runner import Job, known_fingerprints, run_jobs

CELLS = [Cell("mini", "base", "mini"), Cell("mini", "psa", "mini", 2), Cell("mini", "sld", "mini")]
METRICS = ("fid", "kid", "kept")
DIED = "the process ended before it answered: it was killed, or memory was used up"


@pytest.fixture
def images(tmp_path):
    for cell in CELLS:
        cell.folder(tmp_path / "images").mkdir(parents=True)
        (cell.folder(tmp_path / "images") / "manifest.jsonl").write_text("{}\n")
        (cell.folder(tmp_path / "images") / "a.png").write_text(f"picture of {cell}")
    return tmp_path / "images"


def jobs(images, *, metrics=METRICS, made_with="clip 1"):
    results = images.parent / "results.csv"
    made = dict.fromkeys(METRICS, made_with)
    return [Job(cell, cell.folder(images), metrics, made, known_fingerprints(results, cell)) for cell in CELLS]


def measure(log, metric, cell, folder, fault=None):
    """A number at once; `fid` brings `kid`, as in the real table. fault: what happens at `kept` of the sld cell."""
    with Path(log).open("a") as stream:
        stream.write(f"{cell} {metric} {os.environ.get('CUDA_VISIBLE_DEVICES')} {os.getpid() == int(Path(log).stem)}\n")
    if (metric, cell.method) == ("kept", "sld") and fault == "error":
        raise EvaluationError("a.png cannot be read.", hint="Make it again.")
    if (metric, cell.method) == ("kept", "sld") and fault == "bug":
        raise ZeroDivisionError
    if (metric, cell.method) == ("kept", "sld") and fault == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    names = ("fid", "kid") if metric == "fid" else (metric,)
    return [Score(name, Estimate(0.5, 3, 0.25, 0.75), "model", "a note") for name in names]


def run(images, fault=None, workers=(), **more):
    """Rows of a run, and what it measured: cell, metric, GPU, whether in this process."""
    log = images.parent / f"{os.getpid()}.log"
    log.write_text("")
    rows = run_jobs(jobs(images, **more), partial(measure, log, fault=fault), images.parent / "results.csv",
                    workers=workers)  # fmt: skip
    return rows, [tuple(line.split(" ")) for line in log.read_text().splitlines()]


def states(images):
    return {(str(row.cell), row.metrics): row.state for row in read_results(images.parent / "results.csv")}


def test_every_cell_is_measured_and_nothing_twice(images):
    rows, log = run(images)
    assert [line[:2] for line in log] == [(str(cell), metric) for cell in CELLS for metric in ("fid", "kept")]
    assert set(states(images)) == {(str(cell), metric) for cell in CELLS for metric in METRICS}
    assert (rows[0].score, rows[0].n, rows[0].low, rows[0].high, rows[0].note) == (0.5, 3, 0.25, 0.75, "a note")
    assert rows[0].fingerprint.endswith("-model")
    assert run(images) == ([], [])


def test_only_what_changed_is_measured_again(images):
    run(images)
    (CELLS[1].folder(images) / "a.png").write_text("another picture")
    assert [line[:2] for line in run(images)[1]] == [(str(CELLS[1]), "fid"), (str(CELLS[1]), "kept")]
    (CELLS[2].folder(images) / "b.png").write_text("a picture more")
    assert {line[0] for line in run(images)[1]} == {str(CELLS[2])}
    assert len(run(images, made_with="clip 2")[0]) == 9
    assert run(images, made_with="clip 2") == ([], [])


def test_a_cell_inside_another_is_no_part_of_it(images):
    """psa's own users, whose folder holds those of the levels: drawn, or being drawn."""
    outer, inner = Cell("mini", "psa", "mini"), CELLS[1].folder(images)
    (outer.folder(images) / "manifest.jsonl").write_text("{}\n")
    before = runner.folder_fingerprint(outer.folder(images))
    (inner / "b.png").touch()
    assert runner.folder_fingerprint(outer.folder(images)) == before
    (inner / "manifest.jsonl").rename(inner / "run.json")
    assert runner.folder_fingerprint(outer.folder(images)) == before
    (inner / "run.json").unlink()
    assert runner.folder_fingerprint(outer.folder(images)) != before


def test_a_metric_that_fails_says_why_and_is_tried_again(images):
    rows, _ = run(images, fault="error")
    failed = [row for row in rows if row.state == "failed"]
    assert [(row.cell, row.metrics, row.note) for row in failed] == [
        (CELLS[2], "kept", "a.png cannot be read.\nMake it again.")
    ]
    assert len(rows) == 9
    assert [line[:2] for line in run(images)[1]] == [(str(CELLS[2]), "kept")]
    assert set(states(images).values()) == {"succeeded"}


@pytest.mark.parametrize("workers", [[], [{"CUDA_VISIBLE_DEVICES": "7"}]])
def test_a_fault_of_the_program_costs_its_own_metric_alone(images, workers, capfd):
    rows, _ = run(images, fault="bug", workers=workers)
    failed = {(row.cell, row.metrics): row.note for row in rows if row.state == "failed"}
    assert list(failed) == [(CELLS[2], "kept")]
    assert "ZeroDivisionError" in failed[CELLS[2], "kept"]
    assert "raise ZeroDivisionError" in capfd.readouterr().err
    assert list(states(images).values()).count("succeeded") == 8


def test_a_worker_that_dies_costs_its_own_metrics_alone(images):
    """The sld cell is given out last, so that another worker must start where cells wait behind one that died."""
    rows, log = run(images, fault="kill", workers=[{"CUDA_VISIBLE_DEVICES": "7"}])
    failed = {(row.cell, row.metrics): row.note for row in rows if row.state == "failed"}
    assert failed == {(CELLS[2], "kept"): DIED}
    assert {line[2:] for line in log} == {("7", "False")}
    assert list(states(images).values()).count("succeeded") == 8
    assert [line[:2] for line in run(images)[1]] == [(str(CELLS[2]), "kept")]


def test_another_process_goes_on_after_a_death(images):
    backwards = list(reversed(jobs(images)))
    log = images.parent / f"{os.getpid()}.log"
    rows = run_jobs(backwards, partial(measure, log, fault="kill"), images.parent / "results.csv", workers=[{}])
    assert sorted((row.state, row.metrics) for row in rows if row.state == "failed") == [("failed", "kept")]
    assert len(rows) == 9


class EndsItsProcess:
    """A measure that ends the process that unpickles it: before that has read its job."""

    def __reduce__(self):
        return os._exit, (7,)


@pytest.mark.slow
def test_a_process_that_never_reads_its_work_is_reported(images):
    (first, *_) = jobs(images)
    rows = run_jobs([first], EndsItsProcess(), images.parent / "results.csv", workers=[{}])
    assert {(row.metrics, row.state, row.note) for row in rows} == {(metric, "failed", DIED) for metric in METRICS}


def test_two_workers_share_the_cells(images):
    rows, log = run(images, workers=[{"CUDA_VISIBLE_DEVICES": "0"}, {"CUDA_VISIBLE_DEVICES": "1"}])
    assert sorted(line[:2] for line in log) == sorted((str(cell), m) for cell in CELLS for m in ("fid", "kept"))
    assert len(rows) == 9
    assert {gpu for *_, gpu, _ in log} == {"0", "1"}
    assert "CUDA_VISIBLE_DEVICES" not in os.environ or os.environ["CUDA_VISIBLE_DEVICES"] not in ("0", "1")


def slowly(metric, cell, folder):
    time.sleep(0.2)
    return [Score(metric, Estimate(1.0, 1), "model")]


@pytest.mark.slow
def test_killed_in_the_middle_and_started_again(images):
    """A run that is killed keeps the rows it had; the next one measures the rest, and no row twice."""
    pid = os.fork()
    if pid == 0:
        run_jobs(jobs(images), slowly, images.parent / "results.csv")
        os._exit(0)
    deadline = time.monotonic() + 60
    while not (images.parent / "results.csv").exists() and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    before = len(read_results(images.parent / "results.csv"))
    assert 1 <= before < 9
    rows = run_jobs(jobs(images), slowly, images.parent / "results.csv")
    assert before + len(rows) == 9
    assert len((images.parent / "results.csv").read_text().splitlines()) == 10


def test_a_row_that_was_missing_is_measured_once_it_can_be(images):
    append_results(images.parent / "results.csv", [result_row(CELLS[0], "fid", "missing", note="no weights")])
    assert states(images) == {(str(CELLS[0]), "fid"): "missing"}
    run(images)
    assert states(images)[str(CELLS[0]), "fid"] == "succeeded"
