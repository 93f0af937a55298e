"""Spans of OpenTelemetry, with its real SDK: one of each request and of each batch, and nothing about people."""

import json
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from serving import HTTP, Marker, keys_of, listening, make_service, until

sdk = pytest.importorskip("opentelemetry.sdk.trace", reason="opentelemetry-sdk is not installed")

DRAW = "/v1/images/generations"
TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
SECRETS = ("tarantula", "swords", "zebra", "anna", "ben", "mallory", "shop", "club", "Violence", "Shocking", "poison")


@pytest.fixture
def kept(monkeypatch):
    """What an operator's tracing and logging of OpenTelemetry get, in memory: finished spans, and log records."""
    from opentelemetry import _logs, trace
    from opentelemetry.sdk._logs import LoggerProvider
    from opentelemetry.sdk._logs.export import InMemoryLogRecordExporter, SimpleLogRecordProcessor
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor
    from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

    spans, logs = InMemorySpanExporter(), InMemoryLogRecordExporter()
    tracing, logging = sdk.TracerProvider(), LoggerProvider()
    tracing.add_span_processor(SimpleSpanProcessor(spans))
    logging.add_log_record_processor(SimpleLogRecordProcessor(logs))
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: tracing)  # FastAPI asks for it too
    monkeypatch.setattr(trace, "get_tracer", tracing.get_tracer)
    monkeypatch.setattr(_logs, "get_logger_provider", lambda: logging)
    monkeypatch.setattr(_logs, "get_logger", lambda name, *_, **__: logging.get_logger(name))
    yield spans, logs
    tracing.shutdown()
    logging.shutdown()


@pytest.fixture
def place(tmp_path):
    artist = Marker()
    service = make_service(tmp_path, artist)
    with listening(service) as place:
        place.service, place.artist, place.keys = service, artist, keys_of(service)
        yield place


def post(place, who, *, key=None, headers=None, **body):
    headers = {"Authorization": f"Bearer {key or place.keys.shop}", **(headers or {})}
    body = {"prompt": "a tarantula", "safety_identifier": who, "steps": 2, **body}
    return HTTP.post(place.url + DRAW, json=body, headers=headers)


def named(spans, name):
    return [one for one in spans.get_finished_spans() if one.name == name]


def test_each_request_and_each_batch_has_a_span_with_the_ids_of_its_requests(place, kept):
    spans, _ = kept
    place.artist.may_draw.clear()
    with ThreadPoolExecutor(6) as pool:
        first = pool.submit(post, place, "anna")
        until(lambda: place.service.engine._drawn_now)
        others = [pool.submit(post, place, who, n=2) for who in ("anna", "ben", "carl")]
        until(lambda: len(place.service.engine._queue) == 6)
        place.artist.may_draw.set()
        answers = [one.result() for one in (first, *others)]
    assert [answer.status_code for answer in answers] == [200] * 4
    until(lambda: len(named(spans, "psalign.request")) == 4)
    requests = {one.attributes["psalign.request_id"]: one for one in named(spans, "psalign.request")}
    assert set(requests) == {answer.headers["x-request-id"] for answer in answers}
    assert {one.kind.name for one in requests.values()} == {"SERVER"}
    assert {(one.attributes["http.route"], one.attributes["http.response.status_code"]) for one in requests.values()} \
        == {(DRAW, 200)}  # fmt: skip
    waits = named(spans, "psalign.draw")
    assert {one.parent.span_id for one in waits} == {one.context.span_id for one in requests.values()}
    assert sum(one.attributes["psalign.rows"] for one in waits) == 7
    batches = named(spans, "psalign.batch")
    assert [(one.attributes["psalign.rows"], one.attributes["psalign.people"]) for one in batches] == [(1, 1), (6, 3)]
    for one in batches:
        ids = one.attributes["psalign.request_ids"]
        assert [link.context.span_id for link in one.links] == [requests[i].context.span_id for i in ids]
        assert one.attributes["psalign.outcome"] == "drawn"
    assert set(batches[1].attributes["psalign.request_ids"]) == {one.result().headers["x-request-id"] for one in others}


@pytest.mark.parametrize("given", [f"00-{TRACE}-{PARENT}-01", "00-nonsense", "ff", "00-" + "0" * 32 + "-" + "0" * 16])
def test_a_request_belongs_to_the_span_that_its_header_names(place, kept, given):
    spans, _ = kept
    assert post(place, "anna", headers={"traceparent": given}).status_code == 200
    until(lambda: named(spans, "psalign.request"))
    (one,) = named(spans, "psalign.request")
    if TRACE in given:
        assert (f"{one.context.trace_id:032x}", f"{one.parent.span_id:016x}") == (TRACE, PARENT)
        assert one.parent.is_remote
    else:
        assert one.parent is None
    assert {f"{draw.context.trace_id:x}" for draw in named(spans, "psalign.draw")} == {f"{one.context.trace_id:x}"}


def test_no_span_and_no_log_of_the_sdk_has_a_word_about_people(place, kept, monkeypatch):
    """Also where a request fails, does not fit, or names a person in its path: FastAPI's own spans and logs are off."""
    spans, logs = kept
    post(place, "anna", limits=["no zebras"])
    post(place, "ben", prompt="poison")
    post(place, "mallory", headers={"baggage": "who=mallory", "tracestate": "a=b"})
    post(place, "anna", key="psk_anna_tarantula")
    post(place, "anna", n="tarantula")
    post(place, "anna", zebra="tarantula")
    list(post(place, "ben", stream=True, partial_images=1).iter_lines())
    headers = {"Authorization": f"Bearer {place.keys.shop}"}
    HTTP.get(f"{place.url}/v1/models/tarantula?user=anna", headers=headers)
    HTTP.get(f"{place.url}/anna?prompt=tarantula", headers=headers)
    monkeypatch.setattr(place.service.keys, "find", lambda key: 1 / len(key.partition("tarantula")[1]))
    assert post(place, "anna").status_code == 500
    HTTP.get(f"{place.url}/health/live?anna")
    until(lambda: len(named(spans, "psalign.request")) == 10)
    statuses = [one.attributes["http.response.status_code"] for one in named(spans, "psalign.request")]
    assert sorted(statuses) == [200, 200, 400, 400, 401, 403, 404, 404, 500, 500]
    assert sum(one.attributes["psalign.outcome"] == "failed" for one in named(spans, "psalign.batch")) == 1
    finished = spans.get_finished_spans()
    assert {one.name for one in finished} == {"psalign.request", "psalign.draw", "psalign.batch"}
    assert not any(one.events for one in finished)
    assert logs.get_finished_logs() == ()
    text = "\n".join(one.to_json() for one in finished)
    assert len(json.loads(finished[0].to_json())["attributes"]) >= 2
    keys = [part for key in vars(place.keys).values() for part in key.split("_", 2)]
    for word in (*SECRETS, *keys):
        assert word not in text


def test_without_the_package_there_are_no_spans_and_pictures_are_drawn(place, kept, monkeypatch):
    spans, _ = kept
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    assert post(place, "anna").status_code == 200
    assert spans.get_finished_spans() == ()
