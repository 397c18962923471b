"""The audit log of manual changes to the trail, and of retries: the table poundcake_audit."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Mapping, Sequence

from sqlalchemy import select, update
from sqlalchemy.engine import Connection

from poundcake.timestamps import format_timestamp
from poundcake.trail import clock, database
from poundcake.trail.schema import audit, cut, storable


@dataclass(frozen=True)
class Actor:
    """The StackStorm user who runs an action, and the action's execution."""

    st2_user: str = ""
    execution_id: str = ""


_ENTRIES = select(audit).where(database.has_one_of(audit.c.target)).order_by(audit.c.id)

NOBODY = Actor()
"""The actor for callers that are not StackStorm actions."""


@dataclass(frozen=True)
class AuditEntry:
    """One manual change, or one retry of a refused change by sync.

    Attributes:
        action: acknowledge, close, approve, reject, silence, unsilence, release, replay, purge,
            pause, resume, migrate or retry.
        target: What was changed: an episode, a request_id, a remediation or the ids of silences.
            Empty if there is none.
        details: The details of the change.
    """

    at: datetime
    action: str
    st2_user: str
    execution_id: str
    target: str
    comment: str
    details: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the entry as the views show it, ready for JSON."""
        return {
            "at": format_timestamp(self.at),
            "action": self.action,
            "st2_user": self.st2_user,
            "execution_id": self.execution_id,
            "target": self.target,
            "comment": self.comment,
            "details": self.details,
        }


def write_entry(
    connection: Connection,
    action: str,
    actor: Actor,
    target: str = "",
    comment: str = "",
    details: Mapping[str, Any] | None = None,
) -> int:
    """Write an audit entry in the transaction of the change, and return the entry's id."""
    entry = connection.execute(
        audit.insert().values(
            at=clock.database_now(connection),
            action=action,
            st2_user=cut(actor.st2_user, audit.c.st2_user),
            execution_id=cut(actor.execution_id, audit.c.execution_id),
            target=cut(target, audit.c.target),
            comment=storable(comment),
            details=json.dumps(details or {}),
        )
    )
    assert entry.inserted_primary_key is not None
    return int(entry.inserted_primary_key[0])


def replace_details(
    connection: Connection, entry_id: int, action: str, details: Mapping[str, Any]
) -> bool:
    """Replace the details of an entry whose change takes several transactions.

    Returns:
        False if there is no such entry, because its transaction was not committed.
    """
    updated = connection.execute(
        update(audit)
        .where(audit.c.id == entry_id, audit.c.action == action)
        .values(details=json.dumps(details))
    )
    return updated.rowcount > 0


def read_entries(connection: Connection, targets: Sequence[str]) -> dict[str, list[AuditEntry]]:
    """Return the audit entries of episodes and requests, by target, oldest first."""
    entries: dict[str, list[AuditEntry]] = {}
    names = sorted({target for target in targets if target})
    for row in database.read_batched(connection, _ENTRIES, names):
        entry = AuditEntry(
            row.at,
            row.action,
            row.st2_user,
            row.execution_id,
            row.target,
            row.comment,
            json.loads(row.details),
        )
        entries.setdefault(row.target, []).append(entry)
    return entries
