"""Limited words that are misspelt or hidden: spelled rightly or left out for users who limit them, for nobody else."""

from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import CLIPTokenizer

from psalign.adapter.attach import attach
from psalign.adapter.second_look import CAUTION, MOST_LOOKS, SURE, Look, text_states
from psalign.adapter.text import encode_texts
from psalign.users.vectors import UserBatch
from tiny_pipelines import PIPELINES, adapter_of_limits, random_adapter

SCENE = "a red cat on the left, in a meadow"
HIDDEN = "a red cat on the left with a sowrd, in a meadow"
REST = "a red cat on the left with, in a meadow"
LIMITS = [["a sword"]]


@pytest.fixture
def psa(mini_pipeline, monkeypatch):
    """Its matcher knows no training, so that caution would find limits everywhere."""
    monkeypatch.setattr("psalign.adapter.second_look.CAUTION", 0.0)
    return attach(mini_pipeline, adapter_of_limits(mini_pipeline, bias=-5.0))


def encoded(psa, pipe, prompt, limits=LIMITS, **options):
    return psa.encode(pipe, [prompt], None, limits=limits, **options)["prompt_embeds"]


def plain(pipe, prompt):
    return encode_texts(pipe, [prompt]).prompt_embeds


MISSPELT = ["sowrd", "sw ord", "s w o r d", "sw0rd", "swordd", "sw.ord", "sw*rd"]


@pytest.mark.parametrize("typed", MISSPELT)
def test_a_misspelt_or_split_word_is_rewritten_as_the_one_that_is_meant(psa, mini_pipeline, typed):
    prompt = f"a {typed} and {SCENE}"
    (found,) = psa.explain(mini_pipeline, prompt, None, limits=LIMITS)
    assert found.lines == (f"read: '{typed}' as 'sword'", "softened: 'sword' for 'a sword'")
    assert found.prompt == prompt
    rightly = encoded(psa, mini_pipeline, f"a sword and {SCENE}")
    assert torch.equal(encoded(psa, mini_pipeline, prompt), rightly)
    assert not torch.equal(rightly, plain(mini_pipeline, f"a sword and {SCENE}"))


@pytest.mark.parametrize("typed", MISSPELT)
def test_a_misspelt_or_split_word_that_is_hidden_is_left_out(psa, mini_pipeline, typed):
    prompt = f"a red cat on the left with a {typed}, in a meadow"
    (found,) = psa.explain(mini_pipeline, prompt, None, limits=LIMITS)
    assert found.lines == (f"read: '{typed}' as 'sword'", "left out: 'sword' for 'a sword'")
    assert SURE <= found.left_out[0].match <= 1
    assert found.prompt == prompt
    assert torch.equal(encoded(psa, mini_pipeline, prompt), plain(mini_pipeline, REST))


def test_several_misspelt_words_are_read_in_their_places(psa, mini_pipeline):
    limits = [["a sword", "a rose"]]
    (found,) = psa.explain(mini_pipeline, f"a Roose, a s-word and a sw ord, {SCENE}", None, limits=limits)
    assert found.read == (("Roose", "rose"), ("s-word", "sword"), ("sw ord", "sword"))
    both = (f"a Roose, a s-word and a sw ord, {SCENE}", f"a rose, a sword and a sword, {SCENE}")
    assert torch.equal(*(encoded(psa, mini_pipeline, prompt, limits) for prompt in both))


def test_a_word_that_the_adapter_finds_stays_to_be_rewritten(psa, mini_pipeline):
    (found,) = psa.explain(mini_pipeline, f"a sword and {SCENE}", None, limits=LIMITS)
    assert not found.left_out
    assert found.softened[0].word == "sword"


def test_a_word_that_is_hidden_among_others_is_left_out(psa, mini_pipeline):
    """The matcher of these tests finds a word only where its states are much like the limit's."""
    prompt = "a red cat on the left with a sword, in a meadow"
    (found,) = psa.explain(mini_pipeline, prompt, None, limits=LIMITS)
    assert found.lines == ("left out: 'sword' for 'a sword'",)
    assert torch.equal(encoded(psa, mini_pipeline, prompt), plain(mini_pipeline, REST))


def test_what_is_left_is_looked_at_again(psa, mini_pipeline):
    """A word around another that is left out is one then."""
    prompt = "a red cat on the left with a s s w sowrd o r d w o r d, in a meadow"
    (found,) = psa.explain(mini_pipeline, prompt, None, limits=LIMITS)
    assert found.read == (("sowrd", "sword"), *[("s w o r d", "sword")] * 2)
    assert [one.word for one in found.left_out] == ["sword"] * 3
    assert torch.equal(encoded(psa, mini_pipeline, prompt), plain(mini_pipeline, REST))


def test_nothing_is_encoded_where_looking_again_does_not_end(psa, mini_pipeline):
    prompt = f"{SCENE} with {'s w ' * 9}sowrd{' o r d' * 9}"
    (found,) = psa.explain(mini_pipeline, prompt, None, limits=LIMITS)
    assert len(found.left_out) == MOST_LOOKS
    assert found.cut.startswith(f"{SCENE} with s w s w")
    assert torch.equal(encoded(psa, mini_pipeline, prompt), encoded(psa, mini_pipeline, ""))


@pytest.mark.parametrize("prompt", [f"{SCENE}, no sowrd", f"{SCENE} without any sw ord", SCENE])
def test_denied_and_safe_words_stay_to_the_bit(psa, mini_pipeline, prompt):
    assert torch.equal(encoded(psa, mini_pipeline, prompt), plain(mini_pipeline, prompt))


def test_users_without_that_limit_keep_their_very_prompt(psa, mini_pipeline):
    both = psa.encode(mini_pipeline, [HIDDEN, HIDDEN], None, limits=[["a doctor"], []])["prompt_embeds"]
    assert torch.equal(both, encode_texts(mini_pipeline, [HIDDEN, HIDDEN]).prompt_embeds)


def test_a_row_is_the_same_in_any_batch(psa, mini_pipeline):
    prompts = [HIDDEN, "a red cat on the left with a sword", SCENE]
    limits = [["a sword"], ["a sword", "a rose"], ["a rose"]]
    whole = psa.encode(mini_pipeline, prompts, None, limits=limits)["prompt_embeds"]
    for row, (prompt, own) in enumerate(zip(prompts, limits, strict=True)):
        assert torch.equal(whole[row : row + 1], encoded(psa, mini_pipeline, prompt, [own]))


def test_threads_give_the_same_bits(psa, mini_pipeline):
    """They share a tokenizer, which keeps padding and truncation from call to call."""
    prompts = [HIDDEN, f"{SCENE}, " * 9 + "a sword", "sword " * 200, "a sowrd"]
    expected = [encoded(psa, mini_pipeline, prompt) for prompt in prompts]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda prompt: encoded(psa, mini_pipeline, prompt), prompts * 2))
    assert all(map(torch.equal, found, expected * 2))


@pytest.mark.parametrize("weak", [{"limits": [[("a sword", 0.5)]]}, {"scale": 0.5}, {"scale": 0.0}])
def test_a_weak_limit_leaves_nothing_out(psa, mini_pipeline, weak):
    assert torch.equal(encoded(psa, mini_pipeline, HIDDEN, **{"limits": LIMITS, **weak}), plain(mini_pipeline, HIDDEN))


def test_it_can_be_turned_off_on_purpose(psa, mini_pipeline):
    psa.second_look = None
    assert torch.equal(encoded(psa, mini_pipeline, HIDDEN), plain(mini_pipeline, HIDDEN))
    assert not psa.explain(mini_pipeline, HIDDEN, None, limits=LIMITS)[0].left_out


def test_words_behind_the_end_of_what_is_read_are_looked_at_too(psa, mini_pipeline):
    """Leaving out words before them brings them in."""
    filler = ", ".join([SCENE] * 4)
    (found,) = psa.explain(mini_pipeline, f"{filler}, a sword", None, limits=LIMITS)
    assert [one.word for one in found.left_out] == ["sword"]


def test_a_word_is_encoded_once(psa, mini_pipeline, monkeypatch):
    calls = []
    monkeypatch.setattr(
        "psalign.adapter.second_look.encode_texts",
        lambda pipe, text, **options: calls.append(text) or encode_texts(pipe, text, **options),
    )
    for _ in range(2):
        encoded(psa, mini_pipeline, SCENE)
    assert sorted(calls) == sorted({f"a {word}" for word in ("red", "cat", "left", "meadow")})


def test_a_prompt_is_cut_where_too_many_words_were_looked_at(psa, mini_pipeline, monkeypatch):
    monkeypatch.setattr("psalign.adapter.second_look.MOST_WORDS", 3)
    assert torch.equal(encoded(psa, mini_pipeline, SCENE), plain(mini_pipeline, "a red cat on the left, in a"))
    (found,) = psa.explain(mini_pipeline, SCENE, None, limits=LIMITS)
    assert (found.cut, found.lines) == ("meadow", ("not read: 'meadow'",))
    assert torch.equal(encoded(psa, mini_pipeline, SCENE, [[]]), plain(mini_pipeline, SCENE))
    twice = "a red cat, a red cat, a red cat"  # no more than two different words
    assert torch.equal(encoded(psa, mini_pipeline, twice), plain(mini_pipeline, twice))


def test_a_word_counts_again_behind_other_words(psa, mini_pipeline, monkeypatch):
    """It is read behind them, so that a prompt of one limited word could take any number of passes."""
    monkeypatch.setattr("psalign.adapter.second_look.MOST_WORDS", 3)
    (found,) = psa.explain(mini_pipeline, "sword, in a sword, on the sword, at a sword, of it", None, limits=LIMITS)
    assert found.cut == "sword, of it"


def test_a_word_behind_more_than_the_text_encoder_reads_is_looked_at(psa, mini_pipeline):
    """The long word before it is left out, and the encoder then reads it."""
    (found,) = psa.explain(
        mini_pipeline, f"a red cat on the left with a sword-{'x' * 80} sword, in a meadow", None, limits=LIMITS
    )
    assert [one.word[:6] for one in found.left_out] == ["sword-", "sword"]
    assert "sword" not in found.words


def test_a_textual_inversion_has_a_state_for_each_vector(mini_pipeline, mini_pipeline_source):
    mini_pipeline.tokenizer = CLIPTokenizer.from_pretrained(mini_pipeline_source / "tokenizer")  # other tests share it
    vectors = torch.randn(3, mini_pipeline.text_encoder.config.hidden_size)
    mini_pipeline.load_textual_inversion(vectors, token="<toy>")
    one, two = text_states(mini_pipeline, ["a <toy>", "a red <toy> cat"])
    assert (len(one), len(two)) == (2 + 1 + 3, 2 + 3 + 3)


def test_a_piece_longer_than_the_text_encoder_reads(psa, mini_pipeline):
    prompt = "sword" * 100
    assert encoded(psa, mini_pipeline, prompt).isfinite().all()


@pytest.mark.parametrize("base", list(PIPELINES))
def test_a_second_prompt_that_is_the_same_follows(base, monkeypatch):
    pipeline = PIPELINES[base]()
    psa = attach(pipeline, random_adapter(pipeline, "prompt"))
    monkeypatch.setattr(psa, "second_look", lambda *given: Look("what is left"))
    options = {"prompt_2": ["a sowrd"]} if base == "sdxl" else {}
    given = []
    monkeypatch.setattr(
        "psalign.adapter.guard.encode_texts",
        lambda pipe, prompts, negative, **options: (
            given.append((prompts, options.get("prompt_2"))) or encode_texts(pipe, prompts, negative, **options)
        ),
    )
    encoded(psa, pipeline, "a sowrd", **options)
    assert given == [(["what is left"], ["what is left"] if options else None)]


def test_a_pipeline_without_a_tokenizer_is_not_looked_at(psa, mini_pipeline):
    class Bare:
        unet, _execution_device = mini_pipeline.unet, mini_pipeline._execution_device
        encode_prompt = staticmethod(mini_pipeline.encode_prompt)

        def __call__(self, prompt_embeds):
            """Never called."""

    bans = torch.zeros(1, psa.adapter.config.categories)
    bans[0, 0] = 1
    text = psa.encode(Bare(), ["a sowrd"], UserBatch((None,), "r", tuple(bans)))
    assert text["prompt_embeds"].shape == plain(mini_pipeline, "a sowrd").shape


def test_smaller_matches_count_in_prompts_that_an_adapter_is_not_at_home_with(psa, mini_pipeline, monkeypatch):
    """Elsewhere in the prompt and in no other row."""
    monkeypatch.setattr("psalign.adapter.second_look.CAUTION", CAUTION)
    users = psa.encode(mini_pipeline, [HIDDEN, SCENE], None, limits=LIMITS * 2)["cross_attention_kwargs"]["psa"].users
    assert users.caution.tolist() == [CAUTION, 0]
    odd = f"not without a sword: a sword and {SCENE}"  # found, and yet not at home
    careful = psa.encode(mini_pipeline, [odd], None, limits=LIMITS)["cross_attention_kwargs"]["psa"].users
    assert careful.caution.tolist() == [CAUTION]
    spelled = psa.encode(mini_pipeline, [f"a sowrd and {SCENE}"], None, limits=LIMITS)["cross_attention_kwargs"]
    assert spelled["psa"].users.caution is None  # where the adapter is at home
    alone = psa.encode(mini_pipeline, [SCENE], None, limits=LIMITS)["cross_attention_kwargs"]["psa"].users
    assert alone.caution is None
