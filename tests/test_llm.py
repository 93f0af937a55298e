"""The door to models on other machines: its library, a key, one host alone; and how endpoints misbehave."""

import itertools
import json
import sys

import pytest

from judge_server import JudgeServer, completion
from psalign.errors import ExtraMissing, UsageError
from psalign.llm import json_text, no_redirects, open_chat, openai_library

HERE = {"base_url": "http://127.0.0.1:9/v1", "timeout_s": 1.0}


def test_without_the_library_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "openai", None)
    with pytest.raises(ExtraMissing, match=r"pip install 'psalign\[openai\]'"):
        openai_library()


def test_without_a_key_nothing_is_opened(monkeypatch):
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(UsageError, match="OPENAI_API_KEY is not set"):
        open_chat("m", api_key=None, **HERE)


def test_a_key_of_the_environment_opens_it(monkeypatch):
    monkeypatch.setenv("OPENAI_API_KEY", "word")
    assert open_chat("m", api_key=None, **HERE).host == "127.0.0.1"


def test_no_redirection_is_followed():
    assert no_redirects().follow_redirects is False


# --- how endpoints misbehave ------------------------------------------------------------------------------------------

SCHEMA = {"name": "reply", "strict": True, "schema": {"type": "object"}}
HELLO = [{"role": "user", "content": "hello"}]
REPLY = '{"seen": []}'


def ask(answer, *, retries=3, waits=None, **knobs):
    """What a server says to one question, and the bodies it was sent."""
    with JudgeServer(answer).running() as server:
        chat = open_chat("m", base_url=server.url, api_key="none", timeout_s=5.0, temperature=0)
        said = chat.ask(HELLO, SCHEMA, retries=retries, sleep=([] if waits is None else waits).append, **knobs)
    return said, server.bodies, chat


def failing_first(*firsts):
    numbers = itertools.count()
    return lambda body, times: firsts[n] if (n := next(numbers)) < len(firsts) else (200, {}, completion(REPLY))


def choice(**changes):
    body = completion("")
    body["choices"][0] |= changes
    return body


INSIDE_200 = {
    "a router's error": {"error": {"message": "Provider returned error", "code": 502}, "user_id": "u"},
    "a code in words": {
        "error": {"message": "Rate limit reached", "type": "rate_limit_error", "code": "rate_limit_exceeded"}
    },
    "a code that is text": {"error": {"message": "no", "code": "429"}},
    "an overload": {"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}},
    "a message alone": {"error": "upstream connect error"},
    "a server's own form": {
        "object": "error",
        "message": "CUDA out of memory",
        "type": "InternalServerError",
        "code": 500,
    },
    "an error beside choices": {**completion(""), "choices": None, "error": {"message": "timed out", "code": 504}},
    "an error in the choice": choice(error={"message": "Provider disconnected", "code": 502}, finish_reason="error"),
    "a choice that ended in an error": choice(finish_reason="error"),
    "no choices": {**completion(""), "choices": []},
    "no message": choice(message=None),
    "nothing": {},
    "a list": [],
    "an empty reply": completion("  "),
    "a page": b"<html><body>502 Bad Gateway</body></html>",
    "no body": b"",
}


@pytest.mark.parametrize("case", INSIDE_200)
def test_an_overload_that_arrives_as_success_is_asked_again(case):
    body = INSIDE_200[case]
    waits = []
    said, bodies, _ = ask(failing_first((200, {}, body), (200, {}, body)), waits=waits)
    assert (said.content, said.failed, len(bodies), len(waits)) == (REPLY, None, 3, 2)
    said, bodies, _ = ask(lambda *_: (200, {}, body), retries=1)
    assert said.content is None
    assert said.failed in ("server", "busy")
    assert len(bodies) == 2


LASTING = {
    "a wrong key": {"error": {"message": "no", "code": 401}},
    "nothing to pay with": {"error": {"message": "credits", "code": 402}},
    "a filter": {"error": {"message": "no", "code": "content_filter"}},
    "a wrong request": {"error": {"message": "bad picture", "type": "invalid_request_error", "code": None}},
}


@pytest.mark.parametrize("case", LASTING)
def test_errors_that_do_not_pass_are_not_asked_again(case):
    said, bodies, _ = ask(lambda *_: (200, {}, LASTING[case]))
    assert said.failed == {"a filter": "refused", "a wrong request": "rejected"}.get(case, "fatal")
    assert len(bodies) == 1


def test_a_flagged_input_is_a_refusal_and_not_a_wrong_key():
    told = {"error": {"code": 403, "message": "Your input was flagged", "metadata": {"reasons": ["violence"]}}}
    assert ask(lambda *_: (403, {}, told))[0].failed == "refused"


def refusing(name, message, *, status=400, **error):
    """A server that does not take a setting, and says so in these words."""

    def answer(body, times):
        is_sent = name in body or name in body.get("response_format", {}).get("type", "")
        return (status, {}, {"error": {"message": message, **error}}) if is_sent else (200, {}, completion(REPLY))

    return answer


REFUSED_SETTINGS = {
    "temperature": refusing("temperature", "Unsupported value: 'temperature' does not support 0 with this model. Only "
                            "the default (1) value is supported.", param="temperature", code="unsupported_value"),
    "temperature, named alone": refusing("temperature", "unknown", param="temperature"),
    "temperature, inside 200": refusing("temperature", "temperature must be positive", status=200, code=400),
    "temperature, as a list of faults": refusing("temperature", "body -> temperature: greater than 0", status=422),
    "seed": refusing("seed", "Unrecognized request argument supplied: seed"),
    "json_schema": refusing("json_schema", "response_format json_schema is not supported", param="response_format"),
    "no response_format": refusing("response_format", "'response_format' is unavailable now", param=None),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED_SETTINGS)
def test_a_setting_that_a_model_refuses_is_left_out(case):
    waits = []
    said, bodies, chat = ask(REFUSED_SETTINGS[case], waits=waits, seed=7)
    name = case.split(",")[0]
    assert (said.content, waits) == (REPLY, [])
    if name == "no response_format":
        assert chat.adapted == ["json_schema", "json_object"]
        assert "response_format" not in bodies[-1]
    else:
        assert chat.adapted == [name]
        assert len(bodies) == 2
    rest = {"temperature", "seed"} - {name}
    assert rest <= set(bodies[-1])


def test_what_was_refused_once_is_not_sent_again():
    with JudgeServer(REFUSED_SETTINGS["temperature"]).running() as server:
        chat = open_chat("m", base_url=server.url, api_key="none", timeout_s=5.0, temperature=0)
        for _ in range(3):
            assert chat.ask(HELLO, SCHEMA, retries=0).content == REPLY
    assert ["temperature" in body for body in server.bodies] == [True, False, False, False]


def test_a_model_that_refuses_everything_ends():
    said, bodies, _ = ask(lambda *_: (400, {}, {"error": {"message": "temperature, seed, response_format"}}), seed=1)
    assert said.failed == "rejected"
    assert len(bodies) == 5


def test_a_reply_in_parts_is_one_text():
    parts = [{"type": "text", "text": '{"seen"'}, {"type": "text", "text": ": []}"}]
    assert ask(lambda *_: (200, {}, completion(parts)))[0].content == REPLY


WRAPPED = {
    "alone": REPLY,
    "a fence": f"```json\n{REPLY}\n```",
    "a fence without a name": f"```\n{REPLY}\n```",
    "a fence with words around": f"Here is the JSON you asked for:\n\n```JSON\n{REPLY}\n```\nAnything else?",
    "words around": f"Sure. {REPLY} Done.",
    "thoughts": f"<think>It may be {{banned}}.</think>\n{REPLY}",
    "a byte order mark": f"\ufeff{REPLY}",
    "spaces": f"\n\n  {REPLY}\n",
}


@pytest.mark.parametrize("case", WRAPPED)
def test_the_json_of_a_reply(case):
    assert json.loads(json_text(WRAPPED[case])) == {"seen": []}


@pytest.mark.parametrize("text", [None, "", "no", "}{", f"{REPLY} or {REPLY}", f"```\n{REPLY}\n``` ```\n{REPLY}\n```"])
def test_what_holds_no_single_object_is_no_json(text):
    with pytest.raises(json.JSONDecodeError):
        json.loads(json_text(text))
