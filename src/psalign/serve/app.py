"""The HTTP interface: the OpenAI images API, health and metrics.

Place on the path of data: where requests come in and pictures go out.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Annotated, Any

import numpy as np
from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, StreamingResponse
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException

from .. import __version__
from ..files import Record
from .keys import Caller
from .logs import span
from .replies import NO_STATUS, ApiError, encoded, event, seconds
from .requests import ImageRequest
from .service import Order, Service
from .waiting import Row
from .watched import DRAW, Watched

BEARER = HTTPBearer(auto_error=False)
# FastAPI's own spans have the path and query of a request, and its logs the values of a body that does not fit; these
# could name a person. FASTAPI_OTEL_AUTO_CONFIGURE=true still works, for our spans.
TELEMETRY: Any = {"exclude": lambda scope: True, "metrics": False, "logs": False}
CODES = {400: "invalid_value", 404: "not_found", 405: "method_not_allowed", 413: "too_large"}


class ErrorObject(BaseModel):
    code: str | None
    message: str
    param: str | None
    type: str


class ErrorBody(BaseModel):
    """What every answer without a picture is."""

    error: ErrorObject


class Picture(BaseModel):
    """b64_json: the file. seed: draws the same picture again."""

    b64_json: str
    seed: int


class Pictures(BaseModel):
    """As the OpenAI API answers; limits: own, strictest or preview, as docs/SERVING.md says."""

    created: int
    data: list[Picture]
    background: str
    output_format: str
    quality: str
    size: str
    safety_identifier: str | None = None
    limits: str


class Model(BaseModel):
    id: str
    created: int
    object: str
    owned_by: str


class Models(BaseModel):
    object: str
    data: list[Model]


ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody} for status in (400, 401, 403, 404, 413, 429, 500, 503, 504)
}
LATER = {"Retry-After": {"description": "Seconds until it makes sense to ask again.", "schema": {"type": "string"}}}
ERRORS[429]["headers"] = LATER


def _service(request: Request) -> Service:
    service: Service = request.scope["psalign.service"]
    return service


async def caller_of(request: Request, given: Annotated[HTTPAuthorizationCredentials | None, Depends(BEARER)]) -> Caller:
    """Whose key the request has. Raises ApiError."""
    service = _service(request)
    caller = None if given is None else await run_in_threadpool(service.keys.find, given.credentials)
    if caller is None:
        service.metrics.refuse("unauthorized")
        raise ApiError(401, "invalid_api_key", "The API key is missing or not valid.", reason="unauthorized")
    return caller


Known = Annotated[Caller, Depends(caller_of)]


class App(FastAPI):
    """An application whose document does not name 422, which FastAPI adds: a body that does not fit is 400 here."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            for operation in (one for path in document["paths"].values() for one in path.values()):
                operation["responses"].pop("422", None)
            for name in ("HTTPValidationError", "ValidationError"):
                document["components"]["schemas"].pop(name, None)
        return super().openapi()


def create_app(service: Service) -> FastAPI:
    """The ASGI application of a service."""
    app = App(title="PSAlign", version=__version__, docs_url=None, redoc_url=None, telemetry=TELEMETRY)
    app.add_middleware(Watched, service=service)
    for kind, handler in {ApiError: _api_error, RequestValidationError: _invalid, HTTPException: _http_error}.items():
        app.add_exception_handler(kind, handler)

    drawn = {"model": Pictures, "content": {"text/event-stream": {}}}  # the events of `stream`

    @app.post(DRAW, responses={200: drawn, **ERRORS}, response_model=None)
    async def generate(body: ImageRequest, request: Request, caller: Known) -> Response:
        return await _answered(service, lambda: _generate(service, body, request, caller))

    @app.get("/v1/models", responses=ERRORS)
    async def models(caller: Known) -> Models:
        return Models(object="list", data=[_model(service)])

    @app.get("/v1/models/{name}", responses=ERRORS)
    async def model(name: str, caller: Known) -> Model:
        one = _model(service)
        if name != one.id:
            raise ApiError(404, "model_not_found", f"This service has the model '{one.id}' alone.", param="model")
        return one

    @app.get("/health/live", responses={503: {"model": dict[str, str]}})
    async def live() -> JSONResponse:
        return _health(not service.is_dead, "live")

    @app.get("/health/ready", responses={503: {"model": dict[str, str]}})
    async def ready() -> JSONResponse:
        return _health(service.is_ready, "ready")

    @app.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
    def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4")

    return app


def _health(is_well: bool, word: str) -> JSONResponse:
    return JSONResponse({"status": word if is_well else f"not {word}"}, 200 if is_well else 503)


def _model(service: Service) -> Model:
    if service.loaded is None:
        raise ApiError(503, "unavailable", "The service is loading.", reason="closed", retry_after_s=5)
    return Model(id=service.loaded.offer.model, created=0, object="model", owned_by="psalign")


async def _answered(service: Service, make: Callable[[], Awaitable[Response]]) -> Response:
    """The answer, or the error object of what went wrong."""
    try:
        return await make()
    except Exception as err:
        raise service.error_for(err) from None


async def _generate(service: Service, body: ImageRequest, request: Request, caller: Caller) -> Response:
    seen: asyncio.Queue[np.ndarray] = asyncio.Queue()
    loop = asyncio.get_running_loop()

    def on_partial(picture: np.ndarray) -> None:
        loop.call_soon_threadsafe(seen.put_nowait, picture)

    order = await run_in_threadpool(service.order, body, caller, on_partial)
    if body.stream:
        return StreamingResponse(_events(service, order, seen, request, body), media_type="text/event-stream")
    pictures = await _all_pictures(service, order.rows, request)
    files = await run_in_threadpool(_files, pictures, body)
    data = [{"b64_json": file, "seed": seed} for file, seed in zip(files, order.seeds, strict=True)]
    service.metrics.pictures.inc(len(data))
    return JSONResponse({"created": seconds(), "data": data, **_facts(order, body), **_who(order, body)})


def _facts(order: Order, body: ImageRequest) -> Record:
    """What all pictures of an order have."""
    kind, quality = order.rows[0].kind, body.quality or "auto"
    return {
        "background": "opaque",
        "output_format": body.output_format or "png",
        "quality": {"standard": "medium", "auto": "medium", "hd": "high"}.get(quality, quality),
        "size": f"{kind.width}x{kind.height}",
    }


def _who(order: Order, body: ImageRequest) -> Record:
    return {"safety_identifier": body.identifier, "limits": order.source}


def _files(pictures: Sequence[np.ndarray], body: ImageRequest) -> list[str]:
    return [encoded(picture, body.output_format or "png", body.output_compression) for picture in pictures]


async def _all_pictures(service: Service, rows: Sequence[Row], request: Request) -> list[np.ndarray]:
    """Wait for the rows; where the client leaves or the time is over, nobody wants them any more."""
    with span("psalign.draw", {"psalign.rows": len(rows)}):
        drawn = asyncio.ensure_future(_gathered(rows))
        gone = asyncio.ensure_future(_until_gone(request))
        try:
            waited: set[asyncio.Future[Any]] = {drawn, gone}
            await asyncio.wait(waited, timeout=service.timeout_s, return_when=asyncio.FIRST_COMPLETED)
            return drawn.result() if drawn.done() else _unfinished(gone.done())
        finally:
            _leave(rows, gone, drawn)


async def _gathered(rows: Sequence[Row]) -> list[np.ndarray]:
    return await asyncio.gather(*(asyncio.wrap_future(row.result) for row in rows))


def _unfinished(is_gone: bool) -> list[np.ndarray]:
    """Raises ApiError."""
    if is_gone:
        raise ApiError(NO_STATUS, "cancelled", "The client closed the connection.", reason="cancelled")
    raise ApiError(504, "timeout", "The picture was not finished in time.", reason="timeout", retry_after_s=1)


def _leave(rows: Sequence[Row], *waiting: asyncio.Future[Any]) -> None:
    for one in waiting:
        one.cancel()
    for row in rows:
        row.result.cancel()


async def _until_gone(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


async def _events(
    service: Service,
    order: Order,
    seen: asyncio.Queue[np.ndarray],
    request: Request,
    body: ImageRequest,
) -> AsyncIterator[bytes]:
    """Server-sent events: partial pictures as they come, then each finished picture; or an error."""
    drawn = asyncio.ensure_future(_all_pictures(service, order.rows, request))
    number, facts, who = 0, _facts(order, body), _who(order, body)
    try:
        while not drawn.done() or not seen.empty():
            partial = asyncio.ensure_future(seen.get())
            waited: set[asyncio.Future[Any]] = {drawn, partial}
            await asyncio.wait(waited, return_when=asyncio.FIRST_COMPLETED)
            if not partial.done():
                partial.cancel()
                break
            (file,) = await run_in_threadpool(_files, [partial.result()], body)
            record = {"b64_json": file, "created_at": seconds(), "partial_image_index": number, **facts}
            yield event("image_generation.partial_image", record)
            number += 1
        for file, seed in zip(await run_in_threadpool(_files, await drawn, body), order.seeds, strict=True):
            record = {"b64_json": file, "seed": seed, "created_at": seconds(), **facts, **who}
            yield event("image_generation.completed", record)
            service.metrics.pictures.inc()
    except Exception as err:
        yield event("error", service.error_for(err).body)
    finally:
        _leave(order.rows, drawn)


# --- errors ----------------------------------------------------------------------------------------------------------


async def _api_error(request: Request, err: Exception) -> JSONResponse:
    assert isinstance(err, ApiError)
    return JSONResponse(err.body, err.status, err.headers)


async def _invalid(request: Request, err: Exception) -> JSONResponse:
    """A body that does not fit: the first field that is wrong, without what was in it."""
    assert isinstance(err, RequestValidationError)
    first = err.errors()[0]
    places = [str(place) for place in first["loc"] if place != "body"]
    is_unknown = first["type"] == "extra_forbidden"
    message = "This field is not known." if is_unknown else first["msg"].removeprefix("Value error, ")
    if first["type"] == "json_invalid":
        places, message = [], "The body is not JSON."
    code = "unknown_parameter" if is_unknown else "invalid_value"
    param = places[0][:64].encode("ascii", "replace").decode() if places else None
    _service(request).metrics.refuse("bad_request")
    return JSONResponse(ApiError(400, code, message, param=param).body, 400)


async def _http_error(request: Request, err: Exception) -> JSONResponse:
    assert isinstance(err, HTTPException)
    code = CODES.get(err.status_code, "invalid_request")
    error = ApiError(err.status_code, code, code.replace("_", " ").capitalize() + ".")
    return JSONResponse(error.body, err.status_code, dict(err.headers or {}))
