"""Acknowledge or close open incidents by hand."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypedDict

from sqlalchemy import Row, update
from sqlalchemy.engine import Connection, Engine

from poundcake.timestamps import format_timestamp
from poundcake.trail import clock, database
from poundcake.trail.audit import Actor, write_entry
from poundcake.trail.errors import TrackingError
from poundcake.trail.open_incident import CommandFor, command_for_episode, find_open_incident
from poundcake.trail.outcomes import EndedBy
from poundcake.trail.schema import alerts, cut
from poundcake.trail.search import Filters


class IncidentChange(TypedDict):
    """The result of the actions poundcake.acknowledge and poundcake.close.

    Attributes:
        episode: The episode of the incident.
        alert_name: The name of its alert.
        instance: The instance of its alert.
        state: `acknowledged`, `closed`, or `firing` if an acknowledgement was undone.
        by: Who made the change.
        at: When the change was made.
    """

    episode: str
    alert_name: str
    instance: str
    state: str
    by: str
    at: str


def acknowledge(
    engine: Engine,
    actor: Actor,
    episode: str = "",
    filters: Filters = Filters(),
    comment: str = "",
    undo: bool = False,
) -> IncidentChange:
    """Acknowledge an open incident, so that no new remediation is started for it.

    Remediations that are already running continue.

    Args:
        engine: The tracking database.
        actor: Who acknowledges the incident.
        episode: The episode of the incident or the beginning of its name, or empty to find it by
            the filters.
        filters: Filters on its alert. Exactly one open incident must match.
        comment: The reason; may be empty.
        undo: Whether to withdraw the acknowledgement instead.

    Raises:
        TrackingError: No open incident or more than one matches, or there is no acknowledgement to
            withdraw.
        DatabaseError: The database is unavailable.
    """
    database.prepare(engine, create=False)
    return database.retry_deadlocks(
        lambda: _acknowledge(engine, actor, episode, filters, comment, undo)
    )


def _acknowledge(
    engine: Engine, actor: Actor, episode: str, filters: Filters, comment: str, undo: bool
) -> IncidentChange:
    with database.transaction(engine) as connection:
        undo_parameter = "undo=true" if undo else ""
        command_for = command_for_episode("acknowledge", undo_parameter, comment=comment)
        row = _lock_incident(connection, episode, filters, command_for)
        if undo and row.acknowledged_at is None:
            raise TrackingError(f"{row.episode} is not acknowledged")
        now = clock.database_now(connection)
        _update_row(
            connection,
            row,
            acknowledged_at=None if undo else now,
            acknowledged_by=None if undo else _user_name(actor),
            acknowledged_comment=None if undo else cut(comment, alerts.c.acknowledged_comment),
        )
        write_entry(connection, "acknowledge", actor, row.episode, comment, {"undo": undo})
        return _make_result(row, "firing" if undo else "acknowledged", actor, format_timestamp(now))


def close(
    engine: Engine, actor: Actor, comment: str, episode: str = "", filters: Filters = Filters()
) -> IncidentChange:
    """Close an open incident whose resolve never arrived.

    If the alert is still firing, its next notification opens a new incident.

    Args:
        engine: The tracking database.
        actor: Who closes the incident.
        comment: The reason.
        episode: The episode of the incident or the beginning of its name, or empty to find it by
            the filters.
        filters: Filters on its alert. Exactly one open incident must match.

    Raises:
        TrackingError: No open incident or more than one matches, or the comment is empty.
        DatabaseError: The database is unavailable.
    """
    if not comment.strip():
        raise TrackingError("comment: say why you are closing the incident")
    database.prepare(engine, create=False)
    return database.retry_deadlocks(lambda: _close(engine, actor, comment, episode, filters))


def _close(
    engine: Engine, actor: Actor, comment: str, episode: str, filters: Filters
) -> IncidentChange:
    with database.transaction(engine) as connection:
        command_for = command_for_episode("close", comment=comment)
        row = _lock_incident(connection, episode, filters, command_for)
        now = clock.database_now(connection)
        _update_row(
            connection,
            row,
            open_fingerprint=None,
            closed_at=now,
            ended_by=EndedBy.CLOSED,
            closed_by=_user_name(actor),
            closed_comment=cut(comment, alerts.c.closed_comment),
        )
        write_entry(connection, "close", actor, row.episode, comment)
        return _make_result(row, "closed", actor, format_timestamp(now))


def _lock_incident(
    connection: Connection, episode: str, filters: Filters, command_for: CommandFor
) -> Row[Any]:
    """Lock and return the row of the only open incident that matches."""
    filters = replace(filters, episode=episode) if episode else filters
    return find_open_incident(connection, filters, command_for, for_update=True)


def _update_row(connection: Connection, row: Row[Any], **values: Any) -> None:
    connection.execute(update(alerts).where(alerts.c.id == row.id).values(**values))


def _user_name(actor: Actor) -> str:
    return cut(actor.st2_user or "somebody", alerts.c.acknowledged_by)


def _make_result(row: Row[Any], state: str, actor: Actor, at: str) -> IncidentChange:
    return IncidentChange(
        episode=row.episode,
        alert_name=row.alert_name,
        instance=row.instance,
        state=state,
        by=_user_name(actor),
        at=at,
    )
