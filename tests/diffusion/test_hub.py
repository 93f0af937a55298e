"""What of a hub id is fetched: the files of the published bases, and what is said where the hub has nothing."""

import pytest
from huggingface_hub import constants
from huggingface_hub.utils import filter_repo_objects

from psalign.diffusion.hub import HubModel, hub_language_model, hub_pipeline
from psalign.errors import CheckpointError
from published_mirror import Mirror

# As the repositories of SD1.5 and SDXL name their files.
STEMS = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model",
         "text_encoder_2": "model"}  # fmt: skip
OTHERS = ["model_index.json", "scheduler/scheduler_config.json", "tokenizer/merges.txt", "tokenizer/vocab.json",
          "tokenizer_2/vocab.json", "feature_extractor/preprocessor_config.json",
          *(f"{part}/config.json" for part in STEMS)]  # fmt: skip
UNWANTED = ["v1-5-pruned.safetensors", "v1-5-pruned-emaonly.ckpt", "README.md", ".gitattributes", "01.png",
            "unet/diffusion_pytorch_model.non_ema.safetensors", "unet/diffusion_pytorch_model.bin",
            "unet/diffusion_pytorch_model.fp16.bin", "text_encoder/flax_model.msgpack", "text_encoder/model.onnx",
            "unet/openvino_model.xml", "vae_1_0/diffusion_pytorch_model.safetensors", "vae_decoder/model.onnx",
            "safety_checker/model.safetensors", "safety_checker/model.fp16.safetensors"]  # fmt: skip


@pytest.mark.parametrize("variant", [None, "fp16"])
def test_the_parts_that_draw_and_no_other_weights(variant):
    names = [f"{part}/{stem}{middle}.safetensors" for part, stem in STEMS.items() for middle in ("", ".fp16")]
    model = hub_pipeline("some/model", variant)
    found = filter_repo_objects(
        [*names, *OTHERS, *UNWANTED], allow_patterns=list(model.needed), ignore_patterns=list(model.not_needed)
    )
    middle = f".{variant}" if variant else ""
    assert set(found) == {*OTHERS, *(f"{part}/{stem}{middle}.safetensors" for part, stem in STEMS.items())}


def test_a_folder_and_a_file_are_not_on_the_hub(tmp_path):
    assert hub_pipeline(str(tmp_path)) is None
    assert hub_pipeline("model.safetensors") is None
    assert hub_language_model(str(tmp_path)) is None


@pytest.fixture
def hub(monkeypatch, tmp_path):
    mirror = Mirror()
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # which the hub's library does between its tries
    monkeypatch.setattr(constants, "ENDPOINT", mirror.url)
    template = mirror.url + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    (tmp_path / "model").mkdir()
    for name, text in {
        "config.json": "{}",
        "model.safetensors": "weights",
        "README.md": "long",
        "model.bin": "b",
    }.items():
        (tmp_path / "model" / name).write_text(text)
    mirror.models["some/words"] = tmp_path / "model"
    yield mirror
    mirror.close()


def test_size_and_licence_are_told_before_anything_is_fetched(hub, tmp_path):
    model = hub_language_model("some/words")
    told = model.download("language model")
    assert (told.what, told.size) == ("language model some/words", len("{}weights"))
    assert (told.host, told.licence, told.to) == ("127.0.0.1", "licence: a-licence", tmp_path / "cache")
    assert not [path for path in hub.asked if "/resolve/" in path]
    hub.cut[f"/some/words/resolve/{'a' * 40}/model.safetensors"] = 3
    folder = model.fetch()  # which goes on where an answer broke off
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_text() == "weights"
    assert model.download("language model") is None
    hub.close()  # offline, what is in the cache will do
    assert model.download("language model") is None
    assert model.fetch() == folder


def test_what_the_hub_has_not(hub):
    with pytest.raises(CheckpointError, match="on the hub lacks unet/"):
        HubModel("some/words", ("unet/*.safetensors",)).download("base model")
    hub.close()
    missing = HubModel("some/other", ("*.json",))
    assert missing.download("base model").size is None
    with pytest.raises(CheckpointError, match=r"some/other cannot be fetched from the hub: .*\nRun the same command"):
        missing.fetch()
