"""SAFREE: projections by hand, what is orthogonal stays, and the callback gives the prompt back."""

import pytest
import torch

from psalign.baselines.concepts import TextStates
from psalign.baselines.safree import SafreeConfig, project_prompt, projector, safree_arguments, steps_for
from psalign.diffusion.base_models import load_pipeline


def test_a_projector_keeps_its_space_and_nothing_across_it():
    """Vectors (1, 0, 0), (1, 1, 0) and twice the first span the plane z = 0."""
    on = projector(torch.tensor([[1.0, 0, 0], [1, 1, 0], [2, 0, 0]]))
    torch.testing.assert_close(on, torch.diag(torch.tensor([1.0, 1, 0])), atol=1e-6, rtol=0)


def test_what_is_orthogonal_to_what_is_unwanted_stays():
    """Unwanted: z. Tokens and the texts without them have no z: every distance is the same, none is found."""
    states = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, -1, 0]])
    left, found = project_prompt(states, states, torch.tensor([[0.0, 0, 3]]), alpha=0.01)
    assert not found.any()
    assert torch.equal(left, states)


def test_the_token_without_which_the_prompt_is_far_from_it_loses_that_direction():
    """Without token 0 the text has no z, so its distance is |(1, 1, 0)| = sqrt 2, and without the others it is 1.
    The space of the texts without a token is all of space here, so token 0, (1, 0, 5), becomes (1, 0, 0)."""
    states = torch.tensor([[1.0, 0, 5], [0, 1, 0], [0, 2, 0]])
    without = torch.tensor([[1.0, 1, 0], [1, 0, 5], [0, 1, 5]])
    left, found = project_prompt(states, without, torch.tensor([[0.0, 0, 1]]), alpha=0.01)
    assert found.tolist() == [True, False, False]
    torch.testing.assert_close(left, torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 2, 0]]), atol=1e-5, rtol=1e-5)


def test_steps_by_hand():
    """cos 0: sigmoid(1) = 0.7311, of 10 steps of 50 in a run of 50 steps 7, in one of 100 steps 15."""
    before, after = torch.tensor([[1.0, 0]]), torch.tensor([[0.0, 1]])
    assert steps_for(before, after, SafreeConfig(), steps=50) == 7
    assert steps_for(before, after, SafreeConfig(), steps=100) == 15
    assert steps_for(before, after, SafreeConfig(always=True), steps=100) == 100


@pytest.fixture(scope="module")
def mini():
    return load_pipeline("mini")


def test_a_row_without_bans_is_the_prompts_own_text(mini):
    texts = safree_arguments(
        TextStates(mini), ["a cat"] * 2, None, [(), ("cat",)], config=SafreeConfig(always=True), steps=4
    )
    own = mini.encode_prompt("a cat", "cpu", 1, False)[0][0]
    assert torch.equal(texts["prompt_embeds"][0], own)
    assert not torch.equal(texts["prompt_embeds"][1], own)


def test_the_callback_gives_the_prompt_back_when_its_steps_are_over(mini):
    config = SafreeConfig(gamma=50)
    known, prompts = TextStates(mini), ["a red cat on the left with a sword, at night"]
    given = safree_arguments(known, prompts, None, [("sword", "axe")], config=config, steps=2)
    first, own = given["prompt_embeds"], mini.encode_prompt(prompts[0], "cpu", 1, False)[0]
    both = torch.cat([torch.zeros_like(first), first])
    after = given["callback_on_step_end"](None, 0, None, {"prompt_embeds": both})["prompt_embeds"]
    assert not torch.equal(first, own)
    assert torch.equal(after, torch.cat([torch.zeros_like(own), own]))
