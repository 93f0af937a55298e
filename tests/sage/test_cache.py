"""The cache: what it holds is what the models say, and it is made anew only where something changed."""

import numpy as np
import pytest
import torch
from PIL import Image

from psalign.errors import DatasetError
from psalign.sage.cache import build_cache
from sage_rows import make_row


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "train"
    folder.mkdir()
    row = make_row()
    rng = np.random.default_rng(0)
    for name in (row.chosen, row.rejected):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / name, quality=95)
    return folder


@pytest.fixture
def rows():
    return [make_row(), make_row(caption_kind="safe", caption="a cat")]


def test_latents_and_states_are_the_models_own(tmp_path, pictures, rows, mini_pipeline):
    cache = build_cache(rows, pictures, mini_pipeline, tmp_path / "cache", base="b")
    assert list(cache.captions) == ["a cat", "a cat with two words", ""]
    picture = np.asarray(Image.open(pictures / rows[0].chosen), dtype=np.float32)
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        mean = mini_pipeline.vae.encode(pixels).latent_dist.mean[0] * mini_pipeline.vae.config.scaling_factor
        ids = mini_pipeline.tokenizer("a cat", padding="max_length", max_length=40, return_tensors="pt").input_ids
        states = mini_pipeline.text_encoder(ids).last_hidden_state[0]
    torch.testing.assert_close(cache.means[cache.pictures[rows[0].chosen]].float(), mean, atol=5e-3, rtol=2e-3)
    torch.testing.assert_close(cache.states[cache.captions["a cat"]].float(), states, atol=5e-3, rtol=2e-3)


def test_it_is_read_again_and_made_anew_where_something_changed(tmp_path, pictures, rows, mini_pipeline):
    folder = tmp_path / "cache"
    first = build_cache(rows, pictures, mini_pipeline, folder, base="b")
    made = (folder / f"{first.name}.safetensors").stat().st_mtime_ns
    assert build_cache(rows, pictures, mini_pipeline, folder, base="b").name == first.name
    assert (folder / f"{first.name}.safetensors").stat().st_mtime_ns == made
    assert build_cache(rows, pictures, mini_pipeline, folder, base="other").name != first.name
    Image.new("RGB", (64, 64)).save(pictures / rows[0].chosen)
    assert build_cache(rows, pictures, mini_pipeline, folder, base="b").name != first.name


def test_a_broken_picture_is_named(tmp_path, pictures, rows, mini_pipeline):
    (pictures / rows[0].chosen).write_bytes(b"\xff\xd8 not a picture")
    with pytest.raises(DatasetError, match=rf"{rows[0].chosen} cannot be read as a picture"):
        build_cache(rows, pictures, mini_pipeline, tmp_path / "cache", base="b")


def test_pictures_of_two_sizes_are_refused(tmp_path, pictures, rows, mini_pipeline):
    Image.new("RGB", (32, 32)).save(pictures / rows[0].chosen)
    with pytest.raises(DatasetError, match="differ in size"):
        build_cache(rows, pictures, mini_pipeline, tmp_path / "cache", base="b")
