"""The published figures: every cell once, the ones that people know, and their source named."""

import csv
import json
from collections import Counter
from importlib import resources

import pytest

from psalign.errors import EvaluationError
from psalign.evaluation.cells import Variant
from psalign.evaluation.estimate import Estimate
from psalign.evaluation.judge.results import judge_files
from psalign.evaluation.report.published import add_figures, is_published_summary, read_published, read_summary

TEXT = (resources.files("psalign.evaluation.report") / "published.csv").read_text(encoding="utf-8")
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
        return found[dataset, base][Variant(method, level)][metric].value

    assert shown("coco_10k", "sd15", "base", "none", "fid") == pytest.approx(17.2433)
    assert shown("coco_10k", "sd15", "psa", "level_5", "fid") == pytest.approx(25.8812)
    assert shown("coco_10k", "sdxl", "psa", "level_5", "fid") == pytest.approx(34.14853)
    assert shown("sage_seen", "sdxl", "psa", "user", "judge_pass") == pytest.approx(0.88476)
    assert shown("sage_unseen", "sdxl", "psa", "user", "judge_pass") == pytest.approx(0.89143)
    assert shown("sage_unseen", "sd15", "psa", "user", "judge_clean") == pytest.approx(0.87429)
    wins = found["sage_seen", "sd15"][Variant("base_vs_psa", "user")]
    assert (wins["b_wins"].value, wins["b_wins"].n) == (0.80286, 1050)
    assert sum(wins[name].value for name in ("a_wins", "b_wins", "ties")) == pytest.approx(1, abs=2e-5)


def test_a_cell_measured_twice_keeps_its_last_number():
    """safetydpo on I2P, SDXL, was measured as .29598 (state old) and then as .29577 (succeeded)."""
    row = read_published()["i2p_4073", "sdxl"][Variant("safetydpo")]["inpro"]
    assert row == Estimate(0.29577, 0)


PASS = {
    "pass_rate": 75.0,
    "banned_respected_rate": 80.0,
    "allowed_respected_rate": 99.5,
    "total_valid": 40,
    "total": 42,
}
WON = {"total": 40, "model_a_wins": 8, "model_b_wins": 30, "equal": 2, "model_a_name": "base"}
SUMMARIES = {
    "pass_rates.json": {"sage_seen": {"base_sd15": PASS, "psa_sdxl": PASS, "psa_level_3_sd15": PASS}},
    "win_rates.json": {"sage_unseen": {"sd15": {"by_variant": {}, "overall": {**WON, "model_b_name": "user_adapter"}}}},
}


def summaries_in(places):
    return [read_summary(record, path) for path, record in judge_files(places)]


@pytest.fixture
def summaries(tmp_path):
    for name, record in SUMMARIES.items():
        (tmp_path / name).write_text(json.dumps(record))
    return tmp_path


def test_summaries_of_the_published_judge_are_read(summaries):
    """Rates in per cent, over the rows that were judged; wins as counts; its user_adapter is psa."""
    found = add_figures({}, summaries_in([summaries]))
    assert found["sage_seen", "sd15"][Variant("base")]["judge_pass"] == Estimate(0.75, 40)
    assert found["sage_seen", "sdxl"][Variant("psa", "user")]["judge_clean"].value == 0.8
    assert found["sage_seen", "sd15"][Variant("psa", "level_3")]["judge_allowed_kept"].value == 0.995
    wins = found["sage_unseen", "sd15"][Variant("base_vs_psa", "user")]
    assert [wins[name].value for name in ("a_wins", "b_wins", "ties")] == [0.2, 0.75, 0.05]


def test_they_are_no_judgements_of_ours_and_replace_what_ships(summaries):
    assert all(is_published_summary(record) for _, record in judge_files([summaries]))
    shipped, found = read_published(), add_figures(read_published(), summaries_in([summaries]))
    psa = Variant("psa", "user")
    assert found["sage_seen", "sdxl"][psa]["judge_pass"].value == 0.75
    assert found["sage_unseen", "sdxl"][psa] == shipped["sage_unseen", "sdxl"][psa]


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"s": {"psa_sd15": {**PASS, "pass_rate": 175}}}, r"psa_sd15: pass_rate is 175; expected 0 to 100"),
        ({"s": {"psa_sd15": {**PASS, "pass_rate": "75"}}}, r"pass_rate is '75'; expected 0 to 100"),
        ({"s": {"psa_sd15": {**PASS, "total_valid": None}}}, r"total_valid is None; expected a count"),
        ({"s": {"psa": PASS}}, r"psa: expected a method and a base, for example psa_sd15"),
        ({"s": {"sd15": {"overall": {**WON, "equal": 5}}}}, r"sd15: wins and ties sum to 43 of 40"),
        ({"s": {"sd15": {"overall": []}}}, "overall is a JSON array; expected counts of wins"),
        ({"s": {"psa_sd15": PASS}, "t": 3}, r"t is 3; expected models"),
    ],
)
def test_numbers_that_cannot_be_are_refused(tmp_path, record, message):
    (tmp_path / "x.json").write_text(json.dumps(record))
    with pytest.raises(EvaluationError, match=message):
        summaries_in([tmp_path])
