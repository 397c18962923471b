"""What StackStorm says now, merged into a view of what is on record."""

from __future__ import annotations

from typing import Any

from poundcake.stackstorm import TERMINAL, StackStorm, StackStormError, failure, report
from poundcake.trail import queries

_MOST_ASKED = 100  # what one page of StackStorm's API has


def refresh_open_executions(stackstorm: StackStorm, answer: dict[str, Any]) -> dict[str, Any]:
    """The view with what StackStorm says now of executions that are open on record; where it
    cannot be asked, the view says so.
    """
    shown = [e for e in _executions_in(answer) if e["status"] not in TERMINAL]
    active = [a for a in answer.get("active_alerts", []) if _is_open(a)]
    ids = sorted({row["st2_execution_id"] for row in shown + active})[:_MOST_ASKED]
    if not ids:
        return answer
    try:
        live = stackstorm.executions(ids)
    except StackStormError as error:
        answer["stackstorm"] = f"cannot be asked now, the state is as of the last sync: {error}"
        return answer
    for execution in shown:
        found = live.get(execution["st2_execution_id"])
        if found:
            _merge(execution, found)
    for alert in active:
        found = live.get(alert["st2_execution_id"])
        if found and found.get("status"):
            told = report(found)
            alert["remediation_status"] = queries.state(
                found["status"], told.get("dry_run"), told.get("mutated")
            )
    return answer


def _executions_in(answer: dict[str, Any]) -> list[dict[str, Any]]:
    listed = list(answer.get("stackstorm_executions", [])) + answer.get("st2_executions", [])
    for episode in answer.get("episodes", []):
        listed += episode["stackstorm_executions"]
    return listed


def _is_open(alert: dict[str, Any]) -> bool:
    return bool(alert["st2_execution_id"]) and (
        alert["remediation_status"].partition(" ")[0] not in TERMINAL
    )


def _merge(execution: dict[str, Any], found: dict[str, Any]) -> None:
    """Writes into an execution of a view what StackStorm says of it now."""
    execution["status"] = found.get("status") or execution["status"]
    rule = (found.get("rule") or {}).get("ref")
    execution["st2_rule"] = execution["st2_rule"] or rule or ""
    execution["url"] = execution["url"] or found.get("web_url") or ""
    if execution["status"] not in TERMINAL:
        return
    seconds = found.get("elapsed_seconds")
    if isinstance(seconds, (int, float)):
        execution["duration_seconds"] = round(seconds, 3)
    if "message" not in execution:
        return
    execution["ended_at"] = found.get("end_timestamp") or execution["ended_at"]
    told = report(found)
    message = told.pop("message", "")
    execution.update(told)
    if execution["status"] != "succeeded":
        message = message or failure(found)
    execution["message"] = queries.said(execution["dry_run"], execution["mutated"], message)
