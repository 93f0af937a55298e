"""The VAE latents of pictures, computed once and kept on disk, with the text states of their captions.

Place on the path of data: between SAGE rows and the trainer. Means and standard deviations are kept, so that
sampling stays random. Every entry has a key of its own (model, file, square, variant), so that a changed file
or model makes new entries and leaves the others, and an interrupted build goes on.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...decoding import DECODER
from ...errors import DatasetError
from ...files import write_json
from ...fingerprints import file_fingerprint, fingerprint, weights_fingerprint
from ..rows import SageRow
from ..share import Share
from .framing import Framed, Framing, read_framed
from .store import SHARD, Rows, ShardedStore, Tensors, fill
from .texts import build_texts

FORMAT = 2
PIXELS_PER_BATCH = 64 * 64 * 64
VARIANTS = ("plain", "flipped", "degraded", "degraded flipped")  # of a picture
Picture = tuple[Path, tuple[float, float], str]  # file, place of its square, variant


@dataclass(frozen=True)
class PictureSource:
    """Where pictures are, and how they are read. degraded: also keep a poor rendering of every picture."""

    folder: Path
    framing: Framing = field(default_factory=Framing)
    degraded: bool = False

    @property
    def variants(self) -> tuple[str, ...]:
        return tuple(
            name
            for name in VARIANTS
            if (self.framing.flip or "flipped" not in name) and (self.degraded or "degraded" not in name)
        )


@dataclass(frozen=True)
class Cache:
    """Latents of P pictures in some of VARIANTS, and states of Q captions (the empty caption is the last).

    name: the fingerprint of pictures, captions and models. latents: rows of means and stds, float16 [C, h, w]
    each, in the scale of the UNet, and of sizes [6] (see Framed); picture p in variant v is row v * P + p.
    texts: rows of states, float16 [T, D], and, for SDXL, pooled [P].
    """

    name: str
    latents: Rows
    texts: Rows
    pictures: dict[str, int]
    captions: dict[str, int]
    variants: tuple[str, ...] = ("plain",)

    @property
    def empty(self) -> int:
        """Number of the empty caption."""
        return len(self.captions) - 1

    def rows_of(self, pictures: np.ndarray, *, flipped: np.ndarray, degraded: np.ndarray) -> np.ndarray:
        """Rows of `latents` for pictures [B], mirrored or degraded where [B] says so."""
        numbers = np.array([self.variants.index(name) if name in self.variants else -1 for name in VARIANTS])
        return numbers[flipped.astype(int) + 2 * degraded.astype(int)] * len(self.pictures) + pictures


def build_cache(
    rows: Sequence[SageRow], pipeline: Any, *, pictures: PictureSource, folder: Path, share: Share | None = None
) -> Cache:
    """The cache of these rows, after computing what the folder lacks.

    Raises DatasetError for a picture that cannot be read, whose latents are not finite, or that has another
    size than the others where the framing keeps sizes.
    """
    share, framing = share or Share(), pictures.framing
    places = {name: framing.place(row.pair) for row in rows for name in (row.chosen, row.rejected)}
    names = sorted(places)
    digests = _digests([pictures.folder / name for name in names], folder / f"digests-{share.index}.json")
    scale = [part.flatten().tolist() for part in _latent_scale(pipeline.vae)]
    vae = [weights_fingerprint({"vae": pipeline.vae}), scale]
    keys: list[str] = []
    things: dict[str, Picture] = {}
    for variant in pictures.variants:
        for name, digest in zip(names, digests, strict=True):
            keys.append(fingerprint([FORMAT, DECODER, vae, digest, places[name], framing.size_px, variant]))
            things.setdefault(keys[-1], (pictures.folder / name, places[name], variant))
    store = ShardedStore(folder, "latents")
    with _in_float32(pipeline.vae):
        fill(store, things, lambda part: _encode(pipeline, part, framing), share=share, desc="encoding pictures")
    texts = build_texts([row.caption for row in rows], pipeline, folder, share=share)
    return Cache(
        name=fingerprint([keys, texts.name, asdict(framing)]),
        latents=store.rows(keys),
        texts=texts.rows,
        pictures={name: number for number, name in enumerate(names)},
        captions=texts.numbers,
        variants=pictures.variants,
    )


@torch.no_grad()
def _encode(pipeline: Any, wanted: Sequence[Picture], framing: Framing) -> Tensors:
    framed = [
        read_framed(path, framing, place, flip="flipped" in variant, degraded="degraded" in variant)
        for path, place, variant in wanted
    ]
    _require_one_size([path for path, _, _ in wanted], framed)
    height, width, _ = framed[0].pixels.shape
    size = max(1, min(SHARD, PIXELS_PER_BATCH // (height * width)))
    device = pipeline._execution_device
    shift, scale = (part.to(device) for part in _latent_scale(pipeline.vae))
    means, stds = [], []
    for start in range(0, len(framed), size):
        batch = np.stack([one.pixels for one in framed[start : start + size]])
        pixels = torch.from_numpy(batch).permute(0, 3, 1, 2).float() / 127.5 - 1
        posterior = pipeline.vae.encode(pixels.to(device)).latent_dist
        means.append(((posterior.mean - shift) * scale).cpu())
        stds.append((posterior.std * scale).cpu())
    tensors = {"means": torch.cat(means).half(), "stds": torch.cat(stds).half()}
    finite = torch.stack([tensor.flatten(1).isfinite().all(1) for tensor in tensors.values()]).all(0)
    if not finite.all():
        path = wanted[int((~finite).nonzero()[0])][0]
        raise DatasetError(f"{path}: its latents are not finite, so the VAE cannot encode it.")
    return {**tensors, "sizes": torch.tensor([one.sizes for one in framed], dtype=torch.int32)}


def _latent_scale(vae: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Shift and scale, [1, C or 1, 1, 1] each: the UNet sees (latents - shift) * scale of a VAE's latents."""
    mean, std = (getattr(vae.config, name, None) for name in ("latents_mean", "latents_std"))
    if mean is None or std is None:
        zero = torch.zeros(1, 1, 1, 1)
        return zero, torch.full_like(zero, vae.config.scaling_factor)
    shift, spread = (torch.tensor(values).reshape(1, -1, 1, 1) for values in (mean, std))
    return shift, vae.config.scaling_factor / spread


def _require_one_size(paths: Sequence[Path], framed: Sequence[Framed]) -> None:
    sizes = {one.pixels.shape[:2] for one in framed}
    if len(sizes) > 1:
        raise DatasetError(
            f"Pictures of {paths[0].parent} differ in size: {sorted(sizes)}.",
            hint="Give size_px in the preset's section `pictures`: they are scaled and cut to squares.",
        )


def _digests(paths: Sequence[Path], index: Path) -> list[str]:
    """Fingerprints of files. Files whose size and time are those in the index are not read again."""
    known: dict[str, Any] = {}
    with suppress(OSError, ValueError, TypeError):  # a damaged index is made again
        known = dict(json.loads(index.read_text(encoding="utf-8")))
    now: dict[str, list[Any]] = {}
    for path in paths:
        try:
            about = path.stat()
            state = [about.st_size, about.st_mtime_ns]
            old = known.get(str(path))
            if not (isinstance(old, list) and len(old) == 3 and old[:2] == state):
                old = [*state, file_fingerprint(path)]
            now[str(path)] = old
        except OSError as err:
            raise DatasetError(f"{path} cannot be read as a picture: {err.strerror}.") from err
    if now != {name: known.get(name) for name in now}:
        write_json(index, {**known, **now})
    return [str(now[str(path)][2]) for path in paths]


@contextmanager
def _in_float32(module: torch.nn.Module) -> Iterator[None]:
    """A context in which a module computes in float32: SDXL's VAE overflows in half precision."""
    dtype = next(module.parameters()).dtype
    if dtype != torch.float32:
        module.float()
    try:
        yield
    finally:
        if dtype != torch.float32:
            module.to(dtype)
