"""Concepts of a dataset to build: the things that its pictures are about, each of one category.

Place on the path of data: the first step of a build.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ...categories import category_names, current
from ...errors import DatasetError, UsageError
from ...files import Record, write_csv
from ...fingerprints import fingerprint
from ...ids import shorten
from ...tables import Columns, read_table
from ..names import can_be_named
from ..rows import Pair

COLUMNS = Columns({"category": ("label",), "concept": ()})


@dataclass(frozen=True, order=True)
class Concept:
    """The thing that a pair of pictures is about: a few words, of one category."""

    category: str
    concept: str


@dataclass(frozen=True, order=True)
class Item:
    """One pair of pictures to make. index: its number among the pairs of its concept."""

    concept: Concept
    index: int

    @property
    def key(self) -> str:
        """16 hexadecimal digits that name it."""
        return fingerprint([*asdict(self.concept).values(), self.index])

    def pair(self, user_id: str) -> Pair:
        """What the rows of this pair of a user share."""
        return (user_id, self.concept.category, self.concept.concept, f"{self.index:05d}")

    def __str__(self) -> str:
        return f"'{self.concept.concept}' ({self.concept.category}), {self.index:05d}"


def read_concepts(path: Path) -> list[Concept]:
    """Concepts of a CSV file with the columns category and concept.

    Raises DatasetError that names the row of an unknown category, of a text that cannot be a concept, and of
    a concept that is there twice.
    """
    table = read_table(path, strip=True)
    table.require("category", "concept", columns=COLUMNS)
    concepts: list[Concept] = []
    for where, record in table.records():
        concept = _concept(COLUMNS.name(record, where=where), where=where)
        if concept in concepts:
            raise DatasetError(f"{where}: {concept.concept!r} is there twice for {concept.category}.")
        concepts.append(concept)
    if not concepts:
        raise DatasetError(f"{path} has no concepts; expected a row for each, with category and concept.")
    return concepts


def write_concepts(path: Path, concepts: Sequence[Concept]) -> None:
    write_csv(path, [asdict(concept) for concept in concepts])


def is_concept(text: str) -> bool:
    """Whether a concept can be part of a picture's name, and be read from it again."""
    return len(text) <= 100 and can_be_named(("0000001", category_names()[0], text, "00000"))


def _concept(values: Record, *, where: str) -> Concept:
    category = current().find(values["category"])
    if category is None:
        raise DatasetError(
            f"{where}: category is {shorten(values['category'])}; choose one of: {', '.join(category_names())}."
        )
    text = " ".join(values["concept"].replace("_", " ").split())
    if not is_concept(text):
        raise DatasetError(
            f"{where}: concept is {shorten(values['concept'])}; expected a few words that can be part of a file's name."
        )
    return Concept(category, text)


def hold_out(concepts: Iterable[Concept], share: float, *, seed: int) -> set[Concept]:
    """Concepts without training rows: this share of each category, at least one where the share is above 0.

    Raises UsageError where that leaves a category without a concept to train on.
    """
    if not 0 <= share < 1:
        raise UsageError(f"The share of concepts to hold out must be from 0 to below 1; saw {share}.")
    held: set[Concept] = set()
    for category, members in by_category(concepts).items():
        count = max(1, round(share * len(members))) if share else 0
        if count >= len(members) > 0:
            raise UsageError(f"{category} has {len(members)} concepts; holding out {count} leaves none to train on.")
        held |= set(sorted(members, key=lambda concept: fingerprint([seed, asdict(concept)]))[:count])
    return held


def by_category(concepts: Iterable[Concept]) -> dict[str, list[Concept]]:
    """Concepts of each category that has one, in the order of the taxonomy."""
    everything = list(concepts)
    groups = {category: [one for one in everything if one.category == category] for category in category_names()}
    return {category: group for category, group in groups.items() if group}


def choose(items: Collection[Item], count: int, *, seed: object) -> list[Item]:
    """`count` of these items, or all where there are fewer, in an order that only the seed decides."""
    return sorted(items, key=lambda item: fingerprint([str(seed), item.key]))[:count]
