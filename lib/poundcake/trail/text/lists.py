"""Format the lists: requests, open incidents, and executions."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Mapping, Sequence

from poundcake.trail import commands
from poundcake.trail.text.layout import (
    DEFAULT_WIDTH,
    MIN_WIDTH,
    alert_text,
    counted,
    footer_lines,
    format_age,
    format_elapsed,
    format_seconds,
    format_sentence,
    format_time,
    format_total,
    join_lines,
    label_text,
    next_lines,
    sanitize,
    shorten,
    unbreakable,
)
from poundcake.trail.text.near_misses import near_miss_lines
from poundcake.trail.text.remarks import pause_lines
from poundcake.trail.text.results import NEEDS_ATTENTION, command_for, describe_result, why_commands

# The groups of incidents, the most urgent one first.
_ATTENTION_TITLES = {
    "needs_person": "waiting for a person",
    "in_progress": "in progress",
    "handled": "acknowledged or silenced",
}
_SEVERITIES = ("critical", "error", "warning")
# With more incidents than this, only the first two lines of each are shown.
_MAX_DETAILED = 10


def executions_recent(
    view: dict[str, Any], now: datetime | None = None, width: int = DEFAULT_WIDTH
) -> str:
    """Format the newest requests, each with its alerts and what was done for them.

    Args:
        view: The view, as JSON.
        now: The time to which ages are relative. The default is the current time.
        width: The number of columns of the terminal.
    """
    view, now = sanitize(view), now or datetime.now(timezone.utc)
    lines: list[str] = []
    for request in view["executions"]:
        received = f"{format_time(request['received_at'], now)}  "
        received += format_age(request["received_at"], now)
        lines.append(f"{received}  {request['status']}  {request['request_id']}")
        lines += [
            f"  {_request_alert(alert, request['alerts'], now)}" for alert in request["alerts"]
        ]
        if request.get("alerts_left_out"):
            lines.append(f"  {counted(request['alerts_left_out'], 'more alert')}")
        elif not request["alerts"]:
            lines.append("  it has no alerts")
        lines.append("")
    total = f"{format_total(view, 'total', 'request')} recorded"
    if not view["executions"] and not view.get("next"):
        total += " that match: Alertmanager has sent none, or the filters exclude them all"
    next_commands = [commands.HEALTH]
    if view["executions"]:
        next_commands = [commands.show_request(view["executions"][0]["request_id"])]
    misses = near_miss_lines(view)
    return join_lines(
        [*lines, total, *misses, *footer_lines(view), *next_lines(*next_commands)], width
    )


def _request_alert(
    alert: Mapping[str, Any], alerts: Sequence[Mapping[str, Any]], now: datetime
) -> str:
    """Return an alert of a request, and what was done for it or why nothing was done.

    Args:
        alert: The alert.
        alerts: The alerts of its request.
        now: The time to which times are relative.
    """
    name = alert_text(alert)
    namesakes = [other for other in alerts if _is_namesake(other, alert)]
    if len(namesakes) > 1 or not alert["instance"]:
        name = f"{name} {shorten(label_text(_sort_labels(alert, namesakes)), MIN_WIDTH)}"
    line = f"{name}  {alert['status']}, {alert['outcome'].replace('_', ' ')}: "
    if alert.get("result"):
        workflow = alert["st2_workflow"]
        line += f"{workflow}: " if workflow != alert["action"] else ""
        line += describe_result(alert, now)
    else:
        line += format_sentence(alert["reason"] or "nothing has run for it yet", now)
    if alert.get("acknowledged_by"):
        line += f"; acknowledged by {alert['acknowledged_by']}"
    if alert.get("ended_by"):
        line += f"; incident ended by {alert['ended_by']}"
    return line


def alerts_active(
    view: dict[str, Any], now: datetime | None = None, width: int = DEFAULT_WIDTH
) -> str:
    """Format the open incidents. Those that need a person come first.

    Args:
        view: The view, as JSON.
        now: The time to which ages are relative. The default is the current time.
        width: The number of columns of the terminal.
    """
    view, now = sanitize(view), now or datetime.now(timezone.utc)
    incidents = view["active_alerts"]
    if not view["count"]:
        lines = [
            *pause_lines(view, now),
            "no active alerts: nothing is firing, or the filters exclude everything that is",
            *near_miss_lines(view),
            *footer_lines(view),
            *next_lines(commands.HEALTH),
        ]
        return join_lines(lines, width)
    is_detailed = len(incidents) <= _MAX_DETAILED
    groups = {
        title: sorted(
            (incident for incident in incidents if incident["attention"] == attention),
            key=severity_rank,
        )
        for attention, title in _ATTENTION_TITLES.items()
    }
    counts = ", ".join(f"{len(group)} {title}" for title, group in groups.items() if group)
    total = format_total(view, "count", "active alert")
    lines = [*pause_lines(view, now), f"{total}: {counts}" if counts else total]
    for title, group in groups.items():
        lines += ["", f"{title.upper()}:"] if 0 < len(group) < len(incidents) else []
        for incident in group:
            lines += [""] if is_detailed else []  # a blank line between blocks
            lines += _incident_lines(incident, incidents, is_detailed, now, width)
    if not is_detailed:
        lines += [
            "",
            f"to see what to do for each, filter for at most {_MAX_DETAILED} alerts, for example "
            "with alert_name=",
        ]
    lines += ["", *footer_lines(view)]
    first = next((incident for group in groups.values() for incident in group), None)
    lines += next_lines(*why_commands(first)) if first else []
    return join_lines(lines, width)


def severity_rank(incident: Mapping[str, Any]) -> int:
    """Return the place of an incident in a list that begins with the most severe ones."""
    severity = incident["severity"].lower()
    return _SEVERITIES.index(severity) if severity in _SEVERITIES else len(_SEVERITIES)


def _incident_lines(
    incident: Mapping[str, Any],
    incidents: Sequence[Mapping[str, Any]],
    is_detailed: bool,
    now: datetime,
    width: int,
) -> list[str]:
    name = alert_text(incident)
    facts = [incident["severity"], unbreakable(format_elapsed(incident["starts_at"], now))]
    if incident["notifications"] > 1:
        facts.append(f"seen {incident['notifications']} times")
    if incident["stale"] and incident["verdict"] != "stale":
        facts.append("stale")
    labels = label_text(_sort_labels(incident, incidents))
    if incident.get("labels_left_out"):
        labels += f", {counted(incident['labels_left_out'], 'more label')}"
    lines = [f"{incident['title']}  {name}  {', '.join(filter(None, facts))}"]
    lines += [f"  {text}" for text in _fit([labels, incident["summary"]], width - 2)]
    if not is_detailed:
        return lines[:2]
    lines += [
        f"  {format_sentence(incident['headline'], now)}",
        f"  next: {format_sentence(incident['next_step'], now)}",
    ]
    if incident["next_command"]:
        lines.append(f"  {unbreakable(incident['next_command'])}")
    return lines


def _is_namesake(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    return all(one[name] == other[name] for name in ("alert_name", "instance"))


def _fit(texts: Sequence[str], width: int) -> list[str]:
    """Return texts that are not empty, each cut to one line."""
    return [shorten(text, width) for text in texts if text]


def _sort_labels(
    incident: Mapping[str, Any], incidents: Sequence[Mapping[str, Any]]
) -> dict[str, str]:
    """Return the labels of an incident. Those that tell it apart from others come first."""
    name = incident["alert_name"]
    namesakes = [other["labels"] for other in incidents if other["alert_name"] == name]

    def is_shared(label: tuple[str, str]) -> bool:
        return all(labels.get(label[0]) == label[1] for labels in namesakes)

    return dict(sorted(incident["labels"].items(), key=is_shared))


def st2_executions(
    view: dict[str, Any], now: datetime | None = None, width: int = DEFAULT_WIDTH
) -> str:
    """Format the executions that were started for alerts, each with what it achieved.

    Args:
        view: The view, as JSON.
        now: The time to which ages are relative. The default is the current time.
        width: The number of columns of the terminal.
    """
    view, now = sanitize(view), now or datetime.now(timezone.utc)
    rows = view["st2_executions"]
    lines: list[str] = []
    for row in rows:
        duration = format_seconds(row["duration_seconds"], " after ")
        lines += [
            f"{format_time(row['triggered_at'], now)}  {row['st2_workflow'] or '(no workflow)'}"
            f"  {row['st2_execution_id']}  {row['status']}{duration}",
            f"  {describe_result(row, now)}",
            f"  for {_name_alert(row['alert'])}",
            f"  request {row['request_id']}",
            "",
        ]
    total = format_total(view, "count", "execution")
    next_commands = ["st2 run poundcake.executions_recent format=text"]
    if rows:
        in_trouble = [row for row in rows if row["result"] in NEEDS_ATTENTION]
        next_commands = [command_for((in_trouble or rows)[0])]
    elif not view.get("next"):
        total += ": nothing ran for an alert that matches"
    misses = near_miss_lines(view)
    return join_lines(
        [*lines, total, *misses, *footer_lines(view), *next_lines(*next_commands)], width
    )


def _name_alert(alert: Mapping[str, Any]) -> str:
    """Return the name and the instance of an alert or, if it has no instance, its labels."""
    source = alert["instance"] or shorten(label_text(alert["labels"]), DEFAULT_WIDTH // 2)
    return f"{alert['name'] or '(no name)'} {source}".rstrip()
