"""Release claims, so that other executions may work on an episode."""

from __future__ import annotations

from typing import Any, Callable, Mapping, Sequence, TypedDict

from sqlalchemy import Row, select, update
from sqlalchemy.engine import Connection, Engine

from poundcake.execution_status import TERMINAL
from poundcake.trail import changes, clock, database, short_ids
from poundcake.trail.audit import NOBODY, Actor, write_entry
from poundcake.trail.errors import TrackingError
from poundcake.trail.schema import alerts, executions, links

StatusLookup = Callable[[Sequence[str]], Mapping[str, str]]
"""A function that returns the known statuses of executions, by id."""


class ReleasedClaim(TypedDict):
    """A released claim: the execution that held it, and its workflow."""

    st2_execution_id: str
    st2_workflow: str


def release_claims(
    engine: Engine,
    episode: str,
    workflow: str = "",
    force: bool = False,
    fetch_statuses: StatusLookup | None = None,
    actor: Actor = NOBODY,
) -> list[ReleasedClaim]:
    """Release the claims on an episode, for one workflow or for all of them.

    Use this if a workflow claimed the episode but ended before it did its work. The claims of the
    workflow's changes are also released, so that another change may be made. The links are kept.

    Args:
        engine: The tracking database.
        episode: The episode, or the beginning of its name.
        workflow: Release only this workflow's claims; '' for all.
        force: Also release the claims of executions that have not ended. A second execution may
            then work on the episode at the same time.
        fetch_statuses: Fetches the current statuses of executions recorded as open, because
            the record may be out of date.
        actor: Who releases the claims, for the audit log.

    Raises:
        TrackingError: An execution that holds one of the claims, or its change, has not ended.
            Nothing was released.
        DatabaseError: The database is unavailable.
    """
    database.prepare(engine, create=False)
    with database.reading(engine) as connection:
        episode = short_ids.expand_episode(connection, episode)
        claims = _read_claims(connection, episode, workflow)
        claimed_changes = _read_granted_changes(connection, episode, claims if workflow else None)
    running = {} if force else _find_running(claims, fetch_statuses)
    if running:
        raise TrackingError(_running_message(claims, running))
    unfinished_changes = [change for change in claimed_changes if change.ended_at is None]
    if unfinished_changes and not force:
        raise TrackingError(_unfinished_message(unfinished_changes[0]))
    with database.transaction(engine) as connection:
        changes.release_claims(connection, [change.id for change in claimed_changes])
        connection.execute(
            update(links)
            .where(links.c.id.in_([row.id for row in claims]))
            .values(claim=None, released_at=clock.database_now(connection))
        )
        released_claims = [
            ReleasedClaim(st2_execution_id=row.st2_execution_id, st2_workflow=row.st2_action_ref)
            for row in claims
        ]
        if released_claims:
            details = {"released": released_claims, "force": force}
            write_entry(connection, "release", actor, episode, details=details)
    return released_claims


def release_breaker(engine: Engine, remediation: str, actor: Actor = NOBODY) -> int:
    """Stop counting the past failures of a remediation, so that it may make changes again.

    Returns:
        The number of failures that no longer count.

    Raises:
        DatabaseError: The database is unavailable.
    """
    database.prepare(engine, create=False)
    with database.transaction(engine) as connection:
        failures = changes.release_failures(connection, remediation)
        if failures:
            details = {"remediation": remediation, "failures": failures}
            write_entry(connection, "release", actor, remediation, details=details)
    return failures


def _read_claims(connection: Connection, episode: str, workflow: str) -> Sequence[Row[Any]]:
    """Return the claims on an episode, with the statuses of their executions."""
    statement = (
        select(links.c.id, links.c.st2_execution_id, links.c.st2_action_ref, executions.c.status)
        .join(alerts, alerts.c.id == links.c.alert_id)
        .outerjoin(executions, executions.c.id == links.c.st2_execution_id)
        .where(alerts.c.episode == episode, links.c.claim.is_not(None))
        .order_by(links.c.id)
    )
    if workflow:
        statement = statement.where(links.c.st2_action_ref == workflow)
    return connection.execute(statement).all()


def _read_granted_changes(
    connection: Connection, episode: str, claims: Sequence[Row[Any]] | None
) -> list[changes.Change]:
    """Return the granted changes for an episode.

    Args:
        connection: A transaction.
        episode: The episode.
        claims: Return only the changes of the executions that hold these claims; None for all.
    """
    granted_changes = changes.find_changes(
        connection, changes.has_episode(episode), changes.is_granted()
    )
    execution_ids = None if claims is None else {row.st2_execution_id for row in claims}
    return [
        change
        for change in granted_changes
        if execution_ids is None or change.st2_execution_id in execution_ids
    ]


def _unfinished_message(change: changes.Change) -> str:
    return (
        f"nothing was released, because the change that execution {change.st2_execution_id} made "
        f"with {change.action} is not recorded as ended; wait until sync has recorded its end, "
        "which takes a minute or two, or pass force=true"
    )


def _find_running(
    claims: Sequence[Row[Any]], fetch_statuses: StatusLookup | None
) -> dict[str, str]:
    """Return the statuses of the executions that hold claims and have not ended, by id."""
    recorded_statuses = {row.st2_execution_id: row.status for row in claims}
    running = {
        execution_id: status
        for execution_id, status in recorded_statuses.items()
        if status and status not in TERMINAL
    }
    if running and fetch_statuses:
        running.update(fetch_statuses(sorted(running)))
    return {
        execution_id: status for execution_id, status in running.items() if status not in TERMINAL
    }


def _running_message(claims: Sequence[Row[Any]], running: Mapping[str, str]) -> str:
    running_executions = ", ".join(
        f"execution {row.st2_execution_id} of {row.st2_action_ref} is "
        f"{running[row.st2_execution_id]}"
        for row in claims
        if row.st2_execution_id in running
    )
    return (
        f"nothing was released, because {running_executions}: a second execution would work on the "
        "episode at the same time; wait until it has ended, or cancel it, or pass force=true"
    )
