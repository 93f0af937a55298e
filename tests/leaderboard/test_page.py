"""The leaderboard's page: who beats ours stands first, the aim is judged as it was set, the committed page is true."""

import json
from pathlib import Path

import pytest

from psalign.evaluation.catalog import METHODS, OVER_REFUSAL
from psalign.evaluation.cells import Cell
from psalign.evaluation.estimate import Estimate
from psalign.evaluation.results import FAILED, read_results, result_row
from psalign.leaderboard.choice import Trial, best_first, read_trials
from psalign.leaderboard.config import LeaderboardConfig, read_config
from psalign.leaderboard.page import About, Figures, page
from psalign.leaderboard.pool import ALL_ATTACKS, SCENES

ROOT = Path(__file__).parents[2]
RECORD = {"preset": {"dataset": {"seed": 101}}, "seconds": 65.0, "versions": {"torch": "2.13.0"}}
ABOUT = About(LeaderboardConfig(attacks=("plain",)), RECORD)


def row(method, metric, value, *, dataset=SCENES, n=50, half=0.05):
    ends = (None, None) if half is None else (max(0.0, value - half), value + half)
    return result_row(Cell(dataset, method, "mini"), metric, estimate=Estimate(value, n, *ends))


def written(rows, trials=None):
    return page(rows, trials or {}, ABOUT, picture="leaderboard.png")


def section(text, title):
    return text.split(f"\n## {title}\n")[1].split("\n## ")[0]


def rivals(*rows):
    return " ".join(section(written(rows), "Where another method is as good as `psa-prompt` or better").split())


def test_a_method_that_is_surely_better_is_named_apart_from_one_within_the_intervals():
    said = rivals(
        row("psa-prompt", "kept", 0.80), row("safree-user", "kept", 0.95), row("uce-user", "kept", 0.84),
        row("sld-user", "kept", 0.30), row("base", "kept", 0.99),
    )  # fmt: skip
    assert "better: `safree-user`; equal, or better within the intervals: `uce-user`" in said
    assert "sld-user" not in said
    assert "`base`" not in said


def test_lower_is_better_where_the_metric_says_so():
    said = rivals(
        row("psa-prompt", "safe_distance", 3.0), row("sld-user", "safe_distance", 1.0),
        row("uce-user", "safe_distance", 9.0),
    )  # fmt: skip
    assert "better: `sld-user`" in said
    assert "uce-user" not in said


def test_other_forms_of_ours_are_no_rivals_and_failed_rows_no_figures():
    failed = result_row(Cell(SCENES, "uce", "mini"), "kept", FAILED, note="gone")
    said = rivals(row("psa-prompt", "kept", 0.8), row("psa-published", "kept", 0.9), failed)
    assert said == ""
    assert Figures([failed]).of("uce", page.__globals__["LIMITS"][1]).value is None


@pytest.mark.parametrize(
    ("ours", "expected"), [(0.10, "The aim is reached against it."), (0.11, "The aim is missed against it.")]
)
def test_the_aim_is_a_quarter_of_the_best_personal_baseline_at_no_greater_distance(ours, expected):
    text = written([
        row("psa-prompt", "attack_success", ours, dataset=ALL_ATTACKS), row("psa-prompt", "safe_distance", 1.0),
        row("sld-user", "attack_success", 0.40, dataset=ALL_ATTACKS), row("sld-user", "safe_distance", 1.0),
        row("uce-user", "attack_success", 0.20, dataset=ALL_ATTACKS), row("uce-user", "safe_distance", 9.0),
        row("uce", "attack_success", 0.00, dataset=ALL_ATTACKS), row("uce", "safe_distance", 0.0),
    ])  # fmt: skip
    limits = " ".join(section(text, "Limits").split())
    fair, anywhere = limits.split("The best at any distance is")
    assert "`sld-user`: 40" in fair
    assert expected in fair
    assert "`uce-user`: 20" in anywhere  # the static form is no personal baseline
    assert "missed" in anywhere


def test_every_method_has_a_row_in_the_order_of_the_table_and_gaps_are_shown():
    text = written([row("psa-prompt", "kept", 0.9), row("base", "suppressed", 0.5), row("sld", "kept", 0.4)])
    rows = [line for line in section(text, "Limits").splitlines() if line.startswith("| ")]
    assert [line.split("|")[1].strip() for line in rows] == ["method", "`base`", "`sld`", "**`psa-prompt`**"]
    assert rows[2].split("|")[2].strip() == "-"


def test_attacks_one_by_one_have_the_number_of_requests_that_the_base_answers():
    rows = [row(name, "attack_success", 1.0, dataset="mini_attack_plain", n=17) for name in ("base", "psa-prompt")]
    assert section(written(rows), "Attacks one by one").rstrip().endswith("| n | 17 |")


def test_the_chosen_setting_is_the_strongest_of_equals():
    rates = {30: 0.6, 10: 0.7, 5: 0.7, 1: 0.6}
    tried = [Trial("uce", {"ridge": ridge}, {"pass": Estimate(rate, 48)}) for ridge, rate in rates.items()]
    assert [one.settings["ridge"] for one in best_first(tried)] == [5, 30, 10, 1]
    text = written([], {"uce": tried})
    assert "| uce | ridge 5: 70.0" in text
    assert "an end of its list" not in text
    assert "`uce` stands at an end of its list" in " ".join(written([], {"uce": tried[:3]}).split())


def test_prose_of_the_page_fits_into_110_letters():
    names = [name for name in METHODS if name != "psa"]
    rows = [row(name, "kept", 0.9) for name in names]
    rows.append(row("psa-prompt", "safe_distance", 0.0, dataset=OVER_REFUSAL))
    text = written(rows)
    assert [line for line in text.splitlines() if len(line) > 110 and not line.startswith(("|", "!"))] == []


def test_the_committed_page_is_made_of_the_committed_figures():
    folder = ROOT / "benchmarks" / "results" / "leaderboard-mini"
    record = json.loads((folder / "leaderboard.json").read_text())
    about = About(read_config(record["preset"]), record)
    text = page(read_results(folder / "results.csv"), read_trials(folder) or {}, about, picture="leaderboard.png")
    assert (ROOT / "docs" / "LEADERBOARD.md").read_text(encoding="utf-8") == text
