"""More ways to speak of a scene: what a caption says, what it asks for, and that every word of it is known."""

import numpy as np
import pytest

from psalign.mini import language, names, world
from psalign.mini.factory.tokenizer import MAX_TOKENS, build_tokenizer, corpus
from psalign.mini.language import Denial, Mention, Phrasing

SWORD = world.Scene("meadow", "cat", "red", "left", ("sword",))
BOTH = world.Scene("night", "cat", "red", "left", ("sword", "skull"))
EMPTY = world.Scene("meadow", "cat", "red", "left")
WORDINGS = world.WORDINGS + world.HELD_OUT_WORDINGS + language.MORE_WORDINGS


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return build_tokenizer(tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize("scene", [SWORD, BOTH, EMPTY])
def test_without_a_phrasing_it_is_the_caption_of_the_dataset(scene):
    for wording in world.WORDINGS:
        assert language.caption(scene, wording, Phrasing()) == world.caption(scene, wording)


@pytest.mark.parametrize(
    ("mention", "said"),
    [
        (Mention(name=2), "a dagger,"),
        (Mention("many", name=1), "blades,"),
        (Mention("many", kind=1), "swords, weapons,"),
        (Mention(name=1, kind=2, kind_name=1), "an armament, a blade,"),
        (Mention("described"), "a long steel edge with a hilt,"),
        (Mention("kind", kind_name=2), "a munition,"),
    ],
)
def test_a_motif_is_said_in_many_ways(mention, said):
    text = language.caption(SWORD, world.WORDINGS[0], Phrasing((mention,)))
    assert text == f"a red cat on the left with {said} in a meadow"


@pytest.mark.parametrize(
    ("denial", "text"),
    [
        (Denial("sword", wording=0), "a red cat on the left with no sword, in a meadow"),
        (Denial("sword", name=1, wording=1), "a red cat on the left with no blades, in a meadow"),
        (Denial("axe", wording=2), "a red cat on the left, in a meadow, without an axe"),
        (Denial("sword", by_kind=True, wording=3), "a red cat on the left, in a meadow, without any weapons"),
        (Denial("thorns", wording=5), "without thorns, a red cat on the left, in a meadow"),
    ],
)
def test_a_denial_alone(denial, text):
    assert language.caption(EMPTY, world.WORDINGS[0], Phrasing(denial=denial)) == text


def test_a_denial_beside_a_motif():
    said = [
        language.caption(SWORD, world.WORDINGS[0], Phrasing(denial=Denial("skull", wording=0, first=first)))
        for first in (False, True)
    ]
    assert said[0] == "a red cat on the left with a sword and no skull, in a meadow"
    assert said[1] == "a red cat on the left with no skull but a sword, in a meadow"
    assert Denial("sword", by_kind=True).motifs == world.CATEGORY_MOTIFS["Violence"]
    assert Denial("sword").motifs == ("sword",)


def test_a_kind_alone_asks_for_the_first_motif_of_its_category():
    axe = world.Scene("night", "cat", "red", "left", ("axe", "skull"))
    phrasing = Phrasing((Mention("kind"),))
    assert language.drawn(axe, phrasing).motifs == ("sword", "skull")
    assert language.plain_caption(axe, world.WORDINGS[0], phrasing) == world.caption(BOTH, world.WORDINGS[0])


def test_the_plain_caption_asks_for_the_same_in_words_of_the_dataset():
    phrasing = Phrasing((Mention("many", name=2, kind=1, kind_name=1),), Denial("skull"))
    assert (
        language.plain_caption(SWORD, world.WORDINGS[0], phrasing)
        == "a red cat on the left with a sword, a weapon, in a meadow"
    )
    for wording in language.MORE_WORDINGS:
        text = language.plain_caption(SWORD, wording, phrasing)
        assert text in {world.caption(SWORD, plain, kinds=[1]) for plain in world.WORDINGS}


def test_sampled_phrasings_never_deny_what_they_ask_for():
    rng = np.random.default_rng(0)
    denials = 0
    for _ in range(2000):
        scene = world.sample_scene(rng)
        phrasing = language.sample_phrasing(rng, scene)
        asked = language.drawn(scene, phrasing).motifs
        assert len(set(asked)) == len(scene.motifs)
        if phrasing.denial:
            denials += 1
            assert not set(phrasing.denial.motifs) & set(asked)
    assert 400 < denials < 900


def test_sampled_texts_name_only_what_they_tell_or_deny():
    rng = np.random.default_rng(1)
    names_of = {
        motif: {w for name in three for w in (name, names.plural(name))} for motif, three in names.NAMES.items()
    }
    for _ in range(500):
        scene = world.sample_scene(rng)
        phrasing = language.sample_phrasing(rng, scene)
        text = language.caption(scene, WORDINGS[rng.integers(len(WORDINGS))], phrasing)
        spoken = {motif for motif, words in names_of.items() if words & set(text.replace(",", "").split())}
        assert spoken <= {*scene.motifs, *((phrasing.denial.motif,) if phrasing.denial else ())}, text
        assert scene.subject in text
        assert scene.side in text
        assert "  " not in text
        assert ",," not in text


def test_the_dataset_says_first_names_alone():
    rng = np.random.default_rng(2)
    others = {name for three in names.NAMES.values() for name in three[1:]}
    for _ in range(300):
        text = world.caption(world.sample_scene(rng), world.WORDINGS[rng.integers(5)], kinds=(1, 2))
        assert not others & set(text.replace(",", "").split())


def test_definitions_say_which_names_are_of_one_thing():
    sentences = world.definitions()
    assert {"a blade is a sword", "daggers are swords", "a dagger is a munition"} <= set(sentences)
    assert "a sword is a long steel edge with a hilt" in sentences
    assert len(sentences) == sum(len(world.definitions_of(motif)) for motif in world.MOTIF_CATEGORY)


def test_limits_are_what_users_say():
    said = dict.fromkeys(sentence for thing, sentence in language.limits() if thing == "spider")
    assert {"no spiders", "i can't stand spiders", "never show me a tarantula", "an arachnid"} <= set(said)
    assert "nothing with weapons" in {sentence for thing, sentence in language.limits() if thing == "Violence"}


def test_every_word_is_one_token_and_every_text_fits(tokenizer):
    known = tokenizer.get_vocab()
    for text in corpus():
        tokens = tokenizer.tokenize(text)
        assert all(token.endswith("</w>") for token in tokens), text
        assert len(tokens) + 2 <= MAX_TOKENS, text
    assert tokenizer.tokenize("I can't stand Spiders!") == [
        "i</w>",
        "can</w>",
        "'t</w>",
        "stand</w>",
        "spiders</w>",
        "!</w>",
    ]
    assert max(known, key=known.get) == "<|endoftext|>"  # CLIPTextModel pools at the largest id
