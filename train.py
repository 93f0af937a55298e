"""`python train.py ...` is `psalign train ...`, for those who come from the published code; it takes its flags too, and
BATCH_SIZE, MAX_STEPS, LR, SD_MODEL, DATA, EMBEDS and OUT from the environment. Flags win."""

import os
import sys

from psalign.cli import main
from psalign.cli.published import ENVIRONMENT, train_arguments

if __name__ == "__main__":
    given = [part for name, flag in ENVIRONMENT.items() if os.environ.get(name) for part in (flag, os.environ[name])]
    sys.exit(main(["train", *given, *train_arguments(sys.argv[1:])]))
