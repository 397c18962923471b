"""End changes whose workflow could not report, and decide whether changes cleared their alerts.

The last task of a workflow reports the end of its change. After a workflow is cancelled or killed,
none of its tasks runs, but its change may still be running. So a change stays in flight until
StackStorm reports that the workflow and everything that it started have ended.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Mapping, NamedTuple, Sequence

from sqlalchemy import select, update
from sqlalchemy.engine import Connection

from poundcake.config import Config
from poundcake.stackstorm import (
    Execution,
    ExecutionStatus,
    StackStormApi,
    failure_reason,
    workflow_output,
)
from poundcake.trail import database
from poundcake.trail.changes import (
    Change,
    ChangeResult,
    end_changes,
    extend_leases,
    find_changes,
    is_undecided,
    is_unfinished,
    make_ending,
)
from poundcake.trail.clock import database_now
from poundcake.trail.open_work import is_open
from poundcake.trail.outbox import EndResult, add_ending
from poundcake.trail.read_executions import read_executions
from poundcake.trail.schema import alerts, changes
from poundcake.trail.sync_round import Deadline, SyncRound

SETTLE_SECONDS = 10
"""Maximum time that a round reads the executions of changes from StackStorm, in seconds."""
_PAGE = 100  # maximum entries in a list of StackStorm's API
# The workflow of a change starts a workflow that runs an action, which may be another workflow.
_MAX_DEPTH = 4


class _ChangeEnd(NamedTuple):
    """How a change ended, and the message about it."""

    result: ChangeResult
    message: str


def settle_changes(
    sync_round: SyncRound, api: StackStormApi, config: Config, deadline: Deadline
) -> int:
    """End the changes whose executions have ended, and extend the leases of the others.

    Returns:
        The number of changes that were ended, or whose effect on their alert was decided.

    Raises:
        StackStormError: The API is unavailable. The leases are not extended.
    """
    count = _decide_results(sync_round, config)
    with database.reading(sync_round.engine) as connection:
        unfinished_changes = find_changes(connection, is_unfinished())
    for start in range(0, len(unfinished_changes), _PAGE):
        if start and deadline.has_passed:
            break
        count += _settle_page(sync_round, api, unfinished_changes[start : start + _PAGE], deadline)
    return count


def _settle_page(
    sync_round: SyncRound, api: StackStormApi, page: Sequence[Change], deadline: Deadline
) -> int:
    ids = sorted({change.st2_execution_id for change in page})
    executions_by_id = read_executions(api, ids, deadline, sync_round.note)
    endings = {
        execution_id: _ChangeEnd(_result(execution), _message(execution))
        for execution_id, execution in executions_by_id.items()
        if execution is None or not _is_running(api, execution, _MAX_DEPTH)
    }
    _store(sync_round, page, executions_by_id, endings)
    return sum(change.st2_execution_id in endings for change in page)


def _is_running(api: StackStormApi, execution: Execution, depth: int) -> bool:
    """Return True if an execution, or one that it started, has not ended."""
    if not execution.is_terminal:
        return True
    if not depth:
        return False
    return any(_is_running(api, child, depth - 1) for child in api.get_children(execution.id))


def _result(execution: Execution | None) -> ChangeResult:
    """Return the result of a change, given the execution of its workflow."""
    if execution is None or execution.status == ExecutionStatus.CANCELED:
        return ChangeResult.UNKNOWN
    if execution.status != ExecutionStatus.SUCCEEDED:
        return ChangeResult.FAILED
    is_verified = workflow_output(execution.result).get("verified")
    return ChangeResult.VERIFIED if is_verified else ChangeResult.SUCCEEDED


def _message(execution: Execution | None) -> str:
    """Return the message about the end of a change, given the execution of its workflow."""
    if execution is None:
        return "StackStorm deleted the workflow's execution before it reported a result"
    if execution.status == ExecutionStatus.CANCELED:
        return "the workflow was cancelled, and its change may have been made"
    message = workflow_output(execution.result).get("message", "")
    return str(message) or failure_reason(execution.result)


def _store(
    sync_round: SyncRound,
    page: Sequence[Change],
    executions_by_id: Mapping[str, Execution | None],
    endings: Mapping[str, _ChangeEnd],
) -> None:
    running_ids = [
        change.id
        for change in page
        if change.st2_execution_id in executions_by_id and change.st2_execution_id not in endings
    ]
    with sync_round.writing() as connection:
        extend_leases(connection, running_ids)
        for execution_id, change_end in endings.items():
            end_changes(connection, execution_id, change_end.result, change_end.message)


def _decide_results(sync_round: SyncRound, config: Config) -> int:
    """Decide for ended changes whether their incidents ended within not_cleared_minutes."""
    minutes = config.not_cleared_minutes
    with sync_round.writing() as connection:
        undecided_changes = find_changes(
            connection, *is_undecided(database_now(connection) - timedelta(minutes=minutes))
        )
        for change in undecided_changes:
            if _is_incident_open(connection, change):
                result = ChangeResult.NOT_CLEARED
                message = f"the incident is still open {minutes} min after the change"
                ending = make_ending(change, EndResult.NOT_CLEARED, message)
            else:
                result, ending = ChangeResult.CLEARED, make_ending(change, EndResult.CLEARED)
            connection.execute(
                update(changes).where(changes.c.id == change.id).values(result=result)
            )
            add_ending(connection, ending)
    return len(undecided_changes)


def _is_incident_open(connection: Connection, change: Change) -> bool:
    incident = select(alerts.c.id).where(alerts.c.episode == change.episode, is_open()).limit(1)
    return connection.scalar(incident) is not None
