"""Statistics on remediations in a time range, by workflow and by alert name."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Sequence

from sqlalchemy import BigInteger, ColumnElement, Row, Select, case, cast, func, literal, select
from sqlalchemy import text as sql_text
from sqlalchemy.engine import Connection

from poundcake.stackstorm import TERMINAL
from poundcake.timestamps import format_timestamp
from poundcake.trail import clock
from poundcake.trail.alert_conditions import AlertConditions, resolve
from poundcake.trail.label_matchers import find_matching, has_id
from poundcake.trail.queries.bounded_search import time_filters
from poundcake.trail.queries.near_misses import near_misses_of_executions
from poundcake.trail.schema import alerts, executions, links, unindexed
from poundcake.trail.search import FilterError, Filters

DEFAULT_RANGE = timedelta(hours=24)
_FAILED = ("failed", "timeout", "abandoned")
# The filters on alerts that stats supports.
_ALERT_FILTERS = ("severity", "alert_name", "instance", "fingerprint")
_MICROSECONDS = 1_000_000
# Maximum number of alerts to which matchers are applied.
_MAX_MATCHED = 20_000
_MAX_MATCHING_SECONDS = 2


@dataclass
class Figures:
    """Statistics on the executions of one workflow or one alert name.

    Attributes:
        count: All executions.
        succeeded: Executions that succeeded.
        failed: Executions that failed, timed out or were abandoned.
        running: Executions that have not ended.
        not_cleared: Executions that succeeded, but whose alert still fired `not_cleared_minutes`
            later.
        durations: The durations of executions that ended, in microseconds.
    """

    count: int = 0
    succeeded: int = 0
    failed: int = 0
    running: int = 0
    not_cleared: int = 0
    durations: list[int] = field(default_factory=list)

    @property
    def other(self) -> int:
        """Executions that were cancelled, or that StackStorm no longer has."""
        return self.count - self.succeeded - self.failed - self.running

    @property
    def success_rate(self) -> float | None:
        """The share of successes among successes and failures, or None if there are neither."""
        finished_count = self.succeeded + self.failed
        return round(self.succeeded / finished_count, 4) if finished_count else None

    @property
    def mean_seconds(self) -> float | None:
        """The mean duration, or None if no execution has ended."""
        if not self.durations:
            return None
        return round(sum(self.durations) / len(self.durations) / _MICROSECONDS, 3)

    @property
    def p95_seconds(self) -> float | None:
        """The 95th percentile of the durations (nearest rank), or None if there are none."""
        if not self.durations:
            return None
        rank = -(-len(self.durations) * 95 // 100)
        return round(sorted(self.durations)[rank - 1] / _MICROSECONDS, 3)

    def add(self, row: Row[Any]) -> None:
        """Add the aggregated executions of one workflow, alert name and status."""
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
        """Return the figures as JSON, as in the result of the action stats."""
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
        """Return the result of the action stats, most frequent first."""
        return {
            "since": format_timestamp(self.since),
            "until": format_timestamp(self.until),
            "workflows": _as_rows("workflow", self.by_workflow),
            "alerts": _as_rows("alert_name", self.by_alert_name),
        }


def stats(connection: Connection, filters: Filters, not_cleared_minutes: int) -> dict[str, Any]:
    """Return the result of remediation_stats() as JSON, with near misses if nothing ran."""
    result = remediation_stats(connection, filters, not_cleared_minutes)
    view = result.as_json()
    if not result.by_workflow and filters.has_alert_filter:
        in_range = replace(filters, since=result.since, until=result.until)
        view["near_misses"] = near_misses_of_executions(connection, in_range)
    return view


def remediation_stats(connection: Connection, filters: Filters, not_cleared_minutes: int) -> Stats:
    """Return statistics on the executions that started within a time range.

    Args:
        connection: A connection to the tracking database.
        filters: The time range, by default the last 24 hours, and the filters severity,
            alert_name, instance and fingerprint.
        not_cleared_minutes: A successful execution counts as not cleared if its alert kept firing
            for longer than this after its end.
    """
    now = clock.database_now(connection)
    until = filters.until or now
    since = filters.since or until - DEFAULT_RANGE
    alert_conditions = resolve(connection, filters)
    conditions = [
        *time_filters(Filters(since=since, until=until), executions.c.start_timestamp),
        *alert_conditions.on_columns(lambda name: unindexed(alerts.c[name]), _ALERT_FILTERS),
    ]
    if alert_conditions.has_matchers:
        conditions.append(_matching_alerts(connection, alert_conditions, conditions))
    statement = _select_figures(connection, now, timedelta(minutes=not_cleared_minutes)).where(
        *conditions
    )
    by_workflow: dict[str, Figures] = defaultdict(Figures)
    by_alert_name: dict[str, Figures] = defaultdict(Figures)
    for row in connection.execute(statement):
        by_workflow[row.workflow or ""].add(row)
        by_alert_name[row.alert_name].add(row)
    return Stats(since, until, by_workflow, by_alert_name)


def _matching_alerts(
    connection: Connection,
    alert_conditions: AlertConditions,
    conditions: Sequence[ColumnElement[bool]],
) -> ColumnElement[bool]:
    """Return the condition for the alerts of these executions that the matchers accept.

    Raises:
        FilterError: There are too many alerts to apply the matchers to.
    """
    statement = (
        select(alerts.c.id)
        .select_from(executions)
        .join(links, links.c.st2_execution_id == executions.c.id)
        .join(alerts, alerts.c.id == links.c.alert_id)
        .where(*conditions)
        .order_by(executions.c.start_timestamp.desc())
        .limit(_MAX_MATCHED + 1)
    )
    ids = list(dict.fromkeys(connection.scalars(statement)))
    matching = find_matching(connection, ids, alert_conditions, _MAX_MATCHING_SECONDS)
    if len(ids) > min(_MAX_MATCHED, matching.checked_count):
        field = "labels" if alert_conditions.labels else "annotations"
        raise FilterError(
            field,
            f"there are {len(ids)} alerts to check in this time range, which is too many: pass a "
            "later since, or another filter such as alert_name",
        )
    return has_id(alerts.c.id, matching.ids)


def _select_figures(
    connection: Connection, now: datetime, not_cleared_after: timedelta
) -> Select[Any]:
    """Return the statement that aggregates executions by workflow, alert name and status.

    It aggregates in the database, because fetching a row per execution would take longer.
    """
    ended = executions.c.end_timestamp
    # A resolve opens no incident, so its row has no closed_at.
    fired_until = case(
        (alerts.c.open_fingerprint.is_not(None), literal(now, ended.type)),
        else_=alerts.c.closed_at,
    )
    kept_firing = _microseconds_between(connection, ended, fired_until)
    duration = _microseconds_between(connection, executions.c.start_timestamp, ended)
    limit = not_cleared_after // timedelta(microseconds=1)
    statement = select(
        links.c.st2_action_ref.label("workflow"),
        alerts.c.alert_name,
        executions.c.status,
        func.count().label("executions"),
        func.sum(case((kept_firing > limit, 1), else_=0)).label("not_cleared"),
        func.group_concat(duration).label("durations"),
    )
    return (
        # With outdated statistics, MariaDB would read the whole table.
        statement.with_hint(executions, "FORCE INDEX (ix_execution_db_start)")
        .select_from(executions)
        .join(links, links.c.st2_execution_id == executions.c.id)
        .join(alerts, alerts.c.id == links.c.alert_id)
        .group_by(links.c.st2_action_ref, alerts.c.alert_name, executions.c.status)
    )


def _microseconds_between(
    connection: Connection, start: ColumnElement[Any], end: ColumnElement[Any]
) -> ColumnElement[Any]:
    """Return the expression for the time between two columns. It is NULL if either of them is."""
    if connection.dialect.name != "sqlite":
        return func.timestampdiff(sql_text("MICROSECOND"), start, end)

    def since_epoch(moment: ColumnElement[Any]) -> ColumnElement[int]:
        # SQLite stores times as text: "2026-01-14 12:00:00.000000"
        seconds = cast(func.strftime("%s", moment), BigInteger)
        return seconds * _MICROSECONDS + cast(func.substr(moment, 21, 6), BigInteger)

    return since_epoch(end) - since_epoch(start)


def _as_rows(key: str, figures_by_name: dict[str, Figures]) -> list[dict[str, Any]]:
    sorted_figures = sorted(figures_by_name.items(), key=lambda item: (-item[1].count, item[0]))
    return [{key: name, **figures.as_json()} for name, figures in sorted_figures]
