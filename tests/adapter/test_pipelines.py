"""The adapter on stock diffusers pipelines in the layout of SD1.5 and SDXL."""

import copy

import pytest
import torch
from diffusers import (
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    StableDiffusionControlNetPipeline,
    StableDiffusionImg2ImgPipeline,
    StableDiffusionInpaintPipeline,
    StableDiffusionXLControlNetPipeline,
    StableDiffusionXLImg2ImgPipeline,
    StableDiffusionXLInpaintPipeline,
)
from peft import LoraConfig

from psalign import load_psa_adapter
from psalign.adapter.attach import attach
from psalign.adapter.checkpoint import save_adapter
from psalign.errors import CheckpointError, GuardError
from tiny_pipelines import PIPELINES, SIZE_PX, controlnet_of, draw, load_ip_adapter, random_adapter, users

BOTH = [(base, kind) for base in PIPELINES for kind in ("prompt", "published")]
IMAGE = torch.rand((2, 3, SIZE_PX, SIZE_PX), generator=torch.Generator().manual_seed(3))
MASK = (torch.arange(SIZE_PX) > SIZE_PX // 2).float().expand(2, 1, SIZE_PX, SIZE_PX)
# Per base: image-to-image, inpainting, ControlNet.
VARIANTS = {
    "sd15": (StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, StableDiffusionControlNetPipeline),
    "sdxl": (StableDiffusionXLImg2ImgPipeline, StableDiffusionXLInpaintPipeline, StableDiffusionXLControlNetPipeline),
}


def attached(base, kind, **more):
    pipe = PIPELINES[base]()
    return pipe, attach(pipe, random_adapter(pipe, kind, **more))


def row(batch, i):
    """One user of a batch."""
    return type(batch)((batch.vectors[i],), batch.recipe)


def alone(pipe, psa, i, **more):
    """Row i of draw(), drawn by itself."""
    prompt, seed = ["a red cat on the left", "a blue dog in a meadow"][i], [7, 8][i]
    generator = [torch.Generator().manual_seed(seed)]
    return draw(pipe, psa.condition(row(users(), i)), prompt=[prompt], generator=generator, **more)[0]


@pytest.mark.parametrize(("base", "kind"), BOTH)
@pytest.mark.parametrize("guidance", [4.0, 1.0])
def test_a_batch_of_users_is_the_users_one_by_one(base, kind, guidance):
    pipe, psa = attached(base, kind)
    together = draw(pipe, psa.condition(users()), guidance_scale=guidance)
    for i in range(2):
        torch.testing.assert_close(together[i], alone(pipe, psa, i, guidance_scale=guidance), atol=1e-4, rtol=0)
    assert (together - draw(PIPELINES[base](), guidance_scale=guidance)).abs().max() > 0.01


@pytest.mark.parametrize(("base", "kind"), BOTH)
def test_rows_scales_and_pictures_per_prompt(base, kind):
    pipe, psa = attached(base, kind)
    plain, full = draw(PIPELINES[base]()), draw(pipe, psa.condition(users()))
    mixed = type(users())((users().vectors[0], None), users().recipe)
    drawn = draw(pipe, psa.condition(mixed))
    torch.testing.assert_close(drawn[0], full[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(drawn[1], plain[1], atol=1e-6, rtol=0)
    drawn = draw(pipe, psa.condition(users(), scale=[0.0, 1.0]))
    torch.testing.assert_close(drawn[0], plain[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(drawn[1], full[1], atol=1e-4, rtol=0)
    seeds = [torch.Generator().manual_seed(seed) for seed in (7, 70, 8, 80)]
    limits = psa.condition(users(), images_per_prompt=2)
    four = draw(pipe, limits, num_images_per_prompt=2, generator=seeds)
    torch.testing.assert_close(four[[0, 2]], full, atol=1e-4, rtol=0)


@pytest.mark.parametrize("base", PIPELINES)
def test_unload_leaves_the_unet_as_it_was(base):
    for kind in ("prompt", "published"):
        pipe, psa = attached(base, kind)
        hooks = [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in pipe.unet.modules()]
        assert sum(hooks) > 0
        psa.unload()
        assert not any(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in pipe.unet.modules())
        assert torch.equal(draw(pipe), draw(PIPELINES[base]()))
        with pytest.raises(GuardError, match="not on this UNet"):
            psa.unload()


@pytest.mark.parametrize(("base", "kind"), BOTH)
def test_image_to_image_and_inpainting(base, kind):
    pipe, psa = attached(base, kind)
    to_image, inpaint, _ = VARIANTS[base]
    for variant, more in ((to_image, {}), (inpaint, {"mask_image": MASK})):
        other = variant.from_pipe(pipe)
        other.set_progress_bar_config(disable=True)
        more = {"image": IMAGE, "strength": 1.0, **more}
        size = {} if "mask_image" in more else {"height": None, "width": None}
        limits = psa.condition(users())
        with psa.disabled():
            plain = draw_like(other, **more, **size)
        steered = draw_like(other, limits, **more, **size)
        assert (steered - plain).abs().max() > 0.01
        with pytest.raises(GuardError, match="called without users"):
            draw_like(other, **more, **size)


def draw_like(pipe, limits=None, **more):
    """draw() for pipelines that take their size from the picture."""
    sized = {name: value for name, value in more.items() if value is not None or name not in ("height", "width")}
    arguments = {
        "prompt": ["a red cat on the left", "a blue dog in a meadow"],
        "generator": [torch.Generator().manual_seed(seed) for seed in (7, 8)],
        "num_inference_steps": 2,
        "guidance_scale": 4.0,
        "output_type": "latent",
    }
    return pipe(**arguments, **(limits or {}), **sized).images


@pytest.mark.parametrize(("base", "kind"), BOTH)
def test_a_controlnet_does_not_see_what_the_user_bans(base, kind):
    """The ControlNet's prompt is the rewritten one (`prompt`) or the unconditional one (`published`)."""
    pipe = PIPELINES[base]()
    net, seen = controlnet_of(pipe), []
    pipe = VARIANTS[base][2].from_pipe(pipe, controlnet=net)
    pipe.set_progress_bar_config(disable=True)
    net.mid_block.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["encoder_hidden_states"]), with_kwargs=True
    )
    raw = draw(pipe, image=IMAGE)
    prompts = seen[0]
    psa = attach(pipe, random_adapter(pipe, kind))
    seen.clear()
    steered = draw(pipe, psa.condition(users()), image=IMAGE)
    assert (steered - raw).abs().max() > 0.01
    assert torch.equal(seen[0][:2], prompts[:2])
    if kind == "published":
        assert torch.equal(seen[0][2:], prompts[:2])
    else:
        assert (seen[0][2:] - prompts[2:]).abs().amax(dim=(1, 2)).min() > 0.01
    with psa.disabled():
        assert torch.equal(draw(pipe, image=IMAGE), raw)
    psa.unload()
    attach(pipe, random_adapter(pipe, kind))
    with pytest.raises(GuardError, match="called without users"):
        draw(pipe, image=IMAGE)


def test_a_controlnet_in_guess_mode_reads_the_prompts_alone():
    pipe = PIPELINES["sd15"]()
    net = controlnet_of(pipe)
    pipe = StableDiffusionControlNetPipeline.from_pipe(pipe, controlnet=net)
    pipe.set_progress_bar_config(disable=True)
    psa = attach(pipe, random_adapter(pipe, "prompt"))
    draw(pipe, psa.condition(users()), image=IMAGE, guess_mode=True)
    psa.unload()
    psa = attach(pipe, random_adapter(pipe, "published"))
    with pytest.raises(GuardError, match="cannot keep a ControlNet from reading what a user bans without guidance"):
        draw(pipe, psa.condition(users()), image=IMAGE, guess_mode=True)


@pytest.mark.parametrize("kind", ["prompt", "published"])
def test_a_controlnet_that_joins_later_is_refused_until_it_is_guarded(kind):
    pipe, psa = attached("sd15", kind)
    net = controlnet_of(pipe)
    joined = StableDiffusionControlNetPipeline.from_pipe(pipe, controlnet=net)
    joined.set_progress_bar_config(disable=True)
    with pytest.raises(GuardError, match="has read the prompt without these users' limits"):
        draw(joined, psa.condition(users()), image=IMAGE)
    psa.guard_controlnet(net)
    late = draw(joined, psa.condition(users()), image=IMAGE)
    fresh = StableDiffusionControlNetPipeline.from_pipe(
        PIPELINES["sd15"](), controlnet=controlnet_of(PIPELINES["sd15"]())
    )
    fresh.set_progress_bar_config(disable=True)
    early = draw(fresh, attach(fresh, random_adapter(fresh, kind)).condition(users()), image=IMAGE)
    torch.testing.assert_close(late, early, atol=1e-5, rtol=0)
    first = psa.condition(users())
    psa.condition(type(users())(users().vectors[::-1], users().recipe))
    with pytest.raises(GuardError, match="condition\\(\\) again right before the pipeline"):
        draw(joined, first, image=IMAGE)


def test_a_guarded_controlnet_does_not_vouch_for_another():
    pipe, psa = attached("sd15", "prompt")
    first, second = (
        StableDiffusionControlNetPipeline.from_pipe(pipe, controlnet=controlnet_of(pipe)) for _ in range(2)
    )
    psa.guard_controlnet(first.controlnet)
    limits = psa.condition(users())
    draw(first, limits, image=IMAGE)
    with pytest.raises(GuardError, match="has read the prompt without these users' limits"):
        draw(second, limits, image=IMAGE)


@pytest.mark.parametrize(("base", "kind"), BOTH)
def test_guidance_cut_off_part_way(base, kind):
    """As diffusers documents it: a callback halves the prompts and sets the guidance scale to 0."""

    def cut_off(pipe, step, timestep, given):
        if step:
            return given
        pipe._guidance_scale = 0.0
        halves = {name: value.chunk(2)[-1] for name, value in given.items() if name != "latents"}
        return {**given, **halves}

    names = ["latents", "prompt_embeds"] + (["add_text_embeds", "add_time_ids"] if base == "sdxl" else [])
    more = {"callback_on_step_end": cut_off, "callback_on_step_end_tensor_inputs": names, "num_inference_steps": 3}
    pipe, psa = attached(base, kind)
    together = draw(pipe, psa.condition(users()), **more)
    for i in range(2):
        torch.testing.assert_close(together[i], alone(pipe, psa, i, **more), atol=1e-4, rtol=0)
    same = [torch.Generator().manual_seed(7) for _ in range(2)]  # equal halves: told by the prompts all the same
    draw(pipe, psa.condition(users()), generator=same, **more)


@pytest.mark.parametrize("kind", ["prompt", "published"])
@pytest.mark.parametrize("scheduler", [DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler])
def test_any_scheduler(kind, scheduler):
    pipe, psa = attached("sd15", kind)
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    drawn = draw(pipe, psa.condition(users()))
    for i in range(2):
        torch.testing.assert_close(drawn[i], alone(pipe, psa, i), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("base", "kind"), BOTH)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(base, kind, dtype):
    full_pipe, full_psa = attached(base, kind)
    full = draw(full_pipe, full_psa.condition(users()))
    pipe, psa = attached(base, kind)
    pipe.to(dtype)
    drawn = draw(pipe, psa.condition(users()))
    assert drawn.dtype == dtype
    plain = draw(PIPELINES[base]())
    assert (drawn.float() - full).abs().mean() < 0.2 * (full - plain).abs().mean()


@pytest.mark.parametrize("kind", ["prompt", "published"])
def test_a_lora_loaded_before_or_after_gives_the_same(kind):
    def with_lora(pipe):
        torch.manual_seed(9)
        pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_out.0"], init_lora_weights=False), "one")

    before = PIPELINES["sd15"]()
    with_lora(before)
    plain = draw(before)
    first = draw(before, attach(before, random_adapter(before, kind)).condition(users()))
    after, psa = attached("sd15", kind)
    with_lora(after)
    torch.testing.assert_close(draw(after, psa.condition(users())), first, atol=1e-5, rtol=0)
    assert (first - plain).abs().max() > 0.01
    limits = psa.condition(users())
    limits["cross_attention_kwargs"]["scale"] = 0.5
    half = draw(after, limits)
    assert (half - first).abs().max() > 1e-4
    limits["cross_attention_kwargs"]["scale"] = 0.0
    without, other = attached("sd15", kind)
    torch.testing.assert_close(draw(after, limits), draw(without, other.condition(users())), atol=1e-5, rtol=0)


def test_three_lines(tmp_path):
    pipe = PIPELINES["sd15"]()
    adapter = random_adapter(pipe, "prompt")
    save_adapter(adapter, tmp_path / "psa/adapter")
    psa = load_psa_adapter(pipe, tmp_path / "psa", subfolder="adapter")
    assert (draw(pipe, psa.condition(users())) - draw(PIPELINES["sd15"]())).abs().max() > 0.01
    with pytest.raises(GuardError, match="has an adapter already"):
        load_psa_adapter(pipe.unet, tmp_path / "psa/adapter")


def test_what_cannot_be_loaded(tmp_path):
    pipe = PIPELINES["sd15"]()
    with pytest.raises(CheckpointError, match="neither a folder or file here nor an adapter that can be downloaded"):
        load_psa_adapter(pipe, "nobody/psa", local_files_only=True)
    save_adapter(random_adapter(PIPELINES["sdxl"](), "prompt"), tmp_path / "sdxl")
    with pytest.raises(CheckpointError, match="text states of width 2048; this UNet's are 768"):
        load_psa_adapter(pipe, tmp_path / "sdxl")
    with pytest.raises(GuardError, match="list has no UNet"):
        load_psa_adapter([], tmp_path / "sdxl")


def test_users_of_another_shape_are_named():
    _, psa = attached("sd15", "prompt")
    with pytest.raises(GuardError, match="users with the recipe of their vectors; saw Tensor and no recipe"):
        psa.condition(torch.zeros(2, 12))
    with pytest.raises(GuardError, match=r"one number or one per user; saw \(3,\) for 2 users"):
        psa.condition(users(), scale=[1.0, 1.0, 1.0])
    with pytest.raises(GuardError, match="images_per_prompt must be at least 1; saw 0"):
        psa.condition(users(), images_per_prompt=0)


def test_a_copied_unet_has_its_own_adapter():
    for kind in ("prompt", "published"):
        pipe, psa = attached("sd15", kind)
        expected = draw(pipe, psa.condition(users()))
        pipe.unet = copy.deepcopy(pipe.unet)
        own = pipe.unet._psa_attached
        assert own is not psa
        torch.testing.assert_close(draw(pipe, own.condition(users())), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["prompt", "published"])
def test_an_ip_adapter_loaded_before_keeps_its_picture_prompt(kind):
    pipe = PIPELINES["sd15"]()
    more = load_ip_adapter(pipe)
    pipe.set_ip_adapter_scale(1.0)
    with torch.no_grad():
        for processor in pipe.unet.attn_processors.values():
            for value in getattr(processor, "to_v_ip", ()):
                value.weight.normal_(std=0.3, generator=torch.Generator().manual_seed(2))
    plain = draw(pipe, **more)
    psa = attach(pipe, random_adapter(pipe, kind))
    steered = draw(pipe, psa.condition(users()), **more)
    only_user = draw(*with_limits(kind))
    for other in (plain, only_user):
        assert (steered - other).abs().max() > 0.01
    torch.testing.assert_close(draw(pipe, psa.condition(users(), scale=0.0), **more), plain, atol=1e-6, rtol=0)


def with_limits(kind):
    pipe, psa = attached("sd15", kind)
    return pipe, psa.condition(users())


@pytest.mark.parametrize("kind", ["prompt", "published"])
def test_compiled_once_for_every_scale_and_user(kind):
    """One graph (fullgraph), and neither another scale nor another user compiles again or gives stale pictures."""
    pipe, psa = attached("sd15", kind)
    others = type(users())(users().vectors[::-1], users().recipe)
    wanted = [draw(pipe, psa.condition(who, scale=scale)) for who, scale in ((users(), 0.5), (others, 1.0))]
    pipe = PIPELINES["sd15"]()
    pipe.unet = torch.compile(pipe.unet, backend="eager", fullgraph=True)
    psa = attach(pipe, random_adapter(pipe, kind))
    draw(pipe, psa.condition(users()))
    torch.testing.assert_close(draw(pipe, psa.condition(users(), scale=0.5)), wanted[0], atol=1e-5, rtol=0)
    with torch.compiler.set_stance("fail_on_recompile"):
        torch.testing.assert_close(draw(pipe, psa.condition(others)), wanted[1], atol=1e-5, rtol=0)
        torch.testing.assert_close(draw(pipe, psa.condition(users(), scale=0.5)), wanted[0], atol=1e-5, rtol=0)
