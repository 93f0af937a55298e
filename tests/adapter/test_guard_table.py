"""docs/GUARD.md, row by row: what is done to a pipeline that has an adapter, and what happens then.

KEEPS: the pictures are those that the adapter gave before. REFUSES: the next step raises, and what it says.
"""

import copy
import re
import warnings
from functools import cache
from pathlib import Path

import pytest
import torch
from accelerate import cpu_offload
from accelerate.hooks import remove_hook_from_module
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import AttnProcessor
from peft import LoraConfig

from psalign.adapter.attach import attach
from psalign.adapter.recognition import LAYOUTS
from psalign.errors import GuardError
from tiny_pipelines import PROMPTS, draw, draw_text, load_ip_adapter, random_adapter, sd15_pipeline, users

GUARD = Path(__file__).parents[2] / "docs/GUARD.md"


class AnotherLibrarysProcessor(AttnProcessor):
    """What xformers and its like put in the place of every processor."""


def add_lora(pipe):
    pipe.unet.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_out.0"], init_lora_weights=True), "one")


def reload(pipe, folder):
    pipe.unet.save_pretrained(folder)
    pipe.unet = UNet2DConditionModel.from_pretrained(folder)


def replace_a_cross_attention(pipe):
    block = pipe.unet.mid_block.attentions[0].transformer_blocks[0]
    block.attn2 = copy.deepcopy(block.attn2)


def change_scheduler(pipe):
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config)


def compile_around(pipe):
    pipe.unet = torch.compile(pipe.unet, backend="eager")


def quantise(pipe):
    with warnings.catch_warnings(action="ignore", category=DeprecationWarning):
        pipe.unet = torch.ao.quantization.quantize_dynamic(pipe.unet, {torch.nn.Linear}, dtype=torch.qint8)


def copy_the_unet(pipe):
    pipe.unet = copy.deepcopy(pipe.unet)


def there_and_back(pipe):
    pipe.to(torch.float64)
    pipe.to(torch.float32)


def offload(pipe):
    cpu_offload(pipe.unet, torch.device("cpu"))
    assert pipe.unet.device.type == "meta"


def offload_and_back(pipe):
    offload(pipe)
    remove_hook_from_module(pipe.unet, recurse=True)


# First cell of a row of docs/GUARD.md -> what is done to the pipeline; it may return more arguments of the call.
KEEPS = {
    "`enable_attention_slicing()`": lambda pipe: pipe.enable_attention_slicing(1),
    "`disable_attention_slicing()`": lambda pipe: pipe.disable_attention_slicing(),
    "`fuse_qkv_projections()`": lambda pipe: pipe.fuse_qkv_projections(vae=False),
    "`enable_xformers_memory_efficient_attention()`": lambda pipe: pipe.unet.set_attn_processor(
        AnotherLibrarysProcessor()
    ),
    "`unet.set_attn_processor(...)`": lambda pipe: pipe.unet.set_attn_processor(AttnProcessor()),
    "`unet.set_default_attn_processor()`": lambda pipe: pipe.unet.set_default_attn_processor(),
    "`load_ip_adapter(...)`": load_ip_adapter,
    "a LoRA loaded, `fuse_lora()`": add_lora,
    "`pipe.to(...)`": there_and_back,
    "another scheduler": change_scheduler,
    "`enable_sequential_cpu_offload()`": offload,
    "`remove_all_hooks()`": offload_and_back,
    "`torch.compile(pipe.unet)`": compile_around,
    "`unet.compile()`": lambda pipe: pipe.unet.compile(backend="eager"),
    "`unet.compile_repeated_blocks()`": lambda pipe: pipe.unet.compile_repeated_blocks(backend="eager"),
}
REFUSES = {
    "`copy.deepcopy(pipe.unet)`": (copy_the_unet, "made by another adapter"),
    "`quantize_dynamic(pipe.unet, ...)` of torch": (quantise, "made by another adapter"),
}
REFUSES_PUBLISHED = {"a cross-attention replaced": (replace_a_cross_attention, "1 of 4 cross-attentions have lost")}
# The hooks are gone: text that was rewritten stays so, and text of kind `published` gives NaN.
UNHOOKS = {
    "the UNet saved and loaded, or another one put in its place": reload,
    "`psa.unload()`": lambda pipe: pipe.unet._psa_attached.unload(),
    "its forward hooks cleared": lambda pipe: pipe.unet._forward_pre_hooks.clear(),
}
ELSEWHERE = {  # rows that tests/adapter/test_pipelines.py and test_pipeline_kinds.py show
    "`from_pipe(...)`",
    "a ControlNet that joins later",
    "guidance cut off part-way",
    "`enable_layerwise_casting(...)`",
    "`enable_group_offload(...)`",
    "the text changed by a callback",
}


@pytest.fixture(scope="module")
def expected():
    """Pictures of the base and of each kind, by the blocks of the UNet, before anything is done to the pipeline."""

    @cache
    def drawn(blocks=2):
        pipe = sd15_pipeline(blocks=blocks)
        pictures = {"base": draw(pipe)}
        for kind in ("prompt", "published"):
            psa = attach(pipe, random_adapter(pipe, kind))
            pictures[kind] = draw(pipe, psa)
            psa.unload()
        return pictures

    return drawn


# To compile takes seconds, by either way the same. By default one way here; test_pipelines.py compiles the whole UNet.
COMPILES = [("`unet.compile_repeated_blocks()`", "published")]
KEPT = [
    pytest.param(
        call, kind, marks=[pytest.mark.slow if (call, kind) in COMPILES else pytest.mark.long] * ("compile" in call)
    )
    for call in KEEPS
    for kind in ("prompt", "published")
]


@pytest.mark.parametrize(("call", "kind"), KEPT)
def test_what_keeps_the_adapter(call, kind, expected):
    blocks = 1 if "compile" in call else 2  # to compile takes a second for each block
    pipe = sd15_pipeline(blocks=blocks)
    psa = attach(pipe, random_adapter(pipe, kind))
    more = KEEPS[call](pipe) or {}
    drawn = draw(pipe, psa, **more)
    torch.testing.assert_close(drawn, expected(blocks)[kind], atol=1e-4, rtol=0)
    assert (drawn - expected(blocks)["base"]).abs().max() > 0.01
    with pytest.raises(GuardError, match="called without users"):
        draw(pipe, **more)


CASES = [(kind, call) for kind in ("prompt", "published") for call in REFUSES]
CASES += [("published", call) for call in REFUSES_PUBLISHED]


@pytest.mark.parametrize(("kind", "call"), CASES)
def test_what_would_lose_the_adapter_is_refused(kind, call):
    pipe = sd15_pipeline()
    psa = attach(pipe, random_adapter(pipe, kind))
    text = psa.encode(pipe, PROMPTS, users())
    change, message = (REFUSES | REFUSES_PUBLISHED)[call]
    change(pipe)
    with pytest.raises(GuardError, match=message):
        draw_text(pipe, text)


def test_a_copy_is_named_before_anything_is_drawn_and_an_adapter_attached_after_it_works():
    pipe = sd15_pipeline()
    psa = attach(pipe, random_adapter(pipe, "prompt"))
    copy_the_unet(pipe)
    with pytest.raises(GuardError, match=r"UNet of this StableDiffusionPipeline has another adapter.*\nCall unload"):
        psa.encode(pipe, PROMPTS, users())
    fresh = sd15_pipeline()
    quantise(fresh)
    assert draw(fresh, attach(fresh, random_adapter(fresh, "prompt"))).isfinite().all()


@pytest.mark.parametrize("kind", ["prompt", "published"])
@pytest.mark.parametrize("call", UNHOOKS)
def test_what_takes_the_hooks_away_never_gives_the_base(kind, call, expected, tmp_path):
    pipe = sd15_pipeline()
    psa = attach(pipe, random_adapter(pipe, kind))
    text, change = psa.encode(pipe, PROMPTS, users()), UNHOOKS[call]
    change(*((pipe, tmp_path) if change is reload else (pipe,)))
    drawn = draw_text(pipe, text)
    if kind == "prompt":
        torch.testing.assert_close(drawn, expected()[kind], atol=1e-4, rtol=0)
    else:
        assert drawn.isnan().all()


def rows_of(heading):
    """First cells of the table under a heading of the page."""
    section = GUARD.read_text(encoding="utf-8").split(f"\n## {heading}\n")[1].split("\n## ")[0]
    return [row for row in re.findall(r"^\| (.+?) \| .+ \|$", section, re.M) if not row.startswith("-")][1:]


def test_the_page_has_these_rows():
    assert set(rows_of("Changes to the UNet")) == (
        set(KEEPS) | set(REFUSES) | set(REFUSES_PUBLISHED) | set(UNHOOKS) | ELSEWHERE
    )


def test_the_page_has_every_layout():
    kinds = {"prompts": "c", "unconditional texts": "u"}
    cells = [row.split(", ") for row in rows_of("Promises")]
    assert {"".join(kinds[kind] for kind in cell) for cell in cells} == set(LAYOUTS)
