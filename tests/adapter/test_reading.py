"""A prompt as a person sees it: look-alike letters are read as Latin ones, and other languages stay as they are."""

import pytest
import torch

from psalign.adapter.attach import attach
from psalign.adapter.prompt import PromptAdapter
from psalign.adapter.reading import read_prompt
from psalign.adapter.text import encode_texts
from psalign.users.profile import UserProfile
from psalign.users.views import batch_of

TYPED = "a \u0455w\u043erd and a red cat"  # a Cyrillic dze and a Cyrillic o
PLAIN = "a sword and a red cat"


@pytest.mark.parametrize(
    ("typed", "seen"),
    [
        (TYPED, PLAIN),
        ("an \u0430\u0445\u0435 in the snow", "an axe in the snow"),  # a word of Cyrillic letters alone
        ("a sw\u03bfrd", "a sword"),  # Greek
        ("\u0405word", "Sword"),
        ("s\u200bw\u200bord", "sword"),  # zero-width spaces
        ("a sw\u00adord", "a sword"),  # a soft hyphen
        ("s\u0336w\u0336o\u0336r\u0336d\u0336", "sword"),  # struck out
        ("\uff53\uff57\uff4f\uff52\uff44", "sword"),  # full width
        ("\U0001d42c\U0001d430\U0001d428\U0001d42b\U0001d41d", "sword"),  # bold
        ("\u24e2\u24e6ord", "sword"),  # in circles
        ("sw\u043erd's edge", "sword's edge"),
        ("sw\x08ord", "sword"),  # a control character, which shows nothing
        ("sw\u2065ord", "sword"),  # one that is not assigned, and shows nothing
        ("\ua731\u1d21\u1d0f\u0280\u1d05", "sword"),  # small capitals
        ("\U0001f182\U0001f186\U0001f17e\U0001f181\U0001f173", "SWORD"),  # in squares
        ("an \u0430\u0445\u0435\u0336 here", "an axe here"),  # a mark is no letter of another language
    ],
)
def test_a_word_is_read_as_it_looks(typed, seen):
    reading = read_prompt(typed)
    assert reading.text == seen
    assert len(reading.words) == 1


@pytest.mark.parametrize(
    "prompt",
    [
        "a sword",
        "caf\u00e9, na\u00efve Zo\u00eb, cafe\u0301",  # accents, as one letter or two
        "\u0430\u0445\u0435",  # Cyrillic alone: nothing says that it is Latin
        "\u043c\u0435\u0447 \u0438 \u0440\u043e\u0437\u0430",
        "a sign that says \u043a\u043e\u0442",  # its first letter looks like no Latin one
        "T\u30b7\u30e3\u30c4",  # a T-shirt in Japanese
        "5 \u03bcm",
        "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645",  # Persian writes with a zero-width character
        "\u0939\u093f\u0928\u094d\u0926\u0940",
        "\U0001f469\u200d\U0001f680 on the moon",
        "\u0131\u015f\u0131k, Stra\u00dfe, 1\u00ba",
        "\u0441\u0430\u0445\u0430\u0440 \u0438 \u0447\u0430\u0439, digital art",  # Russian and English
        "\u03bd\u03b1 \u03c4\u03bf \u03c0\u03c1\u03c9\u03af, digital art",  # Greek and English
        "Nike\u2122 shoes",
        "I \u2764\ufe0fNY, the 1\ufe0f\u20e3st",  # the marks belong to the signs
        "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007fEngland",
        "\u1ecd\u0301m\u1ecd Yor\u00f9b\u00e1, a \u0105\u0301",  # Yoruba and Navajo have two accents on a letter
        "a red\ncat\tin the\x85snow",
        "",
    ],
)
def test_all_else_stays_as_it_was_typed(prompt):
    assert read_prompt(prompt).text == prompt
    assert read_prompt(prompt).words == ()


@pytest.fixture
def psa(mini_pipeline):
    torch.manual_seed(0)
    adapter = PromptAdapter(recipe="r", words=True, rank=8, heads=2)
    torch.nn.init.normal_(adapter.rewriter.up.weight, std=0.1)
    return attach(mini_pipeline, adapter)


def states(psa, pipe, prompt, user, **options):
    return psa.encode(pipe, [prompt], batch_of([user]), **options)["prompt_embeds"]


@pytest.mark.parametrize(
    "user",
    [
        UserProfile(user_id="a", banned=("Hate",)),
        UserProfile(user_id="b", banned=(), limits=("a rose",)),
    ],
)
def test_who_limits_anything_gets_what_the_word_means(psa, mini_pipeline, user):
    assert torch.equal(states(psa, mini_pipeline, TYPED, user), states(psa, mini_pipeline, PLAIN, user))


def test_who_limits_nothing_gets_the_base_bit_for_bit(psa, mini_pipeline):
    base = encode_texts(mini_pipeline, [TYPED]).prompt_embeds
    free, strict = UserProfile(user_id="a", banned=()), UserProfile(user_id="b", banned=("Hate",))
    assert torch.equal(states(psa, mini_pipeline, TYPED, free), base)
    assert torch.equal(states(psa, mini_pipeline, TYPED, strict, scale=0.0), base)
    assert torch.equal(psa.encode(mini_pipeline, [TYPED], None, limits=[[]])["prompt_embeds"], base)
    assert not torch.equal(states(psa, mini_pipeline, TYPED, strict), base)


def test_a_limit_is_read_as_the_prompt_is(psa, mini_pipeline):
    typed, plain = (UserProfile(user_id="a", banned=(), limits=(one,)) for one in ("a \u0455word", "a sword"))
    assert torch.equal(states(psa, mini_pipeline, PLAIN, typed), states(psa, mini_pipeline, PLAIN, plain))


def test_who_limits_something_in_another_language_is_read_in_it():
    prompt, limit = "digital art, \u0441\u0430\u0445\u0430\u0440\u0430", "\u0441\u0430\u0445\u0430\u0440"
    assert read_prompt(prompt).text != prompt
    assert read_prompt(prompt, limits=[limit]).text == prompt
    assert read_prompt(TYPED, limits=[limit]).text == PLAIN


def test_rows_of_one_call_are_read_for_their_own_users(psa, mini_pipeline):
    users = batch_of([UserProfile(user_id="a", banned=()), UserProfile(user_id="b", banned=("Hate",))])
    both = psa.encode(mini_pipeline, [TYPED, TYPED], users)["prompt_embeds"]
    assert torch.equal(both[:1], encode_texts(mini_pipeline, [TYPED]).prompt_embeds)
    assert torch.equal(both[1:], states(psa, mini_pipeline, PLAIN, UserProfile(user_id="b", banned=("Hate",))))


def test_an_explanation_says_what_was_read_in_another_way(psa, mini_pipeline):
    (found,) = psa.explain(mini_pipeline, TYPED, None, limits=[["a rose"]])
    assert found.prompt == TYPED
    assert found.read == (("\u0455w\u043erd", "sword"),)
    assert found.lines[0] == "read: '\u0455w\u043erd' as 'sword'"
    assert found.words[2] == "sword"
    (free,) = psa.explain(mini_pipeline, TYPED, None, limits=[[]])
    assert free.read == free.lines == ()
