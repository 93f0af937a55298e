"""The command `demo`: a page to try one prompt for the base model, yourself and another person."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

from .drawing import add_drawing
from .options import a_path, add_in_words, at_least, command
from .serve import recipe_of

ADAPTER = Path("outputs/quickstart/training/prompt/adapter")


def demo(arguments: argparse.Namespace) -> None:
    from ..serve import require_libraries

    require_libraries("demo", ("gradio", "prometheus_client", "fastapi"))
    from ..serve.artist import Artist
    from ..serve.demo import Demo, launch
    from ..serve.loading import load

    loaded = load(recipe_of(arguments))
    assert isinstance(loaded.artist, Artist)
    page = Demo(loaded.artist, loaded.offer)
    where = f"http://{arguments.host}:{arguments.port}"
    print(f"The page: {where} (Ctrl-C ends it). Nothing that is typed there is stored.", file=sys.stderr)
    launch(page, host=arguments.host, port=arguments.port)


def add_commands(groups: Any) -> None:
    one = command(groups, "demo", demo, "try a prompt in a browser: base, yourself and another person side by side",
                  "psalign demo --adapter outputs/quickstart/training/prompt/adapter")  # fmt: skip
    one.add_argument("--adapter", type=a_path, default=ADAPTER, help=f"of kind 'prompt' (default {ADAPTER})")
    add_in_words(one)
    add_drawing(one, batches=False)
    one.add_argument("--host", default="127.0.0.1", help="where to listen (default 127.0.0.1)")
    one.add_argument("--port", type=at_least(1, 65535), default=7860, help="default 7860")
