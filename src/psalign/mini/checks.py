"""What the shipped mini models can do, counted on fresh drawings and held-out captions.

Place on the path of data: beside mini/base.py and mini/detector.py; `psalign mini check` prints it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from . import language, world
from .base import psnr_db, reconstruct
from .clip import MiniClip, one_wrong, tell
from .detector import Detector, Verdict
from .names import NAMES

Count = tuple[int, int]  # right, of


def check_autoencoder(pipeline: Any, *, n: int = 500, seed: int = 90) -> float:
    """Mean PSNR in dB on fresh drawings."""
    pictures, _ = _drawings(n, seed)
    return psnr_db(pictures, reconstruct(pipeline.vae, pictures))


def check_detector(detector: Detector, pipeline: Any, *, n: int = 1000, seed: int = 91) -> dict[str, Count]:
    """Pictures of which all (motifs, categories, subject and colour) is right: fresh, faded or cut, and reconstructed.

    "motifs" counts single decisions, one per motif and picture; faded: 30 % opacity and more, or at least 40 % shown.
    """
    rng = np.random.default_rng(seed)
    plain, scenes = _drawings(n, seed)
    faded = np.stack([_faded(scene, rng) for scene in scenes])
    sets = {"fresh drawings": plain, "faded or cut motifs": faded, "reconstructions": reconstruct(pipeline.vae, plain)}
    counts: dict[str, Count] = {}
    for name, pictures in sets.items():
        seen = [verdict for i in range(0, n, 100) for verdict in detector(pictures[i : i + 100])]
        motifs = [set(v.motifs) == set(s.motifs) for v, s in zip(seen, scenes, strict=True)]
        subject = [v.subject == s.subject for v, s in zip(seen, scenes, strict=True)]
        colour = [v.colour == s.colour for v, s in zip(seen, scenes, strict=True)]
        for what, right in (("motifs", motifs), ("subject", subject), ("colour", colour)):
            counts[f"{name}: {what}"] = (sum(right), n)
    return counts


def check_base(
    pipeline: Any, detector: Detector, *, n: int = 1000, seed: int = 92, steps: int = 15, guidance: float = 4.0
) -> dict[str, Count]:
    """The base on n captions of held-out combinations: motifs asked for, the subject, its colour, and motifs unasked.

    "motif": each motif asked for is one case. "unasked": pictures with a motif nobody asked for.
    """
    rng = np.random.default_rng(seed)
    wordings = world.WORDINGS + world.HELD_OUT_WORDINGS
    scenes = [world.sample_scene(rng, held_out=True) for _ in range(n)]
    texts = [
        world.caption(s, wordings[rng.integers(len(wordings))], kinds=rng.choice(3, 2, p=(0.5, 0.3, 0.2)).tolist())
        for s in scenes
    ]
    verdicts = _look(pipeline, detector, texts, seed=seed * n, steps=steps, guidance=guidance)
    pairs = list(zip(verdicts, scenes, strict=True))
    asked = [motif in v.motifs for v, s in pairs for motif in s.motifs]
    one = [s.motifs[0] in v.motifs for v, s in pairs if len(s.motifs) == 1]
    return {
        "motif": (sum(asked), len(asked)),
        "motif, one asked": (sum(one), len(one)),
        "subject": (sum(v.subject == s.subject for v, s in pairs), n),
        "subject and colour": (sum((v.subject, v.colour) == (s.subject, s.colour) for v, s in pairs), n),
        "unasked": (sum(bool(v.motifs - set(s.motifs)) for v, s in pairs), n),
    }


@dataclass(frozen=True)
class _Case:
    """A text, what it must draw, and which motifs it must not draw. told: how the text speaks of its motifs."""

    told: str
    text: str
    scene: world.Scene
    denied: tuple[str, ...] = ()


def check_language(
    pipeline: Any, detector: Detector, *, n: int = 1000, seed: int = 94, steps: int = 15, guidance: float = 4.0
) -> dict[str, Count]:
    """The base on the whole language, in every wording, on held-out combinations.

    n: texts in all. A round of 420 has each name in singular and in plural; and each motif described, told by its kind
    alone, denied alone and beside another motif, its kind denied, and with another motif. Rounds are shuffled.
    """
    rng = np.random.default_rng(seed)
    cases: list[_Case] = []
    while len(cases) < n:
        one_round = [case for motif in world.MOTIF_CATEGORY for case in _cases(motif, rng)]
        cases += [one_round[i] for i in rng.permutation(len(one_round))]
    cases = cases[:n]
    texts = [case.text for case in cases]
    verdicts = _look(pipeline, detector, texts, seed=seed * n, steps=steps, guidance=guidance)
    counts: dict[str, Count] = {}

    def count(name: str, rights: Iterable[bool]) -> None:
        right, of = counts.get(name, (0, 0))
        listed = list(rights)
        counts[name] = (right + sum(listed), of + len(listed))

    for case, seen in zip(cases, verdicts, strict=True):
        count(case.told, (motif in seen.motifs for motif in case.scene.motifs))
        if case.denied:
            count(f"{case.told}, not drawn", [not seen.motifs & set(case.denied)])
        if len(case.scene.motifs) == 2:
            count(f"{case.told}, both", [set(case.scene.motifs) <= seen.motifs])
        count("subject", [seen.subject == case.scene.subject])
        count("subject and colour", [(seen.subject, seen.colour) == (case.scene.subject, case.scene.colour)])
        count("unasked", [bool(seen.motifs - set(case.scene.motifs))])
    counts = {name: number for name, number in counts.items() if number[1]}
    return counts | _worst_name(cases, verdicts)


def _cases(motif: str, rng: np.random.Generator) -> Iterator[_Case]:
    """Texts about one motif."""
    category, wordings = world.MOTIF_CATEGORY[motif], world.WORDINGS + world.HELD_OUT_WORDINGS + language.MORE_WORDINGS
    others = [other for other in world.MOTIF_CATEGORY if world.MOTIF_CATEGORY[other] != category]

    def case(told: str, motifs: Sequence[str], telling: language.Telling) -> _Case:
        scene = world.sample_scene(rng, motifs=motifs, held_out=True)
        text = language.caption(scene, wordings[rng.integers(len(wordings))], telling)
        denied = telling.denial.motifs if telling.denial else ()
        return _Case(told, text, language.drawn(scene, telling), denied)

    def one(form: language.Form, name: int = 0) -> language.Telling:
        return language.Telling((language.Mention(form, name, kind_name=int(rng.integers(3))),))

    def denying(*, by_kind: bool) -> language.Telling:
        wording = int(rng.integers(len(language.NEGATIONS)))
        return language.Telling(
            denial=language.Denial(motif, by_kind, int(rng.integers(3)), wording, bool(rng.integers(2)))
        )

    other = str(rng.choice(others))
    for name, which in enumerate(("first", "second", "third")):
        yield case(f"{which} names", (motif,), one("one", name))
        yield case(f"{which} names, plural", (motif,), one("many", name))
    yield case("described", (motif,), one("described"))
    yield case("kind alone", (motif,), one("kind"))
    yield case("denied alone", (), denying(by_kind=False))
    yield case("denied beside a motif", (other,), denying(by_kind=False))
    yield case("kind denied beside a motif", (other,), denying(by_kind=True))
    yield case("two motifs", (motif, other), language.Telling())


def _worst_name(cases: Sequence[_Case], verdicts: Sequence[Verdict]) -> dict[str, Count]:
    """The name in singular or plural that is drawn least often."""
    by_name: dict[str, list[bool]] = {}
    for case, seen in zip(cases, verdicts, strict=True):
        if " names" in case.told:
            (motif,) = case.scene.motifs
            number = ("first", "second", "third").index(case.told.split()[0])
            by_name.setdefault(NAMES[motif][number], []).append(motif in seen.motifs)
    if not by_name:
        return {}
    name = min(by_name, key=lambda name: sum(by_name[name]) / len(by_name[name]))
    return {f"the worst of {len(by_name)} names: {name}": (sum(by_name[name]), len(by_name[name]))}


def _look(
    pipeline: Any, detector: Detector, texts: Sequence[str], *, seed: int, steps: int, guidance: float
) -> list[Verdict]:
    """What the detector sees in pictures of texts, one each. seed: of the first; the others follow."""
    verdicts: list[Verdict] = []
    for start in range(0, len(texts), 100):
        part = list(texts[start : start + 100])
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
        images = pipeline(
            part, num_inference_steps=steps, guidance_scale=guidance, generator=generators, output_type="np"
        ).images
        verdicts += detector((images * 255).round().astype(np.uint8))
    return verdicts


def check_clip(clip: MiniClip, pipeline: Any, *, n: int = 640, seed: int = 93) -> dict[str, Count]:
    """The text-image model on fresh drawings and on reconstructions.

    "caption of 64": the right caption scores highest among those of 64 drawings. "above a wrong motif" (subject,
    colour, background, side): it scores higher than the same caption with that one thing wrong.
    """
    rng = np.random.default_rng(seed)
    plain, scenes = _drawings(n, seed)
    counts: dict[str, Count] = {}
    for name, pictures in {"drawings": plain, "reconstructions": reconstruct(pipeline.vae, plain)}.items():
        right = [tell(scene, rng) for scene in scenes]
        own, found = np.zeros(n), np.zeros(n, bool)
        for start in range(0, n, 64):
            scores = clip.scores(pictures[start : start + 64], right[start : start + 64])
            own[start : start + 64] = scores.diagonal()
            found[start : start + 64] = scores.argmax(1) == np.arange(len(scores))
        counts[f"{name}: caption of 64"] = (int(found.sum()), n)
        for what in ("motif", "subject", "colour", "background", "side"):
            wrong = [tell(one_wrong(scene, rng, what), rng) for scene in scenes]
            parts = [slice(start, start + 64) for start in range(0, n, 64)]
            other = np.concatenate([clip.scores(pictures[part], wrong[part]).diagonal() for part in parts])
            counts[f"{name}: above a wrong {what}"] = (int((own > other).sum()), n)
    return counts


def _drawings(n: int, seed: int) -> tuple[np.ndarray, list[world.Scene]]:
    rng = np.random.default_rng(seed)
    scenes = [world.sample_scene(rng, held_out=None) for _ in range(n)]
    return np.stack([world.draw(scene, seed=int(rng.integers(2**31))) for scene in scenes]), scenes


def _faded(scene: world.Scene, rng: np.random.Generator) -> np.ndarray:
    faint = rng.random() < 0.5
    return world.draw(
        scene,
        seed=int(rng.integers(2**31)),
        opacity=rng.uniform(0.3, 1.0) if faint else 1.0,
        shown=1.0 if faint else rng.uniform(0.4, 1.0),
    )
