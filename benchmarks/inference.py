"""What an adapter adds to one UNet call: base and adapters interleaved call by call in one run, as ratios.

    python benchmarks/inference.py --model mini|sd15|sdxl [--users 1] [--device cuda --dtype bf16 --compile]

Full-size UNets with random weights: time and memory do not depend on what weights say. A round is one call of every
variant on the same inputs, with guidance, so that a busy machine slows all of them alike; a ratio is a variant's call
over the base's of the same round. What depends on user and prompt alone is made in the first call of a picture and kept
for its other steps: it is timed apart, as a share of one call of the base. A later call pays for the guard, which
recognises each row of text, and, with kind `published`, for its term in the cross-attentions.

`plain processor` is the published way written down plainly: attention processors that attend to the user's tokens in
every cross-attention at every step. Writes benchmarks/results/inference-<model>-<device>.json.
"""

from __future__ import annotations

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch import nn
from torch.nn import functional as F

from psalign.adapter.adapter import PSAAdapter, cross_attention_widths
from psalign.adapter.attach import attach
from psalign.adapter.guard import AttachedAdapter
from psalign.adapter.prompt import PromptAdapter
from psalign.adapter.published import PublishedAdapter
from psalign.adapter.recognition import KnownText, recognise
from psalign.adapter.text import Texts
from psalign.adapter.users import RowUsers
from psalign.config import load_preset
from psalign.diffusion.base_models import BASES, load_pipeline
from psalign.files import write_json

SD15 = {"block_out_channels": (320, 640, 1280, 1280), "cross_attention_dim": 768, "attention_head_dim": 8}
SDXL = {
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}
UNETS = {"sd15": SD15, "sdxl": SDXL}
VARIANTS = ("base", "prompt", "prompt, one user for all", "published, N=1", "published, N=4", "plain processor, N=1")
DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}
WARM_UP = 1  # rounds that are not counted


def main() -> None:
    arguments = _arguments()
    device, dtype = torch.device(arguments.device), DTYPES[arguments.dtype]
    unet = make_unet(arguments.model, device).to(device, dtype)
    if arguments.compile:
        unet.compile()
    inputs = make_inputs(unet, arguments)
    seconds: dict[str, list[float]] = {name: [] for name in arguments.variants}
    once: dict[str, list[float]] = {name: [] for name in arguments.variants}
    memory: dict[str, int] = {}
    ways = {name: Way(name, unet, arguments, device) for name in arguments.variants}
    for number in range(arguments.rounds + WARM_UP):
        for name, way in ways.items():
            first, step, peak = way.time(inputs)
            if number >= WARM_UP:
                seconds[name].append(step)
                once[name].append(first)
            memory[name] = max(peak, memory.get(name, 0))
    figures = {name: _figures(name, seconds, once, memory, ways[name].adapter_bytes) for name in ways}
    for name, figure in figures.items():
        low, high = figure["p10"], figure["p90"]
        print(f"{name:22} {figure['ratio']:.3f} x base  [{low:.3f}, {high:.3f}]  once per call {figure['once']:+.3f}")
    guard = guard_share(unet, inputs, statistics.median(seconds["base"]), arguments.rounds)
    print(f"the guard's look at the text: {guard:.4f} of one call of the base")
    record = {
        "guard_share": guard,
        "model": arguments.model,
        "size_px": arguments.size,
        "users": arguments.users,
        "rounds": arguments.rounds,
    }
    record |= {"dtype": arguments.dtype, "compiled": arguments.compile, "device": _device_name(device)}
    record |= {"torch": torch.__version__, "threads": torch.get_num_threads(), "variants": figures}
    name = f"inference-{arguments.model}-{device.type}-{arguments.users}{'-compiled' if arguments.compile else ''}.json"
    write_json(Path(__file__).parent / "results" / name, record)


def guard_share(unet: Any, inputs: dict[str, Any], base_seconds: float, rounds: int) -> float:
    """What recognising the rows of one call takes, as a share of one call of the base."""
    added = inputs.get("added_cond_kwargs") or {"text_embeds": None}
    states, pooled = inputs["encoder_hidden_states"], added["text_embeds"]
    negative, prompts = states.chunk(2)
    plain, pooled_prompts = (None, None) if pooled is None else pooled.chunk(2)
    users = RowUsers(torch.zeros(len(prompts), 1), torch.ones(len(prompts)))
    texts = Texts(prompts, negative, pooled_prompts, plain)
    text = KnownText(texts, users, owner=None, changed=[True] * len(prompts))
    taken = []
    for _ in range(rounds + WARM_UP):
        started = time.perf_counter()
        recognise([text], states, pooled)
        taken.append(time.perf_counter() - started)
    return statistics.median(taken[WARM_UP:]) / base_seconds


class Way:
    """One variant: how it comes onto the UNet, and one timed picture's first calls."""

    def __init__(self, name: str, unet: Any, arguments: argparse.Namespace, device: torch.device) -> None:
        self.name, self.unet, self.users, self.device = name, unet, arguments.users, device
        self.llm_dim = 64 if arguments.model == "mini" else 3584
        self.adapter = None if name == "base" else make_adapter(name, arguments.model, unet, self.llm_dim)
        self.adapter_bytes = sum(weight.numel() * 2 for weight in self.adapter.parameters()) if self.adapter else 0
        self.vectors = torch.randn((self.users, self.llm_dim), generator=torch.Generator().manual_seed(1))
        if name.endswith("one user for all"):
            self.vectors = self.vectors[:1].expand(self.users, -1)
        if self.adapter is not None:
            self.adapter.to(device)

    @torch.no_grad()
    def time(self, inputs: dict[str, Any]) -> tuple[float, float, int]:
        """Seconds that only the first call takes, seconds of a later call, peak bytes on the device."""
        made, leave = self._on()
        try:
            if self.device.type == "cuda":
                torch.cuda.reset_peak_memory_stats()
            kept: dict[str, Any] = {}

            def first_call() -> None:
                kept.update(made(inputs))
                self.unet(**kept)

            first = self._timed(first_call)
            step = self._timed(lambda: self.unet(**kept))
            peak = torch.cuda.max_memory_allocated() if self.device.type == "cuda" else 0
        finally:
            leave()
        return first - step, step, peak

    def _on(self) -> tuple[Callable[[dict[str, Any]], dict[str, Any]], Callable[[], None]]:
        """What makes a picture's inputs of the base's, once; and how to leave the UNet."""
        if self.adapter is None:
            return dict, lambda: None
        if self.name.startswith("plain"):
            return _plain_processors(self.unet, self.adapter, self.vectors.to(self.device))
        psa = attach(self.unet, self.adapter)
        return lambda inputs: for_users(psa, inputs, self.vectors), psa.unload

    def _timed(self, run: Callable[[], Any]) -> float:
        self._wait()
        started = time.perf_counter()
        run()
        self._wait()
        return time.perf_counter() - started

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


def for_users(psa: AttachedAdapter, inputs: dict[str, Any], vectors: torch.Tensor) -> dict[str, Any]:
    """Inputs of a call with guidance, rewritten for their users."""
    added = inputs.get("added_cond_kwargs") or {"text_embeds": None}
    negative, prompts = inputs["encoder_hidden_states"].chunk(2)
    plain, pooled = (None, None) if added["text_embeds"] is None else added["text_embeds"].chunk(2)
    text = psa.rewrite(prompts, vectors, pooled=pooled, negative=negative, negative_pooled=plain, recipe="benchmark")
    states = torch.cat([text["negative_prompt_embeds"], text["prompt_embeds"]])
    made = {**inputs, "encoder_hidden_states": states, "cross_attention_kwargs": text["cross_attention_kwargs"]}
    if pooled is not None:
        both = torch.cat([text["negative_pooled_prompt_embeds"], text["pooled_prompt_embeds"]])
        made["added_cond_kwargs"] = {**added, "text_embeds": both}
    return made


class PlainProcessor(nn.Module):
    """The published processor, plainly: text attention plus attention to the user's tokens, at every step."""

    def __init__(self, layer: Any, tokens: torch.Tensor) -> None:
        super().__init__()
        self.layer, self.tokens = layer, tokens

    def __call__(
        self, attn: Any, hidden: torch.Tensor, encoder_hidden_states: torch.Tensor, attention_mask: Any = None
    ) -> torch.Tensor:
        query, tokens = attn.to_q(hidden), self.tokens
        text = attend(attn, query, attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states))
        user = attend(attn, query, self.layer.to_k_user(tokens), self.layer.to_v_user(tokens))
        return attn.to_out[1](attn.to_out[0](text + user))


def attend(attn: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    q, k, v = (x.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def _plain_processors(
    unet: Any, adapter: PSAAdapter, vectors: torch.Tensor
) -> tuple[Callable[[dict[str, Any]], dict[str, Any]], Callable[[], None]]:
    before = dict(unet.attn_processors)
    vectors = torch.cat([torch.zeros_like(vectors), vectors])  # unconditional rows are the null user
    tokens = adapter.user_tokens(vectors).to(unet.dtype)
    adapter.layers.to(unet.dtype)
    layers = iter(adapter.layers)
    unet.set_attn_processor(
        {name: PlainProcessor(next(layers), tokens) if "attn2" in name else way for name, way in before.items()}
    )
    return dict, lambda: unet.set_attn_processor(before)


def make_unet(model: str, device: torch.device | str = "cpu") -> Any:
    """The UNet of a base model, full size; random weights, drawn on the device, except for mini's."""
    if model == "mini":
        return load_pipeline("mini").unet
    torch.manual_seed(0)
    with torch.device(device):
        return UNet2DConditionModel(**UNETS[model]).eval().requires_grad_(False)


def make_inputs(unet: Any, arguments: argparse.Namespace) -> dict[str, Any]:
    """Inputs of one call with guidance, [2 * users, ...]."""
    generator, rows = torch.Generator().manual_seed(0), 2 * arguments.users
    side = arguments.size // 8
    half = torch.randn((arguments.users, unet.config.in_channels, side, side), generator=generator)
    states = torch.randn((rows, 77, unet.config.cross_attention_dim), generator=generator)
    inputs: dict[str, Any] = {"sample": torch.cat([half, half]), "encoder_hidden_states": states}
    if unet.config.addition_embed_type == "text_time":
        pooled, times = torch.randn((rows, 1280), generator=generator), torch.full((rows, 6), float(arguments.size))
        inputs["added_cond_kwargs"] = {"text_embeds": pooled, "time_ids": times}
    return {**_moved(inputs, unet), "timestep": torch.tensor(500, device=unet.device)}


def _moved(inputs: dict[str, Any], unet: Any) -> dict[str, Any]:
    """Tensors, at any depth, in the device and dtype of the UNet."""
    return {
        name: _moved(value, unet) if isinstance(value, dict) else value.to(device=unet.device, dtype=unet.dtype)
        for name, value in inputs.items()
    }


def make_adapter(name: str, model: str, unet: Any, llm_dim: int) -> PSAAdapter:
    """An adapter with random weights: of a preset's shape, or as published."""
    shared = {"recipe": "benchmark", "base": model, "llm_dim": llm_dim, "context_dim": unet.config.cross_attention_dim}
    if name.startswith("prompt"):
        preset = load_preset("mini-quickstart" if model == "mini" else f"psa-{model}")
        shape = preset["prompt"]["adapter"] | {"pooled_dim": BASES[model].pooled_dim}
        adapter: PSAAdapter = PromptAdapter(**shared, **shape)
    else:
        tokens = int(name.rpartition("=")[2])
        adapter = PublishedAdapter(**shared, n_tokens=tokens, widths=cross_attention_widths(unet))
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in adapter.parameters():
            weight.normal_(std=0.02, generator=generator)
    return adapter.eval().requires_grad_(False)


def _figures(
    name: str, seconds: dict[str, list[float]], once: dict[str, list[float]], memory: dict[str, int], adapter_bytes: int
) -> dict[str, Any]:
    base = seconds["base"]
    ratios = sorted(a / b for a, b in zip(seconds[name], base, strict=True))
    low, high = ratios[len(ratios) // 10], ratios[-1 - len(ratios) // 10]
    figure = {"ratio": statistics.median(ratios), "p10": low, "p90": high}
    figure["once"] = statistics.median(a / b for a, b in zip(once[name], base, strict=True))
    rounded: dict[str, Any] = {key: round(value, 4) for key, value in figure.items()}
    return {**rounded, "adapter_fp16_bytes": adapter_bytes, "peak_bytes": memory[name] or None}


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name() if device.type == "cuda" else f"{platform.machine()} CPU"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("mini", *UNETS), default="mini")
    parser.add_argument("--size", type=int, help="of pictures in pixels (default: the base model's own)")
    parser.add_argument("--users", type=int, default=1, help="pictures; the UNet sees twice as many rows (guidance)")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--variants", nargs="+", choices=VARIANTS, default=list(VARIANTS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="fp32")
    parser.add_argument("--compile", action="store_true", help="torch.compile the UNet")
    arguments = parser.parse_args()
    arguments.size = arguments.size or BASES[arguments.model].size_px
    arguments.variants = list(dict.fromkeys(["base", *arguments.variants]))
    return arguments


if __name__ == "__main__":
    main()
