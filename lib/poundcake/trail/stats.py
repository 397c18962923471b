"""How remediations went over a range of time: by workflow, and by alert name."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone
from typing import Any

from sqlalchemy import BigInteger, ColumnElement, Row, Select, case, cast, func, literal, select
from sqlalchemy import text as sql_text
from sqlalchemy.engine import Connection

from poundcake.stackstorm import TERMINAL
from poundcake.timestamps import format_timestamp
from poundcake.trail.queries.bounded_search import time_filters, unindexed
from poundcake.trail.schema import alerts, executions, links
from poundcake.trail.search import Filters

DEFAULT_RANGE = timedelta(hours=24)
_FAILED = ("failed", "timeout", "abandoned")
# The filters of alerts that narrow the figures.
_ALERT_FILTERS = ("severity", "alert_name", "instance", "fingerprint")
_MICROSECONDS = 1_000_000


@dataclass
class Figures:
    """How the executions of one workflow, or of one alert name, went.

    Attributes:
        failed: Those that failed, timed out or were abandoned.
        running: Those that have not ended.
        not_cleared: Of those that succeeded, the ones whose alert fired on for too long.
        durations: Of those that ended, in microseconds.
    """

    count: int = 0
    succeeded: int = 0
    failed: int = 0
    running: int = 0
    not_cleared: int = 0
    durations: list[int] = field(default_factory=list)

    @property
    def other(self) -> int:
        """How many were cancelled, or are gone."""
        return self.count - self.succeeded - self.failed - self.running

    @property
    def success_rate(self) -> float | None:
        """The share that succeeded, of those that succeeded or failed; None without any."""
        known = self.succeeded + self.failed
        return round(self.succeeded / known, 4) if known else None

    @property
    def mean_seconds(self) -> float | None:
        """How long they took on average; None if none has ended."""
        if not self.durations:
            return None
        return round(sum(self.durations) / len(self.durations) / _MICROSECONDS, 3)

    @property
    def p95_seconds(self) -> float | None:
        """How long 95 % of them took at most, by the nearest rank; None if none has ended."""
        if not self.durations:
            return None
        rank = -(-len(self.durations) * 95 // 100)
        return round(sorted(self.durations)[rank - 1] / _MICROSECONDS, 3)

    def add(self, row: Row[Any]) -> None:
        """Count the executions of one workflow, alert name and status."""
        self.count += row.executions
        if row.status == "succeeded":
            self.succeeded += row.executions
            self.not_cleared += int(row.not_cleared)
        elif row.status in _FAILED:
            self.failed += row.executions
        elif row.status not in TERMINAL:
            self.running += row.executions
            return
        self.durations += map(int, row.durations.split(",") if row.durations else ())

    def as_json(self) -> dict[str, Any]:
        """Return them as the action stats answers them."""
        return {
            "count": self.count,
            "succeeded": self.succeeded,
            "failed": self.failed,
            "running": self.running,
            "other": self.other,
            "not_cleared": self.not_cleared,
            "success_rate": self.success_rate,
            "mean_seconds": self.mean_seconds,
            "p95_seconds": self.p95_seconds,
        }


@dataclass(frozen=True)
class Stats:
    """The figures of the executions that started between two times, by workflow and alert name."""

    since: datetime
    until: datetime
    by_workflow: dict[str, Figures]
    by_alert_name: dict[str, Figures]

    def as_json(self) -> dict[str, Any]:
        """Return them as the action stats answers them, the most frequent first."""
        return {
            "since": format_timestamp(self.since),
            "until": format_timestamp(self.until),
            "workflows": _as_rows("workflow", self.by_workflow),
            "alerts": _as_rows("alert_name", self.by_alert_name),
        }


def stats(connection: Connection, filters: Filters, not_cleared_minutes: int) -> dict[str, Any]:
    """Return how remediations went, ready for JSON; see remediation_stats()."""
    return remediation_stats(connection, filters, not_cleared_minutes).as_json()


def remediation_stats(connection: Connection, filters: Filters, not_cleared_minutes: int) -> Stats:
    """Return how the executions went that started within a range of time.

    Args:
        filters: The range: `since` is a day before its end by default, `until` now. Severity,
            alert_name, instance and fingerprint narrow it further.
        not_cleared_minutes: An execution that succeeded did not clear its alert if that fired on
            for longer after its end.
    """
    now = datetime.now(timezone.utc)
    until = filters.until or now
    since = filters.since or until - DEFAULT_RANGE
    statement = _sums(connection, now, timedelta(minutes=not_cleared_minutes)).where(
        *time_filters(Filters(since=since, until=until), executions.c.start_timestamp),
        *[
            unindexed(alerts.c[name]) == filters.of_alerts[name]
            for name in _ALERT_FILTERS
            if name in filters.of_alerts
        ],
    )
    by_workflow: dict[str, Figures] = defaultdict(Figures)
    by_alert_name: dict[str, Figures] = defaultdict(Figures)
    for row in connection.execute(statement):
        by_workflow[row.workflow or ""].add(row)
        by_alert_name[row.alert_name].add(row)
    return Stats(since, until, by_workflow, by_alert_name)


def _sums(connection: Connection, now: datetime, not_cleared: timedelta) -> Select[Any]:
    """Return the statement that adds up executions by workflow, alert name and status.

    The database adds up, because fetching a row for each execution takes longer than finding it.
    """
    ended = executions.c.end_timestamp
    # An execution for a resolve has no incident to clear: its alert was closed at no time.
    fired_until = case(
        (alerts.c.open_fingerprint.is_not(None), literal(now, ended.type)),
        else_=alerts.c.closed_at,
    )
    fired_on = _microseconds_between(connection, ended, fired_until)
    took = _microseconds_between(connection, executions.c.start_timestamp, ended)
    most = not_cleared // timedelta(microseconds=1)
    statement = select(
        links.c.st2_action_ref.label("workflow"),
        alerts.c.alert_name,
        executions.c.status,
        func.count().label("executions"),
        func.sum(case((fired_on > most, 1), else_=0)).label("not_cleared"),
        func.group_concat(took).label("durations"),
    )
    return (
        # MariaDB would read the whole table if its statistics are out of date.
        statement.with_hint(executions, "FORCE INDEX (ix_execution_db_start)")
        .select_from(executions)
        .join(links, links.c.st2_execution_id == executions.c.id)
        .join(alerts, alerts.c.id == links.c.alert_id)
        .group_by(links.c.st2_action_ref, alerts.c.alert_name, executions.c.status)
    )


def _microseconds_between(
    connection: Connection, start: ColumnElement[Any], end: ColumnElement[Any]
) -> ColumnElement[Any]:
    """Return the expression for the time between two columns; NULL if one of them is."""
    if connection.dialect.name != "sqlite":
        return func.timestampdiff(sql_text("MICROSECOND"), start, end)

    def since_epoch(moment: ColumnElement[Any]) -> ColumnElement[int]:
        # SQLite has no times: "2026-01-14 12:00:00.000000"
        seconds = cast(func.strftime("%s", moment), BigInteger)
        return seconds * _MICROSECONDS + cast(func.substr(moment, 21, 6), BigInteger)

    return since_epoch(end) - since_epoch(start)


def _as_rows(key: str, found: dict[str, Figures]) -> list[dict[str, Any]]:
    frequent_first = sorted(found.items(), key=lambda item: (-item[1].count, item[0]))
    return [{key: name, **figures.as_json()} for name, figures in frequent_first]
