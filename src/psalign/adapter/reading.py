"""Reads a prompt as a person sees it: look-alike letters as the Latin letters that they look like, nothing invisible.

Place on the path of data: before step 5, where a text encoder reads the prompt of a user who limits anything. A word
typed with a Cyrillic letter in it means the same to a person, and to a text encoder it is another word.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

WHOLE_WORDS = ("CYRILLIC", "GREEK")  # scripts of which a whole word may look Latin
SHORTEST = 2  # letters of such a word
FILLERS = "\u115f\u1160\u3164\uffa0"  # letters of Hangul that show nothing


@dataclass(frozen=True)
class Reading:
    """A prompt as a person sees it. words: those that were typed in another way, each as typed and as read."""

    text: str
    words: tuple[tuple[str, str], ...] = ()


def read_prompt(prompt: str) -> Reading:
    """The prompt with every word in Latin letters that looks so and was not typed so.

    A word is read in another way where it mixes Latin letters with others that all look Latin, has full-width or
    otherwise styled Latin letters, or hides invisible characters or loose combining marks among Latin letters. A word
    of Cyrillic or Greek letters alone is read so where every letter looks Latin and the prompt has plain Latin words.
    All other words stay as they were typed: accents, other languages, emoji.
    Source: mixed-script and whole-script confusables of Unicode Technical Standard 39, with the table of the package
    confusable-homoglyphs.
    """
    if prompt.isascii():
        return Reading(prompt)
    runs = list(_runs(prompt))
    is_latin = any(len(run) >= SHORTEST and run.isascii() and run.isalpha() for run in runs)
    read = [run if run.isascii() else _read(run, is_latin=is_latin) for run in runs]
    words = [(typed, seen) for typed, seen in zip(runs, read, strict=True) if typed != seen]
    return Reading("".join(read), tuple(words)) if words else Reading(prompt)


def _runs(text: str) -> Iterator[str]:
    """The text in pieces, by turns words and what is between them."""
    return ("".join(run) for _, run in groupby(text, _is_of_word))


def _is_of_word(character: str) -> bool:
    category = unicodedata.category(character)
    return category[0] in "LM" or category == "Cf" or unicodedata.normalize("NFKC", character).isalpha()


def _read(word: str, *, is_latin: bool) -> str:
    """A word as it looks; as it was typed where it does not look Latin, or was typed so."""
    composed = unicodedata.normalize("NFC", word)
    shown = [c for c in composed if unicodedata.category(c)[0] != "M" and not _is_invisible(c)]
    seen = [latin for c in shown if (latin := _latin(c)) is not None]
    if len(seen) < len(shown) or not _looks_latin(shown, is_latin=is_latin):
        return word
    text = "".join(seen)
    return word if text == composed else text


def _looks_latin(letters: Sequence[str], *, is_latin: bool) -> bool:
    """Whether letters that each look Latin are to be read so. is_latin: whether the prompt has plain Latin words."""
    styled = [_is_styled(letter) for letter in letters]
    scripts = {_script(letter) for letter, is_styled in zip(letters, styled, strict=True) if not is_styled}
    if "LATIN" in scripts:
        return True
    return len(letters) >= SHORTEST and (any(styled) or (is_latin and scripts <= set(WHOLE_WORDS)))


def _is_invisible(character: str) -> bool:
    return unicodedata.category(character) == "Cf" or character in FILLERS


def _is_styled(character: str) -> bool:
    """Whether a character is a letter in another style: full-width, bold, in a circle, raised."""
    return unicodedata.normalize("NFKC", character) != character


@lru_cache(maxsize=4096)
def _latin(character: str) -> str | None:
    """The Latin letters that a character is or looks like; None where it looks like none."""
    plain = unicodedata.normalize("NFKC", character)
    if all(_script(one) == "LATIN" for one in plain):
        return plain
    from confusable_homoglyphs.confusables import confusables_data

    found = [one["c"] for one in confusables_data.get(character, ()) if one["c"].isascii() and one["c"].isalpha()]
    return min(found, key=lambda one: (one.isupper() != character.isupper(), len(one), one), default=None)


def _script(character: str) -> str:
    from confusable_homoglyphs.categories import alias

    return str(alias(character))
