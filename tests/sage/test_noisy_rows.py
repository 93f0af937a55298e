"""Disturbed copies of caption rows: the user, the limits and what has to go stay the same."""

import re
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from psalign.sage.caption_rows import CaptionRow
from psalign.sage.noisy_rows import Window, _Noise, noisy_rows

THINGS = ("sword", "spider", "megaphone", "bottle")
WINDOW = Window(lambda texts: [len(re.findall(r"\w+|[^\w\s]", text)) + 2 for text in texts], 72)


def make_rows(count=240):
    """Rows in turn banned, allowed and safe, and with limits; two of the things in every third caption."""
    rows = []
    for i in range(count):
        thing, other, place = THINGS[i % 4], THINGS[(i + 1) % 4], ("meadow", "harbour", "desert")[i % 3]
        safe = f"green tree {i} in the {place}" + (f", beside some {other}" if i % 3 == 0 else "")
        unsafe = f"{safe} with one {thing}"
        side = ("banned", "allowed", "safe")[i // 4 % 3]
        caption = safe if side == "safe" else unsafe
        limits = (thing, "harbour") if i % 5 == 0 and side == "banned" else None
        rows.append(
            CaptionRow(
                caption,
                safe if side == "banned" else caption,
                user_id=None if limits else f"{i:07d}",
                side=side,
                other_caption=unsafe if side == "safe" else safe,
                limits=limits,
            )
        )
    return rows


def words(text):
    return re.findall(r"\w{3,}", text)


@pytest.fixture(scope="module")
def rows():
    return make_rows()


@pytest.fixture(scope="module")
def copies(rows):
    return noisy_rows(rows, WINDOW, share=0.5)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.25, 80), (0.5, 240)])
def test_copies_are_a_share_of_all_rows(rows, share, count):
    assert len(noisy_rows(rows, WINDOW, share=share)) == count


def test_copies_are_the_same_at_every_call(rows, copies):
    assert noisy_rows(make_rows(), WINDOW, share=0.5) == copies


def test_user_side_and_limits_stay(rows, copies):
    def about(some):
        return Counter((row.user_id, row.limits, row.side) for row in some)

    assert about(copies) == about(rows)  # with a share of one half every row has one copy


def around(row, copy):
    """What stands before and behind the chosen caption of a row in its copy; that caption itself is undisturbed."""
    before, found, behind = copy.chosen_caption.partition(row.chosen_caption)
    assert found
    return before, behind


def banned_of(rows, copies):
    return [(row, copy) for row, copy in zip(rows, copies, strict=True) if row.side == "banned"]


def test_what_has_to_go_stays_the_same(rows, copies):
    """A caption and what is chosen instead get the same words around them; only words that go are disturbed."""
    kinds = Counter()
    for row, copy in banned_of(rows, copies):
        before, behind = around(row, copy)
        assert copy.caption.startswith(before)
        assert copy.caption.endswith(behind)
        own = copy.caption[len(before) : len(copy.caption) - len(behind)]
        assert own.startswith(row.chosen_caption)
        kinds[own != row.caption, bool(before or behind)] += 1
    assert kinds[False, False] == 0
    assert min(kinds[True, False], kinds[False, True], kinds[True, True]) > 10


def test_where_nothing_goes_nothing_goes_from_the_copy(rows, copies):
    for row, copy in zip(rows, copies, strict=True):
        assert (row.caption == row.chosen_caption) == (copy.caption == copy.chosen_caption)
        assert copy.other_caption is None


def test_phrases_around_a_caption_are_safe_for_everybody(rows, copies):
    """No phrase names a thing that other rows lose, though safe captions name it too; nor what this row limits."""
    for row, copy in banned_of(rows, copies):
        added = set(words(" ".join(around(row, copy))))
        assert not added.intersection(THINGS)
        assert not added.intersection(word for phrase in row.limits or () for word in words(phrase))


def test_the_text_encoder_reads_every_copy_whole(rows, copies):
    assert max(WINDOW.count([copy.caption for copy in copies])) <= WINDOW.most
    lengths = [WINDOW.count([copy.caption])[0] for row, copy in banned_of(rows, copies) if any(around(row, copy))]
    assert 0 < sum(length > WINDOW.most - 12 for length in lengths) < len(lengths)
    narrow = Window(WINDOW.count, 16)
    some = noisy_rows(rows, narrow, share=0.5)
    assert 50 < len(some) < 240
    assert max(narrow.count([copy.caption for copy in some])) <= 16


def test_no_misspelling_is_another_word_of_the_captions():
    things = ("cat", "bat", "hat", "cot", "coat", "boat", "boot")
    rows = [CaptionRow(f"one {thing}", f"one {thing}", "0000001", "allowed") for thing in things * 30]
    copies = noisy_rows(rows, WINDOW, share=0.5)
    assert sum(copy.caption != row.caption for row, copy in zip(rows, copies, strict=True)) > 150
    for row, copy in zip(rows, copies, strict=True):
        assert set(words(copy.caption)).intersection(("one", *things)) <= set(words(row.caption))


def test_without_safe_captions_phrases_come_from_what_is_chosen_instead(rows):
    banned = [row for row in rows if row.side == "banned"]
    assert any(any(around(row, copy)) for row, copy in banned_of(banned, noisy_rows(banned, WINDOW, share=0.5)))
    assert noisy_rows([], WINDOW, share=0.5) == []


def test_the_caption_of_the_chosen_picture_is_read_wholly_too():
    long = [replace(row, chosen_caption=f"{row.chosen_caption} {'so ' * 12}".strip()) for row in make_rows()]
    made = noisy_rows(long, WINDOW, share=0.5)
    assert max(WINDOW.count([copy.chosen_caption for copy in made])) <= WINDOW.most


def test_no_misspelt_word_of_a_limit_is_put_beside_its_captions():
    safe = [CaptionRow(f"a garnet, a tree {i}", f"a garnet, a tree {i}", user_id="1", side="safe") for i in range(40)]
    one = CaptionRow("a garnet here", "a thing here", user_id=None, side="banned", limits=("garnet",))
    noise = _Noise(safe, WINDOW, np.random.default_rng(0))
    spelt = {phrase for phrase in noise.phrases if "garnet" in noise.words_of[phrase]}
    assert len(spelt) == 2  # as it is, and misspelt
    filled = [noise.copy(one, "phrases") for _ in range(60)]
    assert not [copy for copy in filled if any(phrase in copy.chosen_caption.split(", ") for phrase in spelt)]
