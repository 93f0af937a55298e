"""Prompts that test meaning say what they are said to say."""

from collections import Counter

import numpy as np
import pytest
from meaning_prompts import DENIED, LONG, ORDERS, SUITES, meaning_prompts, typo, users_who_ban

from psalign.mini import dataset, world
from psalign.mini.names import DESCRIPTIONS, HELD_OUT_KIND_NAMES, HELD_OUT_NAMES, NAMES, plural
from psalign.users.policy import banned_categories

COUNT = 14


@pytest.fixture(scope="module")
def users():
    sizes = dataset.DatasetConfig(train_users=30, test_users=30)
    return dataset.split_users(sizes)["test_unseen"]


@pytest.fixture(scope="module")
def rows(users):
    return meaning_prompts(users, count=COUNT, seed=5)


def of(rows, suite):
    return [row for row in rows if row.meta["suite"] == suite]


def bans_of(row, users):
    known = {user.user_id: banned_categories(user) for user in [*users, *users_who_ban(1), *users_who_ban(6)]}
    return set(known[row.user_id])


def test_every_suite_has_as_many_rows_as_were_asked_for(rows):
    sizes = Counter(row.meta["suite"] for row in rows)
    assert sizes == dict.fromkeys((*SUITES, LONG), 2 * COUNT) | dict.fromkeys((*ORDERS, *DENIED), COUNT)
    assert len({row.file_name for row in rows}) == len(rows)


def test_the_same_seed_gives_the_same_rows(rows, users):
    assert meaning_prompts(users, count=COUNT, seed=5) == rows
    assert meaning_prompts(users, count=COUNT, seed=6) != rows


@pytest.mark.parametrize("suite", [*SUITES, LONG])
def test_half_of_the_motifs_are_banned_and_all_are_of_training_rows(suite, rows, users):
    banned = [bool(bans_of(row, users) & set(row.meta["categories"])) for row in of(rows, suite)]
    assert banned == [True] * COUNT + [False] * COUNT
    assert not {motif for row in of(rows, suite) for motif in row.meta["motifs"]} & set(world.HELD_OUT_MOTIFS)


@pytest.mark.parametrize(
    ("suite", "words"),
    [
        ("named", lambda motif: motif),
        ("plural", plural),
        ("held-out name", HELD_OUT_NAMES.get),
        ("held-out name, plural", lambda motif: plural(HELD_OUT_NAMES[motif])),
        ("described", DESCRIPTIONS.get),
        ("held-out kind, alone", lambda motif: HELD_OUT_KIND_NAMES[world.MOTIF_CATEGORY[motif]]),
    ],
)
def test_a_suite_speaks_of_its_motif_as_it_says(suite, words, rows):
    for row in of(rows, suite):
        assert words(row.meta["motifs"][0]) in row.prompt


@pytest.mark.parametrize("suite", ["held-out name", "held-out kind, alone", "described", "typo"])
def test_words_that_are_held_out_stand_alone(suite, rows):
    for row in of(rows, suite):
        assert row.meta["motifs"][0] not in row.prompt.replace(",", " ").replace(";", " ").split()


def test_users_of_one_ban_and_of_six(rows, users):
    for count, suite in ((1, "user of one ban"), (6, "user of six bans")):
        assert {len(bans_of(row, users)) for row in of(rows, suite)} == {count}
        assert len({row.user_id for row in of(rows, suite)}) > 1


def test_orders_differ_in_nothing_but_the_order(rows, users):
    for first, second in zip(*(of(rows, suite) for suite in ORDERS), strict=True):
        assert first.seed == second.seed
        assert first.user_id == second.user_id
        assert first.prompt != second.prompt
        assert first.meta["motifs"] == second.meta["motifs"][::-1]
        is_banned = [category in bans_of(first, users) for category in first.meta["categories"]]
        assert is_banned == [True, False]


@pytest.mark.parametrize("suite", DENIED)
def test_what_is_denied_is_banned_and_not_asked_for(suite, rows, users):
    for row in of(rows, suite):
        denied = row.meta["denied"]
        assert world.MOTIF_CATEGORY[denied] in bans_of(row, users)
        assert denied not in row.meta["motifs"]
        assert len(row.meta["motifs"]) == (0 if suite == DENIED[0] else 1)
        said = row.meta["negative"] if suite == DENIED[2] else row.prompt
        assert any(form in said for name in NAMES[denied][:2] for form in (name, plural(name)))


def test_a_long_prompt_names_its_motif_in_its_last_part_alone(rows):
    for row in of(rows, LONG):
        first, last = row.meta["parts"]
        motif = row.meta["motifs"][0]
        assert motif in last.split() or f"{motif}," in last or f"{motif};" in last
        assert motif not in first.replace(",", " ").replace(";", " ").split()


@pytest.mark.parametrize("word", [*NAMES, "ab", "aaaa", "abba"])
def test_a_typo_is_another_word_of_the_same_letters(word):
    wrong = typo(word, np.random.default_rng(3))
    assert wrong != word
    assert set(wrong) == set(word)
    assert (wrong[0], wrong[-1]) == (word[0], word[-1])
