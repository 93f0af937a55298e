"""The shipped mini text-image model, which CLIPScore reads as any other."""

import numpy as np
import pytest
import torch
from transformers import AutoTokenizer, CLIPModel

from psalign.evaluation.metrics.clip_model import ClipModel
from psalign.mini import world
from psalign.mini.clip import clip_folder, load_clip


def test_the_shipped_folder_is_small_and_plain():
    files = [path for path in clip_folder().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 5e6
    assert {path.suffix for path in files} == {".json", ".safetensors"}
    assert not [path for path in files if path.suffix == ".json" and "_name_or_path" in path.read_text()]
    assert CLIPModel.from_pretrained(clip_folder()).dtype == torch.float32
    assert len(AutoTokenizer.from_pretrained(clip_folder())("a red cat").input_ids) == 5


def test_clip_score_reads_it_as_any_other_clip():
    """The general code and the mini's own give the same 100 * cosine."""
    scenes = [world.sample_scene(np.random.default_rng(seed)) for seed in range(6)]
    pictures = np.stack([world.draw(scene, seed=i) for i, scene in enumerate(scenes)])
    texts = [world.caption(scene, world.WORDINGS[0]) for scene in scenes]
    model = ClipModel(str(clip_folder()))
    told = model.encode_text(texts)
    general = 100 * model.encode_image([model.prepare(picture) for picture in pictures]) @ told.embeddings.T
    assert general.numpy() == pytest.approx(load_clip().scores(pictures, texts), abs=1e-2)
    assert not any(told.cut)
