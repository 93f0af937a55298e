"""Forgets a user: takes them out of every file that knows them. Beside steps 1 to 3 of the path of data."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from ..errors import UnknownUser, UsageError
from ..ids import find_user_id, normalise_user_id
from ..records import read_jsonl, write_jsonl
from .embedding import INDEX, EmbeddingStore
from .profile import load_profiles, save_profiles


def forget_user(user_id: str, places: Iterable[Path]) -> list[str]:
    """Take a user out of users files, ban lists (.jsonl), stores and folders of published vectors.

    Returns what was done, a line a place. Pictures that were drawn for the user, and adapters trained on them, stay.
    Raises UnknownUser where no place knows the user, UsageError for a place that holds no users.
    """
    try:
        wanted = normalise_user_id(user_id)
    except ValueError as err:
        raise UsageError(f"{user_id!r} is no user id: {err}") from err
    told = [(place, _forget(wanted, Path(place))) for place in places]
    if not any(done for _, done in told):
        raise UnknownUser(f"User {wanted} is in none of: {', '.join(str(place) for place, _ in told)}.")
    return [f"{place}: {'forgotten' if done else 'was not there'}" for place, done in told]


def _forget(user_id: str, place: Path) -> bool:
    if (place / INDEX).is_file():
        return _forget_in_store(user_id, place)
    if place.is_dir() and any(place.glob("*.npy")):
        files = [path for path in place.glob("*.npy") if find_user_id(path.stem) == user_id]
        for path in files:
            path.unlink()
        return bool(files)
    if place.suffix.lower() == ".csv":
        return _forget_in_users(user_id, place)
    if place.suffix.lower() == ".jsonl" and place.is_file():
        return _forget_in_lines(user_id, place)
    raise UsageError(
        f"{place} holds no users: expected a users file, bans.jsonl, or a folder of user vectors.",
        hint="Name the files: psalign users forget ID users.csv bans.jsonl data/embeddings",
    )


def _forget_in_store(user_id: str, place: Path) -> bool:
    store = EmbeddingStore.load(place)
    if user_id not in store:
        return False
    store.without([user_id]).save(place)
    return True


def _forget_in_users(user_id: str, place: Path) -> bool:
    profiles = load_profiles(place)
    kept = [profile for profile in profiles if profile.user_id != user_id]
    if len(kept) == len(profiles):
        return False
    save_profiles(place, kept)
    return True


def _forget_in_lines(user_id: str, place: Path) -> bool:
    records = list(read_jsonl(place))
    kept = [record for record in records if _id_of(record) != user_id]
    if len(kept) == len(records):
        return False
    write_jsonl(place, kept, private=True)
    return True


def _id_of(record: dict[str, object]) -> str | None:
    value = next((value for key, value in record.items() if key.lower() == "user_id"), None)
    return find_user_id(value)
