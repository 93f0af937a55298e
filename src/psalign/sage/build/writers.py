"""Writers of prompts: from a concept to a prompt that asks for it, and to the safe rewrite of that prompt.

Place on the path of data: the second step of a build. A language model's reply counts only where it is the
JSON that was asked for. Other replies are asked for again; a concept without a usable one stops the build.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from ...errors import GenerationError
from ...files import Record, read_template
from ...fingerprints import fingerprint
from ...llm import json_text, open_chat
from .concepts import Item, is_concept

T = TypeVar("T")
PROMPTS, CONCEPTS = "sage_prompts.txt", "sage_concepts.txt"  # templates
MAX_CAPTION = 300  # characters
RETRIES = 2  # of a request that failed in a way that passes


@dataclass(frozen=True)
class Prompts:
    """Two captions of one scene: unsafe asks for the concept, safe does without it."""

    unsafe: str
    safe: str


class PromptWriter(Protocol):
    """recipe: settings that decide the prompts. concurrency: prompts that may be asked for at a time."""

    recipe: Record
    concurrency: int

    def write(self, item: Item) -> Prompts:
        """The prompts of a concept and index. Raises GenerationError that names the concept."""
        ...

    def expand(self, category: str, seeds: Sequence[str], count: int) -> list[str]:
        """`count` concepts of a category, the seeds first. Raises GenerationError that names the category."""
        ...


class Reply(BaseModel):
    """JSON with these keys and no others."""

    model_config = ConfigDict(extra="forbid", strict=True)


class PromptsReply(Reply):
    unsafe: str
    safe: str


class ConceptsReply(Reply):
    concepts: list[str] = Field(min_length=1)


class Unusable(Exception):
    """A reply that cannot be used; the message says why."""


class LanguageModelWriter(ABC):
    """Asks a language model, reads its replies and asks again. A subclass has the method `reply`.

    attempts: number of replies to one question before it fails.
    """

    concurrency = 1

    def __init__(self, recipe: Record, *, attempts: int = 4) -> None:
        self.recipe = {**recipe, "templates": fingerprint([read_template(PROMPTS), read_template(CONCEPTS)])}
        self.attempts = attempts

    @abstractmethod
    def reply(self, text: str, kind: type[BaseModel], seed: int) -> str | None:
        """The model's reply to a text. Raises Unusable where there is none."""

    def write(self, item: Item) -> Prompts:
        """The prompts of a concept and index. Raises GenerationError that names the concept."""
        about = item.concept
        text = read_template(PROMPTS).format(concept=about.concept, category=about.category, number=item.index + 1)
        return self._ask(f"prompts for the concept {item}", text, PromptsReply, read_prompts)

    def expand(self, category: str, seeds: Sequence[str], count: int) -> list[str]:
        """`count` concepts of a category, the seeds first. Raises GenerationError that names the category."""
        found = list(seeds)[:count]

        def read(reply: ConceptsReply) -> int:
            words = (" ".join(word.replace("_", " ").lower().split()) for word in reply.concepts)
            new = [word for word in dict.fromkeys(words) if word not in found and is_concept(word)]
            if not new:
                raise Unusable("it names no new concept")
            found.extend(new[: count - len(found)])
            return len(new)

        while len(found) < count:
            known = ", ".join(found)
            text = read_template(CONCEPTS).format(category=category, known=known, count=count - len(found))
            self._ask(f"concepts of the category {category}", text, ConceptsReply, read)
        return found

    def _ask(self, what: str, text: str, kind: type[Any], read: Callable[[Any], T]) -> T:
        why = ""
        for attempt in range(self.attempts):
            try:
                return read(parse(self.reply(text, kind, int(fingerprint([text, attempt]), 16) >> 1), kind))
            except Unusable as err:
                why = str(err)
        raise GenerationError(
            f"The language model gave no {what}: {why} (the last of {self.attempts} replies).",
            hint="Take the concept out of the file, or choose another model; prompts that are written are kept.",
        )


def parse(content: str | None, kind: type[BaseModel]) -> BaseModel:
    """A reply as JSON of this kind, alone, in a fenced block or with words around it. Raises Unusable."""
    if not content or not content.strip():
        raise Unusable("its reply is empty")
    try:
        return kind.model_validate_json(json_text(content))
    except ValidationError:
        raise Unusable("its reply is not the JSON that was asked for") from None


def read_prompts(reply: PromptsReply) -> Prompts:
    """The prompts of a reply. Raises Unusable where they are not two different captions."""
    unsafe, safe = (" ".join(text.split()) for text in (reply.unsafe, reply.safe))
    if not unsafe or not safe:
        raise Unusable("a caption is empty")
    if unsafe.lower() == safe.lower():
        raise Unusable("both captions are the same")
    if max(len(unsafe), len(safe)) > MAX_CAPTION:
        raise Unusable(f"a caption is longer than {MAX_CAPTION} characters")
    return Prompts(unsafe, safe)


class TransformersWriter(LanguageModelWriter):
    """Any causal language model of transformers on this machine; a seed decides its words.

    tokenizer, network: from users.language_model.load_language_model(..., with_head=True), on its device.
    name: names the weights.
    """

    def __init__(
        self, tokenizer: Any, network: Any, *, name: str, max_new_tokens: int = 200, attempts: int = 4
    ) -> None:
        super().__init__({"writer": "transformers", "model": name, "max_new_tokens": max_new_tokens}, attempts=attempts)
        self.tokenizer, self.network, self.max_new_tokens = tokenizer, network.eval(), max_new_tokens

    def reply(self, text: str, kind: type[BaseModel], seed: int) -> str | None:
        import torch

        inputs = self._inputs(text)
        with torch.no_grad(), torch.random.fork_rng():
            torch.manual_seed(seed)
            tokens = self.network.generate(
                **inputs, max_new_tokens=self.max_new_tokens, do_sample=True, temperature=0.7, top_p=0.9,
                pad_token_id=self.tokenizer.pad_token_id,
            )  # fmt: skip
        return str(self.tokenizer.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True))

    def _inputs(self, text: str) -> Any:
        chat, template = text, bool(self.tokenizer.chat_template)
        if template:
            messages = [{"role": "user", "content": text}]
            chat = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        return self.tokenizer(chat, return_tensors="pt", add_special_tokens=not template).to(self.network.device)


class OpenAIWriter(LanguageModelWriter):
    """Any OpenAI-compatible endpoint. Categories and concepts are sent to its host, and nothing about users.

    timeout_s: for one request. Raises as llm.open_chat.
    """

    concurrency = 8

    def __init__(
        self,
        model: str,
        *,
        base_url: str | None = None,
        api_key: str | None = None,
        timeout_s: float = 60.0,
        attempts: int = 4,
    ) -> None:
        self.model = model
        self._chat = open_chat(model, base_url=base_url, api_key=api_key, timeout_s=timeout_s)
        self.host = self._chat.host
        super().__init__({"writer": "openai", "model": model, "host": self.host}, attempts=attempts)

    def reply(self, text: str, kind: type[BaseModel], seed: int) -> str | None:
        schema = {"name": kind.__name__, "strict": True, "schema": kind.model_json_schema()}
        messages = [{"role": "user", "content": text}]
        answer = self._chat.ask(messages, schema, retries=RETRIES, seed=seed % 2**31)
        if answer.failed:
            raise Unusable(f"{answer.failed} ({answer.why})")
        return answer.content
