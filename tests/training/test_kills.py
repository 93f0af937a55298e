"""SIGKILL at any moment, and the same weights; two processes, and the losses of one."""

import csv
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import mini_training
from psalign.training.checkpoints import list_checkpoints

TESTS = Path(__file__).parents[1]
KILLS, STEPS = 20, 160
WEIGHTS = "adapter/diffusion_pytorch_model.safetensors"


def start(function):
    """Run a function in a fork of this process, which has the libraries loaded. Returns its process id."""
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
            function()
        status = 0
    finally:
        os._exit(status)


def test_twenty_kills_at_random_moments_end_with_the_same_bits(small_run, tmp_path):
    """Kills fall in loading, steps, checkpoint writing and log writing: the moments come from a seeded generator."""
    data, embeddings = small_run[0] / "data", small_run[0] / "embeddings"

    def run(name):
        return lambda: mini_training.train(data, embeddings, tmp_path / name, steps=STEPS, batch_size=2)

    started = time.perf_counter()
    assert os.waitpid(start(run("whole")), 0)[1] == 0
    whole_s = time.perf_counter() - started
    moments, killed, seen = random.Random(7), 0, set()
    while killed < KILLS:
        child = start(run("killed"))
        time.sleep(moments.uniform(0.02, 0.12) * whole_s)
        ended, _ = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        killed += 1
        seen.add(len(list_checkpoints(tmp_path / "killed/checkpoints")) and newest_step(tmp_path / "killed"))
    assert killed == KILLS, "the run ended before it was killed so often"
    assert os.waitpid(start(run("killed")), 0)[1] == 0
    assert len(seen) > 3  # kills fell on different steps
    whole, resumed = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "killed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(resumed[name], weight) for name, weight in whole.items())
    assert losses(tmp_path / "killed") == losses(tmp_path / "whole")


def newest_step(folder):
    return list_checkpoints(folder / "checkpoints")[-1].name


def losses(folder):
    with (folder / "log.csv").open(newline="") as stream:
        return [float(row["loss"]) for row in csv.DictReader(stream)]


def launch(script, arguments, *, processes):
    """Start a script as users do on several devices; here they are processes on one CPU."""
    run = [sys.executable]
    if processes > 1:
        run += ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", str(processes)]
        run += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    environment = {
        **os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(TESTS.parent / "src"),
    }  # fmt: skip
    done = subprocess.run([*run, script, *map(str, arguments)], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]


def test_two_processes_give_the_losses_of_one(small_run, tmp_path):
    """Two processes of two pairs each, and one of four: the same global batch."""
    data, embeddings, script = small_run[0] / "data", small_run[0] / "embeddings", TESTS / "mini_training.py"
    for processes in (1, 2):
        out = tmp_path / f"of-{processes}" / "run"
        launch(script, [data, embeddings, out, 6, 4 // processes], processes=processes)
    one, two = (losses(tmp_path / f"of-{processes}" / "run") for processes in (1, 2))
    assert len(one) == 6
    assert two == pytest.approx(one, rel=1e-6)
    for name, weight in load_file(tmp_path / "of-1/run" / WEIGHTS).items():
        torch.testing.assert_close(load_file(tmp_path / "of-2/run" / WEIGHTS)[name], weight, atol=1e-5, rtol=1e-4)
    shards = [len(list((tmp_path / f"of-{n}" / "cache").glob("digests-*.json"))) for n in (1, 2)]
    assert shards == [1, 2]  # both processes took part in the cache
