"""A small leaderboard from nothing: goes on from disk, refuses other settings, and its page is made of its numbers."""

import csv
import json
import time

import pytest

from psalign.config import load_preset
from psalign.errors import OutputError, UsageError
from psalign.leaderboard.run import make_leaderboard, write_page

pytestmark = pytest.mark.slow

SMALL = (
    "dataset.limit_rows=14",
    "dataset.train_users=12",
    "dataset.pictured_users=1",
    "dataset.test_users=12",
    "dataset.concepts=1",
    "dataset.scenes=2",
    "dataset.two_motifs=1",
    "dataset.safe=3",
    "generation.steps=1",
    "prompt.training.steps=2",
    "prompt.training.batch_size=4",
    "prompt.training.queries=words",
    "prompt.training.validation_pictures=0",
    "leaderboard.seeds=2",
    'leaderboard.methods=["uce"]',
    'leaderboard.attacks=["plain", "split"]',
    'leaderboard.alternatives={"uce": [{"ridge": 100}, {"ridge": 1}]}',
    "leaderboard.requests=1",
    "leaderboard.choice_prompts=3",
    "leaderboard.timed=1",
    "leaderboard.rounds=1",
)
METHODS = ["base", "uce", "psa-prompt"]


@pytest.fixture(scope="module")
def preset():
    return load_preset("leaderboard-mini", changes=SMALL)


@pytest.fixture(scope="module")
def made(tmp_path_factory, preset):
    out = tmp_path_factory.mktemp("leaderboard")
    make_leaderboard(out, preset)
    return out


def rows_of(out):
    with (out / "results.csv").open(newline="") as stream:
        return list(csv.DictReader(stream))


def test_every_method_has_every_figure_over_both_repetitions(made):
    found = {(row["dataset"], row["method"], row["metrics"]): row for row in rows_of(made)}
    for method in METHODS:
        assert found["mini_scenes", method, "suppressed"]["n"] == "4"  # two of each of two repetitions
        assert found["mini_scenes", method, "safe_distance"]["n"] == "6"
        for metric in ("fid", "clip", "picture_time", "training_time", "weights_size", "user_bytes"):
            assert found["mini_scenes", method, metric]["state"] == "succeeded"
        assert ("mini_attacks", method, "attack_success") in found
    assert float(found["mini_scenes", "uce", "weights_size"]["score"]) > 0
    assert found["mini_scenes", "psa-prompt", "user_bytes"]["score"] == "256.0"
    assert found["mini_scenes", "base", "safe_distance"]["score"] == "0.0"


def test_repetitions_have_users_and_prompts_of_their_own(made):
    first, second = ((made / f"seed-{k}" / "data" / "prompts.jsonl").read_text() for k in (0, 1))
    assert first != second
    assert {path.name[0] for path in (made / "pictures/mini_scenes/base/mini").glob("*.png")} == {"0", "1"}


def test_it_goes_on_from_disk_and_measures_nothing_twice(made, preset):
    before = {path: path.stat().st_mtime_ns for path in made.glob("seed-*/**/*.png")}
    count = len([row for row in rows_of(made) if row["metrics"] == "suppressed"])
    make_leaderboard(made, preset)
    assert {path: path.stat().st_mtime_ns for path in made.glob("seed-*/**/*.png")} == before
    assert len([row for row in rows_of(made) if row["metrics"] == "suppressed"]) == count


def test_other_settings_are_refused_with_what_differs(made, preset):
    other = {**preset, "generation": {**preset["generation"], "steps": 2}}
    with pytest.raises(OutputError, match=r"generation\.steps: 1 -> 2"):
        make_leaderboard(made, other)


def test_the_time_of_a_run_that_an_error_ends_counts(tmp_path, preset, monkeypatch):
    def fail(*_, **__):
        time.sleep(0.2)
        raise OutputError("no space left")

    monkeypatch.setattr("psalign.leaderboard.run.choose", fail)
    for times in (1, 2):
        with pytest.raises(OutputError, match="no space left"):
            make_leaderboard(tmp_path, preset)
        assert json.loads((tmp_path / "leaderboard.json").read_text())["seconds"] >= 0.2 * times


def test_the_page_can_be_written_elsewhere_with_its_picture_beside_it(made, tmp_path):
    pytest.importorskip("matplotlib")
    page = write_page(made, tmp_path / "docs" / "LEADERBOARD.md")
    assert page.read_text() == (made / "LEADERBOARD.md").read_text()
    assert "](leaderboard.png)" in page.read_text()
    assert (tmp_path / "docs" / "leaderboard.png").read_bytes().startswith(b"\x89PNG")


def test_a_folder_without_a_leaderboard_and_a_damaged_mark_are_refused(tmp_path, preset):
    (tmp_path / "leaderboard.json").write_text(json.dumps({"preset": 1}))
    with pytest.raises(OutputError, match=r"leaderboard\.json"):
        make_leaderboard(tmp_path, preset)


def test_another_base_than_mini_says_what_measures_it(tmp_path, preset):
    with pytest.raises(UsageError, match="only mini has a detector") as err:
        make_leaderboard(tmp_path, {**preset, "base": "sd15"})
    assert "eval judge" in err.value.hint or "judge" in err.value.hint
    assert list(tmp_path.iterdir()) == []


@pytest.mark.gpu
def test_a_gpu_makes_a_leaderboard_in_two_processes(tmp_path, preset, made):
    """Of the same numbers; how many requests the base answers may differ by roundings."""
    make_leaderboard(tmp_path, preset, device="cuda", workers=2)
    names = [{(row["dataset"], row["method"], row["metrics"], row["state"]) for row in rows_of(out)}
             for out in (tmp_path, made)]  # fmt: skip
    assert names[0] == names[1]
