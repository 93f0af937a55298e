"""What a run of the red team needs is asked for before anything is drawn."""

import pytest

from psalign.benchmark.grid import GridConfig
from psalign.errors import DatasetError, UsageError
from psalign.redteam.run import RedTeamConfig, attack_prompts


@pytest.mark.parametrize(
    ("method", "given", "said"),
    [
        ("esdx", {}, r"'esdx' needs edited UNet weights; none was given.\nGive --weights esdx/mini=PATH."),
        ("esdx", {"esdx": "gone"}, "'esdx' needs edited UNet weights; .*gone does not exist"),
        ("psa-prompt", {}, r"'psa-prompt' needs an adapter; none was given.\nGive --adapter PATH for an adapter."),
        ("psa-prompt", {"psa-prompt": "."}, r"'psa-prompt' needs user vectors.\nGive --embeddings"),
    ],
)
def test_what_a_method_lacks_is_said_before_anything_is_drawn(tmp_path, method, given, said):
    (tmp_path / "prompts.jsonl").touch()
    weights = {(name, "mini"): tmp_path / place for name, place in given.items()}
    config = RedTeamConfig(tmp_path, ("base", method), GridConfig(weights=weights))
    with pytest.raises(UsageError, match=said):
        attack_prompts(tmp_path / "out", config)
    assert not (tmp_path / "out").exists()


def test_a_dataset_that_is_missing_comes_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(DatasetError, match=r"prompts.jsonl does not exist.\nRun: psalign mini build --out"):
        attack_prompts(tmp_path / "out", RedTeamConfig(tmp_path / "nowhere", ("base",), GridConfig()))
