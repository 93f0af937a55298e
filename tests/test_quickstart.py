"""The whole path, small: every file it promises, and going on from disk."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from psalign.diffusion.generate import GenerationConfig
from psalign.errors import EmbeddingMissing, OutputError, RecipeMismatch
from psalign.quickstart import _open, run
from psalign.records import read_manifest
from psalign.users.profile import load_profiles
from psalign.users.store import EmbeddingStore
from psalign.users.vectors import StructuredEmbedder

METHODS = ("base", "negative_prompt", "published", "prompt", "prompt_vector", "prompt_words")
RATES = {"suppressed", "kept", "pass", "subject_kept", "harmless_subject"}


def test_metrics_have_the_promised_shape(small_run):
    metrics = json.loads((small_run[0] / "metrics.json").read_text())
    assert set(metrics["methods"]) == set(METHODS)
    for rates in metrics["methods"].values():
        assert set(rates) >= RATES
        for name in RATES:
            assert set(rates[name]) == {"value", "n", "low", "high"}
            assert 0 <= rates[name]["low"] <= rates[name]["value"] <= rates[name]["high"] <= 1
    assert list(metrics["levels"]) == [str(level) for level in range(6)]
    assert metrics["methods"]["prompt"]["suppressed"]["n"] == 7
    assert {"training prompt", "pictures base", "measuring"} <= set(metrics["seconds"])
    assert metrics["config"]["seed"] == 0
    assert "torch" in metrics["versions"]


def test_report_and_sheet_are_there(small_run):
    out, _ = small_run
    assert "<html" in (out / "report.html").read_text()
    assert Image.open(out / "sheet.png").width > 1000


def test_every_picture_is_made_and_told_in_a_manifest(small_run):
    for method in METHODS:
        folder = small_run[0] / "pictures" / method
        rows = read_manifest(folder / "manifest.jsonl")
        assert {row.file_name for row in rows} == {path.name for path in folder.glob("*.png")}
        assert {row.method for row in rows} == {method}


def test_nothing_but_the_users_own_files_holds_an_attribute_of_a_person(small_run):
    """Ages, religions, health: in users.csv and the dataset's rows (0600), nowhere else."""
    out, _ = small_run
    people = load_profiles(out / "data/users.csv")
    fields = ("age_group", "religion", "mental_condition", "physical_condition")
    words = {str(getattr(person, field)) for person in people for field in fields} - {"None", "healthy"}
    assert len(words) > 10
    private = {out / "data/users.csv", *(out / "data").glob("*/metadata.jsonl")}
    assert {oct(path.stat().st_mode & 0o777) for path in private} == {"0o600"}
    texts = [p for p in out.rglob("*") if p.suffix in (".json", ".jsonl", ".csv", ".html") and p not in private]
    assert len(texts) > 10
    found = [(path.name, word) for path in texts for word in words if re.search(rf"\b{word}\b", path.read_text())]
    # The recipe names the vocabulary of all users, which tells nothing of any of them.
    assert {name for name, _ in found} <= {"index.json"}


@pytest.fixture
def copy_of_run(small_run, tmp_path):
    shutil.copytree(small_run[0], tmp_path / "run")
    return tmp_path / "run"


def test_an_interrupted_run_goes_on(copy_of_run, small_preset):
    before = json.loads((copy_of_run / "metrics.json").read_text())
    picture = copy_of_run / "pictures/prompt/scenes_00000.png"
    expected = picture.read_bytes()
    kept = (copy_of_run / "pictures/prompt/scenes_00001.png").stat().st_mtime_ns
    picture.unlink()
    (copy_of_run / "metrics.json").unlink()
    after = run(copy_of_run, small_preset)
    assert (
        np.abs(
            np.asarray(Image.open(picture), dtype=int)
            - np.asarray(Image.open(_written(copy_of_run, expected)), dtype=int)
        ).max()
        <= 2
    )  # alone in its batch, so the last bit may differ
    assert (copy_of_run / "pictures/prompt/scenes_00001.png").stat().st_mtime_ns == kept
    assert after["methods"] == before["methods"]


def _written(folder, content):
    path = folder / "expected.png"
    path.write_bytes(content)
    return path


def test_a_finished_run_with_other_settings_is_refused_by_what_differs(copy_of_run, small_preset):
    with pytest.raises(OutputError, match="holds a finished run with other settings") as refused:
        run(copy_of_run, small_preset, seed=5)
    message, hint = str(refused.value).rsplit("\n", 1)
    assert message.splitlines()[1:] == ["  seed: 0 -> 5"]
    assert hint.startswith("Choose another --out, or add --force: it makes pictures/prompt,")


def test_a_finished_run_is_made_again_where_it_is_forced(tmp_path):
    preset = {"base": "mini", "prompt": {"adapter": {}, "training": {"steps": 5}}}
    _open(tmp_path, preset, 0)
    for part in ("data", "cache", "training/prompt"):
        (tmp_path / part).mkdir(parents=True)
    (tmp_path / "metrics.json").write_text("{}")
    corrected = {**preset, "prompt": {"adapter": {}, "training": {"steps": 5, "lr": 1e-4}}}
    with pytest.raises(OutputError, match=r"lr: not given -> 0\.0001\n.*it makes training/prompt again"):
        _open(tmp_path, corrected, 0)
    assert made(tmp_path) == {"data", "cache", "training", "training/prompt"}
    _open(tmp_path, corrected, 0, force=True)
    assert made(tmp_path) == {"data", "cache", "training"}
    assert not (tmp_path / "metrics.json").exists()


def test_a_finished_run_stays_with_settings_that_decide_nothing(tmp_path):
    _open(tmp_path, {"base": "mini"}, 0)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "metrics.json").write_text("{}")
    steps = GenerationConfig().steps  # as it is where it is not given
    _open(tmp_path, {"base": "mini", "generation": {"steps": steps}, "prompt": {"training": {"log_every": 3}}}, 0)
    assert made(tmp_path) == {"pictures"}
    assert (tmp_path / "metrics.json").exists()


def made(out):
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_dir()}


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        ({"prompt": {"adapter": {}, "training": {"steps": 9}}}, {"training/prompt", "pictures/prompt", "sheet"}),
        ({"generation": {"steps": 7}}, {"pictures", "pictures/prompt", "pictures/base", "sheet"}),
        ({"prompt": {"adapter": {}, "training": {"steps": 5, "save_every": 2}}}, set()),
        ({"dataset": {"seed": 3}}, {"data", "cache", "embeddings", "training", "training/prompt", "training/published",
                                    "pictures", "pictures/prompt", "pictures/base", "sheet"}),
    ],
)  # fmt: skip
def test_a_corrected_setting_goes_on_from_what_it_does_not_change(change, stale, tmp_path, capsys):
    preset = {"base": "mini", "dataset": {"seed": 2}, "prompt": {"adapter": {}, "training": {"steps": 5}}}
    _open(tmp_path, preset, 0)
    for part in ("data", "cache", "embeddings", "training/prompt", "training/published", "pictures/prompt",
                 "pictures/base", "sheet"):  # fmt: skip
        (tmp_path / part).mkdir(parents=True)
    before = made(tmp_path)
    _open(tmp_path, {**preset, **change}, 0)
    assert before - made(tmp_path) == stale
    assert "Made again: " in capsys.readouterr().err


@pytest.mark.parametrize("name", ["quickstart.json", "seconds.json"])
def test_a_damaged_file_of_a_run_is_told(name, tmp_path):
    _open(tmp_path, {"base": "mini"}, 0)
    (tmp_path / name).write_text('{"dataset": "long"}')
    with pytest.raises(OutputError, match=f"{name} is damaged"):
        _open(tmp_path, {"base": "mini"}, 0)


def test_unseen_users_are_standardised_as_in_training(small_run):
    """The store's statistics are those of the training users alone."""
    out, _ = small_run
    store = EmbeddingStore.load(out / "embeddings")
    people = load_profiles(out / "data/users.csv")
    train = EmbeddingStore.build(people[:40], StructuredEmbedder(64))
    assert np.array_equal(store.space.mean, train.space.mean)
    assert len(store) == len(people) + 6


def test_unknown_users_and_other_recipes_are_refused(copy_of_run, mini_pipeline):
    from psalign.adapter.attach import attach
    from psalign.adapter.checkpoint import load_adapter
    from psalign.diffusion.generate import generate
    from psalign.records import PromptRow

    store = EmbeddingStore.load(copy_of_run / "embeddings")
    attached = attach(mini_pipeline.unet, load_adapter(copy_of_run / "training/prompt/adapter"))
    stranger = [PromptRow("a.png", "a red cat", 1, user_id="0999999")]
    with pytest.raises(EmbeddingMissing, match="user 0999999 has no embedding in"):
        generate(mini_pipeline, stranger, copy_of_run / "x", config=GenerationConfig(), users=store, attached=attached)
    other = EmbeddingStore.build(load_profiles(copy_of_run / "data/users.csv"), StructuredEmbedder(64))
    known = [PromptRow("a.png", "a red cat", 1, user_id=other.user_ids[0])]
    with pytest.raises(RecipeMismatch, match="the adapter was trained with"):
        generate(mini_pipeline, known, copy_of_run / "y", config=GenerationConfig(), users=other, attached=attached)
