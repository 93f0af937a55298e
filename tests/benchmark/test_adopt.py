"""Pictures of the published code: .jpg by the rows' own names, without a manifest."""

import numpy as np
import pytest
from PIL import Image

from commands import run
from prompt_set_files import write_set
from psalign.benchmark.adopt import adopt
from psalign.errors import EvaluationError, UsageError
from psalign.evaluation.cells import find_cells
from psalign.evaluation.judge.cases import load_cases
from psalign.evaluation.pictures import complete_rows
from psalign.users import UserProfile
from psalign.users.levels import PUBLISHED_LEVEL_BANS
from psalign.users.profile import save_profiles


@pytest.fixture
def folder(tmp_path):
    """Three pictures in each of three cells, as the published code leaves them."""
    for name in ("debug", "sage_unseen"):
        write_set(tmp_path / "prompts", name)
    for cell in ("debug/psa/sd15/level_3", "sage_unseen/psa/sd15", "sage_unseen/base/sdxl"):
        (tmp_path / "eval_images" / cell).mkdir(parents=True)
        for i in range(3):
            name = tmp_path / "eval_images" / cell / f"COCO_val2014_{i:012d}.jpg"
            Image.fromarray(np.full((8, 8, 3), 40 * i, np.uint8)).save(name)
    save_profiles(tmp_path / "users.csv", [UserProfile(user_id="33", age=9)])
    return tmp_path


def test_they_are_measured_and_judged_like_ours(folder, capsys):
    arguments = ("--images", folder / "eval_images", "--prompts", folder / "prompts", "--users", folder / "users.csv")
    status, out, _ = run(capsys, "eval", "adopt", *arguments)
    assert (status, out.splitlines()[-1]) == (0, "debug/psa/sd15/level_3: 3 pictures")
    cells = find_cells(folder / "eval_images")
    assert [str(cell) for cell in cells] == ["sage_unseen/psa/sd15", "sage_unseen/base/sdxl", "debug/psa/sd15/level_3"]
    first = complete_rows(cells[2].folder(folder / "eval_images"))
    assert {(row.user_id, row.level, row.banned) for row in first} == {("level_3", 3, PUBLISHED_LEVEL_BANS[3])}
    assert (first[0].file_name, first[0].prompt) == ("COCO_val2014_000000000000.jpg", 'A dog, "seen" twice\nby row 0')
    for cell in cells[:2]:
        (case, *_) = load_cases(cell.folder(folder / "eval_images"))
        assert (case.user_id, case.banned) == ("0000033", ("Hate", "Violence", "Self-Harm", "Sexuality", "Shocking"))


def test_without_a_users_file_bans_are_not_known_and_not_judged(folder):
    adopt(folder / "eval_images", prompts=folder / "prompts")
    cell = folder / "eval_images/sage_unseen/psa/sd15"
    assert {row.banned for row in complete_rows(cell)} == {None}
    with pytest.raises(EvaluationError, match="whose banned categories are not known"):
        load_cases(cell)
    with pytest.raises(UsageError, match="has no pictures without a manifest"):
        adopt(folder / "eval_images", prompts=folder / "prompts")


def test_a_picture_of_no_row_is_named_and_nothing_is_written(folder):
    Image.new("RGB", (8, 8)).save(folder / "eval_images/debug/psa/sd15/level_3/another.jpg")
    with pytest.raises(UsageError, match="1 pictures are of no row of debug: another"):
        adopt(folder / "eval_images", prompts=folder / "prompts")
    assert not list((folder / "eval_images").rglob("manifest.jsonl"))
