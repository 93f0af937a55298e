"""Rows with limits in words: from a file, or from the concepts of a dataset."""

import json

import pytest

from psalign.errors import DatasetError
from psalign.sage.caption_rows import read_caption_rows
from psalign.sage.limit_rows import FILE, limit_rows, rows_of_concepts
from sage_rows import make_row


def pair(number, category, concept):
    about = {"user_id": f"{number:07d}", "category": category, "concept": concept, "index": "00000"}
    return [make_row(**about, caption_kind=kind, caption=f"{kind} picture of {concept}") for kind in ("unsafe", "safe")]


def test_each_unsafe_caption_is_limited_once_and_once_not():
    rows = [row for i, one in enumerate(["knife fight", "blood", "war"]) for row in pair(i, "Violence", one)]
    rows += pair(9, "Hate", "slur")
    found = rows_of_concepts(rows)
    assert len(found) == 8
    for limited, plain in zip(found[::2], found[1::2], strict=True):
        assert limited.caption == plain.caption == plain.chosen_caption
        assert limited.chosen_caption == limited.caption.replace("unsafe", "safe")
        concept = limited.caption.removeprefix("unsafe picture of ")
        assert {concept, limited.category.lower()} & set(limited.limits)
        assert concept not in plain.limits
        assert limited.user_id is plain.user_id is None
    assert rows_of_concepts(rows) == found


def test_limits_that_a_caption_does_not_touch_are_of_other_categories():
    rows = [row for i in range(20) for row in pair(i, "Violence" if i % 2 else "Hate", f"thing {i}")]
    for row in rows_of_concepts(rows)[1::2]:
        assert all((int(one.removeprefix("thing ")) % 2 == 1) == (row.category == "Hate") for one in row.limits)


def test_a_file_of_the_split_is_read_instead(tmp_path):
    record = {"caption": "a cat with a sword", "chosen_caption": "a cat", "limits": ["A Sword", "rain", "rain"]}
    (tmp_path / FILE).write_text(json.dumps(record) + "\n")
    (row,) = limit_rows(tmp_path, pair(0, "Hate", "slur"))
    assert (row.caption, row.chosen_caption, row.limits) == ("a cat with a sword", "a cat", ("a sword", "rain"))
    assert row.user_id is None
    assert len(limit_rows(tmp_path / "other", pair(0, "Hate", "slur"))) == 2


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"caption": "a", "limits": ["x"], "user_id": "0000001"}, "give user_id, banned or limits, and one of them"),
        ({"caption": "a", "limits": [3]}, "limits must be phrases"),
        ({"caption": "a", "limits": ["x" * 201]}, "limits must be phrases of at most 200 letters"),
    ],
)
def test_rows_that_make_no_sense(tmp_path, record, message):
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(record) + "\n")
    with pytest.raises(DatasetError, match=message):
        read_caption_rows(path)


def test_limits_in_a_csv_have_semicolons_between_them(tmp_path):
    path = tmp_path / "rows.csv"
    path.write_text("caption,chosen_caption,limits\na cat with a sword,a cat,swords; no rain\n")
    (row,) = read_caption_rows(path)
    assert row.limits == ("swords", "no rain")
