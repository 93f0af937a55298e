"""Other names for users: an id that only the key leads back to a person.

Beside step 1 of the path of data.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from pathlib import Path

from ..errors import UsageError
from ..files import write_text
from .profile import UserProfile

KEY_BYTES = 32


def pseudonymise(profiles: Sequence[UserProfile], key: bytes) -> list[UserProfile]:
    """The same people under other ids: HMAC-SHA256 of theirs, so that one key always gives the same."""
    return [profile.model_copy(update={"user_id": pseudonym(profile.user_id, key)}) for profile in profiles]


def pseudonym(user_id: str, key: bytes) -> str:
    """The other name of one user."""
    return "u" + hmac.new(key, user_id.encode(), hashlib.sha256).hexdigest()[:16]


def read_key(path: Path, *, makes: bool = True) -> bytes:
    """The key of a file. Where there is none, it is made and written, readable by its owner only.

    makes: false, where what an earlier key sealed needs that key. Raises UsageError.
    """
    if not path.exists() and not makes:
        raise UsageError(f"There is no key at {path}, and what is stored was sealed by one.")
    if not path.exists():
        write_text(path, secrets.token_hex(KEY_BYTES) + "\n", private=True)
    try:
        key = bytes.fromhex(path.read_text(encoding="utf-8").strip())
    except ValueError as err:
        raise UsageError(f"{path} holds no key: expected {2 * KEY_BYTES} hexadecimal digits.") from err
    if len(key) != KEY_BYTES:
        raise UsageError(f"{path} holds {len(key)} bytes; expected a key of {KEY_BYTES}.")
    return key
