"""Banned categories of users: the rules are the floor, a language model may add to them and never remove.

Place on the path of data: step 2. A language model that fails (a reply that does not parse, a timeout, scores
that are not finite) bans everything for that user, counted and reported: a picture too few does less harm
than one too many.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from ..categories import category_names
from ..files import Record, read_template
from ..llm import json_text, open_chat
from .language_model import DEFAULT_MODEL, load_language_model
from .policy import explain
from .profile import VOCABULARY, UserProfile

BY_MODEL, BY_FAILURE = "language model", "language model failed"
FIELDS = ("age", *VOCABULARY)  # what a language model reads about a person; never the user id
_FORM = 'Reply with JSON alone, in this form: {"banned": ["<category>", ...]}'
_QUESTION = "\nShould pictures of the category '{category}' be kept from this person? Answer with yes or no.\nAnswer:"


class ModelFailure(Exception):
    """A language model gave nothing usable for one user; the message says why, without what it said."""


@dataclass(frozen=True)
class Decision:
    """What a user bans.

    why: banned category -> rules, own ban list or language model. failed: why the model failed.
    """

    user_id: str
    banned: tuple[str, ...]
    why: dict[str, list[str]] = field(default_factory=dict)
    failed: str | None = None

    def to_record(self) -> Record:
        allowed = [category for category in category_names() if category not in self.banned]
        record = {"user_id": self.user_id, "banned": list(self.banned), "allowed": allowed, "why": self.why}
        return {**record, "failed": self.failed} if self.failed else record


class Backend(Protocol):
    """A language model that says what it would ban."""

    def categories(self, profiles: Sequence[UserProfile]) -> list[set[str] | ModelFailure]:
        """For each profile the categories it would ban, or why there is no answer."""
        ...


def decide(profiles: Sequence[UserProfile], backend: Backend | None = None) -> list[Decision]:
    """Decide what each user bans. backend: None is rules and own ban lists alone."""
    if backend is None:
        return [_decision(profile, set()) for profile in profiles]
    answers = backend.categories(profiles)
    return [_decision(profile, answer) for profile, answer in zip(profiles, answers, strict=True)]


def _decision(profile: UserProfile, added: set[str] | ModelFailure) -> Decision:
    why = explain(profile)
    failed = str(added) if isinstance(added, ModelFailure) else None
    for category in category_names() if isinstance(added, ModelFailure) else sorted(added):
        why.setdefault(category, []).append(BY_FAILURE if failed else BY_MODEL)
    banned = tuple(category for category in category_names() if category in why)
    return Decision(profile.user_id, banned, {category: why[category] for category in banned}, failed)


def facts(profile: UserProfile) -> str:
    """What a language model reads about a person: words of closed vocabularies and an age."""
    known = {name: getattr(profile, name) for name in FIELDS}
    shown = {name: "not known" if value is None else value for name, value in known.items()}
    return read_template("categories.txt").format(**shown)


# --- a model on this machine ---------------------------------------------------------------------------------------


class TransformersBackend:
    """Scores yes against no for each category with any causal language model of transformers.

    One person's facts are read once; the questions then run as one batch over the shared prefix. Nothing is
    generated, so there is no reply to parse, and no reply can be anything but yes or no.
    Raises CheckpointError where the model cannot be loaded.
    """

    def __init__(
        self, model: str = DEFAULT_MODEL, *, revision: str | None = None, dtype: str = "fp32", device: str = "cpu"
    ) -> None:
        self.tokenizer, self.model = load_language_model(model, revision, dtype, with_head=True)
        self.model.to(device).eval()
        self.device = device
        self._yes, self._no = (self._first_tokens(word) for word in ("yes", "no"))

    def categories(self, profiles: Sequence[UserProfile]) -> list[set[str] | ModelFailure]:
        return [self._answer(profile) for profile in profiles]

    def _answer(self, profile: UserProfile) -> set[str] | ModelFailure:
        scores = self.scores(profile)
        if not np.isfinite(scores).all():
            return ModelFailure("its scores are not finite")
        return {category for category, score in zip(category_names(), scores, strict=True) if score > 0}

    def scores(self, profile: UserProfile) -> np.ndarray:
        """Log odds of yes over no for each category, [categories]."""
        import torch

        prefix = self.tokenizer(facts(profile), return_tensors="pt").input_ids.to(self.device)  # [1, T]
        questions = [_QUESTION.format(category=category) for category in category_names()]
        batch = self.tokenizer(questions, return_tensors="pt", padding=True, add_special_tokens=False).to(self.device)
        with torch.no_grad():
            known = self.model(prefix, use_cache=True).past_key_values
            known.batch_repeat_interleave(len(questions))
            before = prefix.new_ones((len(questions), prefix.shape[1]))
            mask = torch.cat([before, batch["attention_mask"]], dim=1)
            logits = self.model(batch["input_ids"], attention_mask=mask, past_key_values=known).logits
        last = batch["attention_mask"].sum(1) - 1
        final = logits[torch.arange(len(questions)), last].float().log_softmax(-1)  # [categories, words]
        odds: np.ndarray = (final[:, self._yes].logsumexp(1) - final[:, self._no].logsumexp(1)).cpu().numpy()
        return odds

    def _first_tokens(self, word: str) -> list[int]:
        spelt = {form for base in (word, word.capitalize()) for form in (base, f" {base}")}
        encoded = (self.tokenizer(form, add_special_tokens=False).input_ids for form in spelt)
        blank = self.tokenizer(" ", add_special_tokens=False).input_ids
        return sorted({tokens[0] for tokens in encoded if tokens} - set(blank))


# --- a model behind an OpenAI-compatible endpoint ------------------------------------------------------------------


class Reply(BaseModel):
    """The only reply that counts."""

    model_config = ConfigDict(extra="forbid", strict=True)

    banned: list[str]


class OpenAIBackend:
    """Asks any OpenAI-compatible endpoint for a JSON list of categories; the profile goes to its host.

    timeout_s: seconds that one request may take.
    retries: how often a request is repeated after rate limits, server errors (also inside HTTP 200) and timeouts.
    A redirection is a failure. Raises as llm.open_chat.
    """

    concurrency = 8  # requests at a time

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        retries: int = 2,
    ) -> None:
        self.model, self.retries = model, retries
        self._chat = open_chat(model, base_url=base_url, api_key=api_key, timeout_s=timeout_s, temperature=0)
        self.host = self._chat.host

    def categories(self, profiles: Sequence[UserProfile]) -> list[set[str] | ModelFailure]:
        with ThreadPoolExecutor(max_workers=self.concurrency) as pool:
            return list(pool.map(self._ask, profiles))

    def _ask(self, profile: UserProfile) -> set[str] | ModelFailure:
        said = self._chat.ask(_messages(profile), _schema(), retries=self.retries)
        if said.failed:  # no more of its words: they may hold facts
            return ModelFailure(f"{said.failed} ({said.why.split(':')[0]})")
        return _parse(said.content)


def _messages(profile: UserProfile) -> Any:
    asked = f"Name the categories to keep from this person, out of: {', '.join(category_names())}. {_FORM}"
    return [{"role": "system", "content": asked}, {"role": "user", "content": facts(profile)}]


def _schema() -> Any:
    banned = {"type": "array", "items": {"type": "string", "enum": list(category_names())}}
    schema = {"type": "object", "properties": {"banned": banned}, "required": ["banned"], "additionalProperties": False}
    return {"name": "banned_categories", "strict": True, "schema": schema}


def _parse(content: str | None) -> set[str] | ModelFailure:
    """Categories of a reply. What it said is not repeated: it may hold a person's facts."""
    if not content:
        return ModelFailure("its reply is empty")
    try:
        reply = Reply.model_validate_json(json_text(content))
    except ValidationError:
        return ModelFailure("its reply is not the JSON that was asked for")
    if not set(reply.banned) <= set(category_names()):
        return ModelFailure("its reply names categories that there are not")
    return set(reply.banned)
