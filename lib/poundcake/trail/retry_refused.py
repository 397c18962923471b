"""Retry changes that were refused for a temporary reason, such as a storm or a cooldown.

Alertmanager's repeated notifications are duplicates, so nothing else would try such a change again
while its incident is open. Sync starts the refused workflow again with StackStorm's own re-run. The
new execution repeats everything: the checks, the limits and, in mode ask, the approval. The trigger
is not emitted again, because that would also start the user's other rules again.

The new execution works on the same attempt at the episode, because the number of the attempt is
stored in the alert's row, which only a replay replaces. So the unique keys of that attempt still
permit only one claim and one change, regardless of what else is started in the meantime.

Before sync asks StackStorm to start the workflow, one transaction marks the refusal and releases
the claim of the refused execution. The mark stays unless it is certain that StackStorm started
nothing. So after a crash or a lost response, a retry may be lost, but is never started twice.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, NamedTuple, Sequence

from sqlalchemy import select, update
from sqlalchemy.engine import Connection

from poundcake.config import Config
from poundcake.stackstorm import Execution, StackStormApi, StackStormError
from poundcake.trail import database
from poundcake.trail.audit import Actor, replace_details, write_entry
from poundcake.trail.changes import Change, find_changes
from poundcake.trail.claims import HostCooldown, find_blocking_claim
from poundcake.trail.clock import database_now
from poundcake.trail.open_work import is_due_for_retry
from poundcake.trail.pause import read_pause
from poundcake.trail.read_executions import read_executions
from poundcake.trail.schema import alerts, changes, links
from poundcake.trail.sync_round import Deadline, SyncRound

RETRY_SECONDS = 10
"""How long a round may spend on starting workflows again, in seconds."""
AUDIT_ACTION = "retry"
"""The action in the audit entry of a retry."""
_OWN_PACK = "poundcake."
_ACTOR = Actor("poundcake.sync")
# Maximum number of workflows that a round starts again. When a storm ends, many are due. The others
# follow in later rounds, when some of the first changes are no longer in flight.
_MAX_RETRIES = 10


class _Mark(NamedTuple):
    """The audit entry about a refusal that is marked as tried again."""

    audit_id: int
    details: dict[str, Any]


def retry_refused(
    sync_round: SyncRound, api: StackStormApi, config: Config, deadline: Deadline
) -> int:
    """Start again the workflows of refused changes that are due for a retry, oldest first.

    Returns:
        The number of workflows that were started.

    Raises:
        StackStormError: The API is unavailable.
    """
    with database.reading(sync_round.engine) as connection:
        due_changes = _find_due(connection)
    if not config.retry_refused_minutes:
        for change in due_changes:
            _reschedule(sync_round, change, None)
        return 0
    ids = sorted({change.st2_execution_id for change in due_changes})
    executions = read_executions(api, ids, deadline, sync_round.note) if ids else {}
    wait = timedelta(minutes=config.retry_refused_minutes)
    count = 0
    for change in due_changes:
        if deadline.has_passed:
            break
        if change.st2_execution_id not in executions:
            _reschedule(sync_round, change, wait)  # it cannot be read; others must not wait for it
            continue
        execution = executions[change.st2_execution_id]
        if execution is None or not _may_start_again(execution):
            _reschedule(sync_round, change, None)
        elif not execution.is_terminal:
            _reschedule(sync_round, change, wait)  # so that it does not delay the others
        else:
            count += _retry(sync_round, api, config, change)
    return count


def _may_start_again(execution: Execution) -> bool:
    """Return True if an execution is a workflow of this pack that no other workflow started.

    A workflow of another pack may do other things as well, and a workflow that another one started
    would run again without its parent.
    """
    return execution.action.startswith(_OWN_PACK) and not execution.parent_id


def _find_due(connection: Connection) -> Sequence[Change]:
    due_changes = find_changes(connection, *is_due_for_retry(database_now(connection)))
    return sorted(due_changes, key=lambda change: str(change.retry_at))[:_MAX_RETRIES]


def _reschedule(sync_round: SyncRound, change: Change, wait: timedelta | None) -> None:
    """Postpone the retry of a change, or cancel it if `wait` is None."""
    with sync_round.writing() as connection:
        retry_at = None if wait is None else database_now(connection) + wait
        _update(connection, change, retry_at=retry_at, retried_at=None)


def _retry(sync_round: SyncRound, api: StackStormApi, config: Config, change: Change) -> int:
    """Start the workflow of a refused change again. Return 1 if it was started, otherwise 0."""
    with sync_round.writing() as connection:
        mark = _mark(connection, config, change)
    if mark is None:
        return 0
    try:
        execution_id = api.re_run(change.st2_execution_id)
    except StackStormError as error:
        sync_round.note(f"execution {change.st2_execution_id} was not started again: {error}")
        if error.had_no_effect:
            _reschedule(sync_round, change, timedelta(minutes=config.retry_refused_minutes))
        _add_details(sync_round, mark, problem=str(error))
        if error.is_outage:
            raise
        return 0
    _add_details(sync_round, mark, started_execution_id=execution_id)
    return 1


def _mark(connection: Connection, config: Config, change: Change) -> _Mark | None:
    """Mark a refusal as tried again, unless it is no longer due, and release its claim."""
    now = database_now(connection)
    is_due = bool(find_changes(connection, changes.c.id == change.id, *is_due_for_retry(now)))
    if not is_due or read_pause(connection):
        return None
    cooldown_end = _find_cooldown_end(connection, config, change)
    if cooldown_end:
        _update(connection, change, retry_at=cooldown_end)
        return None
    _update(connection, change, retried_at=now)
    _release_claim(connection, change)
    details = {"execution_id": change.st2_execution_id, "refusal": change.refusal}
    entry_id = write_entry(connection, AUDIT_ACTION, _ACTOR, change.episode, details=details)
    return _Mark(entry_id, details)


def _find_cooldown_end(connection: Connection, config: Config, change: Change) -> datetime | None:
    """Return the end of the cooldown that would block the workflow on the host, or None."""
    cooldown = HostCooldown.from_config(config)
    link = connection.execute(
        select(links.c.st2_action_ref, alerts.c.host)
        .join(alerts, alerts.c.id == links.c.alert_id)
        .where(
            links.c.st2_execution_id == change.st2_execution_id,
            alerts.c.episode == change.episode,
        )
        .limit(1)
    ).one_or_none()
    if link is None or not link.host or not cooldown.duration:
        return None
    now = database_now(connection)
    claim = find_blocking_claim(connection, link.host, link.st2_action_ref, cooldown, now)
    return claim.until if claim else None


def _release_claim(connection: Connection, change: Change) -> None:
    """Release the refused execution's claim on the episode."""
    alert_ids = select(alerts.c.id).where(alerts.c.episode == change.episode)
    connection.execute(
        update(links)
        .where(
            links.c.st2_execution_id == change.st2_execution_id,
            links.c.alert_id.in_(alert_ids),
            links.c.claim.is_not(None),
        )
        .values(claim=None, released_at=database_now(connection))
    )


def _update(connection: Connection, change: Change, **values: Any) -> None:
    connection.execute(update(changes).where(changes.c.id == change.id).values(**values))


def _add_details(sync_round: SyncRound, mark: _Mark, **details: str) -> None:
    with sync_round.writing() as connection:
        replace_details(connection, mark.audit_id, AUDIT_ACTION, {**mark.details, **details})
