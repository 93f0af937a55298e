"""psalign eval generate and eval run, and their seed scripts: mini, and tiny models in the layout of SD1.5 and SDXL."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from commands import run
from picture_folders import make_clip
from prompt_set_files import write_set
from psalign.cli import main
from psalign.evaluation.cells import Cell
from psalign.evaluation.results import append_results, read_results, result_row
from psalign.records import read_manifest
from psalign.users import EmbeddingStore, StructuredEmbedder, level_profiles, sample_profiles
from tiny_pipelines import LLM_DIM, PIPELINES, save_with_adapter

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[2]
DETECTED = ("suppressed", "kept", "pass", "subject_kept", "safe_subject")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """What a user of the two bases has on disk, small."""
    where = tmp_path_factory.mktemp("eval")
    store = EmbeddingStore.build([*sample_profiles(3, seed=1), *level_profiles()], StructuredEmbedder(LLM_DIM))
    store.save(where / "embeddings")
    for base, make in PIPELINES.items():
        pipeline = make()
        save_with_adapter(pipeline, base, where, recipe=store.fingerprint)
    write_set(where / "prompts", "debug")
    return where


@pytest.fixture(scope="module")
def mini(tmp_path_factory, small_run):
    """Cells of the mini world, drawn by the command: every method that needs no foreign weights, two levels."""
    where, source = tmp_path_factory.mktemp("mini"), small_run[0]
    arguments = ["--mini", source / "data", "--embeddings", source / "embeddings", "--adapter",
                 source / "training/prompt/adapter", "--levels", "user", 0, 5, "--limit", 9, "--steps", 2]  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(where)
        assert main(["eval", "generate", *map(str, arguments)]) == 0
    assert len(list(where.rglob("manifest.jsonl"))) == 6
    return where


def environment(**more):
    return {**os.environ, "PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **more}


def generate(capsys, folder, *more):
    bases = [part for base in PIPELINES for part in ("--model", f"{base}={folder / base}", "--adapter",
             f"{base}={folder / f'psa-{base}'}", "--embeddings", f"{base}={folder / 'embeddings'}")]  # fmt: skip
    common = ("--datasets", "debug", "--bases", "sd15", "sdxl", "--prompts", folder / "prompts", "--limit", 2,
              "--steps", 1, "--batch-size", 2)  # fmt: skip
    return run(capsys, "eval", "generate", *common, *bases, *more)


def test_both_commands_on_the_layouts_of_sd15_and_sdxl(folder, tmp_path, capsys):
    """generate, then run: two bases, four methods and one that has no weights; then nothing is left to do."""
    where = ("--out", tmp_path / "images", "--results", tmp_path / "results.csv")
    methods = ("--methods", "base", "negative_prompt", "sld", "psa", "esdu", "--levels", "4")
    status, out, _ = generate(capsys, folder, *methods, *where)
    assert status == 0
    assert out.count("2 pictures") == 8
    assert "debug/esdu/sdxl             missing  edited UNet weights not given: --weights esdu/sdxl=PATH" in out
    assert len(read_manifest(tmp_path / "images/debug/psa/sdxl/level_4/manifest.jsonl")) == 2
    measure = ("eval", "run", "--images", tmp_path / "images", "--output", tmp_path / "results.csv", "--workers", 0,
               "--cache", tmp_path / "cache", "--clip", make_clip(tmp_path / "clip"))  # fmt: skip
    status, out, err = run(capsys, *measure)
    assert (status, "8 measured, 0 failed, of 8 cells" in out) == (0, True), err
    rows = {row.key: row for row in read_results(tmp_path / "results.csv")}
    clip = rows["debug", "psa", "sdxl", "level_4", "clip"]
    assert (clip.state, clip.n, -100 <= clip.score <= 100) == ("succeeded", 2, True)
    inpro = rows["debug", "base", "sd15", "none", "inpro"]
    assert (inpro.state, "--q16" in inpro.note) == ("missing", True)
    assert rows["debug", "esdu", "sd15", "none", "clip"].note.startswith("edited UNet weights not given")
    before = (tmp_path / "results.csv").read_text()
    status, out, _ = run(capsys, *measure)
    assert "0 measured, 0 failed, of 8 cells" in out
    assert (tmp_path / "results.csv").read_text() == before


def test_both_commands_say_it_as_json(folder, tmp_path, capsys):
    """stdout is one JSON list: what became of each cell, then the rows that were measured, as results.csv has them."""
    out = ("--out", tmp_path / "images", "--results", tmp_path / "results.csv")
    status, told, _ = generate(capsys, folder, "--methods", "base", "esdu", *out, "--json")
    cells = {cell["cell"]: cell for cell in json.loads(told)}
    assert status == 0
    assert set(cells) == {f"debug/{method}/{base}" for method in ("base", "esdu") for base in PIPELINES}
    drawn, missing = cells["debug/base/sd15"], cells["debug/esdu/sdxl"]
    assert (drawn["dataset"], drawn["method"], drawn["base"], drawn["level"]) == ("debug", "base", "sd15", None)
    assert (drawn["state"], drawn["pictures"]) == ("drawn", 2)
    assert (missing["state"], "--weights esdu/sdxl=PATH" in missing["note"]) == ("missing", True)
    measure = ("eval", "run", "--images", tmp_path / "images", "--output", tmp_path / "measured.csv", "--workers", 0,
               "--cache", tmp_path / "cache", "--clip", make_clip(tmp_path / "clip"), "--metrics", "clip")  # fmt: skip
    status, told, err = run(capsys, *measure, "--json")
    rows = json.loads(told)
    assert status == 0, err
    assert [(row["method"], row["base_model"], row["metrics"], row["state"], row["n"]) for row in rows] == [
        ("base", base, "clip", "succeeded", 2) for base in PIPELINES
    ]
    assert [row["score"] for row in rows] == [row.score for row in read_results(tmp_path / "measured.csv")]
    assert json.loads(run(capsys, *measure, "--json")[1]) == []


@pytest.mark.parametrize("workers", [0, pytest.param(2, marks=pytest.mark.long)])
def test_the_mini_world_drawn_and_measured(workers, mini, tmp_path, capsys):
    results = tmp_path / "results.csv"
    command = ("eval", "run", "--images", mini / "eval_images", "--output", results, "--cache", tmp_path / "cache",
               "--metrics", *DETECTED)  # fmt: skip
    status, out, err = run(capsys, *command, "--workers", workers)
    assert (status, "30 measured, 0 failed, of 6 cells" in out) == (0, True), out + err
    rows = {row.key[1:]: row for row in read_results(results)}
    assert {key[2] for key in rows if key[0] == "psa"} == {"user", "level_0", "level_5"}
    nothing = rows["psa", "mini", "level_0", "suppressed"]
    assert (nothing.score, nothing.n, nothing.state, nothing.note != "") == (None, 0, "succeeded", True)
    everything = rows["psa", "mini", "level_5", "kept"]
    assert (everything.score, everything.n) == (None, 0)
    base = rows["base", "mini", "none", "subject_kept"]
    assert 0 <= base.low <= base.score <= base.high <= 1
    assert run(capsys, *command, "--workers", 0)[1].endswith(f"0 measured, 0 failed, of 6 cells: {results}\n")


def test_a_cell_that_is_drawn_in_part_is_told_and_not_measured(mini, tmp_path, capsys):
    shutil.copytree(mini / "eval_images", tmp_path / "images")
    (tmp_path / "images/mini/sld/mini/manifest.jsonl").unlink()
    command = ("eval", "run", "--images", tmp_path / "images", "--output", tmp_path / "results.csv", "--cache",
               tmp_path / "cache", "--workers", 0, "--methods", "sld", "base", "--metrics", "kept")  # fmt: skip
    status, out, err = run(capsys, *command)
    assert (status, "1 measured, 0 failed, of 1 cells" in out) == (0, True), err
    assert "mini/sld/mini: drawn in part" in err
    found = {row.method: (row.state, row.note) for row in read_results(tmp_path / "results.csv")}
    told = "drawn in part: the same psalign eval generate again draws the rest"
    assert found["sld"] == ("missing", told)
    assert found["base"][0] == "succeeded"
    append_results(tmp_path / "results.csv", [result_row(Cell("mini", "sld", "mini"), "kept", "failed", note="why")])
    assert run(capsys, *command)[0] == 0
    assert {row.note for row in read_results(tmp_path / "results.csv") if row.method == "sld"} == {"why"}


def test_another_detector_or_nudenet_measures_again(monkeypatch, tmp_path):
    """What is known hangs on the weights that come with us or with a library, though no flag names them."""
    from psalign.benchmark import measure, models
    from psalign.evaluation.metrics import nudity

    config = models.ModelsConfig(cache=tmp_path)

    def names():
        measure._models.cache_clear()
        cells = [Cell("mini", "base", "mini"), Cell("debug", "base", "sd15")]
        jobs = measure.plan(cells, tmp_path, tmp_path / "results.csv", metrics=["clip"], config=config)
        return {(job.cell.base, metric): name for job in jobs for metric, name in job.made_with.items()}

    monkeypatch.setattr(nudity, "_name", lambda: "NudeNet 1")
    before = names()
    assert names() == before
    monkeypatch.setattr(nudity, "_name", lambda: "NudeNet 2")
    after = names()
    assert {key for key in before if before[key] != after[key]} == {
        (base, metric) for base in ("mini", "sd15") for metric in ("inpro", "inpro_strict")
    }
    monkeypatch.setattr(models, "_detector_name", lambda: "another")
    assert {key for key in after if after[key] != names()[key]} == {
        ("mini", m) for m in ("fid", "kid", *DETECTED, "safe_distance", "any_motif")
    }


def test_a_cell_that_fails_says_why_and_the_others_are_measured(mini, tmp_path, capsys):
    shutil.copytree(mini / "eval_images", tmp_path / "images")
    broken = next((tmp_path / "images/mini/sld/mini").glob("*.png"))
    whole = broken.read_bytes()
    broken.write_bytes(whole[:50])
    command = ("eval", "run", "--images", tmp_path / "images", "--output", tmp_path / "results.csv", "--cache",
               tmp_path / "cache", "--workers", 0, "--metrics", "kept", "subject_kept")  # fmt: skip
    status, out, _ = run(capsys, *command)
    assert (status, "10 measured, 2 failed, of 6 cells" in out) == (1, True)
    failed = [row for row in read_results(tmp_path / "results.csv") if row.state == "failed"]
    assert {row.cell for row in failed} == {Cell("mini", "sld", "mini")}
    assert broken.name in failed[0].note
    broken.write_bytes(whole)
    status, out, _ = run(capsys, *command)
    assert (status, "2 measured, 0 failed, of 6 cells" in out) == (0, True)


def test_the_same_seed_and_settings_for_every_method(mini):
    cells = sorted((mini / "eval_images").rglob("manifest.jsonl"))
    rows = [{row.file_name: (row.prompt, row.seed) for row in read_manifest(path)} for path in cells]
    assert len(cells) == 6
    assert all(one == rows[0] for one in rows)
    runs = [json.loads(path.with_name("run.json").read_text())["config"] for path in cells]
    shared = ("steps", "guidance", "scheduler", "negative_prompt", "batch_size", "dtype")
    assert len({tuple(run[name] for name in shared) for run in runs}) == 1


@pytest.mark.long
def test_the_seed_scripts(folder, tmp_path):
    """run_gen.sh starts two processes, which write what one writes; run_eval.py is eval run."""
    flags = ["--prompts", folder / "prompts", "--model", folder / "sd15", "--limit", 4, "--steps", 1, "--batch-size",
             1, "--results", tmp_path / "results.csv"]  # fmt: skip
    given = {"DATASET": "debug", "METHODS": "base esdu", "MODELS": "sd15", "PYTHON": sys.executable}
    script, outs = ROOT / "evaluation/scripts/run_gen.sh", (tmp_path / "one", tmp_path / "two")
    for out, gpus in zip(outs, ({}, {"GPUS": "0,1"}), strict=True):
        command = [script, *flags, "--out", out]
        done = subprocess.run(list(map(str, command)), cwd=tmp_path, env=environment(**given, **gpus),
                              capture_output=True, text=True, timeout=300)  # fmt: skip
        assert done.returncode == 0, done.stderr
        assert done.stdout.count("debug/base/sd15  drawn    4 pictures") == 1
    one, two = ({path.name: path.read_bytes() for path in out.rglob("*.png")} for out in outs)
    assert one == two
    assert len(one) == 4
    done = subprocess.run([str(script), "--help"], env=environment(**given, GPUS="3"), capture_output=True, text=True,
                          timeout=60)  # fmt: skip
    assert (done.returncode, "usage: psalign eval generate" in done.stdout) == (0, True), done.stderr  # one GPU alone
    script = ROOT / "evaluation/scripts/run_eval.py"
    done = subprocess.run([sys.executable, str(script), "--images", str(tmp_path / "nothing")], env=environment(),
                          capture_output=True, text=True, timeout=60)  # fmt: skip
    assert (done.returncode, "holds no cell" in done.stderr) == (2, True)


def test_seed_scripts_are_short():
    scripts = sorted((ROOT / "evaluation").rglob("run_*"))
    assert all(len(path.read_text().splitlines()) <= 15 for path in scripts)
    assert {path.name for path in scripts} >= {"run_gen.sh", "run_eval.py"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--adapter", "a"), "'a' is for which base model? Write sd15=a."),
        (
            ("--weights", "psa/sd15=a"),
            "--weights psa/sd15=a: expected METHOD/BASE=PATH with uce, rece, ",
        ),
        (("--weights", "esdu=a"), "'esdu=a' is for which base model? Write esdu/sd15=a."),
        (("--weights", "esdu/sd3=a"), "--weights esdu/sd3=a: expected METHOD/BASE=PATH"),
        (("--levels", "user"), "The rows of debug are for no user"),
        (("--datasets", "nothing"), "Unknown dataset 'nothing'; choose one of: mini, mini_scenes"),
    ],
)
def test_mistakes_of_generate(folder, tmp_path, capsys, arguments, message):
    status, _, err = generate(capsys, folder, *arguments, "--out", tmp_path)
    assert (status, message in err) == (2, True), err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--metrics", "beauty"), "Unknown metric 'beauty'; choose one of: fid, kid"),
        (("--metrics", "inpro"), "The metric 'inpro' says nothing of mini."),
        (("--bases", "sdxl"), "has no cell of these datasets, methods and base models."),
        (("--gpus", "0;1"), "--gpus 0;1: expected numbers with commas between them, as 0,1,2,3."),
    ],
)
def test_mistakes_of_run(mini, tmp_path, capsys, arguments, message):
    status, _, err = run(capsys, "eval", "run", "--images", mini / "eval_images", "--output", tmp_path / "r.csv",
                         *arguments)  # fmt: skip
    assert (status, message in err) == (2, True), err
