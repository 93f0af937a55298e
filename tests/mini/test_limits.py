"""Rows of limits in words: what goes, what stays, and what no training row has."""

import numpy as np

from psalign.mini import world
from psalign.mini.language import NEGATIONS
from psalign.mini.limits import MOST_OTHERS, TRAINED_DENIALS, LimitSource, sample_limit_rows
from psalign.mini.names import HELD_OUT_KIND_NAMES, HELD_OUT_NAMES, KIND_NAMES, NAMES, named, plural
from psalign.mini.world import TRAIN_MOTIFS

MOTIFS = tuple(motif for motifs in TRAIN_MOTIFS.values() for motif in motifs)
ROWS = list(sample_limit_rows(np.random.default_rng(3), LimitSource(MOTIFS, 2, 0.2), 600))


def things(limit):
    """The motifs that a limit names, by itself or by their kind."""
    table = {motif: (motif,) for motif in NAMES} | world.CATEGORY_MOTIFS
    return {
        motif
        for thing, names in (NAMES | KIND_NAMES).items()
        if limit in {form(name) for name in names for form in (str, named, plural)}
        for motif in table[thing]
    }


def asked(caption):
    words = caption.replace(",", " ").replace(";", " ").split()
    return {motif for motif, names in NAMES.items() if {*names, *map(plural, names)} & set(words)}


def test_rows_are_the_same_for_the_same_seed():
    again = list(sample_limit_rows(np.random.default_rng(3), LimitSource(MOTIFS, 2, 0.2), 600))
    assert again == ROWS


def test_what_is_limited_goes_and_all_else_stays():
    plain = [row for row in ROWS if not any(word in row["caption"].split() for word in ("no", "without"))]
    assert len(plain) > 400
    for row in plain:
        limited = set().union(*map(things, row["limits"])) if row["limits"] else set()
        assert asked(row["chosen_caption"]) == asked(row["caption"]) - limited


def test_a_third_and_more_have_something_to_take_away_and_others_have_limits_that_touch_nothing():
    changed = [row["caption"] != row["chosen_caption"] for row in ROWS]
    assert 0.4 < np.mean(changed) < 0.8
    assert sum(bool(row["limits"]) and not change for row, change in zip(ROWS, changed, strict=True)) > 60
    assert max(len(row["limits"]) for row in ROWS) <= MOST_OTHERS + 3


def test_no_row_has_a_held_out_motif_name_or_denial():
    held_out = {form(name) for name in (*HELD_OUT_NAMES.values(), *HELD_OUT_KIND_NAMES.values(),
                *(name for motif in world.HELD_OUT_MOTIFS for name in NAMES[motif]))
                for form in (str, named, plural)}  # fmt: skip
    assert not held_out & {limit for row in ROWS for limit in row["limits"]}
    text = " ".join(row["caption"] for row in ROWS)
    assert "but no " not in text or 4 in TRAINED_DENIALS
    assert {NEGATIONS[i][1] for i in TRAINED_DENIALS} < {wording for _, wording in NEGATIONS}
