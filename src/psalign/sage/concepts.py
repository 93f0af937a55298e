"""Concepts of a dataset to build: what its pictures are about, each of one category; and which are kept from training.

Place on the path of data: the first step of sage/build.py.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from ..categories import category_names
from ..errors import DatasetError, UsageError
from ..files import Record, write_csv
from ..records import fingerprint
from .columns import name_columns, read_table
from .preference import find_category, picture_name, read_picture_name, shorten

NAMES = {"category": ("label",), "concept": ()}  # of columns, and their other names


@dataclass(frozen=True, order=True)
class Concept:
    """What a pair of pictures is about: a word or a few, of one category."""

    category: str
    concept: str


@dataclass(frozen=True, order=True)
class Item:
    """One pair of pictures to make: a concept, and which of its pairs."""

    concept: Concept
    index: int

    @property
    def key(self) -> str:
        """16 hexadecimal digits that name it."""
        return fingerprint([*asdict(self.concept).values(), self.index])

    def picture(self, user_id: str, *, unsafe: bool) -> str:
        """File name of one of its pictures, as this user's."""
        about = self.concept
        return picture_name(
            user_id=user_id, category=about.category, concept=about.concept, index=self.index, unsafe=unsafe
        )

    def __str__(self) -> str:
        return f"'{self.concept.concept}' ({self.concept.category}), {self.index:05d}"


def read_concepts(path: Path) -> list[Concept]:
    """Concepts of a CSV file with the columns category and concept.

    Raises DatasetError that names the row of an unknown category, a concept that is none or stands there twice.
    """
    table = read_table(path)
    table.require("category", "concept", names=NAMES)
    concepts: list[Concept] = []
    for number, record in table.rows:
        where = f"{path}, row {number}"
        if isinstance(record, DatasetError):
            raise record
        concept = _concept(name_columns(record, NAMES, where=where), where=where)
        if concept in concepts:
            raise DatasetError(f"{where}: {concept.concept!r} stands there twice for {concept.category}.")
        concepts.append(concept)
    if not concepts:
        raise DatasetError(f"{path} has no concepts; expected a row for each, with category and concept.")
    return concepts


def write_concepts(path: Path, concepts: Sequence[Concept]) -> None:
    write_csv(path, [asdict(concept) for concept in concepts])


def is_concept(text: str) -> bool:
    """Whether a concept can stand in the name of a picture, and be read from it again."""
    name = picture_name(user_id="0000001", category=category_names()[0], concept=text, index=0, unsafe=True)
    found = read_picture_name(name)
    return found is not None and found.concept == text and len(text) <= 100


def _concept(values: Record, *, where: str) -> Concept:
    category = find_category(values["category"])
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
    """Concepts that no training row has: this share of each category, at least one where share is above 0.

    Raises UsageError where that leaves a category none to train on.
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
    """So many of these items, in an order that the seed alone decides; fewer where there are not as many."""
    return sorted(items, key=lambda item: fingerprint([str(seed), item.key]))[:count]
