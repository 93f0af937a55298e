"""psalign sage export: what Hugging Face datasets reads of it, and what is not in it."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from commands import run
from psalign.sage.dataset import load_split, write_split
from psalign.sage.names import picture_name
from sage_rows import make_row


@pytest.fixture
def data(tmp_path):
    """Two users in train and one in val; only rows of train were rated."""
    for split, ids in (("train", ("0000033", "0000034")), ("val", ("0000035",))):
        rows = [row for user_id in ids for row in rows_of(user_id, severity=3 if split == "train" else None)]
        write_split(tmp_path / "data", split, rows)
        for name in {name for row in rows for name in (row.chosen, row.rejected)}:
            colour = (200, 0, 0) if "_u." in name else (0, 0, 200)
            Image.new("RGB", (8, 8), colour).save(tmp_path / "data" / split / name)
    return tmp_path / "data"


def rows_of(user_id, *, severity):
    names = [picture_name((user_id, "Hate", "two words", "00004"), unsafe=u) for u in (0, 1)]
    about = {"user_id": user_id, "category": "Hate", "chosen": names[0], "rejected": names[1], "severity": severity,
             "user_data": {"User_ID": user_id, "Age": 41, "Religion": "Islam"}}  # fmt: skip
    return [make_row(**about), make_row(**about, caption_kind="safe", caption="a cat")]


def records(out, split="train"):
    return [json.loads(line) for line in (out / split / "metadata.jsonl").read_text().splitlines()]


def everything(out):
    return b"".join(path.read_bytes() + path.name.encode() for path in sorted(out.rglob("*")) if path.is_file())


def test_datasets_reads_it_without_this_package(data, tmp_path, monkeypatch, capsys):
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_OFFLINE", True)
    out = tmp_path / "out"
    status, told, _ = run(capsys, "sage", "export", data, "--out", out, "--plain-ids", "--license", "mit")
    assert (status, "train: 4 rows  val: 2 rows" in told) == (0, True)
    rows = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    assert {split: len(some) for split, some in rows.items()} == {"train": 4, "val": 2}
    source = {(row.user_id, row.caption_kind): row for row in load_split(data, "train")}
    for row in rows["train"]:
        one = source[row["user_id"], row["caption_kind"]]
        same = (one.caption, one.category, one.concept, one.index, one.chosen_kind, one.severity)
        assert (
            row["caption"],
            row["category"],
            row["concept"],
            row["index"],
            row["chosen_kind"],
            row["severity"],
        ) == same
        chosen = np.asarray(Image.open(data / "train" / one.chosen))
        assert np.array_equal(np.asarray(row["chosen"]), chosen)
        assert row["rejected"].size == (8, 8)
    assert list(rows["val"]["severity"]) == [-1, -1]
    by_files = datasets.load_dataset("imagefolder", data_dir=str(out), cache_dir=str(tmp_path / "other"))
    assert len(by_files["train"]) == 4


def test_nothing_of_a_profile_and_no_id_is_in_it(data, tmp_path, capsys):
    status, told, _ = run(capsys, "sage", "export", data, "--out", tmp_path / "out", "--key", tmp_path / "key")
    assert (status, f"Key of the pseudonyms: {tmp_path / 'key'}" in told) == (0, True)
    content = everything(tmp_path / "out")
    for word in (b"Islam", b"religion", b"0000033", b"0000034", (tmp_path / "key").read_bytes().strip()):
        assert word.lower() not in content.lower()
    ids = {record["user_id"] for record in records(tmp_path / "out")}
    assert len(ids) == 2
    assert all(f"user_{record['user_id']}_hate" in record["chosen_file_name"] for record in records(tmp_path / "out"))
    run(capsys, "sage", "export", data, "--out", tmp_path / "again", "--key", tmp_path / "key")
    assert everything(tmp_path / "again") == content  # one key, one pseudonym
    run(capsys, "sage", "export", data, "--out", tmp_path / "other", "--key", tmp_path / "another key")
    assert not ids & {record["user_id"] for record in records(tmp_path / "other")}


def test_profiles_are_written_with_a_warning_and_for_their_owner_alone(data, tmp_path, capsys):
    out = tmp_path / "out"
    status, _, err = run(capsys, "sage", "export", data, "--out", out, "--plain-ids", "--with-profiles")
    assert (status, "Warning: age, religion and health of users are written." in err) == (0, True)
    first = records(out)[0]
    assert (first["age"], first["religion"], first["user_id"]) == (41, "Islam", "0000033")
    assert "gender" not in first  # which nobody tells
    assert (out / "train/metadata.jsonl").stat().st_mode & 0o777 == 0o600
    assert "| `religion` | of the user, who is simulated |" in (out / "README.md").read_text()


def test_the_card_tells_splits_columns_and_licence(data, tmp_path, capsys):
    out = tmp_path / "out"
    run(capsys, "sage", "export", data, "--out", out, "--plain-ids", "--license", "cc-by-4.0", "--name", "Our: own")
    card = (out / "README.md").read_text()
    assert card.startswith('---\npretty_name: "Our: own"\nlicense: "cc-by-4.0"\n')
    assert "  - split: train\n    path: train/**\n  - split: val\n    path: val/**\n---\n# Our: own\n" in card
    assert "| train | 4 | 2 | 1 |\n| val | 2 | 1 | 1 |" in card
    assert set(records(out)[0]) == {"chosen_file_name", "rejected_file_name", "caption", "caption_kind", "chosen_kind",
                                    "category", "concept", "index", "user_id", "severity"}  # fmt: skip
    assert all(f"| `{name.removesuffix('_file_name')}` |" in card for name in records(out)[0])
    assert "Licence: cc-by-4.0.\n\nProfiles of users are not part of this." in card


def test_interrupted_it_goes_on_and_another_is_refused(data, tmp_path, capsys, monkeypatch):
    command = ("sage", "export", data, "--plain-ids", "--out")
    assert run(capsys, *command, tmp_path / "whole")[0] == 0
    with monkeypatch.context() as patch:
        patch.setattr("psalign.sage.export.write_text", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        assert run(capsys, *command, tmp_path / "out")[0] == 130
    assert run(capsys, *command, tmp_path / "out")[0] == 0
    assert everything(tmp_path / "out") == everything(tmp_path / "whole")
    status, _, err = run(capsys, *command, tmp_path / "out", "--name", "Another")
    assert (status, "is not empty and not this export (another dataset" in err) == (1, True)
    (tmp_path / "out/export.json").write_text("[")
    status, _, err = run(capsys, *command, tmp_path / "out")
    assert (status, "export.json is damaged: not JSON" in err) == (1, True)


def test_what_cannot_be_read_is_not_exported(data, tmp_path, capsys):
    status, _, err = run(capsys, "sage", "export", tmp_path, "--out", tmp_path / "out", "--plain-ids")
    assert (status, "has no SAGE dataset" in err) == (1, True)
    next((data / "train").glob("*.jpg")).unlink()
    status, _, err = run(capsys, "sage", "export", data, "--out", tmp_path / "out", "--plain-ids")
    assert (status, "1 pictures are missing from" in err, (tmp_path / "out").exists()) == (1, True, False)


def test_pictures_are_copied_where_there_can_be_no_links(data, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("os.link", lambda *paths: (_ for _ in ()).throw(OSError("no links on this disk")))
    assert run(capsys, "sage", "export", data, "--out", tmp_path / "out", "--plain-ids")[0] == 0
    name = load_split(data, "train")[0].chosen
    assert (tmp_path / "out/train" / name).read_bytes() == (data / "train" / name).read_bytes()


def test_two_pictures_of_one_name(data, tmp_path, capsys):
    """Names that differ in case alone, which the export spells alike."""
    rows = load_split(data, "train")
    twin = next(row for row in rows if row.user_id == "0000033")
    odd = twin.chosen.replace("_hate_", "_HATE_")
    shutil.copy(data / "train" / twin.chosen, data / "train" / odd)
    row = make_row(**{**vars(twin), "chosen": odd, "caption": "again", "index": "00004"})
    write_split(data, "train", [*rows, row])
    status, _, err = run(capsys, "sage", "export", data, "--out", tmp_path / "out", "--plain-ids")
    assert (status, f"would both be {twin.chosen}" in err) == (1, True)
