"""Pictures from prompts: independent of their batch, resumable, never of another run, whole or absent."""

import errno
import json
import os

import numpy as np
import pytest
from PIL import Image

from psalign.diffusion.generate import GenerationConfig, check_rows, draw_batch, generate, load_prompts
from psalign.errors import DatasetError, OutputError, UsageError
from psalign.records import PromptRow, read_manifest


class NoUsers:
    fingerprint = "nobody"

    def vectors(self, user_ids):
        raise AssertionError("no vector is needed for the base")

    def banned(self, user_id):
        return ("Hate",)


ROWS = [
    PromptRow(f"{i}.png", f"a {colour} cat on the left at night", 50 + i, user_id="0000001")
    for i, colour in enumerate(("red", "blue", "green"))
]
CONFIG = GenerationConfig(steps=3, batch_size=2)


def test_pictures_and_manifest(tmp_path, mini_pipeline):
    generate(mini_pipeline, ROWS, tmp_path, config=CONFIG, users=NoUsers())
    rows = read_manifest(tmp_path / "manifest.jsonl")
    assert [(row.file_name, row.seed, row.banned, row.method) for row in rows] == [
        (f"{i}.png", 50 + i, ("Hate",), "base") for i in range(3)
    ]
    assert all(Image.open(tmp_path / row.file_name).size == (64, 64) for row in rows)


def test_a_picture_depends_on_its_own_row_alone(mini_pipeline):
    together = draw_batch(mini_pipeline, ROWS, config=CONFIG, users=NoUsers())
    for i, row in enumerate(ROWS):
        alone = draw_batch(mini_pipeline, [row], config=CONFIG, users=NoUsers())[0]
        assert np.abs(together[i].astype(int) - alone).max() <= 2


def test_going_on_makes_only_what_is_missing(tmp_path, mini_pipeline):
    generate(mini_pipeline, ROWS, tmp_path, config=CONFIG, users=NoUsers())
    kept = (tmp_path / "0.png").stat().st_mtime_ns
    (tmp_path / "1.png").unlink()
    generate(mini_pipeline, ROWS, tmp_path, config=CONFIG, users=NoUsers())
    assert (tmp_path / "1.png").exists()
    assert (tmp_path / "0.png").stat().st_mtime_ns == kept


def test_the_folder_of_another_run_is_refused(tmp_path, mini_pipeline):
    generate(mini_pipeline, ROWS[:1], tmp_path, config=CONFIG, users=NoUsers())
    with pytest.raises(OutputError, match="holds pictures of another run"):
        generate(mini_pipeline, ROWS, tmp_path, config=CONFIG, users=NoUsers())


def test_pictures_of_nobody_knows_whom_are_refused(tmp_path, mini_pipeline):
    (tmp_path / "old.png").write_bytes(b"")
    with pytest.raises(OutputError, match=r"has pictures but no run\.json"):
        generate(mini_pipeline, ROWS, tmp_path, config=CONFIG, users=NoUsers())


def test_a_full_disk_leaves_whole_pictures_only_and_says_how_to_go_on(tmp_path, mini_pipeline, monkeypatch):
    replace = os.replace

    def full(source, target):
        if str(target).endswith("2.png"):
            raise OSError(errno.ENOSPC, "No space left on device")
        return replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OutputError, match=r"No space left to write .*2\.png; nothing that was there is lost"):
        generate(mini_pipeline, ROWS, tmp_path, config=CONFIG, users=NoUsers())
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.png", "1.png", "run.json"]
    monkeypatch.undo()
    generate(mini_pipeline, ROWS, tmp_path, config=CONFIG, users=NoUsers())
    assert len(read_manifest(tmp_path / "manifest.jsonl")) == 3


def test_rows_that_make_no_sense():
    with pytest.raises(UsageError, match="No prompts to draw"):
        check_rows([])
    with pytest.raises(UsageError, match=r"Two rows write one file: 0\.png"):
        check_rows([ROWS[0], ROWS[0]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"steps": 0}, "at least 1; saw 0"), ({"scale": float("nan")}, "must be finite; saw nan")],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(UsageError, match=message):
        GenerationConfig(**settings)


def test_prompts_are_read_and_faults_named(tmp_path):
    path = tmp_path / "prompts.jsonl"
    path.write_text(json.dumps({"file_name": "a.png", "prompt": "a cat", "seed": 1}) + "\n")
    assert load_prompts(path) == [PromptRow("a.png", "a cat", 1)]
    path.write_text('{"file_name": "a.png"}\n')
    with pytest.raises(DatasetError, match=r"prompts\.jsonl, row 1: not a prompt row"):
        load_prompts(path)
    with pytest.raises(DatasetError, match="does not exist"):
        load_prompts(tmp_path / "none.jsonl")
