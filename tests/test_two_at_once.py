"""Two commands at once: one writes, the other is refused by the writer's name; readers never read half of a change."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from psalign.adapter.checkpoint import WEIGHTS
from psalign.cli import main
from psalign.records import read_manifest
from psalign.users import EmbeddingStore, StructuredEmbedder, UserProfile, save_profiles

PEOPLE = [UserProfile(user_id=str(number), banned=("Hate",), age=40) for number in range(1, 5)]
# A command in a process of its own, which waits for its turn half a second and not ten.
COMMAND = """
import sys, time
from pathlib import Path
import torch, diffusers, transformers
from psalign import locks
from psalign.cli import main
torch.set_num_threads(1)
locks.LOCK_WAIT_S = 0.5
Path(f"ready-{sys.argv[1]}").touch()
while not Path("go").exists():
    time.sleep(0.01)
sys.exit(main(sys.argv[2:]))
"""


def start(folder, *arguments):
    return subprocess.Popen([sys.executable, "-c", COMMAND, *map(str, arguments)], cwd=folder, text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def at_once(folder, *commands):
    """Exit status and stderr of commands that begin together, in processes of their own."""
    (folder / "go").unlink(missing_ok=True)
    running = [start(folder, number, *command) for number, command in enumerate(commands)]
    while not all((folder / f"ready-{number}").exists() for number in range(len(running))):
        assert all(one.poll() is None for one in running), [one.communicate() for one in running]
        time.sleep(0.01)
    (folder / "go").touch()
    told = [one.communicate(timeout=300)[1] for one in running]
    return [(one.returncode, text) for one, text in zip(running, told, strict=True)]


def winner_of(ended, out):
    """Which of two processes ended well; the other was refused, and says who holds the folder."""
    assert sorted(status for status, _ in ended) == [0, 1], ended
    winner = [status for status, _ in ended].index(0)
    message = ended[1 - winner][1].strip().splitlines()
    assert f"OutputError: {out} is being written by process " in message[-2], message
    assert " on " in message[-2]
    assert message[-1] == "Wait until that has ended, or choose another path."
    return winner


@pytest.mark.long
def test_of_two_generates_with_other_steps_one_draws(tmp_path):
    """About half a minute: python -m pytest -m long tests/test_two_at_once.py."""
    rows = [{"file_name": f"{i}.png", "prompt": f"a red cat {'left ' * i}", "seed": i} for i in range(12)]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def generate(out, steps):
        return ("generate", "--prompts", "prompts.jsonl", "--out", out, "--steps", steps, "--batch-size", 4)

    steps = (70, 71)
    ended = at_once(tmp_path, *(generate("drawn", one) for one in steps))
    winner = winner_of(ended, tmp_path / "drawn")
    assert json.loads((tmp_path / "drawn/run.json").read_text())["config"]["steps"] == steps[winner]
    assert len(read_manifest(tmp_path / "drawn/manifest.jsonl")) == 12
    [(status, _)] = at_once(tmp_path, generate("alone", steps[winner]))
    assert status == 0
    assert contents(tmp_path / "drawn") == contents(tmp_path / "alone")


@pytest.mark.long
def test_of_two_trainings_with_other_rates_one_trains(tmp_path):
    """About half a minute: python -m pytest -m long tests/test_two_at_once.py."""
    save_profiles(tmp_path / "users.csv", PEOPLE)
    EmbeddingStore.build(PEOPLE, StructuredEmbedder(8)).save(tmp_path / "vectors")
    rows = [{"caption": f"a red cat with a sword {'left ' * i}", "chosen_caption": f"a red cat {'left ' * i}",
             "user_id": str(i % 4 + 1)} for i in range(8)]  # fmt: skip
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"queries": "random", "rewritten_share": "null", "validation_pairs": 0, "save_every": 10, "log_every": 5}
    changes = [part for name, value in settings.items() for part in ("--set", f"prompt.training.{name}={value}")]

    def train(out, lr):
        return ("train", "--data", "captions.jsonl", "--embeddings", "vectors", "--out", out, "--lr", lr,
                "--steps", 40, "--batch-size", 8, *changes)  # fmt: skip

    rates = (1e-3, 2e-3)
    ended = at_once(tmp_path, *(train("model", one) for one in rates))
    winner = winner_of(ended, tmp_path / "model")
    assert json.loads((tmp_path / "model/run.json").read_text())["config"]["lr"] == rates[winner]
    [(status, _)] = at_once(tmp_path, train("alone", rates[winner]))
    assert status == 0
    ours, alone = (load_file(tmp_path / name / "adapter" / WEIGHTS) for name in ("model", "alone"))
    assert ours.keys() == alone.keys()
    assert all(torch.equal(ours[name], weight) for name, weight in alone.items())


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix in (".png", ".jsonl")}


def vectors_and_bans(store):
    return {user_id: (store.raw().vectors([user_id], exact=False).tobytes(), store.banned(user_id))
            for user_id in store.user_ids}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("form", ["store", "npy"])
def test_a_store_that_is_being_rewritten_is_read_whole(form, tmp_path, monkeypatch):
    """Users change what they ban, are forgotten and come back; a reader sees one of these states, never two of
    them; of files by user, of each user one of them: bans and vector are of one build."""
    monkeypatch.setattr("psalign.users.store_reader.LOAD_PAUSE_S", 0.001)
    everyone = [UserProfile(user_id=str(number), banned=("Hate",), age=20 + number % 30) for number in range(1, 40)]
    changed = [user.model_copy(update={"banned": ("Violence",)}) for user in everyone]
    states = [EmbeddingStore.build(people, StructuredEmbedder(8)) for people in (everyone, changed)]
    states.append(states[1].without(["0000001"]))
    folder = tmp_path / "vectors"

    def write(store):
        if form == "store":
            store.save(folder)
        else:
            (folder / "0000001.npy").unlink(missing_ok=True)
            store.save_npy(folder)

    write(states[0])
    known = [vectors_and_bans(state) for state in states]
    stop = threading.Event()

    def rewrite():
        turn = 0
        while not stop.is_set():
            turn += 1
            write(states[turn % len(states)])
            time.sleep(0.01)

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        seen = [vectors_and_bans(EmbeddingStore.load(folder)) for _ in range(60)]
    finally:
        stop.set()
        writer.join()
    users = [item for state in known for item in state.items()]
    for state in seen:
        assert state in known if form == "store" else all(item in users for item in state.items())
    assert len({state["0000002"][1] for state in seen}) == 2  # it did change meanwhile


def test_what_is_forgotten_meanwhile_is_forgotten_for_commands_that_read(tmp_path, monkeypatch, capsys):
    """`users forget` and `embed` rewrite a store while `generate` reads it: it draws for whole lists of users alone."""
    monkeypatch.chdir(tmp_path)
    save_profiles(Path("users.csv"), PEOPLE)
    assert main(["embed", "--users", "users.csv", "--out", "vectors"]) == 0
    before = np.asarray(EmbeddingStore.load(Path("vectors")).vectors(["2", "3"]))
    stop, ended = threading.Event(), []

    def rewrite():
        while not stop.is_set():
            ended.append(main(["users", "forget", "1", "vectors"]))
            ended.append(main(["embed", "--users", "users.csv", "--out", "vectors", "--force"]))

    writer = threading.Thread(target=rewrite)
    writer.start()
    try:
        for _ in range(20):
            store = EmbeddingStore.load(Path("vectors"))
            assert set(store.user_ids) >= {"0000002", "0000003", "0000004"}
            assert np.array_equal(store.vectors(["2", "3"]), before)
            assert store.banned("2") == ("Hate",)
    finally:
        stop.set()
        writer.join()
    assert set(ended) == {0}, capsys.readouterr().err


def test_no_lock_is_left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_profiles(Path("users.csv"), PEOPLE)
    assert main(["embed", "--users", "users.csv", "--out", "vectors"]) == 0
    assert not [name for name in os.listdir(tmp_path) if name.endswith(".lock")]
