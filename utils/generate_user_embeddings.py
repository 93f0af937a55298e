"""`python utils/generate_user_embeddings.py ...` is `psalign embed ...`; bare, it embeds the example users of data/."""

import sys
from pathlib import Path

from psalign.cli import main

EXAMPLE = ["--users", str(Path(__file__).parents[1] / "data" / "example_users.csv")]

if __name__ == "__main__":
    given = sys.argv[1:]
    sys.exit(main(["embed", *([] if {"--users", "-h", "--help"} & set(given) else EXAMPLE), *given]))
