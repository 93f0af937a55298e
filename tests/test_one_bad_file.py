"""One bad picture or one bad file of weights costs nobody else anything: the other metrics and cells get their rows."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest

from picture_folders import make_clip, make_folder
from psalign.benchmark import measure as cells
from psalign.cli import main

CELLS = ("base", "psa")
METRICS = ("clip", "fid", "kid")


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("models") / "clip")


@pytest.fixture
def world(tmp_path, monkeypatch, clip):
    """Two cells of three pictures, pictures to compare with, and a text-image model."""
    monkeypatch.chdir(tmp_path)
    cells._models.cache_clear()  # a process keeps the models it has loaded
    for method in CELLS:
        folder = make_folder(Path("images/mini") / method / "mini", ["a red cat", "a dog", "a bird"], size=(64, 64))
        text = (folder / "manifest.jsonl").read_text()
        (folder / "manifest.jsonl").write_text(text.replace('"method": "base"', f'"method": "{method}"'))
    make_folder(Path("reference"), ["a", "b", "c"], size=(64, 64), seed=1)
    shutil.copytree(clip, "clip")
    return tmp_path


def measure(*more):
    """Exit status, and what results.csv says: state and note by method and metric."""
    status = main(["eval", "run", "--images", "images", "--output", "results.csv", "--workers", "0", "--cache", "cache",
                   "--metrics", *METRICS, "--clip", "clip", "--fid-reference", "reference", *more])  # fmt: skip
    with open("results.csv", newline="") as stream:
        rows = {(row["method"], row["metrics"]): (row["state"], row["note"]) for row in csv.DictReader(stream)}
    return status, rows


def a_folder(path):
    path.unlink()
    path.mkdir()


def a_link_to_nothing(path):
    path.unlink()
    path.symlink_to("gone")


PICTURES = {
    "cut short": lambda path: path.write_bytes(path.read_bytes()[:300]),
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("hello"),
    "a folder": a_folder,
    "a link to nothing": a_link_to_nothing,
}


@pytest.mark.parametrize("spoil", PICTURES.values(), ids=PICTURES)
def test_a_bad_picture_costs_its_own_cell_alone(spoil, world, capsys):
    spoil(Path("images/mini/base/mini/1.png"))
    status, rows = measure()
    assert status == 1
    for metric in METRICS:
        state, note = rows["base", metric]
        assert (state, "1.png" in note) == ("failed", True)
        assert rows["psa", metric][0] == "succeeded"
    assert "Traceback" not in capsys.readouterr().err


def test_a_picture_that_may_not_be_read_costs_its_own_cell_alone(world, monkeypatch):
    def refuse(path):
        if path == Path("images/mini/base/mini/1.png"):
            raise PermissionError(13, "Permission denied", str(path))
        return read(path)

    from psalign.evaluation import runner

    read = runner.file_fingerprint
    monkeypatch.setattr(runner, "file_fingerprint", refuse)
    status, rows = measure()
    assert status == 1
    for metric in METRICS:
        state, note = rows["base", metric]
        assert (state, note.endswith("Permission denied: images/mini/base/mini/1.png")) == ("failed", True)
        assert rows["psa", metric][0] == "succeeded"


def another_taxonomy(path):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    path.write_text("".join(json.dumps({**row, "taxonomy": "ten#1"}) + "\n" for row in rows))


def without_its_first_row(path):
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))


MANIFESTS = {
    "cut short": (lambda path: path.write_bytes(path.read_bytes()[:-30]), "line 3: not JSON"),
    "empty": (lambda path: path.write_bytes(b""), "the manifest has no rows"),
    "a page": (lambda path: path.write_text("<html>\n<body>"), "line 1: not JSON"),
    "binary": (lambda path: path.write_bytes(bytes(range(128, 256))), "not UTF-8 text"),
    "a folder": (a_folder, "Is a directory"),
    "a list": (lambda path: path.write_text("[1, 2]\n"), "expected a JSON object, saw list"),
    "a number for a prompt": (
        lambda path: path.write_text(path.read_text().replace('"a dog"', "7")),
        "prompt must be text; saw '7'",
    ),
    "one row too few": (without_its_first_row, "have no row in the manifest: 0.png"),
    "of another taxonomy": (another_taxonomy, "Give the file of 'ten': psalign --taxonomy FILE"),
}


@pytest.mark.parametrize(("spoil", "why"), MANIFESTS.values(), ids=MANIFESTS)
def test_a_bad_manifest_costs_its_own_cell_alone(spoil, why, world, capsys):
    spoil(Path("images/mini/base/mini/manifest.jsonl"))
    status, rows = measure()
    assert status == 1
    for metric in METRICS:
        assert rows["base", metric][0] == "failed"
        assert why in rows["base", metric][1]
        assert rows["psa", metric][0] == "succeeded"
    said = capsys.readouterr()
    assert "Traceback" not in said.err
    assert said.out.count(why) == len(METRICS)  # one line for each metric, with what to do
    assert main(["eval", "report", "--images", "images", "--results", "results.csv", "--no-figures"]) == 1
    said = capsys.readouterr().err
    assert "Left out: " in said
    assert "Traceback" not in said
    assert "PSAlign" in Path("outputs/report/report.html").read_text()


def test_a_manifest_where_no_cell_is_costs_nobody_a_number(world, capsys):
    shutil.copytree("images/mini/base/mini", "images/mini/magic/mini")
    shutil.copy("images/mini/base/mini/manifest.jsonl", "images/manifest.jsonl")
    status, rows = measure()
    assert status == 1
    assert {state for state, _ in rows.values()} == {"succeeded"}
    said = capsys.readouterr()
    for folder in ("images", "images/mini/magic/mini"):
        assert f"Left out: {folder} is no cell of images: " in said.err
    assert "Move it out of images, or to <dataset>/<method>/<base>" in said.err
    assert "2 folders left out: results.csv" in said.out
    assert main(["eval", "report", "--images", "images", "--results", "results.csv", "--no-figures"]) == 1
    assert capsys.readouterr().err.count("Left out: ") == 2
    assert Path("outputs/report/report.html").is_file()


def change(name, **changes):
    path = Path("clip") / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


MODELS = {
    "no weights": lambda: os.unlink("clip/model.safetensors"),
    "weights cut short": lambda: os.truncate("clip/model.safetensors", 500),
    "no vocabulary": lambda: os.unlink("clip/tokenizer.json"),
    "pictures of another size": lambda: change("preprocessor_config.json", crop_size={"height": 9, "width": 5}),
    "a mean of text": lambda: change("preprocessor_config.json", image_mean="x"),
    "settings that are a list": lambda: Path("clip/preprocessor_config.json").write_text("[]"),
    "another model": lambda: change("config.json", model_type="bert"),
}


@pytest.mark.parametrize("spoil", MODELS.values(), ids=MODELS)
def test_a_bad_model_costs_its_own_metric_alone(spoil, world, capsys):
    spoil()
    status, rows = measure()
    assert status == 1
    for method in CELLS:
        state, note = rows[method, "clip"]
        assert (state, note.startswith("The text-image model 'clip' ")) == ("failed", True), note
        assert {rows[method, metric][0] for metric in ("fid", "kid")} == {"succeeded"}
    assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("content", [b"", b"text", bytes(range(256))])
def test_a_bad_reference_costs_its_own_metrics_alone(content, world, capsys):
    Path("statistics.safetensors").write_bytes(content)
    status, rows = measure("--fid-reference", "statistics.safetensors")
    assert status == 1
    for method in CELLS:
        assert rows[method, "clip"][0] == "succeeded"
        for metric in ("fid", "kid"):
            state, note = rows[method, metric]
            assert (state, note.startswith("statistics.safetensors cannot be read")) == ("failed", True), note
    assert "Traceback" not in capsys.readouterr().err
