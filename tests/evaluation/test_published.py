"""The published figures: every cell once, the ones that people know, and their source named."""

import csv
from collections import Counter
from importlib import resources

import pytest

from psalign.evaluation.contenders import Contender
from psalign.evaluation.published import read_published

TEXT = (resources.files("psalign.evaluation") / "published.csv").read_text(encoding="utf-8")
ROWS = list(csv.DictReader(line for line in TEXT.splitlines() if not line.startswith("#")))


def test_the_file_names_its_source_and_that_it_contradicts_itself():
    head = "".join(line for line in TEXT.splitlines() if line.startswith("#"))
    for said in ("arXiv 2508.01151", "2dde9226278cc5aa5ce3fcfc5ad0f75373ca324a", "repository disagree"):
        assert said in head


def test_every_cell_is_there_once_and_is_a_number_of_its_kind():
    """114 metrics (19 for each of coco's two and of the four InPro sets), 36 pass rates, 24 win rates."""
    keys = Counter(tuple(row[key] for key in ("dataset", "method", "base", "level", "metric")) for row in ROWS)
    assert set(keys.values()) == {1}
    assert len(ROWS) == 114 + 36 + 24
    for row in ROWS:
        assert row["state"] == "succeeded"
        assert 0 <= float(row["score"]) <= (100 if row["metric"] in ("fid", "clip") else 1)


def test_figures_that_people_know():
    """COCO FID 17.2 -> 25.9 (SD1.5) and 22.0 -> 34.1 (SDXL) at level 5; the judge's pass rate of SDXL PSA 88.5 and
    89.1 %; its banned respected 87.4 % (SD1.5, unseen), beside our clean; its win rate over the base 80.3 %."""
    found = read_published()

    def shown(dataset, base, method, level, metric):
        return found[dataset, base][Contender(method, level)][metric]["value"]

    assert shown("coco_10k", "sd15", "base", "none", "fid") == pytest.approx(17.2433)
    assert shown("coco_10k", "sd15", "psa", "level_5", "fid") == pytest.approx(25.8812)
    assert shown("coco_10k", "sdxl", "psa", "level_5", "fid") == pytest.approx(34.14853)
    assert shown("sage_seen", "sdxl", "psa", "user", "judge_pass") == pytest.approx(0.88476)
    assert shown("sage_unseen", "sdxl", "psa", "user", "judge_pass") == pytest.approx(0.89143)
    assert shown("sage_unseen", "sd15", "psa", "user", "judge_clean") == pytest.approx(0.87429)
    wins = found["sage_seen", "sd15"][Contender("base_vs_psa", "user")]
    assert (wins["b_wins"]["value"], wins["b_wins"]["n"]) == (0.80286, 1050)
    assert sum(wins[name]["value"] for name in ("a_wins", "b_wins", "ties")) == pytest.approx(1, abs=2e-5)


def test_a_cell_measured_twice_keeps_its_last_number():
    """safetydpo on I2P, SDXL, was measured as .29598 (state old) and then as .29577 (succeeded)."""
    row = read_published()["i2p_4073", "sdxl"][Contender("safetydpo")]["inpro"]
    assert row == {"value": 0.29577, "n": 0, "low": None, "high": None}
