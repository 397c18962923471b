"""The daily report: what happened in a time range, and what needs a person's attention."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any, Mapping, Sequence

from sqlalchemy import Row, func, or_, select
from sqlalchemy.engine import Connection

from poundcake.config import Config
from poundcake.timestamps import format_timestamp
from poundcake.trail import clock, outbox
from poundcake.trail.changes import is_granted
from poundcake.trail.execution_results import NOT_HELPED, ExecutionResult
from poundcake.trail.limits import find_open_breakers
from poundcake.trail.open_work import is_open
from poundcake.trail.outbox import EndResult
from poundcake.trail.outcomes import Explanation, Outcome
from poundcake.trail.pause import read_pause
from poundcake.trail.queries.bounded_search import time_filters
from poundcake.trail.queries.rows import AlertRow, alerts_by_id, format_optional, incident_remarks
from poundcake.trail.schema import alerts, changes, executions, links
from poundcake.trail.search import Filters
from poundcake.trail.stats import (
    RESULT_COLUMNS,
    Stats,
    has_cleared,
    remediation_stats,
    result_of_row,
    select_executions,
)

MAX_ITEMS = 100
"""Maximum number of items in a section."""
LONG_OPEN = timedelta(days=1)
"""An incident that has been open for longer than this is in the report."""
_MAX_CANDIDATES = 1000
_FAILED_STATUSES = ("failed", "timeout", "abandoned", "gone")
_FAILED_RESULTS = (ExecutionResult.FAILED, ExecutionResult.UNKNOWN)

Section = Mapping[str, Any]
"""The number of items of a section (`count`), and its newest items, at most MAX_ITEMS (`items`)."""


def daily_report(connection: Connection, filters: Filters, config: Config) -> dict[str, Any]:
    """Return the report on a time range, ready for JSON.

    Args:
        connection: A connection to the tracking database.
        filters: The time range, by default the last 24 hours. Other filters are ignored.
        config: The configuration.
    """
    now = clock.database_now(connection)
    figures = remediation_stats(
        connection, Filters(since=filters.since, until=filters.until), config.not_cleared_minutes
    )
    time_range = Filters(since=figures.since, until=figures.until)
    problems = _read_problems(connection, time_range, now, config.not_cleared_minutes)
    results = figures.total.results
    pause = read_pause(connection)
    statistics = figures.as_json()
    return {
        "since": statistics["since"],
        "until": statistics["until"],
        "totals": statistics["totals"],
        "not_helped": _section(
            [item for item in problems if item["result"] in NOT_HELPED],
            sum(results[result] for result in NOT_HELPED),
        ),
        "failed": _section(
            [item for item in problems if item["result"] in _FAILED_RESULTS],
            sum(results[result] for result in _FAILED_RESULTS),
        ),
        "not_started": _read_alerts_not_started(connection, time_range),
        "refused": _list_refusals(figures),
        "no_rule": _section(statistics["no_rule"], figures.admitted.no_rule),
        "expired_approvals": _read_expired_approvals(connection, time_range),
        "open_incidents": _read_old_incidents(connection, now),
        "paused": pause.as_json() if pause else None,
        "breakers": [
            {
                "remediation": failure.remediation,
                "failures": config.breaker_failures,
                "last_failed_at": format_optional(failure.ended_at),
                "episode": failure.episode,
            }
            for failure in find_open_breakers(connection, config.breaker_failures)
        ],
    }


def _section(items: Sequence[Any], count: int | None = None) -> Section:
    return {"count": len(items) if count is None else count, "items": items[:MAX_ITEMS]}


def _read_problems(
    connection: Connection, time_range: Filters, now: datetime, not_cleared_minutes: int
) -> list[dict[str, Any]]:
    """Return the newest executions that may have failed or not helped, newest first."""
    statement = (
        select_executions(
            executions.c.id,
            executions.c.end_timestamp,
            executions.c.message,
            executions.c.error,
            links.c.st2_action_ref,
            alerts.c.alert_name,
            alerts.c.instance,
            alerts.c.severity,
            alerts.c.fingerprint,
            changes.c.remediation,
            changes.c.action,
            changes.c.target,
            has_cleared(connection.dialect.name).label("cleared"),
            *RESULT_COLUMNS,
        )
        .where(
            *time_filters(time_range, executions.c.start_timestamp),
            or_(
                executions.c.status.in_(_FAILED_STATUSES),
                executions.c.mutated,
                is_granted(),
            ),
        )
        .order_by(executions.c.start_timestamp.desc(), executions.c.id.desc())
        .limit(_MAX_CANDIDATES)
    )
    parameters = {
        "now": now,
        "not_cleared_after": timedelta(minutes=not_cleared_minutes) // timedelta(microseconds=1),
    }
    return [_as_problem(row) for row in connection.execute(statement, parameters)]


def _as_problem(row: Row[Any]) -> dict[str, Any]:
    return {
        "alert_name": row.alert_name,
        "instance": row.instance,
        "severity": row.severity,
        "fingerprint": row.fingerprint,
        "result": str(result_of_row(row)),
        "st2_workflow": row.st2_action_ref or "",
        "remediation": row.remediation or "",
        "action": row.action or "",
        "target": row.target or "",
        "message": row.message or row.error or "",
        "st2_execution_id": row.id,
        "ended_at": format_optional(row.end_timestamp),
    }


def _read_alerts_not_started(connection: Connection, time_range: Filters) -> Section:
    """Return the admitted alerts whose rule could not start its action, and the lost ones."""
    conditions = (
        alerts.c.outcome == Outcome.ADMITTED,
        *time_filters(time_range, alerts.c.created_at),
        func.coalesce(alerts.c.explanation, "").in_((Explanation.FAILED, Explanation.LOST)),
    )
    ids = connection.scalars(
        select(alerts.c.id).where(*conditions).order_by(alerts.c.created_at.desc()).limit(MAX_ITEMS)
    ).all()
    count = len(ids)
    if count == MAX_ITEMS:
        count = connection.scalar(select(func.count()).where(*conditions)) or 0
    rows = alerts_by_id(connection, ids)
    return _section(
        [
            {
                **_describe_alert(row),
                "received_at": format_timestamp(row.received_at),
                "explanation": row.explanation,
                "reason": row.explanation_reason or "",
            }
            for row in rows
        ],
        count,
    )


def _describe_alert(row: AlertRow) -> dict[str, Any]:
    return {
        "alert_name": row.alert_name,
        "instance": row.instance,
        "severity": row.severity,
        "fingerprint": row.fingerprint,
    }


def _list_refusals(figures: Stats) -> Section:
    """Return how often which control refused a change for which alert, most frequent first."""
    counts = sorted(
        (-count, refusal, name)
        for name, row in figures.by_alert_name.items()
        for refusal, count in row.refusals.items()
    )
    items = [
        {"refusal": refusal, "alert_name": name, "count": -negative_count}
        for negative_count, refusal, name in counts
    ]
    return _section(items, figures.total.results[ExecutionResult.REFUSED])


def _read_expired_approvals(connection: Connection, time_range: Filters) -> Section:
    """Return the changes that were refused because nobody answered in time, newest first."""
    rows = connection.execute(
        select(changes.c.st2_execution_id, changes.c.episode)
        .where(
            *time_filters(time_range, changes.c.decided_at),
            changes.c.refusal == "approval_missing",
        )
        .order_by(changes.c.decided_at.desc(), changes.c.id.desc())
    ).all()
    keys = [(row.st2_execution_id, row.episode) for row in rows]
    endings = outbox.find_endings(connection, keys)
    fields = ("alert_name", "instance", "severity", "action", "target", "execution_id", "time")
    return _section(
        [
            {name: endings[key][name] for name in fields}
            for key in keys
            if endings.get(key, {}).get("result") == EndResult.APPROVAL_EXPIRED
        ]
    )


def _read_old_incidents(connection: Connection, now: datetime) -> Section:
    """Return the incidents that have been open for longer than LONG_OPEN, oldest first."""
    began_at = func.coalesce(alerts.c.starts_at, alerts.c.created_at)
    conditions = (is_open(), began_at < now - LONG_OPEN)
    count = connection.scalar(select(func.count()).select_from(alerts).where(*conditions)) or 0
    ids = connection.scalars(
        select(alerts.c.id).where(*conditions).order_by(began_at, alerts.c.id).limit(MAX_ITEMS)
    ).all()
    rows = {row.id: row for row in alerts_by_id(connection, ids)}
    return _section(
        [
            {
                **_describe_alert(rows[alert_id]),
                "episode": rows[alert_id].episode,
                "starts_at": format_timestamp(
                    rows[alert_id].starts_at or rows[alert_id].received_at
                ),
                **incident_remarks(rows[alert_id]),
            }
            for alert_id in ids
        ],
        count,
    )
