"""The seven categories of the default taxonomy, and other taxonomies that tests use."""

from __future__ import annotations

from pathlib import Path

import yaml

from psalign.categories import Taxonomy, default_taxonomy, read_taxonomy

CATEGORIES = default_taxonomy().names

TEN = {
    "name": "ten",
    "categories": [
        "Spiders",
        {"name": "Alcohol", "spellings": ["booze", "drinks"], "words": "alcohol, wine, beer", "phrases": ["a bar"]},
        "Violence",
        {"name": "Medical scenes", "slug": "medical", "meaning": "hospitals, needles, operations."},
        "Gambling",
        {"name": "Drugs & Smoking", "spellings": ["cigarettes"]},
        "Self-Harm",
        "Horror",
        "Weapons of War",
        {"name": "Tätowierung", "slug": "tattoo", "words": "tattoo"},
    ],
    "rules": [
        {
            "name": "minor",
            "field": "age_group",
            "values": ["children", "adolescents"],
            "bans": ["Horror", "Alcohol", "Gambling"],
        },
        {"name": "afraid", "field": "mental_condition", "values": ["anxiety"], "bans": ["Spiders", "Medical scenes"]},
        {"name": "war", "field": "mental_condition", "values": ["war"], "bans": ["Weapons of War", "Violence"]},
    ],
}


def write_taxonomy(path: Path, content: object = TEN) -> Path:
    path.write_text(yaml.safe_dump(content, allow_unicode=True, sort_keys=False), encoding="utf-8")
    return path


def ten(folder: Path) -> Taxonomy:
    return read_taxonomy(write_taxonomy(folder / "ten.yaml"))


def of_size(folder: Path, count: int) -> Taxonomy:
    """A taxonomy of so many categories."""
    names = [f"Category {number}" for number in range(count)]
    return read_taxonomy(write_taxonomy(folder / f"of_{count}.yaml", {"categories": names}))
