"""The queue: fair between owners, and batches of one kind."""

from psalign.serve.waiting import FairQueue, Kind, Row, Work
from psalign.users.views import batch_of

SMALL, LARGE = Kind(64, 64, 15, 4.0), Kind(32, 32, 15, 4.0)
USERS = batch_of([None])


def row(owner, prompt, kind=SMALL):
    return Row(owner, kind, Work(prompt, USERS, seed=0))


def queue(*rows):
    made = FairQueue()
    for one in rows:
        made.add(one)
    return made


def prompts(rows):
    return [one.work.prompt for one in rows]


def test_owners_take_turns_within_a_batch():
    waiting = queue(*(row("a", f"a{i}") for i in range(4)), row("b", "b0"))
    assert prompts(waiting.take(3)) == ["a0", "b0", "a1"]
    assert prompts(waiting.take(3)) == ["a2", "a3"]
    assert waiting.take(3) == []


def test_who_was_first_is_last_in_the_next_batch():
    waiting = queue(*(row(owner, f"{owner}{i}") for owner in "ab" for i in range(2)))
    assert [prompts(waiting.take(1)) for _ in range(4)] == [["a0"], ["b0"], ["a1"], ["b1"]]


def test_a_batch_has_one_kind_and_no_kind_starves():
    waiting = queue(row("a", "a0"), row("a", "a1", LARGE), row("b", "b0", LARGE), row("a", "a2"))
    assert prompts(waiting.take(8)) == ["a0", "a2"]
    assert prompts(waiting.take(8)) == ["b0", "a1"]


def test_rows_that_nobody_wants_are_dropped():
    gone, stays = row("a", "gone"), row("a", "stays")
    waiting = queue(gone, stays)
    gone.result.cancel()
    waiting.drop_unwanted()
    assert len(waiting) == waiting.waiting_of("a") == 1
    assert prompts(waiting.take(8)) == ["stays"]


def test_a_repr_shows_neither_prompt_nor_limits():
    assert "secret" not in repr(row("a", "secret"))
