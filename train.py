"""`python train.py ...` is `psalign train ...`, for those who come from the published code."""

import sys

from psalign.cli import main

if __name__ == "__main__":
    sys.exit(main(["train", *sys.argv[1:]]))
