"""The shipped mini models, on fewer cases than docs/RESULTS.md has (`psalign mini check`).

Slow tests count what the files of weights can do; these files do not change with the code. The default tests do so on
few cases, which shows that what loads them is whole.
"""

import numpy as np
import pytest
from diffusers import StableDiffusionPipeline

from psalign.diffusion.base_models import mini_folder
from psalign.mini.clip import load_clip
from psalign.mini.detector import load_detector
from psalign.mini.factory import checks


def test_size_and_format():
    weights = sorted(mini_folder().parent.rglob("*.safetensors"))
    assert len(weights) == 5
    assert sum(path.stat().st_size for path in weights) <= 25e6
    assert not [path for path in mini_folder().parent.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]


def test_stock_diffusers_loads_it():
    pipeline = StableDiffusionPipeline.from_pretrained(mini_folder())
    pipeline.set_progress_bar_config(disable=True)
    picture = pipeline("a red cat on the left at night", num_inference_steps=2, output_type="np").images[0]
    assert picture.shape == (64, 64, 3)
    assert np.isfinite(picture).all()


def test_autoencoder_is_crisp(mini_pipeline):
    assert checks.check_autoencoder(mini_pipeline, n=12) >= 29.0


@pytest.mark.long
def test_detector_is_right_on_fresh_faded_and_reconstructed_drawings(mini_pipeline):
    counts = checks.check_detector(load_detector(), mini_pipeline, n=200)
    for name, (right, of) in counts.items():
        assert right / of >= (0.94 if name.startswith("faded") else 0.98), name


@pytest.mark.parametrize("n", [12, pytest.param(40, marks=pytest.mark.long)])
def test_base_draws_what_captions_ask_for(mini_pipeline, n):
    counts = checks.check_base(mini_pipeline, load_detector(), n=n)
    few = 1 / n if n < 40 else 0.0  # one more may fail
    shares = {name: right / of for name, (right, of) in counts.items()}
    assert shares["motif"] >= 0.90 - few
    assert shares["subject"] >= 0.95 - few
    assert shares["subject and colour"] >= 0.88 - few
    assert shares["unasked"] <= 0.05 + few


@pytest.mark.long
def test_base_knows_the_language(mini_pipeline):
    counts = checks.check_language(mini_pipeline, load_detector(), n=100)
    shares = {name: right / of for name, (right, of) in counts.items() if not name.startswith("the worst")}
    drawn, denied = [[c for name, c in counts.items() if end(name)] for end in (_is_drawn, _is_denied)]
    assert sum(right for right, _ in drawn) / sum(of for _, of in drawn) >= 0.93
    assert sum(right for right, _ in denied) / sum(of for _, of in denied) >= 0.9
    assert shares["subject"] >= 0.95
    assert shares["unasked"] <= 0.05


def _is_drawn(name):
    return name.endswith(("names", "names, plural", "described", "beside a motif"))


def _is_denied(name):
    return name.endswith("not drawn")


@pytest.mark.parametrize("n", [16, pytest.param(64, marks=pytest.mark.long)])
def test_text_image_model_tells_captions_apart(mini_pipeline, n):
    counts = checks.check_clip(load_clip(), mini_pipeline, n=n)
    for name, (right, of) in counts.items():
        assert right / of >= (0.9 if name.endswith("of 64") else 0.94), name


@pytest.mark.parametrize("text", ["a red cat", "two words that it never met: zebra, 42!", ""])
def test_any_text_can_be_told(mini_pipeline, text):
    ids = mini_pipeline.tokenizer(text, padding="max_length", truncation=True).input_ids
    assert len(ids) == 40
    assert mini_pipeline.tokenizer.eos_token_id in ids
