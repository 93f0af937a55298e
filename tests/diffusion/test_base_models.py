"""The name of a base: of its files, its hub id, or the weights in memory."""

import json
import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler
from safetensors.torch import save

from helpers import tiny_unet
from psalign.diffusion.base_models import (
    BASES,
    SCHEDULERS,
    base_fingerprint,
    count_weights,
    find_base,
    load_pipeline,
)
from psalign.diffusion.text_side import load_text_side
from psalign.errors import CheckpointError, UsageError
from single_file import save_single_file
from tiny_pipelines import PIPELINES, WHOLE, draw, save_pipeline, sd15_pipeline


@pytest.fixture
def pipeline():
    return DDPMPipeline(tiny_unet(), DDPMScheduler())


def test_a_pipeline_made_in_memory_is_named_by_its_weights(pipeline):
    before = base_fingerprint(pipeline)
    assert before == base_fingerprint(DDPMPipeline(tiny_unet(), DDPMScheduler()))
    with torch.no_grad():
        pipeline.unet.conv_in.bias[0] += 1
    assert base_fingerprint(pipeline) != before


def test_a_pipeline_of_a_folder_is_named_by_its_files(pipeline, tmp_path):
    for name in ("a", "b"):
        pipeline.save_pretrained(tmp_path / name)
    first, second = (DDPMPipeline.from_pretrained(tmp_path / name) for name in ("a", "b"))
    assert base_fingerprint(first) == base_fingerprint(second)
    DDPMPipeline(tiny_unet(seed=5), DDPMScheduler()).save_pretrained(tmp_path / "b")
    assert base_fingerprint(first) != base_fingerprint(second)


def test_a_folder_of_bin_files_is_named_by_its_files(tmp_path):
    for seed in (0, 5):
        DDPMPipeline(tiny_unet(seed=seed), DDPMScheduler()).save_pretrained(
            tmp_path / str(seed), safe_serialization=False
        )
    names = {base_fingerprint(DDPMPipeline.from_pretrained(tmp_path / seed, use_safetensors=False)) for seed in "05"}
    assert len(names) == 2


def test_other_pipelines_have_a_name_too():
    names = [
        base_fingerprint(SimpleNamespace(config=SimpleNamespace(_name_or_path=place))) for place in ("a/b", "a/c", None)
    ]
    assert len({*names, base_fingerprint(object())}) == 3
    assert names[2] == base_fingerprint(object())


@pytest.fixture(scope="module", params=list(PIPELINES))
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / request.param
    return request.param, save_pipeline(PIPELINES[request.param](), folder)


def test_the_real_layouts_load(saved):
    base, folder = saved
    pipeline = load_pipeline(base, source=str(folder), dtype="bf16", scheduler="euler")
    assert type(pipeline).__name__ == find_base(base).pipeline
    assert {weight.dtype for weight in pipeline.unet.parameters()} == {torch.bfloat16}
    assert not any(weight.requires_grad for weight in pipeline.unet.parameters())
    assert type(pipeline.scheduler).__name__ == "EulerDiscreteScheduler"
    assert pipeline.scheduler.config.beta_schedule == "scaled_linear"  # its own, not the library's default


def test_it_loads_without_a_word_and_reads_a_variant(saved, tmp_path, caplog):
    base, folder = saved
    load_pipeline(base, source=str(folder), dtype="bf16").save_pretrained(tmp_path / base, variant="fp16")
    load_pipeline(base, source=str(tmp_path / base), dtype="bf16", variant="fp16", local_files_only=True)
    with pytest.raises(CheckpointError, match=f"The base model '{base}' cannot be loaded from"):
        load_pipeline(base, source=str(tmp_path / base), variant="none")
    assert [record.getMessage() for record in caplog.records] == []


def test_a_single_file(tmp_path):
    folder, names = save_pipeline(WHOLE["sd15"](), tmp_path / "sd15"), set()
    for seed in (0, 1):
        pipeline = WHOLE["sd15"]()
        with torch.no_grad():
            pipeline.unet.conv_out.bias += seed
        path = save_single_file(pipeline, tmp_path / f"{seed}.safetensors")
        loaded = load_pipeline("sd15", source=str(path), config=str(folder), local_files_only=True)
        assert torch.allclose(draw(loaded), draw(pipeline), atol=1e-4)
        names.add(base_fingerprint(loaded))
    assert len(names) == 2


def test_nothing_is_fetched_where_that_is_forbidden(tmp_path, monkeypatch):
    monkeypatch.setitem(BASES, "sd15", replace(BASES["sd15"], source="nobody/nothing"))
    (tmp_path / "one.safetensors").write_bytes(save({"a": torch.zeros(1)}))
    for source in (None, str(tmp_path / "one.safetensors")):
        with pytest.raises(CheckpointError, match=r"'sd15' cannot be loaded from .*(cache|local)"):
            load_pipeline("sd15", source=source, local_files_only=True)


def test_every_scheduler_draws(saved):
    base, folder = saved
    if base == "sd15":
        for name in SCHEDULERS:
            latents = draw(load_pipeline(base, source=str(folder), scheduler=name))
            assert torch.isfinite(latents).all(), name


def test_what_is_no_base_model(saved, tmp_path):
    base, folder = saved
    other = {"sd15": "sdxl", "sdxl": "sd15"}[base]
    with pytest.raises(CheckpointError, match=f"(is not a '{other}' model|'{other}' cannot be loaded)"):
        load_pipeline(other, source=str(folder))
    with pytest.raises(CheckpointError, match=r"cannot be loaded from .*nothing"):
        load_pipeline(base, source=str(tmp_path / "nothing"))
    (tmp_path / "one.safetensors").write_bytes(b"no weights")
    with pytest.raises(CheckpointError, match=r"cannot be loaded from .*one\.safetensors"):
        load_pipeline(base, source=str(tmp_path / "one.safetensors"))
    with pytest.raises(UsageError, match="Unknown base model 'sd3'; choose one of: mini, sd15, sdxl"):
        load_pipeline("sd3")


def without(path):
    return lambda folder: shutil.rmtree(folder / path)


def holding(path, content):
    return lambda folder: (folder / path).write_bytes(content)


def without_words(folder):
    for name in ("vocab.json", "merges.txt", "tokenizer.json"):
        (folder / "tokenizer" / name).unlink(missing_ok=True)


def reading(tokens):
    def change(folder):
        path = folder / "tokenizer/tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "model_max_length": tokens}))

    return change


DAMAGED = {
    "no class": holding("model_index.json", b"{}"),
    "a schedule that there is not": holding(
        "scheduler/scheduler_config.json", b'{"_class_name": "DDIMScheduler", "beta_schedule": "magic"}'
    ),
    "weights that are none": holding("text_encoder/model.safetensors", b"x" * 100),
    "an empty file": holding("unet/diffusion_pytorch_model.safetensors", b""),
    "no JSON": holding("vae/config.json", b"{"),
    "no tokenizer": without("tokenizer"),
    "a tokenizer without its words": without_words,
    "a tokenizer that reads too much": reading(10**6),
    "a tokenizer that reads text": reading("much"),
}


@pytest.mark.parametrize("damage", DAMAGED)
def test_a_damaged_model_is_named_and_is_no_traceback(damage, saved, tmp_path):
    (base, whole), folder = saved, tmp_path / "model"
    shutil.copytree(whole, folder)
    DAMAGED[damage](folder)
    with pytest.raises(
        CheckpointError, match=r"The base model .* (cannot be loaded from|is not whole|is damaged).*\nGive --model"
    ):
        load_pipeline(base, source=str(folder), local_files_only=True)


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_weights_are_counted_by_the_heads_of_their_files(variant, tmp_path):
    pipeline = sd15_pipeline()
    pipeline.save_pretrained(tmp_path / "folder", variant=variant)
    parts = (pipeline.unet, pipeline.vae, pipeline.text_encoder)
    expected = sum(weight.numel() for part in parts for weight in part.state_dict().values())
    assert count_weights(str(tmp_path / "folder"), variant) == expected
    assert count_weights(str(tmp_path / "folder"), "bf16") == 0


@pytest.mark.parametrize("load", [load_pipeline, load_text_side])
@pytest.mark.parametrize("name", ["page.json", "model.zip", "model"])
def test_a_file_in_the_place_of_a_folder_is_no_name_on_the_hub(load, name, tmp_path):
    (tmp_path / name).write_text("<html>")
    with pytest.raises(CheckpointError, match=rf"'sd15' cannot be loaded from .*{name}: it is a file\.\nGive --model"):
        load("sd15", source=str(tmp_path / name))
