"""launchers/*.sh: each runs from any folder on a tiny pipeline saved in the real layout."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from psalign.adapter.checkpoint import save_adapter
from psalign.adapter.convert import write_published
from psalign.cli import main
from psalign.users import EmbeddingStore, StructuredEmbedder, level_profiles, sample_profiles
from psalign.users.language_model import PublishedEmbedder, TransformersEmbedder
from taxonomies import CATEGORIES
from tiny_language_model import save_language_model
from tiny_pipelines import LLM_DIM, PIPELINES, WHOLE, random_adapter, save_with_adapter

pytestmark = pytest.mark.slow

ROOT = Path(__file__).parents[1]
LAUNCHERS = sorted(path.stem for path in (ROOT / "launchers").glob("infer_*.sh"))


def test_example_users_are_embedded_where_the_launchers_look_first(tmp_path, monkeypatch, capsys):
    script = ROOT / "utils/generate_user_embeddings.py"
    monkeypatch.chdir(tmp_path)
    for arguments, place in (([], "data/embeddings/sage"), (["--out", "mine"], "mine"), (["--out=other"], "other")):
        monkeypatch.setattr(sys, "argv", [str(script), *arguments])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(script), run_name="__main__")
        assert ended.value.code == 0, capsys.readouterr().err
        assert "0000001" in EmbeddingStore.load(tmp_path / place)
    for name in ("infer.sh", "train.sh"):
        assert "data/embeddings/sage" in (ROOT / "launchers" / name).read_text()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Models, adapters, vectors and a META_FILE: what a user of the launchers has."""
    where = tmp_path_factory.mktemp("launchers")
    store = EmbeddingStore.build([*sample_profiles(3, seed=1), *level_profiles()], StructuredEmbedder(LLM_DIM))
    store.save(where / "embeddings")
    whole = WHOLE["sd15"]()  # a published file is of every cross-attention
    for base, pipe in {"sd15": whole, "sdxl": PIPELINES["sdxl"]()}.items():
        save_with_adapter(pipe, base, where, recipe=store.fingerprint)
    write_published(random_adapter(whole, "published"), where / "sd15-published/psa_adapter.safetensors")
    (where / "vectors").mkdir()
    for user_id in ("0000001", "level_5"):
        np.save(where / "vectors" / f"{user_id}.npy", store.vectors([user_id]))
    rows = [("a red cat", store.user_ids[0], 9, "female"), ("a blue dog", store.user_ids[1], 70, "male")]
    lines = ["prompt,user_id,age,gender", *(",".join(map(str, row)) for row in rows)]
    (where / "meta.csv").write_text("\n".join(lines) + "\n")
    return where


@pytest.fixture(scope="module")
def recorder(tmp_path_factory):
    """A "python" that only notes what it is called with."""
    script = tmp_path_factory.mktemp("bin") / "python"
    script.write_text('#!/bin/sh\nprintf "%s\\n" "$@" > "$NOTES"\n')
    script.chmod(0o755)
    return script


def start(name, folder, **environment):
    """Run a launcher for real, from the folder."""
    base = name.split("_")[1]
    given = {
        "META_FILE": "meta.csv", "SD_MODEL": base, "PSA_PATH": f"psa-{base}", "EMBEDS": "embeddings",
        "PYTHON": sys.executable, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", **environment,
    }  # fmt: skip
    known = {key: value for key, value in os.environ.items() if key in ("PATH", "HOME", "PYTHONPATH", "LANG")}
    known["PYTHONPATH"] = os.pathsep.join([str(ROOT / "src"), known.get("PYTHONPATH", "")])
    command = [str(ROOT / "launchers" / f"{name}.sh"), "--steps", "1", "--batch-size", "1"]
    set_ = {key: str(value) for key, value in given.items() if value is not None}
    return subprocess.run(command, cwd=folder, env={**known, **set_}, capture_output=True, text=True, timeout=300)


@pytest.fixture
def launch(folder, recorder, monkeypatch, capsys):
    """Run a launcher up to its Python, and that command in this process: no minute goes into loading libraries."""

    def one(name, **environment):
        done = start(name, folder, **{"PYTHON": recorder, "NOTES": folder / "notes", **environment})
        if done.returncode:
            return done.returncode, done.stderr
        script, *arguments = (folder / "notes").read_text().splitlines()
        assert Path(script).resolve() == ROOT / "infer.py"
        monkeypatch.chdir(folder)
        status = main(["generate", *arguments])
        return status, capsys.readouterr().err

    return one


def rows_of(out):
    return [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", LAUNCHERS)
def test_every_launcher_runs(name, folder, launch):
    status, err = launch(name, OUT=f"out/{name}")
    assert status == 0, err
    rows = rows_of(folder / "out" / name)
    assert len(rows) == 2
    assert all((folder / "out" / name / row["file_name"]).is_file() for row in rows)
    assert {row["method"] for row in rows} == {"base" if name.endswith("base") else "prompt"}
    assert "female" not in json.dumps(rows)
    assert {row["user_id"] for row in rows} == set(EmbeddingStore.load(folder / "embeddings").user_ids[:2])
    if name.endswith("llm"):  # the columns of a child of nine add to what is stored, and take nothing away
        stored = EmbeddingStore.load(folder / "embeddings").banned(rows[0]["user_id"])
        assert set(rows[0]["banned"]) == {"Hate", "Violence", "Self-Harm", "Sexuality", "Shocking", *stored}


@pytest.mark.long
def test_a_launcher_with_two_processes_from_first_to_last(folder):
    """The second process has its users' vectors from the first."""
    done = start("infer_sdxl_psa_llm", folder, NUM_PROCESSES=2, OUT="two")
    assert done.returncode == 0, done.stderr
    stored = EmbeddingStore.load(folder / "embeddings")
    rules = (("Hate", "Violence", "Self-Harm", "Sexuality", "Shocking"), ("Violence", "Shocking"))
    expected = [{*bans, *stored.banned(user_id)} for bans, user_id in zip(rules, stored.user_ids, strict=False)]
    assert [(row["base"], set(row["banned"])) for row in rows_of(folder / "two")] == [
        ("sdxl", bans) for bans in expected
    ]


def test_the_base_model_needs_no_users(folder, launch):
    assert launch("infer_sd15_base", EMBEDS=None, OUT="nobody")[0] == 0
    assert {(row["user_id"], row["recipe"]) for row in rows_of(folder / "nobody")} == {(None, "nobody")}


def test_pictures_go_to_a_folder_by_base_method_and_level(folder, launch):
    for name, level, out in (
        ("infer_sd15_psa", "4", "outputs/sd15/psa/level_4"),
        ("infer_sd15_base", "4", "outputs/sd15/base"),  # which knows no levels
    ):
        assert launch(name, LEVEL=level)[0] == 0
        assert len(rows_of(folder / out)) == 2


def test_all_six_are_there():
    assert [f"infer_{base}_{method}" for base in WHOLE for method in ("base", "psa", "psa_llm")] == LAUNCHERS


def test_a_level_and_a_published_checkpoint(folder, launch):
    given = {"LEVEL": "5", "PSA_PATH": "sd15-published", "EMBEDS": "vectors", "OUT": "published"}
    status, err = launch("infer_sd15_psa", **given)
    assert status == 0, err
    rows = rows_of(folder / "published")
    assert {(row["method"], row["level"], row["recipe"]) for row in rows} == {("published", 5, "published")}
    assert [row["banned"] for row in rows] == [list(CATEGORIES)] * 2


def test_published_vectors_without_a_users_file_have_unknown_bans(folder, launch):
    """Level 5 by the id that published files call it, and a user of whom nothing is known but a vector."""
    npy = folder / "published vectors"
    npy.mkdir()
    for user_id in ("0000501", "0000033"):
        np.save(npy / f"{user_id}.npy", np.ones((1, LLM_DIM), np.float32))
    given = {"PSA_PATH": "sd15-published", "EMBEDS": npy}
    assert launch("infer_sd15_psa", LEVEL="5", OUT="level-5", **given)[0] == 0
    rows = rows_of(folder / "level-5")
    assert {(row["user_id"], row["level"], tuple(row["banned"])) for row in rows} == {("level_5", 5, CATEGORIES)}
    (folder / "33.csv").write_text("prompt,user_id\na cat,33.0\n")
    status, err = launch("infer_sd15_psa", META_FILE="33.csv", OUT="unknown", **given)
    assert (status, "nothing says what 1 of 1 users ban: 0000033" in err) == (0, True)
    assert [row["banned"] for row in rows_of(folder / "unknown")] == [None]


def test_a_published_checkpoint_draws_for_people_who_have_no_stored_vector(folder, launch):
    """_llm as published: the language model that made the vectors reads the columns of each row."""
    llm = save_language_model(folder / "published llm")
    people = [*sample_profiles(2, seed=1), *level_profiles()]
    EmbeddingStore.build(people, PublishedEmbedder(llm)).save_npy(folder / "llm npy")
    adapter = random_adapter(WHOLE["sd15"](), "published", llm_dim=32)
    write_published(adapter, folder / "llm-published/psa_adapter.safetensors")
    (folder / "new.csv").write_text("prompt,user_id,age,gender\na cat,new,9,female\na dog,0000001,30,male\n")
    given = {"PSA_PATH": "llm-published", "EMBEDS": "llm npy", "LLM": llm, "META_FILE": "new.csv", "OUT": "new"}
    status, err = launch("infer_sd15_psa_llm", **given)
    assert status == 0, err
    rows = rows_of(folder / "new")
    assert [(row["user_id"], row["recipe"]) for row in rows] == [("new", "published"), ("0000001", "published")]
    assert rows[0]["banned"] == ["Hate", "Violence", "Self-Harm", "Sexuality", "Shocking"]
    assert rows[1]["banned"] == list(EmbeddingStore.load(folder / "llm npy").banned("1"))


def test_profiles_read_by_a_language_model(folder, launch):
    llm = save_language_model(folder / "llm of ours")
    store = EmbeddingStore.build([*sample_profiles(20, seed=1), *level_profiles()], TransformersEmbedder(llm))
    store.save(folder / "llm-embeddings")
    adapter = random_adapter(WHOLE["sd15"](), "prompt", llm_dim=store.recipe.llm_dim)
    adapter.register_to_config(recipe=store.fingerprint)
    save_adapter(adapter, folder / "llm-adapter")
    given = {"PSA_PATH": "llm-adapter", "EMBEDS": "llm-embeddings", "LLM": llm, "OUT": "by-llm"}
    status, err = launch("infer_sd15_psa_llm", **given)
    assert status == 0, err
    assert len(rows_of(folder / "by-llm")) == 2


MISTAKES = {
    "no META_FILE": ("infer_sd15_base", {"META_FILE": "none.csv"}, "infer_sd15_base.sh: there is no none.csv.", 2),
    "no adapter": (
        "infer_sdxl_psa",
        {"PSA_PATH": None},
        "there is no trained_models/psa-sdxl. Make it: bash launchers/train_psa_sdxl.sh (or set PSA_PATH)",
        2,
    ),
    "a level for profiles": ("infer_sd15_psa_llm", {"LEVEL": "3"}, "LEVEL is for infer_sd15_psa.sh; unset it", 2),
    "no such Python": ("infer_sd15_base", {"PYTHON": "/no/python"}, "there is no /no/python; set PYTHON", 2),
    "level nine": ("infer_sd15_psa", {"LEVEL": "9"}, "Level must be 0, 1, 2, 3, 4 or 5; saw '9'", 2),
    "an adapter of another base": (
        "infer_sd15_psa",
        {"PSA_PATH": "psa-sdxl"},
        "trained for 'sdxl'; this run uses 'sd15'",
        1,
    ),
    "another model": ("infer_sd15_base", {"SD_MODEL": "nothing"}, "'sd15' cannot be loaded from nothing", 1),
    "no vectors": (
        "infer_sd15_psa",
        {"EMBEDS": None},
        "there is no data/embeddings. Make it: python utils/generate_user_embeddings.py (or set EMBEDS)",
        2,
    ),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_mistakes_give_a_message(mistake, folder, launch):
    name, environment, message, expected = MISTAKES[mistake]
    status, err = launch(name, OUT="wrong", **environment)
    assert (status, "Traceback" in err) == (expected, False)
    assert message in err
    assert not (folder / "wrong").exists()
