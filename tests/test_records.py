import hashlib
from dataclasses import asdict

import pytest

from psalign.categories import default_taxonomy
from psalign.errors import DatasetError
from psalign.files import write_jsonl
from psalign.fingerprints import file_fingerprint, fingerprint
from psalign.records import ManifestRow, read_manifest
from taxonomies import CATEGORIES

ROW = ManifestRow("a.png", "a cat", 7, "prompt", "mini", user_id="0000033", banned=("Hate", "Violence"), level=2)


def test_the_seven_categories_and_their_slugs():
    assert [default_taxonomy().slugs[category] for category in CATEGORIES] == [
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


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"banned": "Hate"}, "banned must be null or a list out of Hate"),
        ({"banned": ["Fun"]}, "banned must be null or a list out of"),
        ({"level": 6}, "level must be a whole number from 0 to 5, or null; saw '6'"),
        ({"level": "2"}, "level must be"),
        ({"seed": -1}, "seed must be a whole number"),
        ({"seed": True}, "seed must be a whole number"),
        ({"scale": "1"}, "scale must be a finite number"),
        ({"user_id": "a/b"}, "user_id must be a user id or null"),
        ({"meta": []}, "meta must be a JSON object"),
        ({"file_name": "../a.png"}, "file_name must be a relative path"),
        ({"prompt": None}, "prompt must be text"),
    ],
)
def test_values_of_a_manifest_have_their_kind(tmp_path, change, message):
    write_jsonl(tmp_path / "manifest.jsonl", [{**asdict(ROW), **change}])
    with pytest.raises(DatasetError, match=rf"manifest\.jsonl, row 1: not a manifest row: {message}"):
        read_manifest(tmp_path / "manifest.jsonl")


@pytest.mark.parametrize("record", [{"file_name": "a.png"}, {**asdict(ROW), "shoe": 1}])
def test_rows_that_are_no_manifest_rows(tmp_path, record):
    write_jsonl(tmp_path / "manifest.jsonl", [ROW, record])
    with pytest.raises(DatasetError, match=r"manifest\.jsonl, row 2: not a manifest row: (it has no|unknown)"):
        read_manifest(tmp_path / "manifest.jsonl")
