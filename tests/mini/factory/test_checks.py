"""Which texts the whole language is checked with, and how their pictures are counted."""

import re
from collections import Counter

import numpy as np
import pytest

from psalign.mini import names, world
from psalign.mini.factory import checks
from psalign.records import Verdict


def cases():
    rng = np.random.default_rng(0)
    return [case for motif in world.MOTIF_CATEGORY for case in checks._cases(motif, rng)]


def test_a_round_has_every_name_in_singular_and_plural():
    told = Counter(case.form for case in cases())
    assert sum(told.values()) == 420
    assert set(told.values()) == {35}
    words = re.findall("[a-z]+", " ".join(case.text for case in cases()))
    for name in (name for three in names.NAMES.values() for name in three):
        assert {name, names.plural(name)} <= set(words)


def test_what_is_denied_is_never_asked_for():
    for case in cases():
        assert not set(case.denied) & set(case.scene.motifs)
        assert bool(case.denied) == ("denied" in case.form)
        assert len(case.scene.motifs) == {"denied alone": 0, "two motifs": 2}.get(case.form, 1)


def test_an_eye_that_sees_what_was_asked_for_finds_all_right(monkeypatch):
    """With 420 texts each form has 35; two motifs are 70 decisions."""
    asked = []

    def look(_pipeline, _detector, texts, **_how):
        by_text = {case.text: case.scene for case in asked}
        return [_verdict(by_text[text]) for text in texts]

    kept = checks._cases
    monkeypatch.setattr(checks, "_cases", lambda *given: [asked.append(case) or case for case in kept(*given)])
    monkeypatch.setattr(checks, "_look", look)
    counts = checks.check_language(None, None, n=420)
    assert counts["third names"] == counts["third names, plural"] == counts["described"] == (35, 35)
    assert counts["two motifs"] == (70, 70)
    assert counts["two motifs, both"] == (35, 35)
    assert counts["denied alone, not drawn"] == counts["denied beside a motif"] == (35, 35)
    assert counts["subject and colour"] == (420, 420)
    assert counts["unasked"] == (0, 420)
    assert "denied alone" not in counts
    worst = next(name for name in counts if name.startswith("the worst of 105 names"))
    assert counts[worst] == (2, 2)


@pytest.mark.parametrize("n", [1, 3])
def test_a_base_that_draws_nothing_right_is_told(monkeypatch, n):
    blind = Verdict(motifs=frozenset(), categories=frozenset(), subject="", colour="")
    monkeypatch.setattr(checks, "_look", lambda _pipeline, _detector, texts, **_how: [blind] * len(texts))
    counts = checks.check_language(None, None, n=n)
    assert counts["subject"] == (0, n)
    assert counts["unasked"] == (0, n)


def _verdict(scene):
    return Verdict(frozenset(scene.motifs), frozenset(scene.categories), scene.subject, scene.colour)
