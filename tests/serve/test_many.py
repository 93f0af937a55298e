"""Many people at once, with clients that leave: nobody gets another's picture or limits."""

import base64
import io
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import product

import httpx2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from PIL import Image

from psalign.adapter.attach import attach
from psalign.diffusion.base_models import load_pipeline
from psalign.serve.artist import Artist
from psalign.serve.waiting import Kind, Work
from psalign.serve.whose import Strangers
from psalign.users.profile import UserProfile
from serving import HTTP, Marker, keys_of, listening, make_service, random_adapter, until

DRAW = "/v1/images/generations"
PROMPTS = ("a red cat with a sword", "a blue dog at night", "two green birds")
NAMES = ("Hate", "Harassment", "Violence", "Self-Harm", "Sexuality", "Shocking", "Propaganda")
BANS = ((), *((name,) for name in NAMES), NAMES[:2], NAMES[2:4])
ASKED = ((), ("no swords", "no night"))  # limits that come with a request
STEPS = 1
FIRST_SEED = 3  # of the first prompt; the others follow
WAIT_S = 1800.0  # of a client that stays: no machine is too slow for it
# A client that sends its request and waits for an answer, as a process of its own.
CLIENT = """
import socket, sys
connection = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
connection.sendall(sys.stdin.buffer.read())
print("sent", flush=True)
connection.recv(1)
"""


def mini():
    pipeline = load_pipeline("mini")
    return Artist(pipeline, attach(pipeline, random_adapter(bias=0.0)))


def people_of(service):
    """Five people of each account under the same five identifiers, with other ban lists in each account."""
    for shift, account in enumerate(("shop", "club")):
        for number in range(5):
            bans = BANS[number + 5 * shift]
            profile = UserProfile(user_id=f"p{number}", banned=bans)
            service.people.add(account, f"p{number}", profile, actor="test")
            yield account, f"p{number}"


def expected_pictures(service, artist, askers):
    """The picture of each person, limits of the request, and prompt, drawn alone."""
    found, kind = {}, Kind(64, 64, STEPS, 4.0)
    for account, who, asked in askers:
        users = Strangers("refuse").whose(service.people.find(account, who), asked).users
        for seed, prompt in enumerate(PROMPTS, FIRST_SEED):
            drawn = artist.draw([Work(prompt, users, seed)], kind, lambda step, look: True)
            found[account, who, asked, seed] = drawn[0].astype(int)
    return found


@dataclass(frozen=True)
class Plan:
    """One request and what its client does. after_s: when it leaves, unless it stays."""

    account: str
    who: str
    asked: tuple[str, ...]
    seed: int
    fate: str
    after_s: float


def plans_of(askers, requests):
    """Random people in random order; of ten clients one gives up waiting and one is killed."""
    chance = random.Random(0)
    for _ in range(requests):
        account, who, asked = chance.choice(askers)
        fate = chance.choices(("stays", "gives up", "is killed"), (8, 1, 1))[0]
        seed = chance.randrange(len(PROMPTS)) + FIRST_SEED
        yield Plan(account, who, asked, seed, fate, chance.random() * 0.1)


def kill_client(place, key, body, after_s):
    """Send a request from a process of its own, and kill that with SIGKILL before it has read an answer."""
    content = json.dumps(body).encode()
    head = (f"POST {DRAW} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {key}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(content)}\r\n\r\n")  # fmt: skip
    command = [sys.executable, "-I", "-S", "-c", CLIENT, place.url.rsplit(":", 1)[1]]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as client:
        client.stdin.write(head.encode() + content)
        client.stdin.close()
        assert client.stdout.readline() == b"sent\n"
        time.sleep(after_s)
        client.kill()


def send(place, keys, plan, expected):
    """Whether the client left before an answer; an answer has the picture of its own person."""
    body = {"prompt": PROMPTS[plan.seed - FIRST_SEED], "safety_identifier": plan.who, "limits": list(plan.asked)}
    body |= {"seed": plan.seed, "steps": STEPS}
    key = getattr(keys, plan.account)
    if plan.fate == "is killed":
        kill_client(place, key, body, plan.after_s)
        return "left"
    timeout = WAIT_S if plan.fate == "stays" else plan.after_s + 0.01
    try:
        answer = HTTP.post(place.url + DRAW, json=body, headers={"Authorization": f"Bearer {key}"}, timeout=timeout)
    except httpx2.TimeoutException:
        assert plan.fate == "gives up"
        return "left"
    assert answer.status_code == 200, answer.text
    assert answer.json()["safety_identifier"] == plan.who
    got = np.asarray(Image.open(io.BytesIO(base64.b64decode(answer.json()["data"][0]["b64_json"])))).astype(int)
    assert np.abs(got - expected[plan.account, plan.who, plan.asked, plan.seed]).max() <= 1
    return "own picture"


def storm(place, keys, plans, expected):
    """All requests, from 24 clients at once. Returns how many had which end."""
    with ThreadPoolExecutor(24) as pool:
        return Counter(pool.map(lambda plan: send(place, keys, plan, expected), plans))


@pytest.mark.parametrize(
    ("make", "asked", "requests"),
    [
        (Marker, ASKED, 40),
        pytest.param(Marker, ASKED, 2000, marks=pytest.mark.long),
        # Random weights rewrite nearly alike for any limit in words, so that here only people are told apart.
        pytest.param(mini, ASKED[:1], 2000, marks=pytest.mark.long),
    ],
    ids=["marker-40", "marker-2000", "mini-2000"],
)
def test_nobody_gets_anothers_picture(tmp_path, make, asked, requests):
    artist = make()
    service = make_service(tmp_path, artist, max_batch=16, max_waiting=4096, max_waiting_of_key=4096, timeout_s=WAIT_S)
    keys, askers = keys_of(service), [(*person, more) for person, more in product(people_of(service), asked)]
    expected = expected_pictures(service, artist, askers)
    pictures = [expected[(*asker, FIRST_SEED)] for asker in askers]
    apart = [np.abs(one - other).max() for i, one in enumerate(pictures) for other in pictures[:i]]
    assert min(apart) > 2  # for one prompt at least, pictures of any two people or limits differ by more than rounding
    plans = list(plans_of(askers, requests))
    planned = Counter(plan.fate for plan in plans)
    with listening(service) as place:
        if isinstance(artist, Marker):  # it draws at once: hold the first batch until others wait, on any machine
            artist.may_draw.clear()
            threading.Thread(target=release, args=(service, artist), daemon=True).start()
        ends = storm(place, keys, plans, expected)
        until(lambda: service.engine.is_idle)
    assert sum(ends.values()) == requests
    assert ends["own picture"] >= planned["stays"] > 0.6 * requests
    assert ends["left"] >= planned["is killed"] > 0.05 * requests
    sizes = service.metrics.registry.get_sample_value
    assert sizes("psalign_batch_people_sum") > sizes("psalign_batch_people_count")  # people share batches
    print(dict(ends), "rows per batch", sizes("psalign_batch_rows_sum") / sizes("psalign_batch_rows_count"))


def release(service, artist):
    """Let the marker draw as soon as rows wait behind its first batch."""
    until(lambda: service.metrics.registry.get_sample_value("psalign_rows_waiting") >= 8)
    artist.may_draw.set()


@pytest.mark.parametrize(
    "examples", [pytest.param(60, id="60"), pytest.param(10_000, id="10000", marks=pytest.mark.long)]
)
def test_the_document_of_the_interface_holds_and_nothing_breaks_it(tmp_path, examples):
    """schemathesis makes requests from /openapi.json, valid and broken ones: none has a 5xx or a traceback as its
    answer, and each answer is one that the document names. Nearly all are for pictures; the others take no body. Half
    come with an administrator's key, so that profiles, levels and scales are read."""
    schemathesis = pytest.importorskip("schemathesis")
    service = make_service(tmp_path, Marker(), unknown="strictest", max_waiting=4096)
    keys = keys_of(service)
    tried = Counter()
    with listening(service) as place:
        schema = schemathesis.openapi.from_url(f"{place.url}/openapi.json")
        operations = [found.ok() for found in schema.get_all_operations()]
        assert {operation.path for operation in operations} == set(schema.raw_schema["paths"])

        def send_many(operation, mode, key):
            share = examples // 4 if operation.path == DRAW else max(4, examples // 200)

            @settings(max_examples=share, deadline=None, suppress_health_check=list(HealthCheck), database=None)
            @given(case=operation.as_strategy(generation_mode=mode))
            def sent(case):
                answer = case.call(headers={"Authorization": f"Bearer {key}"})
                tried[answer.status_code] += 1
                assert answer.status_code < 500, answer.text
                assert "Traceback" not in answer.text
                case.validate_response(answer, checks=_checks(schemathesis))

            with suppress(Unsatisfiable):  # what takes nothing cannot be broken
                sent()

        for operation, mode, key in product(operations, schemathesis.GenerationMode, (keys.shop, keys.admin)):
            send_many(operation, mode, key)
    assert sum(tried.values()) >= examples
    assert tried[200] >= examples / 100
    print(dict(tried))


def _checks(schemathesis):
    checks = schemathesis.checks.CHECKS
    names = ("status_code_conformance", "content_type_conformance", "response_schema_conformance")
    return [checks.get_one(name) for name in names]
