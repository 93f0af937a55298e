"""The engine: batches of different people, and an end for every row."""

import time
import weakref

import numpy as np
import pytest
import torch

from psalign.errors import UsageError
from psalign.serve.artist import DeviceLost
from psalign.serve.engine import Busy, Closed, Engine, EngineSettings
from psalign.serve.metrics import Metrics
from psalign.serve.waiting import Kind, Row, Work
from psalign.users.profile import UserProfile
from psalign.users.views import batch_of
from serving import LIMITS_S, Marker, marked, until

KIND = Kind(64, 64, 4, 4.0)
PEOPLE = [
    batch_of([UserProfile(user_id="a", banned=("Hate",))]),
    batch_of([UserProfile(user_id="b", banned=())]),
    batch_of([UserProfile(user_id="c", banned=(), limits=("no spiders",))]),
]


def rows(count, owner="a", prompt="a cat", **more):
    return [Row(owner, KIND, Work(prompt, PEOPLE[i % 3], seed=i, person=str(i % 3)), **more) for i in range(count)]


@pytest.fixture
def made(request):
    engines = []

    def make(artist, **settings):
        engine = Engine(EngineSettings(**{"max_wait_ms": 20.0, **settings}), Metrics())
        engine.start(artist)
        engines.append((engine, artist))
        return engine

    yield make
    for engine, artist in engines:
        artist.may_draw.set()
        engine.close(LIMITS_S)


def figure(engine, name):
    return engine.metrics.registry.get_sample_value(name)


def test_a_batch_has_different_people_and_each_gets_their_own_picture(made):
    artist = Marker()
    engine, given = made(artist), rows(6)
    engine.submit(given)
    for row in given:
        assert np.array_equal(row.result.result(LIMITS_S), marked(row.work))
    assert [len(batch) for batch in artist.batches] == [6]
    assert figure(engine, "psalign_batch_people_sum") == 3
    assert figure(engine, "psalign_batch_rows_sum") == 6


def test_a_row_waits_for_others_no_longer_than_it_is_told(made):
    engine = made(Marker(), max_wait_ms=200.0)
    first, second = rows(2)
    engine.submit([first])
    time.sleep(0.05)
    engine.submit([second])
    first.result.result(LIMITS_S)
    second.result.result(LIMITS_S)
    assert figure(engine, "psalign_batch_rows_sum") == 2
    assert figure(engine, "psalign_batch_rows_count") == 1


def test_a_full_queue_refuses_whole_requests_and_says_when_to_come_again(made):
    artist = Marker()
    artist.may_draw.clear()
    engine = made(artist, max_batch=1, max_wait_ms=0.0, max_waiting=6, max_waiting_of_key=4)
    engine.submit(rows(1))
    until(lambda: engine._drawn_now)
    waiting = rows(4)
    engine.submit(waiting)
    with pytest.raises(Busy, match="wait to be drawn") as busy:
        engine.submit(rows(1))
    assert 1 <= busy.value.retry_after_s <= 60
    engine.submit(rows(2, owner="b"))  # another key has room of its own
    with pytest.raises(Busy):
        engine.submit(rows(1, owner="c"))
    artist.may_draw.set()
    for row in waiting:
        row.result.result(LIMITS_S)


def test_a_batch_that_nobody_wants_stops_at_the_next_step(made):
    artist = Marker(step_s=0.05)
    engine = made(artist)
    kind = Kind(64, 64, 1000, 4.0)
    given = [Row("a", kind, Work("a cat", PEOPLE[0], seed=i)) for i in range(2)]
    engine.submit(given)
    until(lambda: artist.steps > 1)
    given[0].result.cancel()
    before = artist.steps
    until(lambda: artist.steps > before + 1)  # the other row is drawn on
    given[1].result.cancel()
    until(lambda: engine.is_idle)
    assert artist.steps < 100
    after = rows(1)
    engine.submit(after)
    assert np.array_equal(after[0].result.result(LIMITS_S), marked(after[0].work))


def test_partial_pictures_are_those_of_the_row(made):
    seen = {}
    given = rows(3, partial_steps=frozenset({1}))
    for row in given:
        row.on_partial = lambda picture, row=row: seen.setdefault(row, picture)
    made(Marker()).submit(given)
    for row in given:
        row.result.result(LIMITS_S)
        assert np.array_equal(seen[row], marked(row.work))


def test_out_of_memory_halves_the_batch_and_goes_on(made):
    artist = Marker()
    artist.most = 2
    engine, given = made(artist, max_batch=8), rows(8)
    engine.submit(given)
    for row in given:
        assert np.array_equal(row.result.result(LIMITS_S), marked(row.work))
    assert {len(batch) for batch in artist.batches} == {2}
    assert engine.max_batch == 2
    assert figure(engine, "psalign_out_of_memory_total") == 3  # 8, 4 and 4


class Hungry(Marker):
    """Fails as torch does where more rows are drawn than fit, and counts the tensors of calls that failed."""

    def __init__(self, most):
        super().__init__()
        self.fit, self.tensors, self.left = most, weakref.WeakSet(), []

    def draw(self, works, kind, watch):
        self.left.append(len(self.tensors))
        activations = torch.zeros(4)
        self.tensors.add(activations)
        if len(works) > self.fit:
            try:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            except torch.OutOfMemoryError as err:
                raise RuntimeError(
                    "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"
                ) from err
        return super().draw(works, kind, watch)


def test_the_halves_of_a_batch_have_the_memory_of_the_call_that_failed(made):
    """Its error must not keep the tensors of its frames, also those of an error behind it."""
    artist = Hungry(2)
    engine, given = made(artist, max_batch=8), rows(8)
    engine.submit(given)
    for row in given:
        assert np.array_equal(row.result.result(LIMITS_S), marked(row.work))
    assert artist.left == [0] * 7  # 8; 4, 2 and 2; 4, 2 and 2
    assert engine.max_batch == 2
    artist.fit = 0
    last = rows(1)
    engine.submit(last)
    with pytest.raises(RuntimeError, match="ALLOC_FAILED") as failed:
        last[0].result.result(LIMITS_S)
    assert not artist.tensors
    assert [place.name for place in failed.traceback][-1] == "draw"  # which a log shows


def test_a_fixed_batch_does_not_shrink_and_is_tried_once(made):
    """Its halves are filled up to the same size, so they would fail as it did."""
    artist = Hungry(0)
    engine, given = made(artist, fixed_batch=4), rows(4)
    engine.submit(given)
    for row in given:
        with pytest.raises(RuntimeError, match="ALLOC_FAILED"):
            row.result.result(LIMITS_S)
    assert len(artist.left) == 1
    artist.fit = 4
    after = rows(4)
    engine.submit(after)
    for row in after:
        assert np.array_equal(row.result.result(LIMITS_S), marked(row.work))
    assert [len(batch) for batch in artist.batches] == [4]


@pytest.mark.parametrize("place", ["check", "draw"])
def test_a_gpu_that_is_lost_ends_the_engine_so_that_it_is_started_again(made, monkeypatch, caplog, place):
    def lost(*_):
        raise DeviceLost("The GPU takes no more calls of this process.")

    artist = Marker()
    monkeypatch.setattr(artist, place, lost)
    engine, given = made(artist), rows(3)
    engine.submit(given)
    for row in given:
        with pytest.raises(Closed, match="ended"):
            row.result.result(LIMITS_S)
    until(lambda: not engine.is_ready)
    assert [record.psalign["event"] for record in caplog.records] == ["engine_ended"]


def test_a_row_that_cannot_be_drawn_fails_alone(made):
    engine, given = made(Marker()), [*rows(5), *rows(1, prompt="poison")]
    engine.submit(given)
    for row in given[:5]:
        assert np.array_equal(row.result.result(LIMITS_S), marked(row.work))
    with pytest.raises(RuntimeError, match="poison"):
        given[5].result.result(LIMITS_S)


def test_closing_draws_what_waits_and_refuses_more(made):
    engine, given = made(Marker(step_s=0.01), max_batch=2), rows(6)
    engine.submit(given)
    assert engine.close(LIMITS_S)
    assert all(row.result.done() for row in given)
    assert not engine.is_ready
    with pytest.raises(Closed):
        engine.submit(rows(1))


def test_what_is_not_drawn_in_time_gets_an_error(made):
    artist = Marker()
    artist.may_draw.clear()
    engine, given = made(artist, max_batch=1), rows(3)
    engine.submit(given)
    assert not engine.close(0.05)
    for row in given:
        with pytest.raises(Closed):
            row.result.result(LIMITS_S)


def test_an_engine_that_dies_gives_an_error_to_every_row(made):
    artist = Marker()
    artist.may_draw.clear()
    engine, given = made(artist, max_batch=2), rows(4)
    engine.metrics.batch_size = None  # a fault of the program itself
    artist.may_draw.set()
    engine.submit(given)
    for row in given:
        with pytest.raises(Closed, match="ended"):
            row.result.result(LIMITS_S)
    assert engine.was_started
    assert not engine.is_ready


@pytest.mark.parametrize("wrong", [{"max_batch": 0}, {"max_waiting": 0}, {"max_wait_ms": -1}, {"fixed_batch": -1}])
def test_settings_out_of_range_are_refused(wrong):
    with pytest.raises(UsageError, match="at least 1"):
        EngineSettings(**wrong)
