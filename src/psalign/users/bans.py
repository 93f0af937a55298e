"""Ban lists on disk, as `psalign users ban` writes them. Step 2 of the path of data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..categories import category_names, current
from ..errors import UnknownUser, UsageError
from ..files import Record, read_jsonl
from ..ids import normalise_user_id
from .policy import explain, united_bans
from .profile import UserProfile

HINT = "Run: psalign users ban --users users.csv --out bans.jsonl"


def load_bans(path: Path) -> dict[str, tuple[str, ...]]:
    """Banned categories by user id; two lines of one user ban what either bans.

    Raises UsageError for a line that is no ban list.
    """
    return {user_id: tuple(record["banned"]) for user_id, record in _records(path).items()}


def explain_bans(profile: UserProfile, bans: Path | None) -> dict[str, list[str]]:
    """Banned category -> what bans it, by the rules and by a file of ban lists, which adds to them.

    The reasons reveal things about the person: show them to that user only. Raises UnknownUser for a user
    without a line in the file, UsageError as load_bans does.
    """
    why = explain(profile)
    for category, names in (_reasons(bans, profile.user_id) if bans else {}).items():
        why[category] = list(dict.fromkeys([*why.get(category, ()), *names]))
    return {category: why[category] for category in category_names() if category in why}


def _reasons(path: Path, user_id: str) -> dict[str, Sequence[str]]:
    records = _records(path)
    if user_id not in records:
        raise UnknownUser(f"{path} has no line of user {user_id}.", hint=HINT)
    record = records[user_id]
    why: Mapping[str, Sequence[str]] = record.get("why") or {}
    return {category: why.get(category) or ("no reason is recorded",) for category in record["banned"]}


def add_bans(profiles: Sequence[UserProfile], path: Path) -> list[UserProfile]:
    """Profiles whose own ban list holds what a file says as well: it can add, never take away.

    Raises UnknownUser where a profile has no line.
    """
    bans = load_bans(path)
    missing = [profile.user_id for profile in profiles if profile.user_id not in bans]
    if missing:
        raise UnknownUser(
            f"{len(missing)} of {len(profiles)} users have no line in {path}: {', '.join(missing[:5])}.", hint=HINT
        )
    both = [united_bans(profile.banned, bans[profile.user_id]) for profile in profiles]
    return [profile.model_copy(update={"banned": banned}) for profile, banned in zip(profiles, both, strict=True)]


def _records(path: Path) -> dict[str, Record]:
    records: dict[str, Record] = {}
    for number, record in enumerate(read_jsonl(path), start=1):
        where = f"{path}, line {number}"
        if not _is_ban_list(record.get("banned")) or "user_id" not in record:
            raise UsageError(
                f"{where}: no ban list; expected user_id and banned, out of: {', '.join(category_names())} "
                f"(taxonomy '{current().name}').",
                hint=HINT,
            )
        if not _is_why(record.get("why"), record["banned"]):
            raise UsageError(f"{where}: why must be an object of lists of words, by banned category.", hint=HINT)
        try:
            user_id = normalise_user_id(record["user_id"])
        except ValueError as err:
            raise UsageError(f"{where}: no user id: {err}.", hint=HINT) from err
        records[user_id] = _both(records[user_id], record) if user_id in records else record
    return records


def _both(first: Record, second: Record) -> Record:
    """Two lines of one user: what either bans, for the reasons of both."""
    banned = united_bans(first["banned"], second["banned"]) or ()
    whys = [record.get("why") or {} for record in (first, second)]
    return {
        "banned": list(banned),
        "why": {name: [*whys[0].get(name, ()), *whys[1].get(name, ())] for name in banned},
    }


def _is_ban_list(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) and one in category_names() for one in value)


def _is_why(value: Any, banned: Sequence[str]) -> bool:
    """None, or lists of words by banned category, as `psalign users ban` writes them."""
    if value is None:
        return True
    return isinstance(value, dict) and all(
        name in banned and isinstance(words, list) and all(isinstance(word, str) for word in words)
        for name, words in value.items()
    )
