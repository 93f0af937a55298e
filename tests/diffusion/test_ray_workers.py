"""Batches of a run in Ray workers: the same files as one process writes, also where a worker is killed."""

import pickle
import threading
import time

import pytest

from commands import run
from psalign.adapter.attach import attach
from psalign.adapter.checkpoint import save_adapter
from psalign.categories import current
from psalign.diffusion.base_models import load_pipeline
from psalign.diffusion.generate import Drawing, GenerationConfig
from psalign.diffusion.ray_workers import RayWorkers, Worker
from psalign.errors import ExtraMissing, UsageError
from psalign.records import PromptRow
from psalign.users.profile import UserProfile
from psalign.users.views import ProfilesAlone
from ray_cluster import ray_cluster
from serving import random_adapter

ROWS = [
    PromptRow(prompt=f"a {colour} cat with a sword", seed=seed, user_id="anna", file_name=f"{colour}.png")
    for seed, colour in enumerate(("red", "blue", "green"))
]


def load():
    pipeline = load_pipeline("mini")
    config = GenerationConfig(method="prompt", steps=1, batch_size=2)
    users = ProfilesAlone([UserProfile(user_id="anna", banned=("Violence",))])
    return Drawing(pipeline, config, users, attach(pipeline, random_adapter()))


def test_a_worker_draws_its_batches_and_says_what_failed(tmp_path):
    worker = Worker(load, tmp_path, current())
    batch = worker.drawing.batch

    def draw(rows):
        if any("green" in row.prompt for row in rows):
            raise RuntimeError("no memory left")
        return batch(rows)

    object.__setattr__(worker.drawing, "batch", draw)
    answer = worker({"batch": [pickle.dumps(ROWS[:1]), pickle.dumps(ROWS[1:])]})
    assert [pickle.loads(one) for one in answer["failed"]] == [[], [("green.png", "no memory left")]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["blue.png", "red.png"]


def test_ray_is_an_extra_and_workers_are_at_least_one(monkeypatch):
    monkeypatch.setattr("psalign.diffusion.ray_workers.find_spec", lambda name: None)
    with pytest.raises(ExtraMissing, match="ray is not installed"):
        RayWorkers(load, 2)
    monkeypatch.setattr("psalign.diffusion.ray_workers.find_spec", lambda name: name)
    with pytest.raises(UsageError, match="at least 1 Ray worker"):
        RayWorkers(load, 0)
    assert RayWorkers(load, 1)([], None) == []  # nothing is left to draw: no cluster is asked


@pytest.mark.long
def test_two_workers_on_two_nodes_write_the_files_of_one_process(tmp_path, capsys, monkeypatch):
    """In the second run a worker is killed: Ray starts another one, which draws what is not on disk."""
    lines = [f"a {colour} {animal} with a sword,anna" for colour in ("red", "blue") for animal in ("cat", "dog", "owl")]
    (tmp_path / "meta.csv").write_text("\n".join(["prompt,user_id", *lines]) + "\n")
    (tmp_path / "users.csv").write_text("User_ID,Banned_Categories,Limits\nanna,Violence,no night\n")
    adapter = tmp_path / "adapter"
    save_adapter(random_adapter(), adapter)

    def drawn(out, *more):
        given = {"prompts": "meta.csv", "users": "users.csv", "out": out}
        flags = [part for name, value in given.items() for part in (f"--{name}", str(tmp_path / value))]
        flags += ["--adapter", str(adapter), "--batch-size", "1", "--steps", "15", *more]
        status, _, err = run(capsys, "generate", *flags)
        assert status == 0, err
        return {path.name: path.read_bytes() for path in (tmp_path / out).iterdir() if path.name != "run.json"}

    one = drawn("one")
    assert len(one) == len(lines) + 1
    with ray_cluster(cpus=2) as cluster:
        monkeypatch.setenv("RAY_ADDRESS", cluster.address)
        assert drawn("two", "--ray-workers", "2") == one
        killed = []

        def kill():
            while not list((tmp_path / "killed").glob("*.png")):
                time.sleep(0.05)
            workers = cluster.processes("MapWorker")
            workers[0].kill()
            killed.append(workers)

        thread = threading.Thread(target=kill, daemon=True)
        thread.start()
        assert drawn("killed", "--ray-workers", "2") == one
        thread.join(60)
    assert len(killed[0]) == 2
