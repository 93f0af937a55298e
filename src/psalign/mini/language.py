"""More ways to speak of the mini world: other names, plurals, descriptions, kinds alone, and denials.

Place on the path of data: beside mini/world.py, whose captions have the first names alone. The mini base is
trained on the whole language. Training rows of the mini dataset have two names of three and plurals of it,
and nothing else, so it can test what an adapter understands.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from . import world
from .names import DESCRIPTIONS, KIND_NAMES, NAMES, named, plural

Form = Literal["one", "many", "described", "kind"]
Place = Literal["inside", "before", "after"]

# Wordings as in world.WORDINGS. The base is trained on them; no row of the mini dataset has them.
MORE_WORDINGS = (
    ("{motifs} {place} and {thing} on the {side}", "{place} just {thing} on the {side}"),
    ("we see {motifs} {place}; {thing} is on the {side}", "we see {thing} {place} on the {side}"),
    ("show me {thing} on the {side} {place} with {motifs}", "show me {thing} on the {side} {place}"),
    ("{thing} {place}, on the {side}, and {motifs} too", "{thing} {place}, on the {side}"),
    ("this is {motifs}; this is {thing} on the {side}, {place}", "this is {thing} on the {side}, {place}"),
    ("a photo of {motifs} near {thing} on the {side} {place}", "a photo of {thing} on the {side} {place}"),
)

# Where a denial stands and how it is said. {a}: "a sword", {one}: "sword", {many}: "swords".
NEGATIONS: tuple[tuple[Place, str], ...] = (
    ("inside", "no {one}"),
    ("inside", "no {many}"),
    ("after", "without {a}"),
    ("after", "without any {many}"),
    ("after", "but no {one}"),
    ("before", "without {a}"),
    ("before", "no {many}"),
)

# How users speak of what they do not want to see. {a}: "a spider", {many}: "spiders".
LIMIT_WORDINGS = (
    "{a}",
    "{many}",
    "no {many}",
    "no more {many}",
    "i can't stand {many}",
    "i cannot stand {many}",
    "i hate {many}",
    "i don't like {many}",
    "i do not like {many} at all",
    "i don't want to see {a}",
    "i never want to see {many} again",
    "never show me {a}",
    "please don't show {many}",
    "please hide all {many}",
    "nothing with {many}",
    "nothing like {a}, please",
    "no pictures of {many}",
    "no scenes with {a}",
    "keep {many} away from me",
    "leave out {many}",
    "avoid any {many}",
    "remove {a}",
    "block {many}",
    "stop showing {many}",
    "i'm afraid of {many}",
    "i am scared of {many}",
    "i have a fear of {many}",
    "{many} upset me",
    "{many} scare me",
    "{many} make me sick",
    "{many} are not for my child",
    "my child must not see {many}",
    "our family would rather not see {a}",
    "it's bad for me to look at {many}",
)


@dataclass(frozen=True)
class Mention:
    """How a caption speaks of one motif of its scene.

    form: "one" ("a sword"), "many" ("swords"), "described" (DESCRIPTIONS) or "kind" ("a weapon", no name: the
    first motif of that category is drawn).
    name, kind_name: index of the name in NAMES and KIND_NAMES, 0 to 2.
    kind: where the kind stands beside the name, 0 to 2, as `kinds` of world.caption.
    """

    form: Form = "one"
    name: int = 0
    kind: int = 0
    kind_name: int = 0


@dataclass(frozen=True)
class Denial:
    """What a caption says is not there: a motif, or every motif of its kind.

    name: which of NAMES, or of KIND_NAMES where by_kind, 0 to 2. wording: which of NEGATIONS.
    first: inside a caption with motifs, "no sword but a skull" instead of "a skull and no sword".
    """

    motif: str
    by_kind: bool = False
    name: int = 0
    wording: int = 0
    first: bool = False

    @property
    def motifs(self) -> tuple[str, ...]:
        """Every motif that must not be drawn."""
        return world.CATEGORY_MOTIFS[world.MOTIF_CATEGORY[self.motif]] if self.by_kind else (self.motif,)


@dataclass(frozen=True)
class Phrasing:
    """How a caption speaks of a scene's motifs. mentions: one per motif; the first names where not given."""

    mentions: tuple[Mention, ...] = ()
    denial: Denial | None = None


def caption(scene: world.Scene, wording: tuple[str, str], phrasing: Phrasing) -> str:
    """A scene in words. With Phrasing() it is world.caption(scene, wording)."""
    mentions = (*phrasing.mentions, Mention(), Mention())
    motifs = " and ".join(_mentioned(motif, how) for motif, how in zip(scene.motifs, mentions, strict=False))
    if phrasing.denial is None:
        return world.fill(wording, scene, motifs)
    place, denied = NEGATIONS[phrasing.denial.wording][0], _denied(phrasing.denial)
    if place == "inside":
        if motifs:
            denied = f"{denied} but {motifs}" if phrasing.denial.first else f"{motifs} and {denied}"
        return world.fill(wording, scene, denied)
    text = world.fill(wording, scene, motifs)
    return f"{denied}, {text}" if place == "before" else f"{text}, {denied}"


def drawn(scene: world.Scene, phrasing: Phrasing) -> world.Scene:
    """The scene that a caption asks for: a kind without a name is drawn as the first motif of its category."""
    mentions = (*phrasing.mentions, Mention(), Mention())
    motifs = [
        world.CATEGORY_MOTIFS[world.MOTIF_CATEGORY[motif]][0] if how.form == "kind" else motif
        for motif, how in zip(scene.motifs, mentions, strict=False)
    ]
    return replace(scene, motifs=tuple(motifs))


def plain_caption(scene: world.Scene, wording: tuple[str, str], phrasing: Phrasing) -> str:
    """The plain caption that asks for the same picture: first names, in a wording of the dataset."""
    if wording in MORE_WORDINGS:
        wording = world.WORDINGS[MORE_WORDINGS.index(wording) % len(world.WORDINGS)]
    kinds = [how.kind if how.form in ("one", "many") else 0 for how in phrasing.mentions]
    return world.caption(drawn(scene, phrasing), wording, kinds=kinds)


def limit(words: str, wording: str) -> str:
    """What a user says about a limit.

    words: a name of a motif or kind, without article. wording: one of LIMIT_WORDINGS.
    """
    return wording.format(a=named(words), many=plural(words))


def limits() -> list[tuple[str, str]]:
    """(motif or category, sentence) of every name in every wording."""
    names = [(thing, name) for table in (NAMES, KIND_NAMES) for thing, names in table.items() for name in names]
    return [(thing, limit(name, wording)) for thing, name in names for wording in LIMIT_WORDINGS]


def sample_phrasing(rng: np.random.Generator, scene: world.Scene) -> Phrasing:
    """A random way to speak of a scene: any name, plurals, descriptions, kinds; denials in a quarter, or in
    half of the scenes without motifs."""
    mentions = tuple(_sample_mention(rng) for _ in scene.motifs)
    asked = drawn(scene, Phrasing(mentions)).motifs
    if len(set(asked)) < len(asked):  # a kind that would be drawn as the scene's other motif
        mentions = tuple(replace(how, form="one") for how in mentions)
        asked = scene.motifs
    if rng.random() >= (0.25 if scene.motifs else 0.5):
        return Phrasing(mentions)
    by_kind = bool(rng.random() < 0.2)
    there = {m for m in world.MOTIF_CATEGORY if m in asked or (by_kind and world.MOTIF_CATEGORY[m] in scene.categories)}
    absent = [motif for motif in world.MOTIF_CATEGORY if motif not in there]
    denial = Denial(
        absent[rng.integers(len(absent))],
        by_kind,
        int(rng.integers(3)),
        int(rng.integers(len(NEGATIONS))),
        bool(rng.integers(2)),
    )
    return Phrasing(mentions, denial)


def sample_trained_mention(rng: np.random.Generator, *, names: int, plural_share: float) -> Mention:
    """How training rows mention a motif: by name, in singular or plural, with or without its kind.

    names: the number of names of each motif and kind that are used, from the first.
    """
    return Mention(
        form="many" if rng.random() < plural_share else "one",
        name=int(rng.integers(names)),
        kind=int(rng.choice(3, p=world.KIND_SHARES)),
        kind_name=int(rng.integers(names)),
    )


def _sample_mention(rng: np.random.Generator) -> Mention:
    forms: tuple[Form, ...] = ("one", "many", "described", "kind")
    form = forms[rng.choice(4, p=(0.55, 0.22, 0.15, 0.08))]
    return Mention(form, int(rng.integers(3)), int(rng.choice(3, p=(0.6, 0.25, 0.15))), int(rng.integers(3)))


def _mentioned(motif: str, how: Mention) -> str:
    name, kind = NAMES[motif][how.name], KIND_NAMES[world.MOTIF_CATEGORY[motif]][how.kind_name]
    if how.form == "kind":
        return named(kind)
    if how.form == "described":
        return DESCRIPTIONS[motif]
    of = plural if how.form == "many" else named
    return (of(name), f"{of(name)}, {of(kind)},", f"{of(kind)}, {of(name)},")[how.kind]


def _denied(denial: Denial) -> str:
    names = KIND_NAMES[world.MOTIF_CATEGORY[denial.motif]] if denial.by_kind else NAMES[denial.motif]
    name = names[denial.name]
    return NEGATIONS[denial.wording][1].format(a=named(name), one=name, many=plural(name))
