"""Safe Latent Diffusion: each step against arithmetic by hand, and stock pipelines as they were without it."""

import pytest
import torch

from psalign.baselines.sld import STRENGTHS, Call, Strength, find_strength, safe_latent_diffusion, safety_guidance
from psalign.diffusion.base_models import load_pipeline
from psalign.errors import GuardError, UsageError
from tiny_pipelines import PIPELINES, PROMPTS, draw_text

AT_ONCE = Strength(scale=5000, warm_up=0, threshold=1.0, momentum_scale=0.5, momentum_beta=0.7)
CONCEPTS = ["a red cat", "a boat at night"]


@pytest.fixture(scope="module", params=["sd15", pytest.param("sdxl", marks=pytest.mark.long), "mini"])
def pipeline(request):
    return load_pipeline("mini") if request.param == "mini" else PIPELINES[request.param]()


@pytest.fixture(scope="module")
def sd15():
    return PIPELINES["sd15"]()


def drawn(pipeline, limits=None, **more):
    size = 64 if pipeline.unet.config.cross_attention_dim == 128 else 32
    return draw_text(pipeline, {"prompt": PROMPTS, **(limits or {})}, height=size, width=size, **more)


def maps(*values):
    return torch.tensor(values).reshape(1, 1, 1, -1)


def test_one_step_and_the_next_by_hand():
    """scale 2, threshold 0.5, momentum 0.5 and 0.25; u = 0, c = (.1, 1, .2), s = (.4, .2, .9).

    c - s = (-.3, .8, -.7); |phi| = (.6, -, 1.4), so mu = (.6, 0 for .8 >= .5, 1); gamma = mu * s = (.24, 0, .9);
    v = .75 * gamma = (.18, 0, .675).
    Next: gamma = (.24, 0, .9) + .5 * v = (.33, 0, 1.2375); v = .25 * v + .75 * gamma = (.2925, 0, 1.096875).
    """
    strength = Strength(scale=2, warm_up=0, threshold=0.5, momentum_scale=0.5, momentum_beta=0.25)
    call = Call(torch.zeros(1), None, torch.tensor([True]))
    noises = maps(0.0, 0.0, 0.0), maps(0.1, 1.0, 0.2), maps(0.4, 0.2, 0.9)
    torch.testing.assert_close(safety_guidance(*noises, call, strength), maps(0.24, 0.0, 0.9))
    torch.testing.assert_close(call.velocity, maps(0.18, 0.0, 0.675))
    torch.testing.assert_close(safety_guidance(*noises, call, strength), maps(0.33, 0.0, 1.2375))
    torch.testing.assert_close(call.velocity, maps(0.2925, 0.0, 1.096875))


def test_the_papers_four_strengths():
    found = {
        name: (s.scale, s.warm_up, s.threshold, s.momentum_scale, s.momentum_beta) for name, s in STRENGTHS.items()
    }
    assert found == {
        "weak": (200, 15, 0.0, 0.0, 0.0),
        "medium": (1000, 10, 0.01, 0.3, 0.4),
        "strong": (2000, 7, 0.025, 0.5, 0.7),
        "max": (5000, 0, 1.0, 0.5, 0.7),
    }
    with pytest.raises(UsageError, match="Unknown strength 'huge' of SLD; choose one of: weak, medium, strong, max"):
        find_strength("huge")


def test_the_unet_returns_a_pair_of_which_guidance_makes_equation_3(sd15):
    """u + g (c' - u) with what the hook returns, and u + g (c - u - gamma) with three calls without it."""
    generator = torch.Generator().manual_seed(3)
    states, concept = torch.randn((2, 5, 768), generator=generator), sd15.encode_prompt("a cat", "cpu", 1, False)[0]
    sample = torch.randn((1, 4, 4, 4), generator=generator).repeat(2, 1, 1, 1)
    timestep, g = torch.tensor(500), 7.5
    sd15._num_timesteps = 1
    with torch.no_grad():
        u, c = sd15.unet(sample, timestep, encoder_hidden_states=states, return_dict=False)[0].chunk(2)
        s = sd15.unet(sample[:1], timestep, encoder_hidden_states=concept, return_dict=False)[0]
        with safe_latent_diffusion(sd15, AT_ONCE) as guidance:
            limits = guidance.condition(["a cat"])
            pair = sd15.unet(sample, timestep, encoder_hidden_states=states, return_dict=False, **limits)[0].chunk(2)
    gamma = torch.where(c - s < 1.0, (5000 * (c - s)).abs().clamp(max=1) * (s - u), 0.0)
    assert gamma.abs().max() > 0.01
    torch.testing.assert_close(pair[0] + g * (pair[1] - pair[0]), u + g * (c - u - gamma), rtol=1e-4, atol=1e-5)


def test_it_changes_pictures_and_leaves_the_pipeline_as_it_was(pipeline):
    base = drawn(pipeline)
    with safe_latent_diffusion(pipeline, AT_ONCE) as guidance:
        steered = drawn(pipeline, guidance.condition(CONCEPTS))
        again = drawn(pipeline, guidance.condition(CONCEPTS))
    assert not torch.allclose(steered, base, atol=1e-3)
    assert torch.equal(steered, again)  # a call remembers nothing of the one before
    assert torch.equal(drawn(pipeline), base)
    assert not pipeline.unet._forward_hooks
    assert not pipeline.unet._forward_pre_hooks


def test_scale_0_is_the_base_bit_for_bit(pipeline):
    nothing = Strength(scale=0, warm_up=0, threshold=1.0, momentum_scale=0.5, momentum_beta=0.7)
    with safe_latent_diffusion(pipeline, nothing) as guidance:
        assert torch.equal(drawn(pipeline, guidance.condition(CONCEPTS)), drawn_without(pipeline, guidance))


def drawn_without(pipeline, guidance):
    guidance.remove()
    return drawn(pipeline)


def test_a_row_without_a_concept_is_the_base_bit_for_bit(pipeline):
    base = drawn(pipeline)
    with safe_latent_diffusion(pipeline, AT_ONCE) as guidance:
        steered = drawn(pipeline, guidance.condition(["", CONCEPTS[1]]))
    assert torch.equal(steered[0], base[0])
    assert not torch.allclose(steered[1], base[1], atol=1e-3)


def test_a_batch_is_its_rows_one_by_one(pipeline):
    """Without a threshold, which is a jump: noise a hair above it instead of below would be another picture, and the
    last bits of a UNet's output hang on the processor and on how many rows it computes at a time."""
    smooth = Strength(scale=5, warm_up=7, threshold=float("inf"), momentum_scale=0.5, momentum_beta=0.7)
    prompts = ["a red cat on the left", "a blue dog in a meadow"]
    with safe_latent_diffusion(pipeline, smooth) as guidance:
        together = drawn(pipeline, guidance.condition(CONCEPTS), prompt=prompts)
        for i in range(2):
            alone = drawn(pipeline, guidance.condition(CONCEPTS[i : i + 1]), prompt=prompts[i : i + 1],
                          generator=[torch.Generator().manual_seed(7 + i)])  # fmt: skip
            torch.testing.assert_close(alone[0], together[i], rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", STRENGTHS)
def test_the_arithmetic_of_a_batch_is_that_of_its_rows(name):
    """Bit for bit, with threshold and momentum, over three steps."""
    generator = torch.Generator().manual_seed(1)
    steps = [[torch.randn((3, 4, 8, 8), generator=generator) * 0.1 for _ in range(3)] for _ in range(3)]
    active = torch.tensor([True, False, True])
    batch = Call(torch.zeros(3), None, active)
    rows = [Call(torch.zeros(1), None, active[i : i + 1]) for i in range(3)]
    for noises in steps:
        together = safety_guidance(*noises, batch, STRENGTHS[name])
        for i, call in enumerate(rows):
            alone = safety_guidance(*(noise[i : i + 1] for noise in noises), call, STRENGTHS[name])
            assert torch.equal(alone[0], together[i])
        assert together[0].abs().max() > 0
        assert not together[1].any()


@pytest.mark.parametrize(("warm_up", "first"), [(0, 0), (25, 2), (26, 3), (50, 4)])
def test_warm_up_is_a_share_of_the_steps(sd15, warm_up, first):
    """25 of 50 are 2 of 4 steps: from the third on, pictures are steered; the velocity grows from the first on."""
    strength = Strength(scale=5000, warm_up=warm_up, threshold=1.0, momentum_scale=0.5, momentum_beta=0.7)

    def latents(limits=None):
        seen = []

        def keep(pipe, step, timestep, given):
            seen.append(given["latents"].clone())
            return {}

        drawn(sd15, limits, num_inference_steps=4, callback_on_step_end=keep)
        return seen

    base = latents()
    with safe_latent_diffusion(sd15, strength) as guidance:
        limits = guidance.condition(CONCEPTS)
        steered = latents(limits)
    same = [torch.equal(one, other) for one, other in zip(base, steered, strict=True)]
    assert same == [step < first for step in range(4)]
    call = limits["cross_attention_kwargs"]["sld"]
    assert (call.steps_done, bool(call.velocity.abs().max() > 0)) == (4, True)


def test_it_fails_closed(sd15):
    with safe_latent_diffusion(sd15, AT_ONCE) as guidance:
        with pytest.raises(GuardError, match=r"called without concepts.\nPass \*\*guidance.condition"):
            drawn(sd15)
        with pytest.raises(UsageError, match=r"expected 4 rows for 2 concepts; saw 2\.\nGive --guidance more than 1"):
            drawn(sd15, guidance.condition(CONCEPTS), guidance_scale=1.0)
        with pytest.raises(UsageError, match="expected 2 rows for 1 concepts; saw 4"):
            drawn(sd15, guidance.condition(CONCEPTS[:1]))
