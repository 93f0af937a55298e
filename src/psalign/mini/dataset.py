"""Writes the mini world as a SAGE dataset (layout A), with users and with prompts to evaluate on.

Place on the path of data: makes the rows that sage/ reads and the prompts that diffusion/generate.py draws.

No training split has the held-out motifs, wordings, or combinations of subject, colour and background.
"""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from ..categories import require_default
from ..config import check_range
from ..errors import OutputError, UsageError
from ..files import Record, read_json, write_bytes, write_json, write_jsonl
from ..progress import Progress
from ..records import PromptRow, fingerprint
from ..sage.limit_rows import FILE as LIMITS
from ..sage.rows import METADATA, SPLITS, SageRow, picture_name, unsafe_is_chosen, write_split
from ..users.levels import level_profiles
from ..users.policy import banned_categories
from ..users.population import sample_profiles
from ..users.profile import UserProfile, save_profiles
from . import language, world
from .limits import LimitSource, sample_limit_rows

TRAIN_MOTIFS = {
    category: tuple(m for m in motifs if m not in world.HELD_OUT_MOTIFS)
    for category, motifs in world.CATEGORY_MOTIFS.items()
}
# What a negative prompt can say of each category: every motif it has (all seven just fit the tokenizer's length).
WORDS_TO_AVOID = {category: " ".join(motifs) for category, motifs in world.CATEGORY_MOTIFS.items()}

MOST_ROWS, MOST_SEEDS = 10_000_000, 2**31 - 1
MOST_NAMES = 2  # of three: no training row has the last one
BUILDING = "building.json"  # the mark of a build that is on its way


@dataclass(frozen=True)
class DatasetConfig:
    """Sizes of the mini dataset. *_users: how many per split; concepts: pairs of pictures per user.

    ban_list_share: share of users who give only a list of categories, and nothing of themselves.
    two_motif_share: share of pairs whose unsafe caption asks for two motifs.
    names: of each motif and kind (NAMES, KIND_NAMES), the first so many are used; plural_share: of motifs in plural;
    denial_share: of pairs whose captions say what is not there.
    pictured_users: so many training users have pictures, the others captions alone; None: all.
    limit_rows: captions with limits in words, in the training split.
    Evaluation: prompts per rate in each suite; levels: prompts drawn at each level.
    """

    seed: int = 11
    train_users: int = 400
    val_users: int = 20
    test_users: int = 50
    concepts: int = 12
    ban_list_share: float = 0.25
    two_motif_share: float = 0.4
    names: int = 2
    plural_share: float = 0.2
    denial_share: float = 0.0
    scenes: int = 210
    seen: int = 60
    wordings: int = 60
    two_motifs: int = 60
    motifs: int = 70
    safe: int = 210
    levels: int = 40
    pictured_users: int | None = None
    limit_rows: int = 6000

    def __post_init__(self) -> None:
        """Raises UsageError for a value that makes no sense."""
        for field in fields(self):
            value = getattr(self, field.name)
            if field.name.endswith("_share"):
                check_range(f"dataset.{field.name}", value, 0, 1)
            elif value is not None:
                low = 1 if field.name in ("train_users", "test_users", "concepts", "names") else 0
                high = {"seed": MOST_SEEDS, "names": MOST_NAMES}.get(field.name, MOST_ROWS)
                check_range(f"dataset.{field.name}", value, low, high)
        if self.test_users > self.train_users:
            raise UsageError(
                f"dataset.test_users must be no more than train_users; saw {self.test_users} and {self.train_users}."
            )


def build(
    root: Path,
    config: DatasetConfig,
    *,
    captions_only: bool = False,
    users: Mapping[str, Sequence[UserProfile]] | None = None,
) -> None:
    """Write users, splits and prompts. A finished build of the same config is left as it is, one that was
    interrupted begins anew.

    captions_only: draw no picture; the rows are the same. users: of each split, in place of those of split_users.
    Raises OutputError where root holds another build, or files of these names that were not built here.
    """
    require_default("The mini world")
    mark = root / "dataset.json"
    made_of: Record = {"config": asdict(config), "world": fingerprint(world.definitions())}
    if captions_only:
        made_of["captions_only"] = True
    if users is not None:
        made_of["users"] = fingerprint(
            {split: [user.model_dump() for user in people] for split, people in users.items()}
        )
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
        pictured = len(profiles) if split != "train" or config.pictured_users is None else config.pictured_users
        _build_split(
            root, split, profiles, config, seed=config.seed * 10 + number, pictured=0 if captions_only else pictured
        )
    if config.limit_rows:
        motifs = tuple(motif for some in TRAIN_MOTIFS.values() for motif in some)
        source = LimitSource(motifs, config.names, config.plural_share)
        rng = np.random.default_rng((config.seed, len(SPLITS)))
        write_jsonl(root / "train" / LIMITS, list(sample_limit_rows(rng, source, config.limit_rows)))
    write_jsonl(root / "prompts.jsonl", prompts(users, config))
    write_json(mark, {"fingerprint": fingerprint(made_of), **made_of})
    (root / BUILDING).unlink(missing_ok=True)


def claim_build(root: Path, name: str, *, mark: Path, names: Sequence[str], what: str) -> bool:
    """Whether a build is finished: root has the mark of this one; else root is claimed for it.

    names: patterns of what the build writes. Half a build of other settings is removed. Raises OutputError where root
    has the mark of another build, or files of these names that no build has claimed.
    """
    hint = "Choose another --out, or move these files away."
    fault = partial(OutputError, hint="Choose another --out, or remove that folder.")
    if mark.exists():
        if read_json(mark, what=f"the mark of a {what}", needs=("fingerprint",), fault=fault)["fingerprint"] != name:
            raise OutputError(f"{root} holds another {what}.", hint="Choose another --out, or remove that folder.")
        return True
    begun = root / BUILDING
    there = [path for name in names for path in sorted(root.glob(name))]
    if there and not begun.exists():
        told = ", ".join(path.relative_to(root).as_posix() for path in there[:3])
        raise OutputError(f"{root} holds {told}, not built here; nothing was changed.", hint=hint)
    if (
        begun.exists()
        and read_json(begun, what="the mark of a build", needs=("fingerprint",), fault=fault)["fingerprint"] != name
    ):
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


def _build_split(
    root: Path, split: str, users: Sequence[UserProfile], config: DatasetConfig, *, seed: int, pictured: int
) -> None:
    rng = np.random.default_rng(seed)
    rows: list[SageRow] = []
    for number, user in enumerate(Progress(users, desc=f"making {split}", unit="user")):
        folder = root / split if number < pictured else None
        for index in range(config.concepts):
            rows += _pair(folder, user, config, rng, index=index, held_out=split.startswith("test"))
    write_split(root, split, rows)


def _pair(
    folder: Path | None,
    user: UserProfile,
    config: DatasetConfig,
    rng: np.random.Generator,
    *,
    index: int,
    held_out: bool,
) -> Iterator[SageRow]:
    """Draw the two pictures of one concept and give their two rows: unsafe caption, safe caption.

    folder: of the pictures; None: draw none.
    """
    banned = banned_categories(user)
    category = world.CATEGORIES[index % len(world.CATEGORIES)]
    motifs = [_pick(rng, TRAIN_MOTIFS[category])]
    if rng.random() < config.two_motif_share:
        motifs.append(_other(rng, motifs[0], TRAIN_MOTIFS))
        rng.shuffle(motifs)
    unsafe = world.sample_scene(rng, motifs=motifs, held_out=held_out)
    harmful = [m for m in unsafe.motifs if world.MOTIF_CATEGORY[m] in banned]
    # A pair is about one category: with one banned motif and one allowed, about the banned one.
    category = world.MOTIF_CATEGORY[harmful[0]] if harmful else category
    safe = unsafe.without(harmful or unsafe.motifs)
    concept = " with ".join(unsafe.motifs)
    names = [
        picture_name(user_id=user.user_id, category=category, concept=concept, index=index, unsafe=u)
        for u in (False, True)
    ]
    seed = int(rng.integers(2**31))
    for name, scene in zip(names, (safe, unsafe), strict=True):
        if folder is not None:
            _write_jpeg(folder / name, world.draw(scene, seed=seed))
    wording = world.WORDINGS[rng.integers(len(world.WORDINGS))]
    mentions = {motif: _mention(rng, config) for motif in unsafe.motifs}
    denial = _denial(rng, unsafe, config)
    for kind, scene in (("unsafe", unsafe), ("safe", safe)):
        told = language.Telling(tuple(mentions[motif] for motif in scene.motifs), denial)
        chosen = unsafe_is_chosen(caption_kind=kind, category=category, banned=banned)
        yield SageRow(
            user_id=user.user_id,
            category=category,
            concept=concept,
            index=f"{index:05d}",
            caption=language.caption(scene, wording, told),
            caption_kind=kind,
            chosen=names[chosen],
            rejected=names[not chosen],
            user_data=_user_data(user),
            chose_unsafe=chosen,
        )


def _mention(rng: np.random.Generator, config: DatasetConfig) -> language.Mention:
    return language.Mention(
        form="many" if rng.random() < config.plural_share else "one",
        name=int(rng.integers(config.names)),
        kind=int(rng.choice(3, p=(0.5, 0.3, 0.2))),
        kind_name=int(rng.integers(config.names)),
    )


def _denial(rng: np.random.Generator, scene: world.Scene, config: DatasetConfig) -> language.Denial | None:
    """A denial of a motif that is in neither picture of a pair, or none."""
    if rng.random() >= config.denial_share:
        return None
    absent = [motif for motifs in TRAIN_MOTIFS.values() for motif in motifs if motif not in scene.motifs]
    name, wording = int(rng.integers(config.names)), int(rng.integers(len(language.NEGATIONS)))
    return language.Denial(_pick(rng, absent), name=name, wording=wording, first=bool(rng.integers(2)))


def _user_data(user: UserProfile) -> Record:
    return {
        "User_ID": user.user_id,
        "Age": user.age,
        "Age_Group": user.age_group,
        "Gender": user.gender,
        "Religion": user.religion,
        "Physical_Condition": user.physical_condition,
        "Mental_Condition": user.mental_condition,
    }


def _write_jpeg(path: Path, picture: np.ndarray) -> None:
    stream = io.BytesIO()
    Image.fromarray(picture).save(stream, format="JPEG", quality=97, subsampling=0)
    write_bytes(path, stream.getvalue(), sync=False)


# --- prompts to evaluate on -----------------------------------------------------------------------------------------


def prompts(users: Mapping[str, Sequence[UserProfile]], config: DatasetConfig) -> list[PromptRow]:
    """Prompts with what they ask for, on held-out combinations: suites scenes, wordings, two_motifs, motifs, levels.

    In every suite half of the unsafe prompts ask for a category that their user bans, half for one the user allows.
    """
    rng = np.random.default_rng(config.seed + 1)
    unseen, seen = users["test_unseen"], users["test_seen"]
    rows: list[PromptRow] = []
    held_out = {category: motifs[-1:] for category, motifs in world.CATEGORY_MOTIFS.items()}

    def add(
        suite: str,
        people: Sequence[UserProfile],
        count: int,
        motifs: dict[str, tuple[str, ...]],
        wordings: Sequence[tuple[str, str]],
    ) -> None:
        for banning in (True, False):
            for number in range(count):
                category = world.CATEGORIES[number % len(world.CATEGORIES)]
                user = _user_who(rng, people, category, banning=banning)
                rows.append(
                    _unsafe_prompt(rng, suite, user, category, motifs, wordings, seen=people is seen, number=len(rows))
                )

    add("scenes", unseen, config.scenes, TRAIN_MOTIFS, world.WORDINGS)
    add("scenes", seen, config.seen, TRAIN_MOTIFS, world.WORDINGS)
    add("wordings", unseen, config.wordings, TRAIN_MOTIFS, world.HELD_OUT_WORDINGS)
    add("two_motifs", unseen, config.two_motifs, TRAIN_MOTIFS, world.WORDINGS)
    add("motifs", unseen, config.motifs, held_out, world.WORDINGS)
    for _ in range(config.safe):
        user = unseen[int(rng.integers(len(unseen)))]
        rows.append(_safe_prompt(rng, user, number=len(rows)))
    return rows + _level_prompts(rng, config)


def _unsafe_prompt(
    rng: np.random.Generator,
    suite: str,
    user: UserProfile,
    category: str,
    motifs: dict[str, tuple[str, ...]],
    wordings: Sequence[tuple[str, str]],
    *,
    seen: bool,
    number: int,
) -> PromptRow:
    wanted = [_pick(rng, motifs[category])]
    if suite == "two_motifs":
        wanted.append(_other(rng, wanted[0], motifs))
    scene = world.sample_scene(rng, motifs=wanted if rng.random() < 0.5 else wanted[::-1], held_out=True)
    kinds = rng.choice(3, size=2, p=(0.5, 0.3, 0.2)).tolist()
    text = world.caption(scene, wordings[int(rng.integers(len(wordings)))], kinds=kinds)
    meta = scene_meta(scene, suite=suite, kind="unsafe", category=category, motif=wanted[0], seen=seen)
    return _row(rng, text, user.user_id, meta, f"{suite}_{number:05d}.png")


def _safe_prompt(rng: np.random.Generator, user: UserProfile, *, number: int) -> PromptRow:
    scene = world.sample_scene(rng, motifs=(), held_out=True)
    text = world.caption(scene, world.WORDINGS[rng.integers(len(world.WORDINGS))])
    meta = scene_meta(scene, suite="scenes", kind="safe", category=None, motif=None, seen=False)
    return _row(rng, text, user.user_id, meta, f"safe_{number:05d}.png")


def _level_prompts(rng: np.random.Generator, config: DatasetConfig) -> list[PromptRow]:
    """The same prompts and seeds at each of the six levels."""
    rows = []
    for number in range(config.levels):
        category = world.CATEGORIES[number % len(world.CATEGORIES)]
        scene = world.sample_scene(rng, motifs=(_pick(rng, TRAIN_MOTIFS[category]),), held_out=True)
        text = world.caption(scene, world.WORDINGS[rng.integers(len(world.WORDINGS))])
        meta = scene_meta(scene, suite="levels", kind="unsafe", category=category, motif=scene.motifs[0], seen=False)
        seed = int(rng.integers(2**31))
        for level in level_profiles():
            name = f"{level.user_id}_{number:05d}.png"
            rows.append(PromptRow(name, text, seed, user_id=level.user_id, meta=meta))
    return rows


def scene_meta(
    scene: world.Scene,
    *,
    suite: str,
    kind: str,
    category: str | None = None,
    motif: str | None = None,
    seen: bool = False,
) -> Record:
    """What a row of prompts says of the scene that it asks for. kind: "unsafe" where it has motifs, else "safe"."""
    return {
        "suite": suite,
        "kind": kind,
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


def _row(rng: np.random.Generator, text: str, user_id: str, meta: Record, name: str) -> PromptRow:
    return PromptRow(name, text, int(rng.integers(2**31)), user_id=user_id, meta=meta)


def _user_who(rng: np.random.Generator, users: Sequence[UserProfile], category: str, *, banning: bool) -> UserProfile:
    fitting = [user for user in users if (category in banned_categories(user)) == banning]
    if not fitting:
        verb = "bans" if banning else "allows"
        raise UsageError(f"No user of {len(users)} {verb} {category}; the dataset needs more test users.")
    return fitting[rng.integers(len(fitting))]


def _pick(rng: np.random.Generator, choices: Sequence[str]) -> str:
    return choices[int(rng.integers(len(choices)))]


def _other(rng: np.random.Generator, motif: str, motifs: dict[str, tuple[str, ...]]) -> str:
    """A motif of another category."""
    other = [c for c in world.CATEGORIES if c != world.MOTIF_CATEGORY[motif]]
    return _pick(rng, motifs[_pick(rng, other)])
