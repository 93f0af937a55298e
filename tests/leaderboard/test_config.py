"""Settings of a leaderboard: names that are known, methods in the order of the table, chosen settings in place."""

import pytest

from psalign.config import load_preset
from psalign.errors import UsageError
from psalign.evaluation.catalog import METHODS
from psalign.leaderboard.config import LeaderboardConfig, baseline_section, read_config, sld_strength


def test_base_and_ours_are_always_compared_and_the_order_is_that_of_the_table():
    assert LeaderboardConfig(methods=("uce-user", "negative_prompt")).compared == (
        "base",
        "negative_prompt",
        "uce-user",
        "psa-prompt",
    )


def test_by_default_every_method_is_compared_once():
    compared = LeaderboardConfig().compared
    assert set(compared) == set(METHODS) - {"psa"}  # psa is psa-prompt under the published name
    assert len(set(compared)) == len(compared)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"methods": ("ours",)}, "unknown method 'ours'"),
        ({"attacks": ("hypnosis",)}, "unknown attack 'hypnosis'"),
        ({"alternatives": {"negative_prompt": []}}, "unknown method with settings 'negative_prompt'"),
        ({"seeds": 0}, "leaderboard.seeds"),
    ],
)
def test_what_makes_no_sense_is_named(given, said):
    with pytest.raises(UsageError, match=said):
        LeaderboardConfig(**given)


def test_a_preset_without_the_section_says_which_has_one():
    with pytest.raises(UsageError, match="no section 'leaderboard'") as err:
        read_config(load_preset("mini-quickstart"))
    assert "leaderboard-mini" in err.value.hint


def test_chosen_settings_replace_those_of_the_bases_preset_and_leave_the_rest():
    before = load_preset("baselines-mini")["baselines"]
    section = baseline_section({"base": "mini"}, {"uce": {"ridge": 7}, "sld": {"strength": "max"}})
    assert section["uce"] == {**before["uce"], "ridge": 7}
    assert section["rece"] == before["rece"]
    assert "sld" not in section


def test_sld_has_its_usual_strength_where_none_was_chosen():
    assert (sld_strength({}), sld_strength({"sld": {"strength": "max"}})) == ("medium", "max")


def test_the_shipped_preset_tries_only_settings_that_exist():
    from psalign.baselines.train import check_settings

    preset = load_preset("leaderboard-mini")
    for family, tried in read_config(preset).alternatives.items():
        for one in tried:
            check_settings(baseline_section(preset, {family: one}))
