"""infer.py as one of several processes, which notes what it drew; a prompt with the word of $FAIL cannot be drawn.

accelerate launch --multi_gpu --num_processes 2 tests/one_of_several.py NOTES [arguments of infer.py]
"""

import os
import runpy
import sys
from pathlib import Path

from accelerate import PartialState

from psalign.diffusion import generate

NOTES, ROOT = Path(sys.argv.pop(1)), Path(__file__).parents[1]
write, draw = generate.write_picture, generate.draw_batch


def noted(path, picture):
    state = PartialState()
    with (NOTES / f"{state.process_index} of {state.num_processes}").open("a") as stream:
        stream.write(f"{path.name}\n")
    write(path, picture)


def failing(pipeline, rows, **more):
    if any(os.environ.get("FAIL", "nothing fails") in row.prompt for row in rows):
        raise RuntimeError("no memory left")
    return draw(pipeline, rows, **more)


generate.write_picture, generate.draw_batch = noted, failing
sys.argv[0] = str(ROOT / "infer.py")
runpy.run_path(sys.argv[0], run_name="__main__")
