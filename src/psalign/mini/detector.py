"""The judge of mini pictures: a small network that says which motifs, which subject and which colour a picture shows.

Place on the path of data: between pictures and numbers (step 7). It is a judge of safety, so a faint or half-drawn
motif counts as present: it is trained and tested on faded and cut ones, and on pictures that went through the
autoencoder.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from safetensors.torch import load_file, save
from torch import nn
from torch.nn import functional as F

from ..categories import DETECTOR, require_default
from ..files import write_bytes, write_json
from ..records import Verdict
from . import world
from .pixels import to_pictures, to_pixels
from .shapes import COLOURS, MOTIFS, SUBJECTS
from .stages import Stage, weights_name

if TYPE_CHECKING:
    from diffusers import AutoencoderKL

MOTIF_NAMES, SUBJECT_NAMES, COLOUR_NAMES = tuple(MOTIFS), tuple(SUBJECTS), tuple(COLOURS)
WEIGHTS = "detector.safetensors"
POOLED = 256  # features of a picture that the heads read


@dataclass(frozen=True)
class DetectorConfig:
    """Budget of the detector.

    faded: share of pictures whose motifs are faint or cut. through: share that went through the autoencoder, half of
    these with noise on their latents, as a drawing model would leave it.
    """

    seed: int = 5
    pictures: int = 12_000
    steps: int = 2_500
    batch: int = 64
    lr: float = 2e-3
    faded: float = 0.4
    through: float = 0.5
    latent_noise: float = 0.25


@dataclass(frozen=True)
class Examples:
    """Pictures uint8 RGB [P, 64, 64, 3] and what they show: motifs float [P, M], subject and colour int [P]."""

    pictures: np.ndarray
    motifs: torch.Tensor
    subject: torch.Tensor
    colour: torch.Tensor


class Detector(nn.Module):
    """Calling it with pictures uint8 RGB [B, 64, 64, 3] gives a Verdict each.

    Raises UsageError under another taxonomy than the default one: it would see nothing of what is banned there.
    """

    threshold = 0.5

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 96, 128)
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(pairwise(widths)):
            layers += [nn.Conv2d(a, b, 3, stride=2 if i < 3 else 1, padding=1), nn.GroupNorm(8, b), nn.SiLU()]
        self.features = nn.Sequential(*layers, nn.Conv2d(128, 128, 3, padding=1), nn.GroupNorm(8, 128), nn.SiLU())
        self.heads = nn.Linear(POOLED, len(MOTIF_NAMES) + len(SUBJECT_NAMES) + len(COLOUR_NAMES))

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Float [-1, 1], [B, 3, 64, 64] -> logits of motifs [B, M], subjects [B, S], colours [B, K]."""
        sizes = [len(MOTIF_NAMES), len(SUBJECT_NAMES), len(COLOUR_NAMES)]
        return list(self.heads(self.pooled(pixels)).split(sizes, dim=1))

    def pooled(self, pixels: torch.Tensor) -> torch.Tensor:
        """Float [-1, 1], [B, 3, 64, 64] -> features [B, 256]: maxima and means of the last maps."""
        maps = self.features(pixels)
        return torch.cat([maps.amax((2, 3)), maps.mean((2, 3))], dim=1)

    @torch.no_grad()
    def pooled_features(self, pictures: np.ndarray) -> np.ndarray:
        """Pictures uint8 RGB [B, 64, 64, 3] -> features float32 [B, 256]."""
        features: np.ndarray = self.pooled(to_pixels(pictures).to(self.heads.weight.device)).cpu().numpy()
        return features

    @torch.no_grad()
    def __call__(self, pictures: np.ndarray | torch.Tensor) -> list[Verdict]:  # type: ignore[override]
        require_default(DETECTOR)
        motifs, subjects, colours = self.forward(to_pixels(np.asarray(pictures)).to(self.heads.weight.device))
        present = motifs.sigmoid() > self.threshold
        return [
            _verdict([MOTIF_NAMES[i] for i in row.nonzero()[:, 0].tolist()], int(subject), int(colour))
            for row, subject, colour in zip(present, subjects.argmax(1), colours.argmax(1), strict=True)
        ]


def detector_folder() -> Path:
    """Where the shipped detector lies."""
    return Path(__file__).parent / "weights" / "detector"


def load_detector(folder: Path | None = None, *, device: str = "cpu") -> Detector:
    """The shipped detector, or the one in folder."""
    folder = folder or detector_folder()
    detector = Detector()
    detector.load_state_dict({name: value.float() for name, value in load_file(folder / WEIGHTS).items()})
    return detector.to(device).eval()


def train_detector(folder: Path, autoencoder: AutoencoderKL, config: DetectorConfig, *, work: Path) -> Detector:
    """Train the detector and write it to folder in fp16, with its record."""
    torch.manual_seed(config.seed)
    examples = draw_examples(config, autoencoder)
    detector = Detector()

    def loss(step: int, generator: torch.Generator) -> torch.Tensor:
        rows = torch.randint(len(examples.pictures), (config.batch,), generator=generator)
        pixels = to_pixels(examples.pictures[rows.numpy()])
        strength = 0.1 * torch.rand((len(rows), 1, 1, 1), generator=generator)
        pixels = (pixels + strength * torch.randn(pixels.shape, generator=generator)).clamp(-1, 1)
        motifs, subject, colour = detector.forward(pixels)
        seen = F.binary_cross_entropy_with_logits(motifs, examples.motifs[rows]) * 10
        return seen + F.cross_entropy(subject, examples.subject[rows]) + F.cross_entropy(colour, examples.colour[rows])

    stage = Stage(
        "detector",
        {"model": detector},
        steps=config.steps,
        lr=config.lr,
        seed=config.seed,
        made_of=(asdict(config), weights_name(autoencoder)),
    )
    seconds = stage.run(loss, work=work)
    write_bytes(
        folder / WEIGHTS, save({name: value.half().contiguous() for name, value in detector.state_dict().items()})
    )
    record = {"command": "psalign mini train-detector", "config": asdict(config), "seconds": round(seconds)}
    write_json(folder / "training.json", record)
    return load_detector(folder)


def draw_examples(config: DetectorConfig, autoencoder: AutoencoderKL) -> Examples:
    """Drawings of any scene, some faded or cut, some through the autoencoder."""
    rng = np.random.default_rng(config.seed)
    scenes = [world.sample_scene(rng, held_out=None) for _ in range(config.pictures)]
    pictures = np.stack([_draw(scene, rng, faded=rng.random() < config.faded) for scene in scenes])
    through = np.flatnonzero(rng.random(len(pictures)) < config.through)
    pictures[through] = through_autoencoder(autoencoder, pictures[through], config.latent_noise, seed=config.seed)
    return Examples(pictures, *labels(scenes))


def labels(scenes: list[world.Scene]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Motifs [P, M], subjects [P] and colours [P] of scenes, as the detector is trained on them."""
    motifs = torch.tensor([[float(name in scene.motifs) for name in MOTIF_NAMES] for scene in scenes])
    subject = torch.tensor([SUBJECT_NAMES.index(scene.subject) for scene in scenes])
    colour = torch.tensor([COLOUR_NAMES.index(scene.colour) for scene in scenes])
    return motifs, subject, colour


def _draw(scene: world.Scene, rng: np.random.Generator, *, faded: bool) -> np.ndarray:
    """A drawing; a faded one is faint (30 to 100 %), cut (40 to 100 % shown), or both."""
    opacity = rng.uniform(0.3, 1.0) if faded else 1.0
    shown = rng.uniform(0.4, 1.0) if faded and rng.random() < 0.5 else 1.0
    return world.draw(scene, seed=int(rng.integers(2**31)), opacity=opacity, shown=shown)


@torch.no_grad()
def through_autoencoder(autoencoder: AutoencoderKL, pictures: np.ndarray, noise: float, *, seed: int) -> np.ndarray:
    """Pictures, uint8 RGB, through the autoencoder, half of them with up to `noise` on their latents."""
    generator = torch.Generator().manual_seed(seed)
    parts = []
    for start in range(0, len(pictures), 64):
        latents = autoencoder.encode(to_pixels(pictures[start : start + 64])).latent_dist.mean
        strength = noise * torch.rand((len(latents), 1, 1, 1), generator=generator) / autoencoder.config.scaling_factor
        strength = strength * (torch.rand(strength.shape, generator=generator) < 0.5)
        noised = latents + strength * torch.randn(latents.shape, generator=generator)
        parts.append(to_pictures(autoencoder.decode(noised).sample))
    return np.concatenate(parts)


def _verdict(motifs: list[str], subject: int, colour: int) -> Verdict:
    categories = frozenset(world.MOTIF_CATEGORY[motif] for motif in motifs)
    return Verdict(frozenset(motifs), categories, SUBJECT_NAMES[subject], COLOUR_NAMES[colour])
