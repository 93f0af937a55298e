"""The cache of judgements: on disk before it counts, whole after a torn line, one process at a time."""

import json
import os
import stat

import pytest

from psalign.errors import EvaluationError, OutputError
from psalign.evaluation.judge.cache import JudgeCache
from psalign.evaluation.judge.reply import Answer

GOOD = Answer({"quality": 1}, None, 2, 10, 3)
FAILED = Answer(None, "refused", 1, 5, 1)


def test_what_is_added_is_there_again(tmp_path):
    path = tmp_path / "out/judgements.jsonl"
    with JudgeCache(path) as cache:
        cache.add("one", GOOD)
        cache.add("two", FAILED)
        assert (cache.answers.get("one"), cache.answers.get("three")) == (GOOD, None)
    with JudgeCache(path) as cache:
        assert (cache.answers.get("one"), cache.answers.get("two"), len(cache.answers)) == (GOOD, FAILED, 2)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_answer_is_on_the_disk_before_it_counts(tmp_path, monkeypatch):
    cache = JudgeCache(tmp_path / "judgements.jsonl")
    order = []
    real = os.fsync
    monkeypatch.setattr("os.fsync", lambda file: order.append((cache.answers.get("one"), real(file))))
    cache.add("one", GOOD)
    assert order == [(None, None)]  # synced while it did not count yet
    assert cache.answers.get("one") == GOOD


@pytest.mark.parametrize("cut", [1, 20, -1])
def test_a_torn_last_line_is_dropped(tmp_path, cut):
    path = tmp_path / "judgements.jsonl"
    with JudgeCache(path) as cache:
        cache.add("one", GOOD)
        whole = path.stat().st_size
        cache.add("two", FAILED)
    content = path.read_bytes()
    path.write_bytes(content[: whole + cut] if cut > 0 else content[:cut])
    with JudgeCache(path) as cache:
        assert (len(cache.answers), cache.answers.get("one")) == (1, GOOD)
        cache.add("three", FAILED)
    lines = path.read_text().splitlines()
    assert [json.loads(line)["key"] for line in lines] == ["one", "three"]


@pytest.mark.parametrize("line", ["nonsense", "[1]", '{"reply": null}', '{"key": "a", "replied": 1}', '"key"',
                                  '{"key": "a", "reply": null}', '{"key": "a", "reply": 7}',
                                  '{"key": "a", "reply": null, "failed": 7}',
                                  '{"key": "a", "reply": {}, "failed": "busy"}',
                                  '{"key": "a", "reply": {}, "requests": "1"}',
                                  '{"key": "a", "reply": {}, "left_out": [1]}',
                                  '{"key": "a", "reply": {}, "left_out": 1}'])  # fmt: skip
def test_a_broken_line_is_an_error_and_not_a_loss(tmp_path, line):
    path = tmp_path / "judgements.jsonl"
    with JudgeCache(path) as cache:
        cache.add("one", GOOD)
    path.write_text(line + "\n" + path.read_text())
    before = path.read_text()
    with pytest.raises(EvaluationError, match=r"judgements.jsonl, line 1: no judgement: .*\nRemove that line"):
        JudgeCache(path)
    assert path.read_text() == before


def test_one_process_at_a_time(tmp_path):
    path = tmp_path / "judgements.jsonl"
    with JudgeCache(path), pytest.raises(OutputError, match=r"Another process is judging with"):
        JudgeCache(path)
    with JudgeCache(path) as cache:
        assert len(cache.answers) == 0


def test_a_full_disk_leaves_whole_lines(tmp_path, monkeypatch):
    path = tmp_path / "judgements.jsonl"
    real = os.write
    with JudgeCache(path) as cache:
        cache.add("one", GOOD)
        monkeypatch.setattr("os.write", lambda file, data: real(file, data[:7]))
        with pytest.raises(OutputError, match=r"judgements\.jsonl cannot be written .*No space"):
            cache.add("two", GOOD)
        monkeypatch.undo()
        assert cache.answers.get("two") is None
    with JudgeCache(path) as cache:
        assert len(cache.answers) == 1
