"""Cells: their names, their folders, and finding them again."""

import pytest

from psalign.errors import EvaluationError, UsageError
from psalign.evaluation.catalog import BASES, DATASETS, METHODS
from psalign.evaluation.cells import Cell, find_cells, find_strays, find_unfinished
from psalign.evaluation.metrics.registry import MEASURED


def test_folders_and_levels(tmp_path):
    own, level, base = (
        Cell("sage_seen", "psa", "sdxl"),
        Cell("coco_10k", "psa", "sd15", 3),
        Cell("mini", "base", "mini"),
    )
    assert own.folder(tmp_path) == tmp_path / "sage_seen/psa/sdxl"
    assert level.folder(tmp_path) == tmp_path / "coco_10k/psa/sd15/level_3"
    assert (own.level_name, level.level_name, base.level_name) == ("user", "level_3", "none")
    assert str(level) == "coco_10k/psa/sd15/level_3"


def test_every_cell_is_found_again_in_the_tables_order(tmp_path):
    cells = [
        Cell(dataset, method, base, level)
        for dataset in DATASETS
        for base in BASES
        for method in METHODS
        for level in ((None, *range(6)) if METHODS[method].has_levels else (None,))
    ]
    for cell in reversed(cells):
        cell.folder(tmp_path).mkdir(parents=True, exist_ok=True)
        (cell.folder(tmp_path) / "manifest.jsonl").touch()
    (tmp_path / "mini/sld/sd15/unfinished.png").touch()
    assert find_cells(tmp_path) == cells


def test_every_metric_of_a_dataset_is_one():
    assert all(set(dataset.metrics) <= set(MEASURED) for dataset in DATASETS.values())
    assert set(MEASURED) == {metric for dataset in DATASETS.values() for metric in dataset.metrics}


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        (("nowhere", "base", "mini"), "Unknown dataset 'nowhere'; choose one of: mini, mini_scenes"),
        (("mini", "magic", "mini"), "Unknown method 'magic'; choose one of: base, negative_prompt"),
        (("mini", "base", "sd3"), "Unknown base model 'sd3'; choose one of: sd15, sdxl, mini"),
        (("mini", "base", "mini", 2), "Levels are 0 to 5 and of method psa; saw 2 of base"),
        (("mini", "psa", "mini", 6), "Levels are 0 to 5 and of method psa; saw 6 of psa"),
    ],
)
def test_names_that_are_none(parts, message):
    with pytest.raises(UsageError, match=message):
        Cell(*parts)


def test_folders_that_are_none(tmp_path):
    with pytest.raises(UsageError, match=r"holds no cell: expected .*\nDraw first: psalign eval generate"):
        find_cells(tmp_path)
    for place, why in (("mini/base", "too deep or not"), ("mini/magic/mini", "Unknown method 'magic'")):
        folder = tmp_path / place.replace("/", "-") / place
        folder.mkdir(parents=True)
        (folder / "manifest.jsonl").touch()
        with pytest.raises(EvaluationError, match=rf"{place} is no cell of (?s:.)*{why}"):
            find_cells(tmp_path / place.replace("/", "-"))


def test_strays_beside_cells_are_named_and_left_out(tmp_path):
    good, unfinished = Cell("mini", "base", "mini"), Cell("mini", "psa", "mini")
    for folder, name in (
        (good.folder(tmp_path), "manifest.jsonl"),
        (unfinished.folder(tmp_path), "run.json"),
        (tmp_path, "manifest.jsonl"),
        (tmp_path / "mini/magic/mini", "manifest.jsonl"),
        (tmp_path / "mini/magic/sd15", "run.json"),
    ):
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    assert find_cells(tmp_path) == [good]
    assert find_unfinished(tmp_path) == [unfinished]
    strays = [str(stray) for stray in find_strays(tmp_path)]
    assert [stray.partition(" is no cell")[0] for stray in strays] == [
        str(folder) for folder in (tmp_path, tmp_path / "mini/magic/mini", tmp_path / "mini/magic/sd15")
    ]
    assert all(f"Move it out of {tmp_path}, or to <dataset>/<method>/<base>" in stray for stray in strays)
