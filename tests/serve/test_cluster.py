"""The service in replicas of Ray Serve."""

import base64
import io
import sys
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx2
import numpy as np
import pytest
from PIL import Image

from psalign.adapter.checkpoint import save_adapter
from psalign.errors import ExtraMissing, UsageError
from psalign.serve.cluster import Replicas, _read, application
from psalign.serve.engine import EngineSettings
from psalign.serve.loading import Recipe, load
from psalign.serve.service import Keeping, Service
from psalign.serve.waiting import Kind, Work
from psalign.serve.whose import Strangers
from psalign.users.profile import UserProfile
from ray_cluster import free_port, ray_cluster
from serving import random_adapter, until

PROMPT, STEPS, WAIT_S = "a red cat with a sword", 20, 600
PEOPLE = {"anna": ("Violence",), "ben": ()}


def test_a_replica_takes_two_batches_and_more_replicas_come_by_load():
    options = Replicas(replicas=2, gpus=1).options(max_batch=8)
    assert (options["num_replicas"], options["max_ongoing_requests"], options["max_queued_requests"]) == (2, 16, 256)
    assert options["ray_actor_options"]["num_gpus"] == 1
    scaled = Replicas(replicas=1, most_replicas=4, ongoing=3).options(max_batch=8)
    assert scaled["autoscaling_config"] == {"min_replicas": 1, "max_replicas": 4, "target_ongoing_requests": 8}
    assert scaled["max_ongoing_requests"] == 3
    assert "num_replicas" not in scaled


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"adaptor": "x"}, "Unknown: adaptor. Known: adapter, base,"),
        ({"adapter": "x", "how": {}}, "Unknown: how"),
        ({}, "adapter: Field required"),
        ({"adapter": "x", "max_batch": "many"}, "max_batch: "),
        ({"adapter": "x", "max_batch": "0"}, "max_batch"),
        ({"adapter": "x", "dtype": "fp7"}, "dtype"),
    ],
)
def test_what_makes_no_sense_is_told_before_anything_starts(given, said):
    with pytest.raises(UsageError, match=said):
        application(given)


def test_a_fixed_batch_is_that_of_the_engine_too(tmp_path):
    """Otherwise a replica would draw more rows at once than the batch that is to be the same."""
    settings = EngineSettings(max_batch=8, fixed_batch=4)
    assert Service.of(Keeping(str(tmp_path / "a.db"), tmp_path / "a.key"), settings).engine.max_batch == 4
    assert _read(EngineSettings, {"fixed_batch": "4", "base": "mini"}) == EngineSettings(fixed_batch=4)


def test_ray_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ExtraMissing, match="ray is not installed"):
        application({"adapter": "x"})


def people_in(folder):
    """Two people and a key. Returns where they are kept, the key, and the profiles."""
    place = {"people": str(folder / "people.db"), "key_file": str(folder / "people.key")}
    service = Service.of(Keeping(place["people"], Path(place["key_file"])), EngineSettings())
    for who, banned in PEOPLE.items():
        service.people.add("shop", who, UserProfile(user_id=who, banned=banned), actor="test")
    key = service.keys.make("shop", per_minute=1_000_000, actor="test")
    service.people.database.close()
    return place, key


def expected_pictures(adapter):
    """Each person's pictures of two seeds, drawn alone."""
    artist, found = load(Recipe("mini", adapter)).artist, {}
    for who, banned in PEOPLE.items():
        users = Strangers("refuse").whose(UserProfile(user_id=who, banned=banned)).users
        for seed in (1, 2):
            drawn = artist.draw([Work(PROMPT, users, seed)], Kind(64, 64, STEPS, 4.0), lambda step, look: True)
            found[who, seed] = drawn[0].astype(int)
    return found


@pytest.mark.long
def test_two_replicas_draw_for_two_people_and_one_is_killed(tmp_path):
    """kill -9 of a replica: each request in flight has an error or its own picture, and then the service goes on."""
    adapter = tmp_path / "adapter"
    save_adapter(random_adapter(), adapter)
    place, key = people_in(tmp_path)
    expected = expected_pictures(adapter)
    assert np.abs(expected["anna", 1] - expected["ben", 1]).max() > 10
    with ray_cluster(cpus=2) as cluster:
        from ray import serve

        port = free_port()
        serve.start(http_options={"host": "127.0.0.1", "port": port})
        ends = {"max_batch": "4", "timeout_s": str(WAIT_S), "grace_s": "5"}
        serve.run(application({**place, **ends, "adapter": str(adapter), "replicas": "2"}), route_prefix="/")
        url = f"http://127.0.0.1:{port}"

        def draw(number):
            who, seed = ("anna", "ben")[number % 2], 1 + number // 2 % 2
            body = {"prompt": PROMPT, "safety_identifier": who, "seed": seed, "steps": STEPS}
            headers = {"Authorization": f"Bearer {key}"}
            answer = httpx2.post(f"{url}/v1/images/generations", json=body, headers=headers, timeout=WAIT_S)
            if answer.status_code != 200:
                return f"error {answer.status_code}"
            picture = Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"])))
            assert np.abs(np.asarray(picture).astype(int) - expected[who, seed]).max() <= 1
            return "own picture"

        assert Counter(map(draw, range(4))) == {"own picture": 4}
        with ThreadPoolExecutor(12) as pool:
            answers = [pool.submit(draw, number) for number in range(12)]
            until(lambda: sum(one.cpu_percent(0.2) > 1 for one in cluster.processes("ServeReplica")) == 2, WAIT_S)
            cluster.processes("ServeReplica")[0].kill()
            got = Counter(one.result() for one in answers)
        print(dict(got))
        assert sum(got.values()) == 12
        assert got["own picture"] >= 1
        assert set(got) <= {"own picture", "error 500", "error 503"}
        until(lambda: len(cluster.processes("ServeReplica")) == 2, WAIT_S)  # another one has come
        until(lambda: Counter(map(draw, range(4))) == {"own picture": 4}, WAIT_S)
        serve.shutdown()
