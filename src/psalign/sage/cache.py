"""What training needs of pictures and captions, computed once: VAE latents and text states on disk.

Place on the path of data: between SAGE rows and the trainer. Means and standard deviations of latents are kept, so
that sampling stays random. Every entry has a key of its own (model, file, square, variant), so that a changed file or
model makes its own entries anew and no others, and a build that was interrupted goes on.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..decoding import DECODER
from ..errors import DatasetError
from ..files import write_json
from ..progress import Progress
from ..records import file_fingerprint, fingerprint
from .framing import Framed, Framing, read_framed
from .rows import SageRow
from .shelf import Rows, Shelf

FORMAT = 2
SHARD = 256  # entries
PIXELS_PER_BATCH = 64 * 64 * 64
TEXTS_PER_BATCH = 64
VARIANTS = ("plain", "flipped", "degraded", "degraded flipped")  # of a picture


@dataclass(frozen=True)
class Cache:
    """Latents of P pictures in some of VARIANTS, and states of Q captions (the empty caption is the last).

    name: of what it was made of. latents: rows of means and stds, float16 [C, h, w] each, scaled as the UNet sees them,
    and of sizes [6] (see Framed); picture p in variant v is row v * P + p.
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


@dataclass(frozen=True)
class TextCache:
    """States of captions, each of which has a number; the empty caption is the last.

    name: of what it was made of. rows: of states, float16 [T, D], and, for SDXL, pooled [P].
    """

    name: str
    rows: Rows
    numbers: dict[str, int]

    @property
    def empty(self) -> int:
        """Number of the empty caption."""
        return len(self.numbers) - 1

    def held(self, name: str, memory_gb: float) -> torch.Tensor | None:
        """All rows of a tensor in memory, [Q, ...] float16; None where they are more than memory_gb."""
        first = self.rows.read(name, [0])
        if first.nbytes * len(self.rows) > memory_gb * 1e9:
            return None
        return self.rows.read(name, np.arange(len(self.rows)))


@dataclass(frozen=True)
class Share:
    """The part of the work that is this process's: every count-th shard. wait: until all processes are here."""

    index: int = 0
    count: int = 1
    wait: Callable[[], None] = lambda: None


def build_texts(captions: Sequence[str], pipeline: Any, folder: Path, *, share: Share | None = None) -> TextCache:
    """The text states of these captions and of the empty one, after computing those that the folder lacks."""
    share = share or Share()
    captions = [*sorted(set(captions) - {""}), ""]
    text = model_name(pipeline, ("text_encoder", "text_encoder_2"))
    keys = [fingerprint([FORMAT, text, caption]) for caption in captions]
    shelf = Shelf(folder, "texts")
    _fill(shelf, keys, captions, lambda part: _encode_captions(pipeline, part), share, "captions")
    share.wait()
    return TextCache(fingerprint(keys), shelf.rows(keys), {caption: i for i, caption in enumerate(captions)})


def build_cache(
    rows: Sequence[SageRow],
    pictures: Path,
    pipeline: Any,
    folder: Path,
    *,
    framing: Framing | None = None,
    degraded: bool = False,
    share: Share | None = None,
) -> Cache:
    """Read the cache of these rows, after computing what it lacks.

    degraded: also keep a poor rendering of every picture.
    Raises DatasetError for a picture that cannot be read, whose latents are not finite, or that has another size than
    the others where the framing keeps sizes.
    """
    framing, share = framing or Framing(), share or Share()
    places = {name: framing.place(row.pair) for row in rows for name in (row.chosen, row.rejected)}
    names = sorted(places)
    variants = tuple(
        name for name in VARIANTS if (framing.flip or "flipped" not in name) and (degraded or "degraded" not in name)
    )
    digests = _digests([pictures / name for name in names], folder / f"digests-{share.index}.json")
    scale = [part.flatten().tolist() for part in _latent_scale(pipeline.vae)]
    vae = [model_name(pipeline, ("vae",)), scale]
    picture_keys = [
        fingerprint([FORMAT, DECODER, vae, digest, places[name], framing.size_px, variant])
        for variant in variants
        for name, digest in zip(names, digests, strict=True)
    ]
    wanted = [(pictures / name, places[name], variant) for variant in variants for name in names]
    latents = Shelf(folder, "latents")
    with _in_float32(pipeline.vae):
        _fill(latents, picture_keys, wanted, lambda part: _encode_pictures(pipeline, part, framing), share, "pictures")
    texts = build_texts([row.caption for row in rows], pipeline, folder, share=share)
    return Cache(
        name=fingerprint([picture_keys, texts.name, asdict(framing)]),
        latents=latents.rows(picture_keys),
        texts=texts.rows,
        pictures={name: i for i, name in enumerate(names)},
        captions=texts.numbers,
        variants=variants,
    )


def model_name(pipeline: Any, parts: Iterable[str]) -> str:
    """16 hexadecimal digits that name the weights, as they lie in memory, of parts of a pipeline."""
    digest = hashlib.sha256()
    for part in parts:
        module = getattr(pipeline, part, None)
        for key, weight in sorted(module.state_dict().items()) if module is not None else ():
            digest.update(f"{part}.{key} {tuple(weight.shape)} {weight.dtype}".encode())
            digest.update(weight.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()[:16]


def _fill(
    shelf: Shelf, keys: list[str], things: Sequence[Any], encode: Callable[[Any], Any], share: Share, what: str
) -> None:
    """Encode what the shelf lacks, shard by shard."""
    there = shelf.keys()
    lacking = list({key: i for i, key in enumerate(keys) if key not in there}.values())
    shards = [lacking[start : start + SHARD] for start in range(0, len(lacking), SHARD)][share.index :: share.count]
    share.wait()  # so that every process has seen the same shelf
    for numbers in Progress(shards, desc=f"encoding {what}", unit="shard", disable=len(shards) < 2):
        shelf.put([keys[n] for n in numbers], encode([things[n] for n in numbers]))


@torch.no_grad()
def _encode_pictures(
    pipeline: Any, wanted: Sequence[tuple[Path, tuple[float, float], str]], framing: Framing
) -> dict[str, torch.Tensor]:
    framed = [
        read_framed(path, framing, place, flip="flipped" in variant, degraded="degraded" in variant)
        for path, place, variant in wanted
    ]
    _require_one_size([path for path, _, _ in wanted], framed)
    height, width, _ = framed[0].pixels.shape
    size = max(1, min(SHARD, PIXELS_PER_BATCH // (height * width)))
    (shift, scale), device = _latent_scale(pipeline.vae), pipeline.vae.device
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
    """What makes a VAE's latents those that the UNet sees: (latents - shift) * scale, [1, C or 1, 1, 1] each."""
    mean, std = (getattr(vae.config, name, None) for name in ("latents_mean", "latents_std"))
    if mean is None or std is None:
        return torch.zeros(1, 1, 1, 1, device=vae.device), torch.full((1, 1, 1, 1), vae.config.scaling_factor).to(
            vae.device
        )
    shift, spread = (torch.tensor(values, device=vae.device).reshape(1, -1, 1, 1) for values in (mean, std))
    return shift, vae.config.scaling_factor / spread


@torch.no_grad()
def _encode_captions(pipeline: Any, captions: Sequence[str]) -> dict[str, torch.Tensor]:
    states, pooled = [], []
    for start in range(0, len(captions), TEXTS_PER_BATCH):
        encoded = pipeline.encode_prompt(
            list(captions[start : start + TEXTS_PER_BATCH]),
            device=pipeline.device,
            num_images_per_prompt=1,
            do_classifier_free_guidance=False,
        )
        states.append(encoded[0].half().cpu())
        if len(encoded) == 4:  # SDXL: states, negative states, pooled, negative pooled
            pooled.append(encoded[2].half().cpu())
    return {"states": torch.cat(states), **({"pooled": torch.cat(pooled)} if pooled else {})}


def _require_one_size(paths: Sequence[Path], framed: Sequence[Framed]) -> None:
    sizes = {one.pixels.shape[:2] for one in framed}
    if len(sizes) > 1:
        raise DatasetError(
            f"Pictures of {paths[0].parent} differ in size: {sorted(sizes)}.",
            hint="Give size_px in the preset's section `pictures`: they are scaled and cut to squares.",
        )


def _digests(paths: Sequence[Path], index: Path) -> list[str]:
    """Digests of files; of those that have not changed in size and time since the last look, without reading them."""
    known: dict[str, list[Any]] = {}
    if index.is_file():
        try:
            known = json.loads(index.read_text(encoding="utf-8"))
        except ValueError:
            known = {}
        known = known if isinstance(known, dict) and all(isinstance(old, list) for old in known.values()) else {}
    now: dict[str, list[Any]] = {}
    for path in paths:
        try:
            about = path.stat()
        except OSError as err:
            raise DatasetError(f"{path} cannot be read as a picture: {err.strerror}.") from err
        old = known.get(str(path), [])
        same = old[:2] == [about.st_size, about.st_mtime_ns]
        now[str(path)] = [about.st_size, about.st_mtime_ns, old[2] if same else file_fingerprint(path)]
    if now != {name: known.get(name) for name in now}:
        write_json(index, {**known, **now})
    return [now[str(path)][2] for path in paths]


@contextmanager
def _in_float32(module: torch.nn.Module) -> Iterator[None]:
    """Within it a module computes in float32: SDXL's VAE overflows in half precision."""
    dtype = next(module.parameters()).dtype
    if dtype != torch.float32:
        module.float()
    try:
        yield
    finally:
        if dtype != torch.float32:
            module.to(dtype)
