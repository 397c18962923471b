"""The views as text that reads well in a terminal."""

from typing import Any, Dict, List, Sequence


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> List[str]:
    """Lines of a table; columns as wide as they need to be."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [
        max([len(heading)] + [len(row[i]) for row in cells]) for i, heading in enumerate(headings)
    ]
    lines = [[heading.upper() for heading in headings]] + cells
    return ["  ".join(c.ljust(w) for c, w in zip(line, widths)).rstrip() for line in lines]


def status(answer: Dict[str, Any]) -> str:
    """The trail of one request."""
    lines = [
        f"request {answer['request_id']}: {answer['status']}",
        f"received {answer['received_at']} by {answer['receiver'] or 'no receiver named'}"
        + (f", completed {answer['completed_at']}" if answer["completed_at"] else ""),
    ]
    if answer["truncated_alerts"]:
        lines.append(f"Alertmanager left out {answer['truncated_alerts']} alerts of this group")
    for key in ("error", "held_up_by", "stackstorm"):
        if answer.get(key):
            lines.append(f"{key.replace('_', ' ')}: {answer[key]}")
    lines.append("")
    if answer["alerts"]:
        lines += table(
            ("alert", "severity", "instance", "status", "outcome", "reason"),
            [
                (
                    a["alert_name"],
                    a["severity"],
                    a["instance"],
                    a["status"],
                    a["outcome"],
                    a["reason"],
                )
                for a in answer["alerts"]
            ],
        )
    else:
        lines.append("no alerts on record for it")
    lines += ["", *_executions(answer["stackstorm_executions"])]
    return _text(lines)


def why(answer: Dict[str, Any]) -> str:
    """From an alert to what was done for it."""
    if not answer["alerts"]:
        return _text(["no such alert on record"])
    lines = []
    for alert in answer["alerts"]:
        name = f"{alert['alert_name']} {alert['instance']}".strip()
        lines.append(
            f"{alert['received_at']}  {name}  {alert['status']}: {alert['outcome']}"
            + (f", {alert['reason']}" if alert["reason"] else "")
        )
        lines.append(f"  request {alert['request_id']}")
        for execution in alert["stackstorm_executions"]:
            lines.append(
                f"  {execution['st2_workflow']} ({execution['st2_execution_id']}): "
                f"{execution['status']}"
                + (f", {execution['message']}" if execution["message"] else "")
            )
        if alert["outcome"] == "admitted" and not alert["stackstorm_executions"]:
            lines.append("  nothing was run for it")
    return _text(lines)


def executions_recent(answer: Dict[str, Any]) -> str:
    """The newest requests."""
    rows = []
    for call in answer["executions"]:
        for alert in call["alerts"] or [{}]:
            rows.append(
                (
                    call["received_at"],
                    call["request_id"],
                    call["status"],
                    alert.get("alert_name"),
                    alert.get("instance"),
                    alert.get("status"),
                    alert.get("outcome"),
                    alert.get("st2_workflow") or alert.get("reason"),
                )
            )
    headings = ("received", "request", "", "alert", "instance", "status", "outcome", "what ran")
    return _text([*table(headings, rows), "", f"{answer['total']} requests on record"])


def alerts_active(answer: Dict[str, Any]) -> str:
    """The open incidents."""
    if not answer["active_alerts"]:
        return _text(["no active alerts"])
    rows = [
        (
            a["starts_at"],
            a["alert_name"],
            a["severity"],
            a["instance"],
            a["notifications"],
            a["st2_workflow"],
            a["remediation_status"],
            a["episode"] + (" (stale)" if a["stale"] else ""),
        )
        for a in answer["active_alerts"]
    ]
    headings = ("since", "alert", "severity", "instance", "seen", "workflow", "state", "episode")
    return _text([*table(headings, rows), "", f"{answer['count']} active"])


def st2_executions(answer: Dict[str, Any]) -> str:
    """The executions that alerts led to."""
    rows = [
        (
            e["triggered_at"],
            e["st2_execution_id"],
            e["st2_workflow"],
            e["status"],
            e["duration_seconds"],
            e["alert"]["name"],
            e["alert"]["instance"],
            e["request_id"],
        )
        for e in answer["st2_executions"]
    ]
    headings = (
        "triggered",
        "execution",
        "workflow",
        "status",
        "seconds",
        "alert",
        "instance",
        "request",
    )
    return _text([*table(headings, rows), "", f"{answer['count']} executions"])


def health(answer: Dict[str, Any]) -> str:
    """How the endpoint and its parts are."""
    lines = [
        f"PoundCake {answer['version']}: {answer['status']}",
        f"endpoint {answer['address'] or 'not listening'}, authentication "
        f"{answer['authentication']}, database {answer['database']}, "
        f"{'dry run' if answer['dry_run'] else 'remediations change hosts'}",
        "",
    ]
    lines += table(
        ("part", "state", "since", "waiting", "detail"),
        [
            (name, part["state"], part["since"], part.get("waiting", ""), part["detail"])
            for name, part in answer["components"].items()
        ],
    )
    for request_id in answer["components"].get("journal", {}).get("stuck_requests", []):
        lines.append(f"stuck: request {request_id} cannot be recorded; its status says why")
    for key in answer.get("literal_secrets", []):
        lines.append(f"{key} stands in the configuration itself: use file:/path or env:NAME")
    return _text(lines)


def _executions(executions: List[Dict[str, Any]]) -> List[str]:
    if not executions:
        return ["nothing was run"]
    return table(
        ("execution", "workflow", "rule", "status", "seconds", "message"),
        [
            (
                e["st2_execution_id"],
                e["st2_workflow"],
                e["st2_rule"],
                e["status"],
                e["duration_seconds"],
                e["message"],
            )
            for e in executions
        ],
    )


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return _printable(str(value))


def _printable(text: str) -> str:
    # A control character would move the terminal's cursor.
    return "".join(c if c.isprintable() else " " for c in text)


def _text(lines: List[str]) -> str:
    # `st2 run` puts the first line of a text off the grid of the others.
    return "\n" + "\n".join(_printable(line) for line in lines)
