"""Rows of another leaderboard stand beside one's own where both asked the same of the same base."""

import pytest

from psalign.errors import OutputError
from psalign.evaluation.cells import Cell
from psalign.evaluation.estimate import Estimate
from psalign.evaluation.results import append_results, read_results, result_row
from psalign.files import read_json, write_json
from psalign.leaderboard.beside import add_beside
from psalign.leaderboard.run import write_page

PRESET = {"base": "mini", "dataset": {"seed": 101}, "generation": {"steps": 8},
          "leaderboard": {"seeds": 3, "attacks": ["plain"], "requests": 2}}  # fmt: skip


def leaderboard(folder, kept, *, requests=2, **more):
    """A finished leaderboard in a folder. kept: the figure of each method."""
    folder.mkdir()
    preset = {**PRESET, "leaderboard": {**PRESET["leaderboard"], "requests": requests}, **more}
    record = {"preset": preset, "seconds": 65.0, "versions": {"torch": "2.13.0"}, "commit": f"{folder.name}123456789"}
    write_json(folder / "leaderboard.json", record)
    tried = {"settings": {"ridge": 1}, "rates": {"pass": vars(Estimate(0.5, 4, 0.2, 0.8))}}
    write_json(folder / "choice.json", {name: [tried] for name in kept if name == "uce"})
    figures = [("kept", value) for value in kept.values()]
    rows = [result_row(Cell("mini_scenes", name, "mini"), metric, estimate=Estimate(value, 40, 0.0, 1.0))
            for name, (metric, value) in zip(kept, figures, strict=True)]  # fmt: skip
    rows += [result_row(Cell("mini_scenes", name, "mini"), "picture_time", estimate=Estimate(len(folder.name), 3, 0, 9))
             for name in kept]  # fmt: skip
    append_results(folder / "results.csv", rows)
    return folder


def kept(folder):
    return {row.method: row.score for row in read_results(folder / "results.csv") if row.metrics == "kept"}


def test_only_methods_that_are_lacking_come_from_the_other(tmp_path):
    own = leaderboard(tmp_path / "own", {"base": 1.0, "psa-prompt": 0.9})
    other = leaderboard(tmp_path / "other", {"base": 1 + 1e-12, "psa-prompt": 0.5, "uce": 0.7})
    before = (other / "results.csv").read_text()
    for _ in range(2):  # the second time there is nothing to add
        add_beside(own, other)
        assert kept(own) == {"base": 1.0, "psa-prompt": 0.9, "uce": 0.7}
    assert (other / "results.csv").read_text() == before
    assert set(read_json(own / "choice.json", what="")) == {"uce"}
    page = " ".join(write_page(own, tmp_path / "PAGE.md").read_text().split())
    assert "- `uce` are of another run (commit `other12`, 1 min 05 s with torch 2.13.0)" in page


def test_methods_of_a_third_leaderboard_keep_the_run_that_they_are_of(tmp_path):
    first = leaderboard(tmp_path / "first", {"base": 1.0, "uce": 0.7})
    second = leaderboard(tmp_path / "second", {"base": 1.0, "psa-prompt": 0.9, "sld": 0.6})
    third = leaderboard(tmp_path / "third", {"base": 1.0, "psa-prompt": 0.8})
    add_beside(second, first)
    add_beside(third, second)
    assert kept(third) == {"base": 1.0, "psa-prompt": 0.8, "sld": 0.6, "uce": 0.7}
    page = " ".join(write_page(third, tmp_path / "PAGE.md").read_text().split())
    assert "- `uce` are of another run (commit `first12`" in page
    assert "- `sld` are of another run (commit `second1`" in page


def test_other_requests_and_another_base_are_refused(tmp_path):
    own = leaderboard(tmp_path / "own", {"base": 1.0, "psa-prompt": 0.9})
    asked = leaderboard(tmp_path / "asked", {"base": 1.0, "uce": 0.7}, requests=3)
    drawn = leaderboard(tmp_path / "drawn", {"base": 0.8, "uce": 0.7})
    before = (own / "results.csv").read_text()
    with pytest.raises(OutputError, match=r"has another leaderboard:\n  requests: 3 -> 2"):
        add_beside(own, asked)
    with pytest.raises(OutputError, match=r"1 figures of the base model differ from those of .*drawn: kept of"):
        add_beside(own, drawn)
    with pytest.raises(OutputError, match="Choose another --beside than"):
        add_beside(own, tmp_path / "nowhere")
    assert (own / "results.csv").read_text() == before
