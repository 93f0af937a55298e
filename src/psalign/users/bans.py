"""Ban lists on disk, as `psalign users ban` writes them. Step 2 of the path of data."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import UnknownUser, UsageError
from ..ids import normalise_user_id
from ..records import CATEGORIES, read_jsonl
from .profile import UserProfile


def load_bans(path: Path) -> dict[str, tuple[str, ...]]:
    """Banned categories by user id; two lines of one user ban what either bans. Raises UsageError for another line."""
    bans: dict[str, tuple[str, ...]] = {}
    for number, record in enumerate(read_jsonl(path), start=1):
        banned = record.get("banned")
        if not isinstance(banned, list) or not set(map(str, banned)) <= set(CATEGORIES) or "user_id" not in record:
            raise UsageError(
                f"{path}, line {number}: no ban list; expected user_id and banned, out of: {', '.join(CATEGORIES)}.",
                hint="Run: psalign users ban --users users.csv --out bans.jsonl",
            )
        user_id = _user_id(record["user_id"], f"{path}, line {number}")
        both = {*banned, *bans.get(user_id, ())}  # two lines of one user: what either bans
        bans[user_id] = tuple(category for category in CATEGORIES if category in both)
    return bans


def _user_id(value: object, where: str) -> str:
    try:
        return normalise_user_id(value)
    except ValueError as err:
        raise UsageError(f"{where}: no user id: {err}.") from err


def add_bans(profiles: Sequence[UserProfile], path: Path) -> list[UserProfile]:
    """Profiles whose own ban list holds what a file says as well: it can add, never take away.

    Raises UnknownUser where a profile has no line.
    """
    bans = load_bans(path)
    missing = [profile.user_id for profile in profiles if profile.user_id not in bans]
    if missing:
        raise UnknownUser(
            f"{len(missing)} of {len(profiles)} users have no line in {path}: {', '.join(missing[:5])}.",
            hint="Run: psalign users ban --users users.csv --out bans.jsonl",
        )
    both = [{*(profile.banned or ()), *bans[profile.user_id]} for profile in profiles]
    lists = [tuple(category for category in CATEGORIES if category in banned) for banned in both]
    return [profile.model_copy(update={"banned": banned}) for profile, banned in zip(profiles, lists, strict=True)]
