"""CLIPScore with a CLIP of a few hundred weights, against cosines computed by hand."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoTokenizer, CLIPModel, CLIPTextModel

from picture_folders import by_hand, make_clip, make_folder
from psalign.errors import CheckpointError
from psalign.evaluation.metrics.clip_model import ClipModel
from psalign.evaluation.metrics.clip_score import clip_scores
from psalign.evaluation.pictures import open_pictures

PROMPTS = ["a red cat", "a sword at night", "a", "a very long prompt of many words by the sea at night"]


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    return make_clip(tmp_path_factory.mktemp("clip"))


def test_against_hand_computation(tmp_path, clip):
    """100 * (picture . text) / (|picture| |text|), the text's state being that at its end-of-text token."""
    pictures = open_pictures(make_folder(tmp_path / "a", PROMPTS[:3]))
    seen = by_hand(clip, np.stack([np.asarray(Image.open(path)) for path in pictures.paths]))
    network, tokenizer = CLIPModel.from_pretrained(clip).eval(), AutoTokenizer.from_pretrained(clip)
    expected = []
    for prompt, picture in zip(PROMPTS, seen, strict=False):
        ids = tokenizer(prompt, return_tensors="pt").input_ids
        with torch.no_grad():
            state = network.text_model(input_ids=ids).last_hidden_state[0, -1]
            text = (network.text_projection.weight @ state).numpy().astype(np.float64)
        expected.append(100 * float(picture @ text) / float(np.sqrt((text**2).sum())))
    found = clip_scores(pictures, ClipModel(str(clip)))
    assert [match.score for match in found] == pytest.approx(expected, rel=1e-4)
    assert np.ptp(expected) > 1


def test_batch_size_changes_nothing(tmp_path, clip):
    pictures, model = open_pictures(make_folder(tmp_path / "a", PROMPTS * 2)), ClipModel(str(clip))
    found = [clip_scores(pictures, model, batch_size=size) for size in (1, 3, 8)]
    for other in found[1:]:
        assert [match.score for match in other] == pytest.approx([match.score for match in found[0]], abs=1e-3)
        assert [match.cut for match in other] == [match.cut for match in found[0]]


@pytest.mark.gpu
def test_a_gpu_gives_the_same(tmp_path, clip):
    pictures = open_pictures(make_folder(tmp_path / "a", PROMPTS))
    found = [clip_scores(pictures, ClipModel(str(clip), device=device)) for device in ("cpu", "cuda")]
    assert [match.score for match in found[1]] == pytest.approx([match.score for match in found[0]], abs=1e-2)


def test_long_prompts_are_cut_and_said_to_be(clip):
    """The model reads 8 tokens: start, 6 words, end. The cut text is that of its first 6 words."""
    model = ClipModel(str(clip))
    texts = model.encode_text(["a cat by the sea at night", "a cat by the sea at", "a cat"])
    assert texts.cut == [True, False, False]
    assert torch.allclose(texts.embeddings[0], texts.embeddings[1], atol=1e-5)


def test_pictures_of_any_size_are_resized_and_cropped(clip):
    prepared = ClipModel(str(clip)).prepare(np.full((30, 20, 3), 255, np.uint8))
    assert prepared.shape == (3, 8, 8)
    assert prepared[0] == pytest.approx((1 - 0.4) / 0.3, rel=1e-5)
    narrow = ClipModel(str(clip)).prepare(np.zeros((3, 3, 3), np.uint8))  # could be taken for channels first
    assert narrow.shape == (3, 8, 8)


def test_a_second_run_loads_no_model_and_other_weights_are_another_model(tmp_path, clip):
    pictures = open_pictures(make_folder(tmp_path / "a", PROMPTS))
    first = clip_scores(pictures, ClipModel(str(clip)), cache=tmp_path / "cache")
    model = ClipModel(str(clip))
    assert clip_scores(pictures, model, cache=tmp_path / "cache") == first
    assert "_parts" not in vars(model)
    other = ClipModel(str(make_clip(tmp_path / "other", seed=1)))
    assert other.name != model.name
    assert clip_scores(pictures, other, cache=tmp_path / "cache") != first


def test_models_that_cannot_be_used(tmp_path, clip):
    with pytest.raises(CheckpointError, match=r"text-image model '.*/nowhere' cannot be loaded"):
        _ = ClipModel(str(tmp_path / "nowhere")).name
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match=r"text-image model '.*/empty' cannot be loaded"):
        ClipModel(str(tmp_path / "empty")).encode_text(["a cat"])
    # Half a CLIP: transformers would fill the rest with random weights.
    half = make_clip(tmp_path / "half")
    CLIPTextModel.from_pretrained(half).save_pretrained(tmp_path / "text")
    (half / "model.safetensors").write_bytes((tmp_path / "text" / "model.safetensors").read_bytes())
    with pytest.raises(CheckpointError, match=r"half is not a CLIP: it has no weights for "):
        ClipModel(str(half)).encode_text(["a cat"])


@pytest.mark.parametrize("content", [b"", b"garbage"])
def test_weights_that_are_cut_short_are_told(tmp_path, content):
    broken = make_clip(tmp_path / "broken")
    (broken / "model.safetensors").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"text-image model '.*/broken' cannot be loaded"):
        ClipModel(str(broken)).encode_text(["a cat"])


def test_weights_of_other_shapes_are_told(tmp_path):
    other = make_clip(tmp_path / "other")
    config = json.loads((other / "config.json").read_text())
    (other / "config.json").write_text(json.dumps({**config, "projection_dim": config["projection_dim"] + 1}))
    with pytest.raises(CheckpointError, match=r"text-image model '.*/other' cannot be loaded"):
        ClipModel(str(other)).encode_text(["a cat"])


def test_numbers_that_are_not_finite_are_no_scores(tmp_path):
    """Q16 would call them appropriate: no comparison with them is true."""
    clip = ClipModel(str(make_clip(tmp_path / "clip")))
    clip._parts[0].visual_projection.weight.data[0, 0] = float("nan")
    with pytest.raises(CheckpointError, match="gives numbers that are not finite"):
        clip.encode_image([clip.prepare(np.zeros((64, 64, 3), np.uint8))])


def test_weights_are_named_by_content_not_by_place(tmp_path, clip):
    make_clip(tmp_path / "same")
    assert ClipModel(str(tmp_path / "same")).name == ClipModel(str(clip)).name
    settings = json.loads((tmp_path / "same" / "preprocessor_config.json").read_text())
    settings["image_mean"] = [0.1, 0.1, 0.1]
    (tmp_path / "same" / "preprocessor_config.json").write_text(json.dumps(settings))
    assert ClipModel(str(tmp_path / "same")).name != ClipModel(str(clip)).name
