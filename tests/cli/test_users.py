"""psalign users ... and embed, by command."""

import json
import stat

import numpy as np
import pytest

from commands import run
from psalign.users import EmbeddingStore, load_profiles
from taxonomies import CATEGORIES
from tiny_language_model import save_language_model


@pytest.fixture
def folder(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run(capsys, "users", "sample", "-n", 120, "--seed", 3, "--out", "users.csv")[0] == 0
    return tmp_path


@pytest.mark.slow
def test_many_users_end_to_end_without_a_model(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for command in (
        "users sample -n 150 --seed 1 --out users.csv",
        "users ban --users users.csv --out bans.jsonl",
        "embed --users users.csv --bans bans.jsonl --out vectors",
        "users cluster --embeddings vectors --out clusters",
        "users levels --users users.csv --picture levels.png",
    ):
        status, _, err = run(capsys, *command.split())
        assert status == 0, err
    assert len(EmbeddingStore.load(tmp_path / "vectors")) == 156
    assert (tmp_path / "clusters/clusters.png").stat().st_size > 10_000


def test_bans_are_private_json_lines(folder, capsys):
    assert run(capsys, "users", "ban", "--users", "users.csv", "--out", "bans.jsonl")[0] == 0
    records = [json.loads(line) for line in (folder / "bans.jsonl").read_text().splitlines()]
    assert len(records) == 120
    assert set(records[0]) == {"user_id", "banned", "allowed", "why"}
    assert stat.S_IMODE((folder / "bans.jsonl").stat().st_mode) == 0o600


def test_a_language_model_adds_and_the_vectors_know_it(folder, capsys):
    model = save_language_model(folder / "llm")
    people = load_profiles(folder / "users.csv")[:10]
    from psalign.users import save_profiles

    save_profiles(folder / "few.csv", people)
    ban = ("users", "ban", "--users", "few.csv", "--backend", "transformers", "--model", model)
    status, out, _ = run(capsys, *ban, "--out", "bans.jsonl")
    assert (status, "Added by the language model" in out, "everything is banned: 0 users" in out) == (0, True, True)
    embed = ("embed", "--users", "few.csv", "--backend", "transformers", "--model", model)
    assert run(capsys, *embed, "--out", "plain")[0] == 0
    assert run(capsys, *embed, "--bans", "bans.jsonl", "--out", "more")[0] == 0
    assert not (folder / "more/unfinished").exists()
    plain, more = EmbeddingStore.load(folder / "plain"), EmbeddingStore.load(folder / "more")
    grown = [user.user_id for user in people if set(more.banned(user.user_id)) > set(plain.banned(user.user_id))]
    assert grown
    for user in people:
        assert set(more.banned(user.user_id)) >= set(plain.banned(user.user_id))


def test_explain(folder, capsys):
    (folder / "one.csv").write_text("User_ID,Age,Religion\n33,70,Islam\n")
    status, out, _ = run(capsys, "users", "explain", "33", "--users", "one.csv")
    lines = dict(line.split(maxsplit=1) for line in out.splitlines())
    assert status == 0
    assert lines["Sexuality"] == "banned: religion"
    assert lines["Shocking"] == "banned: 60 or older"
    assert lines["Hate"] == "allowed"
    more = {"user_id": "0000033", "banned": ["Hate"], "why": {"Hate": ["language model"]}}
    (folder / "bans.jsonl").write_text(json.dumps(more) + "\n")
    out = run(capsys, "users", "explain", "33", "--users", "one.csv", "--bans", "bans.jsonl")[1]
    assert "banned: language model" in out


def test_forget_everywhere(folder, capsys):
    assert run(capsys, "users", "ban", "--users", "users.csv", "--out", "bans.jsonl")[0] == 0
    assert run(capsys, "embed", "--users", "users.csv", "--out", "vectors")[0] == 0
    before = EmbeddingStore.load(folder / "vectors")
    np.save(folder / "0000007.npy", np.zeros(3))
    (folder / "published").mkdir()
    (folder / "0000007.npy").rename(folder / "published/0000007.npy")
    places = ("users.csv", "bans.jsonl", "vectors", "published")
    status, out, _ = run(capsys, "users", "forget", "7", *places)
    assert (status, out.count("forgotten")) == (0, 4)
    after = EmbeddingStore.load(folder / "vectors")
    assert "0000007" not in after
    assert after.fingerprint == before.fingerprint  # adapters go on taking the others
    np.testing.assert_array_equal(after.vectors(["8"]), before.vectors(["8"]))
    for name in ("users.csv", "bans.jsonl"):
        assert "0000007" not in (folder / name).read_text()
        assert stat.S_IMODE((folder / name).stat().st_mode) == 0o600
    assert list((folder / "published").iterdir()) == []
    status, _, err = run(capsys, "users", "forget", "7", "users.csv")
    assert (status, "is in none of: users.csv" in err) == (1, True)


def test_pseudonyms(folder, capsys):
    command = "users pseudonymise --users users.csv --key users.key --out"
    assert run(capsys, *command.split(), "a.csv")[0] == run(capsys, *command.split(), "b.csv")[0] == 0
    first, again, before = (load_profiles(folder / name) for name in ("a.csv", "b.csv", "users.csv"))
    assert first == again
    assert not {user.user_id for user in first} & {user.user_id for user in before}
    assert [user.age for user in first] == [user.age for user in before]
    assert stat.S_IMODE((folder / "users.key").stat().st_mode) == 0o600
    (folder / "users.key").unlink()
    assert run(capsys, *command.split(), "c.csv")[0] == 0
    assert load_profiles(folder / "c.csv") != first
    for text, message in (("words", "holds no key"), ("abcd", "holds 2 bytes")):
        (folder / "users.key").write_text(text)
        status, _, err = run(capsys, *command.split(), "d.csv")
        assert (status, message in err) == (2, True)


def test_published_levels_and_vectors(folder, capsys):
    lines = [json.loads(line) for line in run(capsys, "users", "levels", "--published")[1].splitlines()]
    assert [line["user_id"] for line in lines] == ["0001001", "0000797", "0000697", "0000002", "0000742", "0000501"]
    assert [len(line["banned"]) for line in lines] == [0, 2, 4, 4, 5, 7]
    assert run(capsys, "embed", "--users", "users.csv", "--out", "vectors", "--npy", "npy")[0] == 0
    raw, store = EmbeddingStore.load(folder / "npy"), EmbeddingStore.load(folder / "vectors")
    assert set(raw.user_ids) == set(store.user_ids)
    assert raw.recipe == store.recipe  # structured vectors do not become published ones
    assert raw.fingerprint not in (store.fingerprint, "published")
    assert raw.banned("level_5") == store.banned("level_5") == CATEGORIES
    np.testing.assert_array_equal(store.standardise(raw.vectors(["7"])), store.vectors(["7"]))


def test_splits(folder, capsys):
    status, out, _ = run(capsys, "users", "split", "--users", "users.csv", "--val", 10, "--test", 20)
    assert (status, "90 train, 10 val, 20 test_seen, 20 test_unseen" in out) == (0, True)


MISTAKES = {
    "an unknown user": ("users explain 9999 --users users.csv", 1, "has no user 0009999"),
    "no user id": ("users explain a/b --users users.csv", 2, "is no user id"),
    "no users file": ("users ban --users none.csv", 1, "none.csv does not exist"),
    "no such model": (
        "users ban --users users.csv --backend transformers --model nothing/at/all",
        1,
        "cannot be loaded",
    ),
    "no consent": (
        "users ban --users users.csv --backend openai --model m --base-url http://127.0.0.1:9/v1",
        2,
        "Profiles leave this machine only where you agree",
    ),
    "a place without users": ("users forget 7 splits.txt", 2, "splits.txt holds no users"),
    "too few to split": ("users split --users users.csv --val 100", 2, "saw 120 users"),
    "no ban list for everyone": ("embed --users users.csv --bans few.jsonl", 1, "119 of 120 users have no line"),
    "a broken ban list": ("embed --users users.csv --bans broken.jsonl", 2, "line 1: no ban list"),
    "no vectors": ("users cluster --embeddings nothing", 1, "holds no user vectors"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes(mistake, folder, capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    (folder / "few.jsonl").write_text('{"user_id": "0000001", "banned": []}\n')
    (folder / "broken.jsonl").write_text('{"user_id": "0000001", "banned": ["Fun"]}\n')
    command, status, message = MISTAKES[mistake]
    found, out, err = run(capsys, *command.split())
    assert (found, message in err) == (status, True), err
    assert "religion" not in out


def test_what_would_be_sent_is_shown_before_it_is_sent(folder, capsys, monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    command = "users ban --users users.csv --backend openai --model m --base-url http://127.0.0.1:9/v1"
    _, _, err = run(capsys, *command.split())
    assert "This sends to 127.0.0.1: age, age_group, gender, religion" in err
    assert "of 120 profiles. No user ids." in err
