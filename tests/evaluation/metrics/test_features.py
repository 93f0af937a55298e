"""Feature extractors: that of mini on real pictures, and what can be known of FID's Inception without its library."""

import pickle
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from psalign.benchmark.models import ModelsConfig, models_for
from psalign.errors import CheckpointError, ExtraMissing
from psalign.evaluation.metrics.features import InceptionFeatures, as_channels_first, inception, read_weights, stack
from psalign.mini import world


def drawings(n, seed=0):
    rng = np.random.default_rng(seed)
    return np.stack([world.draw(world.sample_scene(rng), seed=i) for i in range(n)])


def test_features_of_mini_do_not_depend_on_the_batch():
    extractor = models_for("mini", ModelsConfig()).features()
    pictures = drawings(6)
    together = extractor(pictures)
    assert together.shape == (6, 256)
    assert together.dtype == np.float32
    alone = np.concatenate([extractor(pictures[i : i + 1]) for i in range(6)])
    assert together == pytest.approx(alone, rel=1e-5, abs=1e-5)
    assert np.ptp(together, axis=0).max() > 0.1  # they tell pictures apart


def test_runs_of_one_size_are_stacked():
    small, large = np.zeros((2, 2, 3), np.uint8), np.zeros((4, 2, 3), np.uint8)
    assert [group.shape for group in stack([small, small, large, small])] == [(2, 2, 2, 3), (1, 4, 2, 3), (1, 2, 2, 3)]
    assert list(stack([])) == []


def test_inception_is_given_bytes_channels_first():
    """The pixel (row 1, column 2) of channel 0 stays the pixel (1, 2) of channel 0."""
    pictures = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    tensor = as_channels_first(pictures)
    assert tensor.dtype == torch.uint8
    assert tensor.shape == (2, 3, 4, 5)
    assert tensor[1, 0, 1, 2].item() == pictures[1, 1, 2, 0]


def test_inception_names_its_weights_without_loading_them(tmp_path):
    for name, value in (("a", 1.0), ("b", 2.0)):
        save_file({"x": torch.tensor([value])}, tmp_path / f"{name}.safetensors")
    names = {inception(tmp_path / f"{name}.safetensors").name for name in "ab"}
    assert len(names) == 2
    with pytest.raises(CheckpointError, match="the weights of FID's Inception, does not exist"):
        _ = inception(tmp_path / "none.pth").name


def test_inception_without_its_library_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch_fidelity", None)
    with pytest.raises(ExtraMissing, match="torch-fidelity is not installed; it comes with the extra 'metrics'"):
        InceptionFeatures(tmp_path / "x.pth")


class Trap:
    def __reduce__(self):
        return (print, ("run",))


def test_weights_are_read_without_running_anything(tmp_path, capsys):
    state = {"conv.weight": torch.randn(2, 3)}
    torch.save(state, tmp_path / "fine.pth")
    save_file(state, tmp_path / "fine.safetensors")
    for name in ("fine.pth", "fine.safetensors"):
        assert torch.equal(read_weights(tmp_path / name)["conv.weight"], state["conv.weight"])
    torch.save({"x": Trap()}, tmp_path / "trap.pth")
    (tmp_path / "pickle.pth").write_bytes(pickle.dumps(Trap(), protocol=2))
    (tmp_path / "short.safetensors").write_bytes(b"short")
    for name in ("trap.pth", "pickle.pth", "short.safetensors"):
        with pytest.raises(CheckpointError, match=f"{name} cannot be read as"):
            read_weights(tmp_path / name)
    assert capsys.readouterr().out == ""


def test_inception_of_the_real_library_where_it_is_installed(tmp_path):
    """With weights of the real layout, random: 2048 features, alike in any batch; other weights are refused."""
    try:
        from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
    except (ImportError, RuntimeError):
        pytest.skip("torch-fidelity does not load here")
    torch.manual_seed(0)
    save_file({"x": torch.zeros(1)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="does not fit FID's Inception-v3"):
        InceptionFeatures(tmp_path / "other.safetensors")
    network = FeatureExtractorInceptionV3.__new__(FeatureExtractorInceptionV3)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "load", lambda *_, **__: network.state_dict())
        FeatureExtractorInceptionV3.__init__(network, "x", ["2048"], feature_extractor_weights_path="x")
    torch.save(network.state_dict(), tmp_path / "inception.pth")
    extractor, pictures = InceptionFeatures(tmp_path / "inception.pth"), drawings(3)
    together = extractor(pictures)
    assert together.shape == (3, 2048)
    assert together[:1] == pytest.approx(extractor(pictures[:1]), abs=1e-3)
