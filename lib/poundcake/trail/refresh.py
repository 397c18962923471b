"""Bring the open executions that a view shows up to date."""

from __future__ import annotations

import time
from typing import Any, Mapping, Sequence

from poundcake.stackstorm import (
    TERMINAL,
    Execution,
    StackStormApi,
    StackStormError,
    failure_reason,
    workflow_output,
)
from poundcake.timestamps import format_timestamp
from poundcake.trail.queries.rows import message_with_note, status_with_note

_AT_ONCE = 100  # what one page of StackStorm's API has
# Somebody waits for the view. After so many seconds nothing more is asked for.
_MOST_SECONDS = 5.0


def refresh_open_executions(stackstorm: StackStormApi, answer: dict[str, Any]) -> dict[str, Any]:
    """Update the executions that are open in a view from the StackStorm API.

    If the API is unavailable or slow, they stay as they were recorded, and the view's `stackstorm`
    says so. Those shown first are asked for first.

    Args:
        answer: The view as JSON. It is changed in place.

    Returns:
        The same view.
    """
    executions = [row for row in _executions_in(answer) if row["status"] not in TERMINAL]
    incidents = [row for row in answer.get("active_alerts", []) if _is_open(row)]
    ids = list(dict.fromkeys(row["st2_execution_id"] for row in executions + incidents))
    current, problem = _ask(stackstorm, ids)
    if problem:
        answer["stackstorm"] = problem
    for row in executions:
        _update_execution(row, current.get(row["st2_execution_id"]))
    for row in incidents:
        _update_incident(row, current.get(row["st2_execution_id"]))
    return answer


def _executions_in(answer: Mapping[str, Any]) -> list[dict[str, Any]]:
    listed = [*answer.get("stackstorm_executions", []), *answer.get("st2_executions", [])]
    for episode in answer.get("episodes", []):
        listed += episode["stackstorm_executions"]
    return listed


def _is_open(incident: Mapping[str, Any]) -> bool:
    return bool(incident["st2_execution_id"]) and incident["st2_execution_status"] not in TERMINAL


def _ask(stackstorm: StackStormApi, ids: Sequence[str]) -> tuple[dict[str, Execution], str]:
    """Ask for executions, the first ones first.

    Returns:
        What the API answered by id, and why some are missing, for the reader of the view; empty if
        all were asked for.
    """
    found: dict[str, Execution] = {}
    asked = 0
    deadline = time.monotonic() + _MOST_SECONDS
    problem = ""
    for start in range(0, len(ids), _AT_ONCE):
        if start and time.monotonic() > deadline:
            problem = f"its API took longer than {_MOST_SECONDS:g} s"
            break
        try:
            page = ids[start : start + _AT_ONCE]
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
    """Write what StackStorm says of an execution into its row of a view.

    Args:
        current: None if the API does not have it.
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
        return  # a row of st2_executions, which says no more of an execution
    if current.ended_at:
        row["ended_at"] = format_timestamp(current.ended_at)
    reported = dict(workflow_output(current.result))
    message = str(reported.pop("message", ""))
    row.update(reported)
    if row["status"] != "succeeded":
        message = message or failure_reason(current.result)
    row["message"] = message_with_note(message, row["dry_run"], row["mutated"])


def _update_incident(row: dict[str, Any], current: Execution | None) -> None:
    """Write what StackStorm says of an incident's execution into the incident's row."""
    if current is None or not current.status:
        return
    reported = workflow_output(current.result)
    row["st2_execution_status"] = current.status
    row["remediation_status"] = status_with_note(
        current.status, bool(reported.get("dry_run")), bool(reported.get("mutated"))
    )
