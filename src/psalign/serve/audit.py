"""The audit: who loosened whose limits, when. Rows are only added, and each row's chain covers all rows before it.

A row holds names (Seal.name) and numbers, and never a category, a limit, an identifier or a prompt.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

from sqlalchemy import Connection, select

from ..errors import OutputError
from ..files import Record
from .database import AUDIT, Database, now

ACTIONS = ("loosened", "erased", "preview", "key_made", "key_revoked")
FIELDS = ("number", "at", "actor", "action", "name", "facts")


class Audit:
    """The audit of a database."""

    def __init__(self, database: Database) -> None:
        self.database = database

    def add(self, connection: Connection, action: str, *, actor: str, name: str, **facts: int | float | str) -> None:
        """Add a row in a transaction, so that nothing is loosened without its row. facts: numbers and fixed words."""
        assert action in ACTIONS
        self.database.lock_audit(connection)
        last = connection.execute(select(AUDIT).order_by(AUDIT.c.number.desc()).limit(1)).mappings().first()
        row: Record = {
            "number": 1 if last is None else last["number"] + 1,
            "at": now().isoformat(),
            "actor": actor,
            "action": action,
            "name": name,
            "facts": json.dumps(facts, sort_keys=True),
        }
        connection.execute(AUDIT.insert().values(**row, chain=_chain(row, "" if last is None else last["chain"])))

    def rows(self, name: str | None = None) -> list[Record]:
        """Rows in their order; name: those of one person."""
        query = select(AUDIT).order_by(AUDIT.c.number)
        if name is not None:
            query = query.where(AUDIT.c.name == name)
        with self.database.begin() as connection:
            return [dict(row) for row in connection.execute(query).mappings()]

    def verify(self) -> int:
        """The number of rows. Raises OutputError where a row was changed, or one in the middle is missing."""
        rows, before = self.rows(), ""
        for number, row in enumerate(rows, start=1):
            if row["number"] != number or row["chain"] != _chain(row, before):
                raise OutputError(f"The audit was changed: row {number} does not follow from the rows before it.")
            before = row["chain"]
        return len(rows)


def _chain(row: Any, before: str) -> str:
    values: Sequence[Any] = [row[field] for field in FIELDS]
    return hashlib.sha256(json.dumps([before, *values]).encode()).hexdigest()
