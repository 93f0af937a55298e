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
from psalign.adapter.text import encode_texts
from psalign.errors import CheckpointError, GuardError
from tiny_pipelines import (
    PIPELINES,
    PROMPTS,
    SIZE_PX,
    WHOLE,
    controlnet_of,
    draw,
    draw_text,
    load_ip_adapter,
    random_adapter,
    sd15_pipeline,
    users,
)

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
    generator = [torch.Generator().manual_seed([7, 8][i])]
    return draw(pipe, psa, row(users(), i), prompt=[PROMPTS[i]], generator=generator, **more)[0]


@pytest.mark.parametrize("kind", ["prompt", "published"])
@pytest.mark.parametrize(
    ("make", "guidance"),
    [
        pytest.param(PIPELINES["sd15"], 4.0, id="sd15-4"),
        pytest.param(PIPELINES["sd15"], 1.0, id="sd15-1"),
        pytest.param(PIPELINES["sdxl"], 4.0, id="sdxl-4"),
        *(pytest.param(make, 4.0, id=f"whole {base}", marks=pytest.mark.long) for base, make in WHOLE.items()),
    ],
)
def test_a_batch_of_users_is_the_users_one_by_one(make, kind, guidance):
    pipe = make()
    psa = attach(pipe, random_adapter(pipe, kind))
    together = draw(pipe, psa, guidance_scale=guidance)
    for i in range(2):
        torch.testing.assert_close(together[i], alone(pipe, psa, i, guidance_scale=guidance), atol=1e-4, rtol=0)
    assert (together - draw(make(), guidance_scale=guidance)).abs().max() > 0.01


@pytest.mark.parametrize(("base", "kind"), BOTH)
def test_rows_scales_and_pictures_per_prompt(base, kind):
    pipe, psa = attached(base, kind)
    full, bare = draw(pipe, psa), PIPELINES[base]()
    plain = draw_text(bare, encode_texts(bare, PROMPTS).arguments())  # one by one, as encode() does
    mixed = type(users())((users().vectors[0], None), users().recipe)
    drawn = draw(pipe, psa, mixed)
    torch.testing.assert_close(drawn[0], full[0], atol=1e-4, rtol=0)
    torch.testing.assert_close(drawn[1], plain[1], atol=1e-6, rtol=0)
    drawn = draw(pipe, psa, users(), scale=[0.0, 1.0])
    torch.testing.assert_close(drawn[0], plain[0], atol=1e-6, rtol=0)
    torch.testing.assert_close(drawn[1], full[1], atol=1e-4, rtol=0)
    seeds = [torch.Generator().manual_seed(seed) for seed in (7, 70, 8, 80)]
    four = draw(pipe, psa, num_images_per_prompt=2, generator=seeds)
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
        with psa.disabled():
            plain = draw(other, **more, **size)
        assert (draw(other, psa, **more, **size) - plain).abs().max() > 0.01
        with pytest.raises(GuardError, match="called without users"):
            draw(other, **more, **size)


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
    steered = draw(pipe, psa, image=IMAGE)
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


@pytest.mark.parametrize("kind", ["prompt", "published"])
def test_a_controlnet_in_guess_mode_reads_one_text_a_user(kind):
    pipe = PIPELINES["sd15"]()
    net, seen = controlnet_of(pipe), []
    pipe = StableDiffusionControlNetPipeline.from_pipe(pipe, controlnet=net)
    pipe.set_progress_bar_config(disable=True)
    net.mid_block.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["encoder_hidden_states"]), with_kwargs=True
    )
    psa = attach(pipe, random_adapter(pipe, kind))
    text = psa.encode(pipe, PROMPTS, users())
    draw_text(pipe, text, image=IMAGE, guess_mode=True)
    wanted = text["prompt_embeds"] if kind == "prompt" else text["negative_prompt_embeds"][:, :-1]
    assert torch.equal(seen[0], wanted)


@pytest.mark.parametrize("kind", ["prompt", "published"])
def test_controlnets_that_join_later_read_no_raw_prompt(kind):
    pipe, psa = attached("sd15", kind)
    nets = [controlnet_of(pipe), controlnet_of(pipe)]
    seen = []
    for net in nets:
        net.mid_block.register_forward_pre_hook(
            lambda module, args, kwargs: seen.append(kwargs["encoder_hidden_states"]), with_kwargs=True
        )
    one = StableDiffusionControlNetPipeline.from_pipe(pipe, controlnet=nets[0])
    both = StableDiffusionControlNetPipeline(**{**one.components, "controlnet": nets}, requires_safety_checker=False)
    raw = pipe.encode_prompt(PROMPTS, "cpu", 1, False)[0]
    for joined, image in ((one, IMAGE), (both, [IMAGE, IMAGE])):
        joined.set_progress_bar_config(disable=True)
        draw(joined, psa, image=image)
        assert not any(torch.allclose(row, text) for rows in seen for row in rows for text in raw)
        with pytest.raises(GuardError, match="ControlNetModel was called without users"):
            draw(joined, image=image)
    assert len(seen) == 2 + 4


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
    together = draw(pipe, psa, **more)
    for i in range(2):
        torch.testing.assert_close(together[i], alone(pipe, psa, i, **more), atol=1e-4, rtol=0)
    same = [torch.Generator().manual_seed(7) for _ in range(2)]
    draw(pipe, psa, generator=same, **more)


@pytest.mark.parametrize("kind", ["prompt", "published"])
@pytest.mark.parametrize("scheduler", [DPMSolverMultistepScheduler, EulerAncestralDiscreteScheduler])
def test_any_scheduler(kind, scheduler):
    pipe, psa = attached("sd15", kind)
    pipe.scheduler = scheduler.from_config(pipe.scheduler.config)
    drawn = draw(pipe, psa)
    for i in range(2):
        torch.testing.assert_close(drawn[i], alone(pipe, psa, i), atol=1e-4, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["prompt", "published"])
@pytest.mark.parametrize(
    ("base", "dtype"),
    [
        pytest.param("sd15", torch.float16, marks=pytest.mark.long),
        ("sd15", torch.bfloat16),
        ("sdxl", torch.float16),
    ],
)
def test_half_precision(base, kind, dtype):
    full_pipe, full_psa = attached(base, kind)
    full = draw(full_pipe, full_psa)
    pipe, psa = attached(base, kind)
    pipe.to(dtype)
    drawn = draw(pipe, psa)
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
    first = draw(before, attach(before, random_adapter(before, kind)))
    after, psa = attached("sd15", kind)
    with_lora(after)
    torch.testing.assert_close(draw(after, psa), first, atol=1e-5, rtol=0)
    assert (first - plain).abs().max() > 0.01
    text = psa.encode(after, PROMPTS, users())
    text["cross_attention_kwargs"]["scale"] = 0.5
    half = draw_text(after, text)
    assert (half - first).abs().max() > 1e-4
    text["cross_attention_kwargs"]["scale"] = 0.0
    without, other = attached("sd15", kind)
    torch.testing.assert_close(draw_text(after, text), draw(without, other), atol=1e-5, rtol=0)


def test_three_lines(tmp_path):
    pipe = PIPELINES["sd15"]()
    adapter = random_adapter(pipe, "prompt")
    save_adapter(adapter, tmp_path / "psa/adapter")
    psa = load_psa_adapter(pipe, tmp_path / "psa", subfolder="adapter")
    assert (draw(pipe, psa) - draw(PIPELINES["sd15"]())).abs().max() > 0.01
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


REFUSED_TEXTS = {
    "users without a recipe": ((PROMPTS, torch.zeros(2, 12)), {}, "users with the recipe of their vectors; saw Tensor"),
    "three scales for two users": (
        (PROMPTS, users()),
        {"scale": [1.0, 1.0, 1.0]},
        r"one number or one per user; saw \(3,\) for 2",
    ),
    "three prompts for two users": (
        (["a cat"] * 3, users()),
        {},
        "2 users for 3 prompts; expected one user per prompt",
    ),
    "no prompts": (([], users()), {}, "No prompts"),
    "one negative prompt for two rows": (
        (PROMPTS, users()),
        {"negative_prompt": ["blur"]},
        "negative_prompt must be one text or one per prompt; saw 1 for 2 prompts",
    ),
    "an option of another pipeline": (
        (PROMPTS, users()),
        {"max_sequence_length": 3},
        "does not take max_sequence_length",
    ),
}


@pytest.mark.parametrize("case", REFUSED_TEXTS)
def test_texts_and_users_that_do_not_match_are_named(case):
    pipe, psa = attached("sd15", "prompt")
    given, more, message = REFUSED_TEXTS[case]
    with pytest.raises(GuardError, match=message):
        psa.encode(pipe, *given, **more)


def test_a_copied_unet_has_its_own_adapter():
    for kind in ("prompt", "published"):
        pipe, psa = attached("sd15", kind)
        expected = draw(pipe, psa)
        pipe.unet = copy.deepcopy(pipe.unet)
        own = pipe.unet._psa_attached
        assert own is not psa
        torch.testing.assert_close(draw(pipe, own), expected, atol=1e-5, rtol=0)


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
    steered = draw(pipe, psa, **more)
    only_user = draw(*attached("sd15", kind))
    for other in (plain, only_user):
        assert (steered - other).abs().max() > 0.01
    torch.testing.assert_close(draw(pipe, psa, users(), scale=0.0, **more), plain, atol=1e-6, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["prompt", "published"])
def test_compiled_once_for_every_scale_and_user(kind):
    """One graph (fullgraph), and neither another scale nor another user compiles again or gives stale pictures."""
    pipe = sd15_pipeline(blocks=1)
    psa = attach(pipe, random_adapter(pipe, kind))
    others = type(users())(users().vectors[::-1], users().recipe)
    wanted = [draw(pipe, psa, who, scale=scale) for who, scale in ((users(), 0.5), (others, 1.0))]
    pipe = sd15_pipeline(blocks=1)
    pipe.unet = torch.compile(pipe.unet, backend="eager", fullgraph=True)
    psa = attach(pipe, random_adapter(pipe, kind))
    draw(pipe, psa)
    torch.testing.assert_close(draw(pipe, psa, users(), scale=0.5), wanted[0], atol=1e-5, rtol=0)
    with torch.compiler.set_stance("fail_on_recompile"):
        torch.testing.assert_close(draw(pipe, psa, others), wanted[1], atol=1e-5, rtol=0)
        torch.testing.assert_close(draw(pipe, psa, users(), scale=0.5), wanted[0], atol=1e-5, rtol=0)
    positional, plain = _one_step(pipe, psa.encode(pipe, PROMPTS, others))
    torch.testing.assert_close(positional, plain)
    with pytest.raises(GuardError, match="called without users"):
        draw(pipe)


@torch.no_grad()
def _one_step(pipe, text):
    """What a compiled UNet predicts for a text that it gets by its place, and what the same UNet not compiled does."""
    states = torch.cat([text["negative_prompt_embeds"], text["prompt_embeds"]])
    generator = torch.Generator().manual_seed(1)
    size = pipe.unet.config.sample_size
    inputs = torch.randn((len(states), 4, size, size), generator=generator), pipe.scheduler.timesteps[0], states
    more = {"cross_attention_kwargs": text["cross_attention_kwargs"], "return_dict": False}
    named = dict(zip(("sample", "timestep", "encoder_hidden_states"), inputs, strict=True))
    return pipe.unet(*inputs, **more)[0], pipe.unet._orig_mod(**named, **more)[0]
