"""User vectors and how they are made, [B, llm_dim]. Step 3 of the path of data.

A recipe says how vectors were made; an adapter trained on one recipe refuses vectors of another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ..categories import category_names
from ..files import Record
from ..fingerprints import fingerprint
from ..records import PUBLISHED_RECIPE
from .policy import banned_categories
from .profile import VOCABULARY, UserProfile

Array = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Recipe:
    """How user vectors are made: backend, width, version, and all else that changes a number.

    The options of published vectors are not known, so they do not count: one recipe for each width.
    """

    backend: str
    llm_dim: int
    version: int = 1
    options: Record = field(default_factory=dict)

    @property
    def fingerprint(self) -> str:
        options = {} if self.backend == PUBLISHED_RECIPE else self.options
        return fingerprint({**asdict(self), "options": options})


@dataclass(frozen=True)
class UserBatch:
    """The users of a call's rows, as an adapter takes them: None is a row with no user.

    vectors: what an adapter reads, [width] each. recipe: fingerprint of how they were made.
    bans: 1 for a banned and 0 for an allowed category, [categories] each; None where the list is not known.
    limits: (phrase, strength) of each row's limits in words that hold today.
    unheld: the number of banned categories of each row that its vector lacks, as limits were added after it
    was made.
    A batch holds nothing else about a person. A repr does not show limits: they are personal.
    """

    vectors: tuple[Array | None, ...]
    recipe: str
    bans: tuple[Array | None, ...] = ()
    limits: tuple[tuple[tuple[str, float], ...], ...] = field(default=(), repr=False)
    unheld: tuple[int, ...] = ()


class Embedder(Protocol):
    """Makes raw user vectors; a language model is one backend, StructuredEmbedder another."""

    @property
    def recipe(self) -> Recipe: ...

    def embed(self, profiles: Sequence[UserProfile]) -> Array:
        """Raw vectors [B, llm_dim], float32; a row depends on its own profile only."""
        ...


class StructuredEmbedder:
    """Vectors from the fields of a profile and its banned categories, offline and without a language model.

    One-hots (a field that is not known has a place of its own) pass a fixed dense random projection, a tanh
    and a second projection: like a language model's, no coordinate stands for one category. Bans weigh more
    than the person, so that a profile of nothing but a ban list lands near people who ban the same.
    """

    SEED = 2025
    HIDDEN = 256
    BAN_WEIGHT = 1.0
    PERSON_WEIGHT = 0.25

    def __init__(self, llm_dim: int = 64) -> None:
        options = {
            "seed": self.SEED,
            "hidden": self.HIDDEN,
            "ban_weight": self.BAN_WEIGHT,
            "person_weight": self.PERSON_WEIGHT,
            "categories": list(category_names()),
            "vocabulary": {name: list(words) for name, words in VOCABULARY.items()},
        }
        self.recipe = Recipe("structured", llm_dim, version=1, options=options)
        rng = np.random.default_rng(self.SEED)
        self._project = _dense(rng, len(self._features(UserProfile(user_id="nobody", banned=()))), self.HIDDEN)
        self._mix = _dense(rng, self.HIDDEN, llm_dim)

    def embed(self, profiles: Sequence[UserProfile]) -> Array:
        """Raw vectors [B, llm_dim], float32, of order 1; equal profiles with equal bans give equal bits."""
        rows = [self._embed_one(profile) for profile in profiles]
        return np.stack(rows) if rows else np.zeros((0, self.recipe.llm_dim), np.float32)

    def _embed_one(self, profile: UserProfile) -> Array:
        # Row by row, in float64 and without BLAS: the bits do not depend on the batch.
        hidden = np.tanh((self._features(profile)[:, None] * self._project).sum(axis=0))  # [hidden]
        mixed: Array = (hidden[:, None] * self._mix).sum(axis=0).astype(np.float32)  # [llm_dim]
        return mixed

    def _features(self, profile: UserProfile) -> npt.NDArray[np.float64]:
        bans = banned_categories(profile)
        signs = [1.0 if category in bans else -1.0 for category in category_names()]
        person = [0.0 if profile.age is None else profile.age / 100, float(profile.age is None)]
        for name, words in VOCABULARY.items():
            person += [float(getattr(profile, name) == word) for word in (*words, None)]
        return np.concatenate([np.array(signs) * self.BAN_WEIGHT, np.array(person) * self.PERSON_WEIGHT])


def _dense(rng: np.random.Generator, rows: int, columns: int) -> npt.NDArray[np.float64]:
    # Uniform with variance 1 / rows; plain uniform draws stay the same over numpy versions.
    weights: npt.NDArray[np.float64] = (rng.random((rows, columns)) * 2 - 1) * np.sqrt(3 / rows)
    return weights
