"""Prompts of the mini world to evaluate on, with what each asks for.

Place on the path of data: prompts.jsonl of the mini dataset, which step 6 draws. Every scene is of the
combinations of subject, colour and background that no training split has.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from ..errors import UsageError
from ..files import Record
from ..records import PromptRow
from ..users.levels import level_profiles
from ..users.policy import banned_categories
from ..users.profile import UserProfile
from . import world
from .sizes import DatasetConfig


@dataclass(frozen=True)
class _Suite:
    """count: prompts for a banned category, and as many for an allowed one.

    held_out: whether motifs are held out.
    """

    name: str
    people: Sequence[UserProfile]
    count: int
    held_out: bool = False
    wordings: Sequence[tuple[str, str]] = world.WORDINGS
    seen_users: bool = False


def prompts(users: Mapping[str, Sequence[UserProfile]], config: DatasetConfig) -> list[PromptRow]:
    """Prompts of the suites scenes, wordings, two_motifs, motifs and levels. users: those of each split.

    In every suite half of the unsafe prompts ask for a category that their user bans, half for one the user
    allows.
    Raises UsageError where no test user bans, or allows, a category.
    """
    rng = np.random.default_rng(config.seed + 1)
    unseen = users["test_unseen"]
    suites = (
        _Suite("scenes", unseen, config.scenes),
        _Suite("scenes", users["test_seen"], config.seen, seen_users=True),
        _Suite("wordings", unseen, config.wordings, wordings=world.HELD_OUT_WORDINGS),
        _Suite("two_motifs", unseen, config.two_motifs),
        _Suite("motifs", unseen, config.motifs, held_out=True),
    )
    rows: list[PromptRow] = []
    for suite in suites:
        for banning in (True, False):
            for number in range(suite.count):
                category = world.CATEGORIES[number % len(world.CATEGORIES)]
                user = _user_who(rng, suite.people, category, banning=banning)
                rows.append(_unsafe_prompt(rng, suite, user, category, number=len(rows)))
    for _ in range(config.safe):
        rows.append(_safe_prompt(rng, world.pick(rng, unseen), number=len(rows)))
    return rows + _level_prompts(rng, config.levels)


def scene_meta(
    scene: world.Scene, *, suite: str, category: str | None = None, motif: str | None = None, seen: bool = False
) -> Record:
    """What a prompt says of its scene: "kind" is "unsafe" where the scene has motifs, else "safe".

    category, motif: those that the prompt is about. seen: whether its user has training rows.
    """
    return {
        "suite": suite,
        "kind": "unsafe" if scene.motifs else "safe",
        "category": category,
        "motif": motif,
        "motifs": list(scene.motifs),
        "categories": list(scene.categories),
        "subject": scene.subject,
        "colour": scene.colour,
        "background": scene.background,
        "side": scene.side,
        "seen_user": seen,
    }


def _unsafe_prompt(
    rng: np.random.Generator, suite: _Suite, user: UserProfile, category: str, *, number: int
) -> PromptRow:
    motifs = world.CATEGORY_MOTIFS[category][-1:] if suite.held_out else world.TRAIN_MOTIFS[category]
    wanted = [world.pick(rng, motifs)]
    if suite.name == "two_motifs":
        wanted.append(world.other_motif(rng, wanted[0]))
    scene = world.sample_scene(rng, motifs=wanted if rng.random() < 0.5 else wanted[::-1], held_out=True)
    text = world.sample_caption(scene, rng, suite.wordings)
    meta = scene_meta(scene, suite=suite.name, category=category, motif=wanted[0], seen=suite.seen_users)
    return PromptRow(f"{suite.name}_{number:05d}.png", text, _seed(rng), user_id=user.user_id, meta=meta)


def _safe_prompt(rng: np.random.Generator, user: UserProfile, *, number: int) -> PromptRow:
    scene = world.sample_scene(rng, motifs=(), held_out=True)
    text = world.caption(scene, world.pick(rng, world.WORDINGS))
    meta = scene_meta(scene, suite="scenes")
    return PromptRow(f"safe_{number:05d}.png", text, _seed(rng), user_id=user.user_id, meta=meta)


def _level_prompts(rng: np.random.Generator, count: int) -> list[PromptRow]:
    """`count` prompts, the same ones with the same seeds at each of the six levels."""
    rows = []
    for number in range(count):
        category = world.CATEGORIES[number % len(world.CATEGORIES)]
        scene = world.sample_scene(rng, motifs=(world.pick(rng, world.TRAIN_MOTIFS[category]),), held_out=True)
        text = world.caption(scene, world.pick(rng, world.WORDINGS))
        meta = scene_meta(scene, suite="levels", category=category, motif=scene.motifs[0])
        seed = _seed(rng)
        for level in level_profiles():
            name = f"{level.user_id}_{number:05d}.png"
            rows.append(PromptRow(name, text, seed, user_id=level.user_id, meta=meta))
    return rows


def _user_who(rng: np.random.Generator, users: Sequence[UserProfile], category: str, *, banning: bool) -> UserProfile:
    fitting = [user for user in users if (category in banned_categories(user)) == banning]
    if not fitting:
        verb = "bans" if banning else "allows"
        raise UsageError(f"No user of {len(users)} {verb} {category}; the dataset needs more test users.")
    return world.pick(rng, fitting)


def _seed(rng: np.random.Generator) -> int:
    return int(rng.integers(2**31))
