"""psalign adapter convert --to published: an adapter of standardised vectors becomes one that reads raw ones."""

import re

import numpy as np
import pytest
import torch

from commands import run
from psalign.adapter.checkpoint import load_adapter, save_adapter
from psalign.adapter.convert import read_published
from psalign.users import EmbeddingStore, StructuredEmbedder, sample_profiles
from tiny_pipelines import WHOLE, random_adapter

LLM_DIM = 12


class LanguageModelLike(StructuredEmbedder):
    """Vectors as a language model's: one large coordinate, and little that differs between users."""

    def embed(self, profiles):
        raw = super().embed(profiles) * 0.3
        raw[:, 0] -= 75
        return raw


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    where = tmp_path_factory.mktemp("fold")
    store = EmbeddingStore.build(sample_profiles(40, seed=1), LanguageModelLike(LLM_DIM))
    store.save(where / "vectors")
    store.save_npy(where / "npy")
    adapter = random_adapter(WHOLE["sd15"](), "published", llm_dim=LLM_DIM)
    adapter.register_to_config(recipe=store.fingerprint)
    save_adapter(adapter, where / "ours")
    return where


def convert(capsys, folder, out, *flags):
    return run(capsys, "adapter", "convert", folder / "ours", "--to", "published", "--out", out, *flags)


def tokens(adapter, vectors):
    state = {name[10:]: value for name, value in adapter.state_dict().items() if name.startswith("user_proj.")}
    return torch.nn.functional.linear(torch.from_numpy(vectors), state["proj.weight"], state["proj.bias"])


def test_raw_vectors_give_the_tokens_that_standardised_ones_gave(folder, tmp_path, capsys):
    status, out, _ = convert(capsys, folder, tmp_path, "--embeddings", folder / "vectors")
    assert (status, "It reads raw vectors of recipe" in out) == (0, True)
    assert "unconditional branch reads a zero vector" in out
    store, raw = EmbeddingStore.load(folder / "vectors"), EmbeddingStore.load(folder / "npy")
    ours, theirs = load_adapter(folder / "ours"), read_published(tmp_path / "psa_adapter.safetensors")
    ids = store.user_ids
    torch.testing.assert_close(tokens(theirs, raw.vectors(ids)), tokens(ours, store.vectors(ids)), atol=1e-3, rtol=1e-3)
    assert theirs.config.recipe == raw.fingerprint  # its own raw vectors, neither the standardised nor published ones
    assert theirs.config.recipe not in (store.fingerprint, "published")


def test_without_the_folding_users_would_be_mixed_up(folder):
    """What an adapter made of raw vectors before: the tokens of all users nearly alike, and not theirs."""
    store, raw = EmbeddingStore.load(folder / "vectors"), EmbeddingStore.load(folder / "npy")
    ours = load_adapter(folder / "ours")
    wrong, right = tokens(ours, raw.vectors(store.user_ids)), tokens(ours, store.vectors(store.user_ids))
    cosines = torch.nn.functional.cosine_similarity(wrong, right).numpy()
    assert np.median(np.abs(cosines)) < 0.9


MISTAKES = {
    "no vectors": ((), "was trained with standardised vectors.*Give --embeddings"),
    "half precision": (("--embeddings", "vectors", "--dtype", "fp16"), "needs --dtype fp32"),
    "other vectors": (("--embeddings", "npy"), "the adapter was trained with"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_it_is_never_written_as_if_it_read_raw_vectors(mistake, folder, tmp_path, capsys):
    flags, message = MISTAKES[mistake]
    given = [folder / flag if flag in ("vectors", "npy") else flag for flag in flags]
    status, _, err = convert(capsys, folder, tmp_path / "out", *given)
    assert status in (1, 2)
    assert re.search(message, err, re.DOTALL)
    assert not (tmp_path / "out").exists()
