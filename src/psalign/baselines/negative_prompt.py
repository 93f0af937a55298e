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
    """The same drawing, whose negative prompts also say what each row's user does not want to see; all categories for a
    row of no user.

    The words come after the negative prompt that the drawing has already, which every method shares.
    Raises UnknownUser where nothing says what a user bans.
    """
    texts = {NOBODY: negative_prompt(category_names(), words)}
    for user_id in {row.user_id for row in rows if row.user_id is not None}:
        texts[user_id] = with_limits(negative_prompt(known_bans(users, user_id), words), users, user_id)
    said = {user_id: _joined(config.negative_prompt, text) for user_id, text in texts.items()}
    return replace(config, negative_prompts=said)


def with_limits(text: str, users: Users, user_id: str | None) -> str:
    """A text, followed by a user's limits in words, which are personal: nothing may record the result."""
    phrases = () if user_id is None else tuple(phrase for phrase, _ in users.limits(user_id))
    return _joined(text, *phrases)


def _joined(*texts: str) -> str:
    return ", ".join(text for text in texts if text)
