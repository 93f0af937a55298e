"""The demo without a browser: what is drawn, what is hidden, what is told."""

import numpy as np
import pytest

from psalign.adapter.attach import attach
from psalign.categories import read_taxonomy, use_taxonomy
from psalign.diffusion.base_models import find_base, load_pipeline
from psalign.errors import UsageError
from psalign.serve.artist import Artist
from psalign.serve.demo import Card, Demo, Person
from psalign.serve.requests import Offer
from psalign.serve.waiting import Kind, Work
from psalign.users.views import batch_of
from serving import random_adapter
from taxonomies import write_taxonomy

STRICT, FREE = Person(banned=("Violence",)), Person()
PROMPT = "a red cat with a sword"


@pytest.fixture(scope="module")
def demo():
    pipeline = load_pipeline("mini")
    artist = Artist(pipeline, attach(pipeline, random_adapter()))
    return Demo(artist, Offer("mini", find_base("mini"), guidance=4.0, steps=2, max_steps=4, multiple=16))


def test_base_and_people_share_prompt_and_seed(demo):
    base, strict, free = demo.compare(PROMPT, 7, [STRICT, FREE])
    assert [card.title for card in (base, strict, free)] == ["Base", "You", "Another person"]
    plain = demo.artist.draw([Work(PROMPT, batch_of([None]), 7)], Kind(64, 64, 2, 4.0), lambda step, look: True)[
        0
    ].astype(int)
    assert np.abs(base.picture - plain).max() <= 1
    assert np.abs(free.picture - plain).max() <= 1  # nothing is banned
    assert np.abs(strict.picture - plain).max() > 10
    assert strict.lines[0].startswith("softened: ")
    assert free.lines == ()


@pytest.mark.parametrize(
    ("people", "hidden"), [((STRICT, FREE), [1, 0, 1]), ((STRICT, STRICT), [1, 0, 0]), ((FREE, STRICT), [0, 0, 0])]
)
def test_what_may_show_what_i_ban_is_blurred(demo, people, hidden):
    assert [card.hides for card in demo.compare(PROMPT, 7, people)] == hidden


def test_an_adapter_in_words_keeps_categories_that_it_was_not_trained_with(demo, tmp_path, monkeypatch):
    mine = {"categories": [{"name": "Things", "phrases": ["sword"]}, "Other"]}
    adapter = demo.artist.attached.adapter
    monkeypatch.setattr(adapter, "in_words", True)
    with use_taxonomy(read_taxonomy(write_taxonomy(tmp_path / "mine.yaml", mine))):
        base, strict, free = Demo(demo.artist, demo.offer).compare(PROMPT, 7, [Person(banned=("Things",)), FREE])
    assert [line for line in strict.lines if line.endswith("for 'sword'")]
    assert np.abs(strict.picture.astype(int) - base.picture).max() > 10
    assert np.abs(free.picture.astype(int) - base.picture).max() <= 1
    assert (free.lines, free.hides) == ((), True)


def test_a_profile_counts_by_its_rules():
    assert Person(age=8, limits="no dogs\nno cats; no pills").profile.age_group == "children"
    assert len(Person(limits="no dogs\nno cats; no pills").profile.limits) == 3
    assert Person().profile.banned == ()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("", 7, FREE, FREE), "Write a prompt"),
        ((PROMPT, -1, FREE, FREE), "The seed must be"),
        ((PROMPT, 7, Person(limits="no"), FREE), "limit 1: A limit says nothing"),
        ((PROMPT, 7, Person(age=200), FREE), "does not fit together"),
        ((PROMPT, 7, Person(limits="no 蜘蛛"), FREE), "knows no word of a limit"),
    ],
)
def test_what_makes_no_sense_is_told_and_not_drawn(demo, arguments, said):
    page = demo.page(*arguments)
    assert said in page
    assert "<img" not in page


def test_what_is_typed_is_no_markup(demo):
    page = demo.page("a cat <script>alert(1)</script>", 7, STRICT, FREE)
    assert "<script" not in page
    assert page.count("<figure>") == 3
    card = Card("You", np.zeros((4, 4, 3), np.uint8), ("softened: '<b>' for 'x'",))
    assert "&lt;b&gt;" in card.markup


def test_an_adapter_that_knows_vectors_alone_is_refused(demo):
    class Published:
        attached = type("Attached", (), {"adapter": object()})

    with pytest.raises(UsageError, match="kind 'prompt'"):
        Demo(Published(), demo.offer)
