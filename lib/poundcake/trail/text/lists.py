"""Format the lists: requests, open incidents, and executions."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from poundcake.trail.text.layout import (
    counted,
    footer_lines,
    format_total,
    join_lines,
    sanitize,
    table,
)
from poundcake.trail.text.near_misses import near_miss_lines
from poundcake.trail.text.remarks import describe_silence, pause_lines


def executions_recent(view: dict[str, Any]) -> str:
    """Format the newest requests with their alerts."""
    view = sanitize(view)
    rows: list[Sequence[Any]] = []
    for request in view["executions"]:
        request_cells = (request["received_at"], request["request_id"], request["status"])
        for alert in request["alerts"]:
            alert_cells = [alert[name] for name in ("alert_name", "instance", "status", "outcome")]
            what_ran = alert["st2_workflow"] or alert["reason"]
            for event in ("acknowledged_by", "ended_by"):
                if alert.get(event):
                    what_ran += f"; {event.replace('_', ' ')} {alert[event]}"
            rows.append([*request_cells, *alert_cells, what_ran])
        if request.get("alerts_left_out"):
            more_alerts = counted(request["alerts_left_out"], "more alert")
            rows.append([*request_cells, more_alerts, "", "", "", ""])
        elif not request["alerts"]:
            rows.append([*request_cells, "", "", "", "", ""])
    headings = ("received", "request", "", "alert", "instance", "status", "outcome", "what ran")
    total = f"{format_total(view, 'total', 'request')} recorded"
    misses = near_miss_lines(view)
    return join_lines([*table(headings, rows), "", total, *misses, *footer_lines(view)])


def alerts_active(view: dict[str, Any]) -> str:
    """Format the open incidents."""
    view = sanitize(view)
    if not view["count"]:
        misses, footer = near_miss_lines(view), footer_lines(view)
        return join_lines([*pause_lines(view), "no active alerts", *misses, *footer])
    columns = ("starts_at", "alert_name", "severity", "instance", "notifications", "st2_workflow")
    rows = [
        [
            *[incident[column] for column in columns],
            _incident_state(incident),
            incident["episode"] + (" (stale)" if incident["stale"] else ""),
        ]
        for incident in view["active_alerts"]
    ]
    headings = ("since", "alert", "severity", "instance", "seen", "workflow", "state", "episode")
    total = f"{'at least ' if view.get('at_least') else ''}{view['count']} active"
    return join_lines([*pause_lines(view), *table(headings, rows), "", total, *footer_lines(view)])


def _incident_state(incident: Mapping[str, Any]) -> str:
    user = incident.get("acknowledged_by")
    states = [f"acknowledged by {user}"] if user else []
    if incident.get("silence_id"):
        states.append(describe_silence(incident))
    return "; ".join([*states, str(incident["remediation_status"])])


def st2_executions(view: dict[str, Any]) -> str:
    """Format the executions that were started for alerts."""
    view = sanitize(view)
    columns = ("triggered_at", "st2_execution_id", "st2_workflow", "status", "duration_seconds")
    rows = [
        [
            *[execution[column] for column in columns],
            execution["alert"]["name"],
            execution["alert"]["instance"],
            execution["request_id"],
        ]
        for execution in view["st2_executions"]
    ]
    headings = ["triggered", "execution", "workflow", "status", "seconds"]
    headings += ["alert", "instance", "request"]
    total = format_total(view, "count", "execution")
    misses = near_miss_lines(view)
    return join_lines([*table(headings, rows), "", total, *misses, *footer_lines(view)])
