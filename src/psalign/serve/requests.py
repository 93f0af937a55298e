"""Requests of the OpenAI images API, checked, and the rows that they ask for."""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, field_validator

from ..diffusion.base_models import BaseModel as Base
from ..users.levels import level_profiles
from ..users.profile import UserProfile, read_profile
from .replies import ApiError
from .waiting import Kind

MOST_SEED = 2**63 - 1
MOST_PICTURES = 10
MOST_SCALE = 2.0
MOST_PROMPT = 4000  # characters
ADMIN_FIELDS = ("profile", "level", "scale")
# Steps as a share of the base's own.
QUALITY_STEPS = {"low": 0.5, "medium": 1.0, "high": 1.5, "auto": 1.0, "standard": 1.0, "hd": 1.5}

Words = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class ImageRequest(BaseModel):
    """The body of POST /v1/images/generations; fields that are not here are refused.

    Beyond the OpenAI API: seed, steps and limits (limits in words, which can only tighten); and for keys with the scope
    admin, to preview: profile (columns of a users file), level (0 to 5) and scale (strength of the adapter, 0 to 2).
    """

    model_config = ConfigDict(extra="forbid", strict=True, hide_input_in_errors=True)

    prompt: str = Field(min_length=1, max_length=MOST_PROMPT)
    model: str | None = Field(default=None, max_length=200)
    n: int | None = Field(default=None, ge=1, le=MOST_PICTURES)
    size: str | None = Field(default=None, max_length=20)
    quality: Literal["low", "medium", "high", "auto", "standard", "hd"] | None = None
    output_format: Literal["png", "jpeg", "webp"] | None = None
    output_compression: int | None = Field(default=None, ge=0, le=100)
    response_format: Literal["b64_json"] | None = None
    background: Literal["auto", "opaque"] | None = None
    moderation: Literal["auto", "low"] | None = None
    style: Literal["vivid", "natural"] | None = None
    stream: bool | None = None
    partial_images: int | None = Field(default=None, ge=0, le=3)
    safety_identifier: str | None = Field(default=None, max_length=64)
    user: str | None = Field(default=None, max_length=64)
    seed: int | None = Field(default=None, ge=0, le=MOST_SEED - MOST_PICTURES)
    steps: int | None = Field(default=None, ge=1)
    limits: list[Words] | None = Field(default=None, max_length=32)
    profile: dict[str, Any] | None = None
    level: int | None = Field(default=None, ge=0, le=5)
    scale: float | None = Field(default=None, ge=0, le=MOST_SCALE, allow_inf_nan=False)

    @field_validator("prompt", "model", "size", "safety_identifier", "user", mode="after")
    @classmethod
    def _check_text(cls, value: str | None) -> str | None:
        """A lone half of a surrogate pair is no text, and nobody can write a zero byte."""
        if value is not None and ("\0" in value or value != value.encode("utf-8", "ignore").decode()):
            raise ValueError("expected text that can be written as UTF-8, without zero bytes")
        return value

    @property
    def identifier(self) -> str | None:
        """Who the pictures are for; `user` is the deprecated name of it."""
        return self.safety_identifier or self.user or None

    @property
    def asks_for_preview(self) -> bool:
        return any(getattr(self, field) is not None for field in ADMIN_FIELDS)


@dataclass(frozen=True)
class Offer:
    """What this service draws. guidance: classifier-free scale. multiple: of which sides are, in pixels."""

    model: str
    base: Base
    guidance: float
    steps: int
    max_steps: int
    multiple: int

    def kind_of(self, request: ImageRequest) -> Kind:
        """Size and steps of a request. Raises ApiError."""
        if request.model not in (None, self.model):
            raise ApiError(404, "model_not_found", f"This service has the model '{self.model}' alone.", param="model")
        steps = request.steps or max(1, round(self.steps * QUALITY_STEPS[request.quality or "auto"]))
        if request.steps is None:
            steps = min(steps, self.max_steps)
        if steps > self.max_steps:
            raise ApiError(400, "invalid_value", f"steps must be at most {self.max_steps}.", param="steps")
        width, height = self._size(request.size or "auto")
        return Kind(width, height, steps, self.guidance)

    def _size(self, size: str) -> tuple[int, int]:
        own = self.base.size_px
        if size == "auto":
            return own, own
        width, _, height = size.partition("x")
        sides = [int(side) if side.isascii() and side.isdigit() and len(side) < 6 else 0 for side in (width, height)]
        is_fine = all(own // 2 <= side <= own * 2 and side % self.multiple == 0 for side in sides)
        if not is_fine or sides[0] * sides[1] > own * own:
            raise ApiError(
                400,
                "invalid_value",
                f"size must be auto or WIDTHxHEIGHT: multiples of {self.multiple} from {own // 2} to {own * 2}, at "
                f"most {own * own} pixels in all, as {own}x{own}.",
                param="size",
            )
        return sides[0], sides[1]


def seeds_of(request: ImageRequest) -> list[int]:
    """A seed for each picture: seed, seed + 1, ...; random ones where the request has none."""
    count = request.n or 1
    first = secrets.randbelow(2**32) if request.seed is None else request.seed
    return [first + number for number in range(count)]


def partial_steps(request: ImageRequest, steps: int) -> frozenset[int]:
    """After which steps, from 0, a picture is shown: evenly spread, the last one never."""
    count = (request.partial_images or 0) if request.stream else 0
    places = {round(steps * (number + 1) / (count + 1)) - 1 for number in range(count)}
    return frozenset(place for place in places if 0 <= place < steps - 1)


def preview_profile(request: ImageRequest) -> UserProfile | None:
    """The profile that an administrator asks for; None where only the scale is asked for. Raises ProfileError."""
    if request.profile is not None:
        return read_profile({"User_ID": "preview", **request.profile})
    return None if request.level is None else level_profiles()[request.level]
