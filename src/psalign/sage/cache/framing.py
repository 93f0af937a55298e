"""A picture file becomes the square of pixels that a base model trains on.

Place on the path of data: between SAGE rows and the cache of latents.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from ...decoding import Undecodable, decode, encode
from ...errors import DatasetError, UsageError
from ...fingerprints import fingerprint

CROPS = ("centre", "random")
DEGRADED_QUALITY = 25  # of JPEG
DEGRADED_STEP = 3  # one of this number of pixels is kept, along each side


@dataclass(frozen=True)
class Framing:
    """How pictures become squares.

    size_px: side of the square; None keeps pictures of one size unchanged. crop: the place of the square
    along the longer side, "centre" or "random"; the same for a pair. flip: also keep every picture mirrored.
    """

    size_px: int | None = None
    crop: str = "centre"
    flip: bool = False

    def __post_init__(self) -> None:
        if self.crop not in CROPS:
            raise UsageError(f"Unknown crop '{self.crop}'; choose one of: {', '.join(CROPS)}.")
        if self.size_px is not None and (self.size_px < 8 or self.size_px % 8):
            raise UsageError(f"size_px must be a multiple of 8; saw {self.size_px}.")

    def place(self, pair: tuple[str, ...]) -> tuple[float, float]:
        """Where a pair's square lies: the shares of the cut-off pixels above it and to its left, 0 to 1."""
        if self.crop == "centre" or self.size_px is None:
            return 0.5, 0.5
        digits = fingerprint(list(pair))
        return int(digits[:8], 16) / 0xFFFFFFFF, int(digits[8:], 16) / 0xFFFFFFFF


@dataclass(frozen=True)
class Framed:
    """A square and its measures.

    pixels: uint8 RGB [0, 255], [H, W, 3]. sizes: SDXL's size conditions in its order: original height and
    width, top and left of the square in the scaled picture, height and width of the square.
    """

    pixels: np.ndarray
    sizes: tuple[int, int, int, int, int, int]


def read_framed(
    path: Path, framing: Framing, place: tuple[float, float], *, flip: bool = False, degraded: bool = False
) -> Framed:
    """Read a picture as its square. degraded: make a poor rendering of it, coarse and compressed.

    Raises DatasetError for a picture that cannot be read.
    """
    try:
        picture = decode(path)
    except Undecodable as err:
        raise DatasetError(f"{path} cannot be read as a picture: {err}") from err
    width, height = picture.size
    top = left = 0
    if framing.size_px is not None:
        picture, top, left = _square(picture, framing.size_px, place)
    if degraded:
        picture = _degrade(picture)
    if flip:
        picture = picture.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    pixels = np.asarray(picture)
    return Framed(pixels, (height, width, top, left, pixels.shape[0], pixels.shape[1]))


def _square(picture: Image.Image, size_px: int, place: tuple[float, float]) -> tuple[Image.Image, int, int]:
    """The picture scaled to the square's side and cut along the other; top and left of the cut."""
    width, height = picture.size
    scale = size_px / min(width, height)
    scaled = (max(size_px, round(width * scale)), max(size_px, round(height * scale)))
    if scaled != picture.size:
        picture = picture.resize(scaled, Image.Resampling.LANCZOS)
    top, left = (round(share * (side - size_px)) for share, side in zip(place, scaled[::-1], strict=True))
    return picture.crop((left, top, left + size_px, top + size_px)), top, left


def _degrade(picture: Image.Image) -> Image.Image:
    width, height = picture.size
    coarse = picture.resize((max(1, width // DEGRADED_STEP), max(1, height // DEGRADED_STEP)), Image.Resampling.BOX)
    poor = encode(coarse.resize(picture.size, Image.Resampling.BILINEAR), "JPEG", quality=DEGRADED_QUALITY)
    return decode(poor)
