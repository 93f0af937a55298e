"""Asks an OpenAI-compatible endpoint, or Azure's, one question at a time, with retries and a budget.

Place on the path of data: step 7, from a question to its answer.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from psalign.errors import EvaluationError, UsageError
from psalign.files import Record
from psalign.llm import (
    ADAPTED,
    FATAL,
    FATAL_STATUS,
    PASSING,
    REJECTED,
    SERVER,
    Chat,
    Said,
    back_off,
    is_worth_waiting,
    no_redirects,
    open_chat,
    openai_library,
)

from .question import Judge, Question
from .reply import MALFORMED, Answer, parse_reply, reply_schema


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

    timeout_s: seconds that one request may take. retries: number of further tries after a timeout or a
    server that is busy or fails; after a malformed reply there is one.
    """

    model: str
    base_url: str | None = None
    api_version: str | None = None
    timeout_s: float = 60.0
    retries: int = 5


class JudgeClient:
    """Asks questions. Raises ExtraMissing without the extra `openai`, UsageError without a key or address.

    sleep: waits for a number of seconds between tries; by default it ends early when `stop` is set. said:
    the endpoint's own words when it last rejected a request; they may repeat what was sent. A redirection
    counts as a rejection, for the user agreed to one host only.
    """

    def __init__(
        self, endpoint: Endpoint, *, budget: Budget | None = None, sleep: Callable[[float], Any] | None = None
    ) -> None:
        self.endpoint, self.budget, self.stop = endpoint, budget or Budget(), threading.Event()
        self.said = ""
        self._sleep = sleep or self.stop.wait
        is_azure = endpoint.base_url is None and os.environ.get("AZURE_OPENAI_ENDPOINT")
        self._chat = _azure(endpoint) if is_azure else _plain(endpoint)
        self.is_plain_http = self._chat.is_plain_http
        self.judge = Judge(endpoint.model, self._chat.host)

    def ask(self, question: Question) -> Answer:
        """The answer to one question, failures included.

        Raises BudgetSpent; EvaluationError where no question can be answered (a wrong key, an unknown model).
        """
        messages, schema = question.messages(), reply_schema(question.template.reply)
        tries: list[Said] = []
        malformed = waits = 0
        while True:
            self.budget.take()
            said = self._chat.once(messages, schema)
            tries.append(said)
            reply, failed = self._judged(said, question)
            if failed == MALFORMED and malformed < min(1, self.endpoint.retries):
                malformed += 1
            elif failed in PASSING and is_worth_waiting(said) and waits < self.endpoint.retries:
                self._sleep(said.wait_s or back_off(waits))
                waits += 1
            elif failed != ADAPTED:
                break
            if self.stop.is_set():
                break
        spent = (sum(one.input_tokens for one in tries), sum(one.output_tokens for one in tries))
        return Answer(reply, SERVER if failed == ADAPTED else failed, len(tries), *spent, tuple(self._chat.adapted))

    def _judged(self, said: Said, question: Question) -> tuple[Record | None, str | None]:
        """The checked reply, or the failure. Raises EvaluationError where no question can succeed."""
        if said.failed == FATAL:
            why = FATAL_STATUS.get(said.status or 0, "says that its quota is used up")
            raise EvaluationError(
                f"{self.judge.host} {why} (HTTP {said.status}, model {self.endpoint.model!r}).",
                hint="Check OPENAI_API_KEY, --endpoint and --judge-model; what was judged is kept.",
            )
        if said.failed in (REJECTED, SERVER):
            self.said = said.why
        if said.failed:
            return None, said.failed
        reply = parse_reply(said.content, question.template.reply)
        return reply, None if reply else MALFORMED


def _plain(endpoint: Endpoint) -> Chat:
    url = endpoint.base_url or os.environ.get("OPENAI_BASE_URL")
    if url and not (urlsplit(url).scheme in ("http", "https") and urlsplit(url).hostname):
        raise UsageError(f"{url!r} is no address; expected one like https://host/v1.")
    return open_chat(endpoint.model, base_url=url or None, api_key=None, timeout_s=endpoint.timeout_s, temperature=0)


def _azure(endpoint: Endpoint) -> Chat:
    openai = openai_library()
    version = endpoint.api_version or os.environ.get("OPENAI_API_VERSION")
    if not version:
        raise UsageError("Azure wants the version of its API.", hint="Give --api-version, or set OPENAI_API_VERSION.")
    key = os.environ.get("AZURE_OPENAI_API_KEY") or os.environ.get("OPENAI_API_KEY")
    if not key and not os.environ.get("AZURE_OPENAI_AD_TOKEN"):
        raise UsageError("AZURE_OPENAI_API_KEY is not set.", hint="export AZURE_OPENAI_API_KEY=...")
    address = os.environ["AZURE_OPENAI_ENDPOINT"]
    if not urlsplit(address).hostname:
        raise UsageError(f"AZURE_OPENAI_ENDPOINT is {address!r}; expected one like https://name.openai.azure.com.")
    client = openai.AzureOpenAI(
        azure_endpoint=address,
        base_url=None,
        api_key=key,
        api_version=version,
        timeout=endpoint.timeout_s,
        max_retries=0,
        http_client=no_redirects(),
    )
    return Chat(client, endpoint.model, temperature=0)
