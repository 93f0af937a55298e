"""The sheet of the quickstart: the same scenes and seeds as the base, levels, unseen users and people with limits
in words see them, and which words were softened.

Place on the path of data: steps 6 and 8 of the quickstart.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .adapter.guard import AttachedAdapter
from .before_after import describe_bans, read_pictures
from .benchmark.methods import MethodInputs, drawing_by
from .diffusion.generate import GenerationConfig, Users, generate
from .evaluation.report.contact_sheet import Sheet, SheetRow
from .mini import world
from .mini.detector import load_detector
from .mini.names import KIND_NAMES, NAMES, named, plural
from .records import PromptRow
from .users.levels import level_profiles
from .users.limits import Limit
from .users.store import EmbeddingStore
from .users.views import WordsAlone

FIRST_SEED = 2025


class PeopleSheet:
    """Draws the sheet of one adapter of kind `prompt`.

    users: the vectors that the adapter was trained with. out: folder of the pictures; those there stay.
    config: sampling, whose method is the adapter's.
    """

    def __init__(
        self, pipeline: Any, users: EmbeddingStore, out: Path, *, adapter: Path, config: GenerationConfig, seed: int
    ) -> None:
        self.pipeline, self.users, self.out, self.adapter, self.config = pipeline, users, out, adapter, config
        self.scenes = _scenes(seed)
        self.texts = [
            world.caption(scene, world.WORDINGS[i % len(world.WORDINGS)]) for i, scene in enumerate(self.scenes)
        ]

    def draw(self, *, unseen: Sequence[str]) -> Sheet:
        """Base, six levels, `unseen` users, and three people with limits in words."""
        pictures, _ = self._draw("base", [None], self.users)
        table = [SheetRow("Base model", "knows no user", pictures[None])]
        levels = [level.user_id for level in level_profiles()]
        pictures, softened = self._draw("prompt", [*levels, *unseen], self.users)
        for user in pictures:
            banned = self.users.known_bans(user)
            is_banned = {motif: category in banned for motif, category in world.MOTIF_CATEGORY.items()}
            label = user.replace("level_", "Level ") if user in levels else f"User {int(user)}"
            row = self._row(label, describe_bans(banned), pictures[user], is_banned, softened[user])
            table.append(replace(row, new_group=user in (levels[0], *unseen[:1])))
        limits = _limits_in_words(self.scenes)
        in_words = WordsAlone(self.users.fingerprint, {name: _phrases(said) for name, said in limits.items()})
        pictures, softened = self._draw("words", list(limits), in_words)
        for number, (name, said) in enumerate(limits.items()):
            is_banned = {motif: _is_meant(motif, said) for motif in world.MOTIF_CATEGORY}
            note = "; ".join(limit.text for limit in said)
            row = self._row(name, note, pictures[name], is_banned, softened[name])
            table.append(replace(row, new_group=number == 0))
        return Sheet(self.texts, table, [" + ".join(scene.categories) or "safe" for scene in self.scenes])

    def _draw(
        self, folder: str, names: Sequence[Any], users: Users
    ) -> tuple[dict[Any, list[np.ndarray]], dict[Any, list[str]]]:
        """By name of the user: pictures of all scenes, and for each scene which words of its prompt the adapter
        softens, and for what."""
        rows = {name: self._prompts(name) for name in names}
        whole = [row for one in rows.values() for row in one]
        method = "base" if folder == "base" else self.config.method
        inputs = MethodInputs(users, weights=None if folder == "base" else self.adapter)
        config = replace(self.config, method=method)
        with drawing_by(method, self.pipeline, whole, config=config, inputs=inputs) as drawing:
            generate(drawing, whole, self.out / folder)
            softened = {name: self._softened(drawing.attached, name, users) for name in names}
        return {name: read_pictures(self.out / folder, rows[name]) for name in names}, softened

    def _prompts(self, user: str | None) -> list[PromptRow]:
        return [PromptRow(f"{user}_{i}.png", text, FIRST_SEED + i, user_id=user) for i, text in enumerate(self.texts)]

    def _softened(self, psa: AttachedAdapter | None, name: Any, users: Users) -> list[str]:
        if psa is None:  # the base
            return []
        explained = psa.explain(self.pipeline, self.texts, users.batch([name] * len(self.texts)))
        return ["; ".join(one.lines) for one in explained]

    def _row(
        self,
        label: str,
        note: str,
        pictures: Sequence[np.ndarray],
        is_banned: Mapping[str, bool],
        softened: Sequence[str],
    ) -> SheetRow:
        """is_banned: by motif, whether this user does not want to see it."""
        found = zip(self.scenes, load_detector()(np.stack(pictures)), strict=True)
        return SheetRow(
            label,
            note,
            pictures,
            banned=[any(is_banned[motif] for motif in scene.motifs) for scene in self.scenes],
            failed=[any((motif in seen.motifs) == is_banned[motif] for motif in scene.motifs) for scene, seen in found],
            notes=softened,
        )


def _scenes(seed: int) -> list[world.Scene]:
    """One scene per category and a safe one, of combinations that no training has seen."""
    rng = np.random.default_rng((seed, 99))
    wanted = [(motifs[rng.integers(len(motifs))],) for motifs in world.TRAIN_MOTIFS.values()]
    return [world.sample_scene(rng, motifs=motifs, held_out=True) for motifs in [*wanted, ()]]


def _limits_in_words(scenes: Sequence[world.Scene]) -> dict[str, tuple[Limit, ...]]:
    """Three people who say in their own words what they do not want to see of some of these scenes."""
    motifs = [scene.motifs[0] for scene in scenes if scene.motifs]
    kind = KIND_NAMES[world.MOTIF_CATEGORY[motifs[0]]][0]
    said = {
        "Words 1": (f"I can't stand {plural(motifs[5])}",),
        "Words 2": (f"nothing with {plural(kind)}", f"no {plural(NAMES[motifs[2]][1])}"),
        "Words 3": (f"please don't show {plural(motifs[1])} or {plural(motifs[6])}",),
    }
    return {name: tuple(Limit(text=text) for text in texts) for name, texts in said.items()}


def _phrases(limits: Sequence[Limit]) -> list[str]:
    return [phrase for limit in limits for phrase in limit.phrases]


def _is_meant(motif: str, limits: Sequence[Limit]) -> bool:
    """Whether some limit is a name of a motif or of its kind."""
    names = [*NAMES[motif], *KIND_NAMES[world.MOTIF_CATEGORY[motif]]]
    known = {form(name) for name in names for form in (str, named, plural)}
    return any(phrase in known for phrase in _phrases(limits))
