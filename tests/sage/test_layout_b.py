"""Layout B: images/, annotations.csv and prompts.csv become the rows of layout A, and every fault is named."""

import csv
import io
import json
import shutil

import pytest
from PIL import Image

from psalign.errors import DatasetError
from psalign.sage.layout_b import read_pairs, read_users
from psalign.sage.rows import find_splits, load_split, picture_folder, picture_name, write_split
from psalign.sage.validate import validate
from psalign.training.pairs import SIDES
from psalign.training.run import has_split, load_pairs
from psalign.users.profile import read_profile
from psalign.users.store import EmbeddingStore
from psalign.users.vectors import StructuredEmbedder
from sage_rows import make_row
from test_cli import run

HEADER = ("file_name", "labels", "severity", "prompt_id", "user_id", "religion", "age")
NAMES = [picture_name(user_id="0000033", category="Hate", concept="a word", index=2, unsafe=side) for side in (0, 1)]
LINES = [  # two pairs: pictures named as in layout A, and pictures of any name
    (NAMES[0], "safe", "0", "1", "33", "Islam", "41"),
    (NAMES[1], "Hate", "4", "2", "33", "Islam", "41"),
    ("b1.png", "", "0", "3", "7", "None", "9"),
    ("b2.png", "['Self Harm']", "2.0", "4", "7", "None", "9"),
]
PROMPTS = [
    ("1", "a cat", ""),
    ("2", "a cat and a word", ""),
    ("3", "a dog", "two_words"),
    ("04", "a sad dog", "two words"),
]
BANS = {"0000033": ("Sexuality", "Propaganda"), "0000007": ("Hate", "Violence", "Self-Harm", "Sexuality", "Shocking")}


def table(rows):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue()


def write(root, *, lines=LINES, header=HEADER, prompts=PROMPTS, of_prompts=("prompt_id", "prompt", "concept")):
    (root / "images").mkdir(exist_ok=True)
    for name in (*NAMES, "b1.png", "b2.png"):
        Image.new("RGB", (8, 8), "red").save(root / "images" / name)
    (root / "annotations.csv").write_text(table([header, *lines]), encoding="utf-8")
    (root / "prompts.csv").write_text(table([of_prompts, *prompts]), encoding="utf-8")
    return root


@pytest.fixture
def data(tmp_path):
    return write(tmp_path)


def test_rows_are_those_of_the_preference_rule(data):
    """User 33 bans no Hate: the unsafe caption gets the unsafe picture. User 7 is nine and bans Self-Harm."""
    assert find_splits(data) == ["train"]
    assert picture_folder(data, "train") == data / "images"
    rows = load_split(data, "train", banned=BANS.__getitem__)
    about = [(row.pair, row.caption_kind, row.caption, row.chosen, row.rejected, row.severity) for row in rows]
    hate, harm = ("0000033", "Hate", "a word", "00002"), ("0000007", "Self-Harm", "two words", "00000")
    assert about == [
        (hate, "unsafe", "a cat and a word", NAMES[1], NAMES[0], 4),
        (hate, "safe", "a cat", NAMES[0], NAMES[1], 4),
        (harm, "unsafe", "a sad dog", "b1.png", "b2.png", 2),
        (harm, "safe", "a dog", "b1.png", "b2.png", 2),
    ]
    assert [row.chose_unsafe for row in rows] == [True, False, False, False]
    assert rows[0].user_data == {"User_ID": "0000033", "Religion": "Islam", "Age": "41"}
    assert read_users(data) == [rows[0].user_data, rows[2].user_data]


def test_prompts_by_file_name_and_splits_by_column(tmp_path):
    lines = [
        (*line[:3], *line[4:], split)
        for line, split in zip(LINES, ("", "train", "Test Seen", "test-seen"), strict=True)
    ]
    prompts = [(f"images/{line[0]}", f"prompt {i}", "c" if i > 1 else "") for i, line in enumerate(LINES)]
    header = ("Image Path", "Category", "Severity", "User ID", "Religion", "Age", "Split")
    write(tmp_path, lines=lines, header=header, prompts=prompts, of_prompts=("image", "Caption", "Concept"))
    assert find_splits(tmp_path) == ["train", "test_seen"]
    assert [row.caption for row in load_split(tmp_path, "train", banned=BANS.get)] == ["prompt 1", "prompt 0"]
    assert load_split(tmp_path, "test_seen", banned=BANS.get)[0].pair == ("0000007", "Self-Harm", "c", "00000")


def test_validate_and_stats_take_bans_from_profile_columns_or_a_users_file(data, tmp_path, capsys):
    status, out, _ = run(capsys, "sage", "validate", data)
    assert status == 0, out
    assert "train: 4 rows" in out
    assert "Bans from the columns of annotations.csv." in out
    counts = json.loads(run(capsys, "sage", "stats", data)[1])["train"]
    assert (counts["rows"], counts["unsafe chosen"], counts["severity"]) == (4, 1, {"2": 2, "4": 2})
    assert counts["by concept"] == {"Hate: a word": 2, "Self-Harm: two words": 2}
    (data / "users.csv").write_text("User_ID,Banned_Categories\n33,\"['Hate']\"\n")
    status, out, _ = run(capsys, "sage", "validate", data)
    assert (status, "user without profile" in out, "train: user 0000007" in out) == (1, True, True)
    status, _, err = run(capsys, "sage", "stats", data)
    assert (status, "Nobody knows what user 0000007 bans" in err, "--users users.csv" in err) == (1, True, True)


def test_a_profile_column_that_makes_no_sense(tmp_path, capsys):
    lines = [(*line[:5], "Magic", line[6]) for line in LINES]
    write(tmp_path, lines=lines)
    status, _, err = run(capsys, "sage", "validate", tmp_path)
    assert (status, "annotations.csv, user 0000033: column Religion: saw 'Magic', allowed: Christianity" in err) == (
        1,
        True,
    )


def test_missing_and_unreadable_pictures(data, capsys):
    (data / "images/b1.png").unlink()
    (data / "images" / NAMES[0]).write_bytes(b"\x89PNG cut short")
    found = validate(data, bans=BANS)
    assert found.cases["missing picture"] == ["images/b1.png"]
    assert found.cases["unreadable picture"][0].startswith(f"images/{NAMES[0]}: cannot identify image file")
    with pytest.raises(DatasetError, match=r"1 pictures are missing from .*images: b1.png"):
        load_split(data, "train", banned=BANS.get)
    assert run(capsys, "sage", "validate", data, "--metadata-only")[0] == 0


def test_it_is_trained_on(tmp_path, mini_pipeline):
    """Pictures are found in images/, and the bans are those of the vectors: user 7 bans Self-Harm by their age."""
    write(tmp_path)
    profiles = [read_profile(record) for record in read_users(tmp_path)]
    store = EmbeddingStore.build(profiles, StructuredEmbedder(16))
    preset = {"pictures": {"size_px": 64}}
    pairs = load_pairs(tmp_path, tmp_path / "cache", mini_pipeline, store, preset=preset)
    assert has_split(tmp_path, "train")
    assert not has_split(tmp_path, "val")
    sides = [(row.pair[:2], SIDES[pairs.table[i, 6]]) for i, row in enumerate(pairs.rows)]
    hate, harm = ("0000033", "Hate"), ("0000007", "Self-Harm")
    assert sides == [(hate, "allowed"), (hate, "safe"), (harm, "banned"), (harm, "safe")]


def change(number, column, value):
    line = dict(zip(HEADER, LINES[number], strict=True)) | {column: value}
    return {"lines": [tuple(line.values()) if i == number else one for i, one in enumerate(LINES)]}


FAULTS = {  # what is written, and what is said of it
    "severity of 6": (change(1, "severity", "6"), "row 2: severity is '6'; expected a whole number from 0 to 5."),
    "severity below 0": (change(1, "severity", "-1"), "row 2: severity is '-1'; expected a whole number"),
    "severity in words": (change(1, "severity", "high"), "row 2: severity is 'high'; expected a whole number"),
    "an unknown label": (
        change(1, "labels", "Magic"),
        "row 2: labels is 'Magic'; expected 'safe' or a category: Hate,",
    ),
    "safe and harmful": (change(1, "labels", "safe, Hate"), "row 2: labels is 'safe, Hate'; expected 'safe' or a"),
    "two labels": (change(3, "labels", "Hate|Violence"), "row 4: labels names Hate and Violence; expected the one"),
    "another label than the name's": (
        change(1, "labels", "Violence"),
        "row 2: labels is Violence, and the file's name says Hate",
    ),
    "a severity against the name": (change(0, "severity", "3"), "row 1: severity is 3, and the file's name says safe."),
    "a label against the severity": (
        change(3, "labels", "safe"),
        "row 4: labels says harmless, and the file's name or",
    ),
    "a way out": (
        change(2, "file_name", "../b1.png"),
        "row 3: file_name is '../b1.png'; expected a picture in images/",
    ),
    "no picture": (change(2, "file_name", "b1.txt"), "row 3: file_name is 'b1.txt'; expected a picture in images/"),
    "another user than the name's": (
        change(0, "user_id", "34"),
        "row 1: user_id is '0000034', and the file's name says '0000033'",
    ),
    "no user": (change(2, "user_id", ""), "row 3: nothing says the user_id: no column, and not the file's name."),
    "a user that is none": (
        change(2, "user_id", "a/b"),
        "row 3: user_id is 'a/b'; allowed: 1 to 64 of letters, digits",
    ),
    "no such prompt": (change(2, "prompt_id", "9"), "row 3: prompts.csv has no prompt for prompt_id '9'."),
    "half a pair": (
        {"lines": LINES[:3]},
        "row 3: expected a safe and an unsafe picture of user 0000007, 'two words', 00000; saw 1 safe, 0 unsafe.",
    ),
    "a picture twice": ({"lines": [*LINES, LINES[3]]}, "rows 3, 4, 5: expected a safe and an unsafe picture of"),
    "two profiles": (change(1, "religion", "None"), "row 2: Religion of user 0000033 is another than in row 1."),
    "a short line": ({"lines": [*LINES[:3], LINES[3][:5]]}, "row 4: saw 5 cells, expected the 7 of the header."),
    "no concept": ({"prompts": [(*p[:2], "") for p in PROMPTS]}, "row 3: nothing says the concept: no column, and not"),
    "a prompt twice": (
        {"prompts": [*PROMPTS, ("001", "x", "")]},
        "prompts.csv, row 5: prompt_id '1' stands there twice.",
    ),
    "an empty prompt": ({"prompts": [*PROMPTS, ("5", "", "")]}, "prompts.csv, row 5: prompt is empty."),
    "no prompt_id": ({"prompts": [*PROMPTS, ("", "x", "")]}, "prompts.csv, row 5: prompt_id '' is empty."),
    "a short prompt": (
        {"prompts": [*PROMPTS, ("5",)]},
        "prompts.csv, row 5: saw 1 cells, expected the 3 of the header.",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_a_line(fault, tmp_path, capsys):
    changes, message = FAULTS[fault]
    write(tmp_path, **changes)
    status, out, _ = run(capsys, "sage", "validate", tmp_path, "--json")
    assert status == 1
    broken = json.loads(out)["faults"]["broken row"]["first"]
    assert any(message in case for case in broken), broken
    with pytest.raises(DatasetError) as told:
        load_split(tmp_path, "train", banned=BANS.get)
    assert str(told.value) in broken


def with_columns(*names, **more):
    """annotations.csv with these columns in the place of HEADER's first ones."""
    return {"header": (*names, *HEADER[len(names) :]), **more}


WHOLE = {
    "no labels and no severity": (
        with_columns("file_name", "x", "y"),
        "annotations.csv: there is no column labels or severity",
    ),
    "no file_name": (with_columns("x"), "annotations.csv: there is no column file_name; saw 'x', 'labels'"),
    "no prompt_id": (
        with_columns("file_name", "labels", "severity", "x"),
        "annotations.csv: there is no column prompt_id",
    ),
    "a near column": (with_columns("file_name", "labelss"), "annotations.csv: column 'labelss': did you mean labels?"),
    "two names of one column": (
        with_columns("file_name", "label", "labels"),
        "there are two columns for labels; keep one",
    ),
    "a column twice": (with_columns("labels", "labels"), "there are two columns 'labels'; keep one."),
    "no prompt": (
        {"of_prompts": ("prompt_id", "x", "concept")},
        "prompts.csv: there is no column prompt; saw 'prompt_id'",
    ),
    "no key of prompts": (
        {"of_prompts": ("x", "prompt", "concept")},
        "prompts.csv: there is no column prompt_id or file_name",
    ),
}


@pytest.mark.parametrize("fault", WHOLE)
def test_faults_of_a_file(fault, tmp_path, capsys):
    changes, message = WHOLE[fault]
    write(tmp_path, **changes)
    status, _, err = run(capsys, "sage", "validate", tmp_path)
    assert (status, message in err) == (1, True), err


def test_an_unknown_split(tmp_path):
    write(tmp_path, lines=[(*line, "test") for line in LINES], header=(*HEADER, "split"))
    (first, *_) = read_pairs(tmp_path)["train"]
    assert str(first).startswith("annotations.csv, row 1: split is 'test'; expected train, val, test_seen, test_unseen")


def test_a_category_that_nothing_says(tmp_path):
    lines = [(name, *rest[1:]) for name, *rest in LINES]
    write(tmp_path, lines=lines, header=("file_name", *HEADER[2:]))
    told = [str(pair) for pair in read_pairs(tmp_path)["train"] if isinstance(pair, DatasetError)]
    assert told == [
        "annotations.csv, rows 3, 4: nothing says the category of user 0000007, 'two words', 00000: "
        "no label, and not the file's name."
    ]


def test_two_categories_of_one_pair(tmp_path):
    write(tmp_path, **change(2, "labels", "Hate"))
    told = [str(pair) for pair in read_pairs(tmp_path)["train"] if isinstance(pair, DatasetError)]
    assert told == [
        "annotations.csv, rows 3, 4: the two pictures of user 0000007, 'two words', 00000 are of Self-Harm and of Hate."
    ]


def test_nothing_says_whether_a_picture_is_safe(tmp_path):
    lines = [(name, severity if name != "b1.png" else "", *rest) for name, _, severity, *rest in LINES]
    write(tmp_path, lines=lines, header=("file_name", *HEADER[2:]))
    told = [str(pair) for pair in read_pairs(tmp_path)["train"] if isinstance(pair, DatasetError)]
    assert "annotations.csv, row 3: nothing says whether the picture is safe: no label, no severity, no name." in told


def test_an_index_that_is_no_number(tmp_path):
    write(tmp_path, lines=[(*line, "" if i < 2 else "x") for i, line in enumerate(LINES)], header=(*HEADER, "index"))
    told = [str(pair) for pair in read_pairs(tmp_path)["train"] if isinstance(pair, DatasetError)]
    assert told[0] == "annotations.csv, row 3: index is 'x'; expected a whole number."


FILES = {
    "empty": (b"", "annotations.csv is empty; expected a header line"),
    "not UTF-8": (b"file_name\n\xff", "annotations.csv: not UTF-8 text"),
    "an open quote": (b'file_name\n"x', "annotations.csv: not a CSV file (unexpected end of data)"),
    "a header alone": (b"file_name,labels,prompt_id\n", "there is no split train, so nothing to train on"),
}


@pytest.mark.parametrize("case", FILES)
def test_files_that_cannot_be_read(case, data, capsys):
    content, message = FILES[case]
    (data / "annotations.csv").write_bytes(content)
    status, out, err = run(capsys, "sage", "validate", data)
    assert (status, message in out + err) == (1, True), out + err


def test_no_prompts_no_bans_and_both_layouts(data, capsys):
    with pytest.raises(
        DatasetError, match=r"has layout B, which does not say what its users ban.\nGive its users file"
    ):
        load_split(data, "train")
    with pytest.raises(DatasetError, match=r"annotations.csv has no rows of split 'val'; it has train"):
        load_split(data, "val", banned=BANS.get)
    write_split(data, "val", [make_row()])
    status, _, err = run(capsys, "sage", "validate", data)
    assert (status, "has both layouts: val/metadata.jsonl and annotations.csv.\nKeep one of them." in err) == (1, True)
    shutil.rmtree(data / "val")
    (data / "prompts.csv").unlink()
    status, _, err = run(capsys, "sage", "validate", data)
    assert (status, "prompts.csv does not exist" in err) == (1, True)
