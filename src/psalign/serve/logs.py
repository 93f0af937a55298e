"""Structured logs, one JSON object a line, and spans of OpenTelemetry where its package is there.

No line and no span has a prompt, an identifier, an account or an attribute of a person. Both have the id of the
request that they belong to.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

Facts = Mapping[str, int | float | str | Sequence[str]]  # numbers and fixed words, and ids of requests
REQUEST_ID: ContextVar[str] = ContextVar("request_id", default="")  # of the request that this task answers

LOG = logging.getLogger("psalign.serve")


class JsonLines(logging.Formatter):
    """A record of the log as JSON: time, level, message, what `extra={"psalign": ...}` holds, and where it broke."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "at": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "psalign", {}),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = record.exc_info[0].__name__
            line["frames"] = _frames(record)
        return json.dumps(line)


def log_to_stderr() -> None:
    """Send the lines of the service, and those of uvicorn, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonLines())
    for name in ("psalign.serve", "uvicorn", "uvicorn.error"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler] if name != "uvicorn.error" else [], name == "uvicorn.error"
        logger.setLevel(logging.INFO)


def tell_failure(what: str, err: BaseException, **facts: object) -> None:
    """Log an error by its kind and the places in the code; what it says could repeat a prompt."""
    said = {"request_id": REQUEST_ID.get(), **facts} if REQUEST_ID.get() else facts
    LOG.error(what, exc_info=(type(err), err, err.__traceback__), extra={"psalign": said})


@dataclass(frozen=True)
class Origin:
    """The request that something belongs to, and its span, to which the span of a batch has a link; None: no span."""

    request_id: str
    span: Any = None

    @classmethod
    def now(cls) -> Origin:
        """That of the request that this task answers."""
        trace = _opentelemetry()
        return cls(REQUEST_ID.get(), None if trace is None else trace.get_current_span().get_span_context())


@contextmanager
def span(
    name: str, facts: Facts, *, of: Sequence[Origin] = (), headers: Mapping[str, str] | None = None
) -> Iterator[Callable[[Facts], None]]:
    """A span of OpenTelemetry, or nothing where its package is not there. Gives a way to add facts to it.

    of: what it is linked to. headers: of a request that came from outside; `traceparent` names the span above.
    """
    trace = _opentelemetry()
    if trace is None:
        yield lambda more: None
        return
    own = {"psalign.request_id": REQUEST_ID.get()} if REQUEST_ID.get() else {}
    links = {one.span.span_id: trace.Link(one.span) for one in of if one.span is not None and one.span.is_valid}
    with trace.get_tracer("psalign.serve").start_as_current_span(
        name,
        context=None if headers is None else _context_of(headers),
        kind=trace.SpanKind.INTERNAL if headers is None else trace.SpanKind.SERVER,
        attributes={**own, **facts},
        links=list(links.values()),
        record_exception=False,
        set_status_on_exception=False,
    ) as made:
        yield made.set_attributes


def _opentelemetry() -> Any:
    try:
        from opentelemetry import trace
    except ImportError:
        return None
    return trace


def _context_of(headers: Mapping[str, str]) -> Any:
    """The context that the W3C headers of a request name; an empty one where they name none, or make no sense."""
    from opentelemetry.context import Context
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    return TraceContextTextMapPropagator().extract(headers, context=Context())


def _frames(record: logging.LogRecord) -> list[str]:
    """Files and lines of a traceback, without values."""
    frames = []
    trace = record.exc_info[2] if record.exc_info else None
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return frames[-12:]
