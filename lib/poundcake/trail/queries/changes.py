"""The changes that remediations requested, as the views show them."""

from __future__ import annotations

import json
from datetime import datetime
from itertools import takewhile
from typing import Any, Sequence

from sqlalchemy import select
from sqlalchemy.engine import Connection

from poundcake.timestamps import format_timestamp
from poundcake.trail import database
from poundcake.trail.changes import COLUMNS, FAILURES, SUCCESSES, Change, find_changes
from poundcake.trail.clock import database_now
from poundcake.trail.open_work import awaits_retry
from poundcake.trail.queries.rows import format_optional
from poundcake.trail.schema import changes

_MAX_SHOWN = 20
_MAX_COUNTED = 20
_CHANGES_BY_EPISODE = (
    select(*COLUMNS).where(database.has_one_of(changes.c.episode)).order_by(changes.c.id)
)


def changes_of_episodes(connection: Connection, names: Sequence[str]) -> dict[str, list[Change]]:
    """Return the newest changes of each episode by the episode's name, each list oldest first."""
    changes_by_episode: dict[str, list[Change]] = {}
    episodes = sorted({name for name in names if name})
    rows = database.read_batched(connection, _CHANGES_BY_EPISODE, episodes)
    for change in _without_past_retries(connection, [Change(*row) for row in rows]):
        changes_by_episode.setdefault(change.episode, []).append(change)
    return {
        name: episode_changes[-_MAX_SHOWN:] for name, episode_changes in changes_by_episode.items()
    }


def changes_of_request(connection: Connection, request_id: str) -> list[Change]:
    """Return the changes that were requested for the alerts of a request, oldest first."""
    found = find_changes(connection, changes.c.request_id == request_id)
    return _without_past_retries(connection, found)


def find_retry(connection: Connection, episode: str) -> datetime | None:
    """Return when sync will retry a refused change for an episode, or None if it will not."""
    conditions = awaits_retry(database_now(connection))
    retry_at = select(changes.c.retry_at).where(changes.c.episode == episode, *conditions)
    return connection.scalar(retry_at.limit(1))


def count_failures_in_a_row(connection: Connection, change: Change) -> int:
    """Return how many changes in a row failed or did not help, up to and including this one.

    Only changes of the same target by the same remediation count, and at most _MAX_COUNTED.
    """
    results = connection.scalars(
        select(changes.c.result)
        .where(
            changes.c.target == change.target,
            changes.c.remediation == change.remediation,
            changes.c.result.in_((*FAILURES, *SUCCESSES)),
            changes.c.id <= change.id,
        )
        .order_by(changes.c.id.desc())
        .limit(_MAX_COUNTED)
    )
    return len(list(takewhile(lambda result: result in FAILURES, results)))


def _without_past_retries(connection: Connection, found: Sequence[Change]) -> list[Change]:
    """Return the changes, with an empty retry_at if sync will not retry them."""
    ids = [change.id for change in found if change.retry_at]
    if not ids:
        return list(found)
    is_waiting = awaits_retry(database_now(connection))
    waiting_ids = {
        row_id
        for chunk in database.batched(ids)
        for row_id in connection.scalars(
            select(changes.c.id).where(changes.c.id.in_(chunk), *is_waiting)
        )
    }
    return [
        change if change.id in waiting_ids else change._replace(retry_at=None) for change in found
    ]


def as_json(change: Change) -> dict[str, Any]:
    """Return a change as JSON. Its `result` is `in_flight` until the change has ended."""
    fields = {
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
        fields.update(refusal=change.refusal, reason=change.reason)
    elif change.reason:
        fields["error"] = change.reason
    if change.action_execution_id:
        fields["action_execution_id"] = change.action_execution_id
    if change.evidence:
        fields["evidence"] = json.loads(change.evidence)
    for name in ("retry_at", "retried_at"):
        if getattr(change, name):
            fields[name] = format_timestamp(getattr(change, name))
    return fields
