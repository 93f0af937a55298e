"""The grid: which cells, drawn fairly, by every method, resumed, and what could not be drawn with its reason."""

import json
from dataclasses import replace

import numpy as np
import pytest
from safetensors.torch import save_file

from prompt_set_files import write_set
from psalign.baselines.sld import SafeGuidance
from psalign.benchmark.grid import GridConfig, describe, draw_grid, plan_cells
from psalign.benchmark.methods import draw_by
from psalign.diffusion.prompts import derive_seed
from psalign.errors import DatasetError, OutputError, UsageError
from psalign.evaluation.cells import Cell
from psalign.evaluation.estimate import Estimate
from psalign.evaluation.pictures import complete_rows
from psalign.evaluation.results import append_results, read_results, result_row
from psalign.records import read_manifest
from psalign.users import EmbeddingStore, StructuredEmbedder, level_profiles, sample_profiles
from psalign.users.profile import save_profiles
from tiny_pipelines import LLM_DIM, PIPELINES, save_lora, save_with_adapter

ALL_LEVELS = (None, 0, 1, 2, 3, 4, 5)


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """Tiny models of both layouts with weights for every method, users and their vectors, prompts."""
    where = tmp_path_factory.mktemp("grid")
    people = sample_profiles(3, seed=1)
    store = EmbeddingStore.build([*people, *level_profiles()], StructuredEmbedder(LLM_DIM))
    store.save(where / "embeddings")
    save_profiles(where / "users.csv", people)
    for base, make in PIPELINES.items():
        pipeline = make()
        save_with_adapter(pipeline, base, where, recipe=store.fingerprint)
        save_lora(base, where / f"lora-{base}")
        edits = {name: value * 3 for name, value in pipeline.unet.state_dict().items() if ".attn2.to_v" in name}
        save_file(edits, where / f"edits-{base}.safetensors")
    write_set(where / "prompts", "debug")
    write_set(where / "prompts", "sage_unseen", user_id=store.user_ids[0])
    return where


PUBLISHED = ("base", "negative_prompt", "sld", "esdu", "uce", "safetydpo", "psa")  # methods of the published folders


def config_of(world, **changes):
    bases = tuple(PIPELINES)
    weights = {("psa", base): world / f"psa-{base}" for base in bases}
    weights |= {("safetydpo", base): world / f"lora-{base}" for base in bases}
    weights |= {(method, base): world / f"edits-{base}.safetensors" for base in bases for method in ("esdu", "uce")}
    given = GridConfig(
        prompts=world / "prompts",
        weights=weights,
        embeddings=dict.fromkeys(bases, world / "embeddings"),
        models={base: str(world / base) for base in bases},
        steps=2,
        batch_size=2,
        limit=2,
        sld="max",
    )
    return replace(given, **changes)


def pictures(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*.png"))}


def test_which_cells():
    own = plan_cells(["sage_seen"], ["base", "psa"], ["sd15"])
    assert own == [Cell("sage_seen", "base", "sd15"), Cell("sage_seen", "psa", "sd15")]
    six = plan_cells(["coco_10k"], ["psa"], ["sd15"])
    assert [cell.level for cell in six] == [0, 1, 2, 3, 4, 5]
    assert [cell.level for cell in plan_cells(["mini"], ["psa"], ["mini"], ALL_LEVELS)] == list(ALL_LEVELS)
    with pytest.raises(UsageError, match=r"rows of coco_10k are for no user.*\nGive --levels 0 1 2 3 4 5"):
        plan_cells(["coco_10k"], ["psa"], ["sd15"], [None])
    with pytest.raises(UsageError, match="Unknown method 'magic'"):
        plan_cells(["mini"], ["magic"], ["mini"])
    with pytest.raises(UsageError, match="Unknown base model 'sd3'"):
        plan_cells(["mini"], ["base"], ["sd3"])


@pytest.mark.parametrize("base", PIPELINES)
def test_every_method_draws_the_same_rows_in_its_own_way(world, tmp_path, base):
    cells = plan_cells(["sage_unseen"], PUBLISHED, [base])
    outcomes = draw_grid(cells, tmp_path, config=config_of(world), results=tmp_path / "results.csv")
    assert [(outcome.cell, outcome.state, outcome.pictures) for outcome in outcomes] == [(c, "drawn", 2) for c in cells]
    drawn = {cell.method: pictures(cell.folder(tmp_path)) for cell in cells}
    assert {tuple(files) for files in drawn.values()} == {tuple(drawn["base"])}
    same = {method for method, files in drawn.items() if files == drawn["base"]}
    assert same == {"base"}
    assert drawn["esdu"] == drawn["uce"]  # here of the same weights
    manifests = [read_manifest(cell.folder(tmp_path) / "manifest.jsonl") for cell in cells]
    rows = {tuple((row.file_name, row.prompt, row.seed, row.user_id, row.banned) for row in rows) for rows in manifests}
    assert len(rows) == 1
    assert [rows[0].method for rows in manifests] == list(PUBLISHED)
    assert manifests[0][1].seed == derive_seed(2025, 525)  # the 526th of 1,050 rows, whatever the limit
    run = json.loads((cells[0].folder(tmp_path) / "run.json").read_text())["config"]
    assert run["options"] == {"dataset": "sage_unseen", "limit": 2, "seed_policy": "paired"}
    assert not (tmp_path / "results.csv").exists()  # nothing is missing


def test_levels_of_a_dataset_without_users(world, tmp_path):
    cells = plan_cells(["debug"], ["base", "psa"], ["sd15"], [0, 5])
    draw_grid(cells, tmp_path, config=config_of(world))
    manifest = read_manifest(tmp_path / "debug/psa/sd15/level_5/manifest.jsonl")
    assert {(row.user_id, row.level, len(row.banned)) for row in manifest} == {("level_5", 5, 7)}
    assert {row.user_id for row in read_manifest(tmp_path / "debug/base/sd15/manifest.jsonl")} == {None}
    assert pictures(cells[1].folder(tmp_path)) != pictures(cells[2].folder(tmp_path))


def test_levels_may_be_drawn_before_own_users_whose_folder_they_lie_in(world, tmp_path):
    for levels in ([3], [None], [3, None]):
        cells = plan_cells(["sage_unseen"], ["psa"], ["sd15"], levels)
        assert [outcome.state for outcome in draw_grid(cells, tmp_path, config=config_of(world))] == ["drawn"] * len(
            cells
        )
    assert len(complete_rows(cells[1].folder(tmp_path))) == 2


def test_what_was_interrupted_goes_on_to_the_same_pictures(world, tmp_path):
    cells, config = plan_cells(["debug"], ["base", "sld"], ["sd15"]), config_of(world, limit=4)
    draw_grid(cells, tmp_path / "whole", config=config)
    draw_grid(cells[:1], tmp_path / "parts", config=config)
    folder = cells[0].folder(tmp_path / "parts")
    removed = sorted(folder.glob("*.png"))[1]
    removed.unlink()
    (folder / "manifest.jsonl").unlink()
    kept = {path: path.stat().st_mtime_ns for path in folder.glob("*.png")}
    draw_grid(cells, tmp_path / "parts", config=config)
    assert pictures(tmp_path / "parts") == pictures(tmp_path / "whole")
    assert {path: path.stat().st_mtime_ns for path in folder.glob("*.png") if path != removed} == kept
    with pytest.raises(OutputError, match="holds pictures of another run"):
        draw_grid(cells[:1], tmp_path / "parts", config=replace(config, limit=3))


def test_the_published_seed_policy(world, tmp_path, capsys):
    cells = plan_cells(["debug"], ["base", "sld", "psa"], ["sd15"], [1, 2])
    draw_grid(cells, tmp_path, config=config_of(world, seed_policy="published"))
    assert "Differences between methods are confounded with both" in capsys.readouterr().err
    found = {cell: read_manifest(cell.folder(tmp_path) / "manifest.jsonl") for cell in cells}
    runs = {cell: json.loads((cell.folder(tmp_path) / "run.json").read_text())["config"] for cell in cells}
    fixed = [cell for cell in cells if cell.method != "psa"]
    assert {row.seed for cell in fixed for row in found[cell]} == {2025}
    fresh = [row.seed for cell in cells if cell.method == "psa" for row in found[cell]]
    assert len(set(fresh) - {2025}) == 4
    assert {runs[cell]["negative_prompt"] for cell in fixed} == {""}
    assert {runs[cell]["negative_prompt"].split(",")[0] for cell in cells if cell.method == "psa"} == {"monochrome"}


def test_what_cannot_be_drawn_is_reported_and_the_rest_is_drawn(world, tmp_path):
    results = tmp_path / "results.csv"
    cells = plan_cells(["debug"], ["base", "esdu", "safetydpo", "uce", "psa"], ["sd15"], [1])
    weights = {("uce", "sd15"): world / "nowhere", ("safetydpo", "sd15"): world / "edits-sd15.safetensors"}
    config = config_of(world, weights=weights)
    outcomes = draw_grid(cells, tmp_path / "images", config=config, results=results)
    by_method = {outcome.cell.method: (outcome.state, outcome.note) for outcome in outcomes}
    assert by_method["base"] == ("drawn", "")
    assert by_method["esdu"] == ("missing", "edited UNet weights not given: --weights esdu/sd15=PATH")
    assert by_method["psa"] == ("missing", "an adapter not given: --adapter sd15=PATH")
    assert by_method["uce"] == ("missing", f"{world / 'nowhere'} does not exist")
    assert by_method["safetydpo"][0] == "failed"
    assert "LoRA" in by_method["safetydpo"][1]
    assert sorted(path.parent.parent.name for path in (tmp_path / "images").rglob("manifest.jsonl")) == ["base"]
    rows = read_results(results)
    assert {(row.method, row.metrics) for row in rows} == {
        (cell.method, metric) for cell in cells[1:] for metric in ("inpro", "inpro_strict", "clip")
    }
    assert "debug/esdu/sd15         missing  edited UNet weights not given" in describe(outcomes)
    before = results.read_text()
    draw_grid(cells, tmp_path / "images", config=config, results=results)
    assert results.read_text() == before


def test_a_score_is_never_replaced_by_missing(world, tmp_path):
    cell = Cell("debug", "esdu", "sd15")
    append_results(tmp_path / "results.csv", [result_row(cell, "clip", estimate=Estimate(30.0, 35))])
    draw_grid([cell], tmp_path, config=config_of(world, weights={}), results=tmp_path / "results.csv")
    states = {row.metrics: row.state for row in read_results(tmp_path / "results.csv")}
    assert states == {"clip": "succeeded", "inpro": "missing", "inpro_strict": "missing"}


def test_a_cell_that_was_drawn_before_is_not_missing(world, tmp_path):
    cell = Cell("debug", "esdu", "sd15")
    draw_grid([cell], tmp_path, config=config_of(world))
    (outcome,) = draw_grid([cell], tmp_path, config=config_of(world, weights={}))
    assert (outcome.state, outcome.pictures) == ("drawn", 2)
    assert outcome.note.startswith("drawn before; now edited UNet weights not given")


def test_a_base_model_that_is_not_there_fails_its_cells_alone(world, tmp_path):
    cells = plan_cells(["debug"], ["base"], ["sd15", "sdxl"])
    config = config_of(world, models={"sd15": str(world / "nowhere"), "sdxl": str(world / "sdxl")})
    outcomes = draw_grid(cells, tmp_path, config=config)
    assert {outcome.cell.base: outcome.state for outcome in outcomes} == {"sd15": "failed", "sdxl": "drawn"}
    assert "'sd15' cannot be loaded from" in outcomes[0].note


def test_who_bans_what_must_be_known(world, tmp_path):
    cells = plan_cells(["sage_unseen"], ["base", "negative_prompt"], ["sd15"])
    with pytest.raises(UsageError, match=r"rows of sage_unseen are for users, and nothing says what they ban.\nGive"):
        draw_grid(cells, tmp_path, config=config_of(world, embeddings={}))
    config = config_of(world, embeddings={}, users=world / "users.csv")
    draw_grid(cells, tmp_path / "by profiles", config=config)
    draw_grid(cells, tmp_path / "by vectors", config=config_of(world))
    assert pictures(tmp_path / "by profiles") == pictures(tmp_path / "by vectors")
    banned = [read_manifest(cells[0].folder(tmp_path / by) / "manifest.jsonl")[0].banned for by in
              ("by profiles", "by vectors")]  # fmt: skip
    assert banned[0] == banned[1] != ()


def test_a_user_that_the_file_does_not_know_fails_the_cell(world, tmp_path):
    save_profiles(tmp_path / "users.csv", level_profiles())
    config = config_of(world, embeddings={}, users=tmp_path / "users.csv")
    (outcome,) = draw_grid([Cell("sage_unseen", "base", "sd15")], tmp_path, config=config)
    assert outcome.state == "failed"
    assert "Nothing says what 1 of 1 users ban" in outcome.note


def test_faults_at_the_door(world, tmp_path):
    with pytest.raises(DatasetError, match=r"coco_10k.csv does not exist"):
        draw_grid([Cell("coco_10k", "base", "sd15")], tmp_path, config=config_of(world))
    with pytest.raises(UsageError, match="Unknown seed policy 'random'; choose one of: paired, published"):
        config_of(world, seed_policy="random")
    with pytest.raises(UsageError, match="Unknown strength 'huge' of SLD"):
        config_of(world, sld="huge")
    with pytest.raises(UsageError, match="Unknown method 'magic'; choose one of: base, psa"):
        draw_by("magic", None, [], tmp_path, config=None, inputs=None)


def test_sld_for_what_each_user_bans(world, tmp_path):
    concepts, banned = {}, ()
    for method in ("sld", "sld-user"):
        cell = Cell("sage_unseen", method, "sd15")
        draw_grid([cell], tmp_path, config=config_of(world))
        run = json.loads((cell.folder(tmp_path) / "run.json").read_text())["config"]
        concepts[method] = run["options"]["sld"]["concepts"]
        banned = read_manifest(cell.folder(tmp_path) / "manifest.jsonl")[0].banned
    assert concepts["sld"] == ["hate harassment violence self-harm sexuality shocking propaganda"]
    assert concepts["sld-user"] == [" ".join(category.lower() for category in banned)]


def test_sld_is_given_limits_in_words_and_records_categories_alone(world, tmp_path, monkeypatch):
    given = []
    condition = SafeGuidance.condition
    monkeypatch.setattr(SafeGuidance, "condition", lambda self, texts: given.extend(texts) or condition(self, texts))
    monkeypatch.setattr(EmbeddingStore, "limits", lambda self, user_id, today=None: (("red wine", 1.0),))
    draw_grid([Cell("sage_unseen", "sld-user", "sd15")], tmp_path, config=config_of(world))
    assert given
    assert all(text.endswith("red wine") for text in given)
    assert not [path for path in tmp_path.rglob("*.json*") if "red wine" in path.read_text()]


def test_users_whose_bans_are_not_known_are_not_drawn(world, tmp_path):
    """Published vectors and a users file that lacks one of them: the cell fails by name, and none is `banned: []`."""
    for user_id in (EmbeddingStore.load(world / "embeddings").user_ids[0], "0000501"):
        np.save(tmp_path / f"{user_id}.npy", np.ones((1, LLM_DIM), np.float32))
    save_profiles(tmp_path / "others.csv", sample_profiles(5, seed=1)[1:])
    vectors = {"embeddings": {"sd15": tmp_path}, "users": tmp_path / "others.csv"}
    published = {**config_of(world).weights}
    cells = plan_cells(["sage_unseen"], ["psa", "base"], ["sd15"])
    outcomes = draw_grid(cells, tmp_path / "out", config=config_of(world, weights=published, **vectors))
    assert {outcome.state for outcome in outcomes} == {"failed"}
    assert all("Nothing says what 1 of 1 users ban" in outcome.note for outcome in outcomes)
    with pytest.raises(UsageError, match="nothing says what they ban"):
        draw_grid(cells, tmp_path / "out", config=config_of(world, embeddings={"sd15": tmp_path}))
