"""Training of the mini base: resumable to the bit, whole or from what another base has."""

import json
import math

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline

from psalign.cli import main
from psalign.diffusion.base_models import mini_folder
from psalign.errors import CheckpointError, OutputError
from psalign.mini.factory.base import BaseConfig, Kept, train_base
from psalign.mini.factory.checks import psnr_db
from psalign.mini.factory.rewording import RewordingConfig
from psalign.mini.factory.stages import Stage

TINY = BaseConfig(
    pictures=32,
    autoencoder_steps=2,
    autoencoder_batch=4,
    denoiser_steps=2,
    denoiser_batch=4,
    language=RewordingConfig(steps=2, batch=4),
)


@pytest.mark.long
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
    assert "kept" not in record
    assert set(record["seconds"]) == {"autoencoder", "text encoder and UNet", "language"}


def weights(folder, part):
    return next((folder / part).glob("*.safetensors")).read_bytes()


@pytest.mark.long
def test_a_kept_autoencoder_is_the_same_file_and_its_record_is_told(tmp_path):
    train_base(tmp_path / "base", TINY, work=tmp_path / "work", kept=Kept(mini_folder()))
    assert weights(tmp_path / "base", "vae") == weights(mini_folder(), "vae")
    assert weights(tmp_path / "base", "unet") != weights(mini_folder(), "unet")
    record = json.loads((tmp_path / "base/training.json").read_text())
    assert record["kept"] == {"parts": ["vae"], "training": json.loads((mini_folder() / "training.json").read_text())}
    assert set(record["seconds"]) == {"text encoder and UNet", "language"}


@pytest.mark.slow
def test_the_command_keeps_a_unet_and_trains_the_language(tmp_path, capsys):
    arguments = ["--keep-unet", mini_folder(), "--language-steps", 1, "--out", tmp_path / "b", "--work", tmp_path / "w"]
    assert main(["mini", "train-base", *map(str, arguments)]) == 0
    assert capsys.readouterr().out == f"Mini base: {tmp_path / 'b'}\n"
    assert weights(tmp_path / "b", "unet") == weights(mini_folder(), "unet")
    assert weights(tmp_path / "b", "vae") == weights(mini_folder(), "vae")
    record = json.loads((tmp_path / "b/training.json").read_text())
    assert record["kept"]["parts"] == ["vae", "unet"]
    assert str(mini_folder()) not in "".join(path.read_text() for path in (tmp_path / "b").rglob("*.json"))
    assert record["config"]["language"]["steps"] == 1


def test_a_folder_without_a_record_is_not_kept(tmp_path):
    with pytest.raises(OutputError, match=r"training\.json"):
        train_base(tmp_path / "base", TINY, work=tmp_path / "work", kept=Kept(tmp_path))


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


def test_psnr_by_hand():
    """An error of 1 at every pixel: 20 log10 255 = 48.13 dB."""
    a = np.full((2, 4, 4, 3), 7, np.uint8)
    assert psnr_db(a, a + 1) == pytest.approx(20 * math.log10(255), abs=1e-6)
