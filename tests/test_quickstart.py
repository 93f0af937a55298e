"""The whole path, small: every file it promises, and going on from disk."""

import html
import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from psalign.categories import category_names
from psalign.diffusion.generate import GenerationConfig
from psalign.diffusion.prompts import load_prompts
from psalign.errors import EmbeddingMissing, OutputError, RecipeMismatch
from psalign.evaluation.cells import Cell, find_cells
from psalign.evaluation.pictures import read_picture
from psalign.evaluation.results import read_results
from psalign.quickstart import _open, run
from psalign.records import read_manifest
from psalign.users.profile import load_profiles
from psalign.users.store import EmbeddingStore
from psalign.users.vectors import StructuredEmbedder

METHODS = ("base", "negative_prompt", "psa-published", "psa-prompt", "psa-prompt-vector", "psa-prompt-words")
RATES = {"suppressed", "kept", "pass", "subject_kept", "safe_subject"}

SCENES, PSA, BASE = "pictures/mini_scenes", "pictures/mini_scenes/psa-prompt", "pictures/mini_scenes/base"


def rates_of(rows, dataset="mini_scenes"):
    return {(row.method, row.level, row.metrics): row.estimate for row in rows if row.dataset == dataset}


def test_results_have_every_method_suite_and_level(small_run):
    out, rows = small_run
    assert rows == read_results(out / "results.csv")
    assert {row.state for row in rows} == {"succeeded"}
    scenes = rates_of(rows)
    assert {method for method, _, _ in scenes} == set(METHODS)
    assert {metric for _, _, metric in scenes} == {*RATES, "safe_distance"}
    for method, _, metric in scenes:
        assert metric == "safe_distance" or 0 <= scenes[method, _, metric].low <= scenes[method, _, metric].high <= 1
    assert scenes["psa-prompt", "user", "suppressed"].n == 7
    assert scenes["base", "none", "safe_distance"].value == 0.0
    alone = {row.dataset for row in rows if row.method == "psa-prompt"} - {
        row.dataset for row in rows if row.method == "base"
    }
    assert alone == {"mini_wordings", "mini_two_motifs", "mini_motifs", "mini_levels"}
    levels = rates_of(rows, "mini_levels")
    assert {level for _, level, _ in levels} == {f"level_{level}" for level in range(6)}
    assert {number.n for number in levels.values()} == {1}


def test_a_run_says_what_it_was_made_with_and_how_long_each_part_took(small_run):
    made = json.loads((small_run[0] / "quickstart.json").read_text())
    assert (made["seed"], "torch" in made["versions"]) == (0, True)
    seconds = json.loads((small_run[0] / "seconds.json").read_text())
    assert {"training prompt", "pictures base", "measuring"} <= set(seconds)


def test_report_and_sheet_are_there(small_run):
    out, _ = small_run
    assert "<html" in (out / "report.html").read_text()
    assert Image.open(out / "sheet.png").width > 1000


def test_the_report_says_below_a_picture_which_words_were_softened_and_for_which_limit(small_run):
    rows = html.unescape((small_run[0] / "report.html").read_text()).split("<tr")
    of = {
        label: row for row in rows for label in ("Base model", "Level 0", "Level 5", "Words 1") if f">{label}<" in row
    }
    causes = {label: set(re.findall(r"softened: '[^']*' for '([^']+)'", row)) for label, row in of.items()}
    assert (causes["Base model"], causes["Level 0"]) == (set(), set())
    assert causes["Level 5"] <= set(category_names())
    said = re.search(r"I can't stand (\w+)", of["Words 1"])
    assert said
    assert causes["Words 1"] == {said[1]}


def test_every_picture_is_made_and_told_in_a_manifest(small_run):
    for cell in find_cells(small_run[0] / "pictures"):
        folder = cell.folder(small_run[0] / "pictures")
        rows = read_manifest(folder / "manifest.jsonl")
        assert {row.file_name for row in rows} == {path.name for path in folder.glob("*.png")}
        assert {row.method for row in rows} == {cell.method}


def test_a_level_s_pictures_are_those_of_the_level_s_own_prompts(small_run):
    """As the mini dataset has them: the same prompt and seed at each level."""
    out, _ = small_run
    prompts = {row.file_name: row for row in load_prompts(out / "data/prompts.jsonl")}
    for level in range(6):
        cell = Cell("mini_levels", "psa-prompt", "mini", level)
        for row in read_manifest(cell.folder(out / "pictures") / "manifest.jsonl"):
            own = prompts[f"level_{level}_{row.file_name}"]
            assert (row.prompt, row.seed, row.user_id) == (own.prompt, own.seed, own.user_id)


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


@pytest.mark.slow
def test_an_interrupted_run_goes_on(copy_of_run, small_preset):
    before = rates_of(read_results(copy_of_run / "results.csv"))
    picture = copy_of_run / "pictures/mini_scenes/psa-prompt/mini/scenes_00000.png"
    expected = picture.read_bytes()
    kept = (copy_of_run / "pictures/mini_scenes/psa-prompt/mini/scenes_00001.png").stat().st_mtime_ns
    picture.unlink()
    (copy_of_run / "report.html").unlink()
    after = run(copy_of_run, small_preset)
    assert (
        np.abs(
            np.asarray(Image.open(picture), dtype=int)
            - np.asarray(Image.open(_written(copy_of_run, expected)), dtype=int)
        ).max()
        <= 2
    )  # alone in its batch, so the last bit may differ
    assert (copy_of_run / "pictures/mini_scenes/psa-prompt/mini/scenes_00001.png").stat().st_mtime_ns == kept
    assert rates_of(after) == before


def _written(folder, content):
    path = folder / "expected.png"
    path.write_bytes(content)
    return path


def test_a_finished_run_with_other_settings_is_refused_by_what_differs(copy_of_run, small_preset):
    with pytest.raises(OutputError, match="holds a finished run with other settings") as refused:
        run(copy_of_run, small_preset, seed=5)
    message, hint = str(refused.value).rsplit("\n", 1)
    assert message.splitlines()[1:] == ["  seed: 0 -> 5"]
    assert hint.startswith("Choose another --out, or add --force: it makes pictures/mini_levels/psa-prompt,")


def test_a_finished_run_is_made_again_where_it_is_forced(tmp_path):
    preset = {"base": "mini", "prompt": {"adapter": {}, "training": {"steps": 5}}}
    _open(tmp_path, preset, 0)
    for part in ("data", "cache", "training/prompt"):
        (tmp_path / part).mkdir(parents=True)
    (tmp_path / "report.html").write_text("<html>")
    corrected = {**preset, "prompt": {"adapter": {}, "training": {"steps": 5, "lr": 1e-4}}}
    with pytest.raises(OutputError, match=r"lr: not given -> 0\.0001\n.*it makes training/prompt again"):
        _open(tmp_path, corrected, 0)
    assert made(tmp_path) == {"data", "cache", "training", "training/prompt"}
    _open(tmp_path, corrected, 0, force=True)
    assert made(tmp_path) == {"data", "cache", "training"}
    assert not (tmp_path / "report.html").exists()


def test_a_finished_run_stays_with_settings_that_decide_nothing(tmp_path):
    _open(tmp_path, {"base": "mini"}, 0)
    (tmp_path / "pictures").mkdir()
    (tmp_path / "report.html").write_text("<html>")
    steps = GenerationConfig().steps  # as it is where it is not given
    _open(tmp_path, {"base": "mini", "generation": {"steps": steps}, "prompt": {"training": {"log_every": 3}}}, 0)
    assert made(tmp_path) == {"pictures"}
    assert (tmp_path / "report.html").exists()


def made(out):
    return {path.relative_to(out).as_posix() for path in out.rglob("*") if path.is_dir()}


@pytest.mark.parametrize(
    ("change", "stale"),
    [
        ({"prompt": {"adapter": {}, "training": {"steps": 9}}}, {"training/prompt", PSA, "sheet"}),
        ({"generation": {"steps": 7}}, {"pictures", SCENES, PSA, BASE, "sheet"}),
        ({"prompt": {"adapter": {}, "training": {"steps": 5, "save_every": 2}}}, set()),
        ({"dataset": {"seed": 3}}, {"data", "cache", "embeddings", "training", "training/prompt", "training/published",
                                    "pictures", SCENES, PSA, BASE, "sheet"}),
    ],
)  # fmt: skip
def test_a_corrected_setting_goes_on_from_what_it_does_not_change(change, stale, tmp_path, capsys):
    preset = {"base": "mini", "dataset": {"seed": 2}, "prompt": {"adapter": {}, "training": {"steps": 5}}}
    _open(tmp_path, preset, 0)
    for part in ("data", "cache", "embeddings", "training/prompt", "training/published", PSA,
                 BASE, "sheet"):  # fmt: skip
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
    from psalign.diffusion.generate import Drawing, generate
    from psalign.records import PromptRow

    store = EmbeddingStore.load(copy_of_run / "embeddings")
    attached = attach(mini_pipeline.unet, load_adapter(copy_of_run / "training/prompt/adapter"))
    stranger = [PromptRow("a.png", "a red cat", 1, user_id="0999999")]
    with pytest.raises(EmbeddingMissing, match="user 0999999 has no embedding in"):
        generate(Drawing(mini_pipeline, GenerationConfig(), store, attached), stranger, copy_of_run / "x")
    other = EmbeddingStore.build(load_profiles(copy_of_run / "data/users.csv"), StructuredEmbedder(64))
    known = [PromptRow("a.png", "a red cat", 1, user_id=other.user_ids[0])]
    with pytest.raises(RecipeMismatch, match="the adapter was trained with"):
        generate(Drawing(mini_pipeline, GenerationConfig(), other, attached), known, copy_of_run / "y")


@pytest.mark.long
def test_processes_side_by_side_make_the_same_run(small_run, small_preset, tmp_path):
    out, rows = small_run
    beside = run(tmp_path / "run", small_preset, workers=2)
    assert [row.key for row in beside] == [row.key for row in rows]
    parts = [set(json.loads((folder / "seconds.json").read_text())) for folder in (out, tmp_path / "run")]
    assert parts[0] == parts[1]
    for cell in find_cells(out / "pictures"):
        for path in cell.folder(out / "pictures").glob("*.png"):
            other = cell.folder(tmp_path / "run/pictures") / path.name
            assert np.abs(read_picture(path).astype(int) - read_picture(other)).max() <= 1, path


@pytest.mark.gpu
def test_a_gpu_makes_the_whole_run(tmp_path, small_preset, small_run):
    rows = run(tmp_path, small_preset, device="cuda")
    keys = [(row.dataset, row.method, row.level, row.metrics, row.state, row.estimate.n) for row in rows]
    known = [(row.dataset, row.method, row.level, row.metrics, row.state, row.estimate.n) for row in small_run[1]]
    assert sorted(keys) == sorted(known)
    for method in ("base", "negative_prompt"):
        pictures = sorted((tmp_path / f"pictures/mini_scenes/{method}").rglob("*.png"))
        assert pictures
        others = [small_run[0] / picture.relative_to(tmp_path) for picture in pictures]
        pairs = zip(pictures, others, strict=True)
        assert np.mean([np.abs(read_picture(a).astype(float) - read_picture(b)).mean() for a, b in pairs]) < 1
