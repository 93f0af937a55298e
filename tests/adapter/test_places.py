"""Which adapter a path means: the folder of a training run is the adapter, ours and the published trainer's."""

import pytest
import torch

from psalign.adapter.checkpoint import adapter_fingerprint, find_adapter, load_adapter, save_adapter
from psalign.errors import CheckpointError
from tiny_pipelines import PIPELINES, WHOLE, random_adapter


def published_parts(adapter):
    state, layers = adapter.state_dict(), range(len(adapter.config.widths))
    return {
        "user_proj": {name[10:]: value for name, value in state.items() if name.startswith("user_proj.")},
        "psa_adapter": {
            f"{i}.to_{x}_user.0.weight": state[f"layers.{i}.to_{x}_user.weight"] for i in layers for x in "kv"
        },
    }


def test_the_folder_of_a_training_run_is_its_adapter(tmp_path):
    run = tmp_path / "psa-sd15"
    save_adapter(random_adapter(PIPELINES["sd15"](), "prompt"), run / "adapter")
    (run / "checkpoints").mkdir()
    (run / "log.csv").write_text("")
    assert find_adapter(run) == run / "adapter"
    assert load_adapter(run, base="sd15").config.base == "sd15"
    assert adapter_fingerprint(run) == adapter_fingerprint(run / "adapter")


def test_the_folder_of_a_published_trainer_is_its_last_step(tmp_path):
    adapter = random_adapter(WHOLE["sd15"](), "published")
    for step in (500, 1000, 5000):
        (tmp_path / f"checkpoint-{step}").mkdir()
        torch.save(published_parts(adapter), tmp_path / f"checkpoint-{step}/psa_adapter.bin")
    (tmp_path / "checkpoint-9000").mkdir()  # which a kill left empty
    (tmp_path / "checkpoint-x").mkdir()
    assert find_adapter(tmp_path) == tmp_path / "checkpoint-5000/psa_adapter.bin"
    assert load_adapter(tmp_path).config.recipe == "published"
    assert adapter_fingerprint(tmp_path) == adapter_fingerprint(tmp_path / "checkpoint-5000/psa_adapter.bin")
    torch.save(published_parts(adapter), tmp_path / "psa_adapter.bin")
    assert find_adapter(tmp_path) == tmp_path / "psa_adapter.bin"  # one beside them is meant


def test_a_run_that_is_not_finished_says_so(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(
        CheckpointError, match=r"is a training run that is not finished.*\nRun the same training command"
    ):
        load_adapter(tmp_path)


def test_a_folder_of_anything_else_is_left_to_the_reader(tmp_path):
    assert find_adapter(tmp_path) == tmp_path
    assert find_adapter(tmp_path / "nowhere") == tmp_path / "nowhere"
    with pytest.raises(CheckpointError, match="is not an adapter"):
        load_adapter(tmp_path)
