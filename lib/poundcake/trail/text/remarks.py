"""Describe what happened to an incident: what people did, changes, retries, and a pause."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Mapping

from poundcake.timestamps import parse_timestamp
from poundcake.trail import commands
from poundcake.trail.text.layout import format_deadline_time, format_time, unbreakable


def incident_remark_lines(incident: Mapping[str, Any]) -> list[str]:
    """Return remarks on what people did to an incident, how it ended, and what was not read."""
    remarks = []
    for verb, comment in (("acknowledged", "acknowledged_comment"), ("closed", "closed_comment")):
        if incident.get(f"{verb}_by"):
            reason = f": {incident[comment]}" if incident.get(comment) else ""
            remarks.append(f"{verb} by {incident[f'{verb}_by']}{reason}")
    if incident.get("silence_id"):
        comment = f": {incident['silenced_comment']}" if incident.get("silenced_comment") else ""
        remarks.append(f"{_describe_silence(incident)}{comment}")
    if incident.get("ended_by") == "gone":
        remarks.append("gone: no Alertmanager holds the alert any more, and no resolve arrived")
    if incident.get("ended_by") == "expired":
        remarks.append("expired: no notification for expire_stale_hours")
    if incident.get("notes"):
        remarks.append(f"not read: {incident['notes']}")
    return remarks


def _describe_silence(incident: Mapping[str, Any]) -> str:
    """Return who silenced an alert, and until when (to the minute)."""
    until = parse_timestamp(incident.get("silenced_until"))
    end = f" until {until:%Y-%m-%d %H:%MZ}" if until else ""
    return f"silenced by {incident.get('silenced_by') or 'somebody'}{end}"


def audit_lines(view: Mapping[str, Any]) -> list[str]:
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


def change_lines(view: Mapping[str, Any]) -> list[str]:
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


def pause_lines(view: Mapping[str, Any], now: datetime) -> list[str]:
    """Return the lines that show a pause at the top of a view.

    Args:
        view: The view, as JSON.
        now: The current time.
    """
    pause = view.get("paused")
    if not pause:
        return []
    return [
        f"PAUSED {describe_pause(pause, now)}",
        f"  nothing is changed; to allow changes again: {unbreakable(commands.RESUME)}",
        "",
    ]


def describe_pause(pause: Mapping[str, Any], now: datetime) -> str:
    """Return who paused all changes, when, until when, and why."""
    until = f" until {format_deadline_time(pause['until'], now)}" if pause["until"] else ""
    return f"by {pause['by']} at {format_time(pause['at'], now)}{until}: {pause['reason']}"
