"""psalign generate as one of several processes, which notes what it drew."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def generate(notes: Path, fail: str, flags: list[str]) -> int:
    """Run the command. notes: the folder of the notes; fail: a prompt with this word cannot be drawn."""
    from accelerate import PartialState

    from psalign.cli import main
    from psalign.diffusion import generate as module

    write, draw = module.write_picture, module.Drawing.batch

    def noted(path: Path, picture: Any) -> None:
        state = PartialState()
        with (notes / f"{state.process_index} of {state.num_processes}").open("a") as stream:
            stream.write(f"{path.name}\n")
        write(path, picture)

    def failing(drawing: Any, rows: Any) -> Any:
        if any(fail in row.prompt for row in rows):
            raise RuntimeError("no memory left")
        return draw(drawing, rows)

    module.write_picture, module.Drawing.batch = noted, failing
    return main(["generate", *flags])
