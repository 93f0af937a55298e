"""Prompts with limits in words: sizes, what each suite limits, and held-out denials."""

from collections import Counter

from limit_prompts import DENIED, HELD_OUT_DENIALS, NEVER_MET, SAFE, SUITES, WORDINGS, limit_prompts

from psalign.mini import world
from psalign.mini.limits import TRAINED_DENIALS

ROWS = limit_prompts(count=14, wordings=7, seed=5)


def of(suite):
    return [row for row in ROWS if row.meta["suite"] == suite]


def test_every_suite_has_its_rows_and_every_file_is_one():
    counts = Counter(row.meta["suite"] for row in ROWS)
    assert counts == {**dict.fromkeys([*SUITES, SAFE], 14), **dict.fromkeys([*WORDINGS, *DENIED], 7)}
    assert len({row.file_name for row in ROWS}) == len(ROWS)
    assert limit_prompts(count=14, wordings=7, seed=5) == ROWS


def test_every_scene_is_held_out():
    held_out = set(world.combinations(held_out=True))
    assert all((r.meta["subject"], r.meta["colour"], r.meta["background"]) in held_out for r in ROWS)


def test_what_goes_is_what_the_suite_limits():
    assert all(row.meta["gone"] == row.meta["motifs"] for row in of("met, named"))
    assert all(row.meta["gone"] == [] and len(row.meta["limits"]) == 2 for row in of("met, two others named"))
    assert all(row.meta["gone"] == [row.meta["motifs"][0]] for row in of("two motifs, the first limited"))
    assert all(row.meta["gone"] == [row.meta["motifs"][1]] for row in of("two motifs, the second limited"))
    assert {row.meta["motif"] or row.meta["motifs"][0] for row in of("never met, named")} == set(NEVER_MET)


def test_many_limits_are_different_ones():
    for row in of("one of 32 limits"):
        assert len(set(row.meta["limits"])) == 32


def test_denials_are_worded_as_no_training_row():
    assert not set(HELD_OUT_DENIALS) & set(TRAINED_DENIALS)
    assert all(row.meta["denied"] not in row.meta["motifs"] for suite in DENIED for row in of(suite))
