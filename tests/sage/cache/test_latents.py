"""The cache: what it holds is what the models say, and only what changed is made anew."""

import json

import numpy as np
import pytest
import torch
from accelerate import cpu_offload
from PIL import Image

from psalign.errors import DatasetError
from psalign.sage.cache import latents, store, texts
from psalign.sage.cache.framing import Framing
from psalign.sage.cache.latents import PictureSource, build_cache
from psalign.sage.share import Share
from sage_rows import make_row
from tiny_pipelines import PIPELINES


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "train"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name in names_of(ROWS):
        Image.fromarray(rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)).save(folder / name, quality=95)
    return folder


def build(rows, pipeline, pictures, folder, *, share=None, **how):
    return build_cache(rows, pipeline, pictures=PictureSource(pictures, **how), folder=folder, share=share)


def names_of(rows):
    return sorted({name for row in rows for name in (row.chosen, row.rejected)})


def other_pair(row):
    names = {side: getattr(row, side).replace("00004", "00005") for side in ("chosen", "rejected")}
    return make_row(index="00005", caption="another cat", **names)


ROWS = [make_row(), make_row(caption_kind="safe", caption="a cat"), other_pair(make_row())]


@pytest.fixture
def encoded(monkeypatch):
    """How many pictures and captions were encoded."""
    counts = {"pictures": 0, "captions": 0}
    for what, module in (("pictures", latents), ("captions", texts)):
        whole = module._encode

        def counting(pipeline, part, *more, whole=whole, what=what):
            counts[what] += len(part)
            return whole(pipeline, part, *more)

        monkeypatch.setattr(module, "_encode", counting)
    return counts


def test_latents_and_states_are_the_models_own(tmp_path, pictures, mini_pipeline):
    cache = build(ROWS, mini_pipeline, pictures, tmp_path / "cache")
    assert list(cache.captions) == ["a cat", "a cat with two words", "another cat", ""]
    assert cache.empty == 3
    picture = np.asarray(Image.open(pictures / ROWS[0].chosen), dtype=np.float32)
    pixels = torch.from_numpy(picture).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        posterior = mini_pipeline.vae.encode(pixels).latent_dist
        ids = mini_pipeline.tokenizer("a cat", padding="max_length", max_length=40, return_tensors="pt").input_ids
        states = mini_pipeline.text_encoder(ids).last_hidden_state[0]
    scale = mini_pipeline.vae.config.scaling_factor
    number = [cache.pictures[ROWS[0].chosen]]
    for name, expected in (("means", posterior.mean), ("stds", posterior.std)):
        kept = cache.latents.read(name, number).float()
        torch.testing.assert_close(kept, expected * scale, atol=5e-3, rtol=2e-3)
    kept = cache.texts.read("states", [cache.captions["a cat"]])[0].float()
    torch.testing.assert_close(kept, states, atol=5e-3, rtol=2e-3)


def test_models_that_are_offloaded_layer_by_layer_give_the_same_cache(tmp_path, pictures, mini_pipeline, encoded):
    first = build(ROWS, mini_pipeline, pictures, tmp_path / "cache")
    for part in (mini_pipeline.vae, mini_pipeline.text_encoder):
        cpu_offload(part, torch.device("cpu"))
    again = build(ROWS, mini_pipeline, pictures, tmp_path / "cache")
    assert encoded == {"pictures": 4, "captions": 4}
    other = build(ROWS, mini_pipeline, pictures, tmp_path / "other")
    assert first.name == again.name == other.name
    for name in ("means", "stds"):
        assert torch.equal(other.latents.read(name, range(4)), first.latents.read(name, range(4)))
    assert torch.equal(other.texts.read("states", range(4)), first.texts.read("states", range(4)))


def test_what_is_there_is_not_made_again(tmp_path, pictures, mini_pipeline, encoded):
    first = build(ROWS, mini_pipeline, pictures, tmp_path / "cache")
    assert encoded == {"pictures": 4, "captions": 4}
    second = build(ROWS, mini_pipeline, pictures, tmp_path / "cache")
    assert encoded == {"pictures": 4, "captions": 4}
    assert second.name == first.name
    assert torch.equal(second.latents.read("means", range(4)), first.latents.read("means", range(4)))


def test_a_changed_file_makes_its_own_entry_anew(tmp_path, pictures, mini_pipeline, encoded):
    first = build(ROWS, mini_pipeline, pictures, tmp_path / "cache")
    Image.new("RGB", (64, 64), (255, 0, 0)).save(pictures / ROWS[2].chosen)
    second = build(ROWS, mini_pipeline, pictures, tmp_path / "cache")
    assert encoded == {"pictures": 5, "captions": 4}
    assert second.name != first.name
    changed = second.pictures[ROWS[2].chosen]
    for number in range(4):
        same = torch.equal(second.latents.read("means", [number]), first.latents.read("means", [number]))
        assert same == (number != changed)


@pytest.mark.parametrize(("part", "again"), [("vae", "pictures"), ("text_encoder", "captions"), ("unet", None)])
def test_a_changed_model_makes_its_own_entries_anew(tmp_path, pictures, mini_pipeline, encoded, part, again):
    build(ROWS, mini_pipeline, pictures, tmp_path / "cache")
    with torch.no_grad():
        next(getattr(mini_pipeline, part).parameters()).mul_(1.01)
    build(ROWS, mini_pipeline, pictures, tmp_path / "cache")
    assert encoded == {what: 8 if what == again else 4 for what in ("pictures", "captions")}


def test_another_square_is_another_entry(tmp_path, pictures, mini_pipeline, encoded):
    for size_px in (64, 32):
        build(ROWS, mini_pipeline, pictures, tmp_path / "cache", framing=Framing(size_px=size_px))
    assert encoded == {"pictures": 8, "captions": 4}


def test_an_interrupted_build_goes_on(tmp_path, pictures, mini_pipeline, encoded, monkeypatch):
    monkeypatch.setattr(store, "SHARD", 1)
    counting, calls = latents._encode, []

    def killed(*arguments):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return counting(*arguments)

    monkeypatch.setattr(latents, "_encode", killed)
    with pytest.raises(KeyboardInterrupt):
        build(ROWS, mini_pipeline, pictures, tmp_path / "cache")
    assert encoded["pictures"] == 2
    build(ROWS, mini_pipeline, pictures, tmp_path / "cache")
    assert encoded == {"pictures": 4, "captions": 4}


def test_processes_share_the_work(tmp_path, pictures, mini_pipeline, encoded, monkeypatch):
    """The first of two leaves half of the shards; its own look at the end would fail, so it stops there."""
    monkeypatch.setattr(store, "SHARD", 1)
    with pytest.raises(KeyError):
        build(ROWS, mini_pipeline, pictures, tmp_path / "cache", share=Share(0, 2))
    assert encoded == {"pictures": 2, "captions": 2}


def test_both_pictures_of_a_pair_are_cut_alike(tmp_path, mini_pipeline, monkeypatch):
    folder = tmp_path / "train"
    folder.mkdir()
    for name in names_of(ROWS):
        Image.new("RGB", (128, 64)).save(folder / name)
    framing = Framing(size_px=64, crop="random", flip=True)
    cache = build(ROWS, mini_pipeline, folder, tmp_path / "cache", framing=framing)
    assert cache.variants == ("plain", "flipped")
    for row in ROWS:
        numbers = np.array([cache.pictures[row.chosen], cache.pictures[row.rejected]])
        for flip in (False, True):
            sizes = cache.latents.read("sizes", cache.rows_of(numbers, flipped=np.full(2, flip), degraded=np.zeros(2)))
            assert torch.equal(sizes[0], sizes[1])
            assert sizes[0].tolist()[:2] == [64, 128]
    lefts = {cache.latents.read("sizes", [cache.pictures[row.chosen]])[0, 3].item() for row in ROWS}
    assert len(lefts) == 2  # one for each pair


def test_variants_are_the_models_own_view_of_them(tmp_path, pictures, mini_pipeline):
    cache = build(ROWS, mini_pipeline, pictures, tmp_path / "cache", framing=Framing(flip=True), degraded=True)
    name = ROWS[0].chosen
    number = np.array([cache.pictures[name]])
    with Image.open(pictures / name) as picture:
        mirrored = np.asarray(picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT), dtype=np.float32)
    pixels = torch.from_numpy(mirrored).permute(2, 0, 1)[None] / 127.5 - 1
    with torch.no_grad():
        mean = mini_pipeline.vae.encode(pixels).latent_dist.mean * mini_pipeline.vae.config.scaling_factor
    yes, no = np.array([True]), np.array([False])
    kept = cache.latents.read("means", cache.rows_of(number, flipped=yes, degraded=no)).float()
    torch.testing.assert_close(kept, mean, atol=5e-3, rtol=2e-3)
    all_four = {tuple(cache.rows_of(number, flipped=f, degraded=d)) for f in (yes, no) for d in (yes, no)}
    assert len(all_four) == 4
    assert len(cache.latents) == 4 * len(cache.pictures)


def test_sdxl_has_pooled_states_too(tmp_path, pictures):
    pipe = PIPELINES["sdxl"]()
    cache = build(ROWS, pipe, pictures, tmp_path / "cache", framing=Framing(size_px=64))
    states, _, pooled, _ = pipe.encode_prompt("a cat", device="cpu", num_images_per_prompt=1,
                                              do_classifier_free_guidance=False)  # fmt: skip
    number = [cache.captions["a cat"]]
    torch.testing.assert_close(cache.texts.read("states", number).float(), states, atol=5e-3, rtol=2e-3)
    torch.testing.assert_close(cache.texts.read("pooled", number).float(), pooled, atol=5e-3, rtol=2e-3)


def test_the_vae_encodes_in_float32_and_keeps_its_precision(tmp_path, pictures):
    pipe = PIPELINES["sdxl"]().to(torch.bfloat16)
    seen = []
    pipe.vae.encoder.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    build(ROWS, pipe, pictures, tmp_path / "cache", framing=Framing(size_px=64))
    assert set(seen) == {torch.float32}
    assert pipe.vae.dtype == torch.bfloat16


def test_unchanged_files_are_not_read_again(tmp_path, pictures, mini_pipeline, monkeypatch):
    build(ROWS, mini_pipeline, pictures, tmp_path / "cache")
    read = []
    monkeypatch.setattr(latents, "file_fingerprint", lambda path: read.append(path.name) or "0")
    Image.new("RGB", (64, 64)).save(pictures / ROWS[0].chosen)
    build(ROWS, mini_pipeline, pictures, tmp_path / "cache")
    assert read == [ROWS[0].chosen]


def test_a_broken_list_of_digests_is_made_again(tmp_path, pictures, mini_pipeline, encoded):
    build(ROWS, mini_pipeline, pictures, tmp_path / "cache")
    (tmp_path / "cache/digests-0.json").write_text("{")
    build(ROWS, mini_pipeline, pictures, tmp_path / "cache")
    assert encoded["pictures"] == 4
    assert len(json.loads((tmp_path / "cache/digests-0.json").read_text())) == 4


def test_a_broken_picture_is_named(tmp_path, pictures, mini_pipeline):
    (pictures / ROWS[0].chosen).write_bytes(b"\xff\xd8 not a picture")
    with pytest.raises(DatasetError, match=rf"{ROWS[0].chosen} cannot be read as a picture"):
        build(ROWS, mini_pipeline, pictures, tmp_path / "cache")


def test_a_missing_picture_is_named(tmp_path, pictures, mini_pipeline):
    (pictures / ROWS[0].chosen).unlink()
    with pytest.raises(DatasetError, match=rf"{ROWS[0].chosen} cannot be read as a picture: No such file"):
        build(ROWS, mini_pipeline, pictures, tmp_path / "cache")


def test_pictures_of_two_sizes_are_refused(tmp_path, pictures, mini_pipeline):
    Image.new("RGB", (32, 32)).save(pictures / ROWS[0].chosen)
    with pytest.raises(DatasetError, match=r"differ in size(.|\n)*Give size_px in the preset's section `pictures`"):
        build(ROWS, mini_pipeline, pictures, tmp_path / "cache")


def test_latents_that_are_not_finite_are_refused(tmp_path, pictures, mini_pipeline):
    with torch.no_grad():
        mini_pipeline.vae.quant_conv.bias.fill_(torch.nan)
    with pytest.raises(DatasetError, match="its latents are not finite"):
        build(ROWS, mini_pipeline, pictures, tmp_path / "cache")
