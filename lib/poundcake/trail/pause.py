"""Pause and resume all changes, for the actions poundcake.pause and poundcake.resume.

Every decision about a change reads the pause from poundcake_meta, so a pause takes effect
everywhere as soon as it is committed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy import delete, select
from sqlalchemy.engine import Connection, Engine

from poundcake.timestamps import format_timestamp, parse_timestamp
from poundcake.trail import clock, database
from poundcake.trail.audit import Actor, write_entry
from poundcake.trail.errors import TrackingError
from poundcake.trail.schema import cut, meta

_AT, _UNTIL, _BY, _REASON = "paused_at", "paused_until", "paused_by", "paused_reason"
_ROW_NAMES = (_AT, _UNTIL, _BY, _REASON)


@dataclass(frozen=True)
class Pause:
    """The current pause of all changes.

    Attributes:
        at: When it began.
        by: The StackStorm user who paused changes.
        reason: The reason.
        until: When it ends automatically, or None if only poundcake.resume ends it.
        has_later_end: Whether it ends later than pause() was asked to end it, because changes were
            already paused for longer.
    """

    at: datetime
    by: str
    reason: str
    until: datetime | None = None
    has_later_end: bool = field(default=False, compare=False)

    def __str__(self) -> str:
        """Return the pause for the log, with its reason quoted because a person typed it."""
        end = f" until {format_timestamp(self.until)}" if self.until else ""
        return f"paused by {self.by}{end}: {self.reason!r}"

    def as_json(self) -> dict[str, Any]:
        """Return the pause as JSON, as the views show it."""
        return {
            "at": format_timestamp(self.at),
            "by": self.by,
            "reason": self.reason,
            "until": format_timestamp(self.until) if self.until else None,
        }


def pause(
    engine: Engine, actor: Actor, reason: str, minutes: int = 0, create: bool = False
) -> Pause:
    """Stop all changes until they are resumed, or for a number of minutes.

    If changes are already paused, the reason is replaced and the later end applies, so that nobody
    shortens another person's pause by accident.

    Args:
        engine: The tracking database.
        actor: Who pauses changes.
        reason: The reason.
        minutes: The minutes until the pause ends automatically; 0 if only resume() ends it.
        create: Whether to create the tables if no alert has been recorded yet.

    Raises:
        TrackingError: The reason is empty.
        DatabaseError: The database is unavailable.
    """
    if not reason.strip():
        raise TrackingError("reason: say why changes are paused")
    database.prepare(engine, create=create)
    return database.retry_deadlocks(lambda: _pause(engine, actor, reason.strip(), minutes))


def resume(engine: Engine, actor: Actor) -> Pause | None:
    """Allow changes again.

    Returns:
        The pause that was ended, or None if changes were not paused.

    Raises:
        DatabaseError: The database is unavailable.
    """
    database.prepare(engine, create=False)
    return database.retry_deadlocks(lambda: _resume(engine, actor))


def read_pause(connection: Connection) -> Pause | None:
    """Return the current pause, or None if changes are not paused."""
    rows = _read_rows(connection)
    at = parse_timestamp(rows.get(_AT, ""))
    until = parse_timestamp(rows.get(_UNTIL, ""))
    if at is None or (until is not None and until <= clock.database_now(connection)):
        return None
    return Pause(at, rows.get(_BY, ""), rows.get(_REASON, ""), until)


def copy_pause(source: Connection, target: Connection) -> None:
    """Copy the pause of one database to another, unless changes are already paused there."""
    if read_pause(source) and not read_pause(target):
        _write(target, _read_rows(source))


def lock_decisions(connection: Connection) -> None:
    """Wait for other decisions about changes, and block later ones until this transaction ends.

    On SQLite, write transactions wait for each other anyway.
    """
    connection.execute(select(meta.c.value).where(meta.c.name == "database_id").with_for_update())


def _pause(engine: Engine, actor: Actor, reason: str, minutes: int) -> Pause:
    with database.transaction(engine) as connection:
        lock_decisions(connection)
        now = clock.database_now(connection)
        previous_pause = read_pause(connection)
        requested_end = now + timedelta(minutes=minutes) if minutes else None
        until = requested_end
        if previous_pause:
            end_times = (previous_pause.until, requested_end)
            until = None if None in end_times else max(end for end in end_times if end)
        new_pause = Pause(
            at=previous_pause.at if previous_pause else now,
            by=cut(actor.st2_user or "somebody", meta.c.value),
            reason=cut(reason, meta.c.value),
            until=until,
            has_later_end=until != requested_end,
        )
        rows = {_AT: format_timestamp(new_pause.at), _BY: new_pause.by, _REASON: new_pause.reason}
        rows[_UNTIL] = format_timestamp(until) if until else ""
        _write(connection, rows)
        write_entry(connection, "pause", actor, comment=reason, details={"until": rows[_UNTIL]})
    return new_pause


def _resume(engine: Engine, actor: Actor) -> Pause | None:
    with database.transaction(engine) as connection:
        lock_decisions(connection)
        previous_pause = read_pause(connection)
        connection.execute(delete(meta).where(meta.c.name.in_(_ROW_NAMES)))
        if previous_pause:
            write_entry(connection, "resume", actor)
    return previous_pause


def _read_rows(connection: Connection) -> dict[str, str]:
    rows = connection.execute(select(meta.c.name, meta.c.value).where(meta.c.name.in_(_ROW_NAMES)))
    return {name: value for name, value in rows}


def _write(connection: Connection, rows: dict[str, str]) -> None:
    connection.execute(delete(meta).where(meta.c.name.in_(_ROW_NAMES)))
    connection.execute(
        meta.insert(), [{"name": name, "value": value} for name, value in rows.items()]
    )
