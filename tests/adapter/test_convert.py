"""Published checkpoints come in whole or not at all, and compute what diffusers' own IP-Adapter attention computes."""

import pickle

import pytest
import torch
from safetensors.torch import load_file, save_file

from psalign import load_psa_adapter
from psalign.adapter.attach import attach
from psalign.adapter.checkpoint import adapter_fingerprint, load_adapter
from psalign.adapter.convert import LAYOUTS, read_published, write_ip_adapter, write_published
from psalign.diffusion.base_models import BASES
from psalign.errors import CheckpointError, UsageError
from psalign.records import PUBLISHED_RECIPE
from tiny_pipelines import PIPELINES, WHOLE, draw, random_adapter, users

VECTORS = torch.stack([torch.from_numpy(vector) for vector in users().vectors])


def parts_of(adapter):
    """The two groups of tensors of psa_adapter.bin."""
    state = adapter.state_dict()
    layers = range(len(adapter.config.widths))
    return {
        "user_proj": {name[10:]: value.clone() for name, value in state.items() if name.startswith("user_proj.")},
        "psa_adapter": {
            f"{i}.to_{x}_user.0.weight": state[f"layers.{i}.to_{x}_user.weight"].clone() for i in layers for x in "kv"
        },
    }


@pytest.fixture(params=["bin", "safetensors"])
def published(request, tmp_path):
    """(a writer of parts to a published file of either form, the adapter they come from)"""

    def write(parts):
        path = tmp_path / f"psa_adapter.{request.param}"
        if request.param == "bin":
            torch.save(parts, path)
        else:
            save_file({f"{group}.{name}": value for group, part in parts.items() for name, value in part.items()}, path)
        return path

    return write, random_adapter(WHOLE["sd15"](), "published")


def test_the_layouts_are_those_of_the_base_models():
    assert {name: layout for layout, name in LAYOUTS.items()} == {
        base.name: (base.context_dim, base.cross_attentions) for base in BASES.values()
    }


@pytest.mark.parametrize(("base", "n_tokens"), [("sd15", 1), ("sd15", 3), ("sdxl", 1)])
def test_a_published_file_comes_back_bit_for_bit(base, n_tokens, tmp_path):
    """Of three tokens the first alone: the published code reads no other."""
    adapter = random_adapter(WHOLE[base](), "published", n_tokens=n_tokens)
    torch.save(parts_of(adapter), tmp_path / "psa_adapter.bin")
    write_published(adapter, tmp_path / "other/psa_adapter.safetensors")
    for place in (tmp_path / "psa_adapter.bin", tmp_path, tmp_path / "other"):
        read = load_adapter(place, base=base)
        assert (read.config.recipe, read.config.n_tokens) == (PUBLISHED_RECIPE, 1)
        assert tuple(read.config.widths) == tuple(adapter.config.widths)
        for name, weight in adapter.state_dict().items():
            kept = read.state_dict()[name]
            assert torch.equal(kept, weight[: len(kept)]), name
            assert len(kept) == len(weight) or name in ("user_proj.proj.weight", "user_proj.proj.bias")
    assert adapter_fingerprint(tmp_path) == adapter_fingerprint(tmp_path / "psa_adapter.bin")
    assert set(load_file(tmp_path / "other/psa_adapter.safetensors")) == {
        f"{group}.{name}" for group, part in parts_of(adapter).items() for name in part
    }


def test_a_published_file_steers_a_pipeline(published):
    write, adapter = published
    pipe = WHOLE["sd15"]()
    expected = draw(pipe, attach(pipe, adapter))
    pipe = WHOLE["sd15"]()
    psa = load_psa_adapter(pipe, write(parts_of(adapter)))
    torch.testing.assert_close(draw(pipe, psa, VECTORS, recipe="published"), expected, atol=1e-6, rtol=0)


def without(part, name):
    def change(parts):
        del parts[part][name]

    return change


def with_(part, name, value):
    def change(parts):
        parts[part][name] = value

    return change


FAULTS = {
    "a projection without its bias": (without("user_proj", "proj.bias"), r"missing user_proj\.proj\.bias"),
    "a layer without its keys": (without("psa_adapter", "3.to_k_user.0.weight"), r"1 missing, 0 unknown"),
    "a layer more": (with_("psa_adapter", "16.to_v_user.0.weight", torch.zeros(4, 768)), "missing psa_adapter.16.to_k"),
    "a stranger": (with_("psa_adapter", "0.lora", torch.zeros(2)), r"unknown psa_adapter\.0\.lora"),
    "another width": (
        with_("psa_adapter", "0.to_v_user.0.weight", torch.zeros(8, 5)),
        "does not fit together",
    ),
    "no layers": (lambda parts: parts["psa_adapter"].clear(), "no layers"),
    "fewer layers": (
        lambda parts: [parts["psa_adapter"].pop(f"{i}.to_{x}_user.0.weight") for i in (14, 15) for x in "kv"],
        r"for no base model known here: tokens of width 768, 14 cross-attentions \(known: sd15: 768 and 16",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_published_adapter(fault, published):
    write, adapter = published
    parts = parts_of(adapter)
    change, message = FAULTS[fault]
    change(parts)
    with pytest.raises(CheckpointError, match=message):
        read_published(write(parts))


class Danger:
    def __reduce__(self):
        return (print, ("this must never run",))


def test_files_that_are_something_else(tmp_path, capsys):
    path = tmp_path / "psa_adapter.bin"
    path.write_bytes(pickle.dumps(Danger()))
    with pytest.raises(CheckpointError, match="holds more than tensors") as raised:
        load_adapter(path)
    assert "weights_only" not in str(raised.value)
    assert "never run" not in capsys.readouterr().out
    torch.save([1, 2], path)
    with pytest.raises(CheckpointError, match="holds list, not two groups of tensors"):
        load_adapter(path)
    torch.save({"user_proj": {"proj.weight": "text"}, "psa_adapter": {}}, path)
    with pytest.raises(CheckpointError, match=r"user_proj\.proj\.weight is no tensor"):
        load_adapter(path)
    whole = tmp_path / "whole.safetensors"
    write_published(random_adapter(WHOLE["sd15"](), "published"), whole)
    whole.write_bytes(whole.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_adapter(whole)


def test_another_base(published):
    write, adapter = published
    with pytest.raises(CheckpointError, match="trained for 'sd15'; this run uses 'sdxl'"):
        load_adapter(write(parts_of(adapter)), base="sdxl")


@pytest.mark.parametrize(("base", "guidance"), [("sd15", 4.0), ("sd15", 1.0), ("sdxl", 4.0)])
def test_it_computes_what_the_ip_adapter_attention_of_diffusers_computes(base, guidance, tmp_path):
    """One user at a time, which is all that diffusers can: the user vector is the "image embedding"."""
    pipe = PIPELINES[base]()
    adapter = random_adapter(pipe, "published")
    write_ip_adapter(adapter, tmp_path / "ip.safetensors")

    def one(psa=None, who=None, **more):
        seed = [torch.Generator().manual_seed(7)]
        return draw(pipe, psa, who, prompt=["a red cat on the left"], generator=seed, guidance_scale=guidance, **more)

    plain = one()
    psa = attach(pipe, adapter)
    ours = one(psa, VECTORS[:1], recipe="tests")
    psa.unload()
    pipe.load_ip_adapter(tmp_path, subfolder="", weight_name="ip.safetensors", image_encoder_folder=None)
    pipe.set_ip_adapter_scale(1.0)
    embedding = VECTORS[:1, None]
    if guidance > 1:
        embedding = torch.cat([torch.zeros_like(embedding), embedding])
    theirs = one(ip_adapter_image_embeds=[embedding])
    torch.testing.assert_close(ours, theirs, atol=1e-5, rtol=0)
    assert (ours - plain).abs().max() > 0.01


def test_adapters_without_a_published_form(tmp_path):
    pipe = WHOLE["sd15"]()
    with pytest.raises(UsageError, match="this one is of kind 'prompt'"):
        write_published(random_adapter(pipe, "prompt"), tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match="takes one user token; this adapter has 3"):
        write_ip_adapter(random_adapter(pipe, "published", n_tokens=3), tmp_path / "a.safetensors")
