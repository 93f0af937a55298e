"""Every fault of a dataset is found, counted and named; a sound one has none."""

import json
import shutil
import warnings

import pytest

from commands import run
from psalign.sage.counts import count_rows
from psalign.sage.dataset import load_split, write_split
from psalign.sage.validate import FAULTS, validate
from sage_rows import make_row


@pytest.fixture(scope="module")
def sound(tmp_path_factory, small_run):
    """The mini dataset of the small run, as psalign mini build writes it."""
    return small_run[0] / "data"


@pytest.fixture
def data(sound, tmp_path):
    shutil.copytree(sound, tmp_path / "data")
    return tmp_path / "data"


def lines(data, split="train"):
    return (data / split / "metadata.jsonl").read_text().splitlines()


def rewrite(data, change, split="train"):
    rows = [json.loads(line) for line in lines(data, split)]
    (data / split / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in change(rows)))


def swap(rows):
    first = rows[0]
    return [{**first, "chosen": first["rejected"], "rejected": first["chosen"]}, *rows[1:]]


def rename_user(rows):
    """The first user's rows become those of a stranger, in names and profile alike."""
    text, user = json.dumps(rows), rows[0]["user_data"]["User_ID"]
    return json.loads(
        text.replace(f"user_{user}_", "user_0999999_").replace(f'"User_ID": "{user}"', '"User_ID": "0999999"')
    )


def cut(data):
    path = next((data / "train").glob("*.jpg"))
    path.write_bytes(path.read_bytes()[:200])


FAULTY = {
    "broken row": lambda data: (data / "train/metadata.jsonl").write_text(
        "\n".join(["not JSON", *lines(data)[1:], '{"file_name": "x"}'])
    ),
    "no rows": lambda data: (data / "val/metadata.jsonl").write_text("\n"),
    "half a pair": lambda data: rewrite(
        data, lambda rows: [row for row in rows if row["file_name"].endswith("_u.jpg")]
    ),
    "duplicate row": lambda data: rewrite(data, lambda rows: [*rows, rows[3]]),
    "missing picture": lambda data: next((data / "val").glob("*.jpg")).unlink(),
    "unreadable picture": cut,
    "user without profile": lambda data: rewrite(data, rename_user),
    "against the preference rule": lambda data: rewrite(data, swap),
    "split leakage": lambda data: shutil.copytree(data / "train", data / "val", dirs_exist_ok=True),
}


def test_the_mini_dataset_is_sound(sound, capsys):
    status, out, _ = run(capsys, "sage", "validate", sound)
    assert (status, "Fit for training." in out) == (0, True)
    assert f"train: {len(lines(sound))} rows" in out


def test_every_kind_of_fault_has_its_case():
    assert set(FAULTY) == set(FAULTS)


@pytest.mark.parametrize("kind", FAULTY)
def test_every_fault_is_found(kind, data, capsys):
    FAULTY[kind](data)
    status, out, _ = run(capsys, "sage", "validate", data, "--json")
    found = json.loads(out)
    assert (status, found["fine"]) == (1, False)
    assert found["faults"][kind]["count"] >= 1
    assert found["faults"][kind]["first"]
    if kind not in ("split leakage", "missing picture", "broken row"):
        others = {name for name, cases in found["faults"].items() if cases["count"]} - {kind}
        # A stranger's pictures have other names, and whose place they took is in test_seen alone.
        assert others <= {"split leakage", "missing picture"} if kind == "user without profile" else not others


def test_without_a_users_file_rows_are_held_against_each_other(data, capsys):
    (data / "users.csv").unlink()
    assert run(capsys, "sage", "validate", data)[0] == 0
    row = make_row(user_id="0000033", caption_kind="safe")
    unsafe = make_row(caption_kind="safe", chosen=row.rejected, rejected=row.chosen)
    banned, allowed = make_row(index="00005"), make_row(index="00006", chosen=row.rejected, rejected=row.chosen)
    write_split(data, "val", [unsafe, banned, allowed])
    found = validate(data, check_pictures=False)
    assert found.cases["against the preference rule"] == [
        "val: user 0000033, Self-Harm, 'two words', 00004: a safe caption chooses the unsafe picture",
        "val: user 0000033 both bans and allows Self-Harm",
    ]


def test_metadata_alone(data, capsys):
    for path in (data / "train").glob("*.jpg"):
        path.unlink()
    assert run(capsys, "sage", "validate", data, "--metadata-only")[0] == 0
    assert run(capsys, "sage", "validate", data)[0] == 1


def test_stats(sound, tmp_path, capsys):
    status, out, _ = run(capsys, "sage", "stats", sound, "--picture", tmp_path / "stats.png")
    counts = json.loads(out)
    rows = load_split(sound, "train")
    assert status == 0
    assert counts["train"] == count_rows(rows)
    assert sum(counts["train"]["categories"].values()) == counts["train"]["rows"] == len(rows)
    assert (tmp_path / "stats.png").stat().st_size > 5_000


def test_a_picture_of_counts_needs_matplotlib(sound, tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    status, _, err = run(capsys, "sage", "stats", sound, "--picture", tmp_path / "stats.png")
    assert (status, "matplotlib is not installed; it comes with the extra 'plots'." in err) == (1, True)


def test_no_dataset(tmp_path, capsys):
    status, _, err = run(capsys, "sage", "validate", tmp_path)
    assert (status, "has no dataset: expected a folder train" in err) == (1, True)
    status, _, err = run(capsys, "sage", "stats", tmp_path)
    assert (status, "has no SAGE dataset" in err, "psalign mini build" in err) == (1, True, True)


def test_rows_of_train_in_test_seen_leak(data):
    rows = load_split(data, "train")
    write_split(data, "test_seen", [row for row in rows if row.user_id == rows[0].user_id])
    leaks = validate(data, check_pictures=False).cases["split leakage"]
    row = rows[0]
    told = f"user {row.user_id}, {row.category}, '{row.concept}', {row.index}, {row.caption_kind} caption"
    assert f"test_seen: {told}: is in train too" in leaks


def test_without_a_train_split_there_is_nothing_to_train_on(data):
    shutil.rmtree(data / "train")
    found = validate(data, check_pictures=False)
    assert "there is no split train, so nothing to train on" in found.cases["no rows"]
    assert not found.is_fine


def test_a_picture_of_too_many_pixels_is_told_not_read(data, monkeypatch):
    monkeypatch.setattr("PIL.Image.MAX_IMAGE_PIXELS", 3000)  # Pillow's own bound is 89 million
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = validate(data)
    assert "exceeds limit of 3000 pixels" in found.cases["unreadable picture"][0]
