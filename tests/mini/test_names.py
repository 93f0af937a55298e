"""The words of the mini world: no two things share one, and plurals and articles are right."""

from collections import Counter

import pytest

from psalign.mini import names, world

FIRST_KINDS = {word for kinds in names.KIND_NAMES.values() for word in kinds[0].split()}  # "sign" is in two of them


def every_name():
    return [name for table in (names.NAMES, names.KIND_NAMES) for three in table.values() for name in three]


def test_every_motif_and_kind_has_three_names():
    assert list(names.NAMES) == list(world.MOTIF_CATEGORY)
    assert list(names.KIND_NAMES) == list(world.CATEGORY_MOTIFS)
    assert all(three[0] == motif for motif, three in names.NAMES.items())
    assert {three[0] for three in names.KIND_NAMES.values()} == set(world.KINDS.values())
    assert names.HELD_OUT_NAMES["sword"] == "dagger"
    assert names.HELD_OUT_KIND_NAMES["Violence"] == "munition"


def test_no_two_things_share_a_word():
    words = [word for name in every_name() for word in name.split()]
    words += [names.plural(word) for word in words]
    shared = {word for word, count in Counter(words).items() if count > 1}
    alike = {"lips", "shards", "thorns", "brambles", "prickles", "splinters", "fragments"}  # their own plurals
    assert shared - alike <= FIRST_KINDS | {names.plural(word) for word in FIRST_KINDS}
    scenery = " ".join([*world.SUBJECTS, *world.COLOURS, *world.PLACES.values()]).split()
    assert not set(words) & set(scenery)


def test_descriptions_say_no_name_of_anything():
    words = {word for name in every_name() for word in (*name.split(), *names.plural(name).split())}
    assert list(names.DESCRIPTIONS) == list(world.MOTIF_CATEGORY)
    assert len(set(names.DESCRIPTIONS.values())) == len(names.DESCRIPTIONS)
    for motif, text in names.DESCRIPTIONS.items():
        assert not words & set(text.split()), motif


@pytest.mark.parametrize(
    ("name", "one", "many"),
    [
        ("sword", "a sword", "swords"),
        ("axe", "an axe", "axes"),
        ("torch", "a torch", "torches"),
        ("crucifix", "a crucifix", "crucifixes"),
        ("thorns", "thorns", "thorns"),
        ("love token", "a love token", "love tokens"),
        ("armament", "an armament", "armaments"),
    ],
)
def test_articles_and_plurals(name, one, many):
    assert (names.named(name), names.plural(name)) == (one, many)


def test_first_words_stand_where_other_names_have_theirs():
    first = names.first_words()
    assert (first["dagger"], first["swords"], first["blades"]) == ("sword", "sword", "sword")
    assert (first["bigotry"], first["marks"], first["hazard"]) == ("hostile", "sign", "thing")
    assert "sword" not in first
    assert "lips" not in first
