"""`python utils/generate_user_embeddings.py ...` is `psalign embed ...`, for those who come from the published code."""

import sys

from psalign.cli import main

if __name__ == "__main__":
    sys.exit(main(["embed", *sys.argv[1:]]))
