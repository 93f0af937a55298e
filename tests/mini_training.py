"""A short real training run on the mini base, for the tests that start it in processes of their own.

python tests/mini_training.py DATA EMBEDDINGS OUT STEPS BATCH_SIZE [OBJECTIVE]
"""

import os
import sys
from pathlib import Path

import torch

SETTINGS = {
    "warmup_steps": 2, "save_every": 1, "log_every": 1, "lr": 1e-3, "user_dropout": 0.2, "anchor": "caption",
    "ema": 0.9, "validation_pictures": 0, "validation_pairs": 0, "keep": 2, "beta": 50,
}  # fmt: skip


def train(data, embeddings, out, *, steps, batch_size, **changes):
    """Train kind `prompt` on a dataset of the mini world."""
    from psalign.config import load_preset
    from psalign.diffusion.base_models import load_pipeline
    from psalign.training.run import load_rows, train_adapter
    from psalign.users.store import EmbeddingStore

    preset = load_preset("mini-quickstart")
    preset["prompt"]["training"] = {**SETTINGS, "steps": steps, "batch_size": batch_size, **changes}
    users, pipeline = EmbeddingStore.load(Path(embeddings)), load_pipeline("mini")
    cache = Path(out).parent / "cache"
    rows = load_rows(Path(data), cache, pipeline, users, kind="prompt", split="train", preset=preset)
    train_adapter(preset, "prompt", pipeline, rows, users, Path(out))


def train_quietly(data, embeddings, out, steps, batch_size):
    """The same, on one thread and without a word on stderr."""
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    torch.set_num_threads(1)
    train(data, embeddings, out, steps=steps, batch_size=batch_size)


if __name__ == "__main__":
    torch.set_num_threads(1)
    given = dict(zip(("data", "embeddings", "out"), sys.argv[1:4], strict=True))
    more = {"objective": sys.argv[6]} if len(sys.argv) > 6 else {}
    train(**given, steps=int(sys.argv[4]), batch_size=int(sys.argv[5]), **more)
