"""Update the open executions in a view."""

from __future__ import annotations

import time
from typing import Any, Mapping, Sequence

from poundcake.stackstorm import (
    TERMINAL,
    WAITING,
    Execution,
    StackStormApi,
    StackStormError,
    failure_reason,
    workflow_output,
)
from poundcake.timestamps import format_timestamp
from poundcake.trail.approvals import describe, find_pending_approval, read_evidence
from poundcake.trail.queries.rows import message_with_note, status_with_note

_PAGE = 100  # maximum entries in a list of StackStorm's API
# A person is waiting for the view, so no page is requested from StackStorm after this time.
_MAX_SECONDS = 5.0
_MAX_APPROVALS = 5  # each costs a request to StackStorm


def refresh_open_executions(
    stackstorm: StackStormApi, view: dict[str, Any], approval_minutes: int = 0
) -> dict[str, Any]:
    """Update the open executions in a view from the StackStorm API.

    If the API is unavailable or slow, leave them as recorded, and report that in the view's
    `stackstorm`. Executions that are shown first are updated first.

    Args:
        stackstorm: StackStorm's API.
        view: The view as JSON. It is changed in place.
        approval_minutes: The configured value.

    Returns:
        The same view.
    """
    executions = [row for row in _executions_in(view) if row["status"] not in TERMINAL]
    incidents = [row for row in view.get("active_alerts", []) if _has_open_execution(row)]
    ids = list(dict.fromkeys(row["st2_execution_id"] for row in executions + incidents))
    executions_by_id, problem = _read_executions(stackstorm, ids)
    if problem:
        view["stackstorm"] = problem
    for row in executions:
        _update_execution(row, executions_by_id.get(row["st2_execution_id"]))
    _show_approvals(stackstorm, executions, approval_minutes)
    for row in incidents:
        _update_incident(row, executions_by_id.get(row["st2_execution_id"]))
    return view


def _show_approvals(
    stackstorm: StackStormApi, rows: Sequence[dict[str, Any]], approval_minutes: int
) -> None:
    """Describe the pending approval in the message of each execution that waits for one."""
    waiting_rows = [row for row in rows if row["status"] in WAITING and "message" in row]
    for row in waiting_rows[:_MAX_APPROVALS]:
        try:
            children = stackstorm.get_children(row["st2_execution_id"])
        except StackStormError:
            return  # the view already says that the API is unavailable
        inquiry = find_pending_approval(children)
        if inquiry:
            row["message"] = describe(inquiry, approval_minutes, read_evidence(children))


def _executions_in(view: Mapping[str, Any]) -> list[dict[str, Any]]:
    rows = [*view.get("stackstorm_executions", []), *view.get("st2_executions", [])]
    for episode in view.get("episodes", []):
        rows += episode["stackstorm_executions"]
    return rows


def _has_open_execution(incident: Mapping[str, Any]) -> bool:
    return bool(incident["st2_execution_id"]) and incident["st2_execution_status"] not in TERMINAL


def _read_executions(
    stackstorm: StackStormApi, ids: Sequence[str]
) -> tuple[dict[str, Execution], str]:
    """Read executions, in the order of `ids`.

    Returns:
        The executions by id, and a sentence that explains why some were not read, or ''.
    """
    executions_by_id: dict[str, Execution] = {}
    read_count = 0
    deadline = time.monotonic() + _MAX_SECONDS
    problem = ""
    for start in range(0, len(ids), _PAGE):
        if start and time.monotonic() > deadline:
            problem = f"its API took longer than {_MAX_SECONDS:g} s"
            break
        try:
            page = ids[start : start + _PAGE]
            executions_by_id.update(stackstorm.get_executions(page))
            read_count += len(page)
        except StackStormError as error:
            problem = str(error)
            break
    if not problem:
        return executions_by_id, ""
    unread_count = len(ids) - read_count
    affected = f"{unread_count} of {len(ids)} open executions" if read_count else "open executions"
    return executions_by_id, f"{affected} are shown as of the last sync: {problem}"


def _update_execution(row: dict[str, Any], execution: Execution | None) -> None:
    """Update the row of an execution in a view.

    Args:
        row: The row. It is changed in place.
        execution: The current state of the execution, or None if it could not be read.
    """
    if execution is None:
        return
    row["status"] = execution.status or row["status"]
    row["st2_rule"] = row["st2_rule"] or execution.rule
    row["url"] = row["url"] or execution.web_url
    if row["status"] not in TERMINAL:
        return
    if execution.elapsed_seconds is not None:
        row["duration_seconds"] = round(execution.elapsed_seconds, 3)
    if "message" not in row:
        return  # rows of st2_executions have no other fields to update
    if execution.ended_at:
        row["ended_at"] = format_timestamp(execution.ended_at)
    output = dict(workflow_output(execution.result))
    message = str(output.pop("message", ""))
    row.update(output)
    if row["status"] != "succeeded":
        message = message or failure_reason(execution.result)
    row["message"] = message_with_note(message, row["dry_run"], row["mutated"])


def _update_incident(row: dict[str, Any], execution: Execution | None) -> None:
    """Update an incident's row with the current state of its execution."""
    if execution is None or not execution.status:
        return
    output = workflow_output(execution.result)
    row["st2_execution_status"] = execution.status
    row["remediation_status"] = status_with_note(
        execution.status, bool(output.get("dry_run")), bool(output.get("mutated"))
    )
