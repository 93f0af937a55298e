"""A picture file becomes RGB pixels as a viewer shows them, or an error; and pixels become a file.

Place on the path of data: under training, evaluation and validation.

Turned as its EXIF says; transparent parts lie on white; 16-bit greys are scaled, not cut off; CMYK, Lab and wide-gamut
colours go through the file's own colour profile. Pixels without one meaning as 8-bit colour (floating-point
and 32-bit integers) are refused, and so are pictures larger than MAX_PIXELS.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageCms

DECODER = 2  # changes when the same file gives other pixels than before; part of every fingerprint of pixels
MAX_PIXELS = 89_478_485  # Pillow's own limit, above which a small file may unpack to more than the memory
ORIENTATION = 0x0112
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
BACKGROUND = (255, 255, 255)
SIXTEEN_BIT = ("PNG", "PPM", "JPEG2000", "TIFF")  # formats whose mode I;16 means 0 to 65535
WHOLE_NUMBERS = ("PNG", "PPM")  # formats whose mode I means 0 to 65535 too


class Undecodable(Exception):
    """A file that is not a picture, is damaged or cannot be RGB; the message says why, without the name."""


def decode(source: Path | bytes) -> Image.Image:
    """The picture of a file, or of its content, in mode RGB, as a viewer shows it. Raises Undecodable."""
    try:
        with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as opened:
            _require_size(opened)
            opened.load()
            return _turned(_in_rgb(opened), opened)
    except Undecodable:
        raise
    except FileNotFoundError:
        raise Undecodable("there is no such file") from None
    except Exception as err:  # a damaged file makes Pillow raise nearly anything
        raise Undecodable(str(err) or type(err).__name__) from err


def encode(picture: Image.Image | np.ndarray, kind: str = "PNG", **options: Any) -> bytes:
    """The content of a file of a picture, or of uint8 RGB [H, W, 3]. options: of Pillow's writer of this kind."""
    image = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    stream = io.BytesIO()
    image.save(stream, format=kind, **options)
    return stream.getvalue()


def is_hidden(path: Path) -> bool:
    """Whether a file is a leftover beside a folder's own: a ".part" file, or the "._a.png" of a Mac."""
    return path.name.startswith(".") or "__MACOSX" in path.parts


def _require_size(picture: Image.Image) -> None:
    width, height = picture.size
    if width * height > MAX_PIXELS:
        raise Undecodable(f"it has {width} x {height} pixels; at most {MAX_PIXELS / 1e6:.0f} million are read")


def _in_rgb(picture: Image.Image) -> Image.Image:
    if picture.mode in ("F", "I;32", "I;32B", "I;32L") or (picture.mode == "I" and picture.format not in WHOLE_NUMBERS):
        raise Undecodable(
            f"its pixels (mode {picture.mode}) have no known range; expected 8 or 16 bits for each colour"
        )
    if picture.mode.startswith("I"):
        return _from_sixteen_bits(picture)
    if picture.has_transparency_data:
        return _on_background(picture)
    return _in_srgb(picture)


def _from_sixteen_bits(picture: Image.Image) -> Image.Image:
    """A grey picture of 16 bits. Pillow's own conversion cuts off above 255: nearly all of it would be white."""
    if picture.mode != "I" and picture.format not in SIXTEEN_BIT:
        raise Undecodable(f"16-bit pixels of a {picture.format} file have no known range")
    values = np.asarray(picture).astype(np.int64)  # [H, W]
    grey = np.rint(values.clip(0, 65535) / 257).astype(np.uint8)
    alpha = picture.info.get("transparency")
    if isinstance(alpha, int):
        grey = np.where(values == alpha, np.uint8(BACKGROUND[0]), grey)
    return Image.fromarray(grey).convert("RGB")


def _on_background(picture: Image.Image) -> Image.Image:
    """Transparent parts over one plain colour; every viewer hides the colours below them."""
    shown = picture.convert("RGBA")
    plain = Image.new("RGBA", shown.size, (*BACKGROUND, 255))
    plain.alpha_composite(shown)
    flat = plain.convert("RGB")
    flat.info = {name: value for name, value in picture.info.items() if name == "icc_profile"}
    return _in_srgb(flat)


def _in_srgb(picture: Image.Image) -> Image.Image:
    """By the file's colour profile where that is not sRGB, else by Pillow's own conversion."""
    profile = _profile(picture)
    if profile is not None:
        srgb = ImageCms.createProfile("sRGB")
        converted = ImageCms.profileToProfile(picture, profile, srgb, outputMode="RGB")
        assert converted is not None
        return converted
    return picture.convert("RGB")


def _profile(picture: Image.Image) -> ImageCms.ImageCmsProfile | None:
    """The colour profile to convert by; None for no profile, for sRGB, and for another kind of colour."""
    content = picture.info.get("icc_profile")
    if not content or picture.mode not in ("RGB", "CMYK", "LAB"):
        return None
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(content))
        is_srgb = "srgb" in ImageCms.getProfileDescription(profile).lower()
    except (ImageCms.PyCMSError, OSError, ValueError):  # a damaged profile: a viewer shows the plain colours
        return None
    of_this_kind = profile.profile.xcolor_space.strip().upper() == picture.mode
    return profile if of_this_kind and not is_srgb else None


def _turned(rgb: Image.Image, opened: Image.Image) -> Image.Image:
    """The picture upright. Pillow has turned a TIFF already when it loaded it, and removed the EXIF entry."""
    try:
        turn = TURNS.get(opened.getexif().get(ORIENTATION, 1))
    except Exception:  # damaged EXIF: a viewer shows the picture as it is stored
        turn = None
    return rgb if turn is None else rgb.transpose(turn)
