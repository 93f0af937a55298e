import errno
import hashlib
import os
import stat
from dataclasses import asdict

import pytest

from psalign import records
from psalign.errors import DatasetError, OutputError
from psalign.records import (
    CATEGORIES,
    ManifestRow,
    PromptRow,
    category_slug,
    file_fingerprint,
    fingerprint,
    read_jsonl,
    read_manifest,
    write_bytes,
    write_csv,
    write_json,
    write_jsonl,
    write_text,
)

ROW = ManifestRow("a.png", "a cat", 7, "prompt", "mini", user_id="0000033", banned=("Hate", "Violence"), level=2)


def test_the_seven_categories_and_their_slugs():
    assert [category_slug(category) for category in CATEGORIES] == [
        "hate", "harassment", "violence", "self-harm", "sexuality", "shocking", "propaganda",
    ]  # fmt: skip


def test_fingerprint_ignores_key_order_and_nothing_else():
    """First 16 digits of SHA-256 over the JSON with sorted keys and no spaces."""
    assert fingerprint({"b": 1, "a": [2]}) == hashlib.sha256(b'{"a":[2],"b":1}').hexdigest()[:16]
    assert fingerprint({"a": [2], "b": 1}) == fingerprint({"b": 1, "a": [2]})
    assert fingerprint({"a": [2], "b": 2}) != fingerprint({"b": 1, "a": [2]})


def test_file_fingerprint_is_of_the_content(tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x" * 3_000_000)
    assert file_fingerprint(tmp_path / "a") == file_fingerprint(tmp_path / "b")
    assert file_fingerprint(tmp_path / "a") == hashlib.sha256(b"x" * 3_000_000).hexdigest()[:16]


def test_manifest_rows_come_back_equal(tmp_path):
    path = tmp_path / "new" / "manifest.jsonl"
    plain = ManifestRow("b.png", "caf\u00e9 \U0001f431", 8, "base", "mini", meta={"suite": "scenes"})
    write_jsonl(path, [ROW, plain])
    assert read_manifest(path) == [ROW, plain]


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


@pytest.mark.parametrize("record", [{"file_name": "a.png"}, {**asdict(ROW), "shoe": 1}])
def test_rows_that_are_no_manifest_rows(tmp_path, record):
    write_jsonl(tmp_path / "manifest.jsonl", [ROW, record])
    with pytest.raises(DatasetError, match=r"manifest\.jsonl, row 2: not a manifest row \(.*(missing|unexpected)"):
        read_manifest(tmp_path / "manifest.jsonl")


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

    monkeypatch.setattr(records.os, "fsync", refuse)


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
