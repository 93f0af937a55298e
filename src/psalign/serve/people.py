"""The people whose limits the service keeps: sealed profiles by account and identifier.

Place on the path of data: step 1, for the service. An account belongs to whoever runs an application; it knows its
people by identifiers of its own, and no account sees people of another.
"""

from __future__ import annotations

from datetime import date
from pathlib import Path

from sqlalchemy import delete, func, select

from ..errors import ProfileError, UnknownUser, UsageError
from ..files import Record
from ..users.limits import Limit, active, phrases_of, united
from ..users.policy import banned_categories, united_bans
from ..users.profile import UserProfile
from .audit import Audit
from .database import PEOPLE, Database, now
from .sealing import OTHER_KEY, Seal, Unreadable

MOST_LETTERS = 64  # of an account or an identifier
LOOKED_AT = 8  # people who say whether the key is theirs; of one, the stored bytes may be damaged


class People:
    """The people of a database, with its audit."""

    def __init__(self, database: Database, seal: Seal) -> None:
        self.database, self.seal, self.audit = database, seal, Audit(database)

    @classmethod
    def of(cls, database: Database, key_file: Path) -> People:
        """With the key of the environment or of a file, which is made for a database without people.

        Raises UsageError where there is no key for people who are stored, or another one: they would all be strangers.
        """
        with database.begin() as connection:
            rows = connection.execute(select(PEOPLE.c.name, PEOPLE.c.sealed).limit(LOOKED_AT)).all()
        try:
            seal = Seal.of_environment(key_file, makes=not rows)
        except UsageError as err:
            raise UsageError(err.args[0], hint=err.hint or OTHER_KEY) from None
        if rows and not any(_opens(seal, row.sealed, row.name) for row in rows):
            raise UsageError("The people of this database were stored under another key.", hint=OTHER_KEY)
        return cls(database, seal)

    def find(self, account: str, identifier: str) -> UserProfile | None:
        """The profile of a person; None for a stranger. Raises Unreadable."""
        record = self._record(self.seal.name(account, identifier))
        return None if record is None else UserProfile(**record["profile"])

    def add(
        self, account: str, identifier: str, profile: UserProfile, *, actor: str, replaces: bool = False
    ) -> UserProfile:
        """Add a person, or add to what is known of one. Returns the profile that holds from now on.

        Bans and limits of both profiles hold, so adding never loosens. replaces: the new profile stands in place of the
        old one; what that loosens is counted in the audit.
        Raises UsageError for an account or identifier that is empty or too long.
        """
        require_text(account, "account")
        require_text(identifier, "identifier")
        name = self.seal.name(account, identifier)
        with self.database.begin() as connection:
            stored = connection.execute(select(PEOPLE.c.sealed).where(PEOPLE.c.name == name)).scalar()
            before = None if stored is None else UserProfile(**self.seal.opened(stored, name=name)["profile"])
            held = profile if before is None or replaces else _united(before, profile)
            if before is not None and (lost := loosened(before, held)):
                self.audit.add(connection, "loosened", actor=actor, name=name, **lost)
            record = {"account": account, "identifier": identifier, "profile": held.model_dump(mode="json")}
            values = {"account": account, "sealed": self.seal.sealed(record, name=name), "changed_at": now()}
            if stored is None:
                connection.execute(PEOPLE.insert().values(name=name, **values))
            else:
                connection.execute(PEOPLE.update().where(PEOPLE.c.name == name).values(**values))
        return held

    def export(self, account: str, identifier: str) -> Record:
        """Everything that is stored of a person, with the rows of the audit. Raises UnknownUser."""
        name = self.seal.name(account, identifier)
        record = self._record(name)
        if record is None:
            raise _stranger()
        return {**record, "audit": self.audit.rows(name)}

    def require(self, account: str, identifier: str) -> UserProfile:
        """The profile of a person. Raises UnknownUser for a stranger."""
        profile = self.find(account, identifier)
        if profile is None:
            raise _stranger()
        return profile

    def erase(self, account: str, identifier: str, *, actor: str) -> None:
        """Take a person out. From then on the person is a stranger, and no stranger is drawn for without limits.

        The audit keeps that a person was erased, under a name that leads back to nobody. Raises UnknownUser.
        """
        name = self.seal.name(account, identifier)
        with self.database.begin() as connection:
            if not connection.execute(delete(PEOPLE).where(PEOPLE.c.name == name)).rowcount:
                raise _stranger()
            self.audit.add(connection, "erased", actor=actor, name=name)

    def previewed(self, account: str, identifier: str, *, actor: str, what: str) -> None:
        """Write down that an administrator draws with other limits than a person's own."""
        with self.database.begin() as connection:
            self.audit.add(connection, "preview", actor=actor, name=self.seal.name(account, identifier), what=what)

    def count(self, account: str | None = None) -> int:
        query = select(func.count()).select_from(PEOPLE)
        with self.database.begin() as connection:
            return int(
                connection.execute(query if account is None else query.where(PEOPLE.c.account == account)).scalar() or 0
            )

    def _record(self, name: str) -> Record | None:
        with self.database.begin() as connection:
            stored = connection.execute(select(PEOPLE.c.sealed).where(PEOPLE.c.name == name)).scalar()
        return None if stored is None else self.seal.opened(stored, name=name)


def require_text(value: str, what: str) -> None:
    """Raises UsageError for an account or an identifier that nobody could give."""
    if not 0 < len(value) <= MOST_LETTERS or not value.isprintable():
        raise UsageError(f"The {what} must have 1 to {MOST_LETTERS} printable characters; it has {len(value)}.")


def loosened(before: UserProfile, after: UserProfile, today: date | None = None) -> dict[str, int]:
    """How many categories and phrases are banned less by a second profile; empty where none is.

    A limit in words counts where it is gone, weaker, or ends earlier.
    """
    day = today or date.today()
    categories = set(banned_categories(before, today=day)) - set(banned_categories(after, today=day))
    now_strength = dict(phrases_of(after.limits or (), day))
    weaker = {phrase for phrase, value in phrases_of(before.limits or (), day) if now_strength.get(phrase, 0) < value}
    ends = {phrase for limit in active(before.limits or (), day) for phrase in _shortened(limit, after)}
    lost = {"categories": len(categories), "phrases": len(weaker | ends)}
    return lost if any(lost.values()) else {}


def _shortened(limit: Limit, after: UserProfile) -> set[str]:
    """Phrases of a limit that hold for less long in another profile."""
    last = date.max if limit.until is None else limit.until
    lasting = {phrase for one in after.limits or () for phrase in one.phrases if (one.until or date.max) >= last}
    return set(limit.phrases) - lasting


def _united(before: UserProfile, more: UserProfile) -> UserProfile:
    """Both profiles: attributes of the newer one where it has them, bans and limits of both.

    What the older attributes banned stays banned.
    """
    changed = {field: value for field, value in more.model_dump().items() if value is not None and field != "user_id"}
    if "age" in changed or "age_group" in changed:
        changed = {"age": None, "age_group": None, **changed}
    for field in ("banned", "limits"):
        changed.pop(field, None)
    known = [one for one in (before, more) if one.says_bans]
    changed["banned"] = united_bans(*(banned_categories(one.model_copy(update={"limits": None})) for one in known))
    if before.limits or more.limits:
        changed["limits"] = united(before.limits or (), more.limits or ())
    try:
        return before.model_copy(update=changed)
    except ValueError as err:
        raise ProfileError(f"The two profiles do not fit together: {str(err).splitlines()[0]}") from None


def _opens(seal: Seal, sealed: bytes, name: str) -> bool:
    try:
        seal.opened(sealed, name=name)
    except Unreadable:
        return False
    return True


def _stranger() -> UnknownUser:
    return UnknownUser("This account has no person of that identifier.", hint="Run: psalign serve users add --help")
