"""The command line: each command does its work, and a user's mistake gives a message, never a traceback."""

import errno
import json
import subprocess
import sys

import numpy as np
import pytest

from commands import run
from psalign.cli import main
from psalign.sage.dataset import write_split
from psalign.sage.names import picture_name
from psalign.users.population import sample_profiles
from psalign.users.profile import save_profiles
from psalign.users.store import EmbeddingStore
from psalign.users.vectors import StructuredEmbedder
from sage_rows import make_row


def test_generate_for_a_level(small_run, tmp_path, capsys):
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text(json.dumps({"file_name": "a.png", "prompt": "a red cat", "seed": 1}) + "\n")
    folder = small_run[0]
    arguments = ("--prompts", prompts, "--embeddings", folder / "embeddings", "--steps", 1)
    adapter = ("--adapter", folder / "training/prompt/adapter")
    assert run(capsys, "generate", *arguments, *adapter, "--level", 3, "--out", tmp_path / "a")[0] == 0
    row = json.loads((tmp_path / "a/manifest.jsonl").read_text())
    assert (row["level"], row["user_id"]) == (3, "level_3")
    assert row["banned"] == ["Violence", "Self-Harm", "Sexuality", "Shocking", "Propaganda"]


def test_users_sample_and_presets(tmp_path, capsys):
    assert run(capsys, "users", "sample", "-n", 5, "--out", tmp_path / "users.csv")[0] == 0
    assert len((tmp_path / "users.csv").read_text().splitlines()) == 6
    assert {"mini-quickstart", "psa-sd15", "psa-sdxl"} <= set(run(capsys, "presets")[1].split())
    assert json.loads(run(capsys, "presets", "mini-quickstart")[1])["base"] == "mini"


@pytest.fixture
def people(tmp_path):
    """users.csv of five users, the first two of them in the dataset `data`."""
    profiles = sample_profiles(5, seed=1)
    save_profiles(tmp_path / "users.csv", profiles)
    write_split(tmp_path / "data", "train", [row_of(profile.user_id) for profile in profiles[:2]])
    return profiles


def row_of(user_id):
    names = [picture_name((user_id, "Hate", "c", "00001"), unsafe=side) for side in (0, 1)]
    return make_row(user_id=user_id, chosen=names[0], rejected=names[1], user_data={"User_ID": user_id})


def test_embed_standardises_over_the_training_users_of_a_dataset(people, tmp_path, capsys):
    arguments = ("embed", "--users", tmp_path / "users.csv", "--out", tmp_path / "vectors")
    status, out, _ = run(capsys, *arguments, "--data", tmp_path / "data")
    assert (status, "11 vectors of width 64" in out) == (0, True)
    store = EmbeddingStore.load(tmp_path / "vectors")
    assert np.array_equal(store.space.mean, EmbeddingStore.build(people[:2], StructuredEmbedder()).space.mean)
    status, _, err = run(capsys, *arguments)
    assert (status, "with index.json and vectors.safetensors of another build" in err) == (1, True)
    assert run(capsys, *arguments, "--force")[0] == 0
    everyone = EmbeddingStore.load(tmp_path / "vectors")
    assert np.array_equal(everyone.space.mean, EmbeddingStore.build(people, StructuredEmbedder()).space.mean)


def test_embed_refuses_two_populations_and_training_users_it_does_not_know(people, tmp_path, capsys):
    arguments = ("embed", "--users", tmp_path / "users.csv", "--out", tmp_path / "vectors", "--data", tmp_path / "data")
    status, _, err = run(capsys, *arguments, "--like", tmp_path)
    assert (status, "--like and --data both say what to standardise by" in err) == (2, True)
    save_profiles(tmp_path / "users.csv", people[1:])
    status, _, err = run(capsys, *arguments)
    assert (status, f"have no profile: {people[0].user_id}." in err) == (1, True)
    assert "UnknownUser: 1 of 2 training users" in err
    assert not (tmp_path / "vectors").exists()


def test_a_preset_without_the_kind_that_is_asked_for(capsys):
    """And not with settings that nobody chose for that base model."""
    given = ("--kind", "published", "--preset", "psa-sdxl-vipl", "--steps", 5, "--data", "d", "--embeddings", "e")
    status, _, err = run(capsys, "train", *given)
    assert (status, "psa-sdxl-vipl says nothing of adapters of kind published." in err) == (2, True)


def test_a_wrong_level_is_a_usage_error(capsys):
    status, _, err = run(capsys, "generate", "--level", 9, "--prompts", "p", "--embeddings", "e")
    assert (status, err) == (2, "UsageError: Level must be 0, 1, 2, 3, 4 or 5; saw '9'.\n")


def test_paths_that_cannot_be_used_give_one_line(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.csv").mkdir()
    for out, seen, why in (
        ("file/users.csv", "file", "Not a directory"),
        ("file/a/users.csv", "file/a", "Not a directory"),
        ("folder.csv", "folder.csv", "Is a directory"),
    ):
        status, _, err = run(capsys, "users", "sample", "-n", 2, "--out", tmp_path / out)
        assert (status, err) == (1, f"OutputError: {tmp_path / seen} cannot be used: {why}.\n")


def test_a_folder_that_may_not_be_written_gives_one_line(tmp_path, capsys, monkeypatch):
    def refuse(path, profiles, replace):
        raise PermissionError(errno.EACCES, "Permission denied", str(path.with_name(f".{path.name}.1.part")))

    monkeypatch.setattr("psalign.users.profile.save_profiles", refuse)
    status, _, err = run(capsys, "users", "sample", "-n", 2, "--out", tmp_path / "users.csv")
    assert (status, err) == (1, f"OutputError: {tmp_path / 'users.csv'} cannot be used: Permission denied.\n")


@pytest.mark.parametrize("name", ["/elsewhere/weights", None])
def test_faults_of_the_program_keep_their_traceback(name, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise PermissionError(errno.EACCES, "Permission denied", name)

    monkeypatch.setattr("psalign.users.profile.save_profiles", refuse)
    with pytest.raises(PermissionError):
        main(["users", "sample", "-n", "2", "--out", str(tmp_path / "users.csv")])


@pytest.mark.slow
def test_mini_sheet_and_check(tmp_path, capsys):
    assert run(capsys, "mini", "sheet", "--out", tmp_path / "sheet.png")[0] == 0
    status, out, _ = run(capsys, "mini", "check", "-n", 2, "--out", tmp_path / "check.json")
    assert (status, "dB PSNR" in out) == (0, True)
    assert json.loads((tmp_path / "check.json").read_text())["base: subject"]["n"] == 2


MISTAKES = {
    "unknown preset": (("quickstart", "--preset", "magic"), 2, "Unknown preset 'magic'; choose one of"),
    "unknown setting": (
        ("quickstart", "--set", "prompt.training.speed=9", "--set", "dataset.speed=9"),
        2,
        "Unknown setting dataset.speed",
    ),
    "no such command": (("fly",), 2, "invalid choice: 'fly'"),
    "not a number": (("users", "sample", "-n", "many"), 2, "expected a whole number of at least 1, saw 'many'"),
    "unknown base": (
        ("generate", "--base", "sd9", "--prompts", "{prompts}", "--embeddings", "{embeddings}"),
        2,
        "Unknown base model 'sd9'; choose one of: mini, sd15, sdxl",
    ),
    "level 9": (("generate", "--level", "9", "--prompts", "p", "--embeddings", "e"), 2, "0, 1, 2, 3, 4 or 5; saw '9'"),
    "scale nan": (
        ("generate", "--scale", "nan", "--prompts", "{prompts}", "--embeddings", "{embeddings}"),
        2,
        "must be finite",
    ),
    "scale below zero": (
        ("generate", "--scale", "-1", "--prompts", "{prompts}", "--embeddings", "{embeddings}"),
        2,
        "scale must be at least 0; saw -1.0",
    ),
    "unknown section": (("quickstart", "--set", "training.lr=9"), 2, "Unknown setting training; choose one of: base"),
    "no prompts file": (("generate", "--prompts", "none.jsonl", "--embeddings", "{embeddings}"), 1, "does not exist"),
    "no users file": (("embed", "--users", "none.csv"), 1, "does not exist"),
    "no vectors": (("generate", "--prompts", "{prompts}", "--embeddings", "none"), 1, "Run: psalign embed"),
    "no dataset": (
        ("train", "--data", "none", "--embeddings", "{embeddings}"),
        1,
        "To try without SAGE: psalign mini build",
    ),
    "no adapter": (
        ("generate", "--adapter", "none", "--prompts", "{prompts}", "--embeddings", "{embeddings}"),
        1,
        "is not an adapter",
    ),
    "adapter of another base": (
        ("generate", "--adapter", "{other}", "--prompts", "{prompts}", "--embeddings", "{embeddings}"),
        1,
        "was trained for 'sd15'; this run uses 'mini'",
    ),
    "no pictures": (("eval", "run", "--images", "none"), 2, "holds no cell"),
}


@pytest.mark.parametrize("words", [(), ("users",), ("eval",)])
def test_without_a_command_the_help_is_printed(words, capsys):
    status, out, err = run(capsys, *words)
    assert (status, out.startswith("usage: psalign"), err) == (0, True, "")


@pytest.fixture
def places(small_run, tmp_path, monkeypatch):
    import shutil

    monkeypatch.chdir(tmp_path)
    other = tmp_path / "other"
    shutil.copytree(small_run[0] / "training/prompt/adapter", other)
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "base": "sd15"}))
    return {
        "{prompts}": small_run[0] / "data/prompts.jsonl",
        "{embeddings}": small_run[0] / "embeddings",
        "{other}": other,
    }


@pytest.mark.parametrize("case", MISTAKES)
def test_mistakes(case, places, capsys):
    arguments, status, message = MISTAKES[case]
    seen, _, err = run(capsys, *[places.get(argument, argument) for argument in arguments])
    assert (seen, message in err) == (status, True), err


def test_interrupting_says_how_to_go_on(capsys, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr("psalign.users.population.sample_profiles", interrupted)
    status, _, err = run(capsys, "users", "sample")
    assert status == 130
    assert "goes on from what is on disk" in err


def test_every_help_has_an_example(capsys):
    commands = ["quickstart", "train", "generate", "eval run", "embed", "presets", "users sample", "mini build",
                "adapter info",
                "mini train-base", "mini train-detector", "mini train-clip", "mini check", "mini sheet",
                "mini reference"]  # fmt: skip
    for command in commands:
        status, out, _ = run(capsys, *command.split(), "--help")
        assert status == 0
        assert f"Example:  psalign {command}" in out


def test_help_loads_no_torch():
    code = "import sys; from psalign.cli import main\ntry: main(['--help'])\nexcept SystemExit: pass\nassert 'torch' not in sys.modules"  # noqa: E501
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_python_dash_m():
    done = subprocess.run([sys.executable, "-m", "psalign", "--version"], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("psalign ")
