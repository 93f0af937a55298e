"""`python infer.py ...` is `psalign generate ...`, for those who come from the published code."""

import sys

from psalign.cli import main

if __name__ == "__main__":
    sys.exit(main(["generate", *sys.argv[1:]]))
