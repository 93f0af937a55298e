"""The words that a person reads in a prompt: as they are typed, and as misspelt, split or masked words are meant.

Place on the path of data: before step 5, for the second look (second_look.py). What is meant is looked up among the
words that the text encoder knows, so there is no word list here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, product
from typing import Any

END_OF_WORD = "</w>"  # in CLIP's vocabularies
PIECE = re.compile(r"[^\s,.;:!?()\[\]{}\"]+")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SHORTEST, SHORTEST_MISSPELT, LONGEST = 3, 4, 12  # letters of a word that is looked up
SHORTEST_EXCHANGED = 5  # letters of a word in which one may stand in another's place
MOST_UNKNOWN = 2  # signs within a word that stand for any letters
MOST_PARTS, LONGEST_PART = 4, 3  # of a split word; parts of one that is split in more than two are short
# Signs that stand for letters. A 1 is an i as often as an l.
MASKS = tuple(str.maketrans("013457@$|!", letters) for letters in ("oleasta" + "sli", "oieasta" + "sii"))
OF_GRAMMAR = """
a an and are as at be been but by can do does for from go had has have he her here him his how i if in into is it its me
my no not of off on one or our out over she so some than that the their them then there these they this to too two under
up us very was we were what when where which who will with without you your
"""
GRAMMAR = frozenset(OF_GRAMMAR.split())  # words that say nothing by themselves
DENIALS = frozenset(("no", "not", "without", "never", "neither", "nor", "none", "minus", "except", "cannot"))
ENDING = re.compile("['\u2019](?:s|t|re|ve|m|ll|d)$")  # as in "he'll": CLIP reads it as a word of its own
REACH = 3  # words before a word that tell what it means
ARTICLES = frozenset(("a", "an", "the"))


@dataclass(frozen=True)
class SeenWord:
    """A word that a person may read in a prompt. word: in small letters. first, last: numbers of its pieces."""

    word: str
    first: int
    last: int


@dataclass(frozen=True)
class Pieces:
    """A prompt in pieces between spaces and punctuation. spans: where each begins and ends."""

    prompt: str
    spans: tuple[tuple[int, int], ...]

    @classmethod
    def of(cls, prompt: str) -> Pieces:
        return cls(prompt, tuple(found.span() for found in PIECE.finditer(prompt)))

    def __len__(self) -> int:
        return len(self.spans)

    def piece(self, number: int) -> str:
        """In small letters."""
        return self.typed(number, number).lower()

    def typed(self, first: int, last: int) -> str:
        """The prompt from the beginning of one piece to the end of another."""
        return self.prompt[self.spans[first][0] : self.spans[last][1]]

    def is_row(self, first: int, last: int) -> bool:
        """Whether nothing but spaces is between these pieces."""
        pairs = pairwise(self.spans[first : last + 1])
        return not any(self.prompt[end:start].strip() for (_, end), (start, _) in pairs)

    def is_tight(self, first: int, last: int) -> bool:
        """Whether no space is between these pieces."""
        return not any(map(str.isspace, self.typed(first, last)))

    def before(self, number: int) -> str:
        """The words just before a piece, in small letters: REACH of them, of the same clause."""
        first = number
        while first > max(0, number - REACH) and self.is_row(first - 1, first):
            first -= 1
        return " ".join(self.piece(one) for one in range(first, number))

    def is_denied(self, number: int) -> bool:
        """Whether a word just before a piece denies it: "no sword", "without any swords"."""
        words = self.before(number).split()
        return any(word in DENIALS or word.endswith(("n't", "n\u2019t")) for word in words)

    def is_other(self, one: SeenWord) -> bool:
        """Whether a word was typed otherwise than it is read."""
        return self.typed(one.first, one.last).lower() != one.word

    def spelled(self, words: Sequence[SeenWord]) -> str:
        """The prompt with these words as they are read. words: in their order, none within another."""
        text, begin = "", 0
        for one in words:
            text += self.prompt[begin : self.spans[one.first][0]] + one.word
            begin = self.spans[one.last][1]
        return text + self.prompt[begin:]

    def without(self, words: Sequence[SeenWord]) -> str:
        """The prompt without these words and the articles before them."""
        numbers = {number for one in words for number in range(one.first, one.last + 1)}
        for number in sorted(numbers):
            if number and self.piece(number - 1) in ARTICLES and self.is_row(number - 1, number):
                numbers.add(number - 1)
        if not numbers:
            return self.prompt
        text, begin = "", 0
        for start, end in (self.spans[number] for number in sorted(numbers)):
            text, begin = text + self.prompt[begin:start], end
        return re.sub(r"\s+(?=[,.;:!?\s]|$)", "", text + self.prompt[begin:]).strip()


def vocabulary_of(tokenizer: Any) -> frozenset[str]:
    """Words that are one token; empty for tokenizers that do not mark the ends of words."""
    words = (token.removesuffix(END_OF_WORD) for token in tokenizer.get_vocab() if token.endswith(END_OF_WORD))
    return frozenset(word for word in words if len(word) >= SHORTEST and word.isalpha())


def seen_words(pieces: Pieces, vocabulary: frozenset[str]) -> list[SeenWord]:
    """All words that a person may read, each once for every place.

    A piece is read as it is, unless it says nothing by itself. One that is no known word is also read as each known
    word with one letter more, less, exchanged, or in the other's place (_neighbours), and with the
    letters that its signs stand for ("sw0rd", "s-word", "sw*rd"). Pieces in a row are also read as one known word
    ("sw ord", "s w o r d"), and those without a space between them as one piece with signs ("sw.ord", "k!ll"), unless
    they are known words themselves with one of grammar among them: "the pen is red".
    """
    found = []
    for number in range(len(pieces)):
        piece = pieces.piece(number)
        is_word = len(piece) > 1 or not piece.isascii()  # a sign, as of an emoji, may be a word
        readings = {piece} if is_word and piece not in GRAMMAR else set()
        found += [SeenWord(word, number, number) for word in sorted(readings | meant_by(piece, vocabulary))]
        found += _joined(pieces, number, vocabulary)
    return found


@lru_cache(maxsize=4096)
def meant_by(piece: str, vocabulary: frozenset[str]) -> frozenset[str]:
    """Known words that a piece in small letters may be meant to be; none for a known word, also with an ENDING."""
    stem = ENDING.sub("", piece)
    if stem in vocabulary or stem in GRAMMAR:
        return frozenset()
    if piece.isalpha():
        return frozenset(_neighbours(piece)) & vocabulary if SHORTEST_MISSPELT <= len(piece) <= LONGEST else frozenset()
    return frozenset(_unmasked(piece)) & vocabulary if any(map(str.isalpha, piece)) else frozenset()


def _unmasked(piece: str) -> Iterator[str]:
    """Words with letters for the signs of a piece: those that a sign looks like (MASKS), none, or any letter for one
    that is within the word. Hyphens and apostrophes stand for none."""
    for text in (piece, *(piece.translate(mask) for mask in MASKS)):
        yield "".join(filter(str.isalpha, text))
        yield from _filled(re.sub("['\u2019-]", "", text))


def _filled(text: str) -> Iterator[str]:
    """Words with each letter for up to MOST_UNKNOWN signs within a text. A digit is no such sign: "f/1.8"."""
    signs = [place for place, character in enumerate(text) if not character.isalpha()]
    if not 0 < len(signs) <= MOST_UNKNOWN or not SHORTEST_MISSPELT <= len(text) <= LONGEST:
        return
    if 0 in signs or len(text) - 1 in signs or any(character.isdigit() for character in text):
        return
    characters = list(text)
    for letters in product(LETTERS, repeat=len(signs)):
        for place, letter in zip(signs, letters, strict=True):
            characters[place] = letter
        yield "".join(characters)


def _neighbours(word: str) -> Iterator[str]:
    """Words that one with one mistake may be meant to be: of the same first letter, which people seldom miss, and the
    same last one, unless that is an s or doubled. A letter is in another's place in longer words alone: short words
    differ by one letter too often ("moat" and "meat")."""
    for place in range(1, len(word)):
        before, behind = word[:place], word[place:]
        yield from (before + letter + behind for letter in LETTERS)
        if len(behind) > 1:
            yield before + behind[1:]
            if len(word) >= SHORTEST_EXCHANGED:
                yield from (before + letter + behind[1:] for letter in LETTERS)
        if len(behind) > 2:
            yield before + behind[1] + behind[0] + behind[2:]
    if word[-1] in ("s", word[-2]):
        yield word[:-1]


def _joined(pieces: Pieces, first: int, vocabulary: frozenset[str]) -> list[SeenWord]:
    """Known words that the piece and those behind it make together."""
    found, parts = [], [pieces.piece(first)]
    for last in range(first + 1, min(len(pieces), first + LONGEST)):
        parts.append(pieces.piece(last))
        if len("".join(parts)) > LONGEST or not _is_next(pieces, last):
            break
        if _may_be_one(parts, vocabulary):
            words = {"".join(parts)} & vocabulary
            if pieces.is_tight(first, last):
                words |= meant_by(pieces.typed(first, last).lower(), vocabulary)
            found += [SeenWord(word, first, last) for word in sorted(words)]
    return found


def _is_next(pieces: Pieces, number: int) -> bool:
    """Whether a piece may belong to the same word as the one before it."""
    piece = pieces.piece(number)
    if pieces.is_tight(number - 1, number):
        return any(map(str.isalpha, piece))
    return piece.isalpha() and pieces.is_row(number - 1, number)


def _may_be_one(parts: Sequence[str], vocabulary: frozenset[str]) -> bool:
    if all(len(part) == 1 for part in parts):
        return True
    is_text = all(part in vocabulary or part in GRAMMAR for part in parts) and not GRAMMAR.isdisjoint(parts)
    is_short = len(parts) == 2 or max(map(len, parts)) <= LONGEST_PART
    return is_short and len(parts) <= MOST_PARTS and not is_text
