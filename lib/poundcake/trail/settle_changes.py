"""End changes whose workflow could not report, and decide whether changes cleared their alerts.

The last task of a workflow reports the end of its change. No task runs after a workflow was
cancelled or killed, and its change may still be running then. So a change stays in flight until
StackStorm reports that the workflow and everything that it started have ended.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Mapping, Sequence

from sqlalchemy import ColumnElement, exists, select, update

from poundcake.config import Config
from poundcake.stackstorm import Execution, ExecutionStatus, StackStormApi, workflow_output
from poundcake.trail import database
from poundcake.trail.changes import (
    Change,
    ChangeResult,
    extend,
    find,
    finish,
    is_undecided,
    is_unfinished,
)
from poundcake.trail.clock import database_now
from poundcake.trail.open_work import is_open
from poundcake.trail.read_executions import read_executions
from poundcake.trail.schema import alerts, changes
from poundcake.trail.sync_round import Deadline, SyncRound

SETTLE_SECONDS = 10
"""Seconds for which a round may read the executions of changes from StackStorm."""
_PAGE = 100  # maximum entries in a list of StackStorm's API
# The workflow of a change starts a workflow that runs an action, which may be another workflow.
_MAX_DEPTH = 4


def settle_changes(
    sync_round: SyncRound, api: StackStormApi, config: Config, deadline: Deadline
) -> int:
    """End the changes whose executions have ended, and extend the leases of the others.

    Returns:
        The number of changes that were ended, or whose effect on their alert was decided.

    Raises:
        StackStormError: The API is unavailable. The leases stay as they are.
    """
    count = _decide_results(sync_round, config)
    with database.reading(sync_round.engine) as connection:
        unfinished_changes = find(connection, is_unfinished())
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
    results = {
        execution_id: _result(execution)
        for execution_id, execution in executions_by_id.items()
        if execution is None or not _is_running(api, execution, _MAX_DEPTH)
    }
    _write(sync_round, page, executions_by_id, results)
    return sum(change.st2_execution_id in results for change in page)


def _is_running(api: StackStormApi, execution: Execution, depth: int) -> bool:
    """Return True if an execution, or one that it started, has not ended."""
    if not execution.is_terminal:
        return True
    if not depth:
        return False
    return any(_is_running(api, child, depth - 1) for child in api.get_children(execution.id))


def _result(execution: Execution | None) -> ChangeResult:
    """Return how a change ended, judged by the execution of its workflow."""
    if execution is None or execution.status == ExecutionStatus.CANCELED:
        return ChangeResult.UNKNOWN
    if execution.status != ExecutionStatus.SUCCEEDED:
        return ChangeResult.FAILED
    is_verified = workflow_output(execution.result).get("verified")
    return ChangeResult.VERIFIED if is_verified else ChangeResult.SUCCEEDED


def _write(
    sync_round: SyncRound,
    page: Sequence[Change],
    executions_by_id: Mapping[str, Execution | None],
    results: Mapping[str, ChangeResult],
) -> None:
    running_ids = [
        change.id
        for change in page
        if change.st2_execution_id in executions_by_id and change.st2_execution_id not in results
    ]
    with sync_round.writing() as connection:
        extend(connection, running_ids)
        for execution_id, result in results.items():
            finish(connection, execution_id, result)


def _decide_results(sync_round: SyncRound, config: Config) -> int:
    """Decide for ended changes whether their incidents ended within not_cleared_minutes."""
    with sync_round.writing() as connection:
        is_due = is_undecided(
            database_now(connection) - timedelta(minutes=config.not_cleared_minutes)
        )
        count = 0
        for condition, result in (
            (_incident_is_open(), ChangeResult.NOT_CLEARED),
            (~_incident_is_open(), ChangeResult.CLEARED),
        ):
            updated = connection.execute(
                update(changes).where(*is_due, condition).values(result=result)
            )
            count += updated.rowcount
    return count


def _incident_is_open() -> ColumnElement[bool]:
    return exists(select(alerts.c.id).where(alerts.c.episode == changes.c.episode, is_open()))
