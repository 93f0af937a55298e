"""How raw vectors become what an adapter reads: standardised or whitened, with a ban code behind them.

Place on the path of data: step 3, under users/store.py. Raw vectors of a language model hardly differ between
users (cosine .99), and what differs lies in directions of small spread: whitening gives every direction the
same spread. The ban code says exactly what a user bans, so that nothing exact depends on a vague vector.
Without a list the code is estimated from the vector, by a linear readout fitted on the population.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ..categories import category_names
from ..fingerprints import fingerprint

Array = npt.NDArray[np.float32]

STD_FLOOR = 1e-2  # a coordinate that hardly varies must not be blown up
WHITENED = 96  # principal directions that are kept of a language model's vectors
USERS_PER_DIRECTION = 4  # at least, so that the spread of a direction can be estimated
CODE_WEIGHT = 3.0  # of a category in the ban code, against 1 for the spread of a direction
RIDGE = 0.003  # of the readout, times the mean variance of a coordinate
LONGEST = 1.5  # a whitened vector, against the root mean square length of the population's
SHARPNESS = 2.0  # an estimate of half a ban counts as a whole one


@dataclass(frozen=True)
class Space:
    """How a population standardises vectors.

    mean, std: mean and standard deviation of its raw vectors, [llm_dim].
    directions: principal directions, each divided by its spread, [llm_dim, K]; None: coordinates are
    standardised one by one.
    readout: linear map from a vector to its ban code, the constant in the last row, [llm_dim + 1,
    categories]; None: no ban code follows the vector.
    """

    mean: Array
    std: Array
    directions: Array | None = None
    readout: Array | None = None

    @classmethod
    def of(cls, raw: Array, *, whitened: int = 0, bans: Sequence[Collection[str]] | None = None) -> Space:
        """The space of a population [U, llm_dim]. whitened: directions to keep; 0: all coordinates unchanged.

        bans: what each user bans, for vectors that are followed by a ban code; None: no code follows.
        """
        mean, std = raw.mean(axis=0, dtype=np.float64), raw.std(axis=0, dtype=np.float64)
        directions = None
        if whitened:
            centred = raw.astype(np.float64) - mean
            _, values, rows = np.linalg.svd(centred, full_matrices=False)
            spreads = values / np.sqrt(len(raw))
            count = max(1, min(whitened, len(raw) // USERS_PER_DIRECTION, int((spreads > 1e-6 * spreads[0]).sum())))
            signs = np.sign(rows[np.arange(count), np.abs(rows[:count]).argmax(axis=1)])  # which LAPACK leaves open
            scaled = rows[:count] * (signs / spreads[:count])[:, None]
            directions = np.ascontiguousarray(scaled.T, dtype=np.float32)
        readout = None if bans is None else _fit_readout(raw, _signs(bans))
        return cls(mean.astype(np.float32), std.astype(np.float32), directions, readout)

    @classmethod
    def as_it_is(cls, width: int) -> Space:
        """The space of vectors of this width that are given out as they are."""
        return cls(np.zeros(width, np.float32), np.ones(width, np.float32))

    @classmethod
    def from_tensors(cls, tensors: dict[str, Array]) -> Space:
        """The space of a store on disk."""
        return cls(tensors["mean"], tensors["std"], tensors.get("directions"), tensors.get("readout"))

    @property
    def tensors(self) -> dict[str, Array]:
        """What a store keeps of it on disk."""
        known = {"mean": self.mean, "std": self.std, "directions": self.directions, "readout": self.readout}
        return {name: tensor for name, tensor in known.items() if tensor is not None}

    def fits(self, llm_dim: int) -> bool:
        """Whether the tensors are of vectors of this width."""
        lengths = {self.mean.shape, self.std.shape} | {t.shape[:1] for t in (self.directions,) if t is not None}
        return lengths == {(llm_dim,)} and (
            self.readout is None or self.readout.shape == (llm_dim + 1, len(category_names()))
        )

    @property
    def code_width(self) -> int:
        return 0 if self.readout is None else self.readout.shape[1]

    @property
    def width(self) -> int:
        """Width of what an adapter reads."""
        return (len(self.mean) if self.directions is None else self.directions.shape[1]) + self.code_width

    def fingerprint_with(self, recipe: str) -> str:
        """Names the space of vectors that a recipe (by its fingerprint) made."""
        parts = [recipe, *(tensor.tobytes().hex() for tensor in self.tensors.values())]
        code = [list(category_names()), CODE_WEIGHT, SHARPNESS] if self.code_width else []
        return fingerprint([*parts, *code, *([LONGEST] if self.directions is not None else [])])

    def place(self, raw: Array) -> Array:
        """Raw vectors [B, llm_dim] -> standardised or whitened ones [B, llm_dim or K], without the code.

        A whitened vector that is longer than LONGEST keeps its direction and loses its length: a profile
        unlike any of the population (a list alone, among whole profiles) lies five times as far out, and
        would drown the code.
        """
        if self.directions is None:
            placed = (raw - self.mean) / np.maximum(self.std, np.float32(STD_FLOOR))
        else:
            # Row by row and without BLAS: the bits of a user do not depend on who else is asked for.
            rows = [_shortened(((row - self.mean)[:, None] * self.directions).sum(axis=0)) for row in raw]
            placed = np.stack(rows) if rows else np.zeros((0, self.directions.shape[1]))
        standard: Array = placed.astype(np.float32)
        return standard

    def code(self, bans: Sequence[Collection[str]]) -> Array:
        """Exact ban codes [B, categories]: CODE_WEIGHT if banned, its negative if allowed; [B, 0] without a code."""
        return (CODE_WEIGHT * _signs(bans)[:, : self.code_width]).astype(np.float32)

    def estimated_code(self, raw: Array) -> Array:
        """Ban codes [B, categories] estimated from vectors [B, llm_dim]; [B, 0] without a code."""
        if self.readout is None:
            return np.zeros((len(raw), 0), np.float32)
        rows = [((row - self.mean)[:, None] * self.readout[:-1]).sum(axis=0) + self.readout[-1] for row in raw]
        estimates = np.stack(rows) if rows else np.zeros((0, self.code_width))
        return (CODE_WEIGHT * np.clip(SHARPNESS * estimates, -1, 1)).astype(np.float32)


def _shortened(row: npt.NDArray[np.floating]) -> npt.NDArray[np.floating]:
    """A whitened vector [K], at most LONGEST times as long as the population's root mean square, sqrt(K)."""
    length, most = float(np.sqrt(np.square(row).sum())), LONGEST * len(row) ** 0.5
    return row * (most / length) if length > most else row


def _signs(bans: Sequence[Collection[str]]) -> npt.NDArray[np.float64]:
    """1 for banned, -1 for allowed, [B, categories]."""
    signs = [[1.0 if category in banned else -1.0 for category in category_names()] for banned in bans]
    return np.array(signs).reshape(len(bans), len(category_names()))


def _fit_readout(raw: Array, signs: npt.NDArray[np.float64]) -> Array:
    """Ridge regression of ban codes on centred vectors, in the smaller of its two forms."""
    centred, means = raw.astype(np.float64) - raw.mean(axis=0, dtype=np.float64), signs.mean(axis=0)
    users, width = centred.shape
    ridge = RIDGE * max((centred**2).sum() / width, 1e-12)
    if width <= users:
        weights = np.linalg.solve(centred.T @ centred + ridge * np.eye(width), centred.T @ (signs - means))
    else:
        weights = centred.T @ np.linalg.solve(centred @ centred.T + ridge * np.eye(users), signs - means)
    return np.concatenate([weights, means[None]]).astype(np.float32)
