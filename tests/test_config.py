"""Presets: every one builds its settings, and every wrong name is refused with the choices."""

import pytest

from psalign.config import BASELINES, list_presets, load_preset, settings
from psalign.diffusion.generate import GenerationConfig
from psalign.errors import UsageError
from psalign.files import parse_yaml
from psalign.mini.sizes import DatasetConfig
from psalign.training.config import TrainingConfig
from psalign.training.run import check_shape, training_config


@pytest.mark.parametrize("name", [name for name in list_presets() if not name.startswith(BASELINES)])
def test_every_preset_builds_its_settings(name):
    preset = load_preset(name)
    settings(DatasetConfig, preset.get("dataset"), section="dataset")
    settings(GenerationConfig, preset["generation"], section="generation")
    for kind in {"prompt", "published"} & set(preset):
        settings(TrainingConfig, preset[kind]["training"], section=f"{kind}.training")
        check_shape(kind, preset[kind]["adapter"])


def test_changes_reach_their_setting():
    preset = load_preset("mini-quickstart", changes=["prompt.training.lr=1e-4", "prompt.training.timesteps=[5, 9]"])
    config = settings(TrainingConfig, preset["prompt"]["training"], section="training")
    assert (config.lr, config.timesteps) == (1e-4, (5, 9))


@pytest.mark.parametrize(
    ("text", "value"),
    [("no", "no"), ("off", "off"), ("Yes", "Yes"), ("true", True), ("False", False), ("truely", "truely"),
     ("1e-4", 1e-4), ("1e4 swords", "1e4 swords"), ("null", None)],
)  # fmt: skip
def test_words_are_words(text, value):
    """In YAML 1.1 "no" is false, and a preset's `mixed_precision: no` would be no word."""
    assert parse_yaml(text) == value
    assert type(parse_yaml(text)) is type(value)


def test_a_word_that_yaml_once_took_for_false_is_a_setting():
    preset = load_preset("mini-quickstart", changes=["prompt.training.mixed_precision=no"])
    assert training_config(preset, "prompt").mixed_precision == "no"
    preset = load_preset("mini-quickstart", changes=["prompt.training.gradient_checkpointing=yes"])
    with pytest.raises(UsageError, match="gradient_checkpointing must be true or false; saw 'yes'"):
        training_config(preset, "prompt")


def test_a_file_is_a_preset_too(tmp_path):
    (tmp_path / "mine.yaml").write_text("base: mini\n")
    assert load_preset(str(tmp_path / "mine.yaml")) == {"base": "mini"}


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("magic", [], "Unknown preset 'magic'; choose one of: .*mini-quickstart"),
        ("none.yaml", [], r"none\.yaml does not exist"),
        ("mini-quickstart", ["lr"], r"expected section\.name=value, for example prompt\.training\.lr=1e-4"),
        ("mini-quickstart", ["base.lr=1"], "'base' is a setting, not a section"),
    ],
)
def test_wrong_presets_and_changes(name, changes, message):
    with pytest.raises(UsageError, match=message):
        load_preset(name, changes=changes)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            "training.lr=9",
            "Unknown setting training; choose one of: base, llm_dim, vectors, dataset, pictures, generation",
        ),
        ("promt.training.lr=3", r"Unknown setting promt; choose one of: .*prompt, published, baselines, leaderboard\."),
        ("prompt.trainin.lr=3", r"Unknown setting prompt\.trainin; choose one of: prompt\.adapter, prompt\.training\."),
        ("published.lr=3", r"Unknown setting published\.lr; choose one of: published\.adapter, published\.training\."),
        ("prompt.training=5", r"prompt\.training must be a section with settings; saw 5"),
        ("prompt.training.lr=[", r"--set prompt\.training\.lr=\[: the value is not YAML"),
        ("generation.steps=2020-13-40", "the value is not YAML: month must be in 1..12"),
        ("prompt.training.seed=3", r"prompt\.training\.seed is no setting of a preset\.\nGive --seed to the command"),
        ("published.training.seed=3", "Give --seed"),
        ("generation.method=x", r"generation\.method is no setting of a preset\.\nLeave it out: the run makes it"),
        ("generation.base=sd15", r"generation\.base is no setting"),
        ("generation.adapter=x", r"generation\.adapter is no setting"),
        ("generation.negative_prompts={}", r"generation\.negative_prompts is no setting"),
    ],
)
def test_changes_that_name_no_setting(change, message):
    with pytest.raises(UsageError, match=message):
        load_preset("mini-quickstart", changes=[change])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("base: [mini]", r"base must be str; saw \['mini'\]"),
        ("llm_dim: wide", "llm_dim must be int; saw 'wide'"),
        ("prompt: 5", "prompt must be a section with settings; saw 5"),
        ("dataset: [1]", r"dataset must be a section with settings; saw \[1\]"),
        ("generation:", "generation must be a section with settings; saw None"),
        ("5: 6", "Unknown setting 5; choose one of: base"),
        ("prompt: {training: {seed: 1}}", r"prompt\.training\.seed is no setting"),
    ],
)
def test_files_whose_sections_are_wrong(tmp_path, text, message):
    (tmp_path / "x.yaml").write_text(text)
    with pytest.raises(UsageError, match=message):
        load_preset(str(tmp_path / "x.yaml"))


def test_shapes_of_adapters_are_left_to_training():
    changes = [f"prompt.adapter.{name}=2" for name in ("n_tokens", "rank", "heads", "depth")]
    shape = load_preset("mini-quickstart", changes=changes)["prompt"]["adapter"]
    assert shape == {"n_tokens": 2, "rank": 2, "heads": 2, "depth": 2}


def test_files_that_are_no_presets(tmp_path):
    for text, message in (
        (b"a: [", "is not YAML"),
        (b"base: \xff", "not UTF-8 text"),
        (b"base: mini\nbase: sd15\n", "'base' is there twice"),
        (b"a: &a [1]\nb: *a\n", "references .* are not read in a preset"),
        (b"a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\n", "references"),
        (b"a: " + b"[" * 5000, "is not YAML"),
        (b"base: !!python/object/apply:os.system [ls]\n", "is not YAML"),
        (b"- a", "expected sections with settings, saw list"),
    ):
        (tmp_path / "x.yaml").write_bytes(text)
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
