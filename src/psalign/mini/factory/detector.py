"""Trains the judge of mini pictures (mini/detector.py).

Place on the path of data: makes weights/detector, which numbers about mini pictures come from (step 7).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import save
from torch.nn import functional as F

from ...files import write_bytes
from ...fingerprints import weights_fingerprint
from .. import world
from ..detector import COLOUR_NAMES, WEIGHTS, Detector, load_detector
from ..pixels import to_pixels
from ..shapes import MOTIFS, SUBJECTS
from .drawings import Drawings, some_through_autoencoder
from .stages import Stage, write_record

if TYPE_CHECKING:
    from diffusers import AutoencoderKL


@dataclass(frozen=True)
class DetectorConfig:
    """Budget of the detector.

    faded: share of pictures whose motifs are faint or cut. through: share of pictures that went through the
    autoencoder, half of these with noise on their latents, as a drawing model would leave it.
    """

    seed: int = 5
    pictures: int = 12_000
    steps: int = 2_500
    batch: int = 64
    lr: float = 2e-3
    faded: float = 0.4
    through: float = 0.5
    latent_noise: float = 0.25


def train_detector(folder: Path, autoencoder: AutoencoderKL, config: DetectorConfig, *, work: Path) -> Detector:
    """Train the detector and write it to folder in fp16, with its record.

    work: keeps the checkpoint to resume from.
    """
    torch.manual_seed(config.seed)
    drawings = _draw_examples(config, autoencoder)
    motifs_shown, subjects, colours = labels(drawings.scenes)
    detector = Detector()

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(drawings), (config.batch,), generator=generator)
        pixels = to_pixels(drawings.pictures[rows.numpy()])
        strength = 0.1 * torch.rand((len(rows), 1, 1, 1), generator=generator)
        pixels = (pixels + strength * torch.randn(pixels.shape, generator=generator)).clamp(-1, 1)
        motifs, subject, colour = detector.forward(pixels)
        seen = F.binary_cross_entropy_with_logits(motifs, motifs_shown[rows]) * 10
        return seen + F.cross_entropy(subject, subjects[rows]) + F.cross_entropy(colour, colours[rows])

    stage = Stage(
        "detector",
        {"model": detector},
        steps=config.steps,
        lr=config.lr,
        seed=config.seed,
        made_of=(asdict(config), weights_fingerprint({"": autoencoder})),
    )
    seconds = stage.run(loss, work=work)
    weights = {name: value.half().contiguous() for name, value in detector.state_dict().items()}
    write_bytes(folder / WEIGHTS, save(weights))
    write_record(folder, "train-detector", config, round(seconds))
    return load_detector(folder)


def labels(scenes: list[world.Scene]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Motifs of scenes as 0 and 1, float [P, M]; numbers of their subjects and colours, int [P] each."""
    motifs = torch.tensor([[float(name in scene.motifs) for name in MOTIFS] for scene in scenes])
    subject = torch.tensor([SUBJECTS.index(scene.subject) for scene in scenes])
    colour = torch.tensor([COLOUR_NAMES.index(scene.colour) for scene in scenes])
    return motifs, subject, colour


def _draw_examples(config: DetectorConfig, autoencoder: AutoencoderKL) -> Drawings:
    """Drawings of any scene, some faded or cut, some through the autoencoder."""
    rng = np.random.default_rng(config.seed)
    scenes = [world.sample_scene(rng, held_out=None) for _ in range(config.pictures)]
    pictures = np.stack([_draw(scene, rng, faded=rng.random() < config.faded) for scene in scenes])
    some_through_autoencoder(
        autoencoder, pictures, rng, share=config.through, noise=config.latent_noise, seed=config.seed
    )
    return Drawings(scenes, pictures)


def _draw(scene: world.Scene, rng: np.random.Generator, *, faded: bool) -> np.ndarray:
    """A drawing; a faded one is faint (30 to 100 %), cut (40 to 100 % shown), or both."""
    opacity = rng.uniform(0.3, 1.0) if faded else 1.0
    shown = rng.uniform(0.4, 1.0) if faded and rng.random() < 0.5 else 1.0
    return world.draw(scene, seed=int(rng.integers(2**31)), opacity=opacity, shown=shown)
