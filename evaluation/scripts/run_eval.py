"""`python evaluation/scripts/run_eval.py ...` is `psalign eval run ...`, for those who come from the published code."""

import sys

from psalign.cli import main

if __name__ == "__main__":
    sys.exit(main(["eval", "run", *sys.argv[1:]]))
