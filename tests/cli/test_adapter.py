"""psalign adapter ...: adapters on disk, by command."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from commands import run
from psalign.adapter.attach import attach
from psalign.adapter.checkpoint import load_adapter, save_adapter
from psalign.adapter.convert import write_published
from psalign.users import EmbeddingStore, StructuredEmbedder, sample_profiles
from tiny_pipelines import WHOLE, draw, random_adapter

LIMITS_MB = {"psa-sd15": 8, "psa-sdxl": 12, "psa-sdxl-vipl": 15}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A published file, vectors of 40 users of its recipe, and an adapter of kind prompt."""
    where, pipe = tmp_path_factory.mktemp("adapters"), WHOLE["sd15"]()
    store = EmbeddingStore.build(sample_profiles(40, seed=1), StructuredEmbedder(12))
    store.save(where / "vectors")
    adapter = random_adapter(pipe, "published")
    adapter.register_to_config(recipe=store.fingerprint)
    save_adapter(adapter, where / "full")
    write_published(adapter, where / "psa_adapter.safetensors")
    save_adapter(random_adapter(pipe, "prompt"), where / "prompt")
    return where


def test_info_of_presets_keeps_to_the_promised_sizes(capsys):
    flags = [part for name in LIMITS_MB for part in ("--preset", name)]
    status, out, _ = run(capsys, "adapter", "info", *flags, "--json")
    rows = {row["preset"]: row for row in json.loads(out)}
    assert status == 0
    assert {name: row["kind"] for name, row in rows.items()} == dict.fromkeys(LIMITS_MB, "prompt")
    for name, limit in LIMITS_MB.items():
        assert rows[name]["fp16_bytes"] == 2 * rows[name]["parameters"]
        assert 0.4 * limit * 1e6 < rows[name]["fp16_bytes"] <= limit * 1e6
        assert (rows[name]["llm_dim"], rows[name]["pooled_dim"]) == (3584, 0 if name == "psa-sd15" else 1280)


def test_info_of_files(folder, capsys):
    status, out, _ = run(capsys, "adapter", "info", folder / "psa_adapter.safetensors", folder / "prompt")
    assert status == 0
    assert "published" in out
    assert "sd15" in out
    assert "fingerprint" in out


def test_convert_there_and_back(folder, tmp_path, capsys):
    path = folder / "psa_adapter.safetensors"
    assert run(capsys, "adapter", "convert", path, "--out", tmp_path / "ours")[0] == 0
    there = run(capsys, "adapter", "convert", tmp_path / "ours", "--to", "published", "--out", tmp_path / "theirs")
    assert there[0] == 0
    for name, weight in load_file(tmp_path / "theirs/psa_adapter.safetensors").items():
        assert torch.equal(weight, load_file(path)[name])
    half = ("adapter", "convert", path, "--dtype", "fp16", "--out", tmp_path / "half")
    assert run(capsys, *half)[0] == 0
    (weights,) = (tmp_path / "half").glob("*.safetensors")
    assert {weight.dtype for weight in load_file(weights).values()} == {torch.float16}
    assert load_adapter(tmp_path / "half").dtype == torch.float32
    assert "psalign.load_psa_adapter" in (tmp_path / "half/README.md").read_text()


def test_fold_gives_the_same_pictures(folder, tmp_path, capsys):
    arguments = ("adapter", "fold", folder / "full", "--embeddings", folder / "vectors", "--out", tmp_path)
    status, out, _ = run(capsys, *arguments)
    assert status == 0
    assert "40 users" in out
    pipe, pictures = WHOLE["sd15"](), []
    for adapter, vectors in ((folder / "full", folder / "vectors"), (tmp_path / "adapter", tmp_path / "embeddings")):
        store = EmbeddingStore.load(vectors)
        psa = attach(pipe, load_adapter(adapter))
        pictures.append(draw(pipe, psa, store.batch(store.user_ids[:2])))
        psa.unload()
    torch.testing.assert_close(*pictures, atol=1e-5, rtol=0)


def test_compress_says_what_it_costs(folder, tmp_path, capsys):
    arguments = ("adapter", "compress", folder / "full", "--embeddings", folder / "vectors")
    status, out, _ = run(capsys, *arguments, "--rank", 8, "--out", tmp_path / "small")
    assert status == 0
    for said in ("Size in fp16", "Relative output error", "over 8 users left out"):
        assert said in out
    assert load_adapter(tmp_path / "small").config.value_rank == 8


def test_export_warns(folder, tmp_path, capsys):
    status, out, _ = run(capsys, "adapter", "export-ip-adapter", folder / "full", "--out", tmp_path / "ip.safetensors")
    assert status == 0
    assert "no guard" in out
    assert "ip_adapter.1.to_k_ip.weight" in load_file(tmp_path / "ip.safetensors")


def test_mistakes(folder, tmp_path, capsys):
    assert run(capsys, "adapter", "info")[0] == 2
    cases = {
        "is not an adapter": ("adapter", "info", tmp_path / "nothing"),
        "of kind 'prompt'": ("adapter", "convert", folder / "prompt", "--to", "published", "--out", tmp_path / "a"),
        "kind 'published' can be compressed": (
            "adapter", "compress", folder / "prompt", "--embeddings", folder / "vectors", "--out", tmp_path / "a"),
        "the adapter was trained with published": (
            "adapter", "fold", folder / "psa_adapter.safetensors", "--embeddings", folder / "vectors", "--out",
            tmp_path / "a"),
    }  # fmt: skip
    for message, arguments in cases.items():
        status, _, err = run(capsys, *arguments)
        assert status in (1, 2)
        assert message in err
    assert not (tmp_path / "a").exists()


def test_vectors_that_replace_others_keep_users_and_bans(folder):
    store = EmbeddingStore.load(folder / "vectors")
    other = store.replaced(np.ones((40, 3), np.float32), "folded", options={"of": "test"})
    assert other.user_ids == store.user_ids
    assert other.banned(store.user_ids[0]) == store.banned(store.user_ids[0])
    assert np.array_equal(other.vectors(store.user_ids[:1]), np.ones((1, 3)))


@pytest.mark.parametrize(
    "arguments",
    [
        ("convert", "full"),
        ("compress", "full", "--embeddings", "vectors", "--rank", "2"),
        ("compress", "psa_adapter.safetensors", "--embeddings", "vectors"),
    ],
)
def test_a_folder_with_other_files_is_left_alone(arguments, folder, tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    given = [folder / part if (folder / part).exists() else part for part in arguments]
    status, _, err = run(capsys, "adapter", *given, "--out", tmp_path)
    assert status == 1
    assert "holds something else than an adapter: thesis.txt" in err
    assert "Choose another --out" in err
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_an_adapter_with_other_files_beside_it_is_left_alone(folder, tmp_path, capsys):
    run(capsys, "adapter", "convert", folder / "full", "--out", tmp_path / "made")
    (tmp_path / "made/psa_adapter.bin").write_bytes(b"published")
    status, _, err = run(capsys, "adapter", "convert", folder / "full", "--out", tmp_path / "made")
    assert status == 1
    assert "psa_adapter.bin" in err
    assert (tmp_path / "made/psa_adapter.bin").read_bytes() == b"published"


def test_an_adapter_alone_is_replaced(folder, tmp_path, capsys):
    for dtype in ("fp32", "fp16"):
        assert run(capsys, "adapter", "convert", folder / "full", "--out", tmp_path / "made", "--dtype", dtype)[0] == 0
    assert (
        load_file(tmp_path / "made/diffusion_pytorch_model.safetensors")["user_proj.norm.weight"].dtype == torch.float16
    )
    assert [path.name for path in tmp_path.iterdir()] == ["made"]


@pytest.mark.parametrize("command", [("convert", "--to", "published"), ("export-ip-adapter",)])
def test_a_checkpoint_is_not_written_over(command, folder, tmp_path, capsys):
    (tmp_path / "psa_adapter.safetensors").write_bytes(b"weights")
    out = tmp_path if command[0] == "convert" else tmp_path / "psa_adapter.safetensors"
    vectors = ("--embeddings", folder / "vectors") if command[0] == "convert" else ()
    status, _, err = run(capsys, "adapter", command[0], folder / "full", *command[1:], *vectors, "--out", out)
    assert status == 1
    assert "is there already" in err
    assert (tmp_path / "psa_adapter.safetensors").read_bytes() == b"weights"


def test_folding_leaves_other_vectors_alone(folder, tmp_path, capsys):
    shutil.copytree(folder / "vectors", tmp_path / "embeddings")
    before = (tmp_path / "embeddings/vectors.safetensors").read_bytes()
    status, _, err = run(
        capsys, "adapter", "fold", folder / "full", "--embeddings", tmp_path / "embeddings", "--out", tmp_path
    )
    assert status == 1
    assert "not folded" in err
    assert (tmp_path / "embeddings/vectors.safetensors").read_bytes() == before
