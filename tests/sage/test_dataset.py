"""SAGE rows: what is written is read back, and every fault is named."""

import json

import pytest

from psalign.errors import DatasetError
from psalign.sage.dataset import load_split, parse_row, to_record, write_split
from psalign.sage.names import picture_name
from psalign.sage.preference import unsafe_is_chosen
from sage_rows import make_row


def test_picture_name_is_as_published():
    assert make_row().chosen == "user_0000033_self-harm_two_words_00004_s.jpg"


@pytest.mark.parametrize("kind", ["safe", "unsafe"])
def test_a_row_comes_back_from_its_record(kind):
    row = make_row(caption_kind=kind)
    record = to_record(row)
    assert record["file_name"].endswith(f".jpg_{kind[0]}.jpg")
    assert parse_row(record, where="here") == row


@pytest.mark.parametrize(
    ("kind", "banned", "unsafe"),
    [("safe", True, False), ("safe", False, False), ("unsafe", True, False), ("unsafe", False, True)],
)
def test_preference_rule(kind, banned, unsafe):
    bans = ["Violence"] if banned else ["Hate"]
    assert unsafe_is_chosen(caption_kind=kind, category="Violence", banned=bans) == unsafe


def test_user_ids_without_leading_zeros_are_understood():
    record = to_record(make_row())
    record["user_data"]["User_ID"] = 33
    assert parse_row(record, where="here").user_id == "0000033"


ODD = {
    "an upper-case category": lambda text: text.replace("_self-harm_", "_SELF-HARM_"),
    "a category with another mark": lambda text: text.replace("_self-harm_", "_self_harm_"),
    "an unpadded user": lambda text: text.replace("0000033", "33"),
    "spaces in names": lambda text: text.replace("self-harm_two_words", "self-harm_two words"),
    "an unpadded index": lambda text: text.replace("_00004", "_4"),
    ".png": lambda text: text.replace(".jpg", ".png"),
    ".JPEG": lambda text: text.replace(".jpg", ".JPEG"),
    "columns in other case": lambda text: text.replace('"chosen"', '"Chosen"').replace('"user_data"', '"User Data"'),
    "a file_name without its doubled end": lambda text: text.replace("00004.jpg_u.jpg", "00004_u.jpg"),
    "a user of numbers": lambda text: text.replace('"User_ID": "0000033"', '"User_ID": 33.0'),
    "an id in lower case": lambda text: text.replace('"User_ID"', '"user_id"'),
    "an empty severity": lambda text: text.replace('"caption"', '"severity": null, "caption"'),
}


@pytest.mark.parametrize("form", ODD)
def test_odd_but_clear_forms_are_understood(form):
    row, text = make_row(), json.dumps(to_record(make_row()))
    changed = ODD[form](text)
    assert changed != text
    read = parse_row(json.loads(changed), where="here")
    assert (read.pair, read.caption_kind, read.chose_unsafe) == (row.pair, "unsafe", False)
    assert read.chosen == json.loads(changed).get("chosen", row.chosen)  # the file is looked for by its own name


def test_severity_comes_back_from_its_record():
    row = make_row(severity=3)
    assert parse_row(to_record(row), where="here") == row
    assert parse_row({**to_record(row), "severity": "3.0"}, where="here") == row


def test_ids_that_are_no_numbers_stay_as_they_are():
    names = [picture_name(("anna", "Hate", "c", "00001"), unsafe=side) for side in (0, 1)]
    row = make_row(user_id="anna", category="Hate", concept="c", index="00001", chosen=names[0], rejected=names[1],
                   user_data={"User_ID": "anna"})  # fmt: skip
    assert parse_row(to_record(row), where="here") == row


FAULTS = {
    "caption": (lambda r: r.pop("caption"), "caption missing; a row has file_name, chosen"),
    "name": (lambda r: r.update(chosen="cat.jpg"), r"picture name 'cat.jpg' is not user_<id>_<category>"),
    "category": (lambda r: r.update(chosen=r["chosen"].replace("self-harm", "magic")), "is not user_<id>_<category>"),
    "a way out": (lambda r: r.update(chosen=r["chosen"].replace("two", "../two")), "is not user_<id>_<category>"),
    "too long": (lambda r: r.update(chosen=r["chosen"].replace("two", "two" * 90)), "is not user_<id>_<category>"),
    "no concept": (lambda r: r.update(chosen=r["chosen"].replace("two_words", "_")), "is not user_<id>_<category>"),
    "another side": (lambda r: r.update(chosen=r["chosen"].replace("_s.", "_x.")), "is not user_<id>_<category>"),
    "not text": (lambda r: r.update(rejected=7), "picture name 7 is not"),
    "one side": (lambda r: r.update(rejected=r["chosen"]), "not the two pictures of one pair"),
    "two pairs": (lambda r: r.update(rejected=r["rejected"].replace("00004", "00005")), "not the two pictures of one"),
    "user": (lambda r: r["user_data"].update(User_ID="0000034"), "of user '0000034', the pictures are of user 0000033"),
    "no user": (lambda r: r["user_data"].pop("User_ID"), "of user None, the pictures are of user 0000033"),
    "user data": (lambda r: r.update(user_data="0000033"), "user_data must be a JSON object with User_ID; saw str"),
    "caption type": (lambda r: r.update(caption=None), "caption is None; expected text"),
    "half a character": (lambda r: r.update(caption="a \ud800"), r"caption has half a character: 'a \\ud800'"),
    "kind": (lambda r: r.update(file_name="x.jpg"), "file_name 'x.jpg' ends neither in _u.jpg"),
    "severity": (lambda r: r.update(severity=6), "severity is 6; expected a whole number from 0 to 5"),
    "severity in parts": (lambda r: r.update(severity=1.5), "severity is 1.5; expected a whole number from 0 to 5"),
    "severity in words": (lambda r: r.update(severity=[1]), "severity is a JSON array; expected a whole number"),
    "a near column": (lambda r: r.update(captions="x"), "column 'captions': did you mean caption"),
    "two columns": (lambda r: r.update(Caption="x"), "there are two columns for caption; keep one"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_faults_of_a_row(fault):
    record = json.loads(json.dumps(to_record(make_row())))
    FAULTS[fault][0](record)
    with pytest.raises(DatasetError, match=FAULTS[fault][1]) as caught:
        parse_row(record, where="metadata.jsonl, row 3")
    assert str(caught.value).startswith("metadata.jsonl, row 3: ")


@pytest.fixture
def dataset(tmp_path):
    row = make_row()
    write_split(tmp_path, "train", [row])
    for name in (row.chosen, row.rejected):
        (tmp_path / "train" / name).write_bytes(b"a picture")
    return tmp_path


def test_split_is_read(dataset):
    assert load_split(dataset, "train") == [make_row()]


def test_missing_picture(dataset):
    (dataset / "train" / make_row().rejected).unlink()
    with pytest.raises(
        DatasetError, match=r"1 pictures are missing from .*: user_0000033_self-harm_two_words_00004_u\.jpg"
    ):
        load_split(dataset, "train")


BROKEN = {
    "cut": (b'{"file_name": ', r"metadata.jsonl, line 2: not JSON \(Expecting value"),
    "not UTF-8": (b'{"caption": "\xff"}', r"metadata.jsonl, line 2: not UTF-8 text \(byte 13\)"),
    "an array": (b"[1]", "metadata.jsonl, line 2: expected a JSON object, saw list"),
    "brackets": (b"[" * 100_000, "metadata.jsonl, line 2: not JSON that can be read"),
    "digits": (b'{"severity": ' + b"1" * 5000 + b"}", "metadata.jsonl, line 2: not JSON that can be read"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_broken_lines(case, dataset):
    line, message = BROKEN[case]
    path = dataset / "train/metadata.jsonl"
    path.write_bytes(path.read_bytes() + line)
    with pytest.raises(DatasetError, match=message):
        load_split(dataset, "train")


def test_a_line_separator_in_a_caption_does_not_end_a_row(dataset):
    """U+2028 ends a line for str.splitlines, and not for JSON lines."""
    record = {**to_record(make_row()), "caption": "a cat\u2028with two words"}
    (dataset / "train/metadata.jsonl").write_text(json.dumps(record, ensure_ascii=False) + "\r\n", encoding="utf-8")
    assert load_split(dataset, "train")[0].caption == "a cat\u2028with two words"


def test_empty_missing_and_unknown_splits(dataset, tmp_path_factory):
    (dataset / "val").mkdir()
    (dataset / "val/metadata.jsonl").write_text("\n")
    with pytest.raises(DatasetError, match="has no rows"):
        load_split(dataset, "val")
    with pytest.raises(DatasetError, match="does not exist; there are the splits train, val"):
        load_split(dataset, "test_seen")
    with pytest.raises(DatasetError, match="Unknown split 'dev'; choose one of: train, val, test_seen, test_unseen"):
        load_split(dataset, "dev")
    empty = tmp_path_factory.mktemp("empty")
    with pytest.raises(DatasetError, match=r"has no SAGE dataset: no train/metadata.jsonl\.") as told:
        load_split(empty, "train")
    assert told.value.hint.startswith("docs/DATA.md describes the layout. To try without SAGE: psalign mini build")
