"""`python utils/generate_user_embeddings.py ...` is `psalign embed ...`; bare, it embeds the example users of data/.

Without --out (or a dataset, --data, that names it) it writes where the launchers look first: data/embeddings/sage.
"""

import sys
from pathlib import Path

from psalign.cli import main

EXAMPLE = ["--users", str(Path(__file__).parents[1] / "data" / "example_users.csv")]
OUT = ["--out", "data/embeddings/sage"]

if __name__ == "__main__":
    given = sys.argv[1:]
    flags = {word.partition("=")[0] for word in given}
    users = [] if flags & {"--users", "-h", "--help"} else EXAMPLE
    sys.exit(main(["embed", *users, *([] if flags & {"--out", "--data"} else OUT), *given]))
