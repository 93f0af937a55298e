"""What people put around a denoiser: for each, every row of every model that reads text is its user's, or it raises.

docs/GUARD.md has a row for each; PIPELINES_OF names them as the page does.
"""

import asyncio
import copy
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from diffusers import (
    AnimateDiffPipeline,
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    LatentConsistencyModelPipeline,
    LCMScheduler,
    MotionAdapter,
    StableDiffusionAdapterPipeline,
    StableDiffusionControlNetPipeline,
    StableDiffusionInstructPix2PixPipeline,
    StableDiffusionPAGPipeline,
    StableDiffusionPipeline,
    StableDiffusionSAGPipeline,
    StableDiffusionXLImg2ImgPipeline,
    T2IAdapter,
    UNet2DConditionModel,
)
from diffusers.guiders import ClassifierFreeGuidance, PerturbedAttentionGuidance, SkipLayerGuidance
from diffusers.hooks import LayerSkipConfig
from diffusers.modular_pipelines import SequentialPipelineBlocks, StableDiffusionXLAutoBlocks

from helpers import LLM_DIM, RECIPE, vectors
from psalign.adapter.adapter import cross_attention_widths
from psalign.adapter.attach import attach
from psalign.adapter.prompt import PromptAdapter
from psalign.adapter.published import PublishedAdapter
from psalign.diffusion.base_models import load_pipeline
from psalign.errors import GuardError
from tiny_pipelines import controlnet_of, draw_text, random_adapter, sdxl_pipeline, users

PROMPTS = ["a red cat with a sword", "a blue dog with a cross"]
NEGATIVE = ["blur", "a tree"]
FRAMES = 3
GUARD = Path(__file__).parents[2] / "docs/GUARD.md"


@pytest.fixture(scope="module")
def parts():
    """mini's text encoder, and an autoencoder of next to no size."""
    mini = load_pipeline("mini")
    torch.manual_seed(0)
    vae = AutoencoderKL(
        block_out_channels=(4,) * 4,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        norm_num_groups=2,
    ).eval()
    return {"text_encoder": mini.text_encoder, "tokenizer": mini.tokenizer, "vae": vae}


def unet(**more):
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8, block_out_channels=(8, 16), layers_per_block=1, cross_attention_dim=128, attention_head_dim=2,
        norm_num_groups=4, down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"), **more,
    ).eval().requires_grad_(False)  # fmt: skip


def scheduler():
    return DDIMScheduler(beta_schedule="scaled_linear", clip_sample=False)


def control_net(base, seed):
    torch.manual_seed(seed)
    net = ControlNetModel.from_unet(base, conditioning_channels=3).eval()
    with torch.no_grad():
        for block in (*net.controlnet_down_blocks, net.controlnet_mid_block):
            for weight in block.parameters():
                weight.normal_(std=0.3)
    return net


def adapter(base, kind, n_tokens=1):
    torch.manual_seed(1)
    shape = {"recipe": RECIPE, "llm_dim": LLM_DIM, "context_dim": 128, "n_tokens": n_tokens}
    if kind == "prompt":
        made = PromptAdapter(**shape, rank=8, heads=2)
    else:
        made = PublishedAdapter(**shape, widths=cross_attention_widths(base))
    with torch.no_grad():
        for weight in made.parameters():
            weight.normal_(std=0.3)
    return made.eval()


def stable(parts, kind=StableDiffusionPipeline, base=None, **more):
    base = unet() if base is None else base
    if kind is not AnimateDiffPipeline:
        more = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False, **more}
    made = kind(**parts, unet=base, **{"scheduler": scheduler(), **more})
    made.set_progress_bar_config(disable=True)
    return made


def motion():
    torch.manual_seed(2)
    return MotionAdapter(
        block_out_channels=(8, 16), motion_layers_per_block=1, motion_mid_block_layers_per_block=1,
        motion_norm_num_groups=4, motion_num_attention_heads=2, use_motion_mid_block=False,
    ).eval()  # fmt: skip


def picture(rows=2):
    return torch.rand((rows, 3, 16, 16), generator=torch.Generator().manual_seed(3))


def t2i_adapter():
    torch.manual_seed(5)
    return T2IAdapter(
        in_channels=3, channels=[8, 16], num_res_blocks=1, downscale_factor=8, adapter_type="full_adapter"
    )


# First cell of a row of docs/GUARD.md -> (a pipeline of parts, arguments of its call).
PIPELINES_OF = {
    "Stable Diffusion, guidance 4": lambda parts: (stable(parts), {"guidance_scale": 4.0}),
    "Turbo: guidance 0 or 1": lambda parts: (stable(parts), {"guidance_scale": 0.0}),
    "LCM: embedded guidance": lambda parts: (
        stable(parts, LatentConsistencyModelPipeline, unet(time_cond_proj_dim=8), scheduler=LCMScheduler()),
        {"guidance_scale": 4.0},
    ),
    "perturbed-attention guidance at guidance 0 or 1": lambda parts: (
        stable(parts, StableDiffusionPAGPipeline, pag_applied_layers=["down"]),
        {"guidance_scale": 0.0, "pag_scale": 3.0},
    ),
    "perturbed-attention guidance with guidance": lambda parts: (
        stable(parts, StableDiffusionPAGPipeline, pag_applied_layers=["down"]),
        {"guidance_scale": 4.0, "pag_scale": 3.0},
    ),
    "AnimateDiff": lambda parts: (
        stable(parts, AnimateDiffPipeline, motion_adapter=motion()),
        {"guidance_scale": 4.0, "num_frames": FRAMES, "decode_chunk_size": 2},
    ),
    "T2I-Adapter": lambda parts: (
        stable(parts, StableDiffusionAdapterPipeline, adapter=t2i_adapter()),
        {"guidance_scale": 4.0, "image": list(picture())},
    ),
    "InstructPix2Pix": lambda parts: (
        stable(parts, StableDiffusionInstructPix2PixPipeline, unet(in_channels=8)),
        {"guidance_scale": 4.0, "image": picture()},
    ),
    "several ControlNets": lambda parts: with_controlnets(parts),
    "FreeU": lambda parts: (free_u(stable(parts)), {"guidance_scale": 4.0}),
    "a wrap around the UNet (DeepCache and its like)": lambda parts: (wrapped(stable(parts)), {"guidance_scale": 4.0}),
}


ELSEWHERE = {  # rows that have a test of their own below, or in test_pipelines.py
    "self-attention guidance at guidance 0 or 1",
    "self-attention guidance with guidance",
    "a traced UNet, or another stand-in",
    "modular SDXL: guidance, perturbed attention, skipped layers",
    "image-to-image, inpainting, SDXL",
    "SDXL's refiner",
    "text states of another library (long prompts, weighted words)",
    "several users in threads or tasks",
    "one ControlNet for the UNets of several adapters",
    "AnimateDiff with FreeNoise",
    "GLIGEN's phrases",  # test_guard.py
}


def with_controlnets(parts):
    base = unet()
    nets = [control_net(base, 6), control_net(base, 7)]
    pipe = stable(parts, StableDiffusionControlNetPipeline, base, controlnet=nets)
    return pipe, {"guidance_scale": 4.0, "image": [picture(), picture()]}


def free_u(pipe):
    pipe.enable_freeu(s1=0.9, s2=0.2, b1=1.2, b2=1.4)
    return pipe


def wrapped(pipe):
    """forward exchanged for a function that calls it, as caching wraps do."""
    inner = pipe.unet.forward
    pipe.unet.forward = lambda *args, **kwargs: inner(*args, **kwargs)
    return pipe


def readers(pipe):
    """The first cross-attention of the UNet and of each ControlNet."""
    nets = getattr(getattr(pipe, "controlnet", None), "nets", [])
    for model in (pipe.unet, *nets):
        yield next(m for n, m in model.named_modules() if n.endswith("attn2") and "motion" not in n)


def draw(pipe, text, more, seeds=(1, 2)):
    """Latents of two prompts in two steps; the pictures' own size."""
    arguments = {
        "generator": [torch.Generator().manual_seed(seed) for seed in seeds],
        "num_inference_steps": 2,
        "output_type": "latent",
    }
    if not isinstance(pipe, StableDiffusionInstructPix2PixPipeline):
        arguments |= {"height": 16, "width": 16}
    made = pipe(**arguments, **text, **more)
    return made.frames if hasattr(made, "frames") else made.images


def encoded(pipe, psa, who=None, rows=(0, 1), **more):
    who = vectors(2) if who is None else who
    return psa.encode(pipe, [PROMPTS[i] for i in rows], who[list(rows)], recipe=RECIPE,
                      negative_prompt=[NEGATIVE[i] for i in rows], **more)  # fmt: skip


@pytest.mark.parametrize("kind", ["prompt", "published"])
@pytest.mark.parametrize("name", PIPELINES_OF)
def test_every_row_reads_its_users_text(name, kind, parts):
    """prompt: at every cross-attention stands a rewritten prompt or a negative prompt, never a prompt as it was.

    published: the text is as it was in the UNet, each row has its user's term, and no ControlNet reads a prompt.
    """
    pipe, more = PIPELINES_OF[name](parts)
    raw, negative = stable(parts).encode_prompt(PROMPTS, "cpu", 1, True, negative_prompt=NEGATIVE)
    psa = attach(pipe, adapter(pipe.unet, kind))
    seen = []
    for number, attention in enumerate(readers(pipe)):
        attention.register_forward_pre_hook(
            lambda m, a, k, number=number: seen.append((number, k["encoder_hidden_states"])), with_kwargs=True
        )
    text = encoded(pipe, psa)
    drawn = draw(pipe, text, more)
    kept = {key: value for key, value in text.items() if not key.startswith("negative")}
    prompts = kept["prompt_embeds"] if kind == "prompt" else raw
    for number, rows in seen:
        if kind == "published" and number == 0:
            continue  # what stands behind the text was not taken off yet where this hook looks
        may = [*negative, *(prompts if kind == "prompt" else [])]
        for row in rows:
            assert any(torch.allclose(row, one, atol=1e-5) for one in may)
    assert {number for number, _ in seen} == set(range(len(list(readers(pipe)))))
    with psa.disabled():
        base = draw(pipe, {"prompt": PROMPTS, **({"negative_prompt": NEGATIVE} if "LCM" not in name else {})}, more)
    assert (drawn - base).abs().amax(dim=tuple(range(1, drawn.ndim))).min() > 1e-3
    with pytest.raises(GuardError, match="called without users"):
        draw(pipe, {"prompt": PROMPTS}, more)


@pytest.mark.parametrize("kind", ["prompt", "published"])
@pytest.mark.parametrize("name", ["Stable Diffusion, guidance 4", "Turbo: guidance 0 or 1", "AnimateDiff"])
def test_a_batch_is_its_users_one_by_one(name, kind, parts):
    pipe, more = PIPELINES_OF[name](parts)
    psa = attach(pipe, adapter(pipe.unet, kind))
    same = [PROMPTS[0]] * 2  # two users of one prompt and one seed
    together = draw(pipe, psa.encode(pipe, same, vectors(2), recipe=RECIPE), more, seeds=(1, 1))
    for i in range(2):
        alone = psa.encode(pipe, same[:1], vectors(2)[i : i + 1], recipe=RECIPE)
        torch.testing.assert_close(draw(pipe, alone, more, seeds=(1,))[0], together[i], atol=1e-4, rtol=0)
    assert (together[0] - together[1]).abs().max() > 1e-3


@pytest.mark.parametrize("kind", ["prompt", "published"])
def test_self_attention_guidance(kind, parts):
    """Its second call of a step says nothing of its users: prompts that were rewritten are known, other text is not."""
    pipe = stable(parts, StableDiffusionSAGPipeline)
    psa = attach(pipe, adapter(pipe.unet, kind))
    more = {"sag_scale": 0.75, "height": 64, "width": 64}
    calls = []
    pipe.unet.register_forward_hook(lambda *_: calls.append(1))
    together = draw_text(pipe, encoded(pipe, psa), guidance_scale=0.0, **more)
    assert len(calls) == 2 * 2
    for i, seed in enumerate((7, 8)):
        generator = [torch.Generator().manual_seed(seed)]
        alone = draw_text(pipe, encoded(pipe, psa, rows=(i,)), guidance_scale=0.0, generator=generator, **more)
        torch.testing.assert_close(alone[0], together[i], atol=1e-4, rtol=0)
    with psa.disabled():
        base = draw_text(pipe, {"prompt": PROMPTS}, guidance_scale=0.0, **more)
    assert (together - base).abs().amax(dim=(1, 2, 3)).min() > 1e-3
    for text in (encoded(pipe, psa), {"prompt": PROMPTS}):
        with pytest.raises(GuardError, match="called without users"):
            draw_text(pipe, text, guidance_scale=4.0, **more)


def test_a_pipeline_made_of_an_adapted_unet_draws_from_rewritten_text(parts):
    """AnimateDiff builds a UNet of its own from the one it is given: no hook goes with it, the text does."""
    for kind in ("prompt", "published"):
        base = stable(parts)
        psa = attach(base, adapter(base.unet, kind))
        pipe = stable(parts, AnimateDiffPipeline, base.unet, motion_adapter=motion())
        if kind == "published":
            with pytest.raises(GuardError, match="is not the one that the adapter is on"):
                encoded(pipe, psa)
            continue
        own = stable(parts, AnimateDiffPipeline, motion_adapter=motion())
        wanted = draw(own, encoded(own, attach(own, adapter(own.unet, kind))), {"num_frames": FRAMES})
        torch.testing.assert_close(draw(pipe, encoded(pipe, psa), {"num_frames": FRAMES}), wanted, atol=1e-5, rtol=0)


def test_a_stand_in_for_the_unet_draws_from_rewritten_text(parts):
    """A traced UNet, or one of another library, looks at no keyword that it does not know."""
    pipe = stable(parts)
    inner = pipe.unet
    psa = attach(pipe, adapter(inner, "prompt"))
    wanted = draw(pipe, encoded(pipe, psa), {"guidance_scale": 4.0})

    class Plain(torch.nn.Module):
        def forward(self, sample, timestep, states):
            return inner(sample, timestep, encoder_hidden_states=states, return_dict=False)[0]

    with torch.no_grad(), psa.disabled():
        given = torch.randn(4, 4, 2, 2), torch.tensor(500), torch.randn(4, 77, 128)
        traced = torch.jit.trace(Plain().eval(), given, check_trace=False)

    class Fast(torch.nn.Module):
        config, dtype, device, add_embedding = inner.config, inner.dtype, inner.device, None

        def forward(self, sample, timestep, encoder_hidden_states, return_dict=True, **more):
            return (traced(sample, timestep, encoder_hidden_states),)

    pipe.register_modules(unet=Fast())
    torch.testing.assert_close(draw(pipe, encoded(pipe, psa), {"guidance_scale": 4.0}), wanted, atol=1e-4, rtol=0)


@pytest.mark.parametrize("kind", ["prompt", "published"])
@pytest.mark.parametrize("level", ["block_level", "leaf_level"])
def test_group_offload(kind, level, parts):
    pipe = stable(parts)
    psa = attach(pipe, adapter(pipe.unet, kind))
    wanted = draw(pipe, encoded(pipe, psa), {})
    pipe.unet.enable_group_offload(
        onload_device=torch.device("cpu"), offload_device=torch.device("cpu"), offload_type=level,
        **({"num_blocks_per_group": 1} if level == "block_level" else {}),
    )  # fmt: skip
    torch.testing.assert_close(draw(pipe, encoded(pipe, psa), {}), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("kind", "n_tokens"), [("prompt", 1), ("published", 1), ("published", 3)])
def test_weights_that_are_stored_in_eight_bits(kind, n_tokens, parts):
    pictures = []
    for casting in (False, True):
        pipe = stable(parts)
        psa = attach(pipe, adapter(pipe.unet, kind, n_tokens))
        pipe.unet.to(torch.float8_e4m3fn).to(torch.float32)  # what eight bits hold, in both runs
        if casting:
            pipe.unet.enable_layerwise_casting(storage_dtype=torch.float8_e4m3fn, compute_dtype=torch.float32)
        pictures.append(draw(pipe, encoded(pipe, psa), {"guidance_scale": 4.0}))
    torch.testing.assert_close(*pictures, atol=1e-3, rtol=0)


@pytest.mark.parametrize("kind", ["prompt", "published"])
def test_requests_in_threads_over_one_set_of_weights(kind, parts):
    """Each request has a pipeline and a scheduler of its own; all share the models. A barrier holds both in it."""
    pipe = stable(parts)
    psa = attach(pipe, adapter(pipe.unet, kind))

    def request(text):
        return draw(stable(parts, base=pipe.unet), text, {"guidance_scale": 4.0}, seeds=(1,))

    texts = [psa.encode(pipe, PROMPTS[:1], vectors(2)[i : i + 1], recipe=RECIPE) for i in range(2)]
    alone = [request(text) for text in texts]
    with psa.disabled():
        base = request({"prompt": PROMPTS[:1]})
    barrier, entered = threading.Barrier(3), threading.Barrier(2)

    def preview():  # an operator's look at the base meanwhile
        with psa.disabled():
            barrier.wait(30)
            return request({"prompt": PROMPTS[:1]})

    def meet(*_):
        if not psa.is_disabled:
            entered.wait(30)

    handle = pipe.unet.down_blocks[0].attentions[0].register_forward_pre_hook(meet)
    with ThreadPoolExecutor(3) as pool:
        jobs = [pool.submit(lambda text=text: (barrier.wait(30), request(text))[1]) for text in texts]
        previewed = pool.submit(preview)
        for job, wanted in zip(jobs, alone, strict=True):
            torch.testing.assert_close(job.result(60), wanted, atol=1e-5, rtol=0)
        torch.testing.assert_close(previewed.result(60), base, atol=1e-5, rtol=0)
    handle.remove()


def test_tasks_of_one_thread(parts):
    """`disabled()` in one task leaves the others guarded, whatever they wait for."""
    pipe = stable(parts)
    psa = attach(pipe, adapter(pipe.unet, "prompt"))
    wanted = draw(pipe, encoded(pipe, psa), {})

    async def preview(inside, done):
        with psa.disabled():
            inside.set()
            await done.wait()

    async def both():
        inside, done = asyncio.Event(), asyncio.Event()
        other = asyncio.create_task(preview(inside, done))
        await inside.wait()
        assert torch.equal(draw(pipe, encoded(pipe, psa), {}), wanted)
        with pytest.raises(GuardError, match="called without users"):
            draw(pipe, {"prompt": PROMPTS}, {})
        done.set()
        await other

    asyncio.run(both())


def change_texts(how):
    def callback(pipe, step, timestep, given):
        how(given["prompt_embeds"])
        return {}

    return {"callback_on_step_end": callback, "callback_on_step_end_tensor_inputs": ["prompt_embeds"]}


@pytest.mark.parametrize("kind", ["prompt", "published"])
def test_a_callback_that_changes_the_text_between_steps(kind, parts):
    pipe = stable(parts)
    psa = attach(pipe, adapter(pipe.unet, kind))
    for how in (
        lambda states: states[2:].mul_(0.9),
        lambda states: states.copy_(states[[0, 1, 3, 2]].clone()),
        lambda states: states.data[2].copy_(states[3]),
    ):
        with pytest.raises(GuardError, match="was not rewritten for these users"):
            draw(pipe, encoded(pipe, psa), {"guidance_scale": 4.0, **change_texts(how)})


GUIDERS = {
    "guidance": lambda: ClassifierFreeGuidance(guidance_scale=4.0),
    "perturbed attention": lambda: PerturbedAttentionGuidance(
        guidance_scale=4.0,
        perturbed_guidance_config=skip(skip_attention=False, skip_attention_scores=True, skip_ff=False),
        perturbed_guidance_start=0.0,
        perturbed_guidance_stop=1.0,
    ),
    "skipped layers": lambda: SkipLayerGuidance(
        guidance_scale=4.0, skip_layer_config=skip(), skip_layer_guidance_start=0.0, skip_layer_guidance_stop=1.0
    ),
}


def skip(**more):
    return LayerSkipConfig(indices=[0], fqn="mid_block.attentions.0.transformer_blocks", **more)


def modular_sdxl(stock, guider):
    """The text-to-image blocks without their text encoder: the text comes from encode()."""
    blocks = StableDiffusionXLAutoBlocks().sub_blocks.copy()
    blocks.pop("text_encoder")
    pipe = SequentialPipelineBlocks.from_blocks_dict(blocks).init_pipeline()
    pipe.update_components(
        unet=stock.unet, vae=stock.vae, scheduler=stock.scheduler, guider=guider, text_encoder=stock.text_encoder
    )
    return pipe


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["prompt", "published"])
@pytest.mark.parametrize("guider", GUIDERS)
def test_modular_sdxl(guider, kind):
    stock = sdxl_pipeline()
    psa = attach(stock, random_adapter(stock, kind))
    pipe = modular_sdxl(stock, GUIDERS[guider]())
    raw, negative, *_ = stock.encode_prompt(PROMPTS, negative_prompt=NEGATIVE)
    seen = []
    first = next(m for n, m in stock.unet.named_modules() if n.endswith("attn2"))
    first.register_forward_hook(lambda m, a, k, out: seen.append(k["encoder_hidden_states"]), with_kwargs=True)

    def run(text):
        seeds = [torch.Generator().manual_seed(seed) for seed in (1, 2)]
        size = {"height": 32, "width": 32, "num_inference_steps": 2, "output_type": "latent"}
        return pipe(**text, **size, generator=seeds, output="latents")

    text = psa.encode(stock, PROMPTS, users(), negative_prompt=NEGATIVE)
    drawn = run(text)
    prompts = text["prompt_embeds"] if kind == "prompt" else raw
    for rows in seen:
        wanted = [block for block in (prompts, negative) if torch.allclose(rows, block, atol=1e-5)]
        assert len(wanted) == 1  # one call per condition: all prompts or all unconditional texts
    assert len(seen) >= 4
    for i in range(2):
        one = type(users())((users().vectors[i],), users().recipe)
        text = psa.encode(stock, PROMPTS[i : i + 1], one, negative_prompt=NEGATIVE[i : i + 1])
        size = {"height": 32, "width": 32, "num_inference_steps": 2, "output_type": "latent"}
        alone = pipe(**text, **size, generator=[torch.Generator().manual_seed(i + 1)], output="latents")
        torch.testing.assert_close(alone[0], drawn[i], atol=1e-3, rtol=0)
    raw_text = stock.encode_prompt(PROMPTS, negative_prompt=NEGATIVE)
    names = ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds")
    with pytest.raises(GuardError, match="called without users"):
        run(dict(zip(names, raw_text, strict=True)))


def test_the_text_blocks_of_modular_sdxl_encode_as_the_pipeline_does():
    stock = sdxl_pipeline()
    psa = attach(stock, random_adapter(stock, "prompt"))
    pipe = StableDiffusionXLAutoBlocks().sub_blocks["text_encoder"].init_pipeline()
    names = ("text_encoder", "text_encoder_2", "tokenizer", "tokenizer_2")
    pipe.update_components(**{name: getattr(stock, name) for name in names}, guider=GUIDERS["guidance"]())
    text, wanted = (psa.encode(one, PROMPTS, users(), negative_prompt=NEGATIVE) for one in (pipe, stock))
    for name in ("prompt_embeds", "negative_prompt_embeds", "pooled_prompt_embeds", "negative_pooled_prompt_embeds"):
        assert torch.equal(text[name], wanted[name])


def test_a_second_prompt_that_differs_is_refused_where_there_is_a_user():
    stock = sdxl_pipeline()
    psa = attach(stock, random_adapter(stock, "prompt"))
    for second in ("a sword", ["a sword", PROMPTS[1]], [None, "a sword"]):
        with pytest.raises(GuardError, match="prompt_2 differs from the prompt in"):
            psa.encode(stock, PROMPTS, users(), prompt_2=second)
    wanted = psa.encode(stock, PROMPTS, users())["prompt_embeds"]
    for second in (None, list(PROMPTS), [None, PROMPTS[1]]):
        assert torch.equal(psa.encode(stock, PROMPTS, users(), prompt_2=second)["prompt_embeds"], wanted)
    psa.encode(stock, PROMPTS, users(), prompt_2="a sword", scale=0.0)


def test_the_refiner_is_refused():
    """It reads the second text encoder's states alone, which no adapter of the base rewrites."""
    stock = sdxl_pipeline()
    psa = attach(stock, random_adapter(stock, "prompt"))
    torch.manual_seed(0)
    config = {**dict(stock.unet.config), "cross_attention_dim": 1280, "projection_class_embeddings_input_dim": 1320}
    refiner = StableDiffusionXLImg2ImgPipeline(
        vae=stock.vae, text_encoder=None, tokenizer=None, text_encoder_2=stock.text_encoder_2,
        tokenizer_2=stock.tokenizer_2, unet=UNet2DConditionModel.from_config(config), scheduler=stock.scheduler,
        requires_aesthetics_score=True, add_watermarker=False,
    )  # fmt: skip
    refiner.set_progress_bar_config(disable=True)
    with pytest.raises(GuardError, match="width 1280; the adapter is for 2048"):
        psa.encode(refiner, PROMPTS, users())
    psa.guard(refiner.unet)
    with pytest.raises(GuardError, match="called without users"):
        refiner(PROMPTS, image=torch.rand(2, 3, 32, 32), strength=1.0, num_inference_steps=2, output_type="latent")


def test_embeddings_of_another_library(parts):
    """Long prompts and weighted words: any number of tokens, rewritten for each row's user."""
    pipe = stable(parts)
    psa = attach(pipe, adapter(pipe.unet, "prompt"))
    raw, negative = pipe.encode_prompt(PROMPTS, "cpu", 1, True)
    long, long_negative = (torch.cat([1.2 * states, states.flip(0)], dim=1) for states in (raw, negative))
    text = psa.rewrite(long, vectors(2), negative=long_negative, recipe=RECIPE)
    assert text["prompt_embeds"].shape == (2, 2 * raw.shape[1], 128)
    drawn = draw(pipe, text, {"guidance_scale": 4.0})
    for i in range(2):
        one = psa.rewrite(long[i : i + 1], vectors(2)[i : i + 1], negative=long_negative[i : i + 1], recipe=RECIPE)
        assert torch.equal(one["prompt_embeds"][0], text["prompt_embeds"][i])
        torch.testing.assert_close(
            draw(pipe, one, {"guidance_scale": 4.0}, seeds=(i + 1,))[0], drawn[i], atol=1e-4, rtol=0
        )
    with pytest.raises(GuardError, match="was not rewritten for these users"):
        draw(pipe, {**text, "prompt_embeds": long}, {"guidance_scale": 4.0})


def test_the_page_has_these_rows():
    section = GUARD.read_text(encoding="utf-8").split("\n## Pipelines\n")[1].split("\n## ")[0]
    named = {row for row in re.findall(r"^\| (.+?) \| .+ \|$", section, re.M) if not row.startswith("-")}
    assert named - {"pipeline"} == set(PIPELINES_OF) | ELSEWHERE


@pytest.mark.parametrize("kind", ["prompt", "published"])
def test_adapters_of_two_unets_may_share_a_controlnet(kind, parts):
    first, more = with_controlnets(parts)
    wanted = draw(first, encoded(first, attach(first, adapter(first.unet, kind))), more)
    first.unet._psa_attached.unload()
    second = stable(parts, StableDiffusionControlNetPipeline, unet(), controlnet=list(first.controlnet.nets))
    one, two = (attach(pipe, adapter(pipe.unet, kind)) for pipe in (first, second))
    torch.testing.assert_close(draw(first, encoded(first, one), more), wanted, atol=1e-5, rtol=0)
    torch.testing.assert_close(draw(second, encoded(second, two), more), wanted, atol=1e-5, rtol=0)
    two.unload()
    torch.testing.assert_close(draw(first, encoded(first, one), more), wanted, atol=1e-5, rtol=0)
    with pytest.raises(GuardError, match="called without users"):
        draw(first, {"prompt": PROMPTS}, more)
    one.unload()
    assert not any(net._forward_pre_hooks for net in first.controlnet.nets)


@pytest.mark.parametrize("kind", ["prompt", "published"])
def test_a_copied_pipeline_with_controlnets_has_an_adapter_of_its_own(kind, parts):
    pipe, more = with_controlnets(parts)
    psa = attach(pipe, adapter(pipe.unet, kind))
    wanted = draw(pipe, encoded(pipe, psa), more)
    other = copy.deepcopy(pipe)
    own = other.unet._psa_attached
    assert own is not psa
    torch.testing.assert_close(draw(other, encoded(other, own), more), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["prompt", "published"])
def test_unloading_a_copied_adapter_leaves_the_controlnets_of_the_first_guarded(kind, parts):
    pipe, more = with_controlnets(parts)
    psa = attach(pipe, adapter(pipe.unet, kind))
    copy.deepcopy(pipe.unet)._psa_attached.unload()
    draw(pipe, encoded(pipe, psa), more)
    net = pipe.controlnet.nets[0]
    with pytest.raises(GuardError, match="ControlNetModel was called without users"):
        net(torch.zeros(1, 4, 2, 2), 1, encoder_hidden_states=torch.ones(1, 77, 128), controlnet_cond=picture(1))


def test_a_controlnet_of_sdxl_reads_no_pooled_prompt_that_has_no_unconditional_one():
    """Kind published: both text states are exchanged, or the call is refused."""
    stock = sdxl_pipeline()
    psa, net = attach(stock, random_adapter(stock, "published")), controlnet_of(stock)
    psa.guard(net)
    states, negative, pooled, negative_pooled = stock.encode_prompt(PROMPTS)
    seen = []
    net.add_embedding.register_forward_pre_hook(lambda module, args: seen.append(args[0]))

    def read(**more):
        text = psa.rewrite(states, users(), pooled=pooled, negative=negative, **more)
        added = {"text_embeds": text["pooled_prompt_embeds"], "time_ids": torch.zeros(2, 6)}
        latents, picture = torch.zeros(2, 4, 4, 4), torch.zeros(2, 3, 32, 32)
        net(latents, 1, text["prompt_embeds"], controlnet_cond=picture, added_cond_kwargs=added)

    read(negative_pooled=negative_pooled)
    assert torch.equal(seen[0][:, :1280], negative_pooled)
    with pytest.raises(GuardError, match="cannot keep a ControlNet from reading what a user bans"):
        read()


def test_pooled_states_that_were_not_given_to_rewrite_are_refused():
    stock = sdxl_pipeline()
    psa = attach(stock, random_adapter(stock, "published"))
    states, negative, pooled, negative_pooled = stock.encode_prompt(PROMPTS)
    text = psa.rewrite(states, users(), negative=negative)
    with pytest.raises(GuardError, match="was not rewritten for these users"):
        draw_text(stock, {**text, "pooled_prompt_embeds": pooled, "negative_pooled_prompt_embeds": negative_pooled})


def test_guarded_controlnets_before_a_unet_without_the_adapter(parts):
    """The text is rewritten already; the guard of the ControlNets knows it although nothing came with it."""
    pipe, more = with_controlnets(parts)
    psa = attach(pipe, adapter(pipe.unet, "prompt"))
    wanted = draw(pipe, encoded(pipe, psa), more)
    pipe.unet = unet()
    torch.testing.assert_close(draw(pipe, encoded(pipe, psa), more), wanted, atol=1e-5, rtol=0)


def test_pipelines_that_read_prompts_alone_are_refused(parts):
    pipe = stable(parts, AnimateDiffPipeline, motion_adapter=motion())
    psa = attach(pipe, adapter(pipe.unet, "prompt"))
    pipe._free_noise_context_length = 16  # as enable_free_noise() sets it
    with pytest.raises(GuardError, match="with FreeNoise reads prompts alone"):
        encoded(pipe, psa)
    stock = stable(parts, base=pipe.unet)
    with pytest.raises(GuardError, match="does not take num_images_per_prompt"):
        psa.encode(stock, PROMPTS, vectors(2), recipe=RECIPE, num_images_per_prompt=2)
    with pytest.raises(GuardError, match="A prompt that is no text"):
        psa.encode(stock, ["a cat", None], vectors(2), recipe=RECIPE)
