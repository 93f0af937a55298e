"""results.csv: what is written is read, the last row wins, and two processes lose nothing of each other."""

import multiprocessing
import re

import pytest

from psalign.errors import EvaluationError
from psalign.evaluation import results
from psalign.evaluation.cells import Cell
from psalign.evaluation.estimate import Estimate
from psalign.evaluation.results import (
    FAILED,
    MISSING,
    RESULT_COLUMNS,
    ResultRow,
    append_results,
    read_results,
    result_row,
)

CELL = Cell("mini", "psa", "mini", 3)
ROW = result_row(CELL, "kept", estimate=Estimate(0.1 + 0.2, 40, 0.2, 0.4), fingerprint="a-b")
PUBLISHED = """dataset,method,base_model,level,metrics,score,state,timestamp
coco_10k,base,sd15,none,fid,17.2433,succeeded,06-22 19:20
coco_10k,psa_adapter,sd15,level_3,fid,25.51937,succeeded,06-22 19:30
"""


def test_what_is_written_is_read(tmp_path):
    path = tmp_path / "new/results.csv"
    note = 'why, "exactly"\nGive --q16.'
    empty = result_row(Cell("mini", "psa", "mini", 0), "suppressed", estimate=Estimate(None, 0), note="no case")
    append_results(path, [ROW, empty])
    append_results(path, [result_row(CELL, "fid", FAILED, note=note)])
    first, second, third = read_results(path)
    assert path.read_text().splitlines()[0] == ",".join(RESULT_COLUMNS)
    assert (first.score, first.n, first.low, first.high, first.fingerprint) == (0.1 + 0.2, 40, 0.2, 0.4, "a-b")
    assert (second.score, second.n, second.state) == (None, 0, "succeeded")
    assert (third.state, third.note, third.score, third.n) == ("failed", note, None, None)
    assert first.cell == CELL
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", first.timestamp)


def test_no_rows_are_a_file_all_the_same(tmp_path):
    append_results(tmp_path / "results.csv", [])
    assert read_results(tmp_path / "results.csv") == []


def test_the_last_row_of_a_key_wins(tmp_path):
    path = tmp_path / "results.csv"
    other = result_row(CELL, "pass", MISSING, note="no adapter")
    append_results(path, [result_row(CELL, "kept", MISSING, note="no adapter"), other])
    append_results(path, [ROW])
    assert [(row.metrics, row.state) for row in read_results(path)] == [("kept", "succeeded"), ("pass", "missing")]
    assert len(path.read_text().splitlines()) == 4


def test_what_is_missing_is_said_once_and_replaces_no_score(tmp_path):
    path = tmp_path / "results.csv"
    missing = [result_row(CELL, metric, MISSING, note="no adapter") for metric in ("kept", "pass")]
    append_results(path, missing, only_new=True)
    append_results(path, missing, only_new=True)
    assert len(read_results(path)) == len(path.read_text().splitlines()) - 1 == 2
    append_results(path, [ROW])
    append_results(path, [row.model_copy(update={"note": "no tool"}) for row in missing], only_new=True)
    assert [(row.state, row.note) for row in read_results(path)] == [("succeeded", ""), ("missing", "no tool")]


def test_a_score_that_comes_meanwhile_is_not_replaced(tmp_path, monkeypatch):
    """Another process writes a score just before this one gets the lock."""
    path, locked = tmp_path / "results.csv", results.locked

    def late(place, **waiting):
        monkeypatch.setattr(results, "locked", locked)
        append_results(place, [ROW])
        return locked(place, **waiting)

    monkeypatch.setattr(results, "locked", late)
    append_results(path, [result_row(CELL, "kept", MISSING, note="no tool")], only_new=True)
    assert [(row.state, row.score) for row in read_results(path)] == [("succeeded", ROW.score)]


def test_the_published_file_is_read_and_gets_the_other_columns(tmp_path):
    path = tmp_path / "results.csv"
    path.write_text(PUBLISHED)
    base, psa = read_results(path)
    assert (base.level, base.score, base.timestamp, base.n) == ("none", 17.2433, "06-22 19:20", None)
    assert psa.cell == Cell("coco_10k", "psa", "sd15", 3)
    append_results(path, [ROW])
    assert [row.metrics for row in read_results(path)] == ["fid", "fid", "kept"]


def append_many(path, who, count):
    for number in range(count):
        append_results(
            path, [result_row(Cell("mini", "base", "mini"), f"{who}_{number}", estimate=Estimate(number, 1))]
        )


def test_two_processes_append_to_one_file(tmp_path):
    path, count = tmp_path / "results.csv", 25
    fork = multiprocessing.get_context("fork")
    others = [fork.Process(target=append_many, args=(path, who, count)) for who in ("a", "b")]
    for one in others:
        one.start()
    for one in others:
        one.join()
    assert [one.exitcode for one in others] == [0, 0]
    found = {row.metrics: row.score for row in read_results(path)}
    assert found == {f"{who}_{number}": float(number) for who in ("a", "b") for number in range(count)}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["results.csv"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,2\n", "is no results file: expected the columns dataset, method, .*; saw a, b"),
        (
            PUBLISHED + "mini,base,mini,none,fid,much,succeeded,now\n",
            "row 3: .*score: .*valid number",
        ),
        (PUBLISHED + "mini,base,mini,none,fid,nan,succeeded,now\n", r"row 3: not a results row \(score: .*finite"),
        (
            PUBLISHED + "mini,base,mini,none,fid,1,maybe,now\n",
            r"row 3: not a results row \(state must be one of succeeded, failed",
        ),
        (PUBLISHED + "mini,base,mini\n", "row 3: not a results row"),
        (PUBLISHED + "mini,base,mini,none,fid,1,succeeded,now,and,more\n", "row 3: not a results row"),
    ],
)
def test_files_that_are_none(tmp_path, text, message):
    path = tmp_path / "results.csv"
    path.write_text(text)
    for use in (read_results, lambda path: append_results(path, [ROW])):
        with pytest.raises(EvaluationError, match=message):
            use(path)
    assert path.read_text() == text
    for content in (b"\x89PNG\r\n", (PUBLISHED + "a" * 200_000 + "\n").encode()):
        path.write_bytes(content)
        with pytest.raises(EvaluationError, match=r"results\.csv: not (UTF-8 text|a CSV file)"):
            read_results(path)
    with pytest.raises(EvaluationError, match=r"does not exist\.\nMeasure first: psalign eval run"):
        read_results(tmp_path / "nothing.csv")


@pytest.mark.parametrize(
    "torn", ["mini,base,mini,none,fid,1,succ", 'mini,base,mini,none,fid,,failed,,,,,,"why, and', "x"]
)
def test_a_last_line_that_a_kill_cut_short_does_not_count_and_is_replaced(tmp_path, torn):
    path = tmp_path / "results.csv"
    append_results(path, [ROW])
    whole = path.read_text()
    path.write_text(whole + torn)
    assert [row.metrics for row in read_results(path)] == ["kept"]
    append_results(path, [result_row(CELL, "pass", MISSING, note="no adapter")])
    assert path.read_text().startswith(whole)
    assert [row.metrics for row in read_results(path)] == ["kept", "pass"]


def test_rows_are_appended_and_those_before_are_not_written_again(tmp_path, monkeypatch):
    path = tmp_path / "results.csv"
    append_results(path, [ROW])
    monkeypatch.setattr(results, "write_text", None)
    append_results(path, [result_row(CELL, "pass", MISSING, note="no adapter")])
    assert len(read_results(path)) == 2


@pytest.mark.parametrize(
    ("numbers", "message"),
    [({"high": None}, "half an interval"), ({"score": 0.5}, "lies outside its interval"),
     ({"score": None}, "half an interval")],
)  # fmt: skip
def test_intervals_that_cannot_be_are_refused(numbers, message):
    with pytest.raises(ValueError, match=message):
        ResultRow(**{**ROW.model_dump(), **numbers})
