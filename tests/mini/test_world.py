"""The mini world: drawings that can be told apart, captions that say what is drawn, and what is held out."""

import itertools

import numpy as np
import pytest

from psalign.mini import world
from psalign.mini.shapes import BACKGROUNDS, COLOURS, MOTIFS, SUBJECTS
from taxonomies import CATEGORIES

CAT = world.Scene("meadow", "cat", "red", "left", ("sword",))


def test_the_world_is_as_large_as_promised():
    assert len(BACKGROUNDS) >= 6
    assert len(SUBJECTS) >= 8
    assert len(COLOURS) >= 8
    assert set(world.CATEGORY_MOTIFS) == set(world.KINDS) == set(CATEGORIES)
    assert all(len(motifs) >= 4 for motifs in world.CATEGORY_MOTIFS.values())
    assert sorted(world.MOTIF_CATEGORY) == sorted(MOTIFS)


def test_a_drawing_is_a_function_of_scene_and_seed():
    assert np.array_equal(world.draw(CAT, seed=3), world.draw(CAT, seed=3))
    assert not np.array_equal(world.draw(CAT, seed=3), world.draw(CAT, seed=4))
    assert world.draw(CAT, seed=3).shape == (64, 64, 3)
    assert world.draw(CAT, seed=3).dtype == np.uint8


def test_scenes_that_differ_in_a_motif_differ_only_there():
    with_sword, without = world.draw(CAT, seed=3), world.draw(CAT.without(["sword"]), seed=3)
    changed = np.abs(with_sword.astype(int) - without).max(2) > 0
    assert changed[:, 32:].any()
    assert not changed[:, :30].any()


@pytest.mark.parametrize("background", BACKGROUNDS)
@pytest.mark.parametrize("motif", MOTIFS)
def test_every_motif_is_clearly_seen_on_every_background(motif, background):
    """At least 80 pixels change by more than a quarter of the range, in any place of the motif."""
    scene = world.Scene(background, "cat", "red", "left", (motif,))
    difference = np.abs(world.draw(scene, seed=1).astype(int) - world.draw(scene.without([motif]), seed=1)).max(2)
    assert (difference > 64).sum() >= 80


def test_any_two_motifs_look_different():
    pictures = {m: world.draw(world.Scene("snow", "cat", "red", "left", (m,)), seed=1).astype(int) for m in MOTIFS}
    for a, b in itertools.combinations(MOTIFS, 2):
        assert (np.abs(pictures[a] - pictures[b]).max(2) > 64).sum() >= 60, (a, b)


def test_fading_and_cutting_show_less():
    plain = world.draw(CAT.without(["sword"]), seed=1).astype(int)
    full, faint, cut = (
        np.abs(world.draw(CAT, seed=1, **how).astype(int) - plain).sum()
        for how in ({}, {"opacity": 0.3}, {"shown": 0.5})
    )
    assert 0 < faint < full
    assert 0 < cut < full


def test_captions_say_what_is_drawn_and_the_safe_rewrite_leaves_the_motif_out():
    for wording in world.WORDINGS + world.HELD_OUT_WORDINGS:
        text = world.caption(CAT, wording)
        assert all(word in text for word in ("red cat", "left", "in a meadow", "a sword"))
        safe = world.caption(CAT.without(["sword"]), wording)
        assert "sword" not in safe
        assert "red cat" in safe
        assert "  " not in text + safe


def test_kinds_name_what_a_motif_is():
    assert (
        world.caption(CAT, world.WORDINGS[0], kinds=[1]) == "a red cat on the left with a sword, a weapon, in a meadow"
    )
    assert (
        world.caption(CAT, world.WORDINGS[1], kinds=[2]) == "in a meadow, a red cat on the left and a weapon, a sword"
    )


def test_definitions_name_every_motif_with_its_kind():
    sentences = world.definitions()
    for motif, category in world.MOTIF_CATEGORY.items():
        assert any(motif in s.split() and world.KINDS[category] in s for s in sentences)


def test_held_out_combinations_are_one_in_eight_and_every_thing_is_also_trained():
    held, trained = world.combinations(held_out=True), world.combinations(held_out=False)
    assert not set(held) & set(trained)
    assert len(held) * 7 == len(trained)
    for part in range(3):
        assert {c[part] for c in trained} == {c[part] for c in [*held, *trained]}
        assert len({c[part] for c in held}) > 1


def test_sampled_scenes_keep_to_their_side_of_the_split():
    rng = np.random.default_rng(0)
    held = set(world.combinations(held_out=True))
    trained, held_out = (
        {(scene.subject, scene.colour, scene.background)
         for scene in (world.sample_scene(rng, held_out=side) for _ in range(300))}
        for side in (False, True)
    )  # fmt: skip
    assert not trained & held
    assert held_out <= held
