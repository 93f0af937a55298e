"""The database of the service: people, API keys and the audit. SQLite by default, PostgreSQL by its URL."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    DateTime,
    Engine,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    create_engine,
    event,
    text,
)
from sqlalchemy.exc import SQLAlchemyError

from ..errors import OutputError, UsageError, reason_of

METADATA = MetaData()
PEOPLE = Table(
    "people",
    METADATA,
    Column("name", String(64), primary_key=True),  # Seal.name of account and identifier
    Column("account", String(64), nullable=False, index=True),
    Column("sealed", LargeBinary, nullable=False),
    Column("changed_at", DateTime(timezone=True), nullable=False),
)
KEYS = Table(
    "api_keys",
    METADATA,
    Column("id", String(16), primary_key=True),
    Column("account", String(64), nullable=False, index=True),
    Column("digest", String(64), nullable=False),
    Column("scope", String(8), nullable=False),
    Column("per_minute", Integer, nullable=False),
    Column("made_at", DateTime(timezone=True), nullable=False),
    Column("revoked_at", DateTime(timezone=True)),
)
AUDIT = Table(
    "audit",
    METADATA,
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("at", String(40), nullable=False),
    Column("actor", String(64), nullable=False),
    Column("action", String(32), nullable=False),
    Column("name", String(64), nullable=False, index=True),
    Column("facts", Text, nullable=False),
    Column("chain", String(64), nullable=False),
)
# Rows of the audit can be added and never changed, whoever asks the database through this program.
APPEND_ONLY = {
    "sqlite": tuple(
        f"CREATE TRIGGER IF NOT EXISTS audit_no_{what.lower()} BEFORE {what} ON audit "
        "BEGIN SELECT RAISE(ABORT, 'the audit is append-only'); END"
        for what in ("UPDATE", "DELETE")
    ),
    "postgresql": (
        "CREATE OR REPLACE FUNCTION audit_append_only() RETURNS trigger AS "
        "$$ BEGIN RAISE EXCEPTION 'the audit is append-only'; END $$ LANGUAGE plpgsql",
        "CREATE OR REPLACE TRIGGER audit_append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON audit "
        "FOR EACH STATEMENT EXECUTE FUNCTION audit_append_only()",
    ),
}


HINT = "--people must be an SQLite file of the service, or postgresql://user:password@host/name of a running server."


class Database:
    """place: a path of an SQLite file, which is made readable by its owner only, or a URL of SQLAlchemy.

    makes: whether a file that is not there is made; who only reads would take an empty one for the service's.
    Raises UsageError for a place that is no database of these two kinds, OutputError where it cannot be opened.
    """

    def __init__(self, place: str, *, makes: bool = True) -> None:
        self.engine = _engine(place, makes)
        kind = self.engine.dialect.name
        if kind not in APPEND_ONLY:
            raise UsageError(f"The database must be SQLite or PostgreSQL; saw {kind}.")
        with self.begin() as connection:
            if kind == "postgresql":  # of several services that start at once, one makes the tables
                connection.execute(text("SELECT pg_advisory_xact_lock(5277)"))
            METADATA.create_all(connection)
            for command in APPEND_ONLY[kind]:
                connection.execute(text(command))

    @contextmanager
    def begin(self) -> Iterator[Connection]:
        """A transaction. Raises OutputError, without the values of the failing statement."""
        try:
            with self.engine.begin() as connection:
                yield connection
        except SQLAlchemyError as err:
            said = reason_of(getattr(err, "orig", None) or err)
            raise OutputError(f"The database of the service failed: {said}", hint=HINT) from None

    def lock_audit(self, connection: Connection) -> None:
        """Until the end of the transaction nobody else adds to the audit."""
        if self.engine.dialect.name == "postgresql":
            connection.execute(text("SELECT pg_advisory_xact_lock(5278)"))

    def close(self) -> None:
        self.engine.dispose()


def now() -> datetime:
    return datetime.now(timezone.utc)


def _engine(place: str, makes: bool) -> Engine:
    if "://" in place and not place.startswith("sqlite:"):
        try:
            url = place.replace("postgresql://", "postgresql+psycopg://").replace(
                "postgres://", "postgresql+psycopg://"
            )
            return create_engine(url, pool_pre_ping=True, hide_parameters=True)
        except Exception as err:  # an unknown dialect, a driver that is not installed, a URL that cannot be read
            raise UsageError(
                f"The URL of the database cannot be used: {reason_of(err)}",
                hint="Expected a path, or postgresql://user:password@host/name (extra 'serve').",
            ) from None
    path = Path(place.removeprefix("sqlite:///"))
    if not makes and not path.exists():
        raise OutputError(
            f"There is no database at {path}.",
            hint="Give --people the place that the service uses, or run: psalign serve users add --help",
        )
    with suppress(FileExistsError):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600, exist_ok=False)
    engine = create_engine(f"sqlite:///{path}", hide_parameters=True)
    event.listen(engine, "connect", _prepare_sqlite)
    event.listen(engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN IMMEDIATE"))
    return engine


def _prepare_sqlite(connection: Any, _: Any) -> None:
    connection.isolation_level = None  # the driver must not begin by itself
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA busy_timeout=10000")
    connection.execute("PRAGMA secure_delete=ON")
