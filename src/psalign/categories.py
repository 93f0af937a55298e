"""The categories that can be banned, with their spellings, rules and words: one file, the taxonomy.

Place on the path of data: under every step. In use is what `use_taxonomy` says; else the file that PSALIGN_TAXONOMY
names (`psalign --taxonomy FILE` sets it, so that processes which a command starts have it too); else the seven
categories of the published code, templates/taxonomy.yaml. docs/USERS.md says how to write one.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

from .errors import TaxonomyMismatch, UsageError, some_of
from .files import Record, parse_yaml, read_template, read_text
from .ids import LEVELS

VARIABLE = "PSALIGN_TAXONOMY"
DEFAULT = "default"
MOST = 64  # categories
MOST_LETTERS = 60  # of a name, a slug or a spelling
RESERVED = ("all", "harmless", "none", "safe")  # which data sets write where a category could stand
SHOWN = 5
DETECTOR = "The detector of the mini world"  # which knows the default taxonomy alone
HINT = "docs/USERS.md has an example of a taxonomy file."


@dataclass(frozen=True)
class Category:
    """name: as ban lists spell it; slug: as file names spell it; spellings: other words for it. words: stand for it in
    a negative prompt. phrases: what it covers, as limits in words. meaning: what a judge looks for."""

    name: str
    slug: str
    spellings: tuple[str, ...]
    words: str
    phrases: tuple[str, ...]
    meaning: str


@dataclass(frozen=True)
class Rule:
    """Where `field` of a profile is one of `values`, the categories `bans` are banned."""

    name: str
    field: str
    values: tuple[str, ...]
    bans: tuple[str, ...]


@dataclass(frozen=True)
class Taxonomy:
    """categories: in their order, which is that of every ban list and code. levels: ban lists of level 0 to 5; ():
    in even steps."""

    name: str
    categories: tuple[Category, ...]
    rules: tuple[Rule, ...] = ()
    levels: tuple[tuple[str, ...], ...] = ()

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(category.name for category in self.categories)

    @cached_property
    def words(self) -> dict[str, str]:
        """What stands for each category in a negative prompt."""
        return {category.name: category.words for category in self.categories}

    @cached_property
    def slugs(self) -> dict[str, str]:
        return {category.name: category.slug for category in self.categories}

    @cached_property
    def slugs_in_order(self) -> tuple[str, ...]:
        return tuple(category.slug for category in self.categories)

    @cached_property
    def fingerprint(self) -> str:
        """16 hexadecimal digits that name all of it but its own name."""
        content = {name: value for name, value in asdict(self).items() if name != "name"}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def mark(self) -> Record | None:
        """What is written into data sets, user vectors and adapters that are made with it; None for the default."""
        if self.fingerprint == default_taxonomy().fingerprint:
            return None
        return {"name": self.name, "fingerprint": self.fingerprint, "categories": list(self.names)}

    @property
    def label(self) -> str | None:
        """What rows of pictures carry: its name and a digest of the categories; None for those of the default."""
        if self.names == default_taxonomy().names:
            return None
        return f"{self.name}#{hashlib.sha256(json.dumps(self.names).encode()).hexdigest()[:16]}"

    def find(self, text: Any) -> str | None:
        """Category of a name, slug or spelling in any case, with any mark between its parts; None for another word."""
        return self._by_letters.get(_letters(text)) if isinstance(text, str) else None

    @cached_property
    def _by_letters(self) -> dict[str, str]:
        return {_letters(word): one.name for one in self.categories for word in (one.name, one.slug, *one.spellings)}


# --- the one in use -------------------------------------------------------------------------------------------------

_in_use: list[Taxonomy] = []


def current() -> Taxonomy:
    """The taxonomy in use. Raises UsageError where PSALIGN_TAXONOMY names a file that is no taxonomy."""
    if _in_use:
        return _in_use[-1]
    named = os.environ.get(VARIABLE)
    return read_taxonomy(Path(named)) if named else default_taxonomy()


def category_names() -> tuple[str, ...]:
    """The categories in use, in their order."""
    return current().names


def taxonomy_mark() -> Record:
    """What JSON files say about the taxonomy in use; nothing about the default one."""
    mark = current().mark
    return {} if mark is None else {"taxonomy": mark}


@contextmanager
def use_taxonomy(taxonomy: Taxonomy) -> Iterator[Taxonomy]:
    """Use a taxonomy for a while, in all threads of this process. Processes that are started meanwhile do not know
    of it: for those, name its file with PSALIGN_TAXONOMY."""
    _in_use.append(taxonomy)
    try:
        yield taxonomy
    finally:
        _in_use.remove(taxonomy)


def require_taxonomy(mark: Record | None, *, of: str) -> None:
    """Raises TaxonomyMismatch where something was made with other categories, or another order, than those in use.

    mark: what it carries (Taxonomy.mark). Rules, spellings and words may change: they decide what a user bans, not
    what a place in a code means. of: what it is, for the message, as "the user vectors in data/embeddings/mine".
    """
    default, now = default_taxonomy(), current()
    name, names = (DEFAULT, list(default.names)) if mark is None else _read_mark(mark, of)
    if names == list(now.names):
        return
    there, here = ([n for n in one if n not in other] for one, other in ((names, now.names), (now.names, names)))
    parts = [f"{what}: {some_of(only, SHOWN)}" for what, only in (("only there", there), ("only here", here)) if only]
    raise TaxonomyMismatch(
        f"Made with another taxonomy: {of} with '{name}' ({_counted(names)}), and in use is '{now.name}' "
        f"({_counted(now.names)}); {'; '.join(parts) or 'their order differs'}.",
        hint=_to_give(name if names != list(default.names) else DEFAULT),
    )


def require_label(label: str | None, *, of: str) -> None:
    """The same for what carries no more than Taxonomy.label."""
    name, now = DEFAULT if label is None else label.rpartition("#")[0] or label, current()
    if _digest_of(label) != _digest_of(now.label):
        raise TaxonomyMismatch(
            f"Made with another taxonomy: {of} with '{name}', and in use is '{now.name}' ({_counted(now.names)}).",
            hint=_to_give(name),
        )


def _digest_of(label: str | None) -> str | None:
    return None if label is None else label.rpartition("#")[2]


def is_default() -> bool:
    """Whether the categories in use are the seven of the default taxonomy."""
    return category_names() == default_taxonomy().names


def require_default(what: str) -> None:
    """Raises UsageError unless the categories in use are the seven of the default taxonomy. what: needs them."""
    if not is_default():
        raise UsageError(
            f"{what} has the categories of the default taxonomy, and in use is '{current().name}' "
            f"({_counted(category_names())}).",
            hint=_to_give(DEFAULT),
        )


def _to_give(name: str) -> str:
    if name == DEFAULT:
        return f"Leave out --taxonomy and {VARIABLE}."
    return f"Give the file of '{name}': psalign --taxonomy FILE, or {VARIABLE}=FILE."


def _read_mark(mark: Any, of: str) -> tuple[str, list[str]]:
    try:
        return str(mark["name"]), [str(name) for name in mark["categories"]]
    except (TypeError, KeyError):
        raise TaxonomyMismatch(f"Nothing says with which taxonomy this was made: {of}; it is damaged.") from None


def _counted(names: Sequence[str]) -> str:
    return f"{len(names)} categor{'y' if len(names) == 1 else 'ies'}"


# --- the file -------------------------------------------------------------------------------------------------------


@lru_cache(maxsize=1)
def default_taxonomy() -> Taxonomy:
    """The seven categories of the published code."""
    where = "taxonomy.yaml"
    return _taxonomy(_parse(read_template(where), where=where), where=where, name=DEFAULT)


@lru_cache(maxsize=8)
def read_taxonomy(path: Path) -> Taxonomy:
    """The taxonomy of a YAML file, read once in a process. Raises UsageError that says what is wrong with it."""
    where = str(path)
    taxonomy = _taxonomy(_parse(read_text(path, fault=UsageError), where=where), where=where, name=path.stem)
    if taxonomy.name == DEFAULT and taxonomy.fingerprint != default_taxonomy().fingerprint:
        raise _fault(where, f"its name is '{DEFAULT}', and it is not the default taxonomy; choose another name")
    return taxonomy


def _parse(text: str, *, where: str) -> Any:
    try:
        return parse_yaml(text)
    except ValueError as err:
        raise _fault(where, f"not YAML ({err})") from err


def _taxonomy(record: Any, *, where: str, name: str) -> Taxonomy:
    _keys(record, ("name", "categories", "rules", "levels"), where, "a taxonomy")
    given = record.get("categories")
    if not isinstance(given, list) or not 1 <= len(given) <= MOST:
        saw = f"{len(given)}" if isinstance(given, list) else _seen(given)
        raise _fault(where, f"categories must be a list of 1 to {MOST}; saw {saw}")
    categories = tuple(_category(one, f"{where}, category {number}") for number, one in enumerate(given, start=1))
    _require_apart(categories, where)
    names = tuple(category.name for category in categories)
    rules = tuple(_rule(one, names, f"{where}, rule {n}") for n, one in enumerate(_list(record, "rules", where), 1))
    twice = _twice([rule.name for rule in rules])
    if twice:
        raise _fault(where, f"two rules are called '{twice}'")
    called = _text(record, "name", where, name)
    if len(called) > MOST_LETTERS:
        raise _fault(where, f"name must have at most {MOST_LETTERS} letters; saw {len(called)}")
    return Taxonomy(called, categories, rules, _levels(record, names, where))


def _category(record: Any, where: str) -> Category:
    """A category; a text alone is its name."""
    record = {"name": record} if isinstance(record, str) else record
    _keys(record, ("name", "slug", "spellings", "words", "phrases", "meaning"), where, "a category")
    name = _text(record, "name", where)
    if name.lower() in RESERVED or len(name) > MOST_LETTERS or re.search(r"[,;|()\[\]'\"]", name):
        raise _fault(where, f"name is {name!r}; expected 1 to {MOST_LETTERS} letters without , ; | brackets or "
                            f"quotation marks, and none of {', '.join(RESERVED)}")  # fmt: skip
    slug = _text(record, "slug", where, re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or None)
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", slug) or len(slug) > MOST_LETTERS or slug in RESERVED:
        raise _fault(where, f"slug is {slug!r}; expected a-z, 0-9 and single hyphens between them")
    words = _text(record, "words", where, name.lower())
    phrases = _texts(record, "phrases", where) or tuple(filter(None, (part.strip() for part in words.split(","))))
    meaning = _text(record, "meaning", where, f"{', '.join(phrases)}.")
    return Category(name, slug, _texts(record, "spellings", where), words, phrases, meaning)


def _require_apart(categories: Sequence[Category], where: str) -> None:
    """No word means two categories."""
    meant: dict[str, str] = {}
    for one in categories:
        for what, word in (("name", one.name), ("slug", one.slug), *(("spelling", word) for word in one.spellings)):
            letters = _letters(word)
            if not letters or letters in RESERVED:
                raise _fault(where, f"the {what} {word!r} of '{one.name}' cannot stand for a category")
            if meant.setdefault(letters, one.name) != one.name or (what == "name" and _count(categories, one.name) > 1):
                raise _fault(where, f"the {what} {word!r} means '{meant[letters]}' and '{one.name}'; each word must "
                                    "mean one category")  # fmt: skip


def _count(categories: Sequence[Category], name: str) -> int:
    return sum(one.name == name for one in categories)


def _rule(record: Any, names: Sequence[str], where: str) -> Rule:
    _keys(record, ("name", "field", "values", "bans"), where, "a rule")
    texts = {name: _texts(record, name, where) for name in ("values", "bans")}
    for name, given in texts.items():
        if not given:
            raise _fault(where, f"{name} must be a list of at least one text")
    return Rule(_text(record, "name", where), _text(record, "field", where), texts["values"],
                _in_order(texts["bans"], names, where, "bans"))  # fmt: skip


def _levels(record: Record, names: Sequence[str], where: str) -> tuple[tuple[str, ...], ...]:
    given = _list(record, "levels", where)
    if not given:
        return ()
    lists = [_texts({"levels": one}, "levels", where) for one in given]
    levels = tuple(_in_order(one, names, where, f"level {number}") for number, one in enumerate(lists))
    grows = all(set(one) <= set(following) for one, following in pairwise(levels))
    if len(levels) != len(LEVELS) or levels[0] or levels[-1] != tuple(names) or not grows:
        raise _fault(where, f"levels must be {len(LEVELS)} lists from nothing to all categories, each with all of "
                            "the one before it")  # fmt: skip
    return levels


def _in_order(given: Sequence[str], names: Sequence[str], where: str, what: str) -> tuple[str, ...]:
    strange = [one for one in given if one not in names]
    if strange:
        raise _fault(where, f"{what} names {strange[0]!r}; the categories are: {', '.join(names)}")
    return tuple(name for name in names if name in given)


def _keys(record: Any, known: Sequence[str], where: str, what: str) -> None:
    if not isinstance(record, dict):
        raise _fault(where, f"expected {what} with {', '.join(known)}; saw {_seen(record)}")
    strange = [str(name) for name in record if name not in known]
    if strange:
        raise _fault(where, f"unknown {strange[0]!r}; {what} has {', '.join(known)}")


def _text(record: Record, name: str, where: str, usual: str | None = None) -> str:
    value = record.get(name, usual)
    if not isinstance(value, str) or not value.strip() or not value.strip().isprintable():
        raise _fault(where, f"{name} must be a text; saw {_seen(value)}")
    return _composed(value)


def _texts(record: Record, name: str, where: str) -> tuple[str, ...]:
    values = _list(record, name, where)
    return tuple(_text({name: value}, name, where) for value in values)


def _list(record: Record, name: str, where: str) -> list[Any]:
    values = record.get(name)
    if values is not None and not isinstance(values, list):
        raise _fault(where, f"{name} must be a list; saw {_seen(values)}")
    return values or []


def _seen(value: Any) -> str:
    if isinstance(value, list | dict | set):  # references may make it huge: it is not shown
        return type(value).__name__
    return "nothing" if value is None else f"{type(value).__name__} {str(value)[:40]!r}"


def _twice(names: Sequence[str]) -> str | None:
    return next((name for name in names if names.count(name) > 1), None)


def _letters(text: str) -> str:
    return re.sub(r"[\s_-]+", "", _composed(text)).lower()


def _composed(text: str) -> str:
    """Text in the one form that accents have here: an "ä" is one letter, as a Mac may write it with two."""
    return unicodedata.normalize("NFC", text.strip())


def _fault(where: str, what: str) -> UsageError:
    return UsageError(f"{where}: {what}.", hint=HINT)
