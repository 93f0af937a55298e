"""train.py and launchers/train_psa_*.sh: the published names of settings, on tiny pipelines of the real layout."""

import csv
import json
import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from psalign.adapter.checkpoint import load_adapter
from psalign.cli.published import ENVIRONMENT
from psalign.config import load_preset
from psalign.sage.dataset import write_split
from psalign.sage.names import picture_name
from psalign.users import EmbeddingStore, StructuredEmbedder, sample_profiles
from sage_rows import make_row
from tiny_pipelines import LLM_DIM, PIPELINES, save_pipeline

ROOT = Path(__file__).parents[1]
SHORT = ("prompt.adapter.rank=8", "prompt.adapter.heads=2", "prompt.adapter.proj_rank=4", "pictures.size_px=64",
         "prompt.training.accumulation=1")  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models, vectors and a SAGE dataset of four pairs: what a user of the launchers has."""
    where = tmp_path_factory.mktemp("training")
    people = [user.model_copy(update={"banned": ("Hate",)}) for user in sample_profiles(4, seed=1)]  # as the rows say
    store = EmbeddingStore.build(people, StructuredEmbedder(LLM_DIM))
    store.save(where / "embeddings")
    for base, make in PIPELINES.items():
        save_pipeline(make(), where / base)
    rng = np.random.default_rng(0)
    for split, ids in (("train", store.user_ids[:3]), ("val", store.user_ids[3:])):
        rows = [row for user_id in ids for row in rows_of(user_id)]
        write_split(where / "sage", split, rows)
        for name in {name for row in rows for name in (row.chosen, row.rejected)}:
            Image.fromarray(rng.integers(0, 256, (80, 96, 3), dtype=np.uint8)).save(where / "sage" / split / name)
    return where


def rows_of(user_id, category="Hate"):
    safe, unsafe = (picture_name((user_id, category, "a word", "00001"), unsafe=side) for side in (0, 1))
    about = {"user_id": user_id, "category": category, "concept": "a word", "index": "00001", "chosen": safe,
             "rejected": unsafe, "user_data": {"User_ID": user_id, "Age": 41}}  # fmt: skip
    return [make_row(**about), make_row(**about, caption="a cat", caption_kind="safe")]


def start(command, folder, **environment):
    known = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "LANG")}
    given = {"PYTHON": sys.executable, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1",
             "CUDA_VISIBLE_DEVICES": "", **environment}  # fmt: skip
    settings = [part for change in SHORT for part in ("--set", change)]
    return subprocess.run(
        [str(part) for part in (*command, *settings)],
        cwd=folder, env={**known, **given}, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


@pytest.fixture
def launch(folder, tmp_path, monkeypatch, capsys):
    """Run a launcher up to its Python, and its script in this process: no time goes into loading libraries.

    Returns the exit status and stderr.
    """
    recorder, notes = tmp_path / "python", tmp_path / "notes.json"
    code = 'import json, os, sys; json.dump([sys.argv[1:], dict(os.environ)], open(os.environ["NOTES"], "w"))'
    recorder.write_text(f"#!/bin/sh\nexec {sys.executable} -I -S -c '{code}' \"$@\"\n")
    recorder.chmod(0o755)

    def one(*command, **environment):
        done = start(command, folder, **{"PYTHON": str(recorder), "NOTES": str(notes), **environment})
        if done.returncode:
            return done.returncode, done.stderr
        (script, *arguments), exported = json.loads(notes.read_text())
        assert Path(script).resolve() == ROOT / "train.py"
        with monkeypatch.context() as patch:
            patch.chdir(folder)
            patch.setattr(sys, "argv", [script, *arguments])
            for name in ENVIRONMENT:
                patch.setenv(name, exported.get(name, ""))
            with pytest.raises(SystemExit) as ended:
                runpy.run_path(script, run_name="__main__")
        return ended.value.code, capsys.readouterr().err

    return one


@pytest.mark.parametrize("base", PIPELINES)
def test_a_launcher_trains_an_adapter_of_its_base(base, folder, launch):
    status, err = launch(
        ROOT / "launchers" / f"train_psa_{base}.sh",
        DATA="sage", EMBEDS="embeddings", SD_MODEL=base, BATCH_SIZE="2", MAX_STEPS="3", LR="0.001",
    )  # fmt: skip
    assert status == 0, err
    out = folder / "trained_models" / f"psa-{base}"
    assert load_adapter(out / "adapter").config.base == base
    about = yaml.safe_load((out / "run.json").read_text())["config"]
    assert (about["batch_size"], about["steps"], about["lr"]) == (2, 3, 0.001)
    assert about["objective"] == "captions"
    assert float(rows_of_log(out / "val.csv")[-1]["loss"]) >= 0
    assert not (out / "validation").exists()  # whose pictures would need the whole UNet


@pytest.mark.long
def test_a_launcher_trains_on_pictures_where_that_is_asked_for(folder, launch):
    changes = ("objective=pictures", "mixed_precision=bf16", "validation_pictures=1")
    flags = [part for change in changes for part in ("--set", f"prompt.training.{change}")]
    status, err = launch(
        ROOT / "launchers/train_psa_sd15.sh", *flags, "--set", "generation.steps=1",
        DATA="sage", EMBEDS="embeddings", SD_MODEL="sd15", BATCH_SIZE="2", MAX_STEPS="2", OUT="pictures",
    )  # fmt: skip
    assert status == 0, err
    assert list((folder / "pictures/validation").glob("step-*.png"))


def test_a_launcher_needs_no_picture(folder, launch):
    shutil.copytree(folder / "sage", folder / "bare", ignore=shutil.ignore_patterns("*.jpg"))
    status, err = launch(
        ROOT / "launchers/train_psa_sdxl.sh",
        DATA="bare", EMBEDS="embeddings", SD_MODEL="sdxl", BATCH_SIZE="2", MAX_STEPS="2", OUT="bare-out",
    )  # fmt: skip
    assert status == 0, err
    assert "no picture is read" in err


def test_flags_win_over_the_environment(folder, launch):
    status, err = launch(
        ROOT / "launchers/train_psa_sd15.sh", "--steps", "1", "--out", "by-flag",
        DATA="sage", EMBEDS="embeddings", SD_MODEL="sd15", MAX_STEPS="9", OUT="by-name", BATCH_SIZE="1",
    )  # fmt: skip
    assert status == 0, err
    assert yaml.safe_load((folder / "by-flag/run.json").read_text())["config"]["steps"] == 1
    assert not (folder / "by-name").exists()


def test_several_processes_are_started_by_accelerate(folder, tmp_path):
    """By a config of accelerate, or by their number; the tests marked long train so."""
    recorder, notes = tmp_path / "python", tmp_path / "notes"
    recorder.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$NOTES"\n')
    recorder.chmod(0o755)
    common = {"DATA": "sage", "EMBEDS": "embeddings", "PYTHON": str(recorder), "NOTES": str(notes)}
    for given, flags in (
        ({"ACCELERATE_CONFIG": "own.yaml"}, ["--config_file", "own.yaml"]),
        ({"NUM_PROCESSES": "3"}, ["--multi_gpu", "--num_processes", "3", "--num_machines", "1", "--mixed_precision",
                                  "no", "--dynamo_backend", "no", "--main_process_port", "0"]),
    ):  # fmt: skip
        done = start([ROOT / "launchers/train_psa_sd15.sh"], folder, **common, **given)
        assert done.returncode == 0, done.stderr
        words = notes.read_text().splitlines()
        assert words[: 2 + len(flags)] == ["-m", "accelerate.commands.launch", *flags]
        script, *arguments = words[2 + len(flags) :]
        assert (Path(script).resolve(), arguments[:2]) == (ROOT / "train.py", ["--preset", "psa-sd15"])


def losses_of_two_processes(folder, name):
    """Train by launchers/accelerate/<name>.yaml, from first to last, in two processes on the CPU."""
    config = yaml.safe_load((ROOT / f"launchers/accelerate/{name}.yaml").read_text())
    (folder / f"{name}.yaml").write_text(yaml.safe_dump({**config, "num_processes": 2, "main_process_port": 0}))
    done = start(
        [ROOT / "launchers/train_psa_sd15.sh"], folder, DATA="sage", EMBEDS="embeddings", SD_MODEL="sd15", OUT=name,
        BATCH_SIZE="1", MAX_STEPS="2", ACCELERATE_CONFIG=f"{name}.yaml",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert yaml.safe_load((folder / name / "run.json").read_text())["processes"] == 2
    return read_losses(folder / name)


@pytest.mark.long
def test_two_processes_by_a_config_of_accelerate(folder):
    assert losses_of_two_processes(folder, "cpus_2")


@pytest.mark.long
def test_two_processes_by_fsdp_train_as_two_processes_do(folder):
    assert losses_of_two_processes(folder, "fsdp_4") == pytest.approx(
        losses_of_two_processes(folder, "cpus_2"), rel=1e-6
    )


def read_losses(out):
    return [float(row["loss"]) for row in rows_of_log(out / "log.csv")]


def rows_of_log(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.mark.parametrize(
    ("environment", "message"),
    [
        ({"DATA": "nowhere"}, "train_psa_sd15.sh: there is no nowhere. Unpack the SAGE dataset there"),
        ({"DATA": "sage", "EMBEDS": "nowhere"}, "there is no nowhere. Make it: psalign embed --users"),
        ({"PYTHON": "/no/python"}, "there is no /no/python; set PYTHON"),
    ],
)
def test_mistakes_give_a_message(environment, message, folder):
    done = start([ROOT / "launchers/train_psa_sd15.sh"], folder, **environment)
    assert done.returncode == 2
    assert message in done.stderr


@pytest.mark.parametrize(
    ("environment", "message", "status"),
    [
        ({"BATCH_SIZE": "many"}, "expected a whole number of at least 1, saw 'many'", 2),
        ({"LR": "fast"}, "argument --lr: expected a number of more than 0, saw 'fast'", 2),
        ({"SD_MODEL": "nothing"}, "'sd15' cannot be loaded from nothing", 1),
        ({"DATA": "embeddings"}, "embeddings", 1),
    ],
)
def test_wrong_values_give_a_message(environment, message, status, launch):
    given = {
        "DATA": "sage",
        "EMBEDS": "embeddings",
        "SD_MODEL": "sd15",
        "OUT": "wrong",
        "MAX_STEPS": "1",
        **environment,
    }
    ended, err = launch(ROOT / "launchers/train_psa_sd15.sh", **given)
    assert (ended, "Traceback" in err) == (status, False), err
    assert message in err


@pytest.mark.parametrize("path", sorted((ROOT / "launchers/accelerate").glob("*.yaml")), ids=lambda path: path.stem)
def test_configs_are_of_accelerate(path):
    """accelerate reads each, and refuses names it does not know."""
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(path))
    assert config.mixed_precision == "no"  # precision is a setting of the preset
    assert config.num_processes > 1


def test_the_published_launchers_values():
    """As many pairs a step, and the same optimiser, rate, warm-up, beta and dropout (docs/PAPER.md)."""
    for base, pairs, optimizer in (("sd15", 6 * 8 * 4, "adamw"), ("sdxl", 2 * 16 * 4, "adafactor")):
        how = load_preset(f"psa-{base}")["published"]["training"]
        assert how["batch_size"] * how["accumulation"] == pairs
        assert how["optimizer"] == optimizer
        assert (how["lr"], how["beta"], how["caption_dropout"], how["warmup_steps"]) == (5e-6, 5000, 0.2, 500)
