"""Format the trail of one request."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timezone
from typing import Any, Mapping

from poundcake.trail import commands
from poundcake.trail.execution_results import ExecutionResult
from poundcake.trail.text.layout import (
    DEFAULT_WIDTH,
    alert_text,
    counted,
    format_age,
    format_seconds,
    format_sentence,
    format_time,
    join_lines,
    label_text,
    next_lines,
    sanitize,
)
from poundcake.trail.text.remarks import audit_lines, change_lines, incident_remark_lines
from poundcake.trail.text.results import (
    NEEDS_ATTENTION,
    RESULT_WORDS,
    command_for,
    describe_result,
    evidence_lines,
    retry_lines,
    why_commands,
)

# With more alerts than this, their summaries, labels and runbooks are left out.
_MAX_DETAILED = 20
_STATES = {
    "accepted": "it is in the endpoint's journal, and not recorded yet",
    "announced": "it is announced to StackStorm, and not recorded yet",
    "lost": "StackStorm kept losing one of its alerts, so nothing ran for that alert",
}


def status(view: dict[str, Any], now: datetime | None = None, width: int = DEFAULT_WIDTH) -> str:
    """Format the trail of one request.

    Args:
        view: The view, as JSON.
        now: The time to which ages are relative. The default is the current time.
        width: The number of columns of the terminal.
    """
    view, now = sanitize(view), now or datetime.now(timezone.utc)
    lines = [
        f"request {view['request_id']} is {view['status']}: {summarize_request(view)}",
        *_origin_lines(view, now),
    ]
    is_detailed = len(view["alerts"]) <= _MAX_DETAILED
    for alert in view["alerts"]:
        lines += ["", *_alert_lines(alert, view, is_detailed, now)]
    lines += _unlinked_change_lines(view, now)
    if not view["alerts"]:
        lines += ["", "no alerts were recorded"]
    audit = audit_lines(view)
    lines += ["", *[format_sentence(line, now) for line in audit]] if audit else []
    if view.get("stackstorm"):
        lines.append(f"stackstorm: {view['stackstorm']}")
    return join_lines([*lines, "", *next_lines(*next_commands(view))], width)


def summarize_request(view: Mapping[str, Any]) -> str:
    """Return what became of the request, in one sentence."""
    if view.get("error"):
        return f"its alerts could not be recorded: {view['error']}"
    if view.get("blocked_by"):
        return f"it waits in the endpoint's journal: {view['blocked_by']}"
    if view["status"] in _STATES:
        return _STATES[view["status"]]
    alerts = counted(len(view["alerts"]), "alert")
    results = Counter(
        ExecutionResult(execution["result"]) for execution in view["stackstorm_executions"]
    )
    if not results:
        return f"{alerts}, and nothing {'ran' if view['completed_at'] else 'has run yet'}"
    total = sum(results.values())
    words = "; ".join(
        f"{count} {RESULT_WORDS[result]}" if total > 1 else RESULT_WORDS[result]
        for result, count in results.items()
    )
    return f"{alerts}, {counted(total, 'execution')}: {words}"


def _origin_lines(view: Mapping[str, Any], now: datetime) -> list[str]:
    received = f"received {format_time(view['received_at'], now)}"
    received += f" ({format_age(view['received_at'], now)})"
    received += f" by {view['receiver'] or 'an unnamed receiver'}"
    if view["completed_at"]:
        received += f", completed {format_time(view['completed_at'], now)}"
    lines = [received]
    if view["truncated_alerts"]:
        count = counted(view["truncated_alerts"], "alert")
        lines.append(f"Alertmanager left out {count} of this group")
    for key in ("credential", "replay_of", "client_request_id"):
        if view.get(key):
            lines.append(f"{key.replace('_', ' ')}: {view[key]}")
    return lines


def _alert_lines(
    alert: Mapping[str, Any], view: Mapping[str, Any], is_detailed: bool, now: datetime
) -> list[str]:
    """Return an alert, its description, its outcome, and what ran for it."""
    facts = ", ".join(filter(None, (alert["severity"], alert["status"])))
    outcome = alert["outcome"].replace("_", " ")
    reason = f", {format_sentence(alert['reason'], now)}" if alert["reason"] else ""
    executions = [
        execution
        for execution in view["stackstorm_executions"]
        if execution["alert_id"] == alert["id"]
    ]
    rule = f"; rule {alert['st2_rule']}" if alert["st2_rule"] else ""
    lines = [f"{alert_text(alert)}  {facts}"]
    lines += _description_lines(alert) if is_detailed else []
    lines.append(f"  {outcome}{reason}{rule}")
    for execution in executions:
        lines += [f"  {line}" for line in _execution_lines(execution, view, now)]
    if not executions and alert["outcome"] in ("admitted", "resolved"):
        lines.append(f"  nothing {'ran for it' if view['completed_at'] else 'has run for it yet'}")
    lines += [f"  {remark}" for remark in incident_remark_lines(alert)]
    return lines


def _description_lines(alert: Mapping[str, Any]) -> list[str]:
    """Return the summary, the labels and the runbook of an alert."""
    labels = label_text(alert["labels"])
    if alert.get("labels_left_out"):
        labels += f", {counted(alert['labels_left_out'], 'more label')}"
    runbook = f"runbook {alert['runbook_url']}" if alert["runbook_url"] else ""
    return [f"  {line}" for line in (alert["summary"], labels, runbook) if line]


def _execution_lines(
    execution: Mapping[str, Any], view: Mapping[str, Any], now: datetime
) -> list[str]:
    """Return an execution, its result, and when its refused change is tried again."""
    started = format_time(execution["started_at"], now)
    name = f"{execution['st2_workflow'] or '(no workflow)'} ({execution['st2_execution_id']})"
    duration = format_seconds(execution["duration_seconds"], " after ")
    lines = [
        f"{started}  {name}: {execution['status']}{duration}".lstrip(),
        f"  {describe_result(execution, now)}",
        *(f"  {line}" for line in evidence_lines(execution)),
    ]
    for change in view.get("changes", ()):
        if change["st2_execution_id"] == execution["st2_execution_id"]:
            lines += [f"  {line}" for line in retry_lines(change, now)]
    return lines


def _unlinked_change_lines(view: Mapping[str, Any], now: datetime) -> list[str]:
    """Return the changes of workflows that are not linked to an alert of the request."""
    shown_ids = {execution["st2_execution_id"] for execution in view["stackstorm_executions"]}
    changes = [c for c in view.get("changes", ()) if c["st2_execution_id"] not in shown_ids]
    lines = change_lines({"changes": changes})
    return ["", *[format_sentence(line, now) for line in lines]] if lines else []


def next_commands(view: Mapping[str, Any]) -> list[str]:
    """Return the command that is useful next."""
    if view["status"] in ("accepted", "announced", "failed") or not view["alerts"]:
        return [commands.HEALTH]
    for execution in view["stackstorm_executions"]:
        if execution["result"] in NEEDS_ATTENTION:
            return [command_for(execution)]
    for alert in view["alerts"]:
        if alert["status"] == "firing" and why_commands(alert):
            return why_commands(alert)
    return [commands.ACTIVE]
