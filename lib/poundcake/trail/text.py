"""Format the views as text for a terminal.

All text in a view is sanitized first, because text from a sender or a host must not break the
layout.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta, timezone
from typing import Any, Mapping, Sequence

from poundcake.inert import one_line
from poundcake.timestamps import parse_timestamp


def table(headings: Sequence[str], rows: Sequence[Sequence[Any]]) -> list[str]:
    """Return the lines of a table whose columns are as wide as they need to be.

    Args:
        headings: The heading of each column.
        rows: The cells of each row; None is an empty cell.
    """
    lines = [[heading.upper() for heading in headings]]
    lines += [["" if cell is None else str(cell) for cell in row] for row in rows]
    widths = [max(map(len, column)) for column in zip(*lines)]
    return [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines
    ]


def status(answer: dict[str, Any]) -> str:
    """Format the trail of one request."""
    answer = _cleaned(answer)
    receiver = answer["receiver"]
    received = f"received {answer['received_at']} by {receiver or 'an unnamed receiver'}"
    completed = f", completed {answer['completed_at']}" if answer["completed_at"] else ""
    lines = [f"request {answer['request_id']}: {answer['status']}", received + completed]
    if answer["truncated_alerts"]:
        left_out = counted(answer["truncated_alerts"], "alert")
        lines.append(f"Alertmanager left out {left_out} of this group")
    for key in ("credential", "replay_of", "error", "blocked_by", "stackstorm"):
        if answer.get(key):
            lines.append(f"{key.replace('_', ' ')}: {answer[key]}")
    if answer["alerts"]:
        columns = ("alert_name", "severity", "instance", "status", "outcome", "reason")
        cells = [[alert[column] for column in columns] for alert in answer["alerts"]]
        lines += ["", *table(("alert", *columns[1:]), cells)]
    else:
        lines += ["", "no alerts are recorded for it"]
    for alert in answer["alerts"]:
        for remark in _remarks(alert):
            lines.append(f"{alert['alert_name']} {alert['instance']}: {remark}")
    lines += _audit(answer)
    return _text([*lines, "", *_executions(answer["stackstorm_executions"])])


def _executions(executions: Sequence[Mapping[str, Any]]) -> list[str]:
    if not executions:
        return ["nothing ran for it"]
    columns = ("st2_execution_id", "st2_workflow", "st2_rule", "status", "duration_seconds")
    headings = ("execution", "workflow", "rule", "status", "seconds", "message")
    return table(headings, [[e[name] for name in (*columns, "message")] for e in executions])


def why(answer: dict[str, Any], stale_after_hours: int, now: datetime | None = None) -> str:
    """Format what was done for an alert, episode by episode.

    Args:
        answer: The view.
        stale_after_hours: The configuration key: an incident without a notification for this
            long is shown as stale.
        now: The time to which ages are relative. The default is the current time.
    """
    now = now or datetime.now(timezone.utc)
    stale_before = now - timedelta(hours=stale_after_hours)
    answer = _cleaned(answer)
    if not answer["episodes"]:
        found_later = "none of the newest alerts matches"
        none = found_later if answer.get("next") else "no matching alert is recorded"
        return _text([none, *_footer(answer)])
    lines: list[str] = []
    for episode in answer["episodes"]:
        lines += [*_episode(episode, now, stale_before), ""]
    return _text([*lines, _total(answer, "count", "episode"), *_footer(answer)])


def _episode(episode: Mapping[str, Any], now: datetime, stale_before: datetime) -> list[str]:
    named = [episode[name] for name in ("alert_name", "instance", "severity") if episode[name]]
    lines = ["  ".join([*named, _summary(episode, now, stale_before)])]
    if episode["episode"]:
        lines.append(f"  episode {episode['episode']}")
    for alert in episode["alerts"]:
        reason = f", {alert['reason']}" if alert["reason"] else ""
        lines.append(f"  {alert['received_at']}  {alert['status']}: {alert['outcome']}{reason}")
        lines.append(f"    request {alert['request_id']}")
        if alert.get("notes"):
            lines.append(f"    not read: {alert['notes']}")
    if episode.get("alerts_left_out"):
        lines.append(f"  {counted(episode['alerts_left_out'], 'more notification')}")
    for execution in episode["stackstorm_executions"]:
        seconds, message = execution["duration_seconds"], execution["message"]
        lines.append(
            f"  {execution['st2_workflow']} ({execution['st2_execution_id']}): "
            f"{execution['status']}"
            + (f" after {seconds} s" if seconds is not None else "")
            + (f", {message}" if message else "")
        )
    if not episode["stackstorm_executions"]:
        lines.append("  nothing ran for it")
    lines += [f"  {remark}" for remark in _remarks(episode)]
    lines += [f"  {line}" for line in _audit(episode)]
    return lines


def _remarks(shown: Mapping[str, Any]) -> list[str]:
    """Return remarks on what people did to an incident, how it ended, and unreadable fields."""
    remarks = []
    for done, comment in (("acknowledged", "acknowledged_comment"), ("closed", "closed_comment")):
        if shown.get(f"{done}_by"):
            why_done = f": {shown[comment]}" if shown.get(comment) else ""
            remarks.append(f"{done} by {shown[f'{done}_by']}{why_done}")
    if shown.get("silence_id"):
        comment = f": {shown['silenced_comment']}" if shown.get("silenced_comment") else ""
        remarks.append(f"{_silenced(shown)}{comment}")
    if shown.get("ended_by") == "gone":
        remarks.append("gone: no Alertmanager holds the alert any more, and no resolve arrived")
    if shown.get("ended_by") == "expired":
        remarks.append("expired: no notification for expire_stale_hours")
    if shown.get("notes"):
        remarks.append(f"not read: {shown['notes']}")
    return remarks


def _silenced(shown: Mapping[str, Any]) -> str:
    """Return by whom and until when an alert is silenced, to the minute."""
    until = parse_timestamp(shown.get("silenced_until"))
    end = f" until {until:%Y-%m-%d %H:%MZ}" if until else ""
    return f"silenced by {shown.get('silenced_by') or 'somebody'}{end}"


def _audit(shown: Mapping[str, Any]) -> list[str]:
    """Return a line for each audit entry."""
    lines = []
    for entry in shown.get("audit", ()):
        undone = " (undone)" if entry["details"].get("undo") else ""
        comment = f": {entry['comment']}" if entry["comment"] else ""
        who = entry["st2_user"] or "somebody"
        lines.append(f"{entry['at']}  {entry['action']}{undone} by {who}{comment}")
    return lines


def _age(moment: str, now: datetime) -> str:
    """Return how long ago a time was, for example "12 min ago"."""
    then = parse_timestamp(moment)
    seconds = max(0, int((now - then).total_seconds())) if then else 0
    for unit, size, up_to in (("s", 1, 90), ("min", 60, 90 * 60), ("h", 3600, 36 * 3600)):
        if seconds < up_to:
            return f"{seconds // size} {unit} ago"
    return f"{counted(seconds // 86400, 'day')} ago"


def _summary(episode: Mapping[str, Any], now: datetime, stale_before: datetime) -> str:
    """Return a summary of an episode: its state, its times, and its number of notifications."""
    times = episode["notifications"]
    seen = f"seen {times} times" if times > 1 else "seen once"
    if episode["state"] == "firing":
        outcome = episode.get("outcome", "").replace("_", " ")
        seen_at = parse_timestamp(episode["last_seen_at"])
        stale = "stale" if seen_at and seen_at < stale_before else ""
        remarks = ", ".join(filter(None, (outcome, stale)))
        firing = f"firing ({remarks})" if remarks else "firing"
        last = f"last notification {_age(episode['last_seen_at'], now)}"
        return f"{firing} since {episode['starts_at']}, {seen}, {last}"
    if episode["state"]:
        ended = f" at {episode['ends_at']}" if episode["ends_at"] else ""
        return f"{episode['state']}{ended}, began at {episode['starts_at']}, {seen}"
    return "not an incident"


def stats(answer: dict[str, Any]) -> str:
    """Format the statistics on remediations."""
    answer = _cleaned(answer)
    lines = [f"{answer['since']} to {answer['until']}"]
    figures = ["count", "succeeded", "failed", "running", "other", "not_cleared"]
    figures += ["success_rate", "mean_seconds", "p95_seconds"]
    for key, rows in (("workflow", answer["workflows"]), ("alert_name", answer["alerts"])):
        headings = [name.replace("_", " ") for name in (key, *figures)]
        lines += ["", *table(headings, [[row[name] for name in (key, *figures)] for row in rows])]
    if not answer["workflows"]:
        lines += ["", "nothing ran for an alert in that time"]
    return _text(lines)


def executions_recent(answer: dict[str, Any]) -> str:
    """Format the newest requests with their alerts."""
    answer = _cleaned(answer)
    rows: list[Sequence[Any]] = []
    for call in answer["executions"]:
        request = (call["received_at"], call["request_id"], call["status"])
        for alert in call["alerts"]:
            named = [alert[name] for name in ("alert_name", "instance", "status", "outcome")]
            what_ran = alert["st2_workflow"] or alert["reason"]
            for done in ("acknowledged_by", "ended_by"):
                if alert.get(done):
                    what_ran += f"; {done.replace('_', ' ')} {alert[done]}"
            rows.append([*request, *named, what_ran])
        if call.get("alerts_left_out"):
            more = counted(call["alerts_left_out"], "more alert")
            rows.append([*request, more, "", "", "", ""])
        elif not call["alerts"]:
            rows.append([*request, "", "", "", "", ""])
    headings = ("received", "request", "", "alert", "instance", "status", "outcome", "what ran")
    total = f"{_total(answer, 'total', 'request')} recorded"
    return _text([*table(headings, rows), "", total, *_footer(answer)])


def alerts_active(answer: dict[str, Any]) -> str:
    """Format the open incidents."""
    answer = _cleaned(answer)
    if not answer["count"]:
        return _text(["no active alerts"])
    columns = ("starts_at", "alert_name", "severity", "instance", "notifications", "st2_workflow")
    rows = [
        [
            *[incident[column] for column in columns],
            _incident_state(incident),
            incident["episode"] + (" (stale)" if incident["stale"] else ""),
        ]
        for incident in answer["active_alerts"]
    ]
    headings = ("since", "alert", "severity", "instance", "seen", "workflow", "state", "episode")
    return _text([*table(headings, rows), "", f"{answer['count']} active", *_footer(answer)])


def _incident_state(incident: Mapping[str, Any]) -> str:
    acknowledged = incident.get("acknowledged_by")
    states = [f"acknowledged by {acknowledged}"] if acknowledged else []
    if incident.get("silence_id"):
        states.append(_silenced(incident))
    return "; ".join([*states, str(incident["remediation_status"])])


def st2_executions(answer: dict[str, Any]) -> str:
    """Format the executions that were started for alerts."""
    answer = _cleaned(answer)
    columns = ("triggered_at", "st2_execution_id", "st2_workflow", "status", "duration_seconds")
    rows = [
        [
            *[execution[column] for column in columns],
            execution["alert"]["name"],
            execution["alert"]["instance"],
            execution["request_id"],
        ]
        for execution in answer["st2_executions"]
    ]
    headings = ["triggered", "execution", "workflow", "status", "seconds"]
    headings += ["alert", "instance", "request"]
    total = _total(answer, "count", "execution")
    return _text([*table(headings, rows), "", total, *_footer(answer)])


def health(answer: dict[str, Any]) -> str:
    """Format the health of the endpoint and its components."""
    answer = _cleaned(answer)
    components = answer["components"]
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
            for name, part in components.items()
        ],
    )
    for request_id in components.get("journal", {}).get("stuck_requests", []):
        lines.append(f"stuck: request {request_id} cannot be recorded; its status says why")
    pending = components.get("database", {}).get("pending")
    if pending:
        lines.append(f"database: {pending}")
    refused = answer.get("refused") or {}
    if refused.get("last"):
        last = refused["last"]
        lines.append(
            f"refused: {counted(refused['count'], 'webhook')} since the start, which Alertmanager"
            f" does not send again; the last at {last['refused_at']} from {last['sender']}:"
            f" {last['status']}, {last['detail']}"
        )
    lines += _configuration(answer.get("configuration") or {})
    for key in answer.get("literal_secrets", []):
        lines.append(f"{key} is written in the configuration itself: use file:/path or env:NAME")
    return _text(lines)


def _configuration(configuration: Mapping[str, Any]) -> list[str]:
    """Return a line for each problem of the endpoint's configuration."""
    texts = [configuration.get("problem"), *configuration.get("warnings", [])]
    lines = [f"configuration: {text}" for text in texts if text]
    for key, values in configuration.get("differences", {}).items():
        lines.append(
            f"configuration: {key} is {json.dumps(values['actions'])} for actions and"
            f" {json.dumps(values['endpoint'])} for the endpoint, which applies a change within"
            " 30 seconds"
        )
    return lines


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 alert", "2 alerts"."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _total(answer: Mapping[str, Any], key: str, noun: str) -> str:
    return f"{'at least ' if answer.get('at_least') else ''}{counted(answer[key], noun)}"


def _footer(answer: Mapping[str, Any]) -> list[str]:
    """Return the hint for the next page and the problem with StackStorm's API, if any."""
    lines = [f"more: before={answer['next']}"] if answer.get("next") else []
    if answer.get("stackstorm"):
        lines.append(f"stackstorm: {answer['stackstorm']}")
    return lines


def _cleaned(value: Any) -> Any:
    """Return a view in which no text can move the cursor, start a line or fake a column."""
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, dict):
        return {key: _cleaned(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    return value


def _text(lines: Sequence[str]) -> str:
    # `st2 run` prints "result: " before the first line, which would shift its columns.
    return "\n" + "\n".join(lines)
