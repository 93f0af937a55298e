"""Middleware round every request: its id and span, a limit for bodies, a line in the log and the figures of drawing.

Place on the path of data: in front of app.py.
"""

from __future__ import annotations

import uuid
from time import perf_counter
from typing import Any

from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from .logs import LOG, REQUEST_ID, span
from .replies import NO_STATUS, ApiError
from .service import Service

MOST_BYTES = 256 * 1024  # of a body
UNTOLD = ("/health/live", "/health/ready", "/metrics")  # asked for all the time: without a line and a span
DRAW = "/v1/images/generations"
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "PATCH", "OPTIONS")
TRACE_HEADERS = ("traceparent", "tracestate")  # https://www.w3.org/TR/trace-context/


class Watched:
    """The middleware. An error that nothing else answered gets its error object here."""

    def __init__(self, app: Any, service: Service) -> None:
        self.app, self.service = app, service

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        scope["psalign.service"] = self.service
        REQUEST_ID.set(uuid.uuid4().hex)
        if scope["path"] in UNTOLD:
            await self._answer(scope, receive, send)
            return
        method = scope["method"] if scope["method"] in METHODS else "_OTHER"
        with span("psalign.request", {"http.request.method": method}, headers=_trace_headers(scope)) as tell:
            status = await self._answer(scope, receive, send)
            tell({"http.route": _route(scope), "http.response.status_code": status})

    async def _answer(self, scope: Any, receive: Any, send: Any) -> int:
        """Answer, and tell of it. Returns the status, or NO_STATUS."""
        begun, status = perf_counter(), NO_STATUS

        async def sent(message: Any) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                more = (b"x-request-id", REQUEST_ID.get().encode())
                message = {**message, "headers": [*message["headers"], more]}
            await send(message)

        try:
            if _length(scope) > MOST_BYTES:
                error = ApiError(413, "too_large", f"A body may have {MOST_BYTES} bytes.")
                await JSONResponse(error.body, 413)(scope, receive, sent)
            else:
                await self.app(scope, _limited(receive), sent)
        except Exception as err:  # as where the database cannot be reached
            failure = self.service.error_for(err)
            if status == NO_STATUS:
                await JSONResponse(failure.body, failure.status, failure.headers)(scope, receive, sent)
        finally:
            self._tell(_route(scope), status, perf_counter() - begun)
        return status

    def _tell(self, route: str, status: int, took_s: float) -> None:
        if route == DRAW:
            self.service.metrics.requests.labels(str(status)).inc()
            self.service.metrics.latency_s.observe(took_s)
        if route not in UNTOLD:
            facts = {"event": "request", "request_id": REQUEST_ID.get(), "route": route, "status": status}
            LOG.info("request", extra={"psalign": {**facts, "seconds": round(took_s, 4)}})


def _route(scope: Any) -> str:
    """A path of the interface, or `other`; never the path that was asked for: it could hold anything."""
    return str(getattr(scope.get("route"), "path", "other"))


def _trace_headers(scope: Any) -> dict[str, str]:
    """The headers that say which span of an operator's own a request belongs to."""
    given = dict(scope["headers"])
    return {name: given[name.encode()].decode("latin-1") for name in TRACE_HEADERS if name.encode() in given}


def _length(scope: Any) -> int:
    said = dict(scope["headers"]).get(b"content-length", b"0")
    return int(said) if said.isdigit() and len(said) < 16 else MOST_BYTES + 1


def _limited(receive: Any) -> Any:
    """Receive a body of at most MOST_BYTES, also where its length was not said."""
    size = 0

    async def received() -> Any:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > MOST_BYTES:
            raise HTTPException(413)
        return message

    return received
