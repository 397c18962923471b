"""Format the trail of one request."""

from __future__ import annotations

from typing import Any, Mapping, Sequence

from poundcake.trail.text.layout import counted, join_lines, sanitize, table
from poundcake.trail.text.remarks import audit_lines, change_lines, incident_remark_lines


def status(view: dict[str, Any]) -> str:
    """Format the trail of one request."""
    view = sanitize(view)
    receiver = view["receiver"]
    received = f"received {view['received_at']} by {receiver or 'an unnamed receiver'}"
    completed = f", completed {view['completed_at']}" if view["completed_at"] else ""
    lines = [f"request {view['request_id']}: {view['status']}", received + completed]
    if view["truncated_alerts"]:
        count = counted(view["truncated_alerts"], "alert")
        lines.append(f"Alertmanager left out {count} of this group")
    for key in ("credential", "replay_of", "error", "blocked_by", "stackstorm"):
        if view.get(key):
            lines.append(f"{key.replace('_', ' ')}: {view[key]}")
    if view["alerts"]:
        columns = ("alert_name", "severity", "instance", "status", "outcome", "reason")
        cells = [[alert[column] for column in columns] for alert in view["alerts"]]
        lines += ["", *table(("alert", *columns[1:]), cells)]
    else:
        lines += ["", "no alerts were recorded"]
    for alert in view["alerts"]:
        for remark in incident_remark_lines(alert):
            lines.append(f"{alert['alert_name']} {alert['instance']}: {remark}")
    lines += change_lines(view)
    lines += audit_lines(view)
    return join_lines([*lines, "", *_execution_lines(view["stackstorm_executions"])])


def _execution_lines(executions: Sequence[Mapping[str, Any]]) -> list[str]:
    if not executions:
        return ["nothing ran for it"]
    columns = ("st2_execution_id", "st2_workflow", "st2_rule", "status", "duration_seconds")
    headings = ("execution", "workflow", "rule", "status", "seconds", "message")
    rows = [[row[name] for name in (*columns, "message")] for row in executions]
    return table(headings, rows)
