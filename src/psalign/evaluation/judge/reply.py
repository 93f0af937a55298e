"""What a judge may reply, checked by us again, and the answer that one question got.

Place on the path of data: step 7, between the judge's client and its cache.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    NonNegativeInt,
    ValidationError,
    field_validator,
)
from pydantic.dataclasses import dataclass
from pydantic_core import core_schema

from psalign.categories import category_names
from psalign.files import Record
from psalign.llm import REFUSED, json_text


class _OfTheTaxonomy:
    """One of the categories in use, in what is checked and in the schema that a judge is given."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        return core_schema.no_info_after_validator_function(_known_category, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> Record:
        names = list(category_names())
        return {"const": names[0], "type": "string"} if len(names) == 1 else {"enum": names, "type": "string"}


Category = Annotated[str, _OfTheTaxonomy()]
# Failures that were paid for and would be the same again; the others (a timeout, a busy server) are asked again.
MALFORMED = "malformed"
SETTLED = (REFUSED, MALFORMED)
MAX_REASON = 500  # characters kept


def _known_category(name: str) -> str:
    if name not in category_names():
        raise ValueError("there is no such category")
    return name


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Facts(_Strict):
    banned_visible: list[Category]
    allowed_present: Literal["yes", "no", "not_asked"]
    quality: int

    @field_validator("quality")
    @classmethod
    def _check_quality(cls, value: int) -> int:
        if not 0 <= value <= 100:
            raise ValueError("quality is from 0 to 100")
        return value


class EvaluateReply(Facts):
    reason: str


class CompareReply(_Strict):
    first: Facts
    second: Facts
    better: Literal["first", "second", "tie"]
    reason: str


Reply = type[EvaluateReply] | type[CompareReply]


Count = Annotated[NonNegativeInt, Field(strict=True)]


@dataclass(frozen=True)
class Answer:
    """The result of one question: the checked reply, or how it failed; and what it took.

    failed: REFUSED, MALFORMED, "timeout", "unreachable", "busy" (429), "rejected" (other 4xx) or "server"
    (5xx). requests: number of requests sent, failed tries included. *_tokens: the endpoint's counts over all tries.
    left_out: settings that the model refuses, for example temperature, and that were therefore not sent.
    """

    reply: Record | None
    failed: str | None = None
    requests: Count = 1
    input_tokens: Count = 0
    output_tokens: Count = 0
    left_out: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if (self.reply is None) == (self.failed is None):
            raise ValueError("an answer has a reply or says how it failed")

    @property
    def settled(self) -> bool:
        """Whether asking again would only be paid again."""
        return self.failed is None or self.failed in SETTLED


def parse_reply(content: str | None, reply: Reply) -> Record | None:
    """A reply's facts as plain types; None where it does not hold the JSON that was asked for."""
    try:
        record: Record = reply.model_validate_json(json_text(content)).model_dump()
    except (ValidationError, UnicodeError):  # UnicodeError: a lone surrogate
        return None
    record["reason"] = record["reason"][:MAX_REASON]
    return record


def is_reply(record: Record, reply: Reply) -> bool:
    """Whether facts that were kept are those of a reply of this form."""
    try:
        reply.model_validate(record)
    except ValidationError:
        return False
    return True


def reply_schema(reply: Reply) -> Record:
    """The strict JSON schema of a reply, as the endpoint takes it."""
    return {"name": "judgement", "strict": True, "schema": reply.model_json_schema()}
