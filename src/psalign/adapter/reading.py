"""Reads a prompt as a person sees it: look-alike letters as the Latin letters that they look like, nothing invisible.

Place on the path of data: before step 5, where a text encoder reads the prompt of a user who limits anything. A word
typed with a Cyrillic letter in it means the same to a person, and to a text encoder it is another word.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

WHOLE_WORDS = ("CYRILLIC", "GREEK")  # scripts of which a whole word may look Latin
SHORTEST = 2  # letters of such a word
FILLERS = "\u115f\u1160\u3164\uffa0"  # letters of Hangul that show nothing
# Not assigned, and shown as nothing: Default_Ignorable_Code_Point of Unicode.
UNASSIGNED = re.compile("[\u2065\ufff0-\ufff8\U000e0000-\U000e0fff]")
BREAKS = "\t\n\v\f\r\x85"  # control characters that show as a gap
STYLES = re.compile(r"(?:LATIN LETTER SMALL CAPITAL|NEGATIVE (?:CIRCLED|SQUARED) LATIN CAPITAL LETTER) ([A-Z])")
SIGNS = ("So", "Sk", "Nd")  # an emoji or a digit, which the marks behind it belong to


@dataclass(frozen=True)
class Reading:
    """A prompt as a person sees it. words: those that were typed in another way, each as typed and as read."""

    text: str
    words: tuple[tuple[str, str], ...] = ()


def read_prompt(prompt: str, *, limits: Sequence[str] = ()) -> Reading:
    """The prompt with every word in Latin letters that looks so and was not typed so.

    A word is read in another way where it mixes Latin letters with others that all look Latin, has full-width or
    otherwise styled Latin letters, or hides invisible characters or loose combining marks among Latin letters. A word
    of Cyrillic or Greek letters alone is read so where every letter looks Latin, the prompt has plain Latin words, and
    neither the prompt nor limits, the phrases that its user limits, have words of a language in that script.
    All other words stay as they were typed: accents, other languages, emoji.
    Source: mixed-script and whole-script confusables of Unicode Technical Standard 39, with the table of the package
    confusable-homoglyphs.
    """
    if prompt.isascii() and prompt.isprintable():
        return Reading(prompt)
    runs = list(_runs(prompt))
    is_latin = any(len(run) >= SHORTEST and run.isascii() and run.isalpha() for run in runs)
    whole = _whole_words(runs, limits) if is_latin else frozenset()
    read = [run if run.isascii() and run.isprintable() else _read(run, whole) for run in runs]
    words = [(typed, seen) for typed, seen in zip(runs, read, strict=True) if typed != seen]
    return Reading("".join(read), tuple(words)) if words else Reading(prompt)


def _runs(text: str) -> Iterator[str]:
    """The text in pieces: words, what is between them, and marks that belong to a sign before a word."""
    before = " "
    for _, run in groupby(text, _is_of_word):
        word = "".join(run)
        if unicodedata.category(before) in SIGNS:
            marks = next((i for i, c in enumerate(word) if not _is_mark_of_sign(c)), len(word))
            yield word[:marks]
            word = word[marks:]
        yield word
        before = word[-1:] or before


def _is_mark_of_sign(character: str) -> bool:
    return unicodedata.category(character)[0] == "M" or "\U000e0020" <= character <= "\U000e007f"


def _is_of_word(character: str) -> bool:
    plain = _plain(character)
    is_letter = unicodedata.category(character)[0] in "LM" or (len(plain) == 1 and plain.isalpha())
    return is_letter or _is_invisible(character)


def _whole_words(runs: Sequence[str], limits: Sequence[str]) -> frozenset[str]:
    """Scripts of which a whole word is read as Latin: those that neither a prompt nor limits are written in."""
    words = [(_letters(run), False) for run in runs] + [(_letters(run), True) for one in limits for run in _runs(one)]
    scripts = [
        {_script(c) for c in word}
        for word, is_limited in words
        if len(word) >= SHORTEST and (is_limited or any(_latin(c) is None for c in word))
    ]
    return frozenset(WHOLE_WORDS).difference(*(one for one in scripts if len(one) == 1))


def _letters(word: str) -> str:
    return "".join(c for c in unicodedata.normalize("NFC", word) if unicodedata.category(c)[0] == "L")


def _read(word: str, whole: frozenset[str]) -> str:
    """A word as it looks; as it was typed where it does not look Latin, or was typed so. whole: see _whole_words."""
    composed = unicodedata.normalize("NFC", word)
    letters = [c for i, c in enumerate(composed) if not _is_hidden(composed[max(0, i - 1) : i], c)]
    shown = [c for c in letters if unicodedata.category(c)[0] != "M"]
    seen = [latin for c in letters if (latin := c if unicodedata.category(c)[0] == "M" else _latin(c)) is not None]
    if len(seen) < len(letters) or not _looks_latin(shown, whole):
        return word
    text = "".join(seen)
    return word if text == composed else text


def _is_hidden(before: str, character: str) -> bool:
    """Whether a character shows nothing, or is a loose mark. An accent on a letter that is not plain is part of it:
    Yoruba and Navajo have letters with two, of which Unicode joins one. before: the character before it."""
    if unicodedata.category(character)[0] != "M":
        return _is_invisible(character)
    is_accent = unicodedata.combining(character) > 1  # 1: lies over the letter
    return not (is_accent and before.isalpha() and not before.isascii() and _script(before) == "LATIN")


def _looks_latin(letters: Sequence[str], whole: frozenset[str]) -> bool:
    """Whether letters that each look Latin are to be read so. whole: see _whole_words."""
    styled = [_is_styled(letter) for letter in letters]
    scripts = {_script(letter) for letter, is_styled in zip(letters, styled, strict=True) if not is_styled}
    return "LATIN" in scripts or (len(letters) >= SHORTEST and (any(styled) or scripts <= whole))


def _is_invisible(character: str) -> bool:
    category = unicodedata.category(character)
    is_control = category == "Cc" and character not in BREAKS
    return is_control or category == "Cf" or character in FILLERS or bool(UNASSIGNED.match(character))


def _is_styled(character: str) -> bool:
    """Whether a character is a letter in another style: full-width, bold, in a circle, raised, a small capital."""
    return _plain(character) != character


@lru_cache(maxsize=4096)
def _plain(character: str) -> str:
    """A character without its style."""
    style = STYLES.fullmatch(unicodedata.name(character, ""))
    if style is None:
        return unicodedata.normalize("NFKC", character)
    return style[1].lower() if unicodedata.category(character) == "Ll" else style[1]


@lru_cache(maxsize=4096)
def _latin(character: str) -> str | None:
    """The Latin letters that a character is or looks like; None where it looks like none."""
    plain = _plain(character)
    if all(_script(one) == "LATIN" for one in plain):
        return plain
    from confusable_homoglyphs.confusables import confusables_data

    found = [one["c"] for one in confusables_data.get(character, ()) if one["c"].isascii() and one["c"].isalpha()]
    return min(found, key=lambda one: (one.isupper() != character.isupper(), len(one), one), default=None)


def _script(character: str) -> str:
    from confusable_homoglyphs.categories import alias

    return str(alias(character))
