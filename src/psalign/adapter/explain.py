"""Says which words of a prompt an adapter softens, and for which limit.

Place on the path of data: beside step 5, for people who want to know what an adapter did to a prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

import torch

from ..categories import category_names
from .prompt import PromptAdapter
from .second_look import Look
from .text import encode_texts, require_fit, tokens_of
from .users import CheckedUsers, Phrases, RowUsers

VECTOR = "the user's vector"  # a source of matches that has no words
SHOWN = 60  # letters of what was not read


@dataclass(frozen=True)
class Softened:
    """A word of a prompt that falls under a limit.

    word: the word as the text encoder reads it. place: the number of its token. cause: the category, the phrase of the
    limit, or VECTOR. match: how surely the word falls under the cause, 0 to 1. change: the distance by which the
    adapter moves the token's state, as a share of the length of that state.
    """

    word: str
    place: int
    cause: str
    match: float
    change: float

    @property
    def line(self) -> str:
        return f"softened: '{self.word}' for '{self.cause}'"


@dataclass(frozen=True)
class Missing:
    """A word that was left out of a prompt. cause, match: see Softened; match is of the word by itself."""

    word: str
    cause: str
    match: float

    @property
    def line(self) -> str:
        return f"left out: '{self.word}' for '{self.cause}'"


@dataclass(frozen=True)
class Explanation:
    """What an adapter does to one prompt.

    prompt: the prompt that was given. softened: the first word of each cause, in the order of the prompt; empty where
    no text state changes. changes: [T], the distance by which each token's state moves, as a share of its length.
    read: words in look-alike letters, and limited words that are misspelt or split, each as it was typed and as it was
    read. left_out: words that the second look (second_look.py) took out of the prompt: `words` and the rest are of
    what was left. cut: the end of a prompt of too many words, which is not read.
    """

    prompt: str
    softened: tuple[Softened, ...]
    changes: tuple[float, ...]
    words: tuple[str, ...] = ()
    matches: tuple[float, ...] = ()
    read: tuple[tuple[str, str], ...] = ()
    left_out: tuple[Missing, ...] = ()
    cut: str = ""

    @property
    def lines(self) -> tuple[str, ...]:
        """Sentences for people."""
        read = (f"read: '{typed}' as '{seen}'" for typed, seen in self.read)
        cut = [f"not read: '{shorten(self.cut, SHOWN)}'"] if self.cut else []
        return (*read, *cut, *(one.line for one in self.left_out), *(one.line for one in self.softened))


@torch.no_grad()
def explain_texts(
    adapter: PromptAdapter,
    pipe: Any,
    prompts: str | Sequence[str],
    users: RowUsers,
    checked: CheckedUsers,
    *,
    looks: Sequence[Look],
    **options: Any,
) -> list[Explanation]:
    """An explanation for each prompt. users: one per prompt, with the states of their limits; checked: the same users
    as they were given. looks: what the text encoders read of each prompt, and what of it is missing.
    options: more parameters of the pipeline's encode_prompt."""
    prompts = [prompts] if isinstance(prompts, str) else list(prompts)
    texts = encode_texts(pipe, [look.text for look in looks], **options)
    require_fit(adapter, texts, users)
    found = []
    for row, (prompt, look) in enumerate(zip(prompts, looks, strict=True)):
        states, one = texts.prompt_embeds[row : row + 1], users[row : row + 1]
        pooled = None if texts.pooled_prompt_embeds is None else texts.pooled_prompt_embeds[row : row + 1]
        logits = adapter.match(states, one)
        changed, _ = adapter.rewritten(states, pooled, one, logits)
        within, own = (adapter.matcher.matches(x, one.to(adapter), sharp=True)[0] for x in logits)  # [T, S]
        matches = torch.where((own > 0).any(0), own, within)
        moved = ((changed - states).float().norm(dim=-1) / states.float().norm(dim=-1).clamp(min=1e-6))[0].tolist()
        causes = _causes(adapter, logits[0].shape[-1], checked.phrases[row])
        words = _words(pipe, look.text, len(moved))
        softened, largest = _softened(matches, causes, words, moved), tuple(matches.amax(-1).tolist())
        read = (*(() if look.text == prompt else checked.reading(row, prompt).words), *look.read)
        missing = tuple(Missing(one.word, causes[one.token], one.match) for one in look.left_out)
        found.append(Explanation(prompt, softened, tuple(moved), tuple(words), largest, read, missing, look.cut))
    return found


def _softened(
    matches: torch.Tensor, causes: Sequence[str], words: Sequence[str], moved: Sequence[float]
) -> tuple[Softened, ...]:
    """The first token of each cause. matches: [T, S], by what tokens themselves add where any is matched so; otherwise
    within their prompt, as in a description. A text encoder that reads from left to right knows nothing of a word
    before it comes, and every token behind it still remembers it."""
    first: dict[str, Softened] = {}
    for place, token in enumerate(matches.tolist()):
        for cause, match in zip(causes, token, strict=True):
            if match > 0 and cause not in first:
                first[cause] = Softened(words[place], place, cause, match, moved[place])
    return tuple(sorted(first.values(), key=lambda one: (one.place, -one.match)))


def _causes(adapter: PromptAdapter, count: int, phrases: Phrases) -> list[str]:
    """What each user token stands for."""
    names = category_names()
    categories = list(names) if len(names) == adapter.config.categories else ["a category"] * adapter.config.categories
    named = [VECTOR] * adapter.config.n_tokens + categories + [phrase for phrase, _ in phrases]
    return named + [""] * (count - len(named))


def _words(pipe: Any, prompt: str, length: int) -> list[str]:
    """The word that each token belongs to; "" behind the end of the prompt."""
    tokenizer = pipe.tokenizer
    ids = tokens_of(pipe, prompt, truncation=True, max_length=length)
    pieces = tokenizer.convert_ids_to_tokens(ids[1:-1])
    words, begun, added = [], [], tokenizer.get_added_vocab()
    for piece in pieces:  # a CLIP word ends in </w>, and a textual inversion is a word of its own
        begun.append(piece)
        if piece.endswith("</w>") or piece in added:
            words += ["".join(begun).removesuffix("</w>")] * len(begun)
            begun = []
    words += ["".join(begun)] * len(begun)
    return ["", *words, *[""] * (length - 1 - len(words))]
