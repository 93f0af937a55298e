"""The one rule for user ids, and the names of the levels. Under every step of the path of data.

Every reader of a user id calls `normalise_user_id`, so that 33, "33", "33.0" (a spreadsheet's 33), 33.0 and
"0000033" are one user in every file, and an id that cannot be part of a file name is refused in every file.
"""

from __future__ import annotations

import re
from numbers import Integral, Real
from typing import Any

LEVELS = range(6)  # of strictness: the first bans nothing, the last everything
DIGITS = 7  # of a user id that is a number: 33 -> "0000033"
MAX_LENGTH = 64
ALLOWED = f"1 to {MAX_LENGTH} of letters, digits, '.', '_' and '-', the first of them a letter or a digit"

_USER_ID = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{MAX_LENGTH - 1}}}")
_NUMBER = re.compile(r"0*([0-9]+?)(?:\.0*)?")
_LEVEL = re.compile(rf"level_([0-{LEVELS[-1]}])")
_LARGEST_FLOAT = 2**53  # above it a float no longer holds every whole number


def normalise_user_id(value: Any) -> str:
    """User id as every file of ours spells it: a whole number gets seven digits (33 and "33.0" are
    "0000033").

    value: text, or a whole number of any type; spaces around a text do not count.
    Raises ValueError, which says what is allowed, for anything else: "a/b", 33.5, True, None, an empty text.
    """
    text = _text(value)
    if not _USER_ID.fullmatch(text):
        raise ValueError(f"saw {shorten(value)}, allowed: {ALLOWED}")
    number = _NUMBER.fullmatch(text)
    return number[1].zfill(DIGITS) if number else text


def find_user_id(value: Any) -> str | None:
    """The same rule; None for what is no user id."""
    try:
        return normalise_user_id(value)
    except ValueError:
        return None


def level_id(level: int) -> str:
    """User id that stands for a level of strictness, 0 to 5."""
    return f"level_{level}"


def level_of(user_id: str | None) -> int | None:
    """Level that a user id stands for; None for a person."""
    match = _LEVEL.fullmatch(user_id or "")
    return int(match[1]) if match else None


def shorten(value: Any) -> str:
    """A value for a message: one line, at most 80 characters; of a list or an object only its kind."""
    if isinstance(value, list | dict):
        return f"a JSON {'array' if isinstance(value, list) else 'object'}"
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value.strip()
    if isinstance(value, bool):
        return ""
    if isinstance(value, Integral):
        number = int(value)
    elif isinstance(value, Real) and float(value).is_integer() and abs(float(value)) <= _LARGEST_FLOAT:
        number = int(float(value))
    else:
        return ""
    return str(number) if abs(number) < 10**MAX_LENGTH else ""
