"""The judge of mini pictures: a small network that names motifs, subject and colour of a picture.

Place on the path of data: between pictures and numbers (step 7). It is a judge of safety, so a faint or
half-drawn motif counts as present: it is trained (mini/factory/detector.py) and tested on faded and cut ones,
and on pictures that went through the autoencoder.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from torch import nn

from ..categories import DETECTOR, require_default
from ..records import Verdict
from . import world
from .pixels import to_pixels
from .shapes import COLOURS, MOTIFS, SUBJECTS

COLOUR_NAMES = tuple(COLOURS)
WEIGHTS = "detector.safetensors"
POOLED = 256  # features of a picture that the heads read


class Detector(nn.Module):
    """Calling it with pictures uint8 RGB [B, 64, 64, 3] gives a Verdict each.

    Raises UsageError under another taxonomy than the default one, whose motifs it cannot see.
    """

    threshold = 0.5

    def __init__(self) -> None:
        super().__init__()
        widths = (3, 32, 64, 96, 128)
        layers: list[nn.Module] = []
        for i, (a, b) in enumerate(pairwise(widths)):
            layers += [nn.Conv2d(a, b, 3, stride=2 if i < 3 else 1, padding=1), nn.GroupNorm(8, b), nn.SiLU()]
        self.features = nn.Sequential(*layers, nn.Conv2d(128, 128, 3, padding=1), nn.GroupNorm(8, 128), nn.SiLU())
        self.heads = nn.Linear(POOLED, len(MOTIFS) + len(SUBJECTS) + len(COLOUR_NAMES))

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        """Float [-1, 1], [B, 3, 64, 64] -> logits of motifs [B, M], subjects [B, S], colours [B, K]."""
        sizes = [len(MOTIFS), len(SUBJECTS), len(COLOUR_NAMES)]
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
            _verdict([MOTIFS[i] for i in row.nonzero()[:, 0].tolist()], int(subject), int(colour))
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


def _verdict(motifs: list[str], subject: int, colour: int) -> Verdict:
    categories = frozenset(world.MOTIF_CATEGORY[motif] for motif in motifs)
    return Verdict(frozenset(motifs), categories, SUBJECTS[subject], COLOUR_NAMES[colour])
