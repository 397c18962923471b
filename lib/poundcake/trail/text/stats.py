"""Format the statistics on remediations."""

from __future__ import annotations

import shlex
from datetime import datetime, timedelta, timezone
from typing import Any, Mapping, Sequence

from poundcake.timestamps import parse_timestamp
from poundcake.trail.text.layout import (
    DEFAULT_WIDTH,
    counted,
    format_age,
    join_lines,
    next_lines,
    sanitize,
    table,
    unbreakable,
)
from poundcake.trail.text.near_misses import near_miss_lines

_MAX_NAMES = 10
# The results of executions that changed nothing or failed, in the order in which they are shown.
_OTHER_RESULTS = {
    "dry_run": "dry run",
    "evidence": "evidence only",
    "refused": "refused",
    "failed": "failed",
    "canceled": "cancelled",
    "not_claimed": "without the claim",
    "other": "without a report",
    "unknown": "with an unknown result",
    "waiting": "waiting",
    "running": "running",
}


def stats(view: dict[str, Any], width: int = DEFAULT_WIDTH, now: datetime | None = None) -> str:
    """Format the statistics on remediations.

    Args:
        view: The view, as JSON.
        width: The number of columns of the terminal.
        now: The time to which ages are relative. The default is the current time.
    """
    now = now or datetime.now(timezone.utc)
    view = sanitize(view)
    lines = total_lines(view, now)
    for title, key in (("workflow", "workflows"), ("alert_name", "alerts")):
        if view[key]:
            lines += ["", *_figures_table(title, view[key], width)]
    if not view["workflows"]:
        lines += ["", "nothing ran for an alert in that time"]
        lines += near_miss_lines(view)
    if view["no_rule"]:
        rows = view["no_rule"][:_MAX_NAMES]
        name = shlex.quote(rows[0]["alert_name"])
        lines += ["", *no_rule_lines(view, now, width), ""]
        lines += next_lines(f"st2 run poundcake.why format=text alert_name={name}")
    return join_lines(lines, width)


def total_lines(view: Mapping[str, Any], now: datetime) -> list[str]:
    """Return the totals of the statistics: first what happened, then details if there are any."""
    totals = view["totals"]
    admitted = f"{counted(totals['admitted'], 'alert')} admitted"
    lines = [f"{describe_range(view, now)}: {admitted}, {describe_results(totals)}"]
    remarks = [
        _count(totals, "no_rule", "matched no rule"),
        _count(totals, "not_started", "matched a rule whose action could not be started"),
        _count(totals, "lost", "lost by StackStorm"),
        _count(totals, "cleared_by_themselves", "ended without a change"),
        _count(totals, "open", "still open"),
    ]
    if any(remarks):
        lines.append(f"  of the alerts: {', '.join(filter(None, remarks))}")
    if totals["refusals"]:
        lines.append(f"  refused by: {describe_refusals(totals['refusals'])}")
    if totals["help_rate"] is not None:
        lines.append(f"  {_describe_help(totals)}")
    return lines


def describe_range(view: Mapping[str, Any], now: datetime) -> str:
    """Return the time range in words: "Last 24 h", or its start and its end to the minute."""
    since, until = parse_timestamp(view["since"]), parse_timestamp(view["until"])
    if since is None or until is None:
        return f"{view['since']} to {view['until']}"
    span = until - since
    if abs(now - until) < timedelta(minutes=2):
        if span < timedelta(minutes=1):
            return f"Last {span.total_seconds():.0f} s"
        minutes = round(span / timedelta(minutes=1))
        if minutes % (24 * 60) == 0 and minutes > 24 * 60:
            return f"Last {minutes // (24 * 60)} days"
        return f"Last {minutes // 60} h" if minutes % 60 == 0 else f"Last {minutes} min"
    return f"{since:%Y-%m-%d %H:%MZ} to {until:%Y-%m-%d %H:%MZ}"


def describe_results(figures: Mapping[str, Any]) -> str:
    """Return what executions achieved: "3 changed (2 cleared, 1 not), 4 dry run"."""
    results = figures["results"]
    parts = []
    if figures["changed"]:
        not_cleared = results["not_cleared"] + results["not_verified"]
        effects = [
            _count(results, "cleared", "cleared"),
            _count({"not": not_cleared}, "not", "not"),
            _count(results, "changed", "not known yet"),
        ]
        changed = _count(figures, "changed", "changed")
        parts.append(f"{changed} ({', '.join(filter(None, effects))})")
    parts += [_count(results, name, words) for name, words in _OTHER_RESULTS.items()]
    return ", ".join(filter(None, parts)) or "nothing ran"


def describe_refusals(refusals: Mapping[str, int]) -> str:
    """Return what refused changes, most frequent first: "12 storm, 3 cooldown"."""
    return ", ".join(_count(refusals, name, name) for name in refusals)


def no_rule_lines(
    view: Mapping[str, Any], now: datetime, width: int, limit: int = _MAX_NAMES
) -> list[str]:
    """Return the table of the alerts that no rule matched, most frequent first."""
    rows = view["no_rule"]
    cells = [
        (row["alert_name"] or "(no name)", row["count"], format_age(row["last_at"], now))
        for row in rows[:limit]
    ]
    lines = table(("no rule matched", "alerts", "last"), cells, width)
    left_out = len(rows) - limit
    return [*lines, f"{left_out} more"] if left_out > 0 else lines


def _format_mean(seconds: float | None) -> str:
    """Return a mean duration to three digits with one unit, or '' if there is none."""
    if seconds is None:
        return ""
    for unit, size, limit in (("s", 1, 90), ("min", 60, 90 * 60)):
        if seconds < limit:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds / 3600:.3g} h"


def _figures_table(title: str, rows: Sequence[Mapping[str, Any]], width: int) -> list[str]:
    cells = [
        (
            row[title] or "(no name)",
            row["count"],
            describe_results(row),
            _format_mean(row["mean_seconds"]),
            _format_mean(row["mean_seconds_to_clear"]),
        )
        for row in rows
    ]
    headings = (title.replace("_", " "), "runs", "results", "mean", "to clear")
    return table(headings, cells, width, fixed=("mean", "to clear"))


def _describe_help(totals: Mapping[str, Any]) -> str:
    results = totals["results"]
    known = results["cleared"] + results["not_cleared"] + results["not_verified"]
    changes = counted(known, "change")
    helped = f"{results['cleared']} of {changes} with a known effect cleared the alert"
    mean_time = _format_mean(totals["mean_seconds_to_clear"])
    return f"{helped}, on average {mean_time} after it arrived" if mean_time else helped


def _count(counts: Mapping[str, int], name: str, words: str) -> str:
    """Return a number with the words that describe it, or '' if the number is 0.

    A line is not broken between the number and its first word.
    """
    return unbreakable(f"{counts[name]} ") + words if counts[name] else ""
