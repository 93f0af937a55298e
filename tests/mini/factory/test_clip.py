"""Training of the mini text-image model, and what it writes."""

import json
from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from transformers import CLIPModel

from psalign.cli import main
from psalign.diffusion.base_models import mini_folder
from psalign.errors import CheckpointError
from psalign.evaluation.metrics.clip_model import ClipModel
from psalign.mini import world
from psalign.mini.factory.clip import ClipConfig, one_wrong, train_clip

TINY = ClipConfig(pictures=12, steps=3, batch=4)


def test_training_writes_a_standard_folder_and_resumes(tmp_path, mini_pipeline):
    made = train_clip(tmp_path / "a", mini_pipeline, TINY, work=tmp_path / "work")
    files = {path.name for path in (tmp_path / "a").iterdir()}
    wanted = {"config.json", "model.safetensors", "preprocessor_config.json", "tokenizer.json", "training.json"}
    assert wanted <= files
    loaded = CLIPModel.from_pretrained(tmp_path / "a")
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded.visual_projection.weight, made.visual_projection.weight.half().float())
    record = json.loads((tmp_path / "a" / "training.json").read_text())
    assert record["config"]["steps"] == 3
    assert {"command", "seconds", "sha256"} <= set(record)
    assert str(mini_folder()) not in "".join(path.read_text() for path in (tmp_path / "a").glob("*.json"))
    again = train_clip(tmp_path / "b", mini_pipeline, TINY, work=tmp_path / "work")  # finished: nothing is trained
    assert torch.equal(again.visual_projection.weight, made.visual_projection.weight)
    with pytest.raises(CheckpointError, match="is a checkpoint of other settings"):
        train_clip(tmp_path / "c", mini_pipeline, replace(TINY, batch=3), work=tmp_path / "work")


def test_its_text_tower_is_that_of_the_base_it_is_trained_with(tmp_path, mini_pipeline):
    made = train_clip(tmp_path / "clip", mini_pipeline, TINY, work=tmp_path / "work").text_model.state_dict()
    for name, weight in mini_pipeline.text_encoder.state_dict().items():
        assert torch.equal(made[name], weight), name


@pytest.mark.parametrize("what", ["motif", "subject", "colour", "background", "side"])
def test_one_thing_is_wrong_and_no_other(what):
    rng = np.random.default_rng(0)
    name = {"motif": "motifs"}.get(what, what)
    for _ in range(40):
        scene = world.sample_scene(rng)
        wrong = one_wrong(scene, rng, what)
        changed = [field.name for field in fields(scene) if getattr(scene, field.name) != getattr(wrong, field.name)]
        assert changed == [name]
        assert len(set(wrong.motifs)) == len(wrong.motifs) <= 2
        assert len(set(scene.motifs) ^ set(wrong.motifs)) in ((1, 2) if what == "motif" else (0,))


@pytest.mark.slow
def test_the_command_trains_it(tmp_path, capsys):
    arguments = ["--out", tmp_path / "clip", "--work", tmp_path / "work", "--steps", 1, "--pictures", 64]
    assert main(["mini", "train-clip", *map(str, arguments)]) == 0
    assert capsys.readouterr().out == f"Text-image model: {tmp_path / 'clip'}\n"
    assert len(ClipModel(str(tmp_path / "clip")).encode_text(["a red cat"]).embeddings[0]) == 128
