"""What the service answers: pictures as the OpenAI images API gives them, and its error objects."""

from __future__ import annotations

import io
import json
import math
import time
from base64 import b64encode
from typing import Any

import numpy as np
from PIL import Image

from ..errors import (
    EmbeddingMissing,
    GuardError,
    LimitError,
    OutputError,
    ProfileError,
    PSAlignError,
    UnknownUser,
    is_out_of_memory,
)
from ..files import Record
from .artist import Blocked
from .engine import Busy, Closed
from .sealing import Unreadable

NO_STATUS = 499  # the client left before there was one


class ApiError(Exception):
    """An answer without a picture. reason: a word of metrics.REASONS; param: the field that is wrong."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        param: str | None = None,
        reason: str = "bad_request",
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param, self.reason = status, code, message, param, reason
        self.retry_after_s = retry_after_s

    @property
    def body(self) -> Record:
        return {"error": {"code": self.code, "message": self.message, "param": self.param, "type": self._type}}

    @property
    def headers(self) -> dict[str, str]:
        return {} if self.retry_after_s is None else {"Retry-After": str(max(1, math.ceil(self.retry_after_s)))}

    @property
    def _type(self) -> str:
        if self.code == "moderation_blocked":
            return "image_generation_user_error"
        named = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}
        return named.get(self.status, "server_error" if self.status >= 500 else "invalid_request_error")


def error_of(err: BaseException) -> ApiError:
    """The answer for an error. What a library says stays in the log: it could repeat a prompt."""
    if isinstance(err, ApiError):
        return err
    if isinstance(err, Blocked):
        return ApiError(400, "moderation_blocked", err.args[0], param="prompt", reason="moderation_blocked")
    if isinstance(err, Busy):
        return ApiError(429, "busy", err.args[0], reason="busy", retry_after_s=err.retry_after_s)
    if isinstance(err, Closed):
        return ApiError(503, "unavailable", err.args[0], reason="closed", retry_after_s=5)
    if isinstance(err, UnknownUser | EmbeddingMissing):
        message = "The limits of this person are not known."
        return ApiError(403, "unknown_person", message, param="safety_identifier", reason="unknown_person")
    if isinstance(err, OutputError):
        message = "The service cannot reach its people and keys."
        return ApiError(503, "unavailable", message, reason="database", retry_after_s=5)
    if isinstance(err, LimitError):
        return ApiError(400, "invalid_value", err.args[0], param="limits")
    if isinstance(err, Unreadable):
        return ApiError(500, "server_error", "What is stored of this person cannot be read.", reason="failed")
    if isinstance(err, ProfileError):
        return ApiError(400, "invalid_value", "The profile cannot be read.", param="profile")
    if isinstance(err, GuardError):
        message = "The adapter of this service cannot keep the limits of this request."
        return ApiError(400, "limits_not_kept", message, param="limits")
    if is_out_of_memory(err):
        return ApiError(503, "out_of_memory", "Memory does not suffice for this picture.", reason="out_of_memory")
    message = "The picture could not be drawn." if isinstance(err, PSAlignError) else "The service failed."
    return ApiError(500, "server_error", message, reason="failed")


def encoded(picture: np.ndarray, output_format: str, compression: int | None) -> str:
    """uint8 RGB [H, W, 3] as a file in base64. compression: 0 to 100 (JPEG and WebP: quality)."""
    stream = io.BytesIO()
    options: dict[str, Any] = {} if output_format == "png" else {"quality": 100 if compression is None else compression}
    Image.fromarray(picture).save(stream, format=output_format.upper(), **options)
    return b64encode(stream.getvalue()).decode()


def event(kind: str, record: Record) -> bytes:
    """A server-sent event."""
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **record})}\n\n".encode()


def seconds() -> int:
    """The time of an answer, in seconds since 1970."""
    return int(time.time())
