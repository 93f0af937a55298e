"""A run from a preset: adapter shapes that fit, and those that make no sense."""

import json
import re

import pytest
import torch
from accelerate import cpu_offload

from psalign.adapter.checkpoint import load_adapter
from psalign.config import load_preset
from psalign.diffusion.base_models import load_pipeline
from psalign.diffusion.text_side import load_text_side
from psalign.errors import CheckpointError, UsageError
from psalign.training.run import (
    RowSource,
    TrainingData,
    check_shape,
    load_captions,
    load_pairs,
    load_rows,
    train_adapter,
)
from psalign.users.store import EmbeddingStore


def test_shapes_that_make_sense():
    check_shape("prompt", {})
    check_shape("prompt", {"n_tokens": 8, "rank": 64, "heads": 4, "depth": 2})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"width": 3}, r"Unknown setting prompt\.adapter\.width; choose one of: n_tokens, proj_rank, rank"),
        ({"rank": "many"}, r"prompt\.adapter\.rank must be a whole number of at least 1; saw 'many'"),
        ({"n_tokens": 0}, "n_tokens must be a whole number of at least 1; saw 0"),
        ({"depth": True}, "depth must be a whole number"),
        ({"heads": 3}, "rank must be a multiple of heads; saw 64 and 3"),
    ],
)
def test_shapes_that_make_no_sense(shape, message):
    with pytest.raises(UsageError, match=message):
        check_shape("prompt", shape)


def test_a_run_does_not_go_on_with_another_unet(small_run, tmp_path):
    """VAE and text encoder, of which the cache is made, are those of many fine-tuned models."""
    users, pipeline = EmbeddingStore.load(small_run[0] / "embeddings"), load_pipeline("mini")
    pairs = load_pairs(RowSource(small_run[0] / "data", tmp_path / "cache"), pipeline, users)
    preset = load_preset("mini-quickstart")
    preset["prompt"]["training"] = {"steps": 1, "batch_size": 2, "validation_pairs": 0}
    for _ in range(2):
        train_adapter(preset, "prompt", pipeline, TrainingData(pairs, users), tmp_path / "run")
    with torch.no_grad():
        next(pipeline.unet.parameters()).mul_(1.01)
    with pytest.raises(CheckpointError, match="checkpoints of another run"):
        train_adapter(preset, "prompt", pipeline, TrainingData(pairs, users), tmp_path / "run")


@pytest.mark.parametrize("queries", ["random", "words"])
def test_a_file_of_captions_is_trained_on_and_its_ban_lists_are_embedded(queries, small_run, tmp_path, capsys):
    from psalign.adapter.checkpoint import load_adapter
    from psalign.cli import main

    rows = [
        {"caption": "a red cat with a sword", "chosen_caption": "a red cat", "banned": ["Violence"]},
        {"caption": "a red cat with a sword", "banned": ["Hate"]},
    ]
    (tmp_path / "captions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    settings = {"batch_size": 2, "queries": queries, "validation_pairs": 0}
    changes = [part for name, value in settings.items() for part in ("--set", f"prompt.training.{name}={value}")]
    arguments = ["train", "--data", tmp_path / "captions.jsonl", "--embeddings", small_run[0] / "embeddings", "--out",
                 tmp_path / "model", "--steps", 2, *changes]  # fmt: skip
    assert main([str(one) for one in arguments]) == 0, capsys.readouterr().err
    adapter = load_adapter(tmp_path / "model/adapter")
    assert adapter.config.recipe == EmbeddingStore.load(small_run[0] / "embeddings").fingerprint


def test_a_corrected_setting_is_answered_before_anything_is_encoded(small_run, tmp_path, capsys):
    """What was made of the first run stays: its cache serves the corrected one."""
    from psalign.cli import main

    run = small_run[0]

    def train(out, *more):
        sizes = ["--steps", 1, "--rows", 40, "--batch-size", 2, "--set", "prompt.training.validation_pairs=0",
                 "--set", "prompt.training.queries=words"]  # fmt: skip
        arguments = ["train", "--data", run / "data", "--embeddings", run / "embeddings", "--out", tmp_path / out]
        status = main([str(one) for one in (*arguments, *sizes, *more)])
        return status, capsys.readouterr().err

    assert train("first")[0] == 0
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()}
    status, told = train("first", "--lr", 1e-4, "--model", tmp_path / "no model is looked for")
    assert status == 1
    assert re.search(r"\n  lr: 0\.\d+ -> 0\.0001\n", told)
    assert (
        f"train anew: --out {tmp_path / 'first'}-2 --cache {tmp_path / 'first/cache'}: what is encoded is kept" in told
    )
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*") if path.is_file()} == before
    assert train("first", "--set", "prompt.training.log_every=3")[0] == 0
    assert train("first-2", "--lr", 1e-4, "--cache", tmp_path / "first/cache")[0] == 0
    cached = {path for path in before if path.parent.name == "cache"}
    assert {path for path in (tmp_path / "first/cache").iterdir() if path.is_file()} == cached
    assert not (tmp_path / "first-2/cache").exists()


def test_disturbed_captions_are_more_rows_of_the_training_split_alone(small_run, tmp_path):
    users, pipeline = EmbeddingStore.load(small_run[0] / "embeddings"), load_pipeline("mini")

    def load(split, share):
        preset = load_preset("mini-quickstart", changes=[f"prompt.training.noise_share={share}"])
        source = RowSource(small_run[0] / "data", tmp_path / "cache", split, most=60)
        return load_captions(source, pipeline, users, preset=preset)

    plain, noisy, again = load("train", 0), load("train", 0.25), load("train", 0.25)
    copies = noisy.rows[len(plain) :]
    assert noisy.rows[: len(plain)] == plain.rows
    assert 0.6 * len(plain) / 3 < len(copies) <= round(len(plain) / 3)
    assert {copy.user_id for copy in copies} <= {row.user_id for row in plain.rows}
    assert not {copy.caption for copy in copies} & {row.caption for row in plain.rows}
    assert again.name == noisy.name != plain.name
    assert load("val", 0.25).name == load("val", 0).name


def test_captions_do_not_train_a_published_adapter(small_run, tmp_path):
    users, pipeline = EmbeddingStore.load(small_run[0] / "embeddings"), load_pipeline("mini")
    preset = load_preset("mini-quickstart")
    preset["published"]["training"] = {"objective": "captions", "steps": 1}
    rows = load_captions(RowSource(small_run[0] / "data", tmp_path / "cache"), pipeline, users, preset=preset)
    with pytest.raises(UsageError, match="Captions train adapters of kind prompt; published ones need pictures"):
        train_adapter(preset, "published", pipeline, TrainingData(rows, users), tmp_path / "run")


def test_pictures_need_a_whole_unet(small_run, tmp_path):
    users, pipeline = EmbeddingStore.load(small_run[0] / "embeddings"), load_text_side("mini")
    preset = load_preset("mini-quickstart", changes=["prompt.training.objective=pictures"])
    rows = load_captions(RowSource(small_run[0] / "data", tmp_path / "cache"), pipeline, users, preset=preset)
    with pytest.raises(UsageError, match="The objective 'pictures' needs a whole UNet"):
        train_adapter(preset, "prompt", pipeline, TrainingData(rows, users), tmp_path / "run")


def test_only_the_pairs_that_are_asked_for_need_pictures(small_run, tmp_path):
    users, pipeline = EmbeddingStore.load(small_run[0] / "embeddings"), load_pipeline("mini")
    pairs = load_pairs(RowSource(small_run[0] / "data", tmp_path / "cache", most=4), pipeline, users)
    assert len(pairs) == 4
    assert len(pairs.cache.pictures) == 4


SHORT = ["prompt.training.steps=1", "prompt.training.batch_size=2", "prompt.training.validation_pictures=2"]


@pytest.mark.slow
def test_training_leaves_parts_that_are_offloaded_or_quantised_alone(small_run, tmp_path):
    """VAE by accelerate's hooks; the text encoder as bitsandbytes leaves it, which refuses to be moved and cast."""
    users, pipeline = EmbeddingStore.load(small_run[0] / "embeddings"), load_pipeline("mini", dtype="bf16")
    cpu_offload(pipeline.vae, torch.device("cpu"))
    pipeline.text_encoder.hf_quantizer = object()
    pipeline.text_encoder.to = lambda *_, **__: pytest.fail("`.to` is not supported")
    preset = load_preset("mini-quickstart", changes=[*SHORT, "prompt.training.mixed_precision=bf16"])
    sources = [RowSource(small_run[0] / "data", tmp_path / "cache", split=split, most=4) for split in ("train", "val")]
    rows, unseen = (load_captions(source, pipeline, users, preset=preset) for source in sources)
    train_adapter(preset, "prompt", pipeline, TrainingData(rows, users, unseen), tmp_path / "run")
    assert (tmp_path / "run/validation/step-00000001.png").is_file()
    assert {weight.device.type for weight in pipeline.vae.parameters()} == {"meta"}
    assert pipeline.text_encoder.dtype == torch.bfloat16
    other = load_preset("mini-quickstart", changes=SHORT)
    with pytest.raises(UsageError, match=r"stays in torch.bfloat16; training would run in torch.float32.\nSet mixed_p"):
        train_adapter(other, "prompt", pipeline, TrainingData(rows, users), tmp_path / "other")


def test_an_offloaded_unet_does_not_train(small_run, tmp_path):
    users, pipeline = EmbeddingStore.load(small_run[0] / "embeddings"), load_pipeline("mini")
    preset = load_preset("mini-quickstart", changes=SHORT)
    source = RowSource(small_run[0] / "data", tmp_path / "cache", most=4)
    rows = load_captions(source, pipeline, users, preset=preset)
    cpu_offload(pipeline.unet, torch.device("cpu"))
    with pytest.raises(UsageError, match=r"The UNet is offloaded.*\nLoad the pipeline without offloading"):
        train_adapter(preset, "prompt", pipeline, TrainingData(rows, users), tmp_path / "run")


def weights_of(folder):
    """All weights of an adapter, in one vector."""
    return torch.cat([weight.float().flatten() for weight in load_adapter(folder).state_dict().values()])


@pytest.mark.gpu
@pytest.mark.parametrize("objective", ["captions", "pictures"])
def test_on_a_gpu_a_run_that_stopped_ends_as_one_that_did_not(small_run, tmp_path, objective):
    """But for roundings, which vary there. Every part of the pipeline is on the GPU afterwards, to draw with."""
    users, pipeline = EmbeddingStore.load(small_run[0] / "embeddings"), load_pipeline("mini", device="cuda")
    most = 8 if objective == "pictures" else None
    given = (f"objective={objective}", "batch_size=4", "save_every=2", "schedule=constant_with_warmup")
    changes = [f"prompt.training.{setting}" for setting in given]
    for name, steps in (("whole", 6), ("stopped", 2), ("stopped", 6)):
        preset = load_preset("mini-quickstart", changes=[*changes, f"prompt.training.steps={steps}"])
        rows, unseen = (
            load_rows(RowSource(small_run[0] / "data", tmp_path / "cache", split, most=most), pipeline, users,
                      kind="prompt", preset=preset)
            for split in ("train", "val")
        )  # fmt: skip
        train_adapter(preset, "prompt", pipeline, TrainingData(rows, users, unseen), tmp_path / name)
        (tmp_path / name / "adapter").rename(tmp_path / f"{name}-{steps}")
        parts = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
        assert {part.device.type for part in parts} == {"cuda"}
    half, resumed, whole = (weights_of(tmp_path / name) for name in ("stopped-2", "stopped-6", "whole-6"))
    assert (resumed - whole).norm() < 0.05 * (whole - half).norm()
