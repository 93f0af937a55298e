"""`python train.py ...` is `psalign train ...`, for those who come from the published code: it also reads BATCH_SIZE,
MAX_STEPS, LR, SD_MODEL, DATA, EMBEDS and OUT from the environment. Flags win."""

import os
import sys

from psalign.cli import main

FLAGS = {"BATCH_SIZE": "--batch-size", "MAX_STEPS": "--steps", "LR": "--lr", "SD_MODEL": "--model", "DATA": "--data",
         "EMBEDS": "--embeddings", "OUT": "--out"}  # fmt: skip

if __name__ == "__main__":
    given = [part for name, flag in FLAGS.items() if os.environ.get(name) for part in (flag, os.environ[name])]
    sys.exit(main(["train", *given, *sys.argv[1:]]))
