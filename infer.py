"""`python infer.py ...` is `psalign generate ...`, for those who come from the published code (its flags too)."""

import sys

from psalign.cli import main
from psalign.cli.published import infer_arguments

if __name__ == "__main__":
    sys.exit(main(["generate", *infer_arguments(sys.argv[1:])]))
