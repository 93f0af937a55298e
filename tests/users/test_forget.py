"""Forgetting forgets: in every place, through links, whoever else writes there meanwhile, and not before it says so."""

import csv
import itertools
import json
import multiprocessing
import os
import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from psalign.cli import main
from psalign.errors import DatasetError, EmbeddingMissing, OutputError, UnknownUser, UsageError
from psalign.users import EmbeddingStore, StructuredEmbedder, load_profiles, sample_profiles, save_profiles
from psalign.users.forget import forget_user

FORGOTTEN = "0000007"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Ten users in every kind of place."""
    monkeypatch.chdir(tmp_path)
    people = sample_profiles(10, seed=1)
    save_profiles(Path("users.csv"), people)
    save_profiles(Path("users.jsonl"), people)
    store = EmbeddingStore.build(people, StructuredEmbedder(16))
    store.save(Path("vectors"))
    store.save_npy(Path("published"))
    ids = [user.user_id for user in people]
    Path("bans.jsonl").write_text("".join(json.dumps({"user_id": i, "banned": []}) + "\n" for i in ids))
    Path("metadata.jsonl").write_text("".join(json.dumps({"user_data": {"User_ID": i}}) + "\n" for i in ids))
    Path("splits.json").write_text(json.dumps({"train": ids, "val": ids[5:]}))
    Path("prompts.csv").write_text("prompt,user_id\n" + "".join(f"a cat,{int(i)}\n" for i in ids))
    return tmp_path


PLACES = ("users.csv", "users.jsonl", "vectors", "published", "bans.jsonl", "metadata.jsonl", "splits.json",
          "prompts.csv")  # fmt: skip


def holds(place: Path, user_id: str = FORGOTTEN) -> bool:
    """Whether the id, or its number, is anywhere in a place: in names and in bytes."""
    files = [path for path in place.rglob("*") if path.is_file()] if place.is_dir() else [place]
    words = (user_id.encode(), f",{int(user_id)}\n".encode())
    return any(user_id in path.name or any(word in path.read_bytes() for word in words) for path in files)


@pytest.mark.parametrize("place", PLACES)
def test_a_user_is_taken_out_of_every_kind_of_place_and_the_others_stay(place, folder):
    assert holds(folder / place)
    assert forget_user("7", [Path(place)]) == [f"{place}: forgotten"]
    assert not holds(folder / place)
    assert holds(folder / place, "0000008")
    with pytest.raises(UnknownUser, match=f"User {FORGOTTEN} is in none of: {place}"):
        forget_user("7", [Path(place)])


@pytest.mark.parametrize("place", PLACES)
def test_links_are_followed(place, folder):
    Path("kept").mkdir()
    Path(place).rename(Path("kept", place))
    Path("link" + Path(place).suffix).symlink_to(Path("kept", place))
    forget_user(FORGOTTEN, [Path("link" + Path(place).suffix)])
    assert Path("link" + Path(place).suffix).is_symlink()
    assert not holds(Path("kept", place))


def test_a_second_name_of_a_file_would_keep_the_user(folder):
    os.link("users.csv", "also.csv")
    before = Path("users.csv").read_bytes()
    with pytest.raises(OutputError, match="has a second name on this disk"):
        forget_user(FORGOTTEN, [Path("users.csv")])
    assert Path("users.csv").read_bytes() == before


def test_columns_of_others_stay_and_users_without_ids_keep_their_numbers(folder):
    Path("users.csv").write_text('Age,Note\n41,"a, b"\n42,\n43,c\n')
    forget_user("2", [Path("users.csv")])
    with open("users.csv", newline="") as stream:
        rows = list(csv.reader(stream))
    assert rows == [["User_ID", "Age", "Note"], ["0000001", "41", "a, b"], ["0000003", "43", "c"]]
    assert [user.user_id for user in load_profiles(Path("users.csv"))] == ["0000001", "0000003"]


def test_other_spellings_of_an_id_are_the_same_user(folder):
    Path("users.csv").write_text("User_ID,Age\n7,41\n0000007,41\n7.0,41\n8,42\n")
    forget_user("0000007", [Path("users.csv")])
    assert Path("users.csv").read_text() == "User_ID,Age\n8,42\n"


def test_nothing_is_written_before_every_place_was_read(folder):
    Path("bans.jsonl").write_text('{"user_id": "0000001", "banned": []}\n{"user_id": "00000\n')
    before = {name: Path(name).read_bytes() for name in ("users.csv", "bans.jsonl")}
    with pytest.raises(DatasetError, match="line 2: not JSON"):
        forget_user(FORGOTTEN, [Path("users.csv"), Path("bans.jsonl")])
    assert {name: Path(name).read_bytes() for name in before} == before


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("notes.txt", "7"),
        ("prompts.csv", "prompt,age\na cat,7\n"),
        ("rows.jsonl", '{"a": 7}\n'),
        ("some.json", "[7]"),
        ("none.csv", None),
    ],
)
def test_a_place_without_users_is_told(name, text, folder):
    Path(name).unlink(missing_ok=True)
    if text is not None:
        Path(name).write_text(text)
    with pytest.raises(UsageError, match=f"{name} holds no users"):
        forget_user(FORGOTTEN, [Path(name)])


def test_what_killed_writers_left_goes_too(folder):
    for name in (".users.csv.77.part", "vectors/.index.json.77.part"):
        Path(name).write_text(FORGOTTEN)
    Path("vectors/unfinished").mkdir()
    np.save("vectors/unfinished/abc.npy", np.zeros(3))  # vectors of several users, without their names
    forget_user(FORGOTTEN, [Path("users.csv"), Path("vectors")])
    assert list(folder.glob(".*.part")) + list(folder.glob("vectors/.*.part")) == []
    assert list(Path("vectors/unfinished").iterdir()) == []


def test_a_store_that_was_changed_is_told_and_left(folder):
    index = json.loads(Path("vectors/index.json").read_text())
    Path("vectors/index.json").write_text(json.dumps({**index, "user_ids": index["user_ids"][::-1]}))
    with pytest.raises(EmbeddingMissing, match="not of one build"):
        forget_user(FORGOTTEN, [Path("vectors")])


def test_it_is_not_called_forgotten_where_it_is_not(folder, monkeypatch):
    monkeypatch.setattr("psalign.users.forget.write_text", lambda *_, **__: None)  # a disk that loses what it is given
    with pytest.raises(OutputError, match=rf"User {FORGOTTEN} is still in users\.csv"):
        forget_user(FORGOTTEN, [Path("users.csv")])


# --- with others at work ---------------------------------------------------------------------------------------------


def run_all(commands) -> list[int]:
    """Exit statuses of lists of commands, each list in a process of its own, all at once."""
    context = multiprocessing.get_context("fork")
    with context.Pool(len(commands)) as pool:
        return [status for statuses in pool.map(run_some, commands, chunksize=1) for status in statuses]


def run_some(commands) -> list[int]:
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 1)
        return [main(command.split()) for command in commands]


@pytest.mark.slow
def test_four_at_once_over_two_thousand_users_leave_nobody_behind(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    people = sample_profiles(2000, seed=1)
    save_profiles(Path("users.csv"), people)
    EmbeddingStore.build(people, StructuredEmbedder(8)).save(Path("vectors"))
    gone = [f"{number:07d}" for number in range(1, 17)]
    shares = [[f"users forget {user_id} users.csv vectors" for user_id in gone[i::4]] for i in range(4)]
    assert run_all(shares) == [0] * 16
    left = [user.user_id for user in load_profiles(Path("users.csv"))]
    assert left == [user.user_id for user in people[16:]]
    assert list(EmbeddingStore.load(Path("vectors")).user_ids) == left
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


OPERATIONS = (
    "users forget 7 users.csv vectors splits.json",
    "users forget 3 vectors users.csv",
    "users forget 5 splits.json users.csv",
    "embed --users users.csv --out vectors --llm-dim 8 --force",
    "users split --users users.csv --out splits.json --val 3 --test 3 --force",
    "users sample -n 30 --seed 5 --out users.csv --force",
    "users sample -n 12 --seed 6 --out users.csv --force",
)


def in_order(operations):
    """What is in each place after operations one by one: a model of the commands, without files."""
    users, vectors, splits = [frozenset(range(1, 21))] * 3
    for operation in operations:
        words = operation.split()
        if words[1] == "forget":
            gone = frozenset({int(words[2])})
            users = users - gone
            vectors = vectors - gone if "vectors" in words else vectors
            splits = splits - gone if "splits.json" in words else splits
        elif words[0] == "embed":
            vectors = users
        elif words[1] == "split":
            splits = users
        else:
            users = frozenset(range(1, int(words[3]) + 1))
    return users, vectors, splits


def on_disk():
    def numbers(ids):
        return frozenset(int(user_id) for user_id in ids if user_id.isdecimal())

    users = numbers(user.user_id for user in load_profiles(Path("users.csv")))
    splits = json.loads(Path("splits.json").read_text())
    return users, numbers(EmbeddingStore.load(Path("vectors")).user_ids), numbers(set().union(*splits.values()))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [pytest.param(i, marks=[pytest.mark.long] * (i > 3)) for i in range(24)])
def test_any_interleaving_ends_as_some_order(seed, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    people = sample_profiles(20, seed=1)
    save_profiles(Path("users.csv"), people)
    EmbeddingStore.build(people, StructuredEmbedder(8)).save(Path("vectors"))
    Path("splits.json").write_text(json.dumps({"train": [user.user_id for user in people]}))
    operations = random.Random(seed).sample(OPERATIONS, 4)
    statuses = run_all([[operation] for operation in operations])
    assert set(statuses) <= {0, 1}, statuses
    assert statuses.count(1) <= sum("forget" in operation for operation in operations), "somebody waited in vain"
    assert on_disk() in set(map(in_order, itertools.permutations(operations))), operations


def test_a_place_that_is_being_written_is_told_with_its_holder(folder, monkeypatch, capsys):
    monkeypatch.setattr("psalign.users.forget.WAIT_S", 0.2)
    held, done = multiprocessing.Event(), multiprocessing.Event()
    other = multiprocessing.get_context("fork").Process(target=partial(hold, Path("users.csv"), held, done))
    other.start()
    held.wait(10)
    assert main(["users", "forget", "7", "vectors", "users.csv"]) == 1
    err = capsys.readouterr().err
    assert f"{folder / 'users.csv'} is being written by process {other.pid} on " in err
    assert holds(Path("vectors"))
    done.set()
    other.join(10)
    assert main(["users", "forget", "7", "vectors", "users.csv"]) == 0


def hold(place, held, done):
    from psalign.locks import locked

    with locked(place):
        held.set()
        done.wait(20)


@pytest.mark.parametrize("place", ["users.csv", "users.jsonl", "vectors", "published"])
def test_limits_in_words_are_forgotten_too(place, folder):
    people = [
        user.model_copy(update={"limits": [f"no secret of {user.user_id}"]}) for user in sample_profiles(3, seed=1)
    ]
    save_profiles(Path("users.csv"), people)
    save_profiles(Path("users.jsonl"), people)
    store = EmbeddingStore.build(people, StructuredEmbedder(16))
    for path in (*Path("vectors").iterdir(), *Path("published").iterdir()):
        path.unlink()
    store.save(Path("vectors"))
    store.save_npy(Path("published"))

    def said(user_id):
        path = Path(place)
        files = [one for one in path.rglob("*") if one.is_file()] if path.is_dir() else [path]
        return any(f"secret of {user_id}".encode() in one.read_bytes() for one in files)

    assert said("0000002")
    forget_user("0000002", [Path(place)])
    assert not said("0000002")
    assert said("0000003")
