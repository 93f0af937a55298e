"""A short real training run on the mini base, for the tests that start it in processes of their own."""

from __future__ import annotations

from pathlib import Path

SETTINGS = {
    "warmup_steps": 2, "save_every": 1, "log_every": 1, "lr": 1e-3, "user_dropout": 0.2, "anchor": "caption",
    "ema": 0.9, "validation_pictures": 0, "validation_pairs": 0, "keep": 2, "beta": 50,
    "noise_share": 0.25, "queries": "noise",
}  # fmt: skip


def train(data: Path, embeddings: Path, out: Path, steps: int, batch_size: int, objective: str | None = None) -> None:
    """Train kind `prompt` on a dataset of the mini world; objective: the preset's where it is None."""
    from psalign.config import load_preset
    from psalign.diffusion.base_models import load_pipeline
    from psalign.training.run import RowSource, TrainingData, load_rows, train_adapter
    from psalign.users.store import EmbeddingStore

    preset = load_preset("mini-quickstart")
    changes = {} if objective is None else {"objective": objective}
    preset["prompt"]["training"] = {**SETTINGS, "steps": steps, "batch_size": batch_size, **changes}
    users, pipeline = EmbeddingStore.load(embeddings), load_pipeline("mini")
    rows = load_rows(RowSource(data, out.parent / "cache"), pipeline, users, kind="prompt", preset=preset)
    train_adapter(preset, "prompt", pipeline, TrainingData(rows, users), out)
