"""The views as text that reads well in a terminal."""

from __future__ import annotations

from typing import Any, Sequence


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Lines of a table; columns as wide as they need to be."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [
        max([len(heading)] + [len(row[i]) for row in cells]) for i, heading in enumerate(headings)
    ]
    lines = [[heading.upper() for heading in headings]] + cells
    return ["  ".join(c.ljust(w) for c, w in zip(line, widths)).rstrip() for line in lines]


def status(answer: dict[str, Any]) -> str:
    """The trail of one request."""
    lines = [
        f"request {answer['request_id']}: {answer['status']}",
        f"received {answer['received_at']} by {answer['receiver'] or 'no receiver named'}"
        + (f", completed {answer['completed_at']}" if answer["completed_at"] else ""),
    ]
    if answer["truncated_alerts"]:
        lines.append(f"Alertmanager left out {answer['truncated_alerts']} alerts of this group")
    if answer.get("replay_of"):
        lines.append(f"replay of {answer['replay_of']}")
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


def why(answer: dict[str, Any]) -> str:
    """From an alert to what was done for it, episode by episode."""
    if not answer["episodes"]:
        found = "not among the newest alerts" if answer.get("next") else "no such alert on record"
        return _text([found, *_more(answer)])
    lines: list[str] = []
    for episode in answer["episodes"]:
        name = f"{episode['alert_name']}  {episode['instance']}".strip()
        lines += [f"{name}  {episode['severity']}".strip() + f"  {_course(episode)}"]
        if episode["episode"]:
            lines.append(f"  episode {episode['episode']}")
        for alert in episode["alerts"]:
            lines.append(
                f"  {alert['received_at']}  {alert['status']}: {alert['outcome']}"
                + (f", {alert['reason']}" if alert["reason"] else "")
            )
            lines.append(f"    request {alert['request_id']}")
        for execution in episode["stackstorm_executions"]:
            seconds = execution["duration_seconds"]
            lines.append(
                f"  {execution['st2_workflow']} ({execution['st2_execution_id']}): "
                f"{execution['status']}"
                + (f" after {seconds} s" if seconds is not None else "")
                + (f", {execution['message']}" if execution["message"] else "")
            )
        if not episode["stackstorm_executions"]:
            lines.append("  nothing was run for it")
        lines.append("")
    return _text([*lines, _count(answer, "count", "episodes"), *_more(answer)])


def _course(episode: dict[str, Any]) -> str:
    seen = f"seen {episode['notifications']} times" if episode["notifications"] > 1 else "seen once"
    if episode["state"] == "firing":
        return f"firing since {episode['starts_at']}, {seen}, last at {episode['last_seen_at']}"
    if episode["state"]:
        ended = f" at {episode['ends_at']}" if episode["ends_at"] else ""
        return f"{episode['state']}{ended}, began at {episode['starts_at']}, {seen}"
    return "no incident"


def stats(answer: dict[str, Any]) -> str:
    """How remediations went."""
    lines = [f"{answer['since']} to {answer['until']}"]
    columns = ("count", "succeeded", "failed", "running", "other", "not_cleared")
    columns += ("success_rate", "mean_seconds", "p95_seconds")
    for key, rows in (("workflow", answer["workflows"]), ("alert_name", answer["alerts"])):
        headings = [name.replace("_", " ") for name in (key, *columns)]
        lines += ["", *table(headings, [[row[name] for name in (key, *columns)] for row in rows])]
    if not answer["workflows"]:
        lines += ["", "nothing was run for an alert in that time"]
    return _text(lines)


def executions_recent(answer: dict[str, Any]) -> str:
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
    count = _count(answer, "total", "requests on record")
    return _text([*table(headings, rows), "", count, *_more(answer)])


def alerts_active(answer: dict[str, Any]) -> str:
    """The open incidents."""
    if not answer["count"]:
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
    return _text([*table(headings, rows), "", f"{answer['count']} active", *_more(answer)])


def st2_executions(answer: dict[str, Any]) -> str:
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
    count = _count(answer, "count", "executions")
    return _text([*table(headings, rows), "", count, *_more(answer)])


def health(answer: dict[str, Any]) -> str:
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
    pending = answer["components"].get("database", {}).get("pending")
    if pending:
        lines.append(f"database: {pending}")
    for key in answer.get("literal_secrets", []):
        lines.append(f"{key} stands in the configuration itself: use file:/path or env:NAME")
    return _text(lines)


def _count(answer: dict[str, Any], key: str, what: str) -> str:
    return f"{'at least ' if answer.get('at_least') else ''}{answer[key]} {what}"


def _more(answer: dict[str, Any]) -> list[str]:
    lines = [f"further back: before={answer['next']}"] if answer.get("next") else []
    if answer.get("stackstorm"):
        lines.append(f"stackstorm: {answer['stackstorm']}")
    return lines


def _executions(executions: list[dict[str, Any]]) -> list[str]:
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


def _text(lines: list[str]) -> str:
    # `st2 run` puts the first line of a text off the grid of the others.
    return "\n" + "\n".join(_printable(line) for line in lines)
