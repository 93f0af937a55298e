"""Batches of different people on the mini base: each picture is the one drawn alone."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

import tiny_pipelines
from psalign.adapter.attach import attach
from psalign.adapter.explain import Explanation
from psalign.diffusion.base_models import load_pipeline
from psalign.errors import GenerationError, GuardError
from psalign.serve.artist import Artist, Blocked, DeviceLost, Stopped, is_all_banned, noticing_loss
from psalign.serve.waiting import Kind, Work
from psalign.users.profile import UserProfile
from psalign.users.views import batch_of
from serving import random_adapter

pytestmark = pytest.mark.slow

KIND = Kind(64, 64, 3, 4.0)
PEOPLE = [
    UserProfile(user_id="a", banned=("Violence",)),
    UserProfile(user_id="b", banned=()),
    UserProfile(user_id="c", banned=("Hate",), limits=("no swords", "no skulls")),
]
WORKS = [
    Work(prompt, batch_of([person]), seed=7, scale=scale, person=person.user_id)
    for person, prompt, scale in zip(
        [*PEOPLE, PEOPLE[0]],
        ["a red cat with a sword", "a red cat with a sword", "a red cat with a sword", "a blue dog at night"],
        [1.0, 1.0, 0.3, 0.5],
        strict=True,
    )
]


def on(step, look):
    return True


@pytest.fixture(scope="module")
def artist():
    pipeline = load_pipeline("mini")
    return Artist(pipeline, attach(pipeline, random_adapter()))


@pytest.fixture(scope="module")
def alone(artist):
    return [artist.draw([work], KIND, on)[0] for work in WORKS]


def test_a_picture_is_the_one_drawn_alone_to_one_grey_level(artist, alone):
    together = artist.draw(WORKS, KIND, on)
    assert together.dtype == np.uint8
    assert together.shape == (4, 64, 64, 3)
    for one, other in zip(together, alone, strict=True):
        assert np.abs(one.astype(int) - other).max() <= 1
    for i in range(4):  # and no picture is another person's
        assert all(np.abs(together[i].astype(int) - alone[j]).max() > 10 for j in range(4) if i != j)


def test_with_a_fixed_batch_a_picture_is_the_same_bit_for_bit(artist):
    fixed = Artist(artist.pipeline, artist.attached, fixed_batch=4)
    one = fixed.draw(WORKS[:1], KIND, on)
    assert one.shape == (1, 64, 64, 3)
    assert np.array_equal(one[0], fixed.draw(WORKS, KIND, on)[0])
    assert np.array_equal(one[0], fixed.draw([WORKS[2], WORKS[0]], KIND, on)[1])


def test_other_sizes_are_drawn(artist):
    assert artist.draw(WORKS[:1], Kind(96, 32, 2, 4.0), on).shape == (1, 32, 96, 3)


def test_it_stops_at_the_step_after_which_nobody_waits(artist):
    seen = []

    def watch(step, look):
        seen.append(step)
        return step < 1

    with pytest.raises(Stopped):
        artist.draw(WORKS[:2], KIND, watch)
    assert seen == [0, 1]
    artist.draw(WORKS[:1], KIND, on)  # and the pipeline draws again


def test_a_row_can_be_seen_at_every_step(artist):
    looks = []

    def watch(step, look):
        looks.append(look([1])[0])
        return True

    finished = artist.draw(WORKS[:2], KIND, watch)[1]
    far = [np.abs(look.astype(int) - finished).mean() for look in looks]
    assert far[0] > far[-1]
    assert far[-1] <= 1


def test_people_that_the_adapter_cannot_keep_are_refused_before_drawing(artist):
    with pytest.raises(GuardError, match="knows no word"):
        artist.check(replace(WORKS[0], users=batch_of([UserProfile(user_id="d", banned=(), limits=("no 蜘蛛",))])))
    artist.check(WORKS[0])


def test_pictures_that_are_not_finite_are_an_error(artist, monkeypatch):
    def broken(latents, return_dict, generator=None):
        return (latents[:, :3].repeat_interleave(8, 2).repeat_interleave(8, 3) * np.nan,)

    monkeypatch.setattr(artist.pipeline.vae, "decode", broken)
    with pytest.raises(GenerationError, match="not finite"):
        artist.draw(WORKS[:1], KIND, on)


def test_a_prompt_is_all_banned_where_every_word_that_asks_for_something_is():
    def explained(**matches):
        return Explanation("", (), (0.0,) * len(matches), tuple(matches), tuple(matches.values()))

    assert is_all_banned(explained(a=0.0, sword=0.9))
    assert is_all_banned(explained(the=0.0, sword=0.9, on=0.0, skull=0.4))
    assert not is_all_banned(explained(a=0.0, cat=0.0, sword=0.9))
    assert not is_all_banned(explained(a=0.0))
    assert not is_all_banned(explained())


def test_the_operator_may_refuse_what_a_person_bans_altogether(artist, monkeypatch):
    refuses = Artist(artist.pipeline, artist.attached, refuses=True)
    said = Explanation("", (), (0.0, 1.0), ("a", "sword"), (0.0, 0.9))
    monkeypatch.setattr(artist.attached, "explain", lambda *_: [said])
    with pytest.raises(Blocked, match="everything that this prompt asks for"):
        refuses.check(WORKS[0])
    refuses.check(replace(WORKS[0], scale=0.0))  # an administrator's preview of the base
    artist.check(WORKS[0])


# --- a call that was left midway -------------------------------------------------------------------------------------


def test_sdxl_in_fp16_draws_on_after_memory_ran_out_while_it_was_decoded(monkeypatch):
    """The pipeline decodes in float32 and turns the VAE back only at the end of a call that succeeds."""
    pipeline = tiny_pipelines.sdxl_pipeline(layers=(1, 1, 1))
    pipeline.vae.register_to_config(force_upcast=True)
    for part in ("unet", "vae", "text_encoder", "text_encoder_2"):
        getattr(pipeline, part).to(torch.float16)
    artist = Artist(pipeline, attach(pipeline, tiny_pipelines.random_adapter(pipeline, "prompt")))
    kind = Kind(32, 32, 1, 1.0)
    before = artist.draw(WORKS[:1], kind, on)

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    monkeypatch.setattr(type(pipeline.vae), "decode", full)
    with pytest.raises(torch.OutOfMemoryError):
        artist.draw(WORKS[:1], kind, on)
    monkeypatch.undo()
    assert np.array_equal(artist.draw(WORKS[:1], kind, on), before)
    assert pipeline.vae.dtype == torch.float16


def test_models_are_taken_off_the_device_after_a_call_that_was_left(artist, monkeypatch):
    freed = []
    monkeypatch.setattr(artist.pipeline, "maybe_free_model_hooks", lambda: freed.append(True))
    with pytest.raises(Stopped):
        artist.draw(WORKS[:1], KIND, lambda step, look: False)
    assert freed == [True]


def test_a_gpu_is_lost_where_it_fails_to_wait(monkeypatch):
    def broken(device):
        raise RuntimeError("CUDA error: device-side assert triggered")

    gpu = SimpleNamespace(_execution_device=torch.device("cuda", 1))
    monkeypatch.setattr(torch.cuda, "synchronize", broken)
    with pytest.raises(DeviceLost, match="no more calls"), noticing_loss(gpu):
        raise ValueError("any")
    with pytest.raises(ValueError, match="any"), noticing_loss(SimpleNamespace(_execution_device=torch.device("cpu"))):
        raise ValueError("any")
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    with pytest.raises(ValueError, match="any"), noticing_loss(gpu):
        raise ValueError("any")
