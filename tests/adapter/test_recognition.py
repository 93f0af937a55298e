"""Rows of text are recognised by their content, whatever a pipeline does with them on the way to its denoiser."""

import threading
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from psalign.adapter.guard import AttachedAdapter
from psalign.adapter.prompt import PromptAdapter
from psalign.adapter.recognition import LAYOUTS, KnownText, Place, arrange, live_texts, recognise, row_digests
from psalign.adapter.text import Texts, with_marks
from psalign.adapter.users import RowUsers
from psalign.errors import GuardError

TOKENS, WIDTH, POOLED = 3, 16, 6


def random(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


class Denoiser(nn.Module):
    """A denoiser that gives back the text it reads."""

    def __init__(self):
        super().__init__()
        self.config = SimpleNamespace(cross_attention_dim=WIDTH)

    def forward(self, sample, timestep, encoder_hidden_states, added_cond_kwargs=None, cross_attention_kwargs=None):
        return encoder_hidden_states, (added_cond_kwargs or {}).get("text_embeds")


def adapter(pooled):
    torch.manual_seed(0)
    made = PromptAdapter(recipe="r", llm_dim=4, context_dim=WIDTH, pooled_dim=pooled, n_tokens=1, rank=8, heads=2)
    with torch.no_grad():
        for weight in made.parameters():
            weight.normal_(std=0.5)
    return made.eval()


# One of each for all examples: what they keep of a call is what these tests look for.
GUARDS = {pooled: AttachedAdapter(Denoiser(), adapter(pooled)) for pooled in (0, POOLED)}


@st.composite
def plays(draw):
    """A call of up to four users, and what a pipeline does to its rows on the way to the denoiser, call by call."""
    users = draw(st.integers(1, 4))
    numbers = st.lists(st.integers(0, 1), min_size=users, max_size=users)  # few different ones: rows may be equal
    calls = draw(
        st.lists(
            st.tuples(
                st.sampled_from([*LAYOUTS, "cu", "ccu", "r", "ur", "cr"]),  # r: raw prompts
                st.integers(1, 2),  # pictures a prompt
                st.lists(
                    st.tuples(
                        st.sampled_from(["swap", "drop", "repeat", "cut", "cast", "replace", "nudge", "tile"]),
                        st.integers(0, 11),
                        st.integers(0, 11),
                        st.sampled_from(["both", "text"]),  # rows of latents too, or rows of text alone
                    ),
                    max_size=3,
                ),
            ),
            min_size=1,
            max_size=3,
        )
    )
    return {
        "prompts": draw(numbers),
        "users": draw(numbers),
        "negatives": draw(numbers),
        "strength": draw(st.lists(st.sampled_from([0.0, 1.0]), min_size=users, max_size=users)),
        "pooled": draw(st.sampled_from([0, POOLED])),
        "calls": calls,
        "with_call": draw(st.booleans()),
    }


def lay_out(layout, times, text):
    """Rows of text [(states, pooled)] and the user that each row's latents are for."""
    blocks = {"c": text["prompts"], "u": text["negatives"], "r": text["raw"]}
    rows = [row for kind in layout for row in blocks[kind] for _ in range(times)]
    owners = [(kind, i) for kind in layout for i in range(len(text["prompts"])) for _ in range(times)]
    return rows, owners


def change(rows, owners, what, i, j, of, raw):
    """One thing that a pipeline, or a mistake in it, does to rows; of: latents and text, or text alone."""
    i, j = i % len(rows), j % len(rows)
    of = "text" if len(rows) != len(owners) else of  # they have parted already
    orders = {
        "swap": [{i: j, j: i}.get(k, k) for k in range(len(rows))],
        "drop": [k for k in range(len(rows)) if k != i] or [i],
        "repeat": [*range(len(rows)), i],
        "cut": [*range(min(i, j), max(i, j) + 1)],
        "tile": [*range(len(rows))] * 2,
    }
    if what in orders:
        rows = [rows[k] for k in orders[what]]
        owners = [owners[k] for k in orders[what]] if of == "both" else owners
    elif what == "cast":
        rows = [(states.half(), pooled if pooled is None else pooled.half()) for states, pooled in rows]
    elif what == "replace":
        rows = [raw[j % len(raw)] if k == i else row for k, row in enumerate(rows)]
    else:  # nudge: a change of one number
        states = rows[i][0].clone()
        states[0, j % WIDTH] += 0.01
        rows = [(states, rows[i][1]) if k == i else row for k, row in enumerate(rows)]
    dtype = rows[0][0].dtype
    return [(s.to(dtype), p if p is None else p.to(dtype)) for s, p in rows], owners


def play(example):
    """Every call either raises, or each row of latents reads the text of its own user."""
    psa, pooled = GUARDS[example["pooled"]], example["pooled"]
    count = len(example["prompts"])

    def texts(numbers, seed):
        states = torch.stack([random(TOKENS, WIDTH, seed=seed + n) for n in numbers])
        return states, torch.stack([random(pooled, seed=seed + n) for n in numbers]) if pooled else None

    (states, states_pooled), (negative, negative_pooled) = texts(example["prompts"], 0), texts(example["negatives"], 10)
    vectors = torch.stack([random(4, seed=70 + n) for n in example["users"]])
    made = psa.rewrite(states, vectors, pooled=states_pooled, negative=negative, negative_pooled=negative_pooled,
                       scale=example["strength"], recipe="r")  # fmt: skip

    def rows_of(states, pooled):
        return [(states[i], None if pooled is None else pooled[i]) for i in range(count)]

    text = {
        "prompts": rows_of(made["prompt_embeds"], made.get("pooled_prompt_embeds")),
        "negatives": rows_of(negative, negative_pooled),
        "raw": rows_of(states, states_pooled),
    }
    accepted = 0
    for layout, times, changes in example["calls"]:
        rows, owners = lay_out(layout, times, text)
        # Only their place says whose latents are: a call changes whole rows, or its text alone.
        for what, i, j, _ in changes:
            rows, owners = change(rows, owners, what, i, j, changes[0][3], text["raw"])
        added = {"added_cond_kwargs": {"text_embeds": torch.stack([p for _, p in rows])}} if pooled else {}
        along = {"cross_attention_kwargs": made["cross_attention_kwargs"]} if example["with_call"] else {}
        try:
            read, read_pooled = psa.unet(
                torch.zeros(len(owners), 4, 2, 2), 1, encoder_hidden_states=torch.stack([s for s, _ in rows]), **added,
                **along,
            )  # fmt: skip
        except GuardError:
            continue
        accepted += 1
        # The guard does not see whose latents are whose: it accepts text in the order of any layout (docs/GUARD.md).
        if changes and changes[0][3] == "text" and is_laid_out(read, text):
            continue
        for row, (kind, user) in enumerate(owners):
            prompt, negative_row = text["prompts"][user], text["negatives"][user]
            # Rows that were changed may be those of another layout: then the guard knows whose text it is, and not for
            # which branch of guidance its latents were meant.
            may = [prompt, negative_row] if changes else [prompt] if kind in "cr" else [negative_row]
            assert any(
                torch.equal(read[row], states.to(read.dtype))
                and (not pooled or torch.equal(read_pooled[row], p.to(read.dtype)))
                for states, p in may
            ), (layout, times, changes, row, kind, user)
    return accepted


def is_laid_out(read, text):
    """Whether rows of states are those of this call in one of LAYOUTS."""
    prompts, negatives = ([bits(states.to(read.dtype)) for states, _ in text[one]] for one in ("prompts", "negatives"))
    return arrange([bits(states) for states in read], prompts, negatives) is not None


def bits(states):
    return states.contiguous().numpy().tobytes()


def test_text_alone_in_the_order_of_another_layout_is_taken_for_it():
    """Two pictures for each of two users, inner rows of text exchanged: the order of perturbed-attention guidance."""
    example = {"prompts": [0, 0], "users": [0, 0], "negatives": [0, 0], "strength": [0.0, 1.0], "pooled": 0,
               "calls": [("c", 2, [("swap", 1, 2, "text")])], "with_call": False}  # fmt: skip
    assert play(example) == 1
    assert play({**example, "calls": [("c", 2, [("swap", 0, 3, "text")])]}) == 0


@settings(deadline=None, max_examples=200, derandomize=True)
@given(plays())
def test_each_row_reads_the_text_of_its_user_or_the_call_raises(example):
    play(example)


@pytest.mark.long
@settings(deadline=None, max_examples=10_000)
@given(plays())
def test_each_row_reads_the_text_of_its_user_or_the_call_raises_often(example):
    play(example)


@pytest.mark.parametrize(
    ("rows", "places"),
    [
        ("ab", "c0 c1"),
        ("aabb", "c0 c0 c1 c1"),
        ("xyab", "u0 u1 c0 c1"),
        ("xxyyaabb", "u0 u0 u1 u1 c0 c0 c1 c1"),
        ("xy", "u0 u1"),
        ("abab", "c0 c1 c0 c1"),
        ("xyabab", "u0 u1 c0 c1 c0 c1"),
        ("abxyxy", "c0 c1 u0 u1 u0 u1"),
        ("ba", None),
        ("abxy", None),
        ("a", None),
        ("aab", None),
        ("xayb", None),
        ("xyba", None),
        ("xyaa", None),
        ("ab?", None),
        ("", None),
    ],
)
def test_layouts_by_hand(rows, places):
    """Two users: prompts a and b, unconditional texts x and y."""
    found = arrange(list(rows), list("ab"), list("xy"))
    told = None if found is None else " ".join(f"{'c' if place.is_prompt else 'u'}{place.row}" for place in found)
    assert told == places


def test_a_digest_is_of_all_bits_and_their_places():
    x = random(2, TOKENS, WIDTH)
    same = row_digests(x)
    assert torch.equal(same, torch.cat([row_digests(x[:1]), row_digests(x[1:])]))
    assert torch.equal(row_digests(x.transpose(1, 2).contiguous().transpose(1, 2)), same)  # however it lies in memory
    for change in (x.flip(1), x.flip(0), torch.nextafter(x, x + 1), x.half(), x.half().bfloat16()):
        assert not torch.equal(row_digests(change), same)
    assert row_digests(torch.zeros(1, 3)).item() == 0


def known(users=2, strength=None, owner=None, **more):
    texts = Texts(random(users, TOKENS, WIDTH), random(users, TOKENS, WIDTH, seed=1), **more)
    rows = RowUsers(torch.zeros(users, 4), strength or torch.ones(users))
    return texts, KnownText(texts, rows, owner, changed=[True] * users)


def watch(text, states, pooled):
    """Places of rows and states as on an accelerator; None for the places of rows that are not the text's."""
    found = recognise([text], states, pooled, may_wait=False)
    return (None, states) if found is None else found[1:]


def test_on_an_accelerator_a_recognised_tensor_is_looked_at_without_waiting():
    """A change that torch counts is looked for again; one that it does not count leaves NaN, never another text."""
    texts, text = known()
    states = texts.prompt_embeds.clone()
    places, same = watch(text, states, None)
    assert places == [Place(True, 0), Place(True, 1)]
    assert same is states
    places, same = watch(text, states, None)
    assert places == [Place(True, 0), Place(True, 1)]
    assert torch.equal(same, states)
    states.data[1, 0, 0] = 9.0
    places, looked_at = watch(text, states, None)
    assert torch.equal(looked_at[0], texts.prompt_embeds[0])
    assert looked_at[1].isnan().all()
    states[0, 0, 0] = 9.0
    assert watch(text, states, None)[0] is None
    with torch.inference_mode():  # torch counts no changes there: it is looked at in every call
        states = texts.prompt_embeds.clone()
        assert watch(text, states, None)[0] is not None
        states[1, 0, 0] = 9.0
        assert watch(text, states, None)[0] is None


def test_on_an_accelerator_pooled_states_are_looked_at_again_where_they_are_others():
    pooled = random(2, POOLED)
    texts, text = known(pooled_prompt_embeds=pooled, negative_pooled_prompt_embeds=random(2, POOLED, seed=1))
    states, mine = texts.prompt_embeds, pooled.clone()
    assert watch(text, states, mine)[0] is not None
    assert watch(text, states, pooled.flip(0))[0] is None
    assert watch(text, states, mine)[0] is not None
    mine.data[1, 0] += 1  # past torch's count
    places, looked_at = watch(text, states, mine)
    assert places == [Place(True, 0), Place(True, 1)]
    assert looked_at[1].isnan().all()
    assert torch.equal(looked_at[0], states[0])
    mine += 1
    assert watch(text, states, mine)[0] is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_marks_tell_equal_prompts_of_two_users_apart_in_any_dtype(dtype):
    states = random(1, TOKENS, WIDTH).expand(2, -1, -1).to(dtype)
    texts = Texts(states, states.clone())
    marked, others = with_marks(texts), with_marks(texts)
    rows = RowUsers(torch.zeros(2, 4), torch.ones(2))
    first, other = (KnownText(one, rows, None, changed=[True] * 2) for one in (marked, others))
    rows = torch.cat([marked.negative_prompt_embeds, marked.prompt_embeds])
    for cast in (dtype, torch.float32, torch.float16, torch.bfloat16):
        assert recognise([first], rows.to(cast), None)[1] == [
            Place(False, 0),
            Place(False, 1),
            Place(True, 0),
            Place(True, 1),
        ]
        assert recognise([first], rows.to(cast)[[0, 1, 3, 2]], None) is None
        assert recognise([other], rows.to(cast), None) is None
    assert not torch.equal(marked.prompt_embeds, others.prompt_embeds)


def test_texts_that_are_under_way_are_known_in_every_thread_and_forgotten_after():
    owner, found, barrier = object(), [], threading.Barrier(4)
    states = random(2, TOKENS, WIDTH)

    def look():
        barrier.wait(30)
        for _ in range(20):
            text = known(owner=owner)[1]
            found.append(recognise(live_texts(owner), states, None) is not None)
            del text

    threads = [threading.Thread(target=look) for _ in range(4)]
    [thread.start() for thread in threads], [thread.join() for thread in threads]
    assert found == [True] * 80
    assert live_texts(owner) == []
    text = known(owner=owner)[1]
    assert live_texts(object()) == []
    assert live_texts(owner) == [text]


def test_a_raw_prompt_that_a_call_under_way_has_for_no_user_is_not_known():
    """A pipeline that was given prompts makes the very text of another call's row with no user."""
    psa = GUARDS[0]
    states = random(1, TOKENS, WIDTH)
    made = psa.rewrite(states, [None], negative=random(1, TOKENS, WIDTH, seed=1), recipe="r")
    with pytest.raises(GuardError, match="called without users"):
        psa.unet(torch.zeros(1, 4, 2, 2), 1, encoder_hidden_states=states)
    read, _ = psa.unet(
        torch.zeros(1, 4, 2, 2), 1, encoder_hidden_states=states,
        cross_attention_kwargs=made["cross_attention_kwargs"],
    )  # fmt: skip
    assert torch.equal(read, states)
