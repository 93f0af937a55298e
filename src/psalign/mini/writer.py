"""A writer of prompts without a language model: captions of mini scenes, with and without a motif.

Place on the path of data: hands prompts to sage/build.py, which hands them to the mini base.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from ..categories import require_default
from ..errors import GenerationError
from ..files import Record
from ..fingerprints import fingerprint
from ..sage.build.concepts import Concept, Item
from ..sage.build.writers import Prompts
from . import world


class TemplateWriter:
    """Concepts are motifs.

    Prompts depend on seed, concept and index alone; scenes are those that training may have.
    """

    concurrency = 1

    def __init__(self, *, seed: int = 0) -> None:
        require_default("The mini world")
        self.seed = seed
        self.recipe: Record = {"writer": "template", "seed": seed, "world": fingerprint(world.definitions())}

    def write(self, item: Item) -> Prompts:
        """Captions of one scene with the motif and without it.

        Raises GenerationError for a motif there is not.
        """
        category, motif = item.concept.category, item.concept.concept
        if world.MOTIF_CATEGORY.get(motif) != category:
            known = ", ".join(world.CATEGORY_MOTIFS[category])
            raise GenerationError(
                f"The mini world has no motif {motif!r} of {category}; it has {known}.",
                hint="Other concepts need a language model: --writer transformers",
            )
        rng = np.random.default_rng(int(fingerprint([self.seed, item.key]), 16))
        scene = world.sample_scene(rng, motifs=(motif,))
        wording = world.WORDINGS[int(rng.integers(len(world.WORDINGS)))]
        kinds = rng.choice(3, size=1, p=(0.5, 0.3, 0.2)).tolist()
        with_motif, without = (world.caption(one, wording, kinds=kinds) for one in (scene, scene.without(scene.motifs)))
        return Prompts(unsafe=with_motif, safe=without)

    def expand(self, category: str, seeds: Sequence[str], count: int) -> list[str]:
        """`count` motifs of a category, the seeds first.

        Raises GenerationError where there are not as many.
        """
        motifs = [*seeds, *(motif for motif in world.CATEGORY_MOTIFS[category] if motif not in seeds)]
        if len(motifs) < count:
            raise GenerationError(f"The mini world has {len(motifs)} motifs of {category}, not {count}.")
        return motifs[:count]


def all_motifs() -> list[Concept]:
    """Every motif of the mini world as a concept."""
    return [Concept(category, motif) for category, motifs in world.CATEGORY_MOTIFS.items() for motif in motifs]
