"""Baseline: say in the negative prompt what the user bans.

Place on the path of data: an alternative to steps 3 to 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..records import CATEGORIES

CATEGORY_WORDS = {category: category.lower() for category in CATEGORIES}


def negative_prompt(banned: Sequence[str], words: Mapping[str, str] = CATEGORY_WORDS) -> str:
    """The words of every banned category, in the order of CATEGORIES; empty where nothing is banned."""
    return " ".join(words[category] for category in CATEGORIES if category in banned)
