"""Structured logs, one JSON object a line, and spans of OpenTelemetry where its package is there.

No line and no span has a prompt, an identifier, an account or an attribute of a person.
"""

from __future__ import annotations

import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone

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
    LOG.error(what, exc_info=(type(err), err, err.__traceback__), extra={"psalign": facts})


@contextmanager
def span(name: str, **facts: int | float | str) -> Iterator[None]:
    """A span of OpenTelemetry, or nothing. facts: numbers and fixed words."""
    try:
        from opentelemetry import trace
    except ImportError:
        yield
        return
    tracer = trace.get_tracer("psalign.serve")
    with tracer.start_as_current_span(name, attributes=facts, record_exception=False, set_status_on_exception=False):
        yield


def _frames(record: logging.LogRecord) -> list[str]:
    """Files and lines of a traceback, without values."""
    frames = []
    trace = record.exc_info[2] if record.exc_info else None
    while trace is not None:
        code = trace.tb_frame.f_code
        frames.append(f"{code.co_filename.rpartition('/')[2]}:{trace.tb_lineno} {code.co_name}")
        trace = trace.tb_next
    return frames[-12:]
