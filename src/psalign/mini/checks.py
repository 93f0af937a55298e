"""What the shipped mini models can do, counted on fresh drawings and held-out captions.

Place on the path of data: beside mini/base.py and mini/detector.py; `psalign mini check` prints it.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from . import world
from .base import psnr_db, reconstruct
from .clip import MiniClip, one_wrong, tell
from .detector import Detector

Count = tuple[int, int]  # right, of


def check_autoencoder(pipeline: Any, *, n: int = 500, seed: int = 90) -> float:
    """Mean PSNR in dB on fresh drawings."""
    pictures, _ = _drawings(n, seed)
    return psnr_db(pictures, reconstruct(pipeline.vae, pictures))


def check_detector(detector: Detector, pipeline: Any, *, n: int = 1000, seed: int = 91) -> dict[str, Count]:
    """Pictures of which all (motifs, categories, subject and colour) is right: fresh, faded or cut, and reconstructed.

    "motifs" counts single decisions, one per motif and picture; faded: 30 % opacity and more, or at least 40 % shown.
    """
    rng = np.random.default_rng(seed)
    plain, scenes = _drawings(n, seed)
    faded = np.stack([_faded(scene, rng) for scene in scenes])
    sets = {"fresh drawings": plain, "faded or cut motifs": faded, "reconstructions": reconstruct(pipeline.vae, plain)}
    counts: dict[str, Count] = {}
    for name, pictures in sets.items():
        seen = [verdict for i in range(0, n, 100) for verdict in detector(pictures[i : i + 100])]
        motifs = [set(v.motifs) == set(s.motifs) for v, s in zip(seen, scenes, strict=True)]
        subject = [v.subject == s.subject for v, s in zip(seen, scenes, strict=True)]
        colour = [v.colour == s.colour for v, s in zip(seen, scenes, strict=True)]
        for what, right in (("motifs", motifs), ("subject", subject), ("colour", colour)):
            counts[f"{name}: {what}"] = (sum(right), n)
    return counts


def check_base(
    pipeline: Any, detector: Detector, *, n: int = 1000, seed: int = 92, steps: int = 15, guidance: float = 4.0
) -> dict[str, Count]:
    """The base on n captions of held-out combinations: motifs asked for, the subject, its colour, and motifs unasked.

    "motif": each motif asked for is one case. "unasked": pictures with a motif nobody asked for.
    """
    rng = np.random.default_rng(seed)
    wordings = world.WORDINGS + world.HELD_OUT_WORDINGS
    scenes = [world.sample_scene(rng, held_out=True) for _ in range(n)]
    texts = [
        world.caption(s, wordings[rng.integers(len(wordings))], kinds=rng.choice(3, 2, p=(0.5, 0.3, 0.2)).tolist())
        for s in scenes
    ]
    verdicts = []
    for start in range(0, n, 100):
        part = texts[start : start + 100]
        generators = [torch.Generator().manual_seed(seed * n + start + i) for i in range(len(part))]
        images = pipeline(
            part, num_inference_steps=steps, guidance_scale=guidance, generator=generators, output_type="np"
        ).images
        verdicts += detector((images * 255).round().astype(np.uint8))
    pairs = list(zip(verdicts, scenes, strict=True))
    asked = [motif in v.motifs for v, s in pairs for motif in s.motifs]
    one = [s.motifs[0] in v.motifs for v, s in pairs if len(s.motifs) == 1]
    return {
        "motif": (sum(asked), len(asked)),
        "motif, one asked": (sum(one), len(one)),
        "subject": (sum(v.subject == s.subject for v, s in pairs), n),
        "subject and colour": (sum((v.subject, v.colour) == (s.subject, s.colour) for v, s in pairs), n),
        "unasked": (sum(bool(v.motifs - set(s.motifs)) for v, s in pairs), n),
    }


def check_clip(clip: MiniClip, pipeline: Any, *, n: int = 640, seed: int = 93) -> dict[str, Count]:
    """The text-image model on fresh drawings and on reconstructions.

    "caption of 64": the right caption scores highest among those of 64 drawings. "above a wrong motif" (subject,
    colour, background, side): it scores higher than the same caption with that one thing wrong.
    """
    rng = np.random.default_rng(seed)
    plain, scenes = _drawings(n, seed)
    counts: dict[str, Count] = {}
    for name, pictures in {"drawings": plain, "reconstructions": reconstruct(pipeline.vae, plain)}.items():
        right = [tell(scene, rng) for scene in scenes]
        own, found = np.zeros(n), np.zeros(n, bool)
        for start in range(0, n, 64):
            scores = clip.scores(pictures[start : start + 64], right[start : start + 64])
            own[start : start + 64] = scores.diagonal()
            found[start : start + 64] = scores.argmax(1) == np.arange(len(scores))
        counts[f"{name}: caption of 64"] = (int(found.sum()), n)
        for what in ("motif", "subject", "colour", "background", "side"):
            wrong = [tell(one_wrong(scene, rng, what), rng) for scene in scenes]
            parts = [slice(start, start + 64) for start in range(0, n, 64)]
            other = np.concatenate([clip.scores(pictures[part], wrong[part]).diagonal() for part in parts])
            counts[f"{name}: above a wrong {what}"] = (int((own > other).sum()), n)
    return counts


def _drawings(n: int, seed: int) -> tuple[np.ndarray, list[world.Scene]]:
    rng = np.random.default_rng(seed)
    scenes = [world.sample_scene(rng, held_out=None) for _ in range(n)]
    return np.stack([world.draw(scene, seed=int(rng.integers(2**31))) for scene in scenes]), scenes


def _faded(scene: world.Scene, rng: np.random.Generator) -> np.ndarray:
    faint = rng.random() < 0.5
    return world.draw(
        scene,
        seed=int(rng.integers(2**31)),
        opacity=rng.uniform(0.3, 1.0) if faint else 1.0,
        shown=1.0 if faint else rng.uniform(0.4, 1.0),
    )
