"""SAGE rows: what is written is read back, and every fault is named."""

import json

import pytest

from psalign.errors import DatasetError
from psalign.sage.rows import load_split, parse_row, to_record, unsafe_is_chosen, write_split
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


FAULTS = {
    "caption": (lambda r: r.pop("caption"), "caption missing; a row has file_name, chosen"),
    "name": (lambda r: r.update(chosen="cat.jpg"), r"picture name 'cat.jpg' is not user_<7 digits>"),
    "category": (lambda r: r.update(chosen=r["chosen"].replace("self-harm", "magic")), "is not user_<7 digits>"),
    "not text": (lambda r: r.update(rejected=7), "picture name 7 is not"),
    "one side": (lambda r: r.update(rejected=r["chosen"]), "not the two pictures of one pair"),
    "two pairs": (lambda r: r.update(rejected=r["rejected"].replace("00004", "00005")), "not the two pictures of one"),
    "user": (lambda r: r["user_data"].update(User_ID="0000034"), "of user '0000034', the pictures are of user 0000033"),
    "user data": (lambda r: r.update(user_data="0000033"), "user_data is of user ''"),
    "caption type": (lambda r: r.update(caption=None), "caption is None; expected text"),
    "kind": (lambda r: r.update(file_name="x.jpg"), "ends neither in _u.jpg"),
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


def test_broken_line(dataset):
    path = dataset / "train/metadata.jsonl"
    path.write_text(path.read_text() + '{"file_name": ')
    with pytest.raises(DatasetError, match=r"metadata.jsonl, line 2: not JSON"):
        load_split(dataset, "train")


def test_empty_missing_and_unknown_splits(dataset):
    (dataset / "val").mkdir()
    (dataset / "val/metadata.jsonl").write_text("\n")
    with pytest.raises(DatasetError, match="has no rows"):
        load_split(dataset, "val")
    with pytest.raises(DatasetError, match=r"does not exist.\nRun: psalign mini build --out"):
        load_split(dataset, "test_seen")
    with pytest.raises(DatasetError, match="Unknown split 'dev'; choose one of: train, val, test_seen, test_unseen"):
        load_split(dataset, "dev")
