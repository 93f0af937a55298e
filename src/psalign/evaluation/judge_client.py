"""Asks an OpenAI-compatible endpoint, or Azure's, one question at a time: retries, Retry-After, a budget of requests.

Place on the path of data: step 7, from a question to its answer.
"""

from __future__ import annotations

import email.utils
import os
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from psalign.endpoint import no_redirects, openai_library
from psalign.errors import EvaluationError, UsageError
from psalign.records import Record

from .judge_question import Judge, Question
from .judge_reply import MALFORMED, REFUSED, Answer, parse_reply, response_format

FATAL = {401: "refuses the key", 403: "refuses the key for this", 404: "does not know this model or address"}
RETRIED = (408, 409, 429)  # and every 5xx
FIRST_WAIT_S, LONGEST_WAIT_S = 1.0, 60.0
MAX_SAID = 300  # characters of an endpoint's own words
LONGEST_ASKED_WAIT_S = 600.0  # of a Retry-After: above it, the question fails instead


class BudgetSpent(Exception):
    """No more requests may be sent."""


class Budget:
    """Requests that a command may still send; None is no limit. Safe among threads."""

    def __init__(self, max_requests: int | None = None) -> None:
        self.max_requests, self.spent = max_requests, 0
        self._lock = threading.Lock()

    def take(self) -> None:
        """Count one request. Raises BudgetSpent where none is left."""
        with self._lock:
            if self.max_requests is not None and self.spent >= self.max_requests:
                raise BudgetSpent
            self.spent += 1


@dataclass(frozen=True)
class Endpoint:
    """Where a judge lives. base_url: None takes OPENAI_BASE_URL; or Azure where AZURE_OPENAI_ENDPOINT is set.

    timeout_s: of one request. retries: after a busy or failing server or a timeout; one after a malformed reply.
    """

    model: str
    base_url: str | None = None
    api_version: str | None = None
    timeout_s: float = 60.0
    retries: int = 5


@dataclass(frozen=True)
class _Try:
    """What one request brought. wait_s: before another (0: as long as we think fit; None: there is no point)."""

    reply: Record | None
    failed: str | None
    wait_s: float | None = None
    input_tokens: int = 0
    output_tokens: int = 0


class JudgeClient:
    """Asks questions. Raises ExtraMissing without the extra `openai`, UsageError for a key or address that is missing.

    sleep: waits between tries, by default until `stop` is set at the latest. said: why the endpoint last rejected a
    request, in its own words, which may repeat what it was sent.
    A redirection is a rejection: what was agreed to be sent to one host goes to no other.
    """

    def __init__(
        self, endpoint: Endpoint, *, budget: Budget | None = None, sleep: Callable[[float], Any] | None = None
    ) -> None:
        openai = openai_library()
        self.endpoint, self.budget, self.stop = endpoint, budget or Budget(), threading.Event()
        self.said = ""
        self._sleep = sleep or self.stop.wait
        self._openai: Any = openai
        self._client = _azure(openai, endpoint) if _is_azure(endpoint) else _plain(openai, endpoint)
        self._url = urlsplit(str(self._client.base_url))
        self.is_plain_http = self._url.scheme == "http"

    @property
    def judge(self) -> Judge:
        return Judge(self.endpoint.model, str(self._url.hostname))

    def ask(self, question: Question) -> Answer:
        """The answer to one question, failures included.

        Raises BudgetSpent; EvaluationError where no question can be answered (a wrong key, an unknown model).
        """
        messages = question.messages()
        tries: list[_Try] = []
        malformed = waits = 0
        while True:
            self.budget.take()
            tries.append(self._try(messages, question))
            last = tries[-1]
            if last.failed == MALFORMED and malformed < min(1, self.endpoint.retries):
                malformed += 1
            elif last.wait_s is not None and last.wait_s <= LONGEST_ASKED_WAIT_S and waits < self.endpoint.retries:
                self._sleep(last.wait_s or _back_off(waits))
                waits += 1
            else:
                break
            if self.stop.is_set():
                break
        spent = (sum(one.input_tokens for one in tries), sum(one.output_tokens for one in tries))
        return Answer(last.reply, last.failed, len(tries), *spent)

    def _try(self, messages: list[Record], question: Question) -> _Try:
        openai, form = self._openai, response_format(question.template.reply)
        try:
            done = self._client.chat.completions.create(
                model=self.endpoint.model, messages=messages, response_format=form, temperature=0
            )
        except openai.APITimeoutError:
            return _Try(None, "timeout", 0.0)
        except openai.APIConnectionError:
            return _Try(None, "unreachable", 0.0)
        except openai.APIStatusError as err:
            return self._failure(err)
        except (openai.APIError, ValueError):  # a body that is no JSON
            return _Try(None, MALFORMED)
        reply, failed = _read(done, question)
        return _Try(reply, failed, None, _tokens(done, "prompt_tokens"), _tokens(done, "completion_tokens"))

    def _failure(self, err: Any) -> _Try:
        status, code = err.status_code, str(err.code or "")
        if status in FATAL or code == "insufficient_quota":
            why = FATAL.get(status, "says that its quota is used up")
            raise EvaluationError(
                f"{self.judge.host} {why} (HTTP {status}, model {self.endpoint.model!r}).",
                hint="Check OPENAI_API_KEY, --endpoint and --judge-model; what was judged is kept.",
            ) from None
        if code in ("content_filter", "content_policy_violation"):
            return _Try(None, REFUSED)
        if status in RETRIED or status >= 500:
            return _Try(None, "busy" if status == 429 else "server", retry_after_s(err.response.headers))
        self.said = "".join(mark for mark in str(err.message) if mark.isprintable())[:MAX_SAID]
        return _Try(None, "rejected")


def retry_after_s(headers: Any) -> float:
    """Seconds that a server asks to wait (`Retry-After`: seconds or a date; `retry-after-ms`); 0 where it does not."""
    try:
        if headers.get("retry-after-ms"):
            return max(0.0, float(headers["retry-after-ms"]) / 1000)
        return max(0.0, float(headers.get("retry-after") or 0))
    except ValueError:
        date = email.utils.parsedate_tz(headers.get("retry-after") or "")
        return 0.0 if date is None else max(0.0, email.utils.mktime_tz(date) - time.time())


def _back_off(tries: int) -> float:
    """1, 2, 4, ... s, at most 60, less up to a half by chance, so that threads do not come back together."""
    return min(LONGEST_WAIT_S, FIRST_WAIT_S * 2.0**tries) * random.uniform(0.5, 1.0)


def _read(done: Any, question: Question) -> tuple[Record | None, str | None]:
    choices = getattr(done, "choices", None)
    if not choices:
        return None, MALFORMED
    message = choices[0].message
    if message is None:
        return None, MALFORMED
    if getattr(message, "refusal", None) or choices[0].finish_reason == "content_filter":
        return None, REFUSED
    record = parse_reply(message.content, question.template.reply)
    return record, None if record else MALFORMED


def _tokens(done: Any, name: str) -> int:
    used = getattr(getattr(done, "usage", None), name, None)
    return used if isinstance(used, int) else 0


def _is_azure(endpoint: Endpoint) -> bool:
    return endpoint.base_url is None and bool(os.environ.get("AZURE_OPENAI_ENDPOINT"))


def _plain(openai: Any, endpoint: Endpoint) -> Any:
    url = endpoint.base_url or os.environ.get("OPENAI_BASE_URL")
    if url and not (urlsplit(url).scheme in ("http", "https") and urlsplit(url).hostname):
        raise UsageError(f"{url!r} is no address; expected one like https://host/v1.")
    if not os.environ.get("OPENAI_API_KEY"):
        raise UsageError(
            "OPENAI_API_KEY is not set.", hint="export OPENAI_API_KEY=... (a server of your own may take any word)"
        )
    return openai.OpenAI(base_url=url or None, timeout=endpoint.timeout_s, max_retries=0, http_client=no_redirects())


def _azure(openai: Any, endpoint: Endpoint) -> Any:
    version = endpoint.api_version or os.environ.get("OPENAI_API_VERSION")
    if not version:
        raise UsageError("Azure wants the version of its API.", hint="Give --api-version, or set OPENAI_API_VERSION.")
    key = os.environ.get("AZURE_OPENAI_API_KEY") or os.environ.get("OPENAI_API_KEY")
    if not key and not os.environ.get("AZURE_OPENAI_AD_TOKEN"):
        raise UsageError("AZURE_OPENAI_API_KEY is not set.", hint="export AZURE_OPENAI_API_KEY=...")
    address = os.environ["AZURE_OPENAI_ENDPOINT"]
    if not urlsplit(address).hostname:
        raise UsageError(f"AZURE_OPENAI_ENDPOINT is {address!r}; expected one like https://name.openai.azure.com.")
    return openai.AzureOpenAI(
        azure_endpoint=address,
        base_url=None,
        api_key=key,
        api_version=version,
        timeout=endpoint.timeout_s,
        max_retries=0,
        http_client=no_redirects(),
    )
