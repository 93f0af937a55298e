"""What the shipped mini models can do, counted on fresh drawings and held-out captions.

Place on the path of data: beside the models of mini/; `psalign mini check` prints it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ...records import Verdict
from .. import language, world
from ..clip import MiniClip
from ..detector import Detector
from ..names import NAMES
from .clip import one_wrong
from .drawings import draw_any, reconstruct

STEPS, GUIDANCE = 15, 4.0  # of the pictures that the base is checked by
ORDINALS = ("first", "second", "third")  # of the names of a motif
Count = tuple[int, int]  # right, of


def check_all(pipeline: Any, detector: Detector, clip: MiniClip, *, n: int) -> tuple[float, dict[str, Count]]:
    """Every check: the autoencoder's PSNR in dB, and counts by name.

    n: cases of each, fewer where they take longer.
    """
    counts = check_detector(detector, pipeline, n=n)
    counts |= {f"base: {name}": count for name, count in check_base(pipeline, detector, n=n).items()}
    counts |= {f"language: {name}": count for name, count in check_language(pipeline, detector, n=n).items()}
    counts |= {f"text-image, {name}": count for name, count in check_clip(clip, pipeline, n=min(640, n)).items()}
    return check_autoencoder(pipeline, n=min(500, n)), counts


def check_autoencoder(pipeline: Any, *, n: int = 500) -> float:
    """Mean PSNR in dB on fresh drawings."""
    pictures = draw_any(n, np.random.default_rng(90)).pictures
    return psnr_db(pictures, reconstruct(pipeline.vae, pictures))


def psnr_db(a: np.ndarray, b: np.ndarray) -> float:
    """Peak signal-to-noise ratio of uint8 pictures in dB: the mean over pictures."""
    error = ((a.astype(np.float64) - b.astype(np.float64)) ** 2).reshape(len(a), -1).mean(1)
    return float((10 * np.log10(255**2 / np.maximum(error, 1e-9))).mean())


def check_detector(detector: Detector, pipeline: Any, *, n: int = 1000) -> dict[str, Count]:
    """Pictures with all motifs, subject or colour right: fresh, faded or cut, and reconstructed.

    Faded ones have at least 30 % opacity, or at least 40 % of each motif is shown.
    """
    drawings = draw_any(n, np.random.default_rng(91))
    rng, scenes = np.random.default_rng(91), drawings.scenes
    sets = {
        "fresh drawings": drawings.pictures,
        "faded or cut motifs": np.stack([_faded(scene, rng) for scene in scenes]),
        "reconstructions": reconstruct(pipeline.vae, drawings.pictures),
    }
    counts: dict[str, Count] = {}
    for name, pictures in sets.items():
        verdicts = [verdict for i in range(0, n, 100) for verdict in detector(pictures[i : i + 100])]
        pairs = list(zip(verdicts, scenes, strict=True))
        counts[f"{name}: motifs"] = (sum(set(v.motifs) == set(s.motifs) for v, s in pairs), n)
        counts[f"{name}: subject"] = (sum(v.subject == s.subject for v, s in pairs), n)
        counts[f"{name}: colour"] = (sum(v.colour == s.colour for v, s in pairs), n)
    return counts


def check_base(pipeline: Any, detector: Detector, *, n: int = 1000) -> dict[str, Count]:
    """The base on n captions of held-out combinations: motifs, subject, colour, motifs not asked for.

    "motif": each motif asked for is one case. "unasked": pictures with a motif nobody asked for.
    """
    rng = np.random.default_rng(92)
    scenes = [world.sample_scene(rng, held_out=True) for _ in range(n)]
    texts = [
        world.caption(s, world.pick(rng, world.ALL_WORDINGS), kinds=rng.choice(3, 2, p=world.KIND_SHARES).tolist())
        for s in scenes
    ]
    verdicts = _look(pipeline, detector, texts, seed=92 * n)
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
    """A text, the scene that it asks for, and the motifs that must not be drawn.

    form: how it speaks of its motifs.
    """

    form: str
    text: str
    scene: world.Scene
    denied: tuple[str, ...] = ()


def check_language(pipeline: Any, detector: Detector, *, n: int = 1000) -> dict[str, Count]:
    """The base on the whole language, in every wording, on held-out combinations.

    n: texts in all. A round of 420 has each name in singular and in plural; and each motif described, named
    by its kind alone, denied alone and beside another motif, its kind denied, and with another motif. Rounds
    are shuffled.
    """
    rng = np.random.default_rng(94)
    cases: list[_Case] = []
    while len(cases) < n:
        one_round = [case for motif in world.MOTIF_CATEGORY for case in _cases(motif, rng)]
        cases += [one_round[i] for i in rng.permutation(len(one_round))]
    cases = cases[:n]
    verdicts = _look(pipeline, detector, [case.text for case in cases], seed=94 * n)
    counts: dict[str, Count] = {}

    def count(name: str, rights: Iterable[bool]) -> None:
        right, of = counts.get(name, (0, 0))
        listed = list(rights)
        counts[name] = (right + sum(listed), of + len(listed))

    for case, seen in zip(cases, verdicts, strict=True):
        count(case.form, (motif in seen.motifs for motif in case.scene.motifs))
        if case.denied:
            count(f"{case.form}, not drawn", [not seen.motifs & set(case.denied)])
        if len(case.scene.motifs) == 2:
            count(f"{case.form}, both", [set(case.scene.motifs) <= seen.motifs])
        count("subject", [seen.subject == case.scene.subject])
        count("subject and colour", [(seen.subject, seen.colour) == (case.scene.subject, case.scene.colour)])
        count("unasked", [bool(seen.motifs - set(case.scene.motifs))])
    counts = {name: number for name, number in counts.items() if number[1]}
    return counts | _worst_name(cases, verdicts)


def _cases(motif: str, rng: np.random.Generator) -> Iterator[_Case]:
    """Texts about one motif."""
    category, wordings = world.MOTIF_CATEGORY[motif], world.ALL_WORDINGS + language.MORE_WORDINGS
    others = [other for other in world.MOTIF_CATEGORY if world.MOTIF_CATEGORY[other] != category]

    def case(form: str, motifs: Sequence[str], phrasing: language.Phrasing) -> _Case:
        scene = world.sample_scene(rng, motifs=motifs, held_out=True)
        text = language.caption(scene, world.pick(rng, wordings), phrasing)
        denied = phrasing.denial.motifs if phrasing.denial else ()
        return _Case(form, text, language.drawn(scene, phrasing), denied)

    def one(how: language.Form, name: int = 0) -> language.Phrasing:
        return language.Phrasing((language.Mention(how, name, kind_name=int(rng.integers(3))),))

    def denying(*, by_kind: bool) -> language.Phrasing:
        wording = int(rng.integers(len(language.NEGATIONS)))
        return language.Phrasing(
            denial=language.Denial(motif, by_kind, int(rng.integers(3)), wording, bool(rng.integers(2)))
        )

    other = str(rng.choice(others))
    for name, which in enumerate(ORDINALS):
        yield case(f"{which} names", (motif,), one("one", name))
        yield case(f"{which} names, plural", (motif,), one("many", name))
    yield case("described", (motif,), one("described"))
    yield case("kind alone", (motif,), one("kind"))
    yield case("denied alone", (), denying(by_kind=False))
    yield case("denied beside a motif", (other,), denying(by_kind=False))
    yield case("kind denied beside a motif", (other,), denying(by_kind=True))
    yield case("two motifs", (motif, other), language.Phrasing())


def _worst_name(cases: Sequence[_Case], verdicts: Sequence[Verdict]) -> dict[str, Count]:
    """The name in singular or plural that is drawn least often."""
    by_name: dict[str, list[bool]] = {}
    for case, seen in zip(cases, verdicts, strict=True):
        if " names" in case.form:
            (motif,) = case.scene.motifs
            number = ORDINALS.index(case.form.split()[0])
            by_name.setdefault(NAMES[motif][number], []).append(motif in seen.motifs)
    if not by_name:
        return {}
    name = min(by_name, key=lambda name: sum(by_name[name]) / len(by_name[name]))
    return {f"the worst of {len(by_name)} names: {name}": (sum(by_name[name]), len(by_name[name]))}


def _look(pipeline: Any, detector: Detector, texts: Sequence[str], *, seed: int) -> list[Verdict]:
    """What the detector sees in one picture of each text.

    seed: that of the first picture; it rises by 1 a picture.
    """
    verdicts: list[Verdict] = []
    for start in range(0, len(texts), 100):
        part = list(texts[start : start + 100])
        generators = [torch.Generator().manual_seed(seed + start + i) for i in range(len(part))]
        images = pipeline(
            part, num_inference_steps=STEPS, guidance_scale=GUIDANCE, generator=generators, output_type="np"
        ).images
        verdicts += detector((images * 255).round().astype(np.uint8))
    return verdicts


def check_clip(clip: MiniClip, pipeline: Any, *, n: int = 640) -> dict[str, Count]:
    """The text-image model on fresh drawings and on reconstructions.

    "caption of 64": the right caption scores highest among those of 64 drawings. "above a wrong motif"
    (subject, colour, background, side): it scores higher than the same caption with that one thing wrong.
    """
    rng, drawings = np.random.default_rng(93), draw_any(n, np.random.default_rng(93))
    scenes, parts = drawings.scenes, [slice(start, start + 64) for start in range(0, n, 64)]
    counts: dict[str, Count] = {}
    for name, pictures in {
        "drawings": drawings.pictures,
        "reconstructions": reconstruct(pipeline.vae, drawings.pictures),
    }.items():
        right = [world.sample_caption(scene, rng) for scene in scenes]
        scores = [clip.scores(pictures[part], right[part]) for part in parts]
        own = np.concatenate([one.diagonal() for one in scores])
        counts[f"{name}: caption of 64"] = (sum(int((one.argmax(1) == np.arange(len(one))).sum()) for one in scores), n)
        for what in ("motif", "subject", "colour", "background", "side"):
            wrong = [world.sample_caption(one_wrong(scene, rng, what), rng) for scene in scenes]
            other = np.concatenate([clip.scores(pictures[part], wrong[part]).diagonal() for part in parts])
            counts[f"{name}: above a wrong {what}"] = (int((own > other).sum()), n)
    return counts


def _faded(scene: world.Scene, rng: np.random.Generator) -> np.ndarray:
    faint = rng.random() < 0.5
    return world.draw(
        scene,
        seed=int(rng.integers(2**31)),
        opacity=rng.uniform(0.3, 1.0) if faint else 1.0,
        shown=1.0 if faint else rng.uniform(0.4, 1.0),
    )
