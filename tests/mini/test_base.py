"""Training of the mini base: resumable to the bit, and what the text encoder learns from words."""

import json
import math

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from psalign.errors import CheckpointError
from psalign.mini.base import BaseConfig, Words, psnr_db, train_base
from psalign.mini.stages import Stage
from psalign.mini.tokenizer import build_tokenizer

TINY = BaseConfig(pictures=32, autoencoder_steps=2, autoencoder_batch=4, denoiser_steps=2, denoiser_batch=4)


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    return Words(build_tokenizer(tmp_path_factory.mktemp("tokenizer")))


def test_train_base_writes_a_stock_pipeline_and_its_record(tmp_path):
    train_base(tmp_path / "base", TINY, work=tmp_path / "work")
    pipeline = StableDiffusionPipeline.from_pretrained(tmp_path / "base", safety_checker=None)
    assert pipeline.vae.config.scaling_factor != 1.0
    assert pipeline.scheduler.config.beta_schedule == "scaled_linear"
    record = json.loads((tmp_path / "base/training.json").read_text())
    assert {"config", "seconds", "sha256", "command"} <= set(record)
    again = train_base(tmp_path / "again", TINY, work=tmp_path / "work")  # all stages are finished: nothing is trained
    for a, b in zip(again.unet.parameters(), pipeline.unet.parameters(), strict=True):
        assert torch.equal(a.half(), b.half())


def test_a_stage_that_was_killed_goes_on_to_the_same_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(Stage, "save_every", 2)

    def run(work, kill_at=None, lr=0.1):
        torch.manual_seed(0)
        model = torch.nn.Linear(3, 3)

        def loss(step, generator):
            if step == kill_at:
                raise KeyboardInterrupt
            return (model(torch.randn((4, 3), generator=generator)) - 1).square().mean()

        Stage("s", {"model": model}, steps=7, lr=lr, seed=3).run(loss, work=work)
        return model.weight

    whole = run(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "broken", kill_at=5)
    assert torch.equal(run(tmp_path / "broken"), whole)
    with pytest.raises(CheckpointError, match="is a checkpoint of other settings"):
        run(tmp_path / "broken", lr=0.2)


def test_words_loss_is_the_mean_over_all_words_for_logits_that_know_nothing(words):
    """Uniform logits over V words: every term is ln V; the closing term is ln V too."""
    ids = words.ids(["a red cat", "a sword is a weapon"])
    vocabulary = len(words.tokenizer)
    loss = words.loss(ids, torch.zeros(2, ids.shape[1], vocabulary), [(), ("Violence",)])
    assert loss.item() == pytest.approx(2 * math.log(vocabulary), rel=1e-5)


def test_words_loss_falls_where_the_end_knows_the_kind(words):
    ids = words.ids(["a sword"])
    knows = torch.zeros(1, ids.shape[1], len(words.tokenizer))
    knows[:, :, words._kind_ids["Violence"]] = 5.0
    blank = torch.zeros_like(knows)
    with_kind = [words.loss(ids, logits, [("Violence",)]) for logits in (blank, knows)]
    without = [words.loss(ids, logits, [()]) for logits in (blank, knows)]
    assert with_kind[1] - without[1] < with_kind[0] - without[0]


def test_an_empty_caption_has_a_loss_that_is_finite(words):
    ids = words.ids(["", "a cat"])
    assert words.loss(ids, torch.randn(2, ids.shape[1], len(words.tokenizer)), [(), ()]).isfinite()


def test_psnr_by_hand():
    """An error of 1 at every pixel: 20 log10 255 = 48.13 dB."""
    a = np.full((2, 4, 4, 3), 7, np.uint8)
    assert psnr_db(a, a + 1) == pytest.approx(20 * math.log10(255), abs=1e-6)
