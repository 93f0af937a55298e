"""API keys: who may ask the service, for what, and how often. Only digests of keys are stored."""

from __future__ import annotations

import hashlib
import hmac
import secrets
import threading
from dataclasses import dataclass
from time import monotonic
from typing import Literal

from sqlalchemy import select

from ..errors import UnknownUser, UsageError
from ..files import Record
from .audit import Audit
from .database import KEYS, Database, now
from .people import require_text

Scope = Literal["draw", "admin"]
SCOPES: tuple[Scope, ...] = ("draw", "admin")
PREFIX = "psk"
ID_BYTES, SECRET_BYTES = 6, 32
MOST_PER_MINUTE = 1_000_000


@dataclass(frozen=True)
class Caller:
    """Who asks: a key, its account and scope; admin may do all that draw may. per_minute: pictures."""

    key_id: str
    account: str
    scope: Scope
    per_minute: int


class ApiKeys:
    """The keys of a database. A key is psk_<id>_<secret>; the secret has 256 random bits, so its SHA-256 is enough."""

    def __init__(self, database: Database) -> None:
        self.database, self.audit = database, Audit(database)

    def make(self, account: str, *, scope: Scope = "draw", per_minute: int = 600, actor: str) -> str:
        """A new key, which is shown this once. Raises UsageError."""
        require_text(account, "account")
        if scope not in SCOPES or not 1 <= per_minute <= MOST_PER_MINUTE:
            raise UsageError(f"A key has the scope draw or admin, and 1 to {MOST_PER_MINUTE} pictures a minute.")
        key_id, secret = secrets.token_hex(ID_BYTES), secrets.token_urlsafe(SECRET_BYTES)
        values = {"id": key_id, "account": account, "digest": _digest(secret), "scope": scope}
        with self.database.begin() as connection:
            connection.execute(KEYS.insert().values(**values, per_minute=per_minute, made_at=now()))
            self.audit.add(connection, "key_made", actor=actor, name=key_id, scope=scope)
        return f"{PREFIX}_{key_id}_{secret}"

    def find(self, key: str) -> Caller | None:
        """Whose key it is; None for no key, an unknown or a revoked one."""
        prefix, _, rest = key.partition("_")
        key_id, _, secret = rest.partition("_")
        if prefix != PREFIX or not key_id.isascii() or not key_id.isalnum() or not secret:
            return None
        with self.database.begin() as connection:
            row = connection.execute(select(KEYS).where(KEYS.c.id == key_id[:64])).mappings().first()
        is_right = hmac.compare_digest(_digest(secret), "" if row is None else row["digest"])
        if row is None or not is_right or row["revoked_at"] is not None:
            return None
        return Caller(key_id, row["account"], row["scope"], row["per_minute"])

    def revoke(self, key_id: str, *, actor: str) -> None:
        """End a key. Raises UnknownUser."""
        with self.database.begin() as connection:
            alive = (KEYS.c.id == key_id) & KEYS.c.revoked_at.is_(None)
            if not connection.execute(KEYS.update().where(alive).values(revoked_at=now())).rowcount:
                raise UnknownUser(
                    f"There is no live key with the id {key_id[:64]!r}.", hint="Run: psalign serve keys list"
                )
            self.audit.add(connection, "key_revoked", actor=actor, name=key_id)

    def rows(self) -> list[Record]:
        """All keys, without their digests."""
        columns = [column for column in KEYS.c if column.name != "digest"]
        with self.database.begin() as connection:
            return [dict(row) for row in connection.execute(select(*columns).order_by(KEYS.c.made_at)).mappings()]


class RateLimits:
    """Pictures of each key in this process: a bucket that fills over a minute."""

    def __init__(self) -> None:
        self._left: dict[str, tuple[float, float]] = {}
        self._lock = threading.Lock()

    def wait_s(self, caller: Caller, pictures: int) -> float:
        """Take so many pictures; 0, or the seconds until they could be taken (then nothing is taken)."""
        moment, per_s = monotonic(), caller.per_minute / 60
        with self._lock:
            left, then = self._left.get(caller.key_id, (float(caller.per_minute), moment))
            left = min(caller.per_minute, left + (moment - then) * per_s)
            is_enough = left >= min(pictures, caller.per_minute)
            self._left[caller.key_id] = (left - pictures if is_enough else left, moment)
        return 0.0 if is_enough else (pictures - left) / per_s


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()
