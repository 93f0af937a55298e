"""The service on a GPU: `pytest -s -m gpu tests/serve/test_gpu.py`. It prints how far roundings go."""

import base64
import io
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

from psalign.adapter.checkpoint import save_adapter
from psalign.serve.artist import Stopped
from psalign.serve.engine import Engine, EngineSettings
from psalign.serve.loading import Recipe, load
from psalign.serve.metrics import Metrics
from psalign.serve.waiting import Kind, Row, Work
from psalign.serve.whose import Strangers
from psalign.users.profile import UserProfile
from serving import HTTP, LIMITS_S, keys_of, listening, make_service, random_adapter

pytestmark = pytest.mark.gpu

PROMPT = "a red cat with a sword"
KIND = Kind(64, 64, 15, 4.0)
DEVICE, WAIT_S = "cuda", 10 * LIMITS_S
PEOPLE = [
    UserProfile(user_id=str(i), banned=banned) for i, banned in enumerate(((), ("Violence",), ("Hate", "Shocking")))
]
WORKS = [
    Work(prompt, Strangers("refuse").whose(person).users, seed, person=person.user_id)
    for seed, prompt in enumerate((PROMPT, "a blue dog at night"))
    for person in PEOPLE
]
# An assertion on the device, inside the second batch: no later call of the process can succeed.
LOSES_ITS_GPU = """
import sys
sys.path[:0] = sys.argv[2:]
from dataclasses import replace
from pathlib import Path
import torch
from psalign.serve.engine import Closed, Engine, EngineSettings
from psalign.serve.loading import Recipe, load
from psalign.serve.metrics import Metrics
from psalign.serve.waiting import Kind, Row, Work
from psalign.serve.whose import Strangers
from psalign.users.profile import UserProfile

def rows(count):
    users = Strangers("refuse").whose(UserProfile(user_id="a", banned=("Hate",))).users
    return [Row("a", Kind(64, 64, 2, 4.0), Work("a cat", users, seed)) for seed in range(count)]

def break_it(*_):
    torch.zeros(2, device="cuda")[torch.tensor([5], device="cuda")]

artist = load(Recipe("mini", Path(sys.argv[1]), how={"device": "cuda"})).artist
engine = Engine(EngineSettings(), Metrics())
engine.start(artist)
(first,) = rows(1)
engine.submit([first])
print(first.result.result().shape)
artist.pipeline.unet.register_forward_pre_hook(break_it)
lost = rows(3)
engine.submit(lost)
print(*[type(row.result.exception()).__name__ for row in lost], engine.is_ready, engine.was_started)
"""


def on(step, look):
    return True


def far(one, other):
    return float(np.abs(one.astype(int) - other).mean())


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = tmp_path_factory.mktemp("gpu") / "adapter"
    save_adapter(random_adapter(), place)
    return place


def loaded_of(folder, **how):
    return load(Recipe("mini", folder, how={"device": DEVICE, **how}))


@pytest.fixture(scope="module")
def artist(folder):
    return loaded_of(folder).artist


@pytest.mark.parametrize("dtype", ["fp32", "fp16", "bf16"])
def test_a_picture_is_that_of_its_own_row(folder, dtype):
    """As on the CPU, to the rounding of the dtype, whoever else is in the batch; also where it is looked at midway."""
    artist, looks = loaded_of(folder, dtype=dtype).artist, []

    def watch(step, look):
        looks.append(look([1])[0])
        return True

    alone = [artist.draw([work], KIND, on)[0] for work in WORKS]
    together = artist.draw(WORKS, KIND, watch)
    steps = [np.abs(one.astype(int) - other).max() for one, other in zip(alone, together, strict=True)]
    print(dtype, "largest difference of a value:", max(steps))
    for i, picture in enumerate(together):
        others = [far(picture, other) for j, other in enumerate(alone) if j != i]
        assert far(picture, alone[i]) < 2
        assert far(picture, alone[i]) < min(others) / 4
    assert far(looks[-1], together[1]) < 2
    on_cpu = load(Recipe("mini", folder, how={"device": "cpu"})).artist
    for i, work in enumerate(WORKS):
        expected = on_cpu.draw([work], KIND, on)[0]
        apart = [far(expected, picture) for picture in alone]
        assert np.argmin(apart) == i


def test_with_a_fixed_batch_a_picture_is_the_same_bit_for_bit(artist):
    fixed = type(artist)(artist.pipeline, artist.attached, fixed_batch=8)
    one = fixed.draw(WORKS[:1], KIND, on)[0]
    assert np.array_equal(one, fixed.draw(WORKS, KIND, on)[0])
    assert np.array_equal(one, fixed.draw([WORKS[2], WORKS[0]], KIND, on)[1])


def peak_of(artist, rows):
    """Bytes that torch holds after a batch of this many rows."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    artist.draw([WORKS[0]] * rows, replace(KIND, steps=1), on)
    return torch.cuda.max_memory_reserved()


def test_a_batch_that_does_not_fit_is_drawn_in_halves_and_the_memory_comes_back(artist):
    peaks = [peak_of(artist, rows) for rows in (16, 256)]
    assert peaks[1] > 2 * peaks[0]
    torch.cuda.empty_cache()
    before = torch.cuda.memory_allocated()
    engine = Engine(
        EngineSettings(max_batch=256, max_wait_ms=200.0, max_waiting=512, max_waiting_of_key=512), Metrics()
    )
    works = [replace(WORKS[i % len(WORKS)], seed=i) for i in range(256)]
    rows = [Row("a", KIND, work) for work in works]
    torch.cuda.set_per_process_memory_fraction(sum(peaks) / 2 / torch.cuda.get_device_properties(0).total_memory)
    try:
        engine.start(artist)
        engine.submit(rows)
        pictures = [row.result.result(WAIT_S) for row in rows]
        said = engine.metrics.text().decode()
        assert engine.close(WAIT_S)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert 1 <= engine.max_batch < 256
    assert engine.metrics.registry.get_sample_value("psalign_out_of_memory_total") >= 1
    assert 'psalign_gpu_bytes{device="0"}' in said
    for i in range(0, 256, 37):
        assert far(pictures[i], artist.draw([works[i]], KIND, on)[0]) < 2
    pictures = rows = None
    torch.cuda.empty_cache()
    print("rows at once:", engine.max_batch, "bytes more than before:", torch.cuda.memory_allocated() - before)
    assert torch.cuda.memory_allocated() < before + 64 * 2**20  # the engine's thread has a workspace of its own


@pytest.mark.parametrize("offload", ["model", "sequential"])
def test_offloaded_models_leave_the_gpu_also_after_a_call_that_was_left(folder, offload):
    artist = loaded_of(folder, dtype="fp16", offload=offload).artist
    first = artist.draw(WORKS[:2], KIND, on)
    with pytest.raises(Stopped):
        artist.draw(WORKS[:2], KIND, lambda step, look: len(look([0])) == 0)
    parts = [artist.pipeline.unet, artist.pipeline.vae, artist.pipeline.text_encoder]
    assert {next(part.parameters()).device.type for part in parts} <= {"cpu", "meta"}
    assert np.array_equal(artist.draw(WORKS[:2], KIND, on), first)


def test_a_gpu_that_is_lost_ends_the_engine(folder):
    """In a process of its own, because nothing else could use the GPU in that process afterwards."""
    done = subprocess.run(
        [sys.executable, "-c", LOSES_ITS_GPU, str(folder), *sys.path], capture_output=True, text=True, timeout=WAIT_S
    )
    assert done.stdout.splitlines() == ["(64, 64, 3)", "Closed Closed Closed False True"], done.stderr


def test_many_people_at_once_over_http(tmp_path, artist):
    """Three people of two keys, 200 requests, 24 at once: each picture is nearest to that person's own one."""
    service = make_service(tmp_path, artist, max_batch=16, max_waiting=512, max_waiting_of_key=512, timeout_s=WAIT_S)
    keys, people = keys_of(service), [("shop", "anna"), ("shop", "ben"), ("club", "anna")]
    own = {}
    for account, who in people:
        users = Strangers("refuse").whose(service.people.find(account, who)).users
        for seed in range(4):
            own[account, who, seed] = artist.draw([Work(PROMPT, users, seed)], KIND, on)[0]

    def draw(number):
        account, who = people[number % len(people)]
        body = {"prompt": PROMPT, "safety_identifier": who, "seed": number % 4, "steps": KIND.steps}
        headers = {"Authorization": f"Bearer {getattr(keys, account)}"}
        answer = HTTP.post(f"{place.url}/v1/images/generations", json=body, headers=headers, timeout=WAIT_S)
        assert answer.status_code == 200, answer.text
        picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"]))))
        apart = {key: far(picture, other) for key, other in own.items()}
        assert min(apart, key=apart.get) == (account, who, number % 4)
        return apart[account, who, number % 4]

    with listening(service) as place, ThreadPoolExecutor(24) as pool:
        worst = max(pool.map(draw, range(200)))
    sizes = service.metrics.registry.get_sample_value
    print(
        "worst mean difference:",
        worst,
        "rows per batch:",
        sizes("psalign_batch_rows_sum") / sizes("psalign_batch_rows_count"),
    )
    assert worst < 2
    assert sizes("psalign_batch_people_sum") > sizes("psalign_batch_people_count")
