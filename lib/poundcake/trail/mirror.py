"""Copy the state of open executions from StackStorm into execution_db."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Sequence

from sqlalchemy import select, update
from sqlalchemy.engine import Connection

from poundcake.execution_status import TERMINAL, ExecutionStatus
from poundcake.stackstorm import (
    Execution,
    OutputValue,
    StackStormApi,
    failure_reason,
    fields,
    workflow_output,
)
from poundcake.trail import database
from poundcake.trail.changes import NOT_CLAIMED
from poundcake.trail.clock import database_now
from poundcake.trail.execution_results import end_result, execution_result
from poundcake.trail.outbox import Ending, add_ending
from poundcake.trail.read_executions import read_executions
from poundcake.trail.schema import alerts, changes, cut, executions, links, truncate
from poundcake.trail.sync_round import Deadline, SyncRound
from poundcake.trail.verdict import LINK_STAGE

MIRROR_SECONDS = 15
"""How long a round may read executions from StackStorm, in seconds."""
_MAX_EXECUTIONS = 1000
_PAGE = 100  # maximum entries in a list that StackStorm's API returns
# The stages of executions that are not reported as ended remediations: those without a report,
# without a claim, or with a change that was not reserved.
_STAGES_WITHOUT_EVENT = ("", NOT_CLAIMED, "done")


def mirror_open_executions(sync_round: SyncRound, api: StackStormApi, deadline: Deadline) -> int:
    """Update the executions that are recorded as open, least recently synced first.

    Returns:
        The number of executions that were read.

    Raises:
        StackStormError: The API is unavailable. Executions that were read before that are stored.
    """
    ids = _read_open_ids(sync_round)
    count = 0
    for start in range(0, len(ids), _PAGE):
        page_ids = ids[start : start + _PAGE]
        executions_by_id = read_executions(api, page_ids, deadline, sync_round.note)
        _write_page(sync_round, page_ids, executions_by_id)
        count += len(executions_by_id)
        if deadline.has_passed:
            break
    return count


def _read_open_ids(sync_round: SyncRound) -> list[str]:
    with database.reading(sync_round.engine) as connection:
        return list(
            connection.scalars(
                select(executions.c.id)
                .where(executions.c.status.not_in(TERMINAL))
                .order_by(executions.c.synced_at, executions.c.id)
                .limit(_MAX_EXECUTIONS)
            )
        )


def _write_page(
    sync_round: SyncRound, page_ids: Sequence[str], executions_by_id: dict[str, Execution | None]
) -> None:
    with sync_round.writing() as connection:
        now = database_now(connection)
        deleted_values = {"status": "gone", "error": "StackStorm no longer has this execution"}
        for execution_id in page_ids:
            execution = executions_by_id.get(execution_id)
            if execution:
                write_execution(connection, execution, now)
            else:
                # Move an execution that could not be read to the end of the queue.
                values = deleted_values if execution_id in executions_by_id else {}
                connection.execute(
                    update(executions)
                    .where(executions.c.id == execution_id, executions.c.status.not_in(TERMINAL))
                    .values(synced_at=now, **values)
                )


def write_execution(connection: Connection, execution: Execution, now: datetime) -> None:
    """Store the current state of an execution, unless it is already recorded as ended.

    Args:
        connection: A transaction.
        execution: The execution as StackStorm reports it.
        now: The current time by the database's clock.
    """
    updated = connection.execute(
        update(executions)
        .where(executions.c.id == execution.id, executions.c.status.not_in(TERMINAL))
        .values(synced_at=now, **_column_values(execution))
    )
    if execution.rule:
        connection.execute(
            update(links)
            .where(links.c.st2_execution_id == execution.id, links.c.st2_rule_ref.is_(None))
            .values(st2_rule_ref=cut(execution.rule, links.c.st2_rule_ref))
        )
    if updated.rowcount and execution.is_terminal:
        _add_remediation_ending(connection, execution)


def _add_remediation_ending(connection: Connection, execution: Execution) -> None:
    """Add the event that reports the end of a remediation, unless it requested a change.

    In that case, the refusal or the end of the change adds the event. An execution without a report
    is not a remediation.
    """
    output = workflow_output(execution.result)
    stage = str(output.get("stage", ""))
    if stage in _STAGES_WITHOUT_EVENT:
        return
    dry_run, mutated = (_as_flag(output.get(name)) for name in ("dry_run", "mutated"))
    result = end_result(execution_result(execution.status, stage, dry_run, mutated))
    if result is None:
        return
    link = connection.execute(
        select(links.c.request_id, links.c.claim, alerts.c.episode)
        .join(alerts, alerts.c.id == links.c.alert_id)
        .where(links.c.st2_execution_id == execution.id)
        .limit(1)
    ).one_or_none()
    if link is None:
        return
    # If a workflow ended before its claim, its alert is emitted again.
    if stage == LINK_STAGE and link.claim is None:
        return
    change_id = select(changes.c.id).where(changes.c.st2_execution_id == execution.id).limit(1)
    if connection.scalar(change_id) is not None:
        return
    parameters = execution.parameters or {}
    action = str(parameters.get("action") or "")
    add_ending(
        connection,
        Ending(
            result=result,
            request_id=link.request_id,
            episode=link.episode,
            execution_id=execution.id,
            remediation=str(parameters.get("remediation") or action or execution.action),
            action=action,
            evidence=read_evidence(execution),
        ),
    )


def _as_flag(value: OutputValue | None) -> bool | None:
    return value if isinstance(value, bool) else None


def read_evidence(execution: Execution) -> list[str]:
    """Return the evidence in the report of a remediation, one line for each check or action."""
    evidence = fields.value(execution.result, "output", "evidence")
    results = list(evidence.values()) if isinstance(evidence, dict) else []
    details = [r.get("detail") if isinstance(r, dict) else r for r in results]
    return [detail for detail in details if isinstance(detail, str) and detail]


def _column_values(execution: Execution) -> dict[str, Any]:
    values: dict[str, Any] = {
        "end_timestamp": execution.ended_at,
        "rule": cut(execution.rule, executions.c.rule) or None,
        "web_url": cut(execution.web_url, executions.c.web_url) or None,
    }
    if execution.status:
        values["status"] = cut(execution.status, executions.c.status)
    if execution.started_at:
        values["start_timestamp"] = execution.started_at
    if execution.is_terminal:
        for name, value in workflow_output(execution.result).items():
            is_text = isinstance(value, str)
            values[name] = truncate(str(value), executions.c[name]) if is_text else value
        if execution.status != ExecutionStatus.SUCCEEDED:
            reason = failure_reason(execution.result)
            values["error"] = truncate(reason, executions.c.error) or None
    return values
