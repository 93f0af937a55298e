"""Baseline: say in the negative prompt what the user bans.

Place on the path of data: an alternative to steps 3 to 5.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from ..categories import category_names, current
from ..diffusion.generate import NOBODY, GenerationConfig, Users, known_bans
from ..records import PromptRow


def negative_prompt(banned: Sequence[str], words: Mapping[str, str] | None = None) -> str:
    """The words of every banned category, in the order of the taxonomy; empty where nothing is banned.

    words: that stand for each category; None: those of the taxonomy in use.
    """
    words = current().words if words is None else words
    return " ".join(words[category] for category in category_names() if category in banned)


def with_negative_prompts(
    config: GenerationConfig, rows: Sequence[PromptRow], users: Users, words: Mapping[str, str] | None = None
) -> GenerationConfig:
    """The same drawing, whose negative prompts also say what each row's user bans; all categories for a row of no user.

    The words come after the negative prompt that the drawing has already, which every method shares.
    Raises UnknownUser where nothing says what a user bans.
    """
    texts = {
        NOBODY: category_names(),
        **{row.user_id: known_bans(users, row.user_id) for row in rows if row.user_id is not None},
    }
    said = {user_id: _joined(config.negative_prompt, negative_prompt(bans, words)) for user_id, bans in texts.items()}
    return replace(config, negative_prompts=said)


def _joined(*texts: str) -> str:
    return ", ".join(text for text in texts if text)
