"""A second look at a prompt, word by word: spells limited words rightly, and leaves out what the adapter does not find.

Place on the path of data: before step 5, behind reading.py. The adapter finds words within their prompt, where it is at
home with prompts like its training's. Behind enough other phrases, misspelt or split, a word is not found and still
drawn. By itself it is found.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from .matching import LEAST_OF_WORDS
from .prompt import PromptAdapter
from .spelling import Pieces, SeenWord, seen_words, vocabulary_of
from .text import encode_texts, tokens_of
from .users import RowUsers
from .words import KeptStates

SURE = 0.7  # match of a word by itself
FOUND = LEAST_OF_WORDS  # match of a word within its prompt: the adapter rewrites it, and it stays
CAUTION = 3.0  # logits, where an adapter is not at home with a prompt
ARTICLE = "a"  # what a word by itself is read behind, as in captions
MOST_WORDS = 256  # of a prompt that are looked at, with all that they may be meant to be

MOST_LOOKS = 8  # at a prompt

# Finds for each word, behind the words before it, the user token that it falls under, and how surely. None where the
# words before it are so long that the text encoder does not come to it.
Matches = dict[tuple[str, str], tuple[int, float] | None]
Match = Callable[[Sequence[tuple[str, str]]], Matches]


@dataclass(frozen=True)
class LeftOut:
    """A word that was left out of a prompt.

    word: the word that was read, spelled rightly. token: number of the user token whose limit it falls under. match:
    how well it matches that limit when it is read by itself, 0 to 1.
    """

    word: str
    token: int
    match: float


@dataclass(frozen=True)
class Look:
    """What came of a second look at a prompt.

    text: the prompt as it is to be encoded, up to where it was looked at (MOST_WORDS). read: limited words that were
    typed otherwise, each as it was typed and as it is spelled. left_out: what is missing in the text. cut: what of the
    prompt was not looked at, and is not encoded. is_careful: whether smaller matches of what is left count too
    (CAUTION): something was left out, or a limited word is both denied and asked for. The adapter is not at home with
    such prompts.
    """

    text: str
    read: tuple[tuple[str, str], ...] = ()
    left_out: tuple[LeftOut, ...] = ()
    cut: str = ""
    is_careful: bool = False

    def then(self, later: Look) -> Look:
        """This look and one at its text, as one."""
        read, left_out = (*self.read, *later.read), (*self.left_out, *later.left_out)
        cut = f"{later.cut} {self.cut}".strip()
        return Look(later.text, read, left_out, cut, self.is_careful or later.is_careful)


@dataclass(frozen=True)
class Limited:
    """The words of a prompt that fall under a limit by themselves (SURE).

    asked: those that nothing denies, and that still fall under it behind the words just before them, which may give
    them another meaning. denied: names of those that are denied. sure: the user token and the match of each word by
    itself.
    """

    pieces: Pieces
    asked: tuple[SeenWord, ...]
    denied: frozenset[str]
    sure: dict[str, tuple[int, float]]

    def surest(self, words: Sequence[SeenWord]) -> list[SeenWord]:
        """One word for each place: the longest, and of those the one that matches best."""
        kept: list[SeenWord] = []
        for one in sorted(words, key=lambda one: (one.first, -one.last, -self.sure[one.word][1])):
            if not kept or one.first > kept[-1].last:
                kept.append(one)
        return kept


class SecondLook:
    """Looks at each word of a prompt by itself.

    A limited word that is misspelt, split or masked (spelling.py) is spelled rightly, as the adapter knows it. One that
    the adapter then does not find within the whole prompt (FOUND) is left out. Both happen only to a word that surely
    falls under what its user does not want to see (SURE), still does so behind the words just before it, and is not
    denied. A limit counts by its strength, and a user by theirs. States of words are kept, as those of limits.
    """

    def __init__(self) -> None:
        self._states = KeptStates(text_states)
        self._vocabulary: tuple[Any, int, frozenset[str]] | None = None

    @torch.no_grad()
    def __call__(self, adapter: PromptAdapter, pipe: Any, prompt: str, user: RowUsers, options: dict[str, Any]) -> Look:
        """user: one row. options: of encode_prompt. What is left of a prompt is looked at again, because its words have
        others beside them then, and parts of a word may have met. Nothing is left where that does not end."""
        whole = look = self._once(adapter, pipe, prompt, user, options)
        for _ in range(MOST_LOOKS - 1):
            if not look.left_out:
                return whole
            look = self._once(adapter, pipe, whole.text, user, options)
            whole = whole.then(look)
        return whole.then(Look("", cut=whole.text)) if look.left_out else whole

    def _once(self, adapter: PromptAdapter, pipe: Any, prompt: str, user: RowUsers, options: dict[str, Any]) -> Look:
        def match(texts: Sequence[tuple[str, str]]) -> Matches:
            return self._matches(adapter, pipe, sorted(set(texts)), user, options)

        vocabulary = self._words_of(pipe.tokenizer)
        limited = _limited(prompt, vocabulary, match)
        pieces = limited.pieces
        misspelt = limited.surest([one for one in limited.asked if pieces.is_other(one)])
        read = tuple((pieces.typed(one.first, one.last), one.word) for one in misspelt)
        text, rest = pieces.spelled(misspelt), prompt[len(pieces.prompt) :]
        if misspelt:
            limited = _limited(text, vocabulary, match)
        cut = (text + rest)[len(limited.pieces.prompt) :].strip()
        if not limited.asked:
            return Look(limited.pieces.prompt, read, cut=cut)
        hidden = self._hidden(adapter, pipe, limited, user, options)
        left_out = tuple(LeftOut(one.word, *limited.sure[one.word]) for one in limited.surest(hidden))
        is_careful = bool(hidden) or any(one.word in limited.denied for one in limited.asked)
        return Look(limited.pieces.without(hidden), read, left_out, cut, is_careful)

    def _hidden(
        self, adapter: PromptAdapter, pipe: Any, limited: Limited, user: RowUsers, options: dict[str, Any]
    ) -> list[SeenWord]:
        """The words that the adapter does not find within the whole prompt."""
        states = encode_texts(pipe, limited.pieces.prompt, has_negative=False, **options).prompt_embeds
        found = _of_text(adapter, states, user).amax(-1)[0].tolist()  # [T]
        within = _within(pipe, limited.pieces, limited.asked, found)
        return [one for one, match in zip(limited.asked, within, strict=True) if match < FOUND]

    def _words_of(self, tokenizer: Any) -> frozenset[str]:
        known = self._vocabulary  # another thread may exchange it meanwhile
        if known is None or known[:2] != (tokenizer, len(tokenizer)):
            known = self._vocabulary = (tokenizer, len(tokenizer), vocabulary_of(tokenizer))
        return known[2]

    def _matches(
        self,
        adapter: PromptAdapter,
        pipe: Any,
        texts: Sequence[tuple[str, str]],
        user: RowUsers,
        options: dict[str, Any],
    ) -> Matches:
        if not texts:
            return {}
        whole = [f"{before} {word}".strip() for before, word in texts]
        states = self._states.states(pipe, whole, options)
        rows = [states[text] for text in whole]
        matches = _of_text(adapter, pad_sequence(rows, batch_first=True), user)  # [W, T, S]
        begins = [len(tokens_of(pipe, before)) - 1 for before, _ in texts]  # with the start of text
        spans = [matches[row, begin : len(rows[row]) - 1] for row, begin in enumerate(begins)]
        best = [span.detach().amax(0).max(0) if len(span) else None for span in spans]
        return {
            text: None if one is None else (int(one.indices), float(one.values))
            for text, one in zip(texts, best, strict=True)
        }


def with_caution(users: RowUsers, looks: Mapping[int, Look]) -> RowUsers:
    """The rows of users, with caution for prompts that need it. looks: by number of the row."""
    careful = [row in looks and looks[row].is_careful for row in range(len(users))]
    return replace(users, caution=CAUTION * torch.tensor(careful).float()) if any(careful) else users


def text_states(pipe: Any, texts: Sequence[str], **options: Any) -> list[torch.Tensor]:
    """States of short texts from start to end of text: [T, D], T as many as their tokens."""
    found = []
    for text in texts:
        states = encode_texts(pipe, text, has_negative=False, **options).prompt_embeds[0]
        found.append(states[: len(tokens_of(pipe, text))].clone())  # without the rest in memory
    return found


def _limited(prompt: str, vocabulary: frozenset[str], match: Match) -> Limited:
    """The limited words of a prompt, up to where it is looked at."""
    pieces, seen = _looked_at(prompt, vocabulary)
    alone = match([(ARTICLE, one.word) for one in seen])
    sure = {word: found for (_, word), found in alone.items() if found is not None and found[1] >= SURE}
    limited = [one for one in seen if one.word in sure]
    asked = [one for one in limited if not pieces.is_denied(one.first)]
    behind = match([(pieces.before(one.first), one.word) for one in asked])
    denied = frozenset(one.word for one in limited if pieces.is_denied(one.first))
    asked = [one for one in asked if (found := behind[pieces.before(one.first), one.word]) is None or found[1] > 0]
    return Limited(pieces, tuple(asked), denied, sure)


def _looked_at(prompt: str, vocabulary: frozenset[str]) -> tuple[Pieces, list[SeenWord]]:
    """The beginning of a prompt, with at most MOST_WORDS words, and those words. A word that comes again behind the
    same words counts once. The rest of the prompt is cut off, because nothing may be drawn that was not looked at. The
    text encoder reads each word at most twice: by itself, and behind the words before it."""
    pieces, words = Pieces.of(prompt), set[tuple[str, str]]()
    seen: list[SeenWord] = []
    for one in seen_words(pieces, vocabulary):
        words.add((pieces.before(one.first), one.word))
        if len(words) > MOST_WORDS:
            pieces = Pieces.of(prompt[: pieces.spans[one.first][0]].rstrip())
            return pieces, [one for one in seen if one.last < len(pieces)]
        seen.append(one)
    return pieces, seen


def _of_text(adapter: PromptAdapter, states: torch.Tensor, user: RowUsers) -> torch.Tensor:
    """Matches of text states [B, T, D] for one user, [B, T, S] in [0, 1], by their strength."""
    users = user[[0] * len(states)].to(adapter)
    within, own = (adapter.matcher.matches(x, users, sharp=True) for x in adapter.match(states, users))
    return torch.maximum(within, own) * users.strength.clamp(max=1)[:, None, None]


def _within(pipe: Any, pieces: Pieces, words: Sequence[SeenWord], found: Sequence[float]) -> Iterator[float]:
    """The largest match at each word's tokens within its prompt; 0 behind what the text encoder reads. words: in the
    order of the prompt."""
    begin = 0
    for word in words:
        if begin < len(found):  # behind that there is nothing to count
            start, end = pieces.spans[word.first][0], pieces.spans[word.last][1]
            begin, behind = (len(tokens_of(pipe, pieces.prompt[:place])) - 1 for place in (start, end))
        yield max(found[begin:behind], default=0.0) if begin < len(found) else 0.0
