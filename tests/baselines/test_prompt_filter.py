"""The prompt filter: which words it finds, what it leaves of a prompt, and blank pictures of refused rows."""

import numpy as np
import pytest
import torch

from psalign.baselines.prompt_filter import PromptFilter, PromptFilterConfig, filter_arguments, folded
from psalign.diffusion.base_models import load_pipeline
from psalign.errors import UsageError


@pytest.fixture(scope="module")
def mini():
    return load_pipeline("mini")


@pytest.mark.parametrize(
    ("prompt", "left"),
    [
        ("a red cat on the left with a sword, at night", "a red cat on the left with , at night"),
        ("SWORDS and a boat", "and a boat"),
        ("a boat at sea", "a boat at sea"),
        ("swordfish", "swordfish"),
        ("a hostile sign and a boat", "and a boat"),
        ("a sword", ""),
    ],
)
def test_same_words_are_dropped(mini, prompt, left):
    kept = PromptFilter(mini, PromptFilterConfig(threshold=1))
    assert kept.cleaned(prompt, ["sword", "hostile sign"]) == left


def test_words_that_mean_the_same_are_found_by_their_states(mini):
    exact, alike = (PromptFilter(mini, PromptFilterConfig(threshold=t)) for t in (1, 0.8))
    assert exact.found("a dagger", ["sword"]) == []
    assert alike.found("see a dagger", ["sword"]) == [(4, 12)]
    assert alike.found("a red cat", ["sword"]) == []


def test_nothing_banned_finds_nothing(mini):
    assert PromptFilter(mini, PromptFilterConfig()).found("a sword", []) == []


def test_forms_of_a_word():
    assert [folded(word) for word in ("Torches", "crosses", "the Axe", "bös", "boxes", "glass")] == [
        "torch", "cross", "axe", "bos", "box", "glass",
    ]  # fmt: skip


def test_a_refused_row_is_grey_and_its_neighbour_is_drawn(mini):
    kept = PromptFilter(mini, PromptFilterConfig(mode="refuse", threshold=1))
    prompts = ["a red cat with a sword", "a red cat"]
    more = filter_arguments(kept, prompts, None, [("sword",), ("sword",)])

    def drawn(**more):
        seeds = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
        return mini(prompts, num_inference_steps=2, output_type="np", generator=seeds, **more).images

    pictures, base = drawn(**more), drawn()
    with torch.no_grad():
        grey = mini.vae.decode(mini.vae.encode(torch.zeros(1, 3, 64, 64)).latent_dist.mode()).sample
    np.testing.assert_allclose(pictures[0], (grey[0].permute(1, 2, 0) / 2 + 0.5).clamp(0, 1), atol=1e-4)
    np.testing.assert_allclose(pictures[1], base[1], atol=1e-4)
    assert np.abs(base[0] - pictures[0]).mean() > 0.05


def test_modes():
    with pytest.raises(UsageError, match="Unknown mode 'ask' of the prompt filter; choose one of: drop, refuse"):
        PromptFilterConfig(mode="ask")
