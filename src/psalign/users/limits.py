"""Limits in a person's own words: "I can't stand spiders", "no guns or knives". Step 2 of the path of data.

Limits are personal data: they may be about health or belief. No message, repr or log here repeats their text.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import date
from numbers import Real
from typing import Any, Literal

from ..categories import category_names, current
from ..errors import LimitError
from ..files import Record, parse_json
from .wordings import bare, phrases_of_text

By = Literal["user", "guardian", "operator"]

SETTERS: tuple[By, ...] = ("user", "guardian", "operator")  # rising rank: who may take away the limits of the others
MOST_WORDS, MOST_LETTERS = 24, 200  # of one limit
MOST_PHRASES = 32  # of one person
MOST_GIVEN = 2000  # letters of a text that are looked at, before invisible ones are taken out
KEYS = ("text", "strength", "until", "by")
EXAMPLE = 'expected a few words, as "no spiders"'

_INVISIBLE = re.compile(
    "[\u00ad\u034f\u061c\u115f\u1160\u180b-\u180f\u200b-\u200f\u2060-\u2064\u3164\ufe00-\ufe0f\ufeff\uffa0"
    "\U000e0100-\U000e01ef]"
)
_REFUSED = ("Cc", "Cf", "Cn", "Co", "Cs", "Zl", "Zp")  # control, bidi override, tag, not assigned, private


@dataclass(frozen=True, repr=False)
class Limit:
    """What a person does not want to see.

    text: what was written, at most 24 words and 200 characters of any script. strength: more than 0, at most 1.
    until: the last day on which it holds; None: no end. by: who set it.
    Raises LimitError, which says what was wrong and what was expected.
    """

    text: str
    strength: float = 1.0
    until: date | None = None
    by: By = "user"

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", _checked_text(self.text))
        object.__setattr__(self, "strength", _checked_strength(self.strength))
        if self.until is not None and type(self.until) is not date:
            raise LimitError(f"The end of a limit is of type {type(self.until).__name__}, expected a date or None.")
        if not isinstance(self.by, str) or self.by not in SETTERS:
            raise LimitError(f"Who set a limit must be one of: {', '.join(SETTERS)}.")
        if not self.phrases:
            raise LimitError(f"A limit says nothing that could be in a picture, {EXAMPLE}.")

    def __repr__(self) -> str:
        return f"Limit(by={self.by!r})"  # nothing personal in a log or a traceback

    @property
    def category(self) -> str | None:
        """The category of the taxonomy in use that this limit is, where it is nothing else: "no violence"."""
        return self.categories[0] if len(self.phrases) == len(self.categories) == 1 else None

    @property
    def phrases(self) -> tuple[str, ...]:
        """What is searched for in prompts, in lower case: ("guns", "knives") of "no guns or knives"."""
        whole = bare(self.text)
        return (whole,) if self._whole else phrases_of_text(self.text)

    @property
    def categories(self) -> tuple[str, ...]:
        """Categories of the taxonomy in use that phrases name, by name, slug or spelling; the text may name several."""
        found = (self._whole,) if self._whole else map(current().find, self.phrases)
        return tuple(dict.fromkeys(category for category in found if category))

    @property
    def words(self) -> tuple[str, ...]:
        """Phrases that are not categories."""
        return () if self._whole else tuple(phrase for phrase in self.phrases if not current().find(phrase))

    @property
    def _whole(self) -> str | None:
        """Category that the whole text names; its name may hold a comma or an "and"."""
        return current().find(self.text) or current().find(bare(self.text))

    def is_active(self, today: date) -> bool:
        """Whether it holds on a day."""
        return self.until is None or self.until >= today


# --- several of them -------------------------------------------------------------------------------------------------


def active(limits: Iterable[Limit], today: date) -> tuple[Limit, ...]:
    """Limits that hold on a day, in their order."""
    return tuple(limit for limit in limits if limit.is_active(today))


def united(*groups: Iterable[Limit]) -> tuple[Limit, ...]:
    """Limits of all groups together, in the order in which they come.

    Of limits with equal phrases one is left, with the greatest strength, the later end and the setter of the highest
    rank. Nothing is ever taken away: what an operator sets is a floor.
    """
    kept: dict[tuple[str, ...], Limit] = {}
    for limit in (limit for group in groups for limit in group):
        phrases = tuple(sorted(limit.phrases))
        kept[phrases] = _stricter(kept[phrases], limit) if phrases in kept else limit
    return tuple(kept.values())


def phrases_of(limits: Iterable[Limit], today: date) -> tuple[tuple[str, float], ...]:
    """(phrase, strength) of the limits that hold on a day, without phrases that are categories.

    Each phrase stands once, with its greatest strength, in the order in which they first come.
    """
    strengths: dict[str, float] = {}
    for limit in active(limits, today):
        for phrase in limit.words:
            strengths[phrase] = max(limit.strength, strengths.get(phrase, 0.0))
    return tuple(strengths.items())


def categories_of(limits: Iterable[Limit], today: date) -> tuple[str, ...]:
    """Categories that the limits of a day name, in the order of the taxonomy.

    A category is banned fully, whatever the strength of the limit: a ban list knows no strength.
    """
    found = {category for limit in active(limits, today) for category in limit.categories}
    return tuple(category for category in category_names() if category in found)


def rank(by: str) -> int:
    """Rank of who sets a limit: user, guardian, operator."""
    return SETTERS.index(by)  # type: ignore[arg-type]


def _stricter(one: Limit, other: Limit) -> Limit:
    ends = [limit.until for limit in (one, other) if limit.until is not None]
    return replace(
        one,
        strength=max(one.strength, other.strength),
        until=max(ends) if len(ends) == 2 else None,
        by=max(one.by, other.by, key=rank),
    )


# --- the cell of a users file ----------------------------------------------------------------------------------------


def read_limits(value: Any, *, most: float = MOST_PHRASES) -> tuple[Limit, ...]:
    """Limits of a cell: a JSON list, or one plain text with ";" between limits; or what JSON made of such a list.

    A limit of the list is a text, or an object of text, strength, until (as 2027-01-31) and by. most: phrases.
    Raises LimitError, which names the place in the list and never repeats a text.
    """
    if isinstance(value, str):
        text = value.strip()
        value = _json_list(text) if text.startswith(("[", "{")) else [one for one in text.split(";") if one.strip()]
        if text and not value and text.startswith(";"):
            raise LimitError(f"The limits are marks without words, {EXAMPLE}.")
    if not isinstance(value, list | tuple):
        raise LimitError(f"The limits are of type {type(value).__name__}, expected a list of texts or objects.")
    _require_few(len(value), most)
    limits = tuple(_read_limit(one, number) for number, one in enumerate(value, start=1))
    _require_few(len({phrase for limit in limits for phrase in limit.phrases}), most)
    return limits


def typed_limits(text: str) -> tuple[Limit, ...]:
    """Limits of a text that a person typed into a form, with ";" or a new line between them. Raises LimitError."""
    return read_limits(";".join(line for line in text.splitlines() if line.strip()))


def limit_records(limits: Iterable[Limit]) -> list[str | Record]:
    """Limits as JSON takes them: a text alone where nothing else is given. read_limits reads them back equal."""
    return [_record(limit) for limit in limits]


def limits_text(limits: Sequence[Limit]) -> str:
    """The cell of a users file."""
    return json.dumps(limit_records(limits), ensure_ascii=False)


def _record(limit: Limit) -> str | Record:
    record: Record = {"text": limit.text}
    if limit.strength != 1.0:
        record["strength"] = limit.strength
    if limit.until is not None:
        record["until"] = limit.until.isoformat()
    if limit.by != "user":
        record["by"] = limit.by
    return limit.text if len(record) == 1 else record


def _read_limit(value: Any, number: int) -> Limit:
    if isinstance(value, Limit):
        return value
    try:
        if isinstance(value, str):
            return Limit(value)
        if not isinstance(value, Mapping):
            raise LimitError(f"A limit is of type {type(value).__name__}, expected a text or an object.")
        if set(value) - set(KEYS) or "text" not in value:
            raise LimitError(f"A limit has an unknown key or no text, expected text and any of {', '.join(KEYS[1:])}.")
        until = value.get("until")
        given = {name: value[name] for name in ("strength", "by") if value.get(name) is not None}
        return Limit(value["text"], until=read_day(until) if isinstance(until, str) else until, **given)
    except LimitError as err:
        raise LimitError(f"limit {number}: {err.args[0]}") from None


def read_day(text: str) -> date:
    """A day, as 2027-01-31. Raises LimitError."""
    try:
        if not re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}", text):
            raise ValueError
        return date.fromisoformat(text)
    except ValueError:
        raise LimitError("The end of a limit is no day, expected year, month and day, as 2027-01-31.") from None


def _json_list(text: str) -> Any:
    try:
        return parse_json(text)
    except ValueError:
        raise LimitError('The limits begin like JSON and are none, expected as ["no spiders", "no guns"].') from None


def _require_few(count: int, most: float) -> None:
    if count > most:
        raise LimitError(f"There are {count} limits, expected at most {most} phrases of one person.")


# --- one text --------------------------------------------------------------------------------------------------------


def _checked_text(value: Any) -> str:
    """A text in one form: NFKC, single spaces, without letters that nobody sees. Raises LimitError."""
    if not isinstance(value, str):
        raise LimitError(f"The text of a limit is of type {type(value).__name__}, {EXAMPLE}.")
    if len(value) > MOST_GIVEN:
        raise _too_long(f"{len(value)} characters")
    text = value.strip()
    for _ in range(2):  # some letters become invisible ones
        text = unicodedata.normalize("NFKC", _INVISIBLE.sub("", text))
    strange = next((letter for letter in text if unicodedata.category(letter) in _REFUSED), None)
    if strange is not None:
        raise LimitError(f"A limit has the character U+{ord(strange):04X}, which cannot be shown, {EXAMPLE}.")
    text = " ".join(text.split())
    if not any(unicodedata.category(letter)[0] in "LN" for letter in text):
        raise LimitError(f"A limit has no letter and no digit, {EXAMPLE}.")
    if len(text) > MOST_LETTERS:
        raise _too_long(f"{len(text)} characters")
    if len(text.split()) > MOST_WORDS:
        raise _too_long(f"{len(text.split())} words")
    return text


def _too_long(saw: str) -> LimitError:
    return LimitError(
        f"A limit has {saw}, expected at most {MOST_WORDS} words and {MOST_LETTERS} characters; give several limits."
    )


def _checked_strength(value: Any) -> float:
    is_number = isinstance(value, Real) and not isinstance(value, bool)
    strength = float(value) if is_number and 0 < value <= 1 else 0.0  # a comparison with nan is false
    if not strength:
        raise LimitError("The strength of a limit must be a number of more than 0 and at most 1.")
    return strength
