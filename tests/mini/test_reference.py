import json

import numpy as np
import pytest
from PIL import Image

from psalign.cli import main
from psalign.errors import DatasetError, OutputError
from psalign.files import write_jsonl
from psalign.fingerprints import fingerprint
from psalign.mini import dataset
from psalign.mini.prompts import prompts
from psalign.mini.reference import draw_reference
from psalign.mini.sizes import DatasetConfig
from psalign.mini.world import Scene, draw
from psalign.records import PromptRow

META = {"kind": "safe", "background": "sea", "subject": "cat", "colour": "red", "side": "left"}
ROWS = [PromptRow("safe_1.png", "x", 1, meta=META), PromptRow("scenes_2.png", "y", 2, meta={"kind": "unsafe"})]


def test_safe_captions_are_drawn_and_no_others(tmp_path):
    draw_reference(tmp_path / "r", ROWS, per_caption=3)
    names = sorted(path.name for path in (tmp_path / "r").glob("*.png"))
    assert names == ["safe_1_0.png", "safe_1_1.png", "safe_1_2.png"]
    pictures = [np.asarray(Image.open(tmp_path / "r" / name)) for name in names]
    seed = int(fingerprint(["safe_1.png", 0]), 16) % 2**31
    assert np.array_equal(pictures[0], draw(Scene("sea", "cat", "red", "left"), seed=seed))
    assert not np.array_equal(pictures[0], pictures[1])


def test_a_finished_folder_is_left_and_another_is_refused(tmp_path):
    draw_reference(tmp_path, ROWS, per_caption=1)
    before = (tmp_path / "safe_1_0.png").stat().st_mtime_ns
    assert draw_reference(tmp_path, ROWS, per_caption=1) == tmp_path
    assert (tmp_path / "safe_1_0.png").stat().st_mtime_ns == before
    with pytest.raises(OutputError, match="holds another set of drawings"):
        draw_reference(tmp_path, ROWS, per_caption=2)


def test_pictures_that_were_not_drawn_here_are_left(tmp_path):
    (tmp_path / "safe_1_0.png").write_bytes(b"mine")
    with pytest.raises(OutputError, match=r"holds safe_1_0\.png, not built here"):
        draw_reference(tmp_path, ROWS, per_caption=1)
    assert (tmp_path / "safe_1_0.png").read_bytes() == b"mine"


def test_prompts_of_no_safe_scene_are_refused(tmp_path):
    with pytest.raises(DatasetError, match="None of 1 prompts is a safe one"):
        draw_reference(tmp_path, ROWS[1:])
    broken = PromptRow("safe_9.png", "x", 1, meta={"kind": "safe", "background": "sea"})
    with pytest.raises(DatasetError, match=r"safe_9\.png: its meta has no 'subject'"):
        draw_reference(tmp_path, [broken])


def test_the_prompts_of_the_mini_dataset_can_be_drawn(tmp_path):
    config = DatasetConfig(train_users=30, val_users=1, test_users=30, safe=3)
    rows = prompts(dataset.split_users(config), config)
    draw_reference(tmp_path, rows, per_caption=2)
    assert json.loads((tmp_path / "reference.json").read_text())["captions"] == 3
    assert len(list(tmp_path.glob("*.png"))) == 6


def test_the_command_draws_it_from_a_dataset(tmp_path, capsys):
    write_jsonl(tmp_path / "prompts.jsonl", ROWS)
    assert main(["mini", "reference", "--data", str(tmp_path), "--out", str(tmp_path / "r")]) == 0
    assert capsys.readouterr().out == f"Reference pictures: {tmp_path / 'r'}\n"
    assert len(list((tmp_path / "r").glob("*.png"))) == 4
