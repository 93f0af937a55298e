"""Pipelines in the real layout of SD1.5 and SDXL: their blocks and context widths, all else tiny, random weights."""

from __future__ import annotations

from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from helpers import copied_pipeline
from psalign.adapter.adapter import PSAAdapter, cross_attention_widths
from psalign.adapter.checkpoint import save_adapter
from psalign.adapter.guard import AttachedAdapter
from psalign.adapter.prompt import PromptAdapter
from psalign.adapter.published import PublishedAdapter
from psalign.adapter.text import encode_texts
from psalign.categories import category_names
from psalign.diffusion.base_models import mini_folder
from psalign.mini import world
from psalign.users.vectors import UserBatch

LLM_DIM = 12
RECIPE = "tests"
SIZE_PX = 32
TOKENS = 40  # 77 in the real models; it decides half of the time of a test


def sd15_pipeline(*, blocks: int = 2) -> StableDiffusionPipeline:
    """Stable Diffusion 1.5's layout: text states of width 768, pictures of 32 px.

    blocks: resolutions of the UNet. The real one has 4 and 16 cross-attentions; with 1 or 2 there are 4, each kind of
    block once. Most of a test's time goes into the number of layers, whatever their width.
    """
    return _fresh(_made_sd15(blocks), requires_safety_checker=False)


@cache
def _made_sd15(blocks: int) -> StableDiffusionPipeline:
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    shape = _shape()
    if blocks < 4:  # of the real UNet, the first block that reads the text and the last one that does not
        down, up = ("CrossAttnDownBlock2D", "DownBlock2D"), ("UpBlock2D", "CrossAttnUpBlock2D")
        shape |= {"down_block_types": down[:blocks], "up_block_types": up[-blocks:], "layers_per_block": 1}
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16, 16, 16)[:blocks], cross_attention_dim=768, attention_head_dim=2, **shape
    )
    return StableDiffusionPipeline(
        vae=_autoencoder(),
        text_encoder=CLIPTextModel(_text_config(tokenizer, 768, heads=2)),
        tokenizer=tokenizer,
        unet=unet,
        scheduler=_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def sdxl_pipeline(*, layers: tuple[int, int, int] = (1, 1, 1), depth: int = 1) -> StableDiffusionXLPipeline:
    """SDXL's layout: two text encoders, text states of width 2048, pooled of 1280. Pictures of 32 px.

    layers: transformer layers of each block. depth: residual layers of each block. SDXL has (1, 2, 10) and 2, which
    makes 70 cross-attentions; the default has 7.
    """
    return _fresh(_made_sdxl(layers, depth), add_watermarker=False)


@cache
def _made_sdxl(layers: tuple[int, int, int], depth: int) -> StableDiffusionXLPipeline:
    torch.manual_seed(0)
    tokenizer = _tokenizer()
    unet = UNet2DConditionModel(
        block_out_channels=(8, 16, 16),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        transformer_layers_per_block=layers,
        attention_head_dim=(1, 2, 2),
        cross_attention_dim=2048,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=8,
        projection_class_embeddings_input_dim=1280 + 6 * 8,
        **{**_shape(), "layers_per_block": depth},
    )
    return StableDiffusionXLPipeline(
        vae=_autoencoder(),
        text_encoder=CLIPTextModel(_text_config(tokenizer, 768, heads=2)),
        text_encoder_2=CLIPTextModelWithProjection(_text_config(tokenizer, 1280, heads=2)),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        unet=unet,
        scheduler=_scheduler(),
        add_watermarker=False,
    )


PIPELINES = {"sd15": sd15_pipeline, "sdxl": sdxl_pipeline}
# With every cross-attention.
WHOLE = {"sd15": partial(sd15_pipeline, blocks=4), "sdxl": partial(sdxl_pipeline, layers=(1, 2, 10), depth=2)}


def adapter_of_limits(pipeline: Any, *, bias: float = -7.0) -> PromptAdapter:
    """For the mini base: its matcher has learned nothing but centre and spread, and finds only what is very similar.

    bias: is added to the similarity of words. A larger one makes the matcher find more words.
    """
    torch.manual_seed(0)
    adapter = PromptAdapter(recipe="r", words=True, rank=8, heads=2)
    rng = np.random.default_rng(0)
    scenes = [world.sample_scene(rng) for _ in range(32)]
    sample = [world.caption(scene, world.WORDINGS[i % 5]) for i, scene in enumerate(scenes)]
    adapter.matcher.measure(encode_texts(pipeline, sample).prompt_embeds)
    with torch.no_grad():
        adapter.matcher.words_bias.fill_(bias)
        adapter.matcher.breadth[2].bias.fill_(-20.0)
    torch.nn.init.normal_(adapter.rewriter.up.weight, std=0.1)
    return adapter


def save_pipeline(pipeline: Any, folder: Path) -> Path:
    """Write a pipeline as diffusers does. Returns its folder."""
    pipeline.save_pretrained(folder)
    return folder


def controlnet_of(pipeline: Any) -> ControlNetModel:
    """A ControlNet for the pipeline's UNet whose outputs are not zero."""
    torch.manual_seed(4)
    net = ControlNetModel.from_unet(pipeline.unet, conditioning_channels=3)
    with torch.no_grad():
        for block in (*net.controlnet_down_blocks, net.controlnet_mid_block):
            for weight in block.parameters():
                weight.normal_(std=0.3)
    return net.eval()


def random_adapter(pipeline: Any, kind: str, *, n_tokens: int = 1, llm_dim: int = LLM_DIM) -> PSAAdapter:
    """An adapter with random weights that fits the pipeline."""
    torch.manual_seed(1)
    unet, pooled = pipeline.unet, 1280 if hasattr(pipeline, "text_encoder_2") else 0
    shape = {"base": "sdxl" if pooled else "sd15", "recipe": RECIPE, "llm_dim": llm_dim, "n_tokens": n_tokens}
    shape["context_dim"] = unet.config.cross_attention_dim
    adapter: PSAAdapter
    if kind == "published":
        adapter = PublishedAdapter(**shape, widths=cross_attention_widths(unet))
    else:
        adapter = PromptAdapter(
            **shape, rank=8, heads=2, words=True, pooled_dim=pooled, categories=len(category_names())
        )
    adapter.eval()
    with torch.no_grad():
        for weight in adapter.parameters():
            weight.normal_(std=0.3)
        if isinstance(adapter, PromptAdapter):
            adapter.matcher.bans_bias.fill_(4.0)  # so that something of every prompt is rewritten
    return adapter


def save_lora(base: str, folder: Path) -> Path:
    """A LoRA with random weights for the cross-attentions, as diffusers saves it. Returns its folder."""
    from diffusers.utils import convert_state_dict_to_diffusers
    from peft import LoraConfig
    from peft.utils import get_peft_model_state_dict

    pipeline = PIPELINES[base]()
    config = LoraConfig(r=2, init_lora_weights=False, target_modules=r".*attn2\.to_[kv]")
    pipeline.unet.add_adapter(config)
    layers = convert_state_dict_to_diffusers(get_peft_model_state_dict(pipeline.unet))
    type(pipeline).save_lora_weights(folder, unet_lora_layers=layers)
    return folder


def load_ip_adapter(pipe: Any) -> dict[str, Any]:
    """Load a stock IP-Adapter at scale 0: it changes no picture, but replaces every processor. Returns its picture."""
    unet, weights = pipe.unet, dict[str, torch.Tensor]()
    attentions = [module for name, module in unet.named_modules() if name.endswith("attn2")]
    for i, attention in enumerate(attentions):
        weights |= {f"{2 * i + 1}.to_{x}_ip.weight": torch.zeros(attention.to_k.out_features, 768) for x in "kv"}
    projection = {"proj.weight": torch.zeros(4 * 768, 6), "proj.bias": torch.arange(4.0 * 768)}
    projection |= {"norm.weight": torch.ones(768), "norm.bias": torch.zeros(768)}
    unet._load_ip_adapter_weights([{"image_proj": projection, "ip_adapter": weights}])
    pipe.set_ip_adapter_scale(0.0)
    return {"ip_adapter_image_embeds": [torch.ones(4, 1, 6)]}


def users(count: int = 2) -> UserBatch:
    """User vectors that random_adapter knows."""
    rows = torch.randn((count, LLM_DIM), generator=torch.Generator().manual_seed(5))
    return UserBatch(tuple(rows.numpy()), RECIPE)


PROMPTS = ["a red cat on the left", "a blue dog in a meadow"]


def draw(
    pipeline: Any,
    psa: AttachedAdapter | None = None,
    who: Any = None,
    *,
    prompt: list[str] = PROMPTS,
    scale: Any = 1.0,
    recipe: str | None = None,
    **more: Any,
) -> torch.Tensor:
    """Latents of two prompts, in two steps with guidance, from fixed seeds; by psa for users(), or others."""
    who = users() if who is None else who
    text = {"prompt": prompt} if psa is None else psa.encode(pipeline, prompt, who, scale=scale, recipe=recipe)
    return draw_text(pipeline, text, **more)


def draw_text(pipeline: Any, text: dict[str, Any], **more: Any) -> torch.Tensor:
    """`draw` for arguments that say what to draw: prompts, or what encode() gave. None leaves an argument out."""
    arguments: dict[str, Any] = {
        "generator": [torch.Generator().manual_seed(seed) for seed in (7, 8)],
        "num_inference_steps": 2,
        "guidance_scale": 4.0,
        "output_type": "latent",
        "height": SIZE_PX,
        "width": SIZE_PX,
    }
    arguments = {name: value for name, value in {**arguments, **text, **more}.items() if value is not None}
    latents: torch.Tensor = pipeline(**arguments).images
    return latents


def _shape() -> dict[str, Any]:
    return {"sample_size": SIZE_PX // 8, "layers_per_block": 2, "norm_num_groups": 4}


def _autoencoder() -> AutoencoderKL:
    blocks = 4
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * blocks,
        up_block_types=("UpDecoderBlock2D",) * blocks,
        block_out_channels=(4,) * blocks,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
        sample_size=SIZE_PX,
    ).eval()


def _scheduler() -> DDIMScheduler:
    return DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False,
        steps_offset=1,
    )  # fmt: skip


def _tokenizer() -> CLIPTokenizer:
    return CLIPTokenizer.from_pretrained(mini_folder() / "tokenizer", model_max_length=TOKENS)


def _text_config(tokenizer: CLIPTokenizer, width: int, *, heads: int) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=16,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=heads,
        max_position_embeddings=TOKENS,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def _fresh(made: Any, **settings: Any) -> Any:
    """A pipeline like another: random weights cost three times as much as their copy."""
    return copied_pipeline(made, **settings)


def save_with_adapter(pipeline: Any, base: str, where: Path, *, recipe: str) -> None:
    """A pipeline in where/<base> and an adapter of kind `prompt` with random weights for it in where/psa-<base>."""
    save_pipeline(pipeline, where / base)
    adapter = random_adapter(pipeline, "prompt")
    adapter.register_to_config(recipe=recipe)
    save_adapter(adapter, where / f"psa-{base}")
