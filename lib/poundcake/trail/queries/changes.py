"""The changes that remediations asked for, as the views show them."""

from __future__ import annotations

from typing import Any, Sequence

from sqlalchemy import Column
from sqlalchemy.engine import Connection

from poundcake.timestamps import format_timestamp
from poundcake.trail import database
from poundcake.trail.changes import Change, find
from poundcake.trail.queries.rows import format_optional
from poundcake.trail.schema import changes

_SHOWN = 20


def changes_of(
    connection: Connection, column: Column[Any], values: Sequence[str]
) -> dict[str, list[Change]]:
    """Return the newest changes of episodes or requests, by the value of the column, oldest first.

    Args:
        connection: A connection to the tracking database.
        column: The column `episode` or `request_id` of poundcake_changes.
        values: The episodes or request ids.
    """
    found: dict[str, list[Change]] = {}
    for chunk in database.batched(sorted({value for value in values if value})):
        for change in find(connection, column.in_(chunk)):
            found.setdefault(getattr(change, column.name), []).append(change)
    return {value: of_value[-_SHOWN:] for value, of_value in found.items()}


def changes_of_episodes(connection: Connection, names: Sequence[str]) -> dict[str, list[Change]]:
    """Return the changes of episodes, by the name of the episode, oldest first."""
    return changes_of(connection, changes.c.episode, names)


def changes_of_request(connection: Connection, request_id: str) -> list[Change]:
    """Return the changes that were asked for because of a request, oldest first."""
    return changes_of(connection, changes.c.request_id, [request_id]).get(request_id, [])


def as_json(change: Change) -> dict[str, Any]:
    """Return a change as JSON. `result` is `in_flight` until it has ended."""
    shown = {
        "decided_at": format_timestamp(change.decided_at),
        "ended_at": format_optional(change.ended_at),
        "episode": change.episode,
        "st2_execution_id": change.st2_execution_id,
        "remediation": change.remediation,
        "action": change.action,
        "target": change.target,
        "result": change.result or "in_flight",
    }
    if change.refusal:
        shown.update(refusal=change.refusal, reason=change.reason)
    return shown
