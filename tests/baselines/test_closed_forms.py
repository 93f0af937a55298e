"""UCE and RECE: the closed form minimises its own objective, and a user's matrix draws as an edited UNet does."""

import pytest
import torch
from safetensors.torch import save_file

from psalign.adapter.text import encode_texts
from psalign.baselines.concepts import TextStates
from psalign.baselines.edited_unet import edited_unet
from psalign.baselines.rece import ReceConfig, derived, reading, rece_matrix
from psalign.baselines.uce import States, UceConfig, edited_weights, mapped, solve, states_of, uce_matrix
from psalign.diffusion.base_models import load_pipeline
from psalign.errors import UsageError
from tiny_pipelines import PIPELINES


def random_states(width=6):
    generator = torch.Generator().manual_seed(1)
    parts = [torch.randn((n, width), generator=generator, dtype=torch.float64) for n in (4, 4, 5)]
    return States(*parts)


def objective(edited, weight, states, config):
    """The sum of the module's equation, written out."""
    erased = (edited @ states.erased.T - weight @ states.targets.T).square().sum()
    kept = (edited @ states.preserved.T - weight @ states.preserved.T).square().sum()
    return (
        config.erase_weight * erased + config.preserve_weight * kept + config.ridge * (edited - weight).square().sum()
    )


def test_uce_minimises_its_objective():
    """No small change of W P lowers the objective, in any of 50 random directions; its gradient is zero."""
    states, config = random_states(), UceConfig(erase_weight=2.0, preserve_weight=0.5, ridge=0.3)
    generator = torch.Generator().manual_seed(2)
    weight = torch.randn((3, 6), generator=generator, dtype=torch.float64)
    edited = (weight @ solve(states, config)).requires_grad_()
    least = objective(edited, weight, states, config)
    least.backward()
    assert edited.grad.abs().max() < 1e-9
    for _ in range(50):
        step = 0.01 * torch.randn(edited.shape, generator=generator, dtype=torch.float64)
        assert objective(edited + step, weight, states, config) > least


def test_nothing_changes_where_the_target_is_the_concept():
    states = random_states()
    same = solve(States(states.erased, states.erased, states.preserved), UceConfig())
    torch.testing.assert_close(same, torch.eye(6, dtype=torch.float64))


def test_rece_derives_the_state_that_still_gives_the_concept():
    """c' minimises sum |W P c' - W c|^2 + l |c'|^2; without an edit and nearly without l it is c."""
    generator = torch.Generator().manual_seed(3)
    weights = [torch.randn((5, 6), generator=generator, dtype=torch.float64) for _ in range(2)]
    gram = sum(weight.T @ weight for weight in weights)
    states, config = random_states(), UceConfig()
    matrix = solve(states, config)
    found = derived(states.erased, matrix, gram, 0.2)[0].requires_grad_()
    wanted = sum((weight @ matrix @ found - weight @ states.erased[0]).square().sum() for weight in weights)
    (wanted + 0.2 * found.square().sum()).backward()
    assert found.grad.abs().max() < 1e-9
    same = derived(states.erased, torch.eye(6, dtype=torch.float64), gram, 1e-12)
    torch.testing.assert_close(same, states.erased, rtol=1e-4, atol=1e-4)


@pytest.fixture(scope="module")
def mini():
    return load_pipeline("mini")


def test_rounds_of_rece_bring_the_edited_unet_nearer_to_the_target(mini):
    """After each round an edited UNet reads the derived states more like the target than before it."""
    known, gram = TextStates(mini), reading(mini.unet)
    config = ReceConfig(rounds=0, ridge=1.0)
    states = states_of(known, ["sword"], [], config)
    before = rece_matrix(known, ["sword"], [], config)
    torch.testing.assert_close(before, uce_matrix(known, ["sword"], [], UceConfig(ridge=1.0)))
    after = rece_matrix(known, ["sword"], [], ReceConfig(rounds=1, ridge=1.0))
    again = derived(states.erased, before, gram, config.derived_ridge)

    def error(matrix):
        away = (again @ matrix.T) - (states.targets @ before.T)
        return torch.einsum("nd,de,ne->", away, gram, away)

    assert error(after) < 0.2 * error(before)


@pytest.mark.parametrize("base", ["sd15", "mini"])
def test_a_users_matrix_gives_what_an_edited_unet_gives(base, mini, tmp_path):
    pipe = mini if base == "mini" else PIPELINES[base]()
    matrix = uce_matrix(TextStates(pipe), ["sword", "skull"], ["cat"], UceConfig(ridge=5.0))
    texts = encode_texts(pipe, ["a red cat with a sword"], [""])
    own = mapped(texts, [matrix])
    save_file(edited_weights(pipe.unet, matrix), tmp_path / "edited.safetensors")
    size = pipe.unet.config.sample_size
    latents = torch.randn((1, pipe.unet.config.in_channels, size, size), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        plain = pipe.unet(latents, 500, encoder_hidden_states=texts.prompt_embeds).sample
        by_text = pipe.unet(latents, 500, encoder_hidden_states=own.prompt_embeds).sample
        with edited_unet(pipe, tmp_path):
            by_weights = pipe.unet(latents, 500, encoder_hidden_states=texts.prompt_embeds).sample
    torch.testing.assert_close(by_text, by_weights, rtol=1e-3, atol=1e-4)
    assert (by_text - plain).abs().max() > 10 * (by_text - by_weights).abs().max()


def test_nothing_banned_is_the_base(mini):
    for matrix_of, config in ((uce_matrix, UceConfig()), (rece_matrix, ReceConfig())):
        assert torch.equal(matrix_of(TextStates(mini), [], ["cat"], config), torch.eye(128, dtype=torch.float64))


def test_settings_that_make_no_sense():
    with pytest.raises(UsageError, match=r"templates must be texts with \{\} for the phrase"):
        UceConfig(templates=("a picture",))
    with pytest.raises(UsageError, match="ridge must be more than 0"):
        UceConfig(ridge=0)
