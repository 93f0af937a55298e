"""What leaves this machine for one judgement: a template's words, the row as JSON, and its pictures.

Place on the path of data: step 7, from a case to the messages of one request.

Blind templates never name a method, a file or a user. Prompts are data: they are JSON inside the message,
on one line, so nothing that is written in them can stand outside their quotes.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from psalign.categories import current
from psalign.decoding import decode, encode
from psalign.errors import EvaluationError
from psalign.files import Record, read_template
from psalign.fingerprints import fingerprint

from ..catalog import METHODS
from ..cells import split_model
from .cases import Case, PictureFile
from .reply import CompareReply, EvaluateReply, Reply, reply_schema

BLIND, PUBLISHED_STYLE = "blind", "published-style"
TEMPLATES = (BLIND, PUBLISHED_STYLE)
BIAS = "The judge read the methods' names and which is personalised, and saw one order only: biased."
PLACES = ("First picture:", "Second picture:")
_LINE_ENDS = {ord(mark): f"\\u{ord(mark):04x}" for mark in "\x7f\x85\u2028\u2029"}  # which JSON leaves as they are


@dataclass(frozen=True)
class Template:
    """Words and reply of one kind of question. mode: "evaluate" or "compare". style: one of TEMPLATES."""

    mode: str
    style: str = BLIND

    @property
    def reply(self) -> Reply:
        return CompareReply if self.mode == "compare" else EvaluateReply

    @property
    def is_blind(self) -> bool:
        return self.style == BLIND

    @cached_property
    def text(self) -> str:
        name = f"judge_{self.mode}.txt" if self.is_blind else f"judge_{self.mode}_published.txt"
        kinds = "".join(f"- {category.name}: {category.meaning}\n" for category in current().categories)
        return read_template(name).format(categories=kinds)

    @cached_property
    def fingerprint(self) -> str:
        """Names the words, the layout of the message and the form of the reply."""
        return fingerprint([self.text, PLACES, {"type": "json_schema", "json_schema": reply_schema(self.reply)}])


@dataclass(frozen=True)
class Judge:
    """Who is asked: a model of an endpoint's host."""

    model: str
    host: str


@dataclass(frozen=True)
class Question:
    """One request: a case, and its pictures in the order in which they are shown.

    models: names of the methods of the case's pictures; only a template that is not blind sends them.
    repeat: asked a second time, past the cache, to see whether the judge agrees with itself.
    """

    case: Case
    template: Template
    judge: Judge
    order: tuple[int, ...] = (0,)
    models: tuple[str, ...] = ()
    repeat: bool = False

    @cached_property
    def data(self) -> Record:
        """What is sent in words."""
        case = self.case
        data: Record = {"prompt": case.prompt, "banned": list(case.banned), "allowed": list(case.allowed)}
        if case.person:
            data["person"] = case.person
        if not self.template.is_blind:
            data["methods"] = [_describe(self.models[place]) for place in self.order]
        return data

    @cached_property
    def key(self) -> str:
        """Names everything that the answer depends on."""
        pictures = [self.case.pictures[place].digest for place in self.order]
        judge = [self.judge.model, self.judge.host]
        return fingerprint([pictures, self.data, self.template.fingerprint, judge, self.repeat])

    def messages(self) -> list[Record]:
        """Messages of the request. Raises EvaluationError where a picture is no longer the one that was read."""
        parts: list[Record] = [{"type": "text", "text": quote(self.data)}]
        for name, place in zip(PLACES, self.order, strict=False):
            if len(self.order) > 1:
                parts.append({"type": "text", "text": name})
            parts.append({"type": "image_url", "image_url": {"url": _data_url(self.case.pictures[place])}})
        return [{"role": "system", "content": self.template.text}, {"role": "user", "content": parts}]


def quote(data: Any) -> str:
    """JSON on one line, whatever its texts hold; half a character (a lone surrogate) becomes "?"."""
    text = json.dumps(data, ensure_ascii=False).encode("utf-8", "replace").decode("utf-8")
    return text.translate(_LINE_ENDS)


def orders(template: Template) -> Sequence[tuple[int, ...]]:
    """Orders in which a case's pictures are shown: both, for two pictures and a blind judge."""
    if template.mode == "evaluate":
        return ((0,),)
    return ((0, 1), (1, 0)) if template.is_blind else ((0, 1),)


def _describe(model: str) -> str:
    personal = METHODS[split_model(model)[0]].personal if split_model(model)[0] in METHODS else False
    return f"{model} ({'personalised' if personal else 'not personalised: treats everybody alike'})"


def _data_url(picture: PictureFile) -> str:
    content = picture.path.read_bytes()
    if hashlib.sha256(content).hexdigest() != picture.digest:
        raise EvaluationError(
            f"{picture.path} was changed while it was being judged.",
            hint="Run the same command again: judgements of pictures that did not change are kept.",
        )
    # The pixels alone, without the metadata of the file: the generator, the prompt, where a camera was.
    return f"data:image/png;base64,{base64.b64encode(encode(np.asarray(decode(content)))).decode()}"
