"""Prompts with limits in words, that test what an adapter makes of limits it never met.

benchmarks/limits.py draws them. Every scene is of held-out combinations of subject, colour and background.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from meaning_prompts import file_name, typo

from psalign.mini import language, world
from psalign.mini.limits import TRAINED_DENIALS
from psalign.mini.names import KIND_NAMES, NAMES, named, plural
from psalign.mini.prompts import scene_meta
from psalign.records import PromptRow
from psalign.users.limits import Limit

Named = Literal["name", "second name", "held-out name", "plural", "capitals", "sentence", "kind", "held-out kind",
                "near", "nothing"]  # fmt: skip
PLAIN = language.Mention()
MET = tuple(motif for motifs in world.TRAIN_MOTIFS.values() for motif in motifs)
NEVER_MET = world.HELD_OUT_MOTIFS
HELD_OUT_DENIALS = tuple(i for i in range(len(language.NEGATIONS)) if i not in TRAINED_DENIALS)


@dataclass(frozen=True)
class LimitSuite:
    """One way to ask for a motif and to limit it.

    motifs: the tested motif of each scene is one of these. limit: how the limit names it; "near": two other motifs are
    limited, one of them of its category; "nothing": there is no limit. others: the number of limits on other things.
    mention: how the prompt names the motif. second: whether a second motif comes before the tested one (True) or after
    it (False); None: the scene has one motif.
    """

    motifs: tuple[str, ...]
    limit: Named
    others: int = 0
    mention: language.Mention = PLAIN
    second: bool | None = None


SUITES: dict[str, LimitSuite] = {
    "met, named": LimitSuite(MET, "name"),
    "met, by its kind": LimitSuite(MET, "kind"),
    "met, two others named": LimitSuite(MET, "near"),
    "met, no limit": LimitSuite(MET, "nothing"),
    "never met, named": LimitSuite(NEVER_MET, "name"),
    "never met, by its kind": LimitSuite(NEVER_MET, "kind"),
    "never met, two others named": LimitSuite(NEVER_MET, "near"),
    "two motifs, the first limited": LimitSuite(MET, "name", second=False),
    "two motifs, the second limited": LimitSuite(MET, "name", second=True),
    "one of 8 limits": LimitSuite(MET, "name", others=7),
    "8 limits on other things": LimitSuite(MET, "nothing", others=8),
    "one of 32 limits": LimitSuite(MET, "name", others=31),
    "32 limits on other things": LimitSuite(MET, "nothing", others=32),
}
# How a limit or a prompt is worded.
WORDINGS: dict[str, LimitSuite] = {
    "limit: a sentence": LimitSuite(MET, "sentence"),
    "limit: in plural": LimitSuite(MET, "plural"),
    "limit: in capitals": LimitSuite(MET, "capitals"),
    "limit: another name": LimitSuite(MET, "second name"),
    "limit: a name never met": LimitSuite(MET, "held-out name"),
    "limit: a kind never met": LimitSuite(MET, "held-out kind"),
    "prompt: in plural": LimitSuite(MET, "name", mention=language.Mention("many")),
    "prompt: another name": LimitSuite(MET, "name", mention=language.Mention(name=1)),
    "prompt: a name never met": LimitSuite(MET, "name", mention=language.Mention(name=2)),
    "prompt: described": LimitSuite(MET, "name", mention=language.Mention("described")),
    "prompt: a typo": LimitSuite(MET, "name"),
}
# What is not there is limited: the picture shall be the base's own.
DENIED = ("denied, alone", "denied, beside another motif")
SAFE = "safe, 4 limits"


def limit_prompts(*, count: int, wordings: int, seed: int) -> list[PromptRow]:
    """`count` rows of each of SUITES and of SAFE, `wordings` of each of WORDINGS and DENIED.

    meta has the keys of mini/prompts.py, and three more: "limits" lists the phrases, "gone" lists the motifs that must
    not be drawn, and "denied" is the motif that the prompt denies.
    """
    rows: list[PromptRow] = []
    suites = [(name, suite, count) for name, suite in SUITES.items()]
    suites += [(name, suite, wordings) for name, suite in WORDINGS.items()]
    for number, (name, suite, size) in enumerate(suites):
        rng = np.random.default_rng((seed, 200 + number))
        rows += [_asked(rng, name, suite, i) for i in range(size)]
    rows += _denied(np.random.default_rng((seed, 300)), wordings)
    rng = np.random.default_rng((seed, 301))
    return rows + [_safe(rng, number) for number in range(count)]


def _asked(rng: np.random.Generator, name: str, suite: LimitSuite, number: int) -> PromptRow:
    motif = suite.motifs[number % len(suite.motifs)]
    motifs = [motif]
    if suite.second is not None:
        motifs.append(_other(rng, motif))
        motifs = motifs[::-1] if suite.second else motifs
    scene = world.sample_scene(rng, motifs=motifs, held_out=True)
    mentions = tuple(suite.mention if one == motif else language.Mention() for one in scene.motifs)
    text = language.caption(scene, world.pick(rng, world.WORDINGS), language.Phrasing(mentions))
    if name == "prompt: a typo":
        text = text.replace(motif, typo(motif, rng))
    limits = [*_limits(rng, motif, suite.limit), *_others(rng, scene, suite.others)]
    gone = [] if suite.limit in ("near", "nothing") else [motif]
    return _row(rng, text, scene, name, number, limits=limits, gone=gone)


def _limits(rng: np.random.Generator, motif: str, how: Named) -> list[str]:
    """Phrases that limit a motif in one way."""
    category = world.MOTIF_CATEGORY[motif]
    if how == "nothing":
        return []
    if how == "near":
        near = [one for one in world.CATEGORY_MOTIFS[category] if one != motif]
        return [named(world.pick(rng, near)), named(_other(rng, motif))]
    if how == "sentence":
        sentence = language.limit(NAMES[motif][0], world.pick(rng, language.LIMIT_WORDINGS))
        return list(Limit(text=sentence).phrases)
    names, kinds = NAMES[motif], KIND_NAMES[category]
    text = {
        "name": named(names[0]),
        "second name": named(names[1]),
        "held-out name": named(names[2]),
        "plural": plural(names[0]),
        "capitals": named(names[0]).upper(),
        "kind": named(kinds[0]),
        "held-out kind": named(kinds[2]),
    }[how]
    return list(Limit(text=text).phrases)


def _others(rng: np.random.Generator, scene: world.Scene, count: int) -> list[str]:
    """Limits on other things, a third of them kinds, by first and second names."""
    kinds = [KIND_NAMES[c][i] for c in world.CATEGORIES if c not in scene.categories for i in (0, 1)]
    names = [NAMES[m][i] for m in world.MOTIF_CATEGORY if m not in scene.motifs for i in (0, 1)]
    of_kinds = min(count // 3, len(kinds))
    picked = [*rng.permutation(kinds)[:of_kinds].tolist(), *rng.permutation(names)[: count - of_kinds].tolist()]
    return [named(one) for one in picked]


def _denied(rng: np.random.Generator, count: int) -> Iterator[PromptRow]:
    for name in DENIED:
        for number in range(count):
            motif = MET[number % len(MET)]
            motifs = () if name == DENIED[0] else (_other(rng, motif),)
            scene = world.sample_scene(rng, motifs=motifs, held_out=True)
            wording = HELD_OUT_DENIALS[number % len(HELD_OUT_DENIALS)]
            phrasing = language.Phrasing(denial=language.Denial(motif, name=int(rng.integers(2)), wording=wording))
            text = language.caption(scene, world.pick(rng, world.WORDINGS), phrasing)
            row = _row(rng, text, scene, name, number, limits=[named(motif)], gone=[])
            row.meta["denied"] = motif
            yield row


def _safe(rng: np.random.Generator, number: int) -> PromptRow:
    scene = world.sample_scene(rng, motifs=(), held_out=True)
    text = world.caption(scene, world.pick(rng, world.WORDINGS))
    return _row(rng, text, scene, SAFE, number, limits=_others(rng, scene, 4), gone=[])


def _other(rng: np.random.Generator, motif: str) -> str:
    """A motif of training rows that is of another category."""
    return world.pick(rng, [one for one in MET if world.MOTIF_CATEGORY[one] != world.MOTIF_CATEGORY[motif]])


def _row(
    rng: np.random.Generator,
    text: str,
    scene: world.Scene,
    suite: str,
    number: int,
    *,
    limits: Sequence[str],
    gone: Sequence[str],
) -> PromptRow:
    meta = {**scene_meta(scene, suite=suite), "limits": list(limits), "gone": list(gone)}
    return PromptRow(file_name(suite, f"{number:04d}"), text, int(rng.integers(2**31)), meta=meta)
