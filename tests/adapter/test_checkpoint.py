"""Adapters on disk: the same bits come back, and what does not fit is refused."""

import json
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from safetensors.torch import load_file, save_file

from helpers import tiny_adapter, tiny_unet
from psalign.adapter.checkpoint import WEIGHTS, adapter_fingerprint, load_adapter, save_adapter
from psalign.adapter.prompt import PromptAdapter
from psalign.categories import use_taxonomy
from psalign.errors import CheckpointError, TaxonomyMismatch
from taxonomies import of_size


@pytest.fixture
def saved(tmp_path):
    adapter = tiny_adapter(tiny_unet(), "prompt", n_tokens=2)
    save_adapter(adapter, tmp_path / "adapter")
    return adapter, tmp_path / "adapter"


@pytest.mark.parametrize("kind", ["prompt", "published"])
def test_saved_and_loaded_is_bit_equal(tmp_path, kind):
    adapter = tiny_adapter(tiny_unet(), kind)
    save_adapter(adapter, tmp_path / "a")
    loaded = load_adapter(tmp_path / "a", base="mini")
    assert type(loaded) is type(adapter)
    for name, value in adapter.shape.items():
        assert loaded.shape[name] == value or (name == "widths" and tuple(loaded.shape[name]) == tuple(value)), name
    for name, weight in adapter.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], weight), name


def test_exact_keys_of_the_prompt_kind(saved):
    block = [f"rewriter.blocks.0.{name}" for name in (
        "norms.0.weight", "norms.0.bias", "norms.1.weight", "norms.1.bias", "norms.2.weight", "norms.2.bias",
        "to_matched.to_q.weight", "to_matched.to_kv.weight", "to_matched.to_out.weight", "to_matched.to_out.bias",
        "to_prompt.to_q.weight", "to_prompt.to_kv.weight", "to_prompt.to_out.weight", "to_prompt.to_out.bias",
        "mlp.0.weight", "mlp.0.bias", "mlp.2.weight", "mlp.2.bias")]  # fmt: skip
    ends = [
        f"rewriter.{name}.{part}"
        for name in ("norm_in", "down", "mark", "norm_out", "up", "gate", "other")
        for part in ("weight", "bias")
    ]
    layers = ("user_proj.proj", "user_proj.norm", "features.0", "features.2", "breadth.0", "breadth.2")
    matcher = [f"matcher.{name}.{part}" for name in layers for part in ("weight", "bias")]
    matcher += [f"matcher.{name}" for name in ("centre", "spread", "categories", "bans_bias", "words_down.weight",
                                               "words_up.weight", "words_scale", "words_bias", "before_down.weight",
                                               "before_up.weight")]  # fmt: skip
    assert sorted(load_file(saved[1] / WEIGHTS)) == sorted([*block, *ends, *matcher])


def test_saving_again_replaces(saved):
    adapter, folder = saved
    before = adapter_fingerprint(folder)
    with torch.no_grad():
        adapter.rewriter.up.bias.add_(1)
    save_adapter(adapter, folder)
    assert adapter_fingerprint(folder) != before
    assert [path.name for path in folder.parent.iterdir()] == ["adapter"]


def test_missing_folder(tmp_path):
    with pytest.raises(CheckpointError, match=r"is not an adapter: expected diffusion_pytorch_model"):
        load_adapter(tmp_path / "nothing")


def test_other_base(saved):
    with pytest.raises(CheckpointError, match="was trained for 'mini'; this run uses 'sd15'"):
        load_adapter(saved[1], base="sd15")


def test_under_other_categories_it_is_read_where_it_is_to_go_by_words(tmp_path):
    for name, words in (("words", True), ("lists", False)):
        save_adapter(PromptAdapter(context_dim=16, rank=8, heads=2, words=words), tmp_path / name)
    with use_taxonomy(of_size(tmp_path, 7)):  # as many as the adapter has, and others
        for name, by_words in (("words", True), ("lists", False)):
            with pytest.raises(TaxonomyMismatch) as caught:
                load_adapter(tmp_path / name)
            assert ("--in-words" in str(caught.value)) == by_words
        assert load_adapter(tmp_path / "words", in_words=True).in_words
        with pytest.raises(CheckpointError, match="was not trained to keep limits in words"):
            load_adapter(tmp_path / "lists", in_words=True)
    assert not load_adapter(tmp_path / "words").in_words


def test_broken_weights(saved):
    (saved[1] / WEIGHTS).write_bytes(b"not safetensors")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_adapter(saved[1])


@pytest.mark.parametrize("fault", ["missing", "extra", "shape"])
def test_keys_that_do_not_match(saved, fault):
    weights = load_file(saved[1] / WEIGHTS)
    name = "rewriter.up.bias"
    if fault == "missing":
        del weights[name]
    elif fault == "extra":
        weights["rewriter.more"] = torch.zeros(1)
    else:
        weights[name] = torch.zeros(3)
    save_file(weights, saved[1] / WEIGHTS)
    with pytest.raises(CheckpointError, match=r"does not match its config|cannot be read"):
        load_adapter(saved[1])


def test_broken_config(saved):
    (saved[1] / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"config\.json is damaged: not JSON"):
        load_adapter(saved[1])


def test_config_is_readable(saved):
    config = json.loads((saved[1] / "config.json").read_text())
    assert (config["_class_name"], config["base"], config["recipe"]) == ("PromptAdapter", "mini", "tests")


def test_save_pretrained_writes_the_card(tmp_path):
    adapter = PromptAdapter(recipe="abc")
    adapter.save_pretrained(tmp_path)
    assert (tmp_path / "README.md").read_text() == adapter.card()
    assert load_adapter(tmp_path).config.recipe == "abc"


@pytest.mark.parametrize("door", ["push_to_hub", "save_pretrained"])
def test_pushing_to_the_hub_keeps_the_card(door, tmp_path, monkeypatch):
    sent, made = {}, {}

    def upload_folder(*, repo_id, folder_path, **options):
        sent.update({path.name: path.read_bytes() for path in Path(folder_path).iterdir()}, repo_id=repo_id)
        return "address of the commit"

    monkeypatch.setattr(huggingface_hub, "upload_folder", upload_folder)
    monkeypatch.setattr(
        huggingface_hub,
        "create_repo",
        lambda repo_id, **options: made.update(options) or SimpleNamespace(repo_id=repo_id),
    )
    adapter = PromptAdapter(recipe="abc")
    if door == "push_to_hub":
        assert adapter.push_to_hub("someone/psa", private=True) == "address of the commit"
        assert made["private"] is True
    else:
        adapter.save_pretrained(tmp_path / "psa", push_to_hub=True)
    assert sent["README.md"].decode() == adapter.card()
    assert {"config.json", "diffusion_pytorch_model.safetensors"} <= set(sent)
    assert sent["repo_id"].endswith("psa")
