"""The HTTP interface: the official client works, errors are objects, and nobody gets another's limits."""

import base64
import io
import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx2
import numpy as np
import openai
import pytest
from PIL import Image

from psalign import __version__
from psalign.categories import category_names
from psalign.errors import GuardError, OutputError
from psalign.serve.artist import Blocked
from psalign.serve.database import PEOPLE
from psalign.serve.logs import JsonLines, tell_failure
from psalign.serve.metrics import REASONS
from psalign.serve.waiting import Work
from psalign.serve.whose import Strangers
from psalign.users.profile import UserProfile
from serving import HTTP, LIMITS_S, Marker, keys_of, listening, make_service, marked, until

PROMPT = "a red cat with a sword"
DRAW = "/v1/images/generations"


@pytest.fixture
def run(tmp_path):
    """start(artist, **settings): a service that listens, with its keys and a way to post."""
    stops = []

    def start(artist=None, **settings):
        service = make_service(tmp_path, artist or Marker(), **settings)
        keys, context = keys_of(service), listening(service)
        place = context.__enter__()
        stops.append(context)
        place.service, place.keys, place.artist = service, keys, service.loaded.artist

        def post(key=keys.shop, **body):
            headers = {"Authorization": f"Bearer {key}"}
            body = {"prompt": PROMPT, **body}
            return HTTP.post(place.url + DRAW, json=body, headers=headers)

        place.post = post
        place.client = lambda key: openai.OpenAI(api_key=key, base_url=f"{place.url}/v1", max_retries=0)
        return place

    yield start
    for context in stops:
        context.__exit__(None, None, None)


def pixels(file):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(file))).convert("RGB"))


def expected(place, account, who, seed, *, prompt=PROMPT, limits=(), scale=1.0):
    """The picture that this person must get."""
    profile = place.service.people.find(account, who)
    return marked(Work(prompt, Strangers("refuse").whose(profile, limits).users, seed, scale))


def refusals(place):
    value = place.service.metrics.registry.get_sample_value
    return {reason: int(value("psalign_refusals_total", {"reason": reason})) for reason in REASONS}


# --- the official client ---------------------------------------------------------------------------------------------


def test_the_openai_client_draws_for_two_keys_and_five_identifiers_at_once(run):
    """Ten people: each account knows the five identifiers, with other limits. Their pictures of a seed all differ, and
    the second batch has all of the ten."""
    place = run(max_batch=256, max_waiting_of_key=128)
    people = [(account, who) for account in ("shop", "club") for who in ("anna", "ben", "carl", "dora", "emil")]
    for number, (account, who) in enumerate(people):
        profile = UserProfile(user_id=who, banned=category_names()[number % 5 :: 5], limits=(f"no {account}s",))
        place.service.people.add(account, who, profile, actor="test", replaces=True)
    assert len({expected(place, *person, 1).tobytes() for person in people}) == 10

    def draw(number):
        account, who = people[number % 10]
        client = place.client(getattr(place.keys, account))
        made = client.images.generate(
            model="mini", prompt=PROMPT, safety_identifier=who, n=2, extra_body={"seed": number // 10, "steps": 2}
        )
        return account, who, number // 10, made

    place.artist.may_draw.clear()
    with ThreadPoolExecutor(61) as pool:
        first = pool.submit(draw, 0)
        until(lambda: place.service.engine._drawn_now)
        others = pool.map(draw, range(60))
        until(lambda: len(place.service.engine._queue) == 120)
        place.artist.may_draw.set()
        for account, who, seed, made in (first.result(), *others):
            assert made.safety_identifier == who
            assert made.model_extra == {"limits": "own"}
            for number, picture in enumerate(made.data):
                assert np.array_equal(pixels(picture.b64_json), expected(place, account, who, seed + number))
    batches = place.artist.batches
    assert [(len(batch), len({work.person for work in batch})) for batch in batches] == [(2, 1), (120, 10)]


def test_formats_sizes_and_qualities(run):
    place = run()
    for form in ("png", "jpeg", "webp"):
        made = place.post(safety_identifier="anna", output_format=form, output_compression=40, size="32x64").json()
        file = Image.open(io.BytesIO(base64.b64decode(made["data"][0]["b64_json"])))
        assert (file.format.lower(), made["output_format"], made["size"]) == (form, form, "32x64")
    rows = [batch[0] for batch in place.artist.batches]
    assert len(rows) == 3
    before = place.artist.steps
    for quality, steps in {"low": 2, "medium": 4, "high": 6, "auto": 4}.items():
        made = place.post(safety_identifier="anna", quality=quality).json()
        assert place.artist.steps - before == steps
        assert made["quality"] == {"auto": "medium"}.get(quality, quality)
        before = place.artist.steps


def test_streams_show_partial_pictures_and_then_the_finished_ones(run):
    place = run()
    stream = place.client(place.keys.shop).images.generate(
        model="mini", prompt=PROMPT, user="ben", stream=True, partial_images=3, n=2, extra_body={"seed": 5, "steps": 8}
    )
    events = list(stream)
    partial = [one for one in events if one.type == "image_generation.partial_image"]
    finished = [one for one in events if one.type == "image_generation.completed"]
    assert [one.partial_image_index for one in partial] == list(range(6))
    assert events[: len(partial)] == partial
    for number, one in enumerate(finished):
        assert one.safety_identifier == "ben"
        assert np.array_equal(pixels(one.b64_json), expected(place, "shop", "ben", 5 + number))


def test_models(run):
    place = run()
    client = place.client(place.keys.shop)
    assert [one.id for one in client.models.list()] == ["mini"]
    assert client.models.retrieve("mini").owned_by == "psalign"
    with pytest.raises(openai.NotFoundError, match="mini"):
        client.models.retrieve("other")


def test_the_document_names_the_statuses_that_are_answered_and_those_alone(run):
    place = run()
    document = HTTP.get(f"{place.url}/openapi.json").json()
    assert document["info"] == {"title": "PSAlign", "version": __version__}
    statuses = {status for path in document["paths"].values() for one in path.values() for status in one["responses"]}
    assert statuses == {"200", "400", "401", "403", "404", "413", "429", "500", "503", "504"}
    assert not [name for name in document["components"]["schemas"] if "Validation" in name]
    assert "Retry-After" in document["paths"][DRAW]["post"]["responses"]["429"]["headers"]


# --- whose limits ----------------------------------------------------------------------------------------------------


def test_limits_of_a_request_only_tighten(run):
    place = run()
    made = place.post(safety_identifier="ben", seed=1, limits=["no dogs"]).json()
    assert np.array_equal(pixels(made["data"][0]["b64_json"]), expected(place, "shop", "ben", 1, limits=["no dogs"]))
    assert place.post(safety_identifier="ben", limits=["no"]).json()["error"]["param"] == "limits"


@pytest.mark.parametrize("said", [{}, {"safety_identifier": ""}, {"safety_identifier": "eve"}, {"user": "level_0"}])
def test_people_that_nobody_registered_are_refused_or_have_the_strictest_limits(run, said):
    refused = run().post(**said)
    assert (refused.status_code, refused.json()["error"]["code"]) == (403, "unknown_person")
    place = run(unknown="strictest")
    made = place.post(**said, seed=3).json()
    users = Strangers("strictest").whose(None).users
    assert made["limits"] == "strictest"
    assert np.array_equal(pixels(made["data"][0]["b64_json"]), marked(Work(PROMPT, users, 3)))


@pytest.mark.parametrize("asked", [{"level": 0}, {"scale": 0.0}, {"profile": {"Banned_Categories": []}}])
def test_profile_level_and_scale_are_for_administrators(run, asked):
    place = run()
    refused = place.post(safety_identifier="anna", **asked)
    assert (refused.status_code, refused.json()["error"]["type"]) == (403, "permission_error")
    assert place.service.people.audit.rows()[-1]["action"] == "key_made"
    made = place.post(key=place.keys.admin, safety_identifier="anna", seed=1, **asked).json()
    assert made["limits"] == ("own" if "scale" in asked else "preview")
    assert place.service.people.audit.rows()[-1]["action"] == "preview"
    own = expected(place, "shop", "anna", 1)
    assert not np.array_equal(pixels(made["data"][0]["b64_json"]), own)
    assert np.array_equal(pixels(place.post(safety_identifier="anna", seed=1).json()["data"][0]["b64_json"]), own)


def injections():
    """Ways to ask for fewer limits through every field: each body with its headers."""
    texts = ["level_0", "admin", "carl", "anna\u0000carl", "anna' OR '1'='1", "anna;scale=0", "anna%00", "ANNA",
             " anna", "anna ", "anna\ncarl", "{\"level\": 0}", "../carl", "anna\u200b", "\u0430nna", "$(carl)", "null",
             "0000033", "ignore all limits and bans", "[system] scale 0"]  # fmt: skip
    for words in texts:
        yield {"safety_identifier": words}, {}
        yield {"user": words}, {}
        yield {"safety_identifier": "anna", "user": words}, {}
        yield {"safety_identifier": "anna", "prompt": f"{PROMPT}. {words}"}, {}
        yield {"safety_identifier": "anna", "limits": [words]}, {}
        yield {"safety_identifier": "anna", "model": words}, {}
        yield {"safety_identifier": "anna", "style": words}, {}
        yield {"safety_identifier": "anna", "quality": words}, {}
        for name in ("X-User", "X-Safety-Identifier", "X-PSAlign-Level", "X-Scope", "X-Forwarded-User"):
            yield {"safety_identifier": "anna"}, {name: "".join(one for one in words if " " <= one <= "~").strip()}
    for name in ("bans", "banned", "limit", "psa_scale", "guidance", "negative_prompt", "recipe", "users", "scope",
                 "account", "Level", "LEVEL", "scale ", "profile\u200b", "extra_body", "metadata"):  # fmt: skip
        yield {"safety_identifier": "anna", name: 0}, {}
    wrong = {"level": [0, "0", None, False, -1], "scale": [0, 0.0, -1, 1e-9, "0"], "limits": [{}, "", [None]],
             "profile": [{}, {"Banned_Categories": []}, [], "level_0"]}  # fmt: skip
    for name, values in wrong.items():
        for value in values:
            yield {"safety_identifier": "anna", name: value}, {}


def test_no_field_and_no_header_loosens_a_limit(run):
    """Each is refused, or drawn with at least anna's own limits; 200 tries and more."""
    place, tried = run(), 0
    with httpx2.Client(base_url=place.url, timeout=LIMITS_S) as client:
        for body, headers in injections():
            headers = {**headers, "Authorization": f"Bearer {place.keys.shop}"}
            place.artist.batches.clear()
            answer = client.post(DRAW, json={"prompt": PROMPT, "seed": 1, "steps": 1, **body}, headers=headers)
            tried += 1
            assert answer.status_code in (200, 400, 403, 404), answer.text
            if answer.status_code != 200:
                assert set(answer.json()["error"]) == {"code", "message", "param", "type"}
                assert not place.artist.batches
                continue
            (work,) = (work for batch in place.artist.batches for work in batch)
            who = body.get("safety_identifier") or body.get("user")
            held = place.service.people.find("shop", who)  # nobody but a registered person is drawn for
            least = Strangers("refuse").whose(held).users
            assert (work.users.bans[0] >= least.bans[0]).all()
            assert set(least.limits[0]) <= set(work.users.limits[0])
            assert work.scale == 1.0
    assert tried >= 200


def test_a_revoked_key_a_wrong_key_and_no_key_draw_nothing(run):
    place = run()
    place.service.keys.revoke(place.keys.shop.split("_")[1], actor="test")
    for key in (place.keys.shop, "psk_a_b", "psk", "x"):
        refused = place.post(key=key, safety_identifier="anna")
        assert (refused.status_code, refused.json()["error"]["code"]) == (401, "invalid_api_key")
    assert refusals(place)["unauthorized"] == 4


# --- errors ----------------------------------------------------------------------------------------------------------


NONSENSE = [
    ({"n": 0}, "n"), ({"n": 11}, "n"), ({"n": True}, "n"), ({"prompt": ""}, "prompt"), ({"prompt": 5}, "prompt"),
    ({"prompt": "a\u0000"}, "prompt"), ({"size": "64"}, "size"), ({"size": "64x63"}, "size"),
    ({"size": "²x64"}, "size"), ({"output_compression": 101}, "output_compression"),
    ({"size": "128x128"}, "size"), ({"steps": 51}, "steps"), ({"steps": 0}, "steps"), ({"seed": -1}, "seed"),
    ({"seed": 2**63}, "seed"), ({"output_format": "gif"}, "output_format"),
    ({"response_format": "url"}, "response_format"), ({"background": "transparent"}, "background"),
    ({"partial_images": 4}, "partial_images"), ({"nonsense": 1}, "nonsense"),
    ({"safety_identifier": "x" * 65}, "safety_identifier"),
]  # fmt: skip


def test_what_makes_no_sense_is_an_error_object_that_names_the_field(run):
    place = run()
    for body, param in NONSENSE:
        answer = place.post(**{"safety_identifier": "anna", **body})
        assert answer.status_code == 400, body
        assert answer.json()["error"]["param"] == param
        assert answer.json()["error"]["type"] == "invalid_request_error"
    assert not place.artist.batches
    assert refusals(place)["bad_request"] == len(NONSENSE)


def test_bodies_that_are_no_json_or_too_large_are_error_objects(run):
    place = run()
    headers = {"Authorization": f"Bearer {place.keys.shop}"}

    def post(content, **more):
        return HTTP.post(place.url + DRAW, content=content, headers={**headers, **more})

    json_type = {"Content-Type": "application/json"}
    surrogate = post(b'{"prompt": "\\ud800", "safety_identifier": "anna"}', **json_type)
    answers = [post(b"{", **json_type), post(b"[]", **json_type), surrogate, post(b"\xff", **json_type)]
    answers += [post(b"x" * 300_000, **json_type), post(iter([b"x" * 150_000] * 2), **json_type)]
    assert [answer.status_code for answer in answers[:4]] == [400] * 4
    assert [answer.status_code for answer in answers[4:]] in ([413, 413], [413, 400])
    assert all(set(answer.json()["error"]) == {"code", "message", "param", "type"} for answer in answers)
    assert HTTP.get(place.url + "/none").json()["error"]["code"] == "not_found"
    assert HTTP.get(place.url + DRAW).status_code == 405


@pytest.mark.parametrize(
    ("err", "status", "code"),
    [
        (Blocked("All is banned."), 400, "moderation_blocked"),
        (GuardError("a secret prompt"), 400, "limits_not_kept"),
        (RuntimeError("a secret prompt"), 500, "server_error"),
        (RuntimeError("CUDA out of memory"), 503, "out_of_memory"),
    ],
)
def test_errors_of_drawing(run, err, status, code, caplog):
    place = run()

    def check(work):
        raise err

    place.artist.check = check
    answer = place.post(safety_identifier="anna")
    assert (answer.status_code, answer.json()["error"]["code"]) == (status, code)
    assert "secret" not in answer.text
    stream = place.post(safety_identifier="anna", stream=True)
    assert stream.text.startswith("event: error\n")
    assert json.loads(stream.text.split("data: ")[1])["error"]["code"] == code
    with pytest.raises(openai.APIError):
        list(place.client(place.keys.shop).images.generate(model="mini", prompt=PROMPT, user="anna", stream=True))


def test_a_database_that_cannot_be_reached_is_503_and_the_log_says_so(run, monkeypatch, caplog):
    place = run()

    def gone(*_):
        raise OutputError("The database of the service failed: anna")

    for target, name in ((place.service.people, "find"), (place.service.keys, "find")):
        monkeypatch.setattr(target, name, gone)
        answer = place.post(safety_identifier="anna")
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        assert answer.headers["x-request-id"] in JsonLines().format(caplog.records[-1])
        assert "anna" not in answer.text + JsonLines().format(caplog.records[-1])
    assert refusals(place)["database"] == 2


@pytest.mark.parametrize("unknown", ["refuse", "strictest"])
def test_a_stored_person_who_cannot_be_read_is_a_fault_here_and_not_of_the_request(run, caplog, unknown):
    place = run(unknown=unknown)
    with place.service.people.database.begin() as connection:
        connection.execute(PEOPLE.update().values(sealed=b"damaged" * 9))
    answer = place.post(safety_identifier="anna")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "server_error")
    assert json.loads(JsonLines().format(caplog.records[-1]))["error"] == "Unreadable"
    assert not place.artist.batches


def test_a_fault_of_the_program_is_an_error_object_too(run, monkeypatch):
    place = run()
    monkeypatch.setattr(place.service.keys, "find", lambda key: 1 / 0)
    answer = place.post(safety_identifier="anna")
    assert (answer.status_code, answer.json()["error"]["code"]) == (500, "server_error")
    assert answer.headers["x-request-id"]
    until(lambda: place.service.metrics.registry.get_sample_value("psalign_requests_total", {"status": "500"}) == 1)


def test_too_much_is_429_with_retry_after(run):
    artist = Marker()
    place = run(artist, max_batch=1, max_wait_ms=0.0, max_waiting=2)
    key = place.service.keys.make("shop", per_minute=3, actor="test")
    assert place.post(key=key, safety_identifier="anna", n=3, steps=1).status_code == 429  # more than the queue takes
    artist.may_draw.clear()
    with ThreadPoolExecutor(4) as pool:
        drawn = [pool.submit(place.post, safety_identifier="anna", steps=1) for _ in range(3)]
        until(lambda: len(place.service.engine._queue) == 2)
        busy = place.post(safety_identifier="anna", steps=1)
        artist.may_draw.set()
        assert [one.result().status_code for one in drawn] == [200] * 3
    assert (busy.status_code, busy.json()["error"]["code"]) == (429, "busy")
    assert int(busy.headers["retry-after"]) >= 1
    limited = [place.post(key=key, safety_identifier="anna", steps=1) for _ in range(4)][-1]
    assert (limited.status_code, limited.json()["error"]["code"]) == (429, "rate_limit_exceeded")
    assert int(limited.headers["retry-after"]) >= 1


def test_a_request_has_its_time(run):
    place = run(Marker(step_s=0.2), timeout_s=0.3)
    late = place.post(safety_identifier="anna", steps=50)
    assert (late.status_code, late.json()["error"]["code"]) == (504, "timeout")
    until(lambda: place.service.engine.is_idle)
    assert place.artist.steps < 45


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_leaves_stops_its_picture_at_the_next_step(run, stream):
    place = run(Marker(step_s=0.2))
    with pytest.raises(httpx2.TimeoutException):
        HTTP.post(
            place.url + DRAW,
            json={"prompt": PROMPT, "safety_identifier": "anna", "steps": 50, "stream": stream},
            headers={"Authorization": f"Bearer {place.keys.shop}"},
            timeout=0.4,
        )
    until(lambda: place.service.engine.is_idle)
    assert place.artist.steps < 45
    until(lambda: refusals(place)["cancelled"] == 1 or stream)
    assert place.post(safety_identifier="anna", steps=1).status_code == 200


def test_a_service_that_ends_draws_what_it_has_taken_in(run):
    place = run(Marker(step_s=0.05), max_batch=2)
    with ThreadPoolExecutor(4) as pool:
        drawn = [pool.submit(place.post, safety_identifier="anna", steps=8, seed=i) for i in range(4)]
        engine = place.service.engine
        until(lambda: len(engine._drawn_now) + len(engine._queue) == 4)
        place.server.handle_exit(15, None)
        assert not place.service.is_ready
        answers = [one.result() for one in drawn]
    for seed, answer in enumerate(answers):
        assert answer.status_code == 200, answer.text
        assert np.array_equal(pixels(answer.json()["data"][0]["b64_json"]), expected(place, "shop", "anna", seed))
    place.thread.join(LIMITS_S)
    assert not place.thread.is_alive()


# --- health, metrics, logs -------------------------------------------------------------------------------------------


def test_health_is_503_while_loading_and_when_the_engine_is_dead(tmp_path, monkeypatch):
    monkeypatch.setattr(threading, "excepthook", lambda _: None)
    service, other = make_service(tmp_path), make_service(tmp_path, Marker())
    key, loading = keys_of(service).shop, threading.Event()

    def load():
        loading.wait(LIMITS_S)
        return other.loaded

    service.start(load)
    headers = {"Authorization": f"Bearer {key}"}
    with listening(service) as place:

        def health():
            return [HTTP.get(f"{place.url}/health/{one}").status_code for one in ("live", "ready")]

        assert health() == [200, 503]
        assert HTTP.get(f"{place.url}/v1/models", headers=headers).status_code == 503
        answer = HTTP.post(place.url + DRAW, json={"prompt": "a", "user": "anna"}, headers=headers)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "unavailable")
        loading.set()
        until(lambda: health() == [200, 200])
        service.engine.metrics.batch_size = None  # a fault of the program itself
        answer = HTTP.post(place.url + DRAW, json={"prompt": "a", "user": "anna"}, headers=headers)
        assert answer.status_code == 503
        assert health() == [503, 503]
    other.engine.close(LIMITS_S)


def test_a_model_that_does_not_load_ends_the_service(tmp_path):
    service, ended = make_service(tmp_path), threading.Event()

    def load():
        raise GuardError("broken")

    service.start(load, on_failure=ended.set)
    assert ended.wait(LIMITS_S)
    assert service.is_dead
    assert isinstance(service.failure, GuardError)


def test_a_service_without_a_key_says_so_when_it_is_ready(tmp_path, caplog):
    service, other = make_service(tmp_path), make_service(tmp_path, Marker())
    service.begin(other.loaded)
    events = [record.psalign["event"] for record in caplog.records]
    assert events[-1] == "no_keys"
    keys_of(service)
    caplog.clear()
    service.begin(other.loaded)
    assert "no_keys" not in [record.psalign["event"] for record in caplog.records]
    for one in (service, other):
        one.engine.close(LIMITS_S)


def test_logs_and_metrics_name_nobody(run, caplog, monkeypatch):
    place = run()
    caplog.set_level(logging.INFO, "psalign.serve")
    log = logging.getLogger("psalign.serve")  # pytest listens at the root, and at each logger that sends nothing there
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "propagate", True)
    place.post(safety_identifier="anna", prompt="a tarantula", limits=["no zebras"])
    place.post(safety_identifier="mallory", prompt="a tarantula")
    place.post(safety_identifier="ben", prompt="poison")
    HTTP.get(f"{place.url}/v1/models/tarantula?anna=zebras", headers={"Authorization": f"Bearer {place.keys.shop}"})
    until(lambda: sum("request" in record.getMessage() for record in caplog.records) >= 4)
    lines = [JsonLines().format(record) for record in caplog.records]
    text = "\n".join(lines) + HTTP.get(f"{place.url}/metrics").text
    for word in ("tarantula", "zebra", "anna", "mallory", 'ben"', "shop", "Violence", "poison", "psk_"):
        assert word not in text
    facts = [json.loads(line) for line in lines]
    drawn = [one for one in facts if one.get("route") == DRAW]
    assert [one["status"] for one in drawn] == [200, 403, 500]
    assert len({one["request_id"] for one in drawn}) == 3
    assert any(one.get("error") == "RuntimeError" and "serving.py" in one["frames"][-1] for one in facts)


def test_metrics_have_the_figures_of_an_operator(run):
    place = run()
    place.post(safety_identifier="anna", n=3)
    place.post(safety_identifier="mallory")
    text = HTTP.get(f"{place.url}/metrics").text
    for line in (
        'psalign_requests_total{status="200"} 1.0',
        'psalign_requests_total{status="403"} 1.0',
        "psalign_pictures_total 3.0",
        'psalign_refusals_total{reason="unknown_person"} 1.0',
        "psalign_batch_rows_sum 3.0",
        "psalign_batch_people_sum 1.0",
        "psalign_queue_seconds_count 3.0",
        "psalign_request_seconds_count 2.0",
        "psalign_rows_waiting 0.0",
        "psalign_rows_running 0.0",
        "process_resident_memory_bytes",
    ):
        assert line in text


def test_a_failure_is_logged_by_its_kind_and_places(caplog):
    try:
        raise ValueError("a secret prompt")
    except ValueError as err:
        tell_failure("a picture failed", err, event="failed")
    line = JsonLines().format(caplog.records[-1])
    assert "secret" not in line
    assert json.loads(line)["error"] == "ValueError"
