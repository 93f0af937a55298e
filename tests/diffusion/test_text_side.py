"""The text side of a base: the same readings as the whole UNet, from the cross-attentions' weights alone."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from psalign.diffusion.reader import Reader, random_pools
from psalign.diffusion.text_side import READ, CrossAttentions, load_text_side, read_cross_attentions
from psalign.errors import CheckpointError
from tiny_pipelines import WHOLE, save_pipeline

STATES = torch.randn((2, 40, 128), generator=torch.Generator().manual_seed(0))


def readings(unet):
    reader = Reader(unet, random_pools(unet, seed=2))
    picks = torch.arange(20)
    return [reader.read(STATES, layer, picks) for layer in range(len(reader))]


def test_readings_are_those_of_the_whole_unet(mini_pipeline):
    part = load_text_side("mini")
    assert isinstance(part.unet, CrossAttentions)
    assert part.vae is None
    for one, whole in zip(readings(part.unet), readings(mini_pipeline.unet), strict=True):
        assert torch.equal(one, whole)
    prompts = ["a red cat on the left, in a meadow"]
    encoded = [pipe.encode_prompt(prompts, torch.device("cpu"), 1, False)[0] for pipe in (part, mini_pipeline)]
    assert torch.equal(*encoded)


def test_of_sdxl_the_pooled_state_is_read_too(tmp_path):
    whole = WHOLE["sdxl"]()
    part = load_text_side("sdxl", source=str(save_pipeline(whole, tmp_path / "sdxl")))
    pooled, sizes = torch.randn((2, 1280)), torch.full((2, 6), 64.0)
    one, other = (Reader(pipe.unet, random_pools(pipe.unet, seed=2)) for pipe in (part, whole))
    assert len(one) == len(other) == 70
    assert torch.equal(one.read_pooled(pooled, sizes), other.read_pooled(pooled, sizes))


def test_only_the_wanted_weights_are_read(mini_pipeline_source, monkeypatch):
    import safetensors

    read, opened = [], safetensors.safe_open

    class Counting:
        def __init__(self, *arguments, **options):
            self.file = opened(*arguments, **options)

        def __enter__(self):
            self.inside = self.file.__enter__()
            return self

        def __exit__(self, *what):
            return self.file.__exit__(*what)

        def keys(self):
            return self.inside.keys()

        def get_tensor(self, name):
            read.append(name)
            return self.inside.get_tensor(name)

    monkeypatch.setattr(safetensors, "safe_open", Counting)
    unet = read_cross_attentions(mini_pipeline_source / "unet", dtype=torch.float32)
    assert read
    assert all(any(part in name for part in READ) for name in read)
    whole = load_file(mini_pipeline_source / "unet/diffusion_pytorch_model.safetensors")
    assert sum(w.numel() for w in unet.parameters()) < 0.3 * sum(w.numel() for w in whole.values())
    assert all(weight.device.type == "cpu" for weight in unet.parameters())


def test_weights_in_several_files_are_found(mini_pipeline_source, tmp_path):
    source = mini_pipeline_source / "unet"
    weights = load_file(source / "diffusion_pytorch_model.safetensors")
    names = sorted(weights)
    files = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for name, part in files.items():
        save_file({key: weights[key] for key in part}, tmp_path / name)
    index = {"weight_map": {key: name for name, part in files.items() for key in part}}
    (tmp_path / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index))
    (tmp_path / "config.json").write_bytes((source / "config.json").read_bytes())
    one, other = (read_cross_attentions(folder, dtype=torch.float32) for folder in (source, tmp_path))
    assert all(torch.equal(a, b) for a, b in zip(one.parameters(), other.parameters(), strict=True))


def test_a_folder_without_them_is_refused(mini_pipeline_source, tmp_path):
    (tmp_path / "config.json").write_bytes((mini_pipeline_source / "unet/config.json").read_bytes())
    with pytest.raises(CheckpointError, match=r"diffusion_pytorch_model.safetensors does not exist"):
        read_cross_attentions(tmp_path, dtype=torch.float32)
    save_file({"conv_in.bias": torch.zeros(1)}, tmp_path / "diffusion_pytorch_model.safetensors")
    with pytest.raises(CheckpointError, match=r"lacks \d+ of \d+ weights of cross-attentions"):
        read_cross_attentions(tmp_path, dtype=torch.float32)
