"""Copies of caption rows whose captions are disturbed, from which an adapter learns to read them all the same.

Place on the path of data: beside sage/caption_rows.py, where training by captions joins at step 4. A copy has
the user and limits of its row. Its caption and the caption of its chosen picture are disturbed alike, so what
has to go stays the same.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from .caption_rows import CaptionRow

SEED = 13
KINDS = {"words": 0.4, "phrases": 0.25, "both": 0.35}  # what is disturbed, as shares of copies
MOST_PHRASES = 4  # before a caption, and behind it
FULL_SHARE = 0.25  # of captions with phrases: as long as the text encoder reads
SPLIT_SHARE = 0.4  # of disturbed words; the others are misspelt
MARKS = 2  # tokens for begin and end of a text
SPACED_SHARE = 0.2  # of split words: a space between all letters
MOST_WORDS = 8  # of a phrase
MOST_GOING = 0.25  # of the rows with something to take away that have a word, those that lose it
TRIES = 8  # at a spelling that is no word of the captions, and at phrases for the rest of a caption
LETTERS = "abcdefghijklmnopqrstuvwxyz"
WORD = re.compile(r"[^\W\d_]{3,}")


@dataclass(frozen=True)
class Window:
    """What a text encoder reads. count: gives the number of tokens of each text; most: the number that it reads."""

    count: Callable[[list[str]], list[int]]
    most: int


def noisy_rows(rows: Sequence[CaptionRow], window: Window, *, share: float) -> list[CaptionRow]:
    """Disturbed copies of some rows, the same ones at every call; with them they are `share` of all rows.

    share: at least 0 and at most one half, so that no row has two copies. A copy that would be longer than the text
    encoder reads is left out.
    """
    count = round(len(rows) * share / (1 - share))
    rng = np.random.default_rng(SEED)
    some = [rows[i] for i in sorted(rng.permutation(len(rows))[:count].tolist())]
    kinds = rng.choice(list(KINDS), size=count, p=list(KINDS.values())).tolist()
    noise = _Noise(rows, window, rng)
    # Training does not look at the caption of the rejected picture.
    copies = [noise.copy(replace(row, other_caption=None), kind) for row, kind in zip(some, kinds, strict=True)]
    texts = [(copy.caption, copy.chosen_caption) for copy in copies]
    lengths = [window.count([pair[place] for pair in texts]) if texts else [] for place in (0, 1)]
    return [copy for copy, *both in zip(copies, *lengths, strict=True) if max(both) <= window.most]


class _Noise:
    """Disturbs rows, one after the other."""

    def __init__(self, rows: Sequence[CaptionRow], window: Window, rng: np.random.Generator) -> None:
        self.window, self.rng = window, rng
        self.words = {word for row in rows for word in _words(row.caption)}
        phrases = _safe_phrases(rows)
        other = [_with(self._new(_words(phrase)), phrase) for phrase in phrases]
        self.words_of = {
            new: set(_words(f"{new} {phrase}".lower())) for new, phrase in zip(other, phrases, strict=True)
        }
        self.words_of |= {phrase: set(_words(phrase.lower())) for phrase in phrases}
        phrases += other
        self.phrases = phrases
        self.tokens = dict(zip(phrases, window.count(phrases), strict=True)) if phrases else {}

    def copy(self, row: CaptionRow, kind: str) -> CaptionRow:
        if kind != "phrases":
            new = self._new(_words_to_change(row))
            row = replace(row, caption=_with(new, row.caption), chosen_caption=_with(new, row.chosen_caption))
        return row if kind == "words" else self._filled(row)

    def _filled(self, row: CaptionRow) -> CaptionRow:
        """Put safe phrases before and behind both captions, but no more than the text encoder can read."""
        most, longest = self.window.most, max((row.caption, row.chosen_caption), key=self._length)
        limited = {word for phrase in row.limits or () for word in _words(phrase.lower())}
        pool = [one for one in self.phrases if not limited & self.words_of[one]] if limited else self.phrases
        if not pool:
            return row
        before = self._draw(pool, int(self.rng.integers(MOST_PHRASES + 1)))
        behind = self._draw(pool, int(self.rng.integers(not before, MOST_PHRASES + 1)))
        while behind and self._length(*before, longest, *behind) > most:
            behind.pop()
        while before and self._length(*before, longest) > most:
            before.pop()
        if self.rng.random() < FULL_SHARE:
            behind += self._rest(pool, most - self._length(*before, longest, *behind))
        caption, chosen = (
            ", ".join([*before, text.rstrip(" .,"), *behind]) for text in (row.caption, row.chosen_caption)
        )
        return replace(row, caption=caption, chosen_caption=chosen)

    def _rest(self, pool: Sequence[str], room: int) -> list[str]:
        """Phrases for the tokens that are left."""
        found = []
        for phrase in self._draw(pool, TRIES):
            length = self._length(phrase) - MARKS + 1
            if length <= room:
                found.append(phrase)
                room -= length
        return found

    def _length(self, *texts: str) -> int:
        """Tokens of texts with commas between them, with begin and end."""
        for text in texts:
            if text not in self.tokens:
                (self.tokens[text],) = self.window.count([text])
        return MARKS + sum(self.tokens[text] - MARKS for text in texts) + len(texts) - 1

    def _draw(self, pool: Sequence[str], count: int) -> list[str]:
        return [pool[i] for i in self.rng.integers(len(pool), size=count).tolist()]

    def _new(self, words: Sequence[str]) -> dict[str, str]:
        """Half of some words, one at least where there is one, each with what stands in its place."""
        drawn = self.rng.random((len(words), 2)).tolist()
        least = min((x for x, _ in drawn), default=0.0)
        return {
            word: self._split(word) if y < SPLIT_SHARE else self._misspelt(word)
            for word, (x, y) in zip(words, drawn, strict=True)
            if x < 0.5 or x == least
        }

    def _misspelt(self, word: str) -> str:
        """A word with a letter left out, doubled, or exchanged for another; never another word of the captions."""
        for _ in range(TRIES):
            place, other = int(self.rng.integers(len(word))), LETTERS[self.rng.integers(len(LETTERS))]
            middle = ("", word[place] * 2, other)[self.rng.integers(3)]
            changed = word[:place] + middle + word[place + 1 :]
            if changed != word and changed not in self.words:
                return changed
        return word

    def _split(self, word: str) -> str:
        """A word in two parts with a space or a hyphen between them, or all of its letters with spaces."""
        if self.rng.random() < SPACED_SHARE:
            return " ".join(word)
        place = int(self.rng.integers(1, len(word)))
        parts = (word[:place], word[place:])
        return word if self.words.intersection(parts) else " -"[self.rng.integers(2)].join(parts)


def _words_to_change(row: CaptionRow) -> list[str]:
    """Words that are to go; where nothing goes, all words, which then change in both captions."""
    words = dict.fromkeys(_words(row.caption))
    stay = set(_words(row.chosen_caption)) if row.caption != row.chosen_caption else set()
    return [word for word in words if word not in stay]


def _words(text: str) -> list[str]:
    return WORD.findall(text)


def _with(new: Mapping[str, str], text: str) -> str:
    return WORD.sub(lambda found: new.get(found[0], found[0]), text)


def _safe_phrases(rows: Sequence[CaptionRow]) -> list[str]:
    """Parts of safe captions between commas, cut at MOST_WORDS words, without a word that is often to go."""
    going, seen = Counter[str](), Counter[str]()
    for row in rows:
        if row.caption != row.chosen_caption:
            words = set(_words(row.caption))
            seen.update(words)
            going.update(words.difference(_words(row.chosen_caption)))
    unsafe = {word for word, count in going.items() if count > MOST_GOING * seen[word]}
    safe = {row.caption for row in rows if row.side == "safe"}
    safe = safe or {row.chosen_caption for row in rows if row.side == "banned"}
    parts = (part.split()[:MOST_WORDS] for text in sorted(safe) for part in re.split(r"[,.;:]", text))
    phrases = dict.fromkeys(" ".join(words) for words in parts if words)
    return [phrase for phrase in phrases if not unsafe.intersection(_words(phrase))]
