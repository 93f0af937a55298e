"""Captions of SAGE rows and of files of one's own."""

import json

import pytest

from psalign.errors import DatasetError
from psalign.sage.caption_rows import ban_list_id, caption_rows, is_caption_file, read_caption_rows
from sage_rows import make_row


def pair(**changes):
    """The two rows of a pair whose category its user bans (or allows, with chose_unsafe)."""
    chose = changes.pop("chose_unsafe", False)
    unsafe = make_row(caption="a street with a sword", caption_kind="unsafe", chose_unsafe=chose, **changes)
    safe = make_row(caption="a street", caption_kind="safe", chose_unsafe=False, **changes)
    return [unsafe, safe]


@pytest.mark.parametrize("chose_unsafe", [False, True])
def test_the_chosen_caption_follows_the_preference(chose_unsafe):
    unsafe, safe = caption_rows(pair(chose_unsafe=chose_unsafe))
    told, other = ("a street with a sword", "a street") if chose_unsafe else ("a street", "a street with a sword")
    assert (unsafe.chosen_caption, unsafe.other_caption) == (told, other)
    assert unsafe.side == ("allowed" if chose_unsafe else "banned")
    assert (safe.chosen_caption, safe.side) == ("a street", "safe")


def test_a_pair_without_its_other_row_is_refused():
    with pytest.raises(DatasetError, match="no row has the safe caption of this pair"):
        caption_rows(pair()[:1])


ROWS = [
    {"caption": "a cat with a sword", "chosen_caption": "a cat", "banned": ["Violence", "hate"]},
    {"caption": "a cat with a sword", "banned": []},
    {"caption": "a dog", "chosen_caption": "", "user_id": 33},
]


def test_json_lines(tmp_path):
    path = tmp_path / "captions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    taken, kept, known = read_caption_rows(path)
    assert (taken.chosen_caption, taken.side, taken.banned) == ("a cat", "banned", ("Hate", "Violence"))
    assert taken.user_id == "bans-hate.violence" == ban_list_id(("Violence", "Hate"))
    assert (kept.chosen_caption, kept.side, kept.user_id, kept.banned) == (kept.caption, "allowed", "bans-none", ())
    assert (known.user_id, known.banned, known.chosen_caption) == ("0000033", None, "a dog")


def test_csv(tmp_path):
    path = tmp_path / "captions.csv"
    path.write_text("Caption,chosen caption,banned,category\na cat with a sword,a cat,Violence; self-harm,violence\n")
    (row,) = read_caption_rows(path)
    assert (row.banned, row.category) == (("Violence", "Self-Harm"), "Violence")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ({"prompt_text": "a cat"}, "row 1: there is no column caption; saw 'prompt_text'"),
        ({"caption": "a cat"}, "row 1: give user_id, banned or limits, and one of them"),
        ({"caption": "a cat", "banned": [], "user_id": 3}, "row 1: give user_id, banned or limits, and one of them"),
        ({"caption": "a cat", "banned": ["Guns"]}, "row 1: unknown category 'Guns'; the categories are Hate"),
        ({"caption": "a cat", "user_id": "../x"}, "row 1: user_id is '../x'; expected 1 to 64 of letters"),
        ({"caption": 3, "user_id": 3}, "row 1: caption is 3; expected text"),
    ],
)
def test_rows_that_are_none(line, message, tmp_path):
    path = tmp_path / "captions.jsonl"
    path.write_text(json.dumps(line))
    with pytest.raises(DatasetError, match=message):
        read_caption_rows(path)


def test_an_empty_file_is_refused(tmp_path):
    (tmp_path / "captions.jsonl").write_text("")
    with pytest.raises(DatasetError, match="has no rows"):
        read_caption_rows(tmp_path / "captions.jsonl")


def test_a_folder_is_no_file_of_captions(tmp_path):
    (tmp_path / "data.csv").mkdir()
    assert not is_caption_file(tmp_path / "data.csv")
    assert is_caption_file(tmp_path / "mine.CSV")
    assert not is_caption_file(tmp_path / "data")
