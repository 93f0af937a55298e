"""A run from a preset: adapter shapes that fit, and those that make no sense."""

import pytest
import torch

from psalign.config import load_preset
from psalign.diffusion.base_models import load_pipeline
from psalign.errors import CheckpointError, UsageError
from psalign.training.run import check_shape, load_pairs, train_adapter
from psalign.users.embedding import EmbeddingStore


def test_shapes_that_make_sense():
    check_shape("prompt", {})
    check_shape("prompt", {"n_tokens": 8, "rank": 64, "heads": 4, "depth": 2, "gated": True})


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ({"width": 3}, r"Unknown setting prompt\.adapter\.width; choose one of: n_tokens, proj_rank, rank"),
        ({"rank": "many"}, r"prompt\.adapter\.rank must be a whole number of at least 1; saw 'many'"),
        ({"n_tokens": 0}, "n_tokens must be a whole number of at least 1; saw 0"),
        ({"depth": True}, "depth must be a whole number"),
        ({"gated": 1}, "gated must be true or false; saw 1"),
        ({"heads": 3}, "rank must be a multiple of heads; saw 64 and 3"),
    ],
)
def test_shapes_that_make_no_sense(shape, message):
    with pytest.raises(UsageError, match=message):
        check_shape("prompt", shape)


def test_a_run_does_not_go_on_with_another_unet(small_run, tmp_path):
    """VAE and text encoder, of which the cache is made, are those of many fine-tuned models."""
    users, pipeline = EmbeddingStore.load(small_run[0] / "embeddings"), load_pipeline("mini")
    pairs = load_pairs(small_run[0] / "data", tmp_path / "cache", pipeline, users)
    preset = load_preset("mini-quickstart")
    preset["prompt"]["training"] = {"steps": 1, "batch_size": 2, "validation_pairs": 0}
    for _ in range(2):
        train_adapter(preset, "prompt", pipeline, pairs, users, tmp_path / "run")
    with torch.no_grad():
        next(pipeline.unet.parameters()).mul_(1.01)
    with pytest.raises(CheckpointError, match="checkpoints of another run"):
        train_adapter(preset, "prompt", pipeline, pairs, users, tmp_path / "run")
