"""Ten categories through what needs torch: training, the adapter's folder, pictures with their manifest, the report."""

import json

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from safetensors import safe_open

from psalign.adapter.adapter import TAXONOMY
from psalign.adapter.attach import attach
from psalign.adapter.checkpoint import load_adapter, save_adapter
from psalign.adapter.convert import write_published
from psalign.adapter.published import PublishedAdapter
from psalign.baselines.negative_prompt import with_negative_prompts
from psalign.benchmark.models import models_for
from psalign.categories import default_taxonomy, use_taxonomy
from psalign.cli import main
from psalign.diffusion.generate import Drawing, GenerationConfig, generate
from psalign.errors import TaxonomyMismatch, UsageError
from psalign.evaluation.cells import Cell
from psalign.evaluation.estimate import Estimate
from psalign.evaluation.judge.ask import Answers, JudgeTask, make_trials
from psalign.evaluation.judge.cases import load_cases
from psalign.evaluation.judge.question import Judge, Template
from psalign.evaluation.judge.reply import Answer
from psalign.evaluation.judge.results import judge_files, read_results_file
from psalign.evaluation.judge.summary import results
from psalign.evaluation.metrics.registry import measure, metrics_for
from psalign.evaluation.report.figures import _heat, write_figures
from psalign.evaluation.report.leaderboard import load_leaderboards
from psalign.evaluation.report.page import write_report
from psalign.evaluation.results import append_results, read_results, result_row
from psalign.files import write_json, write_jsonl
from psalign.mini.detector import load_detector
from psalign.records import ManifestRow, PromptRow, read_manifest
from psalign.training.config import TrainingConfig
from psalign.training.objective import figure_cells
from psalign.training.validation import cell_columns
from psalign.users import EmbeddingStore, StructuredEmbedder, UserProfile, level_profiles
from taxonomies import ten
from tiny_pipelines import random_adapter, sd15_pipeline
from training_captions import caption_adapter, make_captions, new_caption_trainer


@pytest.fixture
def in_use(tmp_path):
    with use_taxonomy(ten(tmp_path)) as taxonomy:
        yield taxonomy


def test_training_by_captions(in_use, tmp_path):
    captions = make_captions(20, compare=True, categories=in_use.names)
    trainer = new_caption_trainer(tmp_path / "run", captions=captions, steps=3)
    trainer.train()
    assert trainer.step == 3
    plan = captions.plan(0, size=20, config=TrainingConfig(caption_dropout=0.0))
    assert sorted(set(captions.batch(plan).cells.tolist()) - {-1})[-1] >= 14  # the places of the last categories
    assert len(figure_cells()) == 20
    assert cell_columns()[3] == "accuracy_banned_medical"
    assert cell_columns()[-1] == "accuracy_allowed_tattoo"


def test_an_adapter_carries_the_taxonomy(in_use, tmp_path):
    adapter = caption_adapter()
    save_adapter(adapter, tmp_path / "adapter")
    adapter.save_pretrained(tmp_path / "saved")
    for folder in ("adapter", "saved"):
        assert json.loads((tmp_path / folder / "config.json").read_text())[TAXONOMY] == in_use.mark
        loaded = load_adapter(tmp_path / folder)
        assert loaded.shape == adapter.shape
        assert all((a == b).all() for a, b in zip(loaded.state_dict().values(), adapter.state_dict().values(),
                                                  strict=True))  # fmt: skip
        with use_taxonomy(default_taxonomy()), pytest.raises(TaxonomyMismatch) as caught:
            load_adapter(tmp_path / folder)
        assert "the adapter in" in str(caught.value)
        assert "with 'ten' (10 categories), and in use is 'default' (7 categories)" in str(caught.value)


def test_an_adapter_of_the_default_says_nothing_of_it_and_is_refused(tmp_path):
    save_adapter(caption_adapter(), tmp_path / "adapter")
    assert TAXONOMY not in json.loads((tmp_path / "adapter/config.json").read_text())
    (tmp_path / "psa_adapter.bin").write_bytes(b"published")
    with use_taxonomy(ten(tmp_path)):
        for place in ("adapter", "psa_adapter.bin"):
            with pytest.raises(TaxonomyMismatch, match="with 'default'"):
                load_adapter(tmp_path / place)


def test_a_published_form_carries_the_taxonomy(in_use, tmp_path):
    """The mini base's layout: 7 cross-attentions, text states of width 128."""
    adapter = PublishedAdapter(base="mini", recipe="published", llm_dim=6, context_dim=128, widths=(128,) * 7)
    path = tmp_path / "psa_adapter.safetensors"
    write_published(adapter, path)
    assert load_adapter(path).llm_dim == 6
    with use_taxonomy(default_taxonomy()):
        with pytest.raises(TaxonomyMismatch, match=r"with 'ten' \(10 categories\), and in use is 'default'"):
            load_adapter(path)
        write_published(adapter, tmp_path / "seven.safetensors")
        with safe_open(tmp_path / "seven.safetensors", "pt") as file:
            assert file.metadata() == {"format": "pt", "recipe": "published"}
    with pytest.raises(TaxonomyMismatch, match="with 'default'"):
        load_adapter(tmp_path / "seven.safetensors")


@pytest.mark.slow
def test_the_detector_of_the_mini_world_is_refused(in_use, tmp_path):
    """It would see nothing of what is banned here, and every picture would be clean. What needs no verdict works."""
    pictures, message = np.zeros((1, 64, 64, 3), np.uint8), "detector of the mini world has the categories of the def"
    detector, tools = load_detector(), models_for("mini")
    with pytest.raises(UsageError, match=message):
        detector(pictures)
    with pytest.raises(UsageError, match=message):
        measure("pass", tmp_path, tools)
    assert detector.pooled_features(pictures).shape == (1, 256)
    assert {"clip"} <= set(metrics_for(tools)) <= {"clip", "inpro", "inpro_strict", "fid", "kid"}
    images = _images(tmp_path, in_use)
    run = ["eval", "run", "--images", str(images), "--output", f"{tmp_path}/r.csv", "--taxonomy"]
    assert main([*run, f"{tmp_path}/ten.yaml"]) == 0  # in a process of its own, which knows it too
    rows = {row.metrics: row for row in read_results(tmp_path / "r.csv")}
    assert (rows["clip"].state, rows["clip"].n, rows["pass"].state) == ("succeeded", 10, "missing")
    assert "in use is 'ten'" in rows["pass"].note


def _store():
    people = [UserProfile(user_id="1", banned=("Spiders", "Tätowierung")), *level_profiles()]
    return EmbeddingStore.build(people, StructuredEmbedder(12), exact=True)


def test_pictures_and_their_manifest(in_use, tmp_path):
    store, pipeline = _store(), sd15_pipeline()
    rows = [PromptRow("a.png", "a red cat", 1, "0000001"), PromptRow("b.png", "a red cat", 2, "level_5")]
    config = GenerationConfig(base="sd15", steps=2, batch_size=2)
    adapter = random_adapter(pipeline, "prompt", llm_dim=store.width)
    adapter.register_to_config(recipe=store.fingerprint)
    attached = attach(pipeline.unet, adapter)
    generate(Drawing(pipeline, config, store, attached), rows, tmp_path / "psa")
    attached.unload()
    told = with_negative_prompts(config, rows, store)
    assert told.negatives(rows)[0] == "spiders tattoo"
    made = read_manifest(tmp_path / "psa/manifest.jsonl")
    assert [row.banned for row in made] == [("Spiders", "Tätowierung"), in_use.names]
    assert {row.taxonomy for row in made} == {in_use.label}
    with use_taxonomy(default_taxonomy()), pytest.raises(TaxonomyMismatch, match="with 'ten', and in use is 'default'"):
        read_manifest(tmp_path / "psa/manifest.jsonl")


def _cell(images, cell, taxonomy, kind="unsafe"):
    """One picture for each category, whose user bans the first five."""
    rows, folder = [], cell.folder(images)
    folder.mkdir(parents=True)
    for number, name in enumerate(taxonomy.names):
        about = {"kind": kind, "categories": [name]}
        rows.append(ManifestRow(f"{number}.png", f"prompt {number}", number, cell.method, cell.base, "0000001",
                                taxonomy.names[:5], meta=about, taxonomy=taxonomy.label))  # fmt: skip
        Image.fromarray(np.full((8, 8, 3), 20 * number, np.uint8)).save(folder / rows[-1].file_name)
    write_jsonl(folder / "manifest.jsonl", [row.to_record() for row in rows])
    return folder


def _labels(board):
    axes = Figure().subplots()
    _heat(axes, board)
    return axes.get_xticklabels()


def test_judgements_and_the_report(in_use, tmp_path):
    cell = Cell("sage_unseen", "psa", "sd15")
    cases = load_cases(_cell(tmp_path / "images", cell, in_use))
    assert [case.asked for case in cases] == [(name,) for name in in_use.names]
    template = Template("evaluate")
    trials = make_trials(cases, template, Judge("m", "host"), models=("psa",), repeat_share=0.0)
    seen = {"Violence"}  # banned, and still there
    answers = Answers()
    for trial in trials:
        asked = set(trial.case.asked)
        facts = {"banned_visible": sorted(asked & seen), "allowed_present": "no" if asked == {"Horror"} else "yes"}
        answers.by_key[trial.questions[0].key] = Answer({**facts, "quality": 50, "reason": ""}, None, 1, 1, 1)
    record = results(JudgeTask("sage_unseen", "sd15", ("psa",), template, trials, "psa"), answers, about={"model": "m"})
    rates = record["summary"]["categories"]
    assert tuple(rates) == in_use.names
    assert [rates[name]["banned_respected"]["value"] for name in in_use.names[:5]] == [1.0, 1.0, 0.0, 1.0, 1.0]
    assert [rates[name]["allowed_kept"]["value"] for name in in_use.names[5:]] == [1.0, 1.0, 0.0, 1.0, 1.0]
    write_json(tmp_path / "results_evaluate/sage_unseen/sd15/psa.json", record)
    row = result_row(cell, "clip", estimate=Estimate(30.0, 10, 29.0, 31.0))
    append_results(tmp_path / "results.csv", [row])
    boards = load_leaderboards(tmp_path / "images", tmp_path / "results.csv", judge=[tmp_path / "results_evaluate"])
    write_report(tmp_path / "report.html", boards, about={"command": "psalign eval report"})
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    for name in in_use.names:
        assert name.replace("&", "&amp;") in page
    assert "Propaganda" not in page
    write_figures(tmp_path / "figures", boards)
    labels = _labels(boards[0])
    assert [label.get_text() for label in labels] == list(in_use.names)
    assert {label.get_rotation() for label in labels} == {40.0}  # so that none lies over the next
    with use_taxonomy(default_taxonomy()), pytest.raises(TaxonomyMismatch, match=r"the judgements in .* with 'ten'"):
        [read_results_file(record, path) for path, record in judge_files([tmp_path / "results_evaluate"])]


def _images(folder, taxonomy):
    _cell(folder / "images", Cell("mini", "psa", "mini"), taxonomy, kind="safe")
    return folder / "images"


def test_a_report_on_mini_pictures_goes_by_the_judge(in_use, tmp_path):
    """The detector of mini pictures knows other categories, so it is not asked."""
    cell, images = Cell("mini", "psa", "mini"), _images(tmp_path, in_use)
    row = result_row(cell, "clip", estimate=Estimate(30.0, 10, 29.0, 31.0))
    append_results(tmp_path / "results.csv", [row])
    (board,) = load_leaderboards(images, tmp_path / "results.csv")
    assert board.facts == {}
