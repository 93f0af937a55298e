"""Pictures a second of CLIPScore and Q16: batched, as `psalign eval run` does it, against one picture at a time.

    python benchmarks/evaluation.py [--models mini vit-b-32] [--pictures 32] [--rounds 2] [--device cuda]

The loop reads a picture, prepares it, runs the same network on it and its prompt, and goes on to the next. Ours reads
pictures in threads while the network computes, a batch at a time, and keeps what it saw, by the digest of each file:
`cold` is with an empty cache, `warm` is a second run over the same pictures. All are interleaved in one process after a
warm-up. mini is the shipped text-image model on its drawings (64 px); vit-b-32 a CLIP ViT-B/32 with random weights on
pictures of 512 px: time does not depend on what weights say. Writes benchmarks/results/evaluation-<device>.json.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from psalign.evaluation.metrics.clip_model import ClipModel
from psalign.evaluation.metrics.clip_score import clip_scores
from psalign.evaluation.metrics.q16 import Q16, q16_scores
from psalign.evaluation.pictures import Pictures, open_pictures
from psalign.files import write_json, write_jsonl
from psalign.fingerprints import versions
from psalign.mini import world
from psalign.mini.clip import clip_folder, load_clip
from psalign.records import ManifestRow

SIZES_PX = {"mini": 64, "vit-b-32": 512}
PREPROCESSING = {"image_processor_type": "CLIPImageProcessor"}  # CLIP's own values
BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=list(SIZES_PX), default=list(SIZES_PX))
    parser.add_argument("--pictures", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    found: dict[str, Any] = {}
    load = os.getloadavg()[0]
    if load > torch.get_num_threads():
        print(f"The machine is busy (load {load:.1f}): these numbers say little.", file=sys.stderr)
    with tempfile.TemporaryDirectory() as folder:
        for name in arguments.models:
            found[name] = _compare(name, Path(folder) / name, arguments)
    record = {
        "command": f"python benchmarks/evaluation.py {' '.join(sys.argv[1:])}".strip(),
        "pictures": arguments.pictures,
        "rounds": arguments.rounds,
        "batch": BATCH,
        "device": _device(arguments.device),
        "threads": torch.get_num_threads(),
        "load_at_start": round(load, 1),
        **versions(),
        "models": found,
    }
    write_json(Path(__file__).parent / "results" / f"evaluation-{arguments.device.split(':')[0]}.json", record)


def _compare(name: str, folder: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    """Both metrics with one model: pictures a second of each way, and the ratios to the loop."""
    pictures = _draw(folder / "pictures", arguments.pictures, SIZES_PX[name])
    clip = ClipModel(str(clip_folder()) if name == "mini" else _vit_b_32(folder / "model"), device=arguments.device)
    width = clip.encode_image([clip.prepare(np.zeros((64, 64, 3), np.uint8))]).shape[1]
    vectors = np.random.default_rng(0).normal(size=(2, width)).astype(np.float32)
    q16 = Q16(clip, vectors, "random")
    ways: dict[str, dict[str, Callable[[Path], Any]]] = {
        "clip": {
            "loop": lambda _: _loop_clip(pictures, clip),
            "ours": lambda cache: [
                match.score
                for match in clip_scores(open_pictures(pictures.folder), clip, cache=cache, batch_size=BATCH)
            ],
        },
        "q16": {
            "loop": lambda _: _loop_q16(pictures, q16),
            "ours": lambda cache: q16_scores(open_pictures(pictures.folder), q16, cache=cache, batch_size=BATCH),
        },
    }
    return {metric: _time(f"{name} {metric}", pair, folder, arguments) for metric, pair in ways.items()}


def _time(
    name: str, ways: dict[str, Callable[[Path], Any]], folder: Path, arguments: argparse.Namespace
) -> dict[str, Any]:
    seconds: dict[str, list[float]] = {"loop": [], "cold": [], "warm": []}
    for number in range(arguments.rounds + 1):
        cache = folder / f"cache-{name}-{number}"
        values = {}
        for way in ("loop", "cold", "warm"):
            started = time.perf_counter()
            values[way] = np.array(ways["loop" if way == "loop" else "ours"](cache))
            if number:  # the first round warms up
                seconds[way].append(time.perf_counter() - started)
        for way in ("cold", "warm"):
            np.testing.assert_allclose(values[way], values["loop"], atol=1e-2)
    found: dict[str, Any] = {}
    for way in seconds:
        found[f"{way}_pictures_per_s"] = round(arguments.pictures / statistics.median(seconds[way]), 2)
    for way in ("cold", "warm"):
        ratios = [loop / ours for loop, ours in zip(seconds["loop"], seconds[way], strict=True)]
        found |= {f"{way}_ratio": round(statistics.median(ratios), 2)}
        found |= {f"{way}_ratios": [round(ratio, 2) for ratio in ratios]}
    print(f"{name}: {found['cold_ratio']} times as fast as the loop, {found['warm_ratio']} from the cache")
    return found


@torch.no_grad()
def _loop_clip(pictures: Pictures, clip: ClipModel) -> list[float]:
    network, tokenizer, processor = clip._parts
    scores = []
    for path, row in zip(pictures.paths, pictures.rows, strict=True):
        pixels = processor(images=Image.open(path).convert("RGB"), return_tensors="pt").to(clip.device)
        text = tokenizer(row.prompt, return_tensors="pt", truncation=True).to(clip.device)
        seen = network.get_image_features(**pixels).pooler_output
        told = network.get_text_features(input_ids=text["input_ids"]).pooler_output
        scores.append(100 * torch.nn.functional.cosine_similarity(seen, told).item())
    return scores


@torch.no_grad()
def _loop_q16(pictures: Pictures, q16: Q16) -> list[list[float]]:
    network, _, processor = q16.clip._parts
    vectors = torch.from_numpy(q16.vectors).to(q16.clip.device)
    scores = []
    for path in pictures.paths:
        pixels = processor(images=Image.open(path).convert("RGB"), return_tensors="pt").to(q16.clip.device)
        seen = network.get_image_features(**pixels).pooler_output
        scores.append((100 * torch.nn.functional.cosine_similarity(seen, vectors)).tolist())
    return scores


def _draw(folder: Path, count: int, size_px: int) -> Pictures:
    rng, rows = np.random.default_rng(0), []
    folder.mkdir(parents=True)
    for number in range(count):
        scene = world.sample_scene(rng)
        rows.append(ManifestRow(f"{number:05}.png", world.sample_caption(scene, rng), number, "base", "mini"))
        Image.fromarray(world.draw(scene, seed=number)).resize((size_px, size_px)).save(folder / rows[-1].file_name)
    write_jsonl(folder / "manifest.jsonl", rows)
    return open_pictures(folder)


def _vit_b_32(folder: Path) -> str:
    """CLIP's own default shape, with the mini tokenizer's vocabulary."""
    tokenizer = load_clip().tokenizer
    ends = {name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")}
    torch.manual_seed(0)
    CLIPModel(CLIPConfig(text_config={"vocab_size": len(tokenizer), **ends})).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    write_json(folder / "preprocessor_config.json", PREPROCESSING)
    return str(folder)


def _device(name: str) -> str:
    return torch.cuda.get_device_name(name) if name.startswith("cuda") else f"{platform.machine()} CPU"


if __name__ == "__main__":
    main()
