"""What a training step costs: ours against the published procedure written down plainly, interleaved in one run.

    python benchmarks/training.py --model mini|sd15|sdxl [--size 256] [--device cuda --dtype bf16] [--checkpointing]

A round is one step of every variant, and one forward pass of the UNet on the two pictures of --pairs pairs without
gradients: the unit. Seconds are those of --pairs pairs; a step on captions takes more of them. The floor of a step of
Diffusion-DPO is 3 units: policy forward, reference forward, and the backward pass to activations. `published
procedure`: two UNets, user tokens in every cross-attention through attention processors, and the VAE and the text
encoder in every step. Full-size models with random weights: time and memory do not depend on what weights say. Memory
is the most a process of its own holds in three steps of one variant (on a GPU: has allocated). Writes
benchmarks/results/training-<model>-<device>-<size>.json.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import cached_property, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from captions import random_cross_attentions
from diffusers import AutoencoderKL
from inference import UNETS, PlainProcessor, attend, make_unet
from torch.nn import functional as F
from transformers import CLIPTextConfig, CLIPTextModel

from psalign.adapter.adapter import PSAAdapter, cross_attention_widths
from psalign.adapter.attach import attach
from psalign.adapter.prompt import PromptAdapter
from psalign.adapter.published import PublishedAdapter
from psalign.config import load_preset
from psalign.diffusion.base_models import BASES, load_pipeline
from psalign.diffusion.reader import Reader, random_pools
from psalign.files import write_json
from psalign.fingerprints import versions
from psalign.sage.cache.store import Rows
from psalign.sage.cache.texts import TextCache
from psalign.sage.caption_rows import CaptionRow
from psalign.training.caption_objective import CaptionObjective
from psalign.training.captions import Captions, CaptionTexts
from psalign.training.config import TrainingConfig
from psalign.training.objective import Objective
from psalign.training.pairs import Pairs, ban_codes
from psalign.training.run import training_config
from psalign.training.trainer import Trainer, peak_memory_mb

BETA = 1000.0
VARIANTS = {
    "published procedure": {},
    "published, one UNet, cached": {"kind": "published", "anchor_weight": 0.0},
    "prompt, DPO": {"kind": "prompt", "anchor_weight": 0.0},
    "prompt, DPO, reference kept": {"kind": "prompt", "anchor_weight": 0.0, "reference_draws": 1},
    "prompt, anchor caption": {"kind": "prompt", "dpo_weight": 0.0, "anchor": "caption"},
}
# Pairs of a step; None: the preset's.
ON_CAPTIONS = {"prompt, captions": None, "prompt, captions, 128 pairs": 128, "prompt, captions, 512 pairs": 512}
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}
ROWS = 8  # of the dataset, and users
CAPTIONS = 1024
WARM_UP = 1  # rounds that are not counted


def main() -> None:
    arguments = _arguments()
    if arguments.memory_of:
        print(json.dumps(_memory(arguments.memory_of, arguments)))
        return
    names = (*VARIANTS, *ON_CAPTIONS)
    with ThreadPoolExecutor(arguments.memory_at_once) as pool:  # before this process holds models too
        memory = dict(zip(names, pool.map(partial(_memory_apart, arguments=arguments), names), strict=True))
    parts = Parts(arguments)
    ways = {name: make_way(name, parts, arguments) for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in (*ways, "unit")}
    for number in range(arguments.rounds + WARM_UP):
        for name, way in (*ways.items(), ("unit", Unit(parts, arguments))):
            taken = parts.timed(way.step) * arguments.pairs / way.pairs
            print(f"round {number}, {name}: {taken:.1f} s", file=sys.stderr)
            if number >= WARM_UP:
                seconds[name].append(taken)
    figures = {name: _figures(name, seconds, memory) for name in ways}
    for name, figure in figures.items():
        units = f"{figure['units']:.2f} units [{figure['units_p10']:.2f}, {figure['units_p90']:.2f}]"
        memory_told = f"{figure['memory_mb']:,.0f} MB  {figure['memory']:.2f} x memory"
        print(f"{name:28} {units}  {figure['speed']:.2f} x samples/s  {memory_told}")
    record = {"model": arguments.model, "size_px": arguments.size, "pairs": arguments.pairs, "rounds": arguments.rounds}
    record |= {"dtype": arguments.dtype, "checkpointing": arguments.checkpointing, "device": _device_name(arguments)}
    record |= {"threads": torch.get_num_threads(), **versions(), "variants": figures}
    name = f"training-{arguments.model}-{arguments.device}-{arguments.size}.json"
    write_json(Path(__file__).parent / "results" / name, record)


class Parts:
    """Base model and data: pixels and token ids for the published procedure, latents and text states for ours."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.device, self.dtype = torch.device(arguments.device), DTYPES[arguments.dtype]
        self.model, self.pairs = arguments.model, arguments.pairs
        self.llm_dim = 64 if arguments.model == "mini" else 3584
        self.has_checkpointing = arguments.checkpointing
        generator, side = torch.Generator().manual_seed(0), arguments.size // 8
        self.tokens = 40 if arguments.model == "mini" else 77
        self.pixels = torch.rand((2 * ROWS, 3, arguments.size, arguments.size), generator=generator) * 2 - 1
        self.ids = torch.randint(5, 200, (ROWS, self.tokens), generator=generator)
        means = torch.randn((2 * ROWS, 16 if self.model == "mini" else 4, side, side), generator=generator).half()
        states = torch.randn((ROWS + 1, self.tokens, BASES[self.model].context_dim), generator=generator).half()
        texts = {"states": states}
        sizes = torch.full((2 * ROWS, 6), arguments.size, dtype=torch.int32)
        if BASES[arguments.model].pooled_dim:
            texts["pooled"] = torch.randn((ROWS + 1, BASES[arguments.model].pooled_dim), generator=generator).half()
        self.latents = Rows.of(means=means, stds=torch.full_like(means, 0.1), sizes=sizes)
        self.texts = Rows.of(**texts)
        self.vectors = torch.randn((ROWS, self.llm_dim), generator=generator)

    @cached_property
    def unet(self) -> Any:
        unet = make_unet(self.model, self.device).to(self.device, self.dtype)
        if self.has_checkpointing:
            unet.enable_gradient_checkpointing()
        return unet

    def timed(self, step: Any) -> float:
        self._wait()
        started = time.perf_counter()
        step()
        self._wait()
        return time.perf_counter() - started

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize()


class Unit:
    """One forward pass over both pictures of the pairs, without gradients."""

    def __init__(self, parts: Parts, arguments: argparse.Namespace) -> None:
        self.parts, self.pairs, self.rows = parts, arguments.pairs, 2 * arguments.pairs

    @torch.no_grad()
    def step(self) -> None:
        parts, rows = self.parts, [n % ROWS for n in range(self.rows)]
        move = {"device": parts.device, "dtype": parts.dtype}
        noisy, states = parts.latents.read("means", rows).to(**move), parts.texts.read("states", rows).to(**move)
        parts.unet(noisy, torch.full((len(rows),), 500, device=parts.device), states, **_added(parts, rows))


class Ours:
    """A step of the trainer, from cached latents and states."""

    def __init__(self, name: str, parts: Parts, arguments: argparse.Namespace) -> None:
        how = {**VARIANTS[name]}
        kind = how.pop("kind")
        self.attached = attach(parts.unet, make_adapter(kind, parts))
        config = TrainingConfig(
            steps=1000, batch_size=arguments.pairs, lr=1e-5, beta=BETA, caption_dropout=0.0, user_dropout=0.0,
            validation_pairs=0, **how,
        )  # fmt: skip
        objective = Objective.of(self.attached, config, Schedule())
        self.trainer = Trainer(objective, make_pairs(parts), config, Path(tempfile.mkdtemp()), data="benchmark")
        self.leave()
        self.parts = parts

    def step(self) -> None:
        self.trainer._take_step()

    def leave(self) -> None:
        self.attached.unload()


class Attaching:
    """A variant of ours that is on the UNet for its own steps alone: variants share one UNet."""

    def __init__(self, ours: Ours) -> None:
        self.ours, self.kept, self.pairs = ours, bool(ours.trainer.reference), ours.trainer.pairs_per_step
        if self.kept:  # its reference errors are known after the first epoch
            self._on()
            for _ in range(-(-ROWS // ours.trainer.pairs_per_step)):
                ours.step()
            self.ours.leave()

    def step(self) -> None:
        self._on()
        self.ours.step()
        self.ours.leave()

    def _on(self) -> None:
        self.ours.attached = attach(self.ours.parts.unet, self.ours.trainer.trained)
        self.ours.trainer.objective.attached = self.ours.attached


class OnCaptions:
    """A step of the trainer on captions, from cached text states, beside the UNet's cross-attentions alone."""

    def __init__(self, parts: Parts, pairs: int | None) -> None:
        preset = load_preset("mini-quickstart" if parts.model == "mini" else f"psa-{parts.model}")
        config = replace(training_config(preset, "prompt"), validation_pairs=0)
        config = replace(config, batch_size=pairs or config.batch_size)
        unet = random_cross_attentions(parts.model, parts.dtype).to(parts.device)
        reader = Reader(unet, random_pools(unet, seed=0))
        size = BASES[parts.model].size_px
        objective = CaptionObjective(make_adapter("prompt", parts), reader, config, size_px=size)
        data = {"rows": "benchmark"}
        self.trainer = Trainer(objective, make_captions(parts), config, Path(tempfile.mkdtemp()), data=data)
        self.pairs = config.batch_size

    def step(self) -> None:
        self.trainer._take_step()


class PublishedProcedure:
    """Two UNets; pixels through the VAE and captions through the text encoder in every step; AdamW."""

    def __init__(self, parts: Parts, arguments: argparse.Namespace) -> None:
        self.parts, self.pairs, self.number = parts, arguments.pairs, 0
        self.policy, self.reference = parts.unet, copy.deepcopy(parts.unet)
        self.before = dict(self.policy.attn_processors)
        self.vae, self.text = _encoders(parts)
        self.adapter = make_adapter("published", parts)
        self.optimizer = torch.optim.AdamW(self.adapter.parameters(), lr=5e-6, weight_decay=0.01)
        self.alphas = Schedule.alphas_cumprod.to(parts.device)
        self.generator = torch.Generator().manual_seed(3)

    def step(self) -> None:
        parts = self.parts
        rows = [(self.number * self.pairs + n) % ROWS for n in range(self.pairs)]
        self.number += 1
        with torch.no_grad():
            pixels = torch.cat([parts.pixels[rows], parts.pixels[[ROWS + n for n in rows]]])
            latents = self.vae.encode(pixels.to(parts.device, parts.dtype)).latent_dist.sample() * 0.18215
            states = self._states(rows)
        noise = torch.randn((len(rows), *latents.shape[1:]), generator=self.generator).to(latents).repeat(2, 1, 1, 1)
        times = torch.randint(0, 1000, (len(rows),), generator=self.generator).to(parts.device).repeat(2)
        alpha = self.alphas[times].view(-1, 1, 1, 1)
        noisy = (alpha.sqrt() * latents + (1 - alpha).sqrt() * noise).to(parts.dtype)
        added = _added(parts, rows + rows)
        tokens = self.adapter.user_tokens(parts.vectors[rows].to(parts.device)).repeat(2, 1, 1)
        self._steer(tokens)
        errors = self._errors(self.policy(noisy, times, states, **added).sample, noise)
        with torch.no_grad():
            reference = self._errors(self.reference(noisy, times, states, **added).sample, noise)
        margin = (reference[0] - reference[1]) - (errors[0] - errors[1])
        (-F.logsigmoid(BETA / 2 * margin).mean()).backward()
        torch.nn.utils.clip_grad_norm_(self.adapter.parameters(), 1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        self.policy.set_attn_processor(dict(self.before))

    def _states(self, rows: list[int]) -> torch.Tensor:
        states = [encoder(self.parts.ids[rows].to(self.parts.device)).last_hidden_state for encoder in self.text]
        return torch.cat(states, dim=-1).repeat(2, 1, 1)

    def _steer(self, tokens: torch.Tensor) -> None:
        """Processors of this step's users on the UNet, which the other variants share."""
        layers = iter(self.adapter.layers)
        ways = {
            name: CastProcessor(next(layers), tokens) if "attn2" in name else way for name, way in self.before.items()
        }
        self.policy.set_attn_processor(ways)

    def _errors(self, predicted: torch.Tensor, noise: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        chosen, rejected = (predicted.float() - noise.float()).square().flatten(1).mean(1).chunk(2)
        return chosen, rejected


class CastProcessor(PlainProcessor):
    """The published processor with float32 keys and values under attention in the UNet's precision."""

    def __call__(
        self, attn: Any, hidden: torch.Tensor, encoder_hidden_states: torch.Tensor, attention_mask: Any = None
    ) -> torch.Tensor:
        query = attn.to_q(hidden)
        text = attend(attn, query, attn.to_k(encoder_hidden_states), attn.to_v(encoder_hidden_states))
        keys, values = (to(self.tokens).to(query.dtype) for to in (self.layer.to_k_user, self.layer.to_v_user))
        return attn.to_out[1](attn.to_out[0](text + attend(attn, query, keys, values)))


class Schedule:
    """The noise schedule of Stable Diffusion."""

    alphas_cumprod = (1 - torch.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2).cumprod(0)


def make_way(name: str, parts: Parts, arguments: argparse.Namespace) -> Any:
    if name == "published procedure":
        return PublishedProcedure(parts, arguments)
    if name in ON_CAPTIONS:
        return OnCaptions(parts, ON_CAPTIONS[name])
    return Attaching(Ours(name, parts, arguments))


def make_adapter(kind: str, parts: Parts) -> PSAAdapter:
    torch.manual_seed(1)
    shared = {"recipe": "benchmark", "base": parts.model, "llm_dim": parts.llm_dim}
    shared |= {"context_dim": BASES[parts.model].context_dim}
    if kind == "published":
        return PublishedAdapter(**shared, n_tokens=1, widths=cross_attention_widths(parts.unet)).to(parts.device)
    preset = load_preset("mini-quickstart" if parts.model == "mini" else f"psa-{parts.model}")
    shape = preset["prompt"]["adapter"] | {"pooled_dim": BASES[parts.model].pooled_dim}
    return PromptAdapter(**shared, **shape).to(parts.device)


def make_pairs(parts: Parts) -> Pairs:
    """ROWS rows, all of them told by another caption than their chosen picture, which is the dearest case."""
    numbers = torch.arange(ROWS)
    pairs = Pairs.__new__(Pairs)
    pairs.cache = MemoryCache(parts)  # type: ignore[assignment]
    pairs.vectors, pairs.rows = parts.vectors, []
    pairs.bans, pairs.is_known = ban_codes([("Hate",)] * ROWS)
    columns = [numbers, numbers + ROWS, numbers, (numbers + 1) % ROWS, numbers, numbers % 7, torch.zeros_like(numbers)]
    pairs.table = torch.stack(columns, dim=1).numpy()
    return pairs


def make_captions(parts: Parts) -> Captions:
    """CAPTIONS rows; the chosen caption of every other one is another, of which a few tokens differ."""
    generator, pooled_dim = torch.Generator().manual_seed(0), BASES[parts.model].pooled_dim
    shape = (CAPTIONS + 1, parts.tokens)
    states = {"states": torch.randn((*shape, BASES[parts.model].context_dim), generator=generator).half()}
    if pooled_dim:
        states["pooled"] = torch.randn((CAPTIONS + 1, pooled_dim), generator=generator).half()
    names = [f"caption {number}" for number in range(CAPTIONS)]
    texts = TextCache("benchmark", Rows.of(**states), {name: number for number, name in enumerate([*names, ""])})
    rows = [
        CaptionRow(caption=name, chosen_caption=names[number ^ 1] if number % 2 else name,
                   user_id=f"{number % ROWS:07d}", side="banned" if number % 2 else "safe")
        for number, name in enumerate(names)
    ]  # fmt: skip
    users = SimpleNamespace(
        width=parts.llm_dim, vectors=lambda ids, exact: parts.vectors[: len(ids)].numpy(), banned=lambda _: ("Hate",)
    )
    tokens = np.random.default_rng(0).integers(12, size=shape)
    return Captions(rows, CaptionTexts(texts, tokens), users)  # type: ignore[arg-type]


class MemoryCache:
    variants = ("plain",)

    def __init__(self, parts: Parts) -> None:
        self.latents, self.texts, self.empty = parts.latents, parts.texts, ROWS

    def rows_of(self, pictures: Any, *, flipped: Any, degraded: Any) -> Any:
        return pictures


def _encoders(parts: Parts) -> tuple[Any, list[Any]]:
    """VAE and text encoders of full size; mini's own."""
    place = {"device": parts.device, "dtype": parts.dtype}
    if parts.model == "mini":
        pipeline = load_pipeline("mini")
        return pipeline.vae.to(**place), [pipeline.text_encoder.to(**place)]
    blocks = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    with torch.device(parts.device):
        vae = AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, latent_channels=4, **blocks)
    large = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
    huge = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
    sizes = [large, huge] if parts.model == "sdxl" else [large]
    with torch.device(parts.device):
        texts = [CLIPTextModel(CLIPTextConfig(**size)).eval().requires_grad_(False).to(**place) for size in sizes]
    return vae.eval().requires_grad_(False).to(**place), texts


def _added(parts: Parts, rows: list[int]) -> dict[str, Any]:
    if "pooled" not in parts.texts.names():
        return {}
    pooled = parts.texts.read("pooled", rows).to(parts.device, parts.dtype)
    times = parts.latents.read("sizes", rows).to(parts.device, parts.dtype)
    return {"added_cond_kwargs": {"text_embeds": pooled, "time_ids": times}}


def _memory(name: str, arguments: argparse.Namespace) -> float:
    """Peak MB of three steps of one variant; for a process of its own."""
    parts = Parts(arguments)
    way = make_way(name, parts, arguments)
    for _ in range(3):
        way.step()
    return peak_memory_mb(parts.device)


def _memory_apart(name: str, arguments: argparse.Namespace) -> float:
    command = [sys.executable, __file__, "--memory-of", name, "--model", arguments.model, "--size", str(arguments.size)]
    command += ["--pairs", str(arguments.pairs), "--device", arguments.device, "--dtype", arguments.dtype]
    command += ["--checkpointing"] * arguments.checkpointing
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(json.loads(done.stdout.strip().splitlines()[-1]))


def _figures(name: str, seconds: dict[str, list[float]], memory: dict[str, float]) -> dict[str, float]:
    units = sorted(a / b for a, b in zip(seconds[name], seconds["unit"], strict=True))
    speed = [b / a for a, b in zip(seconds[name], seconds["published procedure"], strict=True)]
    tenth = len(units) // 10
    return {
        "units": round(statistics.median(units), 3),
        "units_p10": round(units[tenth], 3),
        "units_p90": round(units[-1 - tenth], 3),
        "speed": round(statistics.median(speed), 3),
        "memory_mb": memory[name],
        "memory": round(memory[name] / memory["published procedure"], 3),
    }


def _device_name(arguments: argparse.Namespace) -> str:
    return torch.cuda.get_device_name() if arguments.device == "cuda" else f"{platform.machine()} CPU"


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=("mini", *UNETS), default="mini")
    parser.add_argument("--size", type=int, help="of pictures in pixels (default: the base model's own)")
    parser.add_argument("--pairs", type=int, default=1, help="of a step")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="fp32")
    parser.add_argument("--checkpointing", action="store_true")
    parser.add_argument("--memory-at-once", type=int, default=1, help="processes that measure memory, side by side")
    parser.add_argument("--memory-of", choices=(*VARIANTS, *ON_CAPTIONS), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.size = arguments.size or BASES[arguments.model].size_px
    return arguments


if __name__ == "__main__":
    main()
