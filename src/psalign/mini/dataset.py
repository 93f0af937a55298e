"""Writes the mini world as a SAGE dataset (layout A), with users and with prompts to evaluate on.

Place on the path of data: makes the rows that sage/ reads and the prompts that diffusion/generate.py draws.

No training split has the held-out motifs, wordings, or combinations of subject, colour and background.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np

from ..categories import require_default
from ..decoding import encode
from ..errors import OutputError
from ..files import Record, read_json, write_bytes, write_json, write_jsonl
from ..fingerprints import fingerprint
from ..progress import Progress
from ..sage.dataset import METADATA, write_split
from ..sage.limit_rows import FILE as LIMITS
from ..sage.names import picture_name
from ..sage.output import OTHER_OUT
from ..sage.preference import rows_of_pair
from ..sage.rows import SPLITS, Pair, SageRow
from ..users.policy import banned_categories
from ..users.population import sample_profiles
from ..users.profile import UserProfile, profile_columns, save_profiles
from . import language, world
from .limits import LimitSource, sample_limit_rows
from .prompts import prompts
from .sizes import DatasetConfig

# What a negative prompt can say of each category: every motif it has (all seven just fit the tokenizer's length).
WORDS_TO_AVOID = {category: " ".join(motifs) for category, motifs in world.CATEGORY_MOTIFS.items()}

BUILDING = "building.json"  # the mark of a build that is on its way


def build(
    root: Path,
    config: DatasetConfig,
    *,
    captions_only: bool = False,
    users: Mapping[str, Sequence[UserProfile]] | None = None,
) -> None:
    """Write users, splits and prompts. A finished build of this config is kept, an unfinished one restarted.

    captions_only: draw no picture; the rows are the same. users: those of each split; None: those of
    split_users.
    Raises OutputError where root holds another build, or files of these names that were not built here.
    """
    require_default("The mini world")
    mark = root / "dataset.json"
    made_of: Record = {"config": asdict(config), "world": fingerprint(world.definitions())}
    if captions_only:
        made_of["captions_only"] = True
    if users is not None:
        dumps = {split: [user.model_dump() for user in people] for split, people in users.items()}
        made_of["users"] = fingerprint(dumps)
    names = (
        "users.csv",
        "prompts.jsonl",
        f"train/{LIMITS}",
        *(f"{split}/{kind}" for split in SPLITS for kind in (METADATA, "user_*.jpg")),
    )
    if claim_build(root, fingerprint(made_of), mark=mark, names=names, what="dataset"):
        return
    users = split_users(config) if users is None else users
    save_profiles(root / "users.csv", [*users["train"], *users["val"], *users["test_unseen"]])
    for number, (split, profiles) in enumerate(users.items()):
        pictured = 0 if captions_only else _pictured(split, config, len(profiles))
        _build_split(root, split, profiles, config, seed=config.seed * 10 + number, pictured=pictured)
    if config.limit_rows:
        motifs = tuple(motif for some in world.TRAIN_MOTIFS.values() for motif in some)
        source = LimitSource(motifs, config.names, config.plural_share)
        rng = np.random.default_rng((config.seed, len(SPLITS)))
        write_jsonl(root / "train" / LIMITS, list(sample_limit_rows(rng, source, config.limit_rows)))
    write_jsonl(root / "prompts.jsonl", prompts(users, config))
    write_json(mark, {"fingerprint": fingerprint(made_of), **made_of})
    (root / BUILDING).unlink(missing_ok=True)


def claim_build(root: Path, name: str, *, mark: Path, names: Sequence[str], what: str) -> bool:
    """Whether root has a finished build of this name. If not, root is marked as being built under it.

    mark: the file that a finished build has. names: patterns of the files that the build writes. Half a build
    of other settings is removed. Raises OutputError where root has the mark of another build, or files of
    these names that no build of ours wrote.
    """
    fault = partial(OutputError, hint=OTHER_OUT)

    def name_in(path: Path, what: str) -> str:
        return str(read_json(path, what=what, needs=("fingerprint",), fault=fault)["fingerprint"])

    if mark.exists():
        if name_in(mark, f"the mark of a {what}") != name:
            raise fault(f"{root} holds another {what}.")
        return True
    begun = root / BUILDING
    there = [path for name in names for path in sorted(root.glob(name))]
    if there and not begun.exists():
        some = ", ".join(path.relative_to(root).as_posix() for path in there[:3])
        raise OutputError(f"{root} holds {some}, not built here; nothing was changed.",
                          hint="Choose another --out, or move these files away.")  # fmt: skip
    if begun.exists() and name_in(begun, "the mark of a build") != name:
        for path in there:  # half a build of settings that were corrected
            path.unlink()
    write_json(begun, {"fingerprint": name})
    return False


def split_users(config: DatasetConfig) -> dict[str, list[UserProfile]]:
    """Users of each split; those of test_seen are also in train, no other user is in two."""
    count = config.train_users + config.val_users + config.test_users
    rng = np.random.default_rng(config.seed)
    people = sample_profiles(count, seed=config.seed)
    users = [_ban_list(p.user_id, rng) if rng.random() < config.ban_list_share else p for p in people]
    train, rest = users[: config.train_users], users[config.train_users :]
    seen = train[: config.test_users]
    return {
        "train": train,
        "val": rest[: config.val_users],
        "test_seen": seen,
        "test_unseen": rest[config.val_users :],
    }


def _ban_list(user_id: str, rng: np.random.Generator) -> UserProfile:
    banned = [c for c in world.CATEGORIES if rng.random() < rng.choice((0.2, 0.5, 0.8))]
    return UserProfile(user_id=user_id, banned=tuple(banned))


# --- splits --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Pair:
    """Two scenes that differ in motifs, with the category that they are about. seed: seed of both pictures."""

    user: UserProfile
    index: int
    category: str
    unsafe: world.Scene
    safe: world.Scene
    seed: int

    @property
    def key(self) -> Pair:
        """What the rows of this pair share."""
        return (self.user.user_id, self.category, " with ".join(self.unsafe.motifs), f"{self.index:05d}")


def _pictured(split: str, config: DatasetConfig, count: int) -> int:
    """How many of the users of a split, `count`, have pictures."""
    if split == "train":
        return count if config.pictured_users is None else config.pictured_users
    return count if split == "val" or config.pictured_tests else 0


def _build_split(
    root: Path, split: str, users: Sequence[UserProfile], config: DatasetConfig, *, seed: int, pictured: int
) -> None:
    """pictured: the number of users who have pictures, from the first."""
    rng = np.random.default_rng(seed)
    rows: list[SageRow] = []
    for number, user in enumerate(Progress(users, desc=f"making {split}", unit="user")):
        for index in range(config.concepts):
            pair = _sample_pair(rng, user, config, index=index, held_out=split.startswith("test"))
            if number < pictured:
                for unsafe, scene in ((False, pair.safe), (True, pair.unsafe)):
                    picture = encode(world.draw(scene, seed=pair.seed), "JPEG", quality=97, subsampling=0)
                    write_bytes(root / split / picture_name(pair.key, unsafe=unsafe), picture, sync=False)
            rows += _rows(rng, pair, config)
    write_split(root, split, rows)


def _sample_pair(
    rng: np.random.Generator, user: UserProfile, config: DatasetConfig, *, index: int, held_out: bool
) -> _Pair:
    banned = banned_categories(user)
    category = world.CATEGORIES[index % len(world.CATEGORIES)]
    motifs = [world.pick(rng, world.TRAIN_MOTIFS[category])]
    if rng.random() < config.two_motif_share:
        motifs.append(world.other_motif(rng, motifs[0]))
        rng.shuffle(motifs)
    unsafe = world.sample_scene(rng, motifs=motifs, held_out=held_out)
    harmful = [m for m in unsafe.motifs if world.MOTIF_CATEGORY[m] in banned]
    # A pair is about one category: with one banned motif and one allowed, about the banned one.
    category = world.MOTIF_CATEGORY[harmful[0]] if harmful else category
    return _Pair(user, index, category, unsafe, unsafe.without(harmful or unsafe.motifs), int(rng.integers(2**31)))


def _rows(rng: np.random.Generator, pair: _Pair, config: DatasetConfig) -> list[SageRow]:
    """The two rows of a pair: unsafe caption, safe caption."""
    wording = world.pick(rng, world.WORDINGS)
    mentions = {
        motif: language.sample_trained_mention(rng, names=config.names, plural_share=config.plural_share)
        for motif in pair.unsafe.motifs
    }
    denial = _denial(rng, pair.unsafe, config)
    captions = {}
    for kind, scene in (("unsafe", pair.unsafe), ("safe", pair.safe)):
        phrasing = language.Phrasing(tuple(mentions[motif] for motif in scene.motifs), denial)
        captions[kind] = language.caption(scene, wording, phrasing)
    banned, user_data = banned_categories(pair.user), profile_columns(pair.user)
    return rows_of_pair(pair.key, captions, banned=banned, user_data=user_data)


def _denial(rng: np.random.Generator, scene: world.Scene, config: DatasetConfig) -> language.Denial | None:
    """A denial of a motif that is in neither picture of a pair, or none."""
    if rng.random() >= config.denial_share:
        return None
    absent = [motif for motifs in world.TRAIN_MOTIFS.values() for motif in motifs if motif not in scene.motifs]
    name, wording = int(rng.integers(config.names)), int(rng.integers(len(language.NEGATIONS)))
    return language.Denial(world.pick(rng, absent), name=name, wording=wording, first=bool(rng.integers(2)))
