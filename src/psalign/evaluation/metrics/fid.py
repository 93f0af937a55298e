"""Distances between two sets of pictures, from their features: Frechet (FID) and kernel (KID).

Place on the path of data: step 7, from features (evaluation/features.py) to two numbers.

All sums are in float64. FID needs the covariances alone, so features are streamed; KID needs features
themselves, of which at most 10,000 are kept, spread evenly over the set.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from psalign.decoding import DECODER
from psalign.errors import EvaluationError, library_errors
from psalign.files import write_bytes
from psalign.fingerprints import file_fingerprint, fingerprint
from psalign.tensors import read_safetensors, require_numbers

from ..estimate import Estimate
from ..pictures import MAKE_AGAIN, is_picture_file
from ..statistics import Z
from .cache import Lazy, read_batches
from .features import FeatureExtractor, Features, stack

Float64 = NDArray[np.float64]
KEPT = 10_000  # features of a set that are kept for KID; and below which KID stands beside FID
MEND = "Take them out of the reference folder, or save them again."
NEGLIGIBLE = 1e-13  # of the largest eigenvalue: what float64 leaves where a covariance has none


@dataclass(frozen=True)
class Statistics:
    """Statistics of n features: mean [F], covariance [F, F] (denominator n - 1), the features kept [K, F].

    extractor: names what made the features. fingerprint: names the extractor and all pictures.
    """

    mean: Float64
    covariance: Float64
    n: int
    features: Features
    extractor: str
    fingerprint: str


class Moments:
    """Mean and covariance of features that come batch by batch.

    Source: Chan, Golub and LeVeque 1979, "Updating formulae and a pairwise algorithm for computing sample
    variances".
    """

    def __init__(self) -> None:
        self.n = 0
        self.mean: Float64 = np.zeros(1)  # [F] with the first batch
        self._scatter: Float64 = np.zeros((1, 1))

    def add(self, features: Features) -> None:
        """features: [B, F]."""
        rows = features.astype(np.float64)
        count, mean = len(rows), rows.mean(0)
        centred, shift = rows - mean, mean - self.mean
        total = self.n + count
        self._scatter = self._scatter + centred.T @ centred + np.outer(shift, shift) * (self.n * count / total)
        self.mean = self.mean + shift * (count / total)
        self.n = total

    @property
    def covariance(self) -> Float64:
        """[F, F]. Raises EvaluationError for fewer than two features."""
        if self.n < 2:
            raise EvaluationError(f"A covariance needs at least two pictures; saw {self.n}.")
        covariance: Float64 = self._scatter / (self.n - 1)
        return covariance


def frechet_distance(a: Statistics, b: Statistics) -> float:
    """|m_a - m_b|^2 + tr(S_a) + tr(S_b) - 2 tr((S_a^1/2 S_b S_a^1/2)^1/2), at least 0.

    The last trace is the sum of singular values of S_a^1/2 S_b^1/2: no root is taken of a number that
    rounding has left near 0, so singular covariances (fewer pictures than features) are as exact as
    others.
    Source: Heusel et al. 2017, arXiv:1706.08500, eq. 6; Dowson and Landau 1982.
    """
    cross = np.linalg.svd(_root(a.covariance).T @ _root(b.covariance), compute_uv=False).sum()
    distance = ((a.mean - b.mean) ** 2).sum() + np.trace(a.covariance) + np.trace(b.covariance) - 2 * cross
    return max(0.0, float(distance))


def _root(covariance: Float64) -> Float64:
    """R with R R^T = covariance."""
    values, vectors = np.linalg.eigh(covariance)
    values = np.where(values > NEGLIGIBLE * max(values[-1], 0.0), values, 0.0)
    root: Float64 = vectors * np.sqrt(values)
    return root


def kernel_distance(x: Features, y: Features, *, block: int = 1000) -> Estimate:
    """Unbiased squared maximum mean discrepancy, kernel (x . y / F + 1)^3, with its jackknife 95 % interval.

    x: [M, F], y: [N, F], each at least 3. It is the mean over all subsets, of which KID is usually
    estimated from a hundred; so there is no chance in it, and its expectation is the same. It may be below
    0 for like sets, and is where the two are not independent: few pictures of the same captions.
    Returns the value, the smaller of M and N, and the interval.
    Source: Binkowski et al. 2018, arXiv:1801.01401, eq. 4; Gretton et al. 2012, JMLR 13:723, eq. 3 (the
    unbiased form).
    """
    if min(len(x), len(y)) < 3:
        raise EvaluationError(f"KID needs at least three pictures on each side; saw {len(x)} and {len(y)}.")
    within_x, within_y = (_kernel_sums(z, z, block, itself=False)[0] for z in (x, y))
    across_x, across_y = _kernel_sums(x, y, block)
    m, n = len(x), len(y)
    sum_x, sum_y, sum_xy = within_x.sum(), within_y.sum(), across_x.sum()
    part_x, part_y = sum_x / (m * (m - 1)), sum_y / (n * (n - 1))
    value = float(part_x + part_y - 2 * sum_xy / (m * n))
    without_x = (sum_x - 2 * within_x) / ((m - 1) * (m - 2)) + part_y - 2 * (sum_xy - across_x) / ((m - 1) * n)
    without_y = (sum_y - 2 * within_y) / ((n - 1) * (n - 2)) + part_x - 2 * (sum_xy - across_y) / ((n - 1) * m)
    half = Z * math.sqrt(_jackknife_variance(without_x) + _jackknife_variance(without_y))
    return Estimate(value, min(m, n), value - half, value + half)


def _kernel_sums(x: Features, y: Features, block: int, *, itself: bool = True) -> tuple[Float64, Float64]:
    """Sums of the kernel of each x with all y [M], and of each y with all x [N]; x with itself if `itself`."""
    right = y.astype(np.float64)
    of_x, of_y = np.zeros(len(x)), np.zeros(len(y))
    for start in range(0, len(x), block):
        kernel = (x[start : start + block].astype(np.float64) @ right.T / x.shape[1] + 1) ** 3
        if not itself:
            rows = np.arange(len(kernel))
            kernel[rows, start + rows] = 0.0
        of_x[start : start + block] = kernel.sum(1)
        of_y += kernel.sum(0)
    return of_x, of_y


def _jackknife_variance(without_one: Float64) -> float:
    n = len(without_one)
    return float((n - 1) / n * ((without_one - without_one.mean()) ** 2).sum())


# --- sets of pictures ----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Extraction:
    """How features of sets of pictures are made and kept. cache: folder of their statistics, or None."""

    extractor: Lazy[FeatureExtractor]
    cache: Path | None
    batch_size: int


def reference_statistics(reference: Path, how: Extraction) -> Statistics:
    """Statistics of a folder of pictures (of any sizes), or of a file that `write_statistics` wrote.

    Raises EvaluationError where it does not exist, has no pictures, or was made with another extractor.
    """
    if reference.is_file():
        statistics = read_statistics(reference)
        if statistics.extractor != how.extractor.name:
            raise EvaluationError(
                f"{reference} was made with the feature extractor {statistics.extractor}, not {how.extractor.name}.",
                hint="Give the folder of the reference pictures instead: its statistics are then made and kept.",
            )
        return statistics
    found = reference.rglob("*") if reference.is_dir() else ()
    paths = sorted(filter(is_picture_file, found))
    if not paths:
        raise EvaluationError(
            f"{reference} holds no pictures to compare with.",
            hint="FID compares with real pictures: give --fid-reference a folder of them.",
        )
    return picture_statistics(reference, paths, [file_fingerprint(path) for path in paths], how, hint=MEND)


def picture_statistics(
    folder: Path, paths: list[Path], digests: list[str], how: Extraction, *, hint: str = MAKE_AGAIN
) -> Statistics:
    """Statistics of pictures, from the cache where they are whole. hint: what to do about a broken picture.

    Raises EvaluationError for fewer than two pictures, a broken one, or features that are not finite.
    """
    name = fingerprint([how.extractor.name, DECODER, sorted(digests)])
    kept = how.cache / f"statistics-{name}.safetensors" if how.cache is not None else None
    known = _known(kept, how.extractor.name, name)
    if known is not None:
        return known
    if len(paths) < 2:
        raise EvaluationError(f"{folder}: a covariance needs at least two pictures; saw {len(paths)}.")
    extractor = how.extractor()
    keep = set(np.linspace(0, len(paths) - 1, min(KEPT, len(paths))).round().astype(int).tolist())
    moments, features = Moments(), []
    for batch in _features(folder, paths, extractor, how.batch_size, hint):
        start = moments.n
        moments.add(batch)
        features.append(batch[[i for i in range(len(batch)) if start + i in keep]])
    statistics = Statistics(
        moments.mean, moments.covariance, moments.n, np.concatenate(features), how.extractor.name, name
    )
    if kept is not None:
        write_statistics(kept, statistics)
    return statistics


def _known(kept: Path | None, extractor: str, name: str) -> Statistics | None:
    """Statistics of the cache; None where they are not there, or the file is damaged or of something else."""
    if kept is None or not kept.is_file():
        return None
    try:
        found = read_statistics(kept)
    except EvaluationError:
        return None
    return found if (found.extractor, found.fingerprint) == (extractor, name) else None


def _features(
    folder: Path, paths: list[Path], extractor: FeatureExtractor, batch_size: int, hint: str
) -> Iterable[Features]:
    for batch in read_batches(folder, paths, lambda picture: picture, batch_size=batch_size, hint=hint):
        for group in stack(batch):
            found = extractor(group)
            if not np.isfinite(found).all():
                raise EvaluationError(f"{folder}: the feature extractor gives numbers that are not finite.")
            yield found


def write_statistics(path: Path, statistics: Statistics) -> None:
    """One safetensors file: the three arrays; n, extractor, fingerprint and digest in its header."""
    from safetensors.numpy import save

    arrays = {name: np.ascontiguousarray(getattr(statistics, name)) for name in ("mean", "covariance", "features")}
    words = {"n": str(statistics.n), "extractor": statistics.extractor, "fingerprint": statistics.fingerprint}
    write_bytes(path, save(arrays, metadata={**words, "digest": _digest(statistics)}))


def _digest(statistics: Statistics) -> str:
    """Names all that a file of statistics holds."""
    arrays = (statistics.mean, statistics.covariance, statistics.features)
    seen = hashlib.sha256(f"{statistics.n} {statistics.extractor} {statistics.fingerprint}".encode())
    for array in arrays:
        seen.update(f"{array.dtype} {array.shape}".encode() + np.ascontiguousarray(array).tobytes())
    return seen.hexdigest()


def read_statistics(path: Path) -> Statistics:
    """Raises EvaluationError where the file is no statistics of ours."""
    hint = "Give the folder of the reference pictures, or remove that file if it lies in the cache."
    tensors, words = read_safetensors(path, fault=EvaluationError, hint=hint)
    with library_errors(EvaluationError, f"{path} cannot be read as statistics of pictures", hint=hint):
        kept = {name: tensors[name] for name in ("mean", "covariance", "features")}
        n, extractor, name = int(words["n"]), words["extractor"], words["fingerprint"]
    require_numbers(kept, path, fault=EvaluationError, hint=hint)
    width = kept["mean"].numel()
    shapes = [tuple(tensor.shape) for tensor in kept.values()]
    if shapes[:2] != [(width,), (width, width)] or len(shapes[2]) != 2 or shapes[2][1] != width or n < 2:
        raise EvaluationError(f"{path} cannot be read as statistics of pictures: saw the shapes {shapes}.", hint=hint)
    mean, covariance, features = (tensor.numpy() for tensor in kept.values())
    statistics = Statistics(mean, covariance, n, features, extractor, name)
    if words.get("digest", "") not in ("", _digest(statistics)):  # files of earlier versions have none
        raise EvaluationError(f"{path} cannot be read as statistics of pictures: it is damaged.", hint=hint)
    return statistics
