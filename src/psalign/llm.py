"""OpenAI-compatible language models: the one door through which anything is sent to a model on another machine.

Place on the path of data: under steps 2 and 7, and the builder of datasets. Whoever sends people's data or pictures
calls `require_consent` first.

`Chat` knows how endpoints misbehave: an overload that arrives as HTTP 200 with an error inside, a reply in a Markdown
fence, a model that refuses temperature 0, a seed or a JSON schema. What passes is asked again, what is refused is left
out of the next request, and no failure is ever taken for a reply.
"""

from __future__ import annotations

import email.utils
import os
import random
import re
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from .errors import ExtraMissing, UsageError
from .files import Record

# How a request failed. REFUSED: the model or a filter declines. REJECTED: the request is wrong. FATAL: no request can
# succeed. ADAPTED: what was refused is now left out. The others pass: they are worth asking again.
REFUSED, REJECTED, FATAL, ADAPTED = "refused", "rejected", "fatal", "adapted"
BUSY, SERVER, TIMEOUT, UNREACHABLE = "busy", "server", "timeout", "unreachable"
PASSING = (BUSY, SERVER, TIMEOUT, UNREACHABLE)
FATAL_STATUS = {
    401: "refuses the key",
    402: "says that nothing is left to pay with",
    403: "refuses the key for this",
    404: "does not know this model or address",
}
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
LONGEST_ASKED_WAIT_S = 600.0  # of a Retry-After: above it, the question fails instead
MAX_SAID = 300  # characters of an endpoint's own words
FORMS = ("json_schema", "json_object", None)  # how a reply's form is asked for, the next where one is refused

_FENCE = re.compile(r"```[A-Za-z]*\s*(.*?)\s*```", re.DOTALL)
_THOUGHTS = re.compile(r"\A\s*<think>.*?</think>", re.DOTALL)
_FILTERED = ("content_filter", "content_policy_violation", "moderation_blocked")
_BUSY_WORDS = ("rate limit", "rate_limit", "too many requests", "overloaded", "capacity")
_FORM_WORDS = ("response_format", "json_schema", "json_object", "structured output", "guided")


def openai_library() -> Any:
    """The library `openai`. Raises ExtraMissing without the extra of that name."""
    try:
        import openai
    except ImportError:
        raise ExtraMissing("openai", "openai") from None
    return openai


def require_consent(shown: str, *, things: str, agreed: bool, flag: str) -> None:
    """Show what would leave this machine, and return only if the person at the terminal agrees.

    shown: what is sent, and where. things: what it is in one word, as "Profiles". agreed: whether the command line says
    yes already. flag: the option that says it. Raises UsageError where nobody agrees.
    """
    print(shown, file=sys.stderr)
    if agreed:
        return
    if not sys.stdin.isatty():
        raise UsageError(f"{things} leave this machine only where you agree; nothing was sent.", hint=f"Add {flag}.")
    print("Send them? [y/N] ", end="", file=sys.stderr, flush=True)
    if sys.stdin.readline().strip().lower() not in ("y", "yes"):
        raise UsageError("Nothing was sent.")


def open_chat(model: str, *, base_url: str | None, api_key: str | None, timeout_s: float, **knobs: Any) -> Chat:
    """Requests to a model of an endpoint; None takes OPENAI_BASE_URL and OPENAI_API_KEY from the environment.

    The library's own retries are off: they do not see an error inside HTTP 200, cannot be counted against a
    budget, and cannot be stopped.
    Raises ExtraMissing without the extra `openai`, UsageError without a key.
    """
    openai = openai_library()
    if not (api_key or os.environ.get("OPENAI_API_KEY")):
        raise UsageError(
            "OPENAI_API_KEY is not set.", hint="export OPENAI_API_KEY=... (a server of your own may take any word)"
        )
    client = openai.OpenAI(
        base_url=base_url, api_key=api_key, timeout=timeout_s, max_retries=0, http_client=no_redirects()
    )
    return Chat(client, model, **knobs)


def no_redirects() -> Any:
    """What fetches for a client: from no host but the one that was agreed to."""
    return openai_library().DefaultHttpxClient(follow_redirects=False)


@dataclass(frozen=True)
class Said:
    """What one request brought: a reply's text, or how it failed.

    wait_s: seconds that the endpoint asks to wait; 0: as long as we think fit; None: asking again has no point.
    why: the endpoint's own words, or the kind of error; they may repeat what was sent. status: of HTTP, or as the body
    says. *_tokens: as the endpoint counts them.
    """

    content: str | None
    failed: str | None = None
    wait_s: float | None = None
    why: str = ""
    status: int | None = None
    input_tokens: int = 0
    output_tokens: int = 0


class Chat:
    """Requests to one model. knobs: sampling settings (temperature, seed), each left out once the model refuses it.

    Safe among threads. adapted: what was left out so far, for a report to say. host: where messages are sent.
    is_plain_http: they go there without encryption.
    """

    def __init__(self, client: Any, model: str, **knobs: Any) -> None:
        self._openai, self._client, self.model = openai_library(), client, model
        self._knobs, self._form, self._lock = dict(knobs), 0, threading.Lock()
        self.adapted: list[str] = []
        self.host, self.is_plain_http = str(client.base_url.host), client.base_url.scheme == "http"

    def once(self, messages: Any, schema: Record, **knobs: Any) -> Said:
        """One request. schema: of the reply, as {"name", "strict", "schema"}; knobs: of this request alone."""
        with self._lock:
            form = self._form
            sent = {name: value for name, value in {**self._knobs, **knobs}.items() if name not in self.adapted}
        said = self._once(messages, _response_format(form, schema), sent)
        if said.failed == REJECTED and self._adapt(said, sent, form):
            return replace(said, failed=ADAPTED, wait_s=0.0)
        return said

    def ask(
        self, messages: Any, schema: Record, *, retries: int, sleep: Callable[[float], Any] = time.sleep, **knobs: Any
    ) -> Said:
        """A request, and again where it failed in a way that passes, up to `retries` times."""
        waits = 0
        while True:
            said = self.once(messages, schema, **knobs)
            if said.failed == ADAPTED:
                continue
            if said.failed not in PASSING or waits >= retries or not is_worth_waiting(said):
                return said
            sleep(said.wait_s or back_off(waits))
            waits += 1

    def _once(self, messages: Any, form: Record, knobs: Record) -> Said:
        openai = self._openai
        try:
            done = self._client.chat.completions.create(model=self.model, messages=messages, **form, **knobs)
        except openai.APITimeoutError as err:
            return Said(None, TIMEOUT, 0.0, type(err).__name__)
        except openai.APIConnectionError as err:
            return Said(None, UNREACHABLE, 0.0, type(err).__name__)
        except openai.APIStatusError as err:
            body = err.body if isinstance(err.body, dict) else {}
            return _failure(
                {"code": err.code, "message": err.message, "param": err.param, **body},
                status=err.status_code,
                wait_s=retry_after_s(err.response.headers),
                kind=type(err).__name__,
            )
        except (openai.APIError, ValueError) as err:  # a body that is no JSON: a gateway's page, not the model's reply
            return Said(None, SERVER, 0.0, type(err).__name__)
        return _read(done)

    def _adapt(self, said: Said, sent: Record, form: int) -> bool:
        """Leave out of later requests what this one was refused for. Whether there is another request to try."""
        words = said.why.lower()
        with self._lock:
            for name in sent:
                if re.search(rf"\b{name}\b", words):
                    if name not in self.adapted:
                        self.adapted.append(name)
                    return True
            if any(word in words for word in _FORM_WORDS) and FORMS[form] is not None:
                self._form = max(self._form, form + 1)
                if FORMS[form] not in self.adapted:
                    self.adapted.append(str(FORMS[form]))
                return True
        return False


def json_text(content: str | None) -> str:
    """The JSON object of a reply: alone, in a Markdown fence, after a model's thoughts, or with words around it."""
    text = _THOUGHTS.sub("", content or "").strip().removeprefix("\ufeff").strip()
    fenced = _FENCE.findall(text)
    if len(fenced) == 1 and fenced[0].startswith("{"):
        return str(fenced[0])
    start, end = text.find("{"), text.rfind("}")
    return text[start : end + 1] if 0 <= start < end else text


def is_worth_waiting(said: Said) -> bool:
    return said.wait_s is not None and said.wait_s <= LONGEST_ASKED_WAIT_S


def back_off(tries: int) -> float:
    """1, 2, 4, ... s, at most 60, less up to a half by chance, so that threads do not come back together."""
    return min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0**tries) * random.uniform(0.5, 1.0)


def retry_after_s(headers: Any) -> float:
    """Seconds that a server asks to wait (`Retry-After`: seconds or a date; `retry-after-ms`); 0 where it does not."""
    try:
        if headers.get("retry-after-ms"):
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        return max(0.0, float(headers.get("retry-after") or 0))
    except ValueError:
        date = email.utils.parsedate_tz(headers.get("retry-after") or "")
        return 0.0 if date is None else max(0.0, email.utils.mktime_tz(date) - time.time())


def _response_format(form: int, schema: Record) -> Record:
    kind = FORMS[form]
    if kind is None:
        return {}
    return {"response_format": {"type": kind, **({"json_schema": schema} if kind == "json_schema" else {})}}


def _read(done: Any) -> Said:
    """A body that came with HTTP 200, which need not hold a reply."""
    choices = getattr(done, "choices", None)
    first = choices[0] if isinstance(choices, list) and choices else None
    tokens = _tokens(done, "prompt_tokens"), _tokens(done, "completion_tokens")
    said = _say(done, first)
    return replace(said, input_tokens=tokens[0], output_tokens=tokens[1])


def _say(done: Any, first: Any) -> Said:
    error = _error_in(first) or _error_in(done)
    if error:
        return _failure(error, status=None, wait_s=0.0, kind="an error inside HTTP 200")
    message = getattr(first, "message", None)
    if message is None:
        return Said(None, SERVER, 0.0, "HTTP 200 without a reply")
    if getattr(message, "refusal", None) or getattr(first, "finish_reason", None) == "content_filter":
        return Said(None, REFUSED, why="a refusal")
    content = _text_of(getattr(message, "content", None))
    if not content.strip() and getattr(first, "finish_reason", None) != "length":  # "length": all went into thoughts
        return Said(None, SERVER, 0.0, "its reply is empty")
    return Said(content)


def _error_in(thing: Any) -> Record | None:
    """The error that a body, or its first choice, holds in the place of a reply."""
    error = getattr(thing, "error", None)
    if isinstance(error, dict):
        return error
    if error:
        return {"message": str(error)}
    if getattr(thing, "object", None) == "error" or getattr(thing, "finish_reason", None) == "error":
        return {name: getattr(thing, name, None) for name in ("message", "code", "param", "type")}
    return None


def _text_of(content: Any) -> str:
    """A message's text; some servers send a list of parts."""
    if isinstance(content, list):
        parts = [part.get("text") if isinstance(part, dict) else getattr(part, "text", None) for part in content]
        return "".join(part for part in parts if isinstance(part, str))
    return content if isinstance(content, str) else ""


def _failure(error: Record, *, status: int | None, wait_s: float, kind: str) -> Said:
    """What an error means. Without a status the body's own code is one; where nothing says what it is, it passes."""
    code, message = str(error.get("code") or ""), str(error.get("message") or "")
    if status in (None, 200) and code.isdecimal() and 400 <= int(code) < 600:
        status = int(code)
    param, about = error.get("param"), error.get("type")
    words = " ".join(str(word) for word in (param, code, about, message) if word)
    why = "".join(mark for mark in f"{kind}: {words}" if mark.isprintable())[:MAX_SAID]
    lower = words.lower()
    if code in _FILTERED or (status == 403 and ("flagged" in lower or "moderation" in lower)):
        return Said(None, REFUSED, why=why, status=status)
    if status in FATAL_STATUS or code == "insufficient_quota":
        return Said(None, FATAL, why=why, status=status)
    if status == 429 or (status is None and any(word in lower for word in _BUSY_WORDS)):
        return Said(None, BUSY, wait_s, why, status)
    if status is None or status >= 500 or status in (408, 409):
        rejected = status is None and ("invalid_request" in lower or "unsupported" in lower)
        return Said(None, REJECTED if rejected else SERVER, None if rejected else wait_s, why, status)
    return Said(None, REJECTED, why=why, status=status)


def _tokens(done: Any, name: str) -> int:
    used = getattr(getattr(done, "usage", None), name, None)
    return used if isinstance(used, int) else 0
