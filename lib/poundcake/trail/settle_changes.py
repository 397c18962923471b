"""End changes whose workflow could not report, and decide whether changes cleared their alerts.

The last task of a workflow reports the end of its change. After a workflow is cancelled or killed,
none of its tasks runs, but its change may still be running. So a change stays in flight until
StackStorm reports that the workflow and everything that it started have ended. Then the execution
of the task that made the change shows how the change ended.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Mapping, NamedTuple, Sequence

from sqlalchemy import select, update
from sqlalchemy.engine import Connection

from poundcake.config import Config
from poundcake.execution_status import ExecutionStatus
from poundcake.monitoring import AlertmanagerApi
from poundcake.stackstorm import (
    Execution,
    StackStormApi,
    action_result,
    describe_failure,
    failure_reason,
    noting_errors,
    workflow_output,
)
from poundcake.trail import database
from poundcake.trail.approvals import BEGIN_ACTION
from poundcake.trail.change_tasks import find_change, read_tasks
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
from poundcake.trail.mirror import write_execution
from poundcake.trail.open_work import is_open
from poundcake.trail.outbox import EndResult, add_ending
from poundcake.trail.read_executions import read_executions
from poundcake.trail.schema import alerts, changes, executions, storable
from poundcake.trail.silences import end_silence_during_change
from poundcake.trail.sync_round import Deadline, SyncRound

SETTLE_SECONDS = 10
"""How long a round may read the executions of changes from StackStorm, in seconds."""
_PAGE = 100  # maximum entries in a list of StackStorm's API
# The workflow remediate starts the workflow change, which starts a workflow that runs an action,
# which may be another workflow.
_MAX_DEPTH = 5


class _ChangeEnd(NamedTuple):
    """How a change ended.

    Attributes:
        result: The result of the change.
        message: What is known about it.
        mutated: Whether the change was made; None if that is not known.
        is_reported: Whether the workflow reported the result, so that its execution shows it.
        is_silenced: Whether the alert may still be silenced because of it.
        action_execution_id: The execution of the action that made the change, or ''.
    """

    result: ChangeResult
    message: str
    mutated: bool | None = None
    is_reported: bool = False
    is_silenced: bool = False
    action_execution_id: str = ""


def settle_changes(
    sync_round: SyncRound,
    api: StackStormApi,
    config: Config,
    deadline: Deadline,
    alertmanagers: Sequence[AlertmanagerApi] = (),
) -> int:
    """End the changes whose executions have ended, and extend the leases of the others.

    Also end the silences of the changes that ended without a report.

    Returns:
        The number of changes that were ended, or for which it was decided whether they cleared
        their alert.

    Raises:
        StackStormError: The API is unavailable. The leases are not extended.
    """
    count = _decide_results(sync_round, config)
    with database.reading(sync_round.engine) as connection:
        unfinished_changes = find_changes(connection, is_unfinished())
    for start in range(0, len(unfinished_changes), _PAGE):
        if start and deadline.has_passed:
            break
        page = unfinished_changes[start : start + _PAGE]
        endings = _settle_page(sync_round, api, page, deadline)
        count += sum(change.st2_execution_id in endings for change in page)
        for execution_id, change_end in endings.items():
            if change_end.is_silenced:
                for problem in end_silence_during_change(alertmanagers, execution_id):
                    sync_round.note(problem)
    return count


def _settle_page(
    sync_round: SyncRound, api: StackStormApi, page: Sequence[Change], deadline: Deadline
) -> Mapping[str, _ChangeEnd]:
    """Store how the changes of a page ended, and return their ends by workflow execution."""
    ids = sorted({change.st2_execution_id for change in page})
    executions_by_id = read_executions(api, ids, deadline, sync_round.note)
    endings: dict[str, _ChangeEnd] = {}
    for execution_id, execution in executions_by_id.items():
        # After an error, this change stays in flight, and the others are settled all the same.
        problem = f"the tasks of execution {execution_id} could not be read"
        with noting_errors(sync_round.note, problem):
            change_end = _find_end(api, execution)
            if change_end:
                endings[execution_id] = change_end
    _store(sync_round, page, executions_by_id, endings)
    return endings


def _find_end(api: StackStormApi, execution: Execution | None) -> _ChangeEnd | None:
    """Return how a change ended, or None while its workflow or what it started is running.

    Args:
        api: StackStorm's API.
        execution: The execution of the workflow, or None if StackStorm no longer has it.
    """
    if execution is None:
        message = "StackStorm deleted the workflow's execution before it reported a result"
        return _ChangeEnd(ChangeResult.UNKNOWN, message)
    if not execution.is_terminal:
        return None
    children = api.get_children(execution.id)
    if any(_is_running(api, child, _MAX_DEPTH - 1) for child in children):
        return None
    output = workflow_output(execution.result)
    if execution.status == ExecutionStatus.SUCCEEDED or output.get("mutated"):
        return _reported_end(execution)
    tasks = read_tasks(api, execution.id)
    change = find_change(api, tasks)
    change_end = (
        _interrupted_end(execution, change)
        if change
        else _end_without_change_task(execution, tasks)
    )
    is_silenced = any(action_result(task).get("silenced") is True for task in tasks)
    return change_end._replace(
        is_silenced=is_silenced, action_execution_id=change.id if change else ""
    )


def _is_running(api: StackStormApi, execution: Execution, depth: int) -> bool:
    """Return True if an execution, or one that it started, has not ended."""
    if not execution.is_terminal:
        return True
    if not depth:
        return False
    return any(_is_running(api, child, depth - 1) for child in api.get_children(execution.id))


def _reported_end(execution: Execution) -> _ChangeEnd:
    """Return the end of a change, given the execution of a workflow that has reported it."""
    output = workflow_output(execution.result)
    message = str(output.get("message", "")) or failure_reason(execution.result)
    result = ChangeResult.VERIFIED if output.get("verified") else ChangeResult.SUCCEEDED
    if execution.status != ExecutionStatus.SUCCEEDED:
        result = ChangeResult.FAILED
    return _ChangeEnd(result, message, is_reported=True)


def _end_without_change_task(execution: Execution, tasks: Sequence[Execution]) -> _ChangeEnd:
    """Return the end of a change whose workflow ended early, without a known task for the change.

    In that case, the pack's own workflow has made no change, but another workflow may have.
    """
    is_canceled = execution.status == ExecutionStatus.CANCELED
    result = ChangeResult.UNKNOWN if is_canceled else ChangeResult.FAILED
    if any(task.action == BEGIN_ACTION for task in tasks):
        return _ChangeEnd(result, f"{_describe(execution)}; nothing was changed", mutated=False)
    if is_canceled:
        message = f"{_describe(execution)}, and its change may have been made"
        return _ChangeEnd(result, message)
    return _reported_end(execution)


def _interrupted_end(execution: Execution, change: Execution) -> _ChangeEnd:
    """Return the end of a change whose workflow ended before it could report.

    Args:
        execution: The execution of the workflow.
        change: The execution of the action that made the change.
    """
    if change.status == ExecutionStatus.SUCCEEDED:
        message = f"{_describe(execution)}; {change.action} succeeded, and nothing verified it"
        return _ChangeEnd(ChangeResult.SUCCEEDED, message, mutated=True)
    if change.status == ExecutionStatus.CANCELED:
        message = f"{_describe(execution)}; {change.action} was cancelled and may have made changes"
        return _ChangeEnd(ChangeResult.UNKNOWN, message)
    message = f"{_describe(execution)}; {describe_failure(change)}"
    return _ChangeEnd(ChangeResult.FAILED, message, mutated=True)


def _describe(execution: Execution) -> str:
    """Describe the end of a workflow that did not report its change."""
    if execution.status == ExecutionStatus.CANCELED:
        return "the workflow was cancelled"
    reason = failure_reason(execution.result)
    ending = f"the workflow ended with status {execution.status}"
    return f"{ending} ({reason})" if reason else ending


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
            execution = executions_by_id[execution_id]
            if execution and not change_end.is_reported:
                write_execution(connection, execution, database_now(connection))
                connection.execute(
                    update(executions)
                    .where(executions.c.id == execution_id)
                    .values(mutated=change_end.mutated, message=storable(change_end.message))
                )
            end_changes(
                connection,
                execution_id,
                change_end.result,
                change_end.message,
                action_execution_id=change_end.action_execution_id,
            )


def _decide_results(sync_round: SyncRound, config: Config) -> int:
    """Decide whether the incidents of ended changes ended within not_cleared_minutes."""
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
