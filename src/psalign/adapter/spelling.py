"""The words that a person reads in a prompt: as they are typed, and as misspelt, split or masked words are meant.

Place on the path of data: before step 5, for the second look (second_look.py). What is meant is looked up among the
words that the text encoder knows, so there is no word list here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice, pairwise, product
from typing import Any

END_OF_WORD = "</w>"  # in CLIP's vocabularies
PIECE = re.compile(r"[^\s,.;:!?()\[\]{}\"/_|&+]+")
LETTERS = "abcdefghijklmnopqrstuvwxyz"
SHORTEST, SHORTEST_MISSPELT, LONGEST = 3, 4, 12  # letters of a word that is looked up
SHORTEST_EXCHANGED = 5  # letters of a word in which one may stand in another's place
MOST_UNKNOWN = 2  # signs within a word that stand for any letters
MOST_PARTS, LONGEST_PART = 4, 3  # of a split word; parts of one that is split in more than two are short
# Signs that look like letters, each with those that it may be; some may just as well stand between letters.
MASKS = {**dict(zip("02345789@$", "ozeastbgas", strict=True)), "1": "il", "6": "gb", "|": "li|", "!": "il!", "+": "t+"}
MOST_UNMASKED = 32  # readings of the masks in one piece
SPELLED = re.compile(r"[^\W\d_](?:[\W_][^\W\d_])+")  # letters with one sign between them
EDGES = "<>#^~=%*'\u2019-"  # signs around a word, not in it
REPEATED = re.compile(r"(.)\1{2,}")
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
    """Words that are one token, where the tokenizer marks the ends of words, and names of textual inversions."""
    words = (token.removesuffix(END_OF_WORD) for token in tokenizer.get_vocab() if token.endswith(END_OF_WORD))
    names = (name.lower() for name in tokenizer.get_added_vocab())
    return frozenset((*(word for word in words if len(word) >= SHORTEST and word.isalpha()), *names))


def seen_words(pieces: Pieces, vocabulary: frozenset[str]) -> Iterator[SeenWord]:
    """All words that a person may read, each once for every place, from the first piece to the last.

    A piece is read as it is, unless it says nothing by itself. One that is no known word is also read as each known
    word with one letter more, less, exchanged, or in the other's place (_neighbours), and with the
    letters that its signs stand for ("sw0rd", "s-word", "sw*rd"). Pieces in a row are also read as one known word
    ("sw ord", "s w o r d"), and those without a space between them as one piece with signs ("sw.ord", "k!ll"), unless
    they are known words themselves with one of grammar among them: "the pen is red".
    """
    for number in range(len(pieces)):
        piece = pieces.piece(number)
        is_word = len(piece) > 1 or not piece.isascii()  # a sign, as of an emoji, may be a word
        readings = {piece} if is_word and piece not in GRAMMAR else set()
        yield from (SeenWord(word, number, number) for word in sorted(readings | meant_by(piece, vocabulary)))
        yield from _joined(pieces, number, vocabulary)


@lru_cache(maxsize=4096)
def meant_by(piece: str, vocabulary: frozenset[str]) -> frozenset[str]:
    """Known words that a piece in small letters may be meant to be; none for a known word, also with an ENDING."""
    stem = ENDING.sub("", piece)
    if stem in vocabulary or stem in GRAMMAR:
        return frozenset()
    if piece.isalpha():
        shorter = {REPEATED.sub(letters, piece) for letters in (r"\1", r"\1\1")}
        near = _neighbours(piece) if SHORTEST_MISSPELT <= len(piece) <= LONGEST else ()
        return frozenset((*shorter, *near)) & vocabulary
    if not any(map(str.isalpha, piece)):
        return frozenset()
    found = set[str]()
    for text in {piece, *islice(map("".join, product(*(MASKS.get(one, one) for one in piece))), MOST_UNMASKED)}:
        found |= {"".join(filter(str.isalpha, text))} & vocabulary
        found |= _filled(re.sub("['\u2019-]", "", text.strip(EDGES)), vocabulary)
    return frozenset(found)


def _filled(text: str, vocabulary: frozenset[str]) -> set[str]:
    """Known words with letters for a sign within a text, or for two of the same one. A digit is no such sign ("f/1.8"),
    nor is what stands between single letters ("d.i.y")."""
    signs = [character for character in text if not character.isalpha()]
    is_masked = 0 < len(signs) <= MOST_UNKNOWN and len(set(signs)) == 1 and not signs[0].isdigit()
    if not is_masked or not SHORTEST_MISSPELT <= len(text) <= LONGEST or SPELLED.fullmatch(text):
        return set()
    pattern = re.compile("".join(character if character.isalpha() else "[a-z]" for character in text))
    return {word for word in _by_ends(vocabulary).get((len(text), text[0], text[-1]), ()) if pattern.fullmatch(word)}


@lru_cache(maxsize=8)
def _by_ends(vocabulary: frozenset[str]) -> dict[tuple[int, str, str], list[str]]:
    """The known words by their length, first letter and last letter."""
    found: dict[tuple[int, str, str], list[str]] = {}
    for word in vocabulary:
        found.setdefault((len(word), word[0], word[-1]), []).append(word)
    return found


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
        is_tight = pieces.is_tight(first, last)
        if _may_be_one(parts, vocabulary, is_tight):
            words = {"".join(parts)} & vocabulary
            if is_tight:
                typed = pieces.typed(first, last).lower()
                words |= {typed} & vocabulary or meant_by(typed, vocabulary)
            found += [SeenWord(word, first, last) for word in sorted(words)]
    return found


def _is_next(pieces: Pieces, number: int) -> bool:
    """Whether a piece may belong to the same word as the one before it."""
    piece = pieces.piece(number)
    if pieces.is_tight(number - 1, number):
        return any(map(str.isalpha, piece))
    return piece.isalpha() and pieces.is_row(number - 1, number)


def _may_be_one(parts: Sequence[str], vocabulary: frozenset[str], is_tight: bool) -> bool:
    if all(len(part) == 1 for part in parts):
        return True
    is_text = all(part in vocabulary or part in GRAMMAR for part in parts) and not GRAMMAR.isdisjoint(parts)
    is_short = len(parts) == 2 or (len(parts) <= MOST_PARTS and max(map(len, parts)) <= LONGEST_PART)
    return (is_tight or is_short) and not is_text
