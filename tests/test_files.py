"""Files are read whole or refused, and written whole or not at all."""

import errno
import os
import stat
from dataclasses import asdict
from pathlib import Path

import pytest

from psalign import files
from psalign.errors import DatasetError, OutputError
from psalign.files import read_jsonl, write_bytes, write_csv, write_json, write_jsonl, write_text
from psalign.records import PromptRow


def test_records_and_row_dataclasses_are_written_alike(tmp_path):
    row = PromptRow("a.png", "a cat", 7)
    write_jsonl(tmp_path / "rows.jsonl", [row, asdict(row)])
    first, second = read_jsonl(tmp_path / "rows.jsonl")
    assert first == second == {"file_name": "a.png", "prompt": "a cat", "seed": 7, "user_id": None, "meta": {}}


def test_blank_lines_and_byte_order_mark(tmp_path):
    (tmp_path / "rows.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\n\n{"a": 2}')
    assert list(read_jsonl(tmp_path / "rows.jsonl")) == [{"a": 1}, {"a": 2}]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"a": 1}\n{"a": \n', "rows.jsonl, line 2: not JSON (Expecting value at column"),
        ("[1]\n", "rows.jsonl, line 1: expected a JSON object, saw list."),
    ],
)
def test_broken_lines_are_named(tmp_path, text, message):
    (tmp_path / "rows.jsonl").write_text(text)
    with pytest.raises(DatasetError) as caught:
        list(read_jsonl(tmp_path / "rows.jsonl"))
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b'{"a": "\xff"}', "line 2: not UTF-8 text (byte 7)"),
        (b"[" * 100_000, "line 2: not JSON that can be read"),
        (b'{"a": ' + b"1" * 5000 + b"}", "line 2: not JSON that can be read"),
    ],
)
def test_lines_that_are_no_text_or_no_end_of_brackets_or_digits(tmp_path, line, message):
    (tmp_path / "rows.jsonl").write_bytes(b'\xef\xbb\xbf{"a": 1}\r\n' + line)
    rows = read_jsonl(tmp_path / "rows.jsonl")
    assert next(rows) == {"a": 1}
    with pytest.raises(DatasetError) as caught:
        next(rows)
    assert message in str(caught.value)


def test_no_such_file(tmp_path):
    with pytest.raises(DatasetError, match=r"rows\.jsonl does not exist\."):
        list(read_jsonl(tmp_path / "rows.jsonl"))


def test_csv(tmp_path):
    write_csv(tmp_path / "results.csv", [{"method": "psa", "note": "a, b"}, {"method": "base", "note": None}])
    assert (tmp_path / "results.csv").read_text() == 'method,note\npsa,"a, b"\nbase,\n'


def test_json_ends_in_a_line_end_and_keeps_its_order(tmp_path):
    write_json(tmp_path / "a.json", {"b": 1, "a": 2})
    assert (tmp_path / "a.json").read_text() == '{\n  "b": 1,\n  "a": 2\n}\n'


@pytest.mark.skipif(os.name != "posix", reason="file modes")
def test_private_files_are_for_their_owner_only(tmp_path):
    write_text(tmp_path / "open.txt", "x")
    os.chmod(tmp_path / "open.txt", 0o644)
    write_text(tmp_path / "open.txt", "y", private=True)
    assert stat.S_IMODE((tmp_path / "open.txt").stat().st_mode) == 0o600


def fail_with(monkeypatch, number):
    def refuse(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(files.os, "fsync", refuse)


def test_a_full_disk_loses_nothing_and_says_so(tmp_path, monkeypatch):
    write_bytes(tmp_path / "a.bin", b"old")
    fail_with(monkeypatch, errno.ENOSPC)
    with pytest.raises(OutputError) as caught:
        write_bytes(tmp_path / "a.bin", b"new")
    assert str(caught.value).startswith(f"No space left to write {tmp_path}/a.bin; nothing that was there is lost.\n")
    assert "run the same command again" in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["a.bin"]
    assert (tmp_path / "a.bin").read_bytes() == b"old"


def test_other_faults_of_the_disk_keep_their_traceback(tmp_path, monkeypatch):
    fail_with(monkeypatch, errno.EIO)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        write_bytes(tmp_path / "a.bin", b"new")
    assert list(tmp_path.iterdir()) == []


# --- what is there already -------------------------------------------------------------------------------------------


def test_a_link_stays_a_link_and_what_it_leads_to_is_written(tmp_path):
    (tmp_path / "kept").mkdir()
    (tmp_path / "link.txt").symlink_to(tmp_path / "kept/real.txt")
    write_text(tmp_path / "link.txt", "x")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "kept/real.txt").read_text() == "x"
    assert [path.name for path in (tmp_path / "kept").iterdir()] == ["real.txt"]


def test_other_content_goes_only_where_it_may(tmp_path):
    write_text(tmp_path / "a.txt", "x", replace=False)
    write_text(tmp_path / "a.txt", "x", replace=False)
    with pytest.raises(OutputError, match=r"a\.txt is there already; it is left as it is\.\n.*--force"):
        write_text(tmp_path / "a.txt", "y", replace=False)
    assert (tmp_path / "a.txt").read_text() == "x"


def test_files_of_another_kind_are_in_the_way(tmp_path):
    (tmp_path / "notes.json").write_text("mine")
    with pytest.raises(OutputError, match=r"notes\.json is there already, and is not a list of metrics"):
        files.require_ours(tmp_path / "notes.json", b'"methods"', what="a list of metrics", force=False)
    files.require_ours(tmp_path / "notes.json", b'"methods"', what="a list of metrics", force=True)
    files.require_ours(tmp_path / "new.json", b'"methods"', what="a list of metrics", force=False)


def test_pipes_and_devices_are_written_as_they_are(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OutputError, match="pipe cannot be written"):  # nobody reads
        write_text(tmp_path / "pipe", "x")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "x")
    assert os.read(reader, 10) == b"x"
    os.close(reader)
    write_text(Path("/dev/null"), "x")
    with pytest.raises(OutputError, match="No space left to write /dev/full"):
        write_text(Path("/dev/full"), "x")


def test_files_that_belong_together_are_replaced_together(tmp_path, monkeypatch):
    paths = {tmp_path / "a": b"1", tmp_path / "b": b"2"}
    files.write_together(paths)
    fail_with(monkeypatch, errno.ENOSPC)
    with pytest.raises(OutputError):
        files.write_together(dict.fromkeys(paths, b"new"))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == paths


# --- JSON ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"banned": ["Hate"], "banned": []}', "the key 'banned' is there twice"),
        ('{"a": {"b": 1, "b": 1}}', "the key 'b' is there twice"),
        ('{"a": NaN}', "NaN is no number of JSON"),
        ('{"a": -Infinity}', "-Infinity is no number of JSON"),
        ('{"a": 1e999}', "the number 1e999 is too large"),
        ('{"a": ' + "1" * 5000 + "}", "a number of 5000 digits"),
        ('{"a": ', r"not JSON \(Expecting value at column"),
        ("[" * 100_000, "brackets without end"),
    ],
)
def test_json_that_says_two_things_or_none_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        files.parse_json(text)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": 1', "\udcff", "null"])
def test_damaged_files_of_ours_are_told(text, tmp_path):
    (tmp_path / "run.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(OutputError, match=r"run\.json(:| is damaged:).*"):
        files.read_json(tmp_path / "run.json", what="a run", needs=("name",))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is a folder; expected a file"),
        (lambda path: path.write_bytes(b"a\xff"), "not UTF-8 text .byte 1"),
        (lambda path: path.symlink_to(path), "cannot be read: Too many levels of symbolic links"),
    ],
)
def test_text_that_cannot_be_read_is_told(make, message, tmp_path):
    make(tmp_path / "a.txt")
    with pytest.raises(DatasetError, match=rf"a\.txt:? {message}"):
        files.read_text(tmp_path / "a.txt")
