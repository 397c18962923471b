"""Read and write poundcake_changes: the changes that remediations made, and the refused ones.

A change is in flight from the decision that grants it until its workflow reports how it ended. If
the workflow is cancelled or killed, its change may still be running. So sync ends the change only
once StackStorm reports that all executions of the workflow have ended. Until then, sync extends the
change's lease.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any, Mapping, NamedTuple, Sequence

from sqlalchemy import ColumnElement, FromClause, and_, func, select, update
from sqlalchemy.engine import Connection, Engine

from poundcake.string_enum import StringEnum
from poundcake.trail import clock, database
from poundcake.trail.outbox import Ending, EndResult, add_ending
from poundcake.trail.schema import changes, cut, storable

LEASE = timedelta(hours=6)
"""How long a change stays in flight unless sync extends the lease."""
RETRY_PERIOD = timedelta(hours=24)
"""How long after an episode's first refusal sync keeps trying its changes again."""
_MAX_RETRY_WAIT = timedelta(minutes=60)


class ChangeResult(StringEnum):
    """How a change ended (column `result`, empty while the change is in flight)."""

    REFUSED = "refused"
    """It was refused, so nothing was changed."""
    VERIFIED = "verified"
    """The action succeeded, and a check confirmed that it helped."""
    SUCCEEDED = "succeeded"
    """The action succeeded. No check followed."""
    NOT_VERIFIED = "not_verified"
    """The action succeeded, but the check that followed failed."""
    FAILED = "failed"
    """The action failed."""
    CLEARED = "cleared"
    """The action succeeded, and the incident ended within `not_cleared_minutes`."""
    NOT_CLEARED = "not_cleared"
    """The action succeeded, and the incident was still open after `not_cleared_minutes`."""
    RELEASED = "released"
    """A person released it with poundcake.release, although it may still have been running."""
    UNKNOWN = "unknown"
    """Its workflow ended without reporting a result, so nobody knows whether it was made."""


NOT_CLAIMED = "not_claimed"
"""The value of `refusal` if the execution did not get the claim on the episode."""
FAILURES = (ChangeResult.FAILED, ChangeResult.NOT_VERIFIED, ChangeResult.NOT_CLEARED)
"""The results that the breaker counts as failures."""
SUCCESSES = (ChangeResult.VERIFIED, ChangeResult.SUCCEEDED, ChangeResult.CLEARED)
"""The results that reset the breaker."""
UNDECIDED = (ChangeResult.VERIFIED, ChangeResult.SUCCEEDED)
"""The results that sync replaces with CLEARED or NOT_CLEARED."""

_POWER_WORDS = ("power", "reboot", "cycle", "reset")


def is_power_action(action: str) -> bool:
    """Return True if the reference of an action contains power, reboot, cycle or reset."""
    return any(word in action.lower() for word in _POWER_WORDS)


class Change(NamedTuple):
    """A row of poundcake_changes. The fields are its columns."""

    id: int
    st2_execution_id: str
    request_id: str
    episode: str
    attempt: int
    remediation: str
    action: str
    target: str
    per_value: str
    decided_at: datetime
    lease_until: datetime | None
    ended_at: datetime | None
    result: str
    refusal: str
    reason: str
    evidence: str | None = None
    retry_at: datetime | None = None
    retried_at: datetime | None = None
    action_execution_id: str | None = None


COLUMNS = tuple(changes.c[name] for name in Change._fields)


def opens_breaker(newest_changes: Sequence[Change], breaker_failures: int) -> bool:
    """Return True if the breaker stops a remediation after these changes.

    Args:
        newest_changes: The changes of the remediation that the breaker considers, newest first.
        breaker_failures: The configured value; 0 if there is no breaker.
    """
    latest = newest_changes[:breaker_failures]
    has_failed = [change.result in FAILURES for change in latest]
    return bool(breaker_failures) and len(latest) == breaker_failures and all(has_failed)


def is_granted() -> ColumnElement[bool]:
    """Return the condition for changes that were not refused."""
    return changes.c.result != ChangeResult.REFUSED


def has_episode(episode: str) -> ColumnElement[bool]:
    """Return the condition for changes that belong to an episode."""
    return changes.c.episode == episode


def is_decided_refusal(table: FromClause = changes) -> ColumnElement[bool]:
    """Return the condition for refused changes, except those of executions without the claim.

    StackStorm may start a workflow twice for an alert. The second execution does not get the claim,
    which says nothing about the change.

    Args:
        table: The table poundcake_changes, or an alias of it.
    """
    return and_(table.c.result == ChangeResult.REFUSED, table.c.refusal != NOT_CLAIMED)


def is_unfinished() -> ColumnElement[bool]:
    """Return the condition for changes that are not known to have ended."""
    return changes.c.ended_at.is_(None)


def is_undecided(before: datetime) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions for changes that ended by a time and have an undecided result."""
    return changes.c.result.in_(UNDECIDED), changes.c.ended_at <= before


def is_in_flight(now: datetime) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions for changes that are being made or verified now."""
    return is_unfinished(), changes.c.lease_until > now


def find_changes(connection: Connection, *conditions: ColumnElement[bool]) -> list[Change]:
    """Return the changes that satisfy all conditions, oldest first."""
    rows = connection.execute(select(*COLUMNS).where(*conditions).order_by(changes.c.id))
    return [Change(*row) for row in rows]


def extend_leases(connection: Connection, ids: Sequence[int]) -> None:
    """Extend the leases of changes that are still running."""
    until = clock.database_now(connection) + LEASE
    for chunk in database.batched(ids):
        connection.execute(
            update(changes)
            .where(changes.c.id.in_(chunk), is_unfinished())
            .values(lease_until=until)
        )


def dump_evidence(lines: Sequence[str]) -> str:
    """Return the value of the column `evidence`."""
    return storable(json.dumps(lines))


def end_changes(
    connection: Connection,
    execution_id: str,
    result: ChangeResult,
    message: str = "",
    evidence: Sequence[str] = (),
    action_execution_id: str = "",
) -> int:
    """End the unfinished changes of a workflow's execution.

    Also add the event that reports the end of the remediation, unless the result is undecided. In
    that case, sync adds the event once it knows whether the changes cleared the alert.

    Args:
        connection: A transaction.
        execution_id: The workflow's execution.
        result: How the changes ended.
        message: What was done, and what failed.
        evidence: What the checks before and after the change saw; empty to keep what is recorded.
        action_execution_id: The execution of the action that made the change, or '' if it is not
            known.

    Returns:
        The number of changes that were ended.
    """
    count = 0
    for change in find_changes(
        connection, changes.c.st2_execution_id == execution_id, is_unfinished()
    ):
        seen = dump_evidence(evidence) if evidence else change.evidence
        updated = connection.execute(
            update(changes)
            .where(changes.c.id == change.id, is_unfinished())
            .values(
                ended_at=clock.database_now(connection),
                result=result,
                reason="" if result in SUCCESSES else cut(message, changes.c.reason),
                evidence=seen,
                action_execution_id=cut(action_execution_id, changes.c.action_execution_id) or None,
            )
        )
        count += updated.rowcount
        if updated.rowcount and result not in UNDECIDED:
            change_with_evidence = change._replace(evidence=seen)
            add_ending(connection, make_ending(change_with_evidence, EndResult.FAILED, message))
    return count


def make_ending(change: Change, result: EndResult, message: str = "") -> Ending:
    """Return an Ending for the remediation that made a change."""
    return Ending(
        result=result,
        request_id=change.request_id,
        episode=change.episode,
        execution_id=change.st2_execution_id,
        remediation=change.remediation,
        action=change.action,
        target=change.target,
        message=message,
        evidence=json.loads(change.evidence or "[]"),
        follows_change=True,
    )


def finish_changes(
    engine: Engine,
    execution_id: str,
    result: ChangeResult,
    message: str = "",
    evidence: Sequence[str] = (),
    action_execution_id: str = "",
) -> int:
    """End the changes of a workflow's execution in one transaction.

    The workflow's last task calls this.

    Args:
        engine: The tracking database.
        execution_id: The workflow's execution.
        result: How the changes ended.
        message: What was done, and what failed.
        evidence: What the checks before and after the change saw.
        action_execution_id: The execution of the action that made the change, or ''.

    Returns:
        The number of changes that were ended.

    Raises:
        DatabaseError: The database is unavailable. Sync ends the changes later.
    """
    database.prepare(engine, create=False)

    def write() -> int:
        with database.transaction(engine) as connection:
            return end_changes(
                connection, execution_id, result, message, evidence, action_execution_id
            )

    return database.retry_deadlocks(write)


def release_claims(connection: Connection, ids: Sequence[int]) -> None:
    """Release the claims that changes hold on their episodes, and end the unfinished changes.

    From then on, neither the cooldown of a target nor the breaker counts these changes.
    """
    now = clock.database_now(connection)
    for chunk in database.batched(ids):
        connection.execute(
            update(changes)
            .where(changes.c.id.in_(chunk), is_unfinished())
            .values(ended_at=now, result=ChangeResult.RELEASED)
        )
        connection.execute(
            update(changes).where(changes.c.id.in_(chunk)).values(claim=None, released_at=now)
        )


def write_decision(
    connection: Connection, execution_id: str, episode: str, values: Mapping[str, Any]
) -> None:
    """Write the decision about an execution's change, or replace an earlier refusal.

    Args:
        connection: A transaction.
        execution_id: The execution that requested the change.
        episode: The episode for which it requested the change.
        values: The values of the other columns.
    """
    updated = connection.execute(
        update(changes)
        .where(
            changes.c.st2_execution_id == execution_id,
            changes.c.episode == episode,
        )
        .values(**values)
    )
    if not updated.rowcount:
        connection.execute(
            changes.insert().values(
                st2_execution_id=cut(execution_id, changes.c.st2_execution_id),
                episode=episode,
                **values,
            )
        )


def plan_retry(
    connection: Connection, execution_id: str, episode: str, minutes: int
) -> datetime | None:
    """Return when sync will retry a change that is being refused, or None if it will not.

    The wait starts at `minutes` and doubles with each refusal for the episode, up to an hour.

    Args:
        connection: A transaction.
        execution_id: The execution whose change is refused.
        episode: The episode of the alert.
        minutes: The configured retry_refused_minutes. 0 turns retries off.
    """
    if not minutes:
        return None
    now = clock.database_now(connection)
    earlier_count, first_refused_at = connection.execute(
        select(func.count(), func.min(changes.c.decided_at)).where(
            has_episode(episode), is_decided_refusal(), changes.c.st2_execution_id != execution_id
        )
    ).one()
    # After six doublings, the wait is over an hour, however short it was at first.
    wait = min(_MAX_RETRY_WAIT, timedelta(minutes=minutes) * 2 ** min(earlier_count, 6))
    is_too_late = now + wait > (first_refused_at or now) + RETRY_PERIOD
    return None if is_too_late else now + wait


def release_failures(connection: Connection, remediation: str) -> int:
    """Stop counting the failures of a remediation, so that its breaker closes.

    Returns:
        The number of failures that no longer count.
    """
    updated = connection.execute(
        update(changes)
        .where(
            changes.c.remediation == remediation,
            changes.c.result.in_(FAILURES),
            changes.c.released_at.is_(None),
        )
        .values(released_at=clock.database_now(connection))
    )
    return updated.rowcount
