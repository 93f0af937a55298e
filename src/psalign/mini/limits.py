"""Captions of the mini world with limits in words: what a limit removes from a caption, and what stays.

Place on the path of data: the rows of limits.jsonl, which mini/dataset.py writes into its training split and
training by captions reads (sage/limit_rows.py); and the prompts with limits that an adapter is measured on.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ..files import Record
from . import language, world
from .names import KIND_NAMES, NAMES, named, plural

NONE_SHARE, TWO_SHARE = 0.1, 0.7  # of captions with no motif, and of the others with two
LIMITED_SHARE = 0.5  # of motifs that a limit names
KIND_SHARE = 0.4  # of these limits, those that name the kind
OTHER_KIND_SHARE = 0.33  # of limits that the caption does not touch
NEAR_SHARE = 0.5  # of the others of them, those of a category that the caption has
DENIAL_SHARE = 0.1  # of captions that say what is not there
MOST_OTHERS, FEW_OTHERS = 6, 3  # limits that a caption does not touch: up to either, by halves
TRAINED_DENIALS = (0, 2, 4, 5)  # of language.NEGATIONS; the others are for testing


@dataclass(frozen=True)
class LimitSource:
    """What captions and limits are drawn from.

    motifs: the motifs that may be named. names: the number of names of each motif and kind that are used,
    from the first. plural_share: the share of motifs that captions name in plural.
    """

    motifs: tuple[str, ...]
    names: int
    plural_share: float

    def form(self, rng: np.random.Generator, names: Sequence[str]) -> str:
        """A name of a limit as people write it: "a sword", "swords" or "sword"."""
        name = names[int(rng.integers(self.names))]
        return (named(name), plural(name), name)[int(rng.integers(3))]


def sample_limit_rows(rng: np.random.Generator, source: LimitSource, count: int) -> Iterator[Record]:
    """Records with caption, chosen_caption and limits, on combinations that training splits have."""
    for _ in range(count):
        yield _sample(rng, source)


def _sample(rng: np.random.Generator, source: LimitSource) -> Record:
    count = 0 if rng.random() < NONE_SHARE else 1 + int(rng.random() < TWO_SHARE)
    motifs = [str(motif) for motif in rng.choice(source.motifs, size=count, replace=False)]
    scene = world.sample_scene(rng, motifs=motifs)
    mentions = {
        motif: language.sample_trained_mention(rng, names=source.names, plural_share=source.plural_share)
        for motif in scene.motifs
    }
    limits, gone = _touching(rng, source, scene)
    absent = [motif for motif in source.motifs if motif not in scene.motifs]
    denial = None
    if rng.random() < DENIAL_SHARE:
        denied = absent.pop(int(rng.integers(len(absent))))
        name, how = int(rng.integers(source.names)), world.pick(rng, TRAINED_DENIALS)
        denial = language.Denial(denied, name=name, wording=how, first=bool(rng.integers(2)))
        if rng.random() < LIMITED_SHARE:  # what is denied stays denied
            limits.append(source.form(rng, NAMES[denied]))
    limits += _others(rng, source, scene, absent)
    rng.shuffle(limits)
    wording = world.pick(rng, world.WORDINGS)

    def caption(of: world.Scene) -> str:
        phrasing = language.Phrasing(tuple(mentions[motif] for motif in of.motifs), denial)
        return language.caption(of, wording, phrasing)

    return {"caption": caption(scene), "chosen_caption": caption(scene.without(gone)), "limits": limits}


def _touching(rng: np.random.Generator, source: LimitSource, scene: world.Scene) -> tuple[list[str], list[str]]:
    """Limits that a scene's caption touches, and the motifs that go."""
    limits, gone = [], []
    for motif in scene.motifs:
        if rng.random() >= LIMITED_SHARE:
            continue
        category = world.MOTIF_CATEGORY[motif]
        by_kind = rng.random() < KIND_SHARE
        limits.append(source.form(rng, KIND_NAMES[category] if by_kind else NAMES[motif]))
        gone += [one for one in scene.motifs if one == motif or (by_kind and world.MOTIF_CATEGORY[one] == category)]
    return limits, gone


def _others(rng: np.random.Generator, source: LimitSource, scene: world.Scene, absent: Sequence[str]) -> list[str]:
    """Limits that a scene's caption does not touch."""
    most = MOST_OTHERS if rng.random() < 0.5 else FEW_OTHERS
    near = [motif for motif in absent if world.MOTIF_CATEGORY[motif] in scene.categories]
    kinds = [category for category in world.CATEGORIES if category not in scene.categories]
    found = []
    for _ in range(int(rng.integers(most + 1))):
        if rng.random() < OTHER_KIND_SHARE:
            found.append(source.form(rng, KIND_NAMES[world.pick(rng, kinds)]))
        else:
            pool = near if near and rng.random() < NEAR_SHARE else absent
            found.append(source.form(rng, NAMES[world.pick(rng, pool)]))
    return found
