"""What training needs of pictures and captions, computed once: VAE latents and text states on disk.

Place on the path of data: between SAGE rows and the trainer. Means and standard deviations of latents are kept, so
that sampling stays random; the cache is named by the base model's weights and the rows, and made anew where either
changes.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from safetensors.torch import load_file, save
from tqdm import tqdm

from ..errors import DatasetError
from ..records import file_fingerprint, fingerprint, write_bytes, write_json
from .rows import SageRow

_BATCH = 64


@dataclass(frozen=True)
class Cache:
    """Latents of P pictures and text states of Q captions (the empty caption is the last).

    name: of what it was made of. means, stds: float16 [P, C, h, w], scaled as the UNet sees them.
    states: float16 [Q, T, D].
    """

    name: str
    means: torch.Tensor
    stds: torch.Tensor
    states: torch.Tensor
    pictures: dict[str, int]
    captions: dict[str, int]


def build_cache(rows: Sequence[SageRow], pictures: Path, pipeline: Any, folder: Path, *, base: str) -> Cache:
    """Read the cache of these rows, or compute and write it. base: fingerprint of the base model's weights.

    Raises DatasetError for a picture that cannot be read or has another size than the others.
    """
    names = sorted({name for row in rows for name in (row.chosen, row.rejected)})
    captions = [*sorted({row.caption for row in rows} - {""}), ""]
    contents = [[name, file_fingerprint(pictures / name)] for name in names]
    made_of = fingerprint({"base": base, "pictures": contents, "captions": captions, "format": 1})
    path, index = folder / f"{made_of}.safetensors", folder / f"{made_of}.json"
    if not (path.exists() and index.exists()):
        means, stds = _encode_pictures(pipeline, [pictures / name for name in names])
        states = _encode_captions(pipeline, captions)
        tensors = {"means": means, "stds": stds, "states": states}
        write_bytes(path, save({name: tensor.half().contiguous() for name, tensor in tensors.items()}))
        write_json(index, {"pictures": names, "captions": captions})
    known = json.loads(index.read_text())
    return Cache(
        name=made_of,
        **load_file(path),
        pictures={name: i for i, name in enumerate(known["pictures"])},
        captions={caption: i for i, caption in enumerate(known["captions"])},
    )


@torch.no_grad()
def _encode_pictures(pipeline: Any, paths: list[Path]) -> tuple[torch.Tensor, torch.Tensor]:
    means, stds = [], []
    scale = pipeline.vae.config.scaling_factor
    for start in tqdm(range(0, len(paths), _BATCH), desc="encoding pictures", unit="batch"):
        pixels = _read_pictures(paths[start : start + _BATCH]).to(pipeline.vae.device, pipeline.vae.dtype)
        posterior = pipeline.vae.encode(pixels).latent_dist
        means.append((posterior.mean * scale).cpu())
        stds.append((posterior.std * scale).cpu())
    return torch.cat(means), torch.cat(stds)


@torch.no_grad()
def _encode_captions(pipeline: Any, captions: list[str]) -> torch.Tensor:
    states = []
    for start in tqdm(range(0, len(captions), _BATCH), desc="encoding captions", unit="batch"):
        batch = captions[start : start + _BATCH]
        encoded, _ = pipeline.encode_prompt(batch, pipeline.device, 1, do_classifier_free_guidance=False)
        states.append(encoded.cpu())
    return torch.cat(states)


def _read_pictures(paths: list[Path]) -> torch.Tensor:
    """Pictures as float [-1, 1], [B, 3, H, W]."""
    arrays = [_read_picture(path) for path in paths]
    sizes = {array.shape for array in arrays}
    if len(sizes) > 1:
        raise DatasetError(f"Pictures of {paths[0].parent} differ in size: {sorted(sizes)}.")
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2).float() / 127.5 - 1


def _read_picture(path: Path) -> np.ndarray:
    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except (OSError, UnidentifiedImageError) as err:
        raise DatasetError(f"{path} cannot be read as a picture: {err}") from err
