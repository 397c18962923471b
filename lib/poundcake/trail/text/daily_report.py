"""Format the daily report, for a mail or a chat message."""

from __future__ import annotations

from datetime import datetime, timezone
from typing import Any, Callable, Mapping

from poundcake.trail import commands
from poundcake.trail.text.layout import (
    DEFAULT_WIDTH,
    alert_text,
    counted,
    format_age,
    format_elapsed,
    next_lines,
    sanitize,
    wrap_all,
)
from poundcake.trail.text.remarks import describe_pause, incident_remark_lines
from poundcake.trail.text.stats import total_lines

_MAX_ITEMS = 10
_RESULTS = {
    "not_cleared": "the alert kept firing",
    "not_verified": "not verified",
    "failed": "failed",
    "unknown": "its result is unknown",
}

Item = Mapping[str, Any]


def daily_report(
    view: dict[str, Any], width: int = DEFAULT_WIDTH, now: datetime | None = None
) -> str:
    """Format the daily report: the totals, then what needs attention, then what is in force.

    Args:
        view: The report, as JSON.
        width: The number of columns.
        now: The time to which ages are relative. The default is the current time.
    """
    now = now or datetime.now(timezone.utc)
    view = sanitize(view)
    lines = total_lines(view, now)
    lines += _section(view, "not_helped", "Did not help", _describe_execution)
    lines += _section(view, "failed", "Failed", _describe_execution)
    lines += _section(view, "not_started", "No action was started", _describe_alert_not_started)
    lines += _section(view, "refused", "Refused", _describe_refusal)
    lines += _section(
        view, "no_rule", "Matched no rule", lambda item: _describe_unmatched_name(item, now)
    )
    lines += _section(
        view,
        "expired_approvals",
        "Nobody answered in time",
        lambda item: _describe_expired_approval(item, now),
    )
    lines += _section(
        view,
        "open_incidents",
        "Open for more than a day",
        lambda item: _describe_incident(item, now),
    )
    lines += _lines_in_force(view, now)
    lines += ["", *next_lines(*_next_commands(view))]
    return "\n".join(wrap_all(lines, width, "    "))


def _section(
    view: Mapping[str, Any], key: str, title: str, describe: Callable[[Item], str]
) -> list[str]:
    """Return the lines of a section, or none if it is empty."""
    count, items = view[key]["count"], view[key]["items"][:_MAX_ITEMS]
    if not count:
        return []
    lines = ["", f"{title}: {count}", *[f"  {describe(item)}" for item in items]]
    # Some items stand for several alerts.
    shown = sum(item.get("count", 1) for item in items)
    return [*lines, f"  {count - shown} more"] if count > shown else lines


def _title(item: Item) -> str:
    """Return the name of an alert, its instance and its severity."""
    return " ".join(filter(None, [alert_text(item), item["severity"]]))


def _describe_execution(item: Item) -> str:
    action = item["action"] or item["st2_workflow"]
    target = f" on {item['target']}" if item["target"] else ""
    result = _RESULTS[item["result"]]
    message = f": {item['message']}" if item["message"] else ""
    return f"{_title(item)}, {action}{target}, {result}{message} ({item['st2_execution_id']})"


def _describe_alert_not_started(item: Item) -> str:
    return f"{_title(item)}: {item['reason'] or item['explanation']}"


def _describe_refusal(item: Item) -> str:
    return f"{item['count']} {item['refusal']}, {item['alert_name'] or '(no name)'}"


def _describe_unmatched_name(item: Item, now: datetime) -> str:
    name = item["alert_name"] or "(no name)"
    return f"{item['count']} {name}, last {format_age(item['last_at'], now)}"


def _describe_expired_approval(item: Item, now: datetime) -> str:
    target = f" on {item['target']}" if item["target"] else ""
    return f"{_title(item)}: {item['action']}{target}, expired {format_age(item['time'], now)}"


def _describe_incident(item: Item, now: datetime) -> str:
    remarks = [format_elapsed(item["starts_at"], now), *incident_remark_lines(item)]
    return f"{_title(item)}, {', '.join(remarks)}"


def _lines_in_force(view: Mapping[str, Any], now: datetime) -> list[str]:
    """Return the lines about the pause and the breakers that currently prevent changes."""
    lines = []
    pause = view["paused"]
    if pause:
        lines.append(f"  paused {describe_pause(pause, now)}")
    for breaker in view["breakers"]:
        failures = counted(breaker["failures"], "failure")
        last = format_age(breaker["last_failed_at"], now)
        lines.append(
            f"  {breaker['remediation']} is off after {failures} in a row, the last {last}"
        )
    return ["", "What prevents changes now", *lines] if lines else []


def _next_commands(view: Mapping[str, Any]) -> list[str]:
    found = [commands.RESUME] if view["paused"] else []
    found += [commands.release_breaker(row["remediation"]) for row in view["breakers"][:1]]
    problems = [*view["not_helped"]["items"], *view["failed"]["items"]]
    if problems:
        fingerprint = problems[0]["fingerprint"]
        found.append(f"st2 run poundcake.why format=text fingerprint={fingerprint}")
    return found or ["st2 run poundcake.stats format=text"]
