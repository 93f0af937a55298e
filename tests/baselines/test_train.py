"""Training of baselines: what a folder holds, what stock diffusers loads of it, resuming, experts, and refusals."""

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from psalign.baselines import train as training
from psalign.baselines.concepts import concept_phrases
from psalign.baselines.experts import unet_experts
from psalign.baselines.pairs import PicturePairs
from psalign.baselines.safetydpo import lora_experts, lora_weights, merged
from psalign.baselines.soft_prompt import soft_prompts, word_of
from psalign.baselines.train import (
    TRAINED_BY,
    Source,
    check_settings,
    expert_files,
    seconds_of,
    train_baseline,
    trained_settings,
    weights_of,
)
from psalign.baselines.uce import LAYERS
from psalign.benchmark.methods import DRAWN_BY, MethodInputs, drawing_by, words_for
from psalign.config import load_preset
from psalign.diffusion.base_models import load_pipeline
from psalign.diffusion.generate import GenerationConfig
from psalign.errors import CheckpointError, DatasetError, GuardError, UsageError
from psalign.evaluation.catalog import METHODS
from psalign.mini.dataset import build
from psalign.mini.sizes import DatasetConfig

FEW = {"steps": 2, "batch_size": 1, "lr": 1e-3}
GIVEN = {
    "uce": {"ridge": 5.0},
    "rece": {"ridge": 5.0, "rounds": 1},
    "esdx": {**FEW, "sampling_steps": 1, "ways": 1},
    "soft_prompt": {**FEW, "lr": 0.1},
    "safetydpo": {**FEW, "rank": 2},
}


@pytest.fixture(scope="module")
def pipe():
    return load_pipeline("mini")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    sizes = DatasetConfig(train_users=8, val_users=1, test_users=8, concepts=7, scenes=7, seen=0, wordings=0,
                          two_motifs=0, motifs=0, safe=1, levels=0, limit_rows=0)  # fmt: skip
    build(folder, sizes)
    return folder


@pytest.fixture(scope="module")
def source(pipe, data, tmp_path_factory):
    pairs = PicturePairs(pipe, data, tmp_path_factory.mktemp("cache"))
    return Source(pipe, concept_phrases(words_for("mini")), pairs)


@pytest.fixture(scope="module")
def folders(source, tmp_path_factory):
    """Every method of GIVEN, trained for two steps."""
    root = tmp_path_factory.mktemp("trained")
    for method, given in GIVEN.items():
        train_baseline(method, source, root / method, base="mini", given=given)
    return root


def picture(pipe, prompt="a red cat with a sword"):
    generator = torch.Generator().manual_seed(0)
    return torch.from_numpy(pipe(prompt, num_inference_steps=2, output_type="np", generator=generator).images)


def test_the_table_of_methods_is_the_one_registry():
    assert set(DRAWN_BY) == set(METHODS)
    with_weights = {name for name, method in METHODS.items() if method.weights and not method.has_levels}
    assert {METHODS[name].family for name in with_weights} == set(TRAINED_BY)


@pytest.mark.parametrize("base", ["mini", "sd15", "sdxl"])
def test_presets_have_settings_of_every_trained_method(base):
    section = load_preset(f"baselines-{base}")["baselines"]
    check_settings(section)
    assert set(section) == set(training.SETTINGS)


def test_unknown_settings():
    with pytest.raises(UsageError, match=r"Unknown setting baselines.magic; choose one of: uce"):
        check_settings({"magic": {}})
    with pytest.raises(UsageError, match=r"Unknown setting baselines.uce.power; choose one of"):
        check_settings({"uce": {"power": 2}})


@pytest.mark.long
@pytest.mark.parametrize("method", GIVEN)
def test_files_of_a_folder(folders, method):
    usual, out = TRAINED_BY[method].usual, folders / method
    mark = json.loads((out / "baseline.json").read_text())
    experts = set(expert_files(out, method).values()) if TRAINED_BY[method].experts else set()
    assert set(out.rglob("*.safetensors")) == {out / usual, *experts}
    assert mark["settings"] | GIVEN[method] == mark["settings"]
    assert len(mark["seconds"]) == 1 + len(experts)
    assert str(Path.home()) not in json.dumps(mark)
    assert not (out / "training").exists()


@pytest.mark.long
def test_stock_diffusers_loads_all_of_them(folders):
    base = picture(load_pipeline("mini"))
    for method in ("uce", "rece", "esdx"):
        pipe = load_pipeline("mini")
        wrong = pipe.unet.load_state_dict(load_file(folders / method / "edited.safetensors"), strict=False)
        assert not wrong.unexpected_keys
        assert not torch.equal(picture(pipe), base), method
    pipe = load_pipeline("mini")
    pipe.load_lora_weights(folders / "safetydpo")
    assert not torch.equal(picture(pipe), base)
    pipe.unload_lora_weights()
    pipe.load_textual_inversion(folders / "soft_prompt" / "learned_embeds.safetensors", token="<safe>")
    own = picture(pipe, "a red cat with a sword <safe>")
    other = load_pipeline("mini")
    with soft_prompts(other, {word_of(None): folders / "soft_prompt"}):
        torch.testing.assert_close(picture(other, f"a red cat with a sword {word_of(None)}"), own)


@pytest.mark.long
def test_a_pipeline_is_left_as_it_was(folders, pipe):
    base, weights = picture(pipe), {name: w.clone() for name, w in pipe.unet.state_dict().items()}
    esd, dpo = (expert_files(folders / method, method) for method in ("esdx", "safetydpo"))
    with unet_experts(pipe, esd, 1.0) as experts:
        experts.use(["Violence", "Hate"])
        assert not torch.equal(picture(pipe), base)
        experts.use([])
        assert torch.equal(picture(pipe), base)
    with lora_experts(pipe, dpo, 1.0) as experts:
        experts.use(["Violence"])
        one = picture(pipe)
        experts.use([])
        torch.testing.assert_close(picture(pipe), base)
    with lora_weights(pipe, folders / "safetydpo" / "violence"):
        torch.testing.assert_close(picture(pipe), one)
    words = {word_of("Hate"): folders / "soft_prompt" / "hate"}
    with soft_prompts(pipe, words), pytest.raises(GuardError, match="The tokenizer knows <psalign-hate> already"):
        soft_prompts(pipe, words).__enter__()
    assert len(pipe.tokenizer) == pipe.text_encoder.get_input_embeddings().num_embeddings
    assert torch.equal(picture(pipe), base)
    assert all(torch.equal(w, weights[name]) for name, w in pipe.unet.state_dict().items())


@pytest.mark.long
def test_experts_add_their_changes_up(folders, pipe):
    files = expert_files(folders / "esdx", "esdx")
    name = "mid_block.attentions.0.transformer_blocks.0.attn2.to_k.weight"
    own = pipe.unet.state_dict()[name].clone()
    with unet_experts(pipe, files, 0.5) as experts:
        experts.use(["Violence", "Hate"])
        changes = [load_file(files[category])[name] - own for category in ("Violence", "Hate")]
        torch.testing.assert_close(pipe.unet.state_dict()[name], own + 0.5 * (changes[0] + changes[1]))


def test_a_merge_of_loras_is_the_sum_of_their_changes():
    """Two LoRAs of rank 1: (1, 2)^T (3) and (0, 1)^T (5): times 2 their changes add up to (6, 12 + 10)^T."""
    experts = [
        {"a.lora.down.weight": torch.tensor([[3.0]]), "a.lora.up.weight": torch.tensor([[1.0], [2.0]])},
        {"a.lora.down.weight": torch.tensor([[5.0]]), "a.lora.up.weight": torch.tensor([[0.0], [1.0]])},
    ]
    one = merged(experts, 2.0)
    assert (one["a.lora.up.weight"] @ one["a.lora.down.weight"]).tolist() == [[6.0], [22.0]]


@pytest.mark.long
def test_a_finished_part_stays_and_another_training_is_refused(folders, source, monkeypatch):
    def never(*_):
        raise AssertionError("trained again")

    monkeypatch.setitem(TRAINED_BY, "uce", training.Trained(TRAINED_BY["uce"].config, "edited.safetensors", never))
    monkeypatch.setattr(training, "_make_part", never)
    out = folders / "esdx"
    with pytest.raises(CheckpointError, match=r"holds another training:\n  settings.lr: 0.001 -> 0.5"):
        train_baseline("esdx", source, out, base="mini", given={**GIVEN["esdx"], "lr": 0.5})


@pytest.mark.long
def test_what_cannot_be_trained(source, tmp_path, folders):
    with pytest.raises(UsageError, match="Nothing is trained for 'sld'; choose one of: uce, rece"):
        train_baseline("sld", source, tmp_path, base="mini", given={})
    alone = Source(source.pipeline, source.phrases)
    with pytest.raises(UsageError, match="The method 'safetydpo' learns from pictures"):
        train_baseline("safetydpo", alone, tmp_path, base="mini", given={})
    with pytest.raises(DatasetError, match="no pair of pictures of Nothing"):
        source.pairs.of("Nothing")
    with pytest.raises(CheckpointError, match=r"lacks 7 of 7 experts of esdx"):
        expert_files(tmp_path, "esdx")
    with pytest.raises(CheckpointError, match=r"is no trained 'esdu': its baseline\.json says 'esdx'"):
        trained_settings(folders / "esdx", "esdu")


def test_a_method_without_its_weights_says_where_they_come_from(pipe):
    message = r"The method 'uce' needs edited UNet weights\.\nGive a folder of psalign baseline train, or its file\."
    with pytest.raises(UsageError, match=message):
        drawing_by("uce", pipe, [], config=GenerationConfig(), inputs=MethodInputs())


def test_a_closed_form_is_made_once_and_refuses_other_settings(pipe, tmp_path):
    source = Source(pipe, concept_phrases(words_for("mini")))
    path = train_baseline("uce", source, tmp_path, base="mini", given={"ridge": 5.0})
    made = path.stat().st_mtime_ns
    assert set(load_file(path)) == {name for name in pipe.unet.state_dict() if name.endswith(LAYERS)}
    assert train_baseline("uce", source, tmp_path, base="mini", given={"ridge": 5.0}).stat().st_mtime_ns == made
    with pytest.raises(CheckpointError, match=r"holds another training:\n  settings.ridge: 5.0 -> 6.0"):
        train_baseline("uce", source, tmp_path, base="mini", given={"ridge": 6.0})


def test_captions_alone_teach_nothing_here(pipe, tmp_path):
    sizes = DatasetConfig(train_users=8, val_users=1, test_users=8, concepts=1, scenes=7, seen=0, wordings=0,
                          two_motifs=0, motifs=0, safe=1, levels=0, limit_rows=0)  # fmt: skip
    build(tmp_path / "data", sizes, captions_only=True)
    with pytest.raises(DatasetError, match="no pair of pictures with both captions"):
        PicturePairs(pipe, tmp_path / "data", tmp_path / "cache")


def test_seconds_are_those_of_the_form_that_is_asked_for(tmp_path):
    def wrote(method, seconds):
        record = {"method": method, "settings": {}, "run": "x", "seconds": seconds}
        (tmp_path / "baseline.json").write_text(json.dumps(record))

    wrote("esdx", {"all": 5.0, "hate": 2.0, "violence": 3.0})
    assert (seconds_of(tmp_path, experts=False), seconds_of(tmp_path, experts=True)) == (5.0, 5.0)
    wrote("safetydpo", {"hate": 2.0, "violence": 3.0, "all": 0.5})
    assert seconds_of(tmp_path, experts=False) == 5.5  # the merge needs all of them
    assert seconds_of(tmp_path, experts=True) == 5.0
    with pytest.raises(CheckpointError, match="holds no trained baseline"):
        seconds_of(tmp_path / "nowhere", experts=True)


def test_experts_alone_leave_the_static_form_out(pipe, tmp_path, monkeypatch):
    made = []
    monkeypatch.setattr(training, "_make_part", lambda how, source, config, category, out, state: made.append(category))
    source = Source(pipe, {"Hate": ("a cross",), "Violence": ("a sword",)})
    for method, given, experts_alone, expected in (
        ("esdx", FEW, True, ["Hate", "Violence"]),
        ("esdx", FEW, False, [None, "Hate", "Violence"]),
        ("uce", {}, True, [None]),  # it has no experts: without the static form nothing would be left
    ):
        made.clear()
        folder = tmp_path / f"{method}-{experts_alone}"
        train_baseline(method, source, folder, base="mini", given=given, experts_alone=experts_alone)
        assert made == expected


@pytest.mark.gpu
@pytest.mark.parametrize("method", [*GIVEN, "esdu"])
def test_a_gpu_trains_every_method(method, tmp_path, data):
    pipe = load_pipeline("mini", device="cuda")
    pairs = PicturePairs(pipe, data, tmp_path / "cache")
    source = Source(pipe, concept_phrases(words_for("mini")), pairs)
    train_baseline(method, source, tmp_path / method, base="mini", given=GIVEN.get(method, GIVEN["esdx"]))
    assert weights_of(tmp_path / method, None, TRAINED_BY[method].usual).is_file()
    parts = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    assert {part.device.type for part in parts} == {"cuda"}
