"""Presets: every one builds its settings, and every wrong name is refused with the choices."""

import pytest

from psalign.config import list_presets, load_preset, settings
from psalign.diffusion.generate import GenerationConfig
from psalign.errors import UsageError
from psalign.mini.dataset import DatasetConfig
from psalign.training.trainer import TrainingConfig


@pytest.mark.parametrize("name", list_presets())
def test_every_preset_builds_its_settings(name):
    preset = load_preset(name)
    settings(DatasetConfig, preset["dataset"], section="dataset")
    settings(GenerationConfig, preset["generation"], section="generation")
    for kind in ("prompt", "published"):
        settings(TrainingConfig, preset[kind]["training"], section=f"{kind}.training")


def test_changes_reach_their_setting():
    preset = load_preset("mini-quickstart", changes=["prompt.training.lr=1e-4", "prompt.training.timesteps=[5, 9]"])
    config = settings(TrainingConfig, preset["prompt"]["training"], section="training")
    assert (config.lr, config.timesteps) == (1e-4, (5, 9))


def test_a_file_is_a_preset_too(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: mini\n")
    assert load_preset(str(tmp_path / "mine.yaml")) == {"base": "mini"}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("magic", [], "Unknown preset 'magic'; choose one of: .*mini-quickstart"),
        ("none.yaml", [], r"none\.yaml does not exist"),
        ("mini-quickstart", ["lr"], "expected section.name=value"),
        ("mini-quickstart", ["base.lr=1"], "'base' is a setting, not a section"),
    ],
)
def test_wrong_presets_and_changes(name, changes, message):
    with pytest.raises(UsageError, match=message):
        load_preset(name, changes=changes)


def test_files_that_are_no_presets(tmp_path):
    for text, message in (("a: [", "is not YAML"), ("- a", "expected sections with settings, saw list")):
        (tmp_path / "x.yaml").write_text(text)
        with pytest.raises(UsageError, match=message):
            load_preset(str(tmp_path / "x.yaml"))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"speed": 1}, r"Unknown setting training\.speed; choose one of: .*batch_size"),
        ({"steps": "many"}, r"training\.steps must be int; saw 'many'"),
        ({"lr": "fast"}, r"training\.lr must be float; saw 'fast'"),
        ({"steps": True}, r"training\.steps must be int; saw True"),
    ],
)
def test_wrong_settings(values, message):
    with pytest.raises(UsageError, match=message):
        settings(TrainingConfig, values, section="training")
