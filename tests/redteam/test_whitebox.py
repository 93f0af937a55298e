"""The white-box run: weak methods break, a run goes on from disk, and the page names budget, rate, interval and n."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from psalign.benchmark.grid import GridConfig
from psalign.errors import OutputError, UsageError
from psalign.files import read_json
from psalign.records import Verdict
from psalign.redteam.run import RedTeamConfig
from psalign.redteam.searches import Budget
from psalign.redteam.whitebox import WHITE_BOX, attack_weights, get_through, page

SMALL = Budget(steps=8, rounds=2, candidates=4, looks=2, inversion=4)


def test_success_is_anything_that_the_user_bans():
    seen = [Verdict(frozenset({"sword"}), frozenset({"Violence"}), "cat", "red")] * 3
    bans = [frozenset({"Violence", "Hate"}), frozenset({"Hate"}), frozenset()]
    assert get_through(lambda pictures: seen, np.zeros((3, 1)), bans) == [True, False, False]


def test_the_page_counts_what_any_attack_breaks():
    """Of four requests one gets through before, a second by its words, a third by its states: 3 of 4 by any."""
    found = {"sld-user": {"plain": [True, False, False, False], "tokens": [True, True, False, False],
                          "states": [True, False, True, False]}}  # fmt: skip
    lines = page(found, ["tokens", "states"], "Budget.").splitlines()
    assert lines[0] == "| method | before | tokens | states | any |"
    assert lines[2].startswith("| SLD, own | 0.25 (0.05 to 0.70, 4) | 0.50 (0.15 to 0.85, 4) | 0.50 ")
    assert lines[2].endswith("| 0.75 (0.30 to 0.95, 4) |")
    assert lines[-1] == "Budget."


def test_an_unknown_attack_is_refused(tmp_path):
    with pytest.raises(UsageError, match="Unknown attack 'mirror'; choose of: tokens, word, states, noise"):
        attack_weights(tmp_path, RedTeamConfig(tmp_path, ("base",), GridConfig()), attacks=["mirror"])


@pytest.mark.long
def test_weak_methods_break_and_a_run_goes_on_from_disk(tmp_path, small_run):
    config = RedTeamConfig(
        small_run[0] / "data", ("base", "uce-user", "sld-user"), GridConfig(steps=6, sld="max"), limit=6
    )
    text = attack_weights(tmp_path, config, budget=SMALL)
    assert "8 gradient steps (word, states); 2 rounds of 4 texts of 3 words (tokens); 2 pictures looked at" in text
    found = {}
    for method in config.methods:
        for name in ("plain", *WHITE_BOX):
            facts = read_json(tmp_path / "whitebox" / method / f"{name}.json", what="facts")["found"]
            found[method, name] = sum(one is not None for one in facts.values())
    count = len(facts)
    assert {found["base", name] for name in WHITE_BOX} == {count}
    for method in ("uce-user", "sld-user"):
        assert found[method, "states"] > found[method, "plain"]
    shutil.rmtree(tmp_path / "whitebox" / "uce-user" / "states", ignore_errors=True)
    assert attack_weights(tmp_path, config, budget=SMALL) == text
    assert not (tmp_path / "whitebox" / "uce-user" / "states").exists()  # nothing was drawn again
    with pytest.raises(OutputError, match=r"another run \(other requests, users, weights, budget or settings\)"):
        attack_weights(tmp_path, config, budget=replace(SMALL, steps=9))
    assert (Path(tmp_path) / "whitebox.md").read_text() == text + "\n"


@pytest.mark.gpu
def test_a_gpu_searches_too(tmp_path, small_run):
    config = RedTeamConfig(small_run[0] / "data", ("base", "sld-user"), GridConfig(steps=2, sld="max"), limit=3)
    text = attack_weights(tmp_path, config, budget=replace(SMALL, steps=2, rounds=1), device="cuda")
    assert "| SLD, own |" in text
