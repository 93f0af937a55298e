"""What a person reads in a prompt: typed, misspelt, masked and split words; and what denies a word."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from psalign.adapter.spelling import ARTICLES, GRAMMAR, Pieces, SeenWord, meant_by, seen_words, vocabulary_of

KNOWN = frozenset(("sword", "axe", "pen", "red", "car", "pit", "goat", "padlock", "penis", "carp", "lock", "pad"))


def words(prompt, known=KNOWN):
    return {one.word for one in seen_words(Pieces.of(prompt), known)}


@pytest.mark.parametrize(
    "typed",
    ["sowrd", "swoord", "swrd", "sward", "Sword", "sw0rd", "$word", "s-word", "s_w_o_r_d", "sw ord", "s w o r d",
     "(sword:1.3)", "sword", "s  word", "s wo rd", "sw.ord", "sw,ord", "S.W.O.R.D.", "sw*rd", "s**rd", "s_word",
     "red_sowrd", "sw0rd/red", "$w|ord", "swoooord", "sworddd", "swooooooooooord", "s/w/o/r/d", "s-w*rd", "sw.rd",
     "sw!rd", "5w.0rd", "<sw*rd>", "*sw*rd*"],
)  # fmt: skip
def test_a_word_that_is_misspelt_masked_or_split_is_read_as_it_is_meant(typed):
    assert "sword" in words(f"a red car with a {typed}, at night")


@pytest.mark.parametrize(
    ("prompt", "word"),
    [("the pen is red", "penis"), ("we go at night", "goat"), ("a car, p", "carp"), ("red words", "sword"),
     ("a pad with a lock", "padlock"), ("a 1950 car", "sword"), ("x " * 30, "axe"), ("the pen.is red", "penis"),
     ("a car. pit", "carp"), ("s***d", "sword"), ("*word", "sword"), ("pen-is", "pens"), ("(go:1.3)", "goat"),
     ("p2n", "pen"), ("g=23", "goat"), ("p6nis", "penis"),
     ("p.,n", "pen"), ("s.o.d", "sword"), ("g.,a.,t", "goat"), ("sw.o,d", "sword"), ("the/pen_is red", "penis")],
)  # fmt: skip
def test_nothing_is_read_that_nobody_meant(prompt, word):
    assert word not in words(prompt)


def test_two_known_words_may_be_one_where_neither_is_of_grammar():
    assert "padlock" in words("a pad lock")


def test_a_sign_that_is_no_letter_is_looked_up_and_a_letter_is_not():
    assert words("a red \U0001f52b & 3 x") == {"red", "\U0001f52b"}


def test_a_word_of_spaced_letters_is_found_behind_an_article():
    found = [one for one in seen_words(Pieces.of("a p i t"), KNOWN) if one.word == "pit"]
    assert [(one.first, one.last) for one in found] == [(1, 3)]


@pytest.mark.parametrize(
    ("typed", "word"),
    [("he'll", "hell"), ("she\u2019ll", "shell"), ("we'd", "wed"), ("pen't", "pent"), ("sword's", "swords")],
)
def test_a_short_form_is_not_read_as_another_word(typed, word):
    assert words(f"{typed} go", KNOWN | {word}) == {typed}


@pytest.mark.parametrize("typed", ["s'word", "swor'd", "sw'ord"])
def test_an_apostrophe_within_a_word_does_not_hide_it(typed):
    assert "sword" in words(typed)


@pytest.mark.parametrize("name", ["<my_style>", "my_toy", "<a/b>", "<sw0rd-toy>"])
def test_the_name_of_a_textual_inversion_is_read_as_it_is(name):
    pieces = Pieces.of(f"a cat in {name.title()}, at night")
    (one,) = [one for one in seen_words(pieces, KNOWN | {name}) if one.word == name]
    assert pieces.typed(one.first, one.last) == name.title()
    assert not pieces.is_other(one)


def test_a_known_word_is_never_taken_for_another():
    assert all(not meant_by(word, KNOWN) for word in KNOWN)


@given(st.sampled_from(sorted(KNOWN)), st.data())
def test_every_single_mistake_within_a_word_is_read_as_that_word(word, data):
    place, letter = data.draw(st.integers(1, len(word) - 2)), data.draw(st.sampled_from("abcdefghijklmnopqrstuvwxyz"))
    edits = [word[:place] + word[place + 1 :], word[:place] + letter + word[place:], word + word[-1], word + "s"]
    if len(word) >= 5:
        edits.append(word[:place] + letter + word[place + 1 :])
    if place < len(word) - 2:
        edits.append(word[:place] + word[place : place + 2][::-1] + word[place + 2 :])
    edited = data.draw(st.sampled_from(edits))
    if edited not in KNOWN and len(edited) >= 4:
        assert word in meant_by(edited, KNOWN)


@pytest.mark.parametrize(
    ("typed", "word"), [("bword", "sword"), ("swort", "sword"), ("goet", "goat"), ("carps", "car")]
)
def test_another_word_is_not_read_so(typed, word):
    assert word not in meant_by(typed, KNOWN)


@given(st.text(max_size=60), st.sets(st.integers(0, 20)))
def test_any_text_can_be_read_and_keeps_the_pieces_that_are_not_left_out(text, numbers):
    pieces = Pieces.of(text)
    assert all(one.first <= one.last < len(pieces) for one in seen_words(pieces, KNOWN))
    numbers = {number for number in numbers if number < len(pieces)}
    gone = numbers | {number - 1 for number in numbers if number and pieces.piece(number - 1) in ARTICLES}
    rest = Pieces.of(pieces.without([SeenWord("", number, number) for number in numbers]))
    kept = [pieces.piece(number) for number in range(len(pieces)) if number not in numbers]
    assert len(kept) - len(gone - numbers) - 2 <= len(rest) <= len(kept)


@pytest.mark.parametrize(
    "denial", ["no sword", "without a sword", "without any sword", "don't show a sword", "not a red sword"]
)
def test_a_denial_just_before_a_word_counts(denial):
    pieces = Pieces.of(f"a red car, {denial}")
    assert pieces.is_denied(len(pieces) - 1)


@pytest.mark.parametrize(
    "prompt", ["no car, a sword", "not without a car: a sword", "a car without a roof and with a sword"]
)
def test_a_denial_of_something_else_does_not_count(prompt):
    pieces = Pieces.of(prompt)
    assert not pieces.is_denied(len(pieces) - 1)


@pytest.mark.parametrize(
    ("prompt", "places", "rest"),
    [("a red car with a sword, at night", [(5, 5)], "a red car with, at night"),
     ("a sword and an axe", [(1, 1), (4, 4)], "and"), ("the sw ord", [(1, 2)], ""), ("Sword!", [(0, 0)], "!"),
     ("a sword ", [], "a sword ")],
)  # fmt: skip
def test_words_go_with_their_articles(prompt, places, rest):
    assert Pieces.of(prompt).without([SeenWord("sword", *place) for place in places]) == rest


def test_words_are_spelled_as_they_are_read_and_the_rest_stays():
    pieces = Pieces.of("A  Sowrd, an s w o r d!")
    assert pieces.spelled([SeenWord("sword", 1, 1), SeenWord("sword", 3, 7)]) == "A  sword, an sword!"
    assert pieces.spelled([]) == pieces.prompt
    assert [pieces.is_other(SeenWord(word, 1, 1)) for word in ("sowrd", "sword")] == [False, True]


def test_the_words_of_a_tokenizer_are_those_that_are_one_token(mini_pipeline):
    known = vocabulary_of(mini_pipeline.tokenizer)
    assert {"sword", "meadow", "night"} <= known
    assert not any(
        len(word) < 3 or not word.isalpha() for word in known - set(mini_pipeline.tokenizer.get_added_vocab())
    )
    assert all(len(mini_pipeline.tokenizer(word).input_ids) == 3 for word in ("sword", "meadow"))


def test_a_tokenizer_without_ends_of_words_has_none():
    class Tokenizer:
        def get_vocab(self):
            return {"\u2581sword": 0, "axe": 1}

        def get_added_vocab(self):
            return {}

    assert vocabulary_of(Tokenizer()) == frozenset()


def test_words_of_grammar_are_not_looked_up_by_themselves():
    assert not words(" ".join(sorted(GRAMMAR - {"i", "a"}))) & GRAMMAR
