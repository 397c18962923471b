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
from poundcake.trail.approvals import describe, open_approval
from poundcake.trail.queries.rows import message_with_note, status_with_note

_PAGE = 100  # maximum entries in a list of StackStorm's API
# A person is waiting for the view, so no request to StackStorm starts after this time.
_MAX_SECONDS = 5.0
_MAX_APPROVALS = 5  # each costs a request to StackStorm


def refresh_open_executions(
    stackstorm: StackStormApi, answer: dict[str, Any], approval_minutes: int = 0
) -> dict[str, Any]:
    """Update the open executions in a view from the StackStorm API.

    If the API is unavailable or slow, leave them as recorded, and report that in the view's
    `stackstorm`. Executions that are shown first are updated first.

    Args:
        stackstorm: StackStorm's API.
        answer: The view as JSON. It is changed in place.
        approval_minutes: The configuration key.

    Returns:
        The same view.
    """
    executions = [row for row in _executions_in(answer) if row["status"] not in TERMINAL]
    incidents = [row for row in answer.get("active_alerts", []) if _is_open(row)]
    ids = list(dict.fromkeys(row["st2_execution_id"] for row in executions + incidents))
    current, problem = _read(stackstorm, ids)
    if problem:
        answer["stackstorm"] = problem
    for row in executions:
        _update_execution(row, current.get(row["st2_execution_id"]))
    _show_approvals(stackstorm, executions, approval_minutes)
    for row in incidents:
        _update_incident(row, current.get(row["st2_execution_id"]))
    return answer


def _show_approvals(
    stackstorm: StackStormApi, rows: Sequence[dict[str, Any]], approval_minutes: int
) -> None:
    """Show who may approve, until when and how, for executions that wait for an approval."""
    waiting = [row for row in rows if row["status"] in WAITING and "message" in row]
    for row in waiting[:_MAX_APPROVALS]:
        try:
            inquiry = open_approval(stackstorm.get_children(row["st2_execution_id"]))
        except StackStormError:
            return  # the view already says that the API is unavailable
        if inquiry:
            row["message"] = describe(inquiry, approval_minutes)


def _executions_in(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    listed = [*answer.get("stackstorm_executions", []), *answer.get("st2_executions", [])]
    for episode in answer.get("episodes", []):
        listed += episode["stackstorm_executions"]
    return listed


def _is_open(incident: Mapping[str, Any]) -> bool:
    return bool(incident["st2_execution_id"]) and incident["st2_execution_status"] not in TERMINAL


def _read(stackstorm: StackStormApi, ids: Sequence[str]) -> tuple[dict[str, Execution], str]:
    """Read executions in the given order.

    Returns:
        The executions by id, and a sentence that explains why some were not read, or ''.
    """
    found: dict[str, Execution] = {}
    asked = 0
    deadline = time.monotonic() + _MAX_SECONDS
    problem = ""
    for start in range(0, len(ids), _PAGE):
        if start and time.monotonic() > deadline:
            problem = f"its API took longer than {_MAX_SECONDS:g} s"
            break
        try:
            page = ids[start : start + _PAGE]
            found.update(stackstorm.get_executions(page))
            asked += len(page)
        except StackStormError as error:
            problem = str(error)
            break
    if not problem:
        return found, ""
    missing = len(ids) - asked
    which = f"{missing} of {len(ids)} open executions" if asked else "open executions"
    return found, f"{which} are shown as of the last sync: {problem}"


def _update_execution(row: dict[str, Any], current: Execution | None) -> None:
    """Update the row of an execution in a view.

    Args:
        row: The row. It is changed in place.
        current: The current state of the execution, or None if it could not be read.
    """
    if current is None:
        return
    row["status"] = current.status or row["status"]
    row["st2_rule"] = row["st2_rule"] or current.rule
    row["url"] = row["url"] or current.web_url
    if row["status"] not in TERMINAL:
        return
    if current.elapsed_seconds is not None:
        row["duration_seconds"] = round(current.elapsed_seconds, 3)
    if "message" not in row:
        return  # rows of st2_executions have no other fields to update
    if current.ended_at:
        row["ended_at"] = format_timestamp(current.ended_at)
    reported = dict(workflow_output(current.result))
    message = str(reported.pop("message", ""))
    row.update(reported)
    if row["status"] != "succeeded":
        message = message or failure_reason(current.result)
    row["message"] = message_with_note(message, row["dry_run"], row["mutated"])


def _update_incident(row: dict[str, Any], current: Execution | None) -> None:
    """Update an incident's row with the current state of its execution."""
    if current is None or not current.status:
        return
    reported = workflow_output(current.result)
    row["st2_execution_status"] = current.status
    row["remediation_status"] = status_with_note(
        current.status, bool(reported.get("dry_run")), bool(reported.get("mutated"))
    )
