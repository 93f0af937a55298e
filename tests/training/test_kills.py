"""SIGKILL at any moment, and the same weights; two processes, and the losses of one."""

import csv
import random
import time

import pytest
import torch
from safetensors.torch import load_file

import mini_training
import processes
from psalign.training.checkpoints import list_checkpoints

WEIGHTS = "adapter/diffusion_pytorch_model.safetensors"


def start(*arguments):
    """Start mini_training.train in a process of its own; arguments: data, vectors, out, steps, batch size."""
    return processes.start(arguments[2].parent / "said", mini_training.train, *arguments)


def finish(process):
    assert processes.finish(process) == 0


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "steps"), [(2, 24), pytest.param(20, 160, marks=pytest.mark.long)])
def test_kills_at_random_moments_end_with_the_same_bits(small_run, tmp_path, kills, steps):
    """Kills fall in loading, steps, checkpoint writing and log writing: the moments come from a seeded generator."""
    data, embeddings = small_run[0] / "data", small_run[0] / "embeddings"

    def run(name, steps=steps):
        return start(data, embeddings, tmp_path / name, steps, 2)

    finish(run("warm", 1))  # the start of the server and the cache are not part of a run
    started = time.perf_counter()
    finish(run("whole"))
    whole_s = time.perf_counter() - started
    moments, seen = random.Random(7), set()
    for _ in range(kills):
        child, before = run("killed"), newest_step(tmp_path / "killed")
        moment = time.perf_counter() + moments.uniform(0.4, 2.4) / kills * whole_s
        # On a machine that is faster now than it was for the whole run, the steps set the moment.
        while time.perf_counter() < moment and newest_step(tmp_path / "killed") < before + steps // (kills + 1):
            time.sleep(0.005)
        assert child.is_alive(), "the run ended before it was killed so often"
        child.kill()
        child.join()
        seen.add(newest_step(tmp_path / "killed"))
    finish(run("killed"))
    assert len(seen) > min(3, kills // 3)  # kills fell on different steps
    whole, resumed = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "killed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.items())
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def newest_step(folder):
    there = list_checkpoints(folder / "checkpoints")
    return int(there[-1].stem.removeprefix("step-")) if there else 0


def losses(folder):
    with (folder / "log.csv").open(newline="") as stream:
        return [float(row["loss"]) for row in csv.DictReader(stream)]


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["pictures", "captions"])
def test_two_processes_give_the_losses_of_one(small_run, tmp_path, objective):
    """Two processes of two pairs each, and one of four: the same global batch."""
    data, embeddings = small_run[0] / "data", small_run[0] / "embeddings"
    for count in (1, 2):
        said, arguments = tmp_path / "said", (data, embeddings, tmp_path / f"of-{count}/run", 6, 4 // count, objective)
        ended = processes.run_several(said, mini_training.train, *arguments, count=count)
        assert ended == [0] * count, said.read_text()
    one, two = (losses(tmp_path / f"of-{count}/run") for count in (1, 2))
    assert len(one) == 6
    assert two == pytest.approx(one, rel=1e-6)
    for name, weight in load_file(tmp_path / "of-1/run" / WEIGHTS).items():
        torch.testing.assert_close(load_file(tmp_path / "of-2/run" / WEIGHTS)[name], weight, atol=1e-5, rtol=1e-4)
    shards = [len(list((tmp_path / f"of-{n}" / "cache").glob("digests-*.json"))) for n in (1, 2)]
    assert shards == ([1, 2] if objective == "pictures" else [0, 0])  # both processes took part in the cache
