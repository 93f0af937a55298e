"""Layout B: images/, annotations.csv and prompts.csv are imported into layout A, and every fault is named."""

import csv
import io
import json
import stat

import pytest
from PIL import Image

from commands import run
from psalign.errors import DatasetError, OutputError
from psalign.sage.dataset import find_splits, load_split, write_split
from psalign.sage.import_layout_b import import_layout_b
from psalign.sage.layout_b import read_layout_b
from psalign.sage.names import picture_name
from psalign.training.pairs import SIDES
from psalign.training.run import RowSource, has_split, load_pairs
from psalign.users.profile import load_profiles
from psalign.users.store import EmbeddingStore
from psalign.users.vectors import StructuredEmbedder
from sage_rows import make_row

HEADER = ("file_name", "labels", "severity", "prompt_id", "user_id", "religion", "age")
NAMES = [picture_name(("0000033", "Hate", "a word", "00002"), unsafe=side) for side in (0, 1)]
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


def imported(root, out, **settings):
    """The dataset in layout A; no users file is written."""
    import_layout_b(read_layout_b(root), out, banned=BANS.__getitem__, save_users=lambda path: None, **settings)
    return out


def test_rows_are_those_of_the_preference_rule(data, tmp_path):
    """User 33 bans no Hate: the unsafe caption gets the unsafe picture. User 7 is nine and bans Self-Harm."""
    source = read_layout_b(data)
    out = imported(data, tmp_path / "out")
    assert find_splits(out) == ["train"]
    rows = load_split(out, "train")
    about = [(row.pair, row.caption_kind, row.caption, row.chosen, row.rejected, row.severity) for row in rows]
    hate, harm = ("0000033", "Hate", "a word", "00002"), ("0000007", "Self-Harm", "two words", "00000")
    safe, unsafe = (f"user_0000007_self-harm_two_words_00000_{side}.png" for side in "su")
    assert about == [
        (hate, "unsafe", "a cat and a word", NAMES[1], NAMES[0], 4),
        (hate, "safe", "a cat", NAMES[0], NAMES[1], 4),
        (harm, "unsafe", "a sad dog", safe, unsafe, 2),
        (harm, "safe", "a dog", safe, unsafe, 2),
    ]
    assert [row.chose_unsafe for row in rows] == [True, False, False, False]
    assert rows[0].user_data == {"User_ID": "0000033", "Religion": "Islam", "Age": "41"}
    assert source.profiles == [rows[0].user_data, rows[2].user_data]
    assert (out / "train" / unsafe).read_bytes() == (data / "images/b2.png").read_bytes()
    assert stat.S_IMODE((out / "train/metadata.jsonl").stat().st_mode) == 0o600


def test_prompts_by_file_name_and_splits_by_column(tmp_path):
    lines = [
        (*line[:3], *line[4:], split)
        for line, split in zip(LINES, ("", "train", "Test Seen", "test-seen"), strict=True)
    ]
    prompts = [(f"images/{line[0]}", f"prompt {i}", "c" if i > 1 else "") for i, line in enumerate(LINES)]
    header = ("Image Path", "Category", "Severity", "User ID", "Religion", "Age", "Split")
    write(tmp_path, lines=lines, header=header, prompts=prompts, of_prompts=("image", "Caption", "Concept"))
    out = imported(tmp_path, tmp_path / "out")
    assert find_splits(out) == ["train", "test_seen"]
    assert [row.caption for row in load_split(out, "train")] == ["prompt 1", "prompt 0"]
    assert load_split(out, "test_seen")[0].pair == ("0000007", "Self-Harm", "c", "00000")


def test_the_command_takes_bans_from_profile_columns_or_a_users_file(data, tmp_path, capsys):
    out = tmp_path / "out"
    status, told, _ = run(capsys, "sage", "import", data, "--out", out)
    assert (status, "train: 4 rows" in told, "Bans from the columns of annotations.csv." in told) == (0, True, True)
    assert [(one.user_id, one.religion, one.age) for one in load_profiles(out / "users.csv")] == [
        ("0000033", "Islam", 41),
        ("0000007", "None", 9),
    ]
    assert run(capsys, "sage", "validate", out)[0] == 0
    counts = json.loads(run(capsys, "sage", "stats", out)[1])["train"]
    assert (counts["rows"], counts["unsafe chosen"], counts["severity"]) == (4, 1, {"2": 2, "4": 2})
    assert counts["by concept"] == {"Hate: a word": 2, "Self-Harm: two words": 2}
    assert run(capsys, "sage", "import", data, "--out", out)[0] == 0  # it is this import already
    (data / "users.csv").write_text("User_ID,Banned_Categories\n33,\"['Hate']\"\n")
    status, _, err = run(capsys, "sage", "import", data, "--out", tmp_path / "other")
    assert (status, "Nothing says what user 0000007 bans" in err, "--users users.csv" in err) == (1, True, True)
    (data / "users.csv").write_text("User_ID,Banned_Categories\n33,\"['Hate']\"\n7,[]\n")
    status, _, err = run(capsys, "sage", "import", data, "--out", out)
    assert (status, "is not empty and not this import" in err) == (1, True)


def test_a_profile_column_that_makes_no_sense(tmp_path, capsys):
    lines = [(*line[:5], "Magic", line[6]) for line in LINES]
    write(tmp_path, lines=lines)
    status, _, err = run(capsys, "sage", "import", tmp_path, "--out", tmp_path / "out")
    assert (status, "annotations.csv, user 0000033: column Religion: saw 'Magic', allowed: Christianity" in err) == (
        1,
        True,
    )


def test_missing_pictures(data, tmp_path, capsys):
    (data / "images/b1.png").unlink()
    with pytest.raises(DatasetError, match=r"1 pictures are missing from .*images: b1.png"):
        imported(data, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    out = imported(data, tmp_path / "out", check_pictures=False)
    assert len(load_split(out, "train", check_pictures=False)) == 4
    assert [path.name for path in (out / "train").iterdir()] == ["metadata.jsonl"]


def test_an_interrupted_import_goes_on(data, tmp_path, monkeypatch):
    def stop(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("psalign.sage.import_layout_b.write_split", stop)
        with pytest.raises(KeyboardInterrupt):
            imported(data, tmp_path / "out")
    assert len(load_split(imported(data, tmp_path / "out"), "train")) == 4
    (tmp_path / "full").mkdir()
    write_split(tmp_path / "full", "train", [make_row()])
    with pytest.raises(OutputError, match="is not empty and not this import"):
        imported(data, tmp_path / "full")


def test_it_is_trained_on(data, tmp_path, mini_pipeline, capsys):
    """The bans of training are those of the vectors: user 7 bans Self-Harm by their age."""
    out = tmp_path / "out"
    assert run(capsys, "sage", "import", data, "--out", out)[0] == 0
    store = EmbeddingStore.build(load_profiles(out / "users.csv"), StructuredEmbedder(16))
    source = RowSource(out, tmp_path / "cache")
    pairs = load_pairs(source, mini_pipeline, store, preset={"pictures": {"size_px": 64}})
    assert has_split(out, "train")
    assert not has_split(out, "val")
    sides = [(row.pair[:2], SIDES[pairs.table[i, 6]]) for i, row in enumerate(pairs.rows)]
    hate, harm = ("0000033", "Hate"), ("0000007", "Self-Harm")
    assert sides == [(hate, "allowed"), (hate, "safe"), (harm, "banned"), (harm, "safe")]


@pytest.mark.parametrize("command", ["validate", "stats", "export"])
def test_it_has_to_be_imported_first(command, data, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    status, _, err = run(capsys, "sage", command, data)
    assert (status, "has layout B (annotations.csv), which is imported before it is used." in err) == (1, True)
    assert f"Run: psalign sage import {data} --out {data}-imported" in err


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
        "row 4: labels says safe, and the file's name or",
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
    "no user": (change(2, "user_id", ""), "row 3: nothing gives the user_id: no column, and not the file's name."),
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
    "two profiles": (change(1, "religion", "None"), "row 2: Religion of user 0000033 is not as in row 1."),
    "a short line": ({"lines": [*LINES[:3], LINES[3][:5]]}, "row 4: saw 5 cells, expected the 7 of the header."),
    "no concept": (
        {"prompts": [(*p[:2], "") for p in PROMPTS]},
        "row 3: nothing gives the concept: no column",
    ),
    "a prompt twice": (
        {"prompts": [*PROMPTS, ("001", "x", "")]},
        "prompts.csv, row 5: prompt_id '1' is there twice.",
    ),
    "an empty prompt": ({"prompts": [*PROMPTS, ("5", "", "")]}, "prompts.csv, row 5: prompt is empty."),
    "no prompt_id": ({"prompts": [*PROMPTS, ("", "x", "")]}, "prompts.csv, row 5: prompt_id '' is empty."),
    "a short prompt": (
        {"prompts": [*PROMPTS, ("5",)]},
        "prompts.csv, row 5: saw 1 cells, expected the 3 of the header.",
    ),
}


def faults_of(root):
    with pytest.raises(DatasetError) as caught:
        read_layout_b(root)
    return str(caught.value)


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_a_line(fault, tmp_path):
    changes, message = FAULTS[fault]
    assert message in faults_of(write(tmp_path, **changes))


def test_all_faults_are_listed_up_to_twenty(tmp_path):
    lines = [(*line[:2], "9", *line[3:]) for line in LINES] * 6
    text = faults_of(write(tmp_path, lines=lines))
    assert text.startswith(f"{tmp_path}: 24 faults:\n  annotations.csv, row 1: severity is '9'")
    assert text.endswith("row 20: severity is '9'; expected a whole number from 0 to 5.\n  and 4 more")


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
def test_faults_of_a_file(fault, tmp_path):
    changes, message = WHOLE[fault]
    assert message in faults_of(write(tmp_path, **changes))


def test_an_unknown_split(tmp_path):
    write(tmp_path, lines=[(*line, "test") for line in LINES], header=(*HEADER, "split"))
    assert "annotations.csv, row 1: split is 'test'; expected train, val, test_seen, test_unseen" in faults_of(tmp_path)


def test_a_category_that_nothing_gives(tmp_path):
    lines = [(name, *rest[1:]) for name, *rest in LINES]
    write(tmp_path, lines=lines, header=("file_name", *HEADER[2:]))
    assert faults_of(tmp_path).splitlines()[1:] == [
        "  annotations.csv, rows 3, 4: nothing gives the category of user 0000007, 'two words', 00000: "
        "no label, and not the file's name."
    ]


def test_two_categories_of_one_pair(tmp_path):
    write(tmp_path, **change(2, "labels", "Hate"))
    assert faults_of(tmp_path).splitlines()[1:] == [
        "  annotations.csv, rows 3, 4: the two pictures of user 0000007, 'two words', 00000 are of Self-Harm and of "
        "Hate."
    ]


def test_a_user_id_that_no_picture_can_be_named_by(tmp_path):
    lines = [(*line[:4], "a_b", *line[5:]) if line[4] == "7" else line for line in LINES]
    text = faults_of(write(tmp_path, lines=lines))
    assert "rows 3, 4: user a_b, 'two words', 00000 cannot be part of a picture's name" in text


def test_nothing_says_whether_a_picture_is_safe(tmp_path):
    lines = [(name, severity if name != "b1.png" else "", *rest) for name, _, severity, *rest in LINES]
    write(tmp_path, lines=lines, header=("file_name", *HEADER[2:]))
    expected = "annotations.csv, row 3: nothing says whether the picture is safe: no label, no severity, no name."
    assert expected in faults_of(tmp_path)


def test_an_index_that_is_no_number(tmp_path):
    write(tmp_path, lines=[(*line, "" if i < 2 else "x") for i, line in enumerate(LINES)], header=(*HEADER, "index"))
    assert "annotations.csv, row 3: index is 'x'; expected a whole number." in faults_of(tmp_path)


FILES = {
    "empty": (b"", "annotations.csv is empty; expected a header line"),
    "not UTF-8": (b"file_name\n\xff", "annotations.csv: not UTF-8 text"),
    "an open quote": (b'file_name\n"x', "annotations.csv: not a CSV file (unexpected end of data)"),
    "a header alone": (b"file_name,labels,prompt_id\n", "annotations.csv has no pictures."),
}


@pytest.mark.parametrize("case", FILES)
def test_files_that_cannot_be_read(case, data):
    content, message = FILES[case]
    (data / "annotations.csv").write_bytes(content)
    assert message in faults_of(data)
    (data / "prompts.csv").unlink()
    assert "prompts.csv does not exist" in faults_of(data)
