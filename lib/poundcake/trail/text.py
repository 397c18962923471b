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
    """Return the lines of a table, with each column as wide as its longest cell.

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


def status(view: dict[str, Any]) -> str:
    """Format the trail of one request."""
    view = _sanitize(view)
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
        for remark in _remarks(alert):
            lines.append(f"{alert['alert_name']} {alert['instance']}: {remark}")
    lines += _change_lines(view)
    lines += _audit_lines(view)
    return _join([*lines, "", *_execution_lines(view["stackstorm_executions"])])


def _execution_lines(executions: Sequence[Mapping[str, Any]]) -> list[str]:
    if not executions:
        return ["nothing ran for it"]
    columns = ("st2_execution_id", "st2_workflow", "st2_rule", "status", "duration_seconds")
    headings = ("execution", "workflow", "rule", "status", "seconds", "message")
    rows = [[row[name] for name in (*columns, "message")] for row in executions]
    return table(headings, rows)


def why(view: dict[str, Any], stale_after_hours: int, now: datetime | None = None) -> str:
    """Format what was done about an alert, episode by episode.

    Args:
        view: The view, as JSON.
        stale_after_hours: The configured value. An incident without a notification for this many
            hours is shown as stale.
        now: The time to which ages are relative. The default is the current time.
    """
    now = now or datetime.now(timezone.utc)
    stale_before = now - timedelta(hours=stale_after_hours)
    view = _sanitize(view)
    if not view["episodes"]:
        no_match_so_far = "none of the newest alerts matches"
        message = no_match_so_far if view.get("next") else "no matching alert is recorded"
        return _join([*_pause_lines(view), message, *_footer(view)])
    lines = _pause_lines(view)
    for episode in view["episodes"]:
        lines += [*_episode_lines(episode, now, stale_before), ""]
    return _join([*lines, _total(view, "count", "episode"), *_footer(view)])


def _episode_lines(episode: Mapping[str, Any], now: datetime, stale_before: datetime) -> list[str]:
    title_parts = [
        episode[name] for name in ("alert_name", "instance", "severity") if episode[name]
    ]
    lines = ["  ".join([*title_parts, _summary(episode, now, stale_before)])]
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
    lines += [f"  {line}" for line in _change_lines(episode)]
    lines += [f"  {remark}" for remark in _remarks(episode)]
    lines += [f"  {line}" for line in _audit_lines(episode)]
    return lines


def _remarks(incident: Mapping[str, Any]) -> list[str]:
    """Return remarks on what people did to an incident, how it ended, and what was not read."""
    remarks = []
    for verb, comment in (("acknowledged", "acknowledged_comment"), ("closed", "closed_comment")):
        if incident.get(f"{verb}_by"):
            reason = f": {incident[comment]}" if incident.get(comment) else ""
            remarks.append(f"{verb} by {incident[f'{verb}_by']}{reason}")
    if incident.get("silence_id"):
        comment = f": {incident['silenced_comment']}" if incident.get("silenced_comment") else ""
        remarks.append(f"{_silenced(incident)}{comment}")
    if incident.get("ended_by") == "gone":
        remarks.append("gone: no Alertmanager holds the alert any more, and no resolve arrived")
    if incident.get("ended_by") == "expired":
        remarks.append("expired: no notification for expire_stale_hours")
    if incident.get("notes"):
        remarks.append(f"not read: {incident['notes']}")
    return remarks


def _silenced(incident: Mapping[str, Any]) -> str:
    """Return who silenced an alert, and until when (to the minute)."""
    until = parse_timestamp(incident.get("silenced_until"))
    end = f" until {until:%Y-%m-%d %H:%MZ}" if until else ""
    return f"silenced by {incident.get('silenced_by') or 'somebody'}{end}"


def _audit_lines(view: Mapping[str, Any]) -> list[str]:
    """Return a line for each audit entry."""
    lines = []
    for entry in view.get("audit", ()):
        remark = " (undone)" if entry["details"].get("undo") else ""
        if entry["action"] == "retry":
            remark = _describe_retry(entry["details"])
        comment = f": {entry['comment']}" if entry["comment"] else ""
        user = entry["st2_user"] or "somebody"
        lines.append(f"{entry['at']}  {entry['action']}{remark} by {user}{comment}")
    return lines


def _describe_retry(details: Mapping[str, Any]) -> str:
    """Return which execution was started again and its new id, or why it was not started."""
    result = "its new execution is unknown"
    if details.get("started_execution_id"):
        result = f"started again as {details['started_execution_id']}"
    elif details.get("problem"):
        result = details["problem"]
    return f" of {details['execution_id']} ({details['refusal']}): {result},"


def _change_lines(view: Mapping[str, Any]) -> list[str]:
    """Return a line for each change that was made or refused."""
    lines = []
    for change in view.get("changes", ()):
        description = f"{change['action']} on {change['target']} ({change['st2_execution_id']})"
        result = change["result"].replace("_", " ")
        refusal = f", {change['refusal']}: {change['reason']}" if change.get("refusal") else ""
        retry = _describe_retry_time(change)
        lines.append(f"{change['decided_at']}  change {description}: {result}{refusal}{retry}")
    return lines


def _describe_retry_time(change: Mapping[str, Any]) -> str:
    """Return when (to the minute) a refused change is or was tried again, or ''."""
    retry_at = parse_timestamp(change.get("retry_at"))
    if retry_at:
        return f"; it is tried again after {retry_at + timedelta(seconds=59):%Y-%m-%d %H:%MZ}"
    retried_at = parse_timestamp(change.get("retried_at"))
    return f"; it was tried again at {retried_at:%Y-%m-%d %H:%MZ}" if retried_at else ""


def _pause_lines(view: Mapping[str, Any]) -> list[str]:
    """Return the lines that show a pause at the top of a view."""
    pause = view.get("paused")
    if not pause:
        return []
    until = f" until {pause['until']}" if pause["until"] else ""
    return [
        f"PAUSED by {pause['by']} at {pause['at']}{until}: {pause['reason']}",
        "  nothing is changed; to allow changes again: st2 run poundcake.resume",
        "",
    ]


def _age(moment: str, now: datetime) -> str:
    """Return how long ago a time was, for example "12 min ago"."""
    parsed_moment = parse_timestamp(moment)
    seconds = max(0, int((now - parsed_moment).total_seconds())) if parsed_moment else 0
    for unit, size, limit in (("s", 1, 90), ("min", 60, 90 * 60), ("h", 3600, 36 * 3600)):
        if seconds < limit:
            return f"{seconds // size} {unit} ago"
    return f"{counted(seconds // 86400, 'day')} ago"


def _summary(episode: Mapping[str, Any], now: datetime, stale_before: datetime) -> str:
    """Return a summary of an episode: its state, its times, and its number of notifications."""
    count = episode["notifications"]
    seen = f"seen {count} times" if count > 1 else "seen once"
    if episode["state"] == "firing":
        outcome = episode.get("outcome", "").replace("_", " ")
        last_seen_at = parse_timestamp(episode["last_seen_at"])
        stale = "stale" if last_seen_at and last_seen_at < stale_before else ""
        remarks = ", ".join(filter(None, (outcome, stale)))
        firing = f"firing ({remarks})" if remarks else "firing"
        last_notification = f"last notification {_age(episode['last_seen_at'], now)}"
        return f"{firing} since {episode['starts_at']}, {seen}, {last_notification}"
    if episode["state"]:
        ended = f" at {episode['ends_at']}" if episode["ends_at"] else ""
        return f"{episode['state']}{ended}, began at {episode['starts_at']}, {seen}"
    return "not an incident"


def stats(view: dict[str, Any]) -> str:
    """Format the statistics on remediations."""
    view = _sanitize(view)
    lines = [f"{view['since']} to {view['until']}"]
    figures = ["count", "succeeded", "failed", "running", "other", "not_cleared"]
    figures += ["success_rate", "mean_seconds", "p95_seconds"]
    for key, rows in (("workflow", view["workflows"]), ("alert_name", view["alerts"])):
        headings = [name.replace("_", " ") for name in (key, *figures)]
        lines += ["", *table(headings, [[row[name] for name in (key, *figures)] for row in rows])]
    if not view["workflows"]:
        lines += ["", "nothing ran for an alert in that time"]
    return _join(lines)


def executions_recent(view: dict[str, Any]) -> str:
    """Format the newest requests with their alerts."""
    view = _sanitize(view)
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
    total = f"{_total(view, 'total', 'request')} recorded"
    return _join([*table(headings, rows), "", total, *_footer(view)])


def alerts_active(view: dict[str, Any]) -> str:
    """Format the open incidents."""
    view = _sanitize(view)
    if not view["count"]:
        return _join([*_pause_lines(view), "no active alerts"])
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
    total = f"{view['count']} active"
    return _join([*_pause_lines(view), *table(headings, rows), "", total, *_footer(view)])


def _incident_state(incident: Mapping[str, Any]) -> str:
    user = incident.get("acknowledged_by")
    states = [f"acknowledged by {user}"] if user else []
    if incident.get("silence_id"):
        states.append(_silenced(incident))
    return "; ".join([*states, str(incident["remediation_status"])])


def st2_executions(view: dict[str, Any]) -> str:
    """Format the executions that were started for alerts."""
    view = _sanitize(view)
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
    total = _total(view, "count", "execution")
    return _join([*table(headings, rows), "", total, *_footer(view)])


def health(view: dict[str, Any]) -> str:
    """Format the health of the endpoint and its components."""
    view = _sanitize(view)
    components = view["components"]
    lines = [
        *_pause_lines(view),
        f"PoundCake {view['version']}: {view['status']}",
        f"endpoint {view['address'] or 'not listening'}, authentication "
        f"{view['authentication']}, database {view['database']}, "
        f"{'dry run' if view['dry_run'] else 'remediations change hosts'}",
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
        lines.append(f"stuck: request {request_id} cannot be recorded; poundcake.status shows why")
    pending = components.get("database", {}).get("pending")
    if pending:
        lines.append(f"database: {pending}")
    refusals = view.get("refused") or {}
    if refusals.get("last"):
        last_refusal = refusals["last"]
        lines.append(
            f"refused since the endpoint started: {counted(refusals['count'], 'webhook')}"
            f" (Alertmanager does not send them again); the last at"
            f" {last_refusal['refused_at']} from {last_refusal['sender']}:"
            f" {last_refusal['status']}, {last_refusal['detail']}"
        )
    lines += _configuration(view.get("configuration") or {})
    for key in view.get("literal_secrets", []):
        lines.append(
            f"{key} is in plain text in the configuration: use file:/path or env:NAME instead"
        )
    return _join(lines)


def _configuration(configuration: Mapping[str, Any]) -> list[str]:
    """Return a line for each problem of the endpoint's configuration."""
    problems = [configuration.get("problem"), *configuration.get("warnings", [])]
    problems += configuration.get("remediation_errors", [])
    lines = [f"configuration: {problem}" for problem in problems if problem]
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


def _total(view: Mapping[str, Any], key: str, noun: str) -> str:
    return f"{'at least ' if view.get('at_least') else ''}{counted(view[key], noun)}"


def _footer(view: Mapping[str, Any]) -> list[str]:
    """Return the hint for the next page and the problem with StackStorm's API, if any."""
    lines = [f"more: before={view['next']}"] if view.get("next") else []
    if view.get("stackstorm"):
        lines.append(f"stackstorm: {view['stackstorm']}")
    return lines


def _sanitize(value: Any) -> Any:
    """Return the view with all text made safe: it cannot move the cursor or forge a line."""
    if isinstance(value, str):
        return one_line(value)
    if isinstance(value, dict):
        return {key: _sanitize(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_sanitize(item) for item in value]
    return value


def _join(lines: Sequence[str]) -> str:
    # `st2 run` prints "result: " before the first line, which would shift its columns.
    return "\n" + "\n".join(lines)
