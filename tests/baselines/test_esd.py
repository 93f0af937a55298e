"""ESD: its target by hand, which weights it trains, and that training teaches the target and leaves the base alone."""

import pytest
import torch

from psalign.baselines.denoiser import encode, predict
from psalign.baselines.esd import EsdConfig, esd_target, sample_ways, train_esd, trained_names
from psalign.baselines.steps import Place
from psalign.diffusion.base_models import load_pipeline
from tiny_pipelines import PIPELINES

FEW = EsdConfig(steps=6, batch_size=2, lr=1e-3, sampling_steps=2, ways=2, save_every=2)


@pytest.fixture(scope="module")
def mini():
    return load_pipeline("mini")


def test_the_target_by_hand():
    """Without text 1, with the concept 4: away from it, 1 - 2 * (4 - 1) = -5; where both agree it is the same."""
    assert esd_target(torch.tensor(1.0), torch.tensor(4.0), 2.0).item() == -5
    assert esd_target(torch.tensor(3.0), torch.tensor(3.0), 2.0).item() == 3


def test_x_trains_the_cross_attentions_and_u_all_else(mini):
    x, u = (set(trained_names(mini.unet, cross=cross)) for cross in (True, False))
    assert x | u == {name for name, _ in mini.unet.named_parameters()}
    assert not x & u
    assert x
    assert all(".attn2." in name for name in x)


@pytest.mark.long
def test_training_moves_towards_the_target_and_leaves_the_base_as_it_was(mini, tmp_path):
    before = {name: weight.clone() for name, weight in mini.unet.state_dict().items()}
    config = EsdConfig(steps=12, batch_size=2, lr=2e-3, sampling_steps=2, ways=2)
    weights = train_esd(mini, ["sword"], config, cross=True, steps=12, place=Place(tmp_path, "run", "x"))
    assert all(torch.equal(weight, before[name]) for name, weight in mini.unet.state_dict().items())
    ways = sample_ways(mini, ["sword"], config, ways=2)
    latents, times = ways.latents[:, 1].float(), ways.timesteps[1].expand(2)
    with torch.no_grad():
        plain, told = (predict(mini, latents, times, text) for text in (ways.empty[[0, 0]], ways.texts))
        trained = predict(mini, latents, times, ways.texts, weights=weights)
    target = esd_target(plain, told, 1.0)
    assert (trained - target).square().mean() < 0.8 * (told - target).square().mean()


@pytest.mark.long
def test_killed_and_resumed_ends_with_the_same_weights(mini, tmp_path, monkeypatch):
    whole = train_esd(mini, ["sword"], FEW, cross=True, steps=6, place=Place(tmp_path / "whole", "run", "x"))
    made = []

    def stops(*arguments):
        made.append(1)
        if len(made) == 6:
            raise KeyboardInterrupt
        return esd_target(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr("psalign.baselines.esd.esd_target", stops)
        with pytest.raises(KeyboardInterrupt):
            train_esd(mini, ["sword"], FEW, cross=True, steps=6, place=Place(tmp_path / "cut", "run", "x"))
    saved = sorted(path.name for path in (tmp_path / "cut/checkpoints").iterdir())
    assert saved == [
        "step-00000002.pt",
        "step-00000004.pt",
    ]
    again = train_esd(mini, ["sword"], FEW, cross=True, steps=6, place=Place(tmp_path / "cut", "run", "x"))
    assert all(torch.equal(again[name], whole[name]) for name in whole)


@pytest.mark.long
@pytest.mark.parametrize("base", ["sd15", "sdxl"])
def test_it_trains_on_the_layouts_of_sd15_and_sdxl(base, tmp_path):
    pipe = PIPELINES[base]()
    own = pipe.unet.state_dict()
    config = EsdConfig(steps=1, lr=1e-3, sampling_steps=1, ways=1)
    for cross in (True, False):
        weights = train_esd(pipe, ["sword"], config, cross=cross, steps=1, place=Place(tmp_path / str(cross), "r", "x"))
        assert set(weights) == set(trained_names(pipe.unet, cross=cross))
        assert any(not torch.equal(weight, own[name]) for name, weight in weights.items())
    assert (encode(pipe, ["a"]).pooled is not None) == (base == "sdxl")
