"""Format the view why: what was done about an alert, episode by episode."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from typing import Any, Mapping

from poundcake.timestamps import parse_timestamp
from poundcake.trail.text.layout import (
    counted,
    footer_lines,
    format_age,
    format_total,
    join_lines,
    sanitize,
)
from poundcake.trail.text.near_misses import near_miss_lines
from poundcake.trail.text.remarks import (
    audit_lines,
    change_lines,
    incident_remark_lines,
    pause_lines,
)


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
    view = sanitize(view)
    if not view["episodes"]:
        no_match_so_far = "none of the newest alerts matches"
        message = no_match_so_far if view.get("next") else "no matching alert is recorded"
        misses = near_miss_lines(view)
        return join_lines([*pause_lines(view), message, *misses, *footer_lines(view)])
    lines = pause_lines(view)
    for episode in view["episodes"]:
        lines += [*_episode_lines(episode, now, stale_before), ""]
    return join_lines([*lines, format_total(view, "count", "episode"), *footer_lines(view)])


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
    lines += [f"  {line}" for line in change_lines(episode)]
    lines += [f"  {remark}" for remark in incident_remark_lines(episode)]
    lines += [f"  {line}" for line in audit_lines(episode)]
    return lines


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
        last_notification = f"last notification {format_age(episode['last_seen_at'], now)}"
        return f"{firing} since {episode['starts_at']}, {seen}, {last_notification}"
    if episode["state"]:
        ended = f" at {episode['ends_at']}" if episode["ends_at"] else ""
        return f"{episode['state']}{ended}, began at {episode['starts_at']}, {seen}"
    return "not an incident"
