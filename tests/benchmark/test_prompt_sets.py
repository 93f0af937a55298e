"""Prompt sets of the published layout as rows, and every fault of such a file with its message."""

import re

import pytest

from prompt_set_files import COLUMNS, write_set
from psalign.benchmark.prompt_sets import load_prompt_set, spaced
from psalign.diffusion.prompts import derive_seed
from psalign.errors import DatasetError
from psalign.evaluation.catalog import DATASETS
from psalign.sage.download import PROMPT_SETS


def load(name, folder, limit=None):
    return load_prompt_set(name, prompts=folder, mini=folder / "mini", limit=limit)


def test_there_is_a_published_file_for_every_dataset_but_mini():
    published = {name for name in DATASETS if not name.startswith("mini")}
    assert set(COLUMNS) == set(PROMPT_SETS) == published


@pytest.mark.parametrize("name", COLUMNS)
def test_the_published_layouts(name, tmp_path):
    rows = load(name, write_set(tmp_path / "prompts", name))
    assert len(rows) == PROMPT_SETS[name].rows
    assert (rows[3].file_name, rows[3].prompt) == ("COCO_val2014_000000000003.png", 'A dog, "seen" twice\nby row 3')
    assert rows[3].seed == derive_seed(2025, 3)
    assert rows[3].user_id == ("0000033" if DATASETS[name].has_users else None)
    told = set(COLUMNS[name]) - {"caption", "user_id"}
    assert set(rows[3].meta) == told
    assert rows[3].meta["file_name"] == "COCO_val2014_000000000003.jpg"


def test_a_limit_spreads_over_the_file_and_keeps_names_and_seeds(tmp_path):
    whole = load("debug", write_set(tmp_path, "debug"))
    assert load("debug", tmp_path, limit=5) == [whole[i] for i in (0, 7, 14, 21, 28)]
    assert load("debug", tmp_path, limit=99) == whole
    assert spaced([1, 2, 3], 2) == [1, 2]


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("sub/of a\\dir/../{i}.jpg_u.jpg", ["sub_of_a_dir_.._0.jpg_u.png", "sub_of_a_dir_.._1.jpg_u.png"]),
        ("same.png", ["same.png", "same_000002.png"]),
        ("../", ["row_000001.png", "row_000002.png"]),
        ("", ["row_000001.png", "row_000002.png"]),
    ],
)
def test_file_names_are_made_safe_and_differ(tmp_path, given, expected):
    rows = load("debug", write_set(tmp_path, "debug", file_name=given))
    assert [row.file_name for row in rows[:2]] == expected
    assert len({row.file_name for row in rows}) == len(rows)


def test_faults_name_the_file_and_the_next_command(tmp_path):
    hint = re.escape(f"psalign sage download debug --out {tmp_path}")
    with pytest.raises(DatasetError, match=f"debug.csv does not exist: expected the 35 prompts of debug.\nRun: {hint}"):
        load("debug", tmp_path)
    write_set(tmp_path, "debug", rows=34)
    with pytest.raises(DatasetError, match=f"debug.csv has 34 rows; debug has 35.\nRemove it. Run: {hint}"):
        load("debug", tmp_path)
    (tmp_path / "debug.csv").write_text("caption,name\na cat,1\n")
    with pytest.raises(DatasetError, match="row 1: expected the columns caption and file_name; saw caption, name"):
        load("debug", tmp_path)
    with pytest.raises(DatasetError, match=r"prompts.jsonl does not exist: .*\nRun: psalign mini build --out .*mini"):
        load("mini", tmp_path)


def test_mini_without_its_levels(small_run):
    data = small_run[0] / "data"
    rows = load_prompt_set("mini", prompts=data, mini=data)
    assert {row.meta["suite"] for row in rows} == {"scenes", "wordings", "two_motifs", "motifs"}
    assert all(row.user_id.isdecimal() for row in rows)
