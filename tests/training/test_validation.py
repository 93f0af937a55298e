"""Looks from outside: unseen users, the same draws each time, pictures of fixed users and prompts, the best kept."""

import csv
import io
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from psalign.adapter.attach import attach
from psalign.adapter.checkpoint import load_adapter
from psalign.diffusion.base_models import load_pipeline
from psalign.diffusion.generate import GenerationConfig
from psalign.training.config import TrainingConfig
from psalign.training.objective import Objective
from psalign.training.run import RowSource, TrainingData, load_pairs, new_adapter
from psalign.training.trainer import Trainer
from psalign.training.validation import CELL_PX, GAP_PX, LABEL_PX, MARGIN_PX, Validation, sheet
from psalign.users.store import EmbeddingStore
from sage_rows import make_row
from training_pairs import randomise

pytestmark = pytest.mark.slow

CONFIG = TrainingConfig(
    steps=4, batch_size=4, save_every=2, log_every=2, validate_every=2, validation_pairs=10, validation_pictures=3,
    anchor="caption", dpo_weight=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def pairs(small_run, tmp_path_factory):
    folder = small_run[0]
    users, pipeline = EmbeddingStore.load(folder / "embeddings"), load_pipeline("mini")
    cache = tmp_path_factory.mktemp("cache")
    sources = [RowSource(folder / "data", cache, split) for split in ("train", "val")]
    return [load_pairs(source, pipeline, users) for source in sources], users


@pytest.fixture
def run(pairs, mini_pipeline):
    """Makes a trainer on the mini base, with its validation."""
    (train, unseen), users = pairs

    def make(out, config=CONFIG):
        adapter = new_adapter("prompt", {"rank": 16}, mini_pipeline, TrainingData(train, users), base="mini")
        attached = attach(mini_pipeline.unet, adapter)
        drawn = GenerationConfig(steps=2, batch_size=2)
        validation = Validation(unseen, users, mini_pipeline, drawn, out, config, torch.device("cpu"))
        objective = Objective.of(attached, config, mini_pipeline.scheduler)
        return Trainer(objective, train, config, out, data={"rows": "d"}, validation=validation)

    return make


def rows_of(path):
    with path.open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_a_run_is_looked_at_from_outside(run, tmp_path):
    run(tmp_path).train()
    rows = rows_of(tmp_path / "val.csv")
    assert [row["step"] for row in rows] == ["2", "4"]
    assert all(float(row["loss"]) > 0 and float(row["dpo"]) > 0 for row in rows)
    shown = sorted(path.name for path in (tmp_path / "validation").iterdir())
    assert shown == ["step-00000002.png", "step-00000004.png"]
    best = json.loads((tmp_path / "best.json").read_text())
    lowest = min(rows, key=lambda row: float(row["loss"]))
    assert best == {"step": int(lowest["step"]), "loss": float(lowest["loss"])}
    assert load_adapter(tmp_path / "adapter_best").kind == "prompt"


def test_the_same_weights_give_the_same_figures_whatever_the_batch_size(run, tmp_path):
    trainer = run(tmp_path)
    randomise(trainer.trained)
    look, objective = trainer.validation, trainer.objective
    first = look.measure(objective)
    assert look.measure(objective) == first
    look.config = replace(CONFIG, batch_size=3, caption_dropout=0.9, user_dropout=0.9, seed=5)
    for name, value in look.measure(objective).items():
        assert value == pytest.approx(first[name], rel=2e-3, abs=1e-5), name
    randomise(trainer.trained, seed=8)
    assert look.measure(objective)["loss"] != first["loss"]


def test_the_best_is_kept_over_a_resume(run, tmp_path, monkeypatch):
    trainer = run(tmp_path)
    monkeypatch.setattr(trainer.validation, "measure", lambda *_: {"loss": 0.5})
    trainer.train()
    trainer.attached.unload()
    again = run(tmp_path, replace(CONFIG, validate_every=1))
    again._resume()
    assert again.best == 0.5
    assert again.step == 4


def test_pictures_are_of_many_sides_and_categories(run, tmp_path):
    validation = run(tmp_path, replace(CONFIG, validation_pictures=6)).validation
    shown, pairs = validation._shown(), validation.pairs
    kinds = {(side, row.category) for side, row in zip(pairs.table[:, -1].tolist(), pairs.rows, strict=True)}
    assert len(shown) == min(6, len(kinds))
    assert {row.caption_kind for row in shown} == {"safe", "unsafe"}
    assert len({row.category for row in shown}) == len({category for _, category in kinds})


def test_no_pictures_and_no_pairs_where_none_are_asked_for(run, tmp_path):
    run(tmp_path, replace(CONFIG, validation_pictures=0)).train()
    assert not (tmp_path / "validation").exists()


def test_the_average_is_what_is_looked_at(run, tmp_path):
    """With a decay near 1 the average hardly moves: its figures stay those of the untrained adapter."""
    trainer = run(tmp_path, replace(CONFIG, ema=0.9999, lr=0.02, warmup_steps=0, anchor="noise"))
    untrained = trainer.validation.measure(trainer.objective)["loss"]
    before = [weight.detach().clone() for weight in trainer.parameters]
    trainer._resume()
    for _ in range(4):
        trainer._take_step()
    moved = trainer.validation.measure(trainer.objective)["loss"]
    trainer._validate()
    assert float(rows_of(tmp_path / "val.csv")[-1]["loss"]) == pytest.approx(untrained, rel=0.002)
    assert abs(moved - untrained) > 0.01 * untrained
    assert any(not torch.equal(one, other) for one, other in zip(before, trainer.parameters, strict=True))


def test_the_sheet_has_the_base_above_and_the_user_below():
    rows = [make_row(), make_row(caption_kind="safe")]
    base, steered = np.full((2, 64, 64, 3), 10, np.uint8), np.full((2, 64, 64, 3), 200, np.uint8)
    base[1] = 90
    picture = np.asarray(Image.open(io.BytesIO(sheet(rows, base, steered))))
    top, left = MARGIN_PX + LABEL_PX + CELL_PX // 2, MARGIN_PX + CELL_PX // 2
    below, right = top + CELL_PX + GAP_PX, left + CELL_PX + GAP_PX
    assert [picture[y, x, 0] for y, x in ((top, left), (below, left), (top, right), (below, right))] == [
        10,
        200,
        90,
        200,
    ]
