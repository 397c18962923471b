"""Count what is open: incidents, workflows, breakers, and what waits for StackStorm."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NamedTuple

from sqlalchemy import ColumnElement, func, or_, select
from sqlalchemy.engine import Connection

from poundcake.execution_status import STATUSES, TERMINAL, WAITING
from poundcake.trail import clock
from poundcake.trail.limits import find_open_breakers
from poundcake.trail.open_work import is_open
from poundcake.trail.outcomes import Explanation
from poundcake.trail.schema import alerts, events, executions, unindexed

_RUNNING = tuple(status for status in STATUSES if status not in (*TERMINAL, *WAITING))


@dataclass(frozen=True)
class OpenCounts:
    """The numbers of what is open, and the age in seconds of the oldest, or 0 if there is none.

    Attributes:
        incidents: The open incidents.
        waiting_workflows: The workflows that wait for an approval or that a person paused, as of
            the last sync.
        open_breakers: The remediations that their breaker stops.
        stale_incidents: The open incidents without a notification for stale_after_hours that
            nobody has acknowledged or silenced.
        oldest_running_seconds: The age of the oldest execution that runs, as of the last sync. An
            execution that waits for a person does not run.
        oldest_lost_seconds: The age of the oldest alert that StackStorm lost and that is emitted
            again.
        oldest_event_seconds: The age of the oldest event that is not published yet.
    """

    incidents: int
    waiting_workflows: int
    open_breakers: int
    stale_incidents: int = 0
    oldest_running_seconds: float = 0.0
    oldest_lost_seconds: float = 0.0
    oldest_event_seconds: float = 0.0


def read_open_counts(
    connection: Connection, breaker_failures: int, stale_after_hours: int
) -> OpenCounts:
    """Return the numbers of what is open.

    Args:
        connection: A connection to the tracking database.
        breaker_failures: The configured value; 0 if there is no breaker.
        stale_after_hours: The configured value.
    """
    now = clock.database_now(connection)
    stale_since = now - timedelta(hours=stale_after_hours)
    incidents = connection.scalar(select(func.count()).select_from(alerts).where(is_open()))
    waiting = connection.scalar(
        select(func.count()).select_from(executions).where(executions.c.status.in_(WAITING))
    )
    return OpenCounts(
        incidents=incidents or 0,
        waiting_workflows=waiting or 0,
        open_breakers=len(find_open_breakers(connection, breaker_failures)),
        stale_incidents=connection.scalar(
            select(func.count()).where(
                is_open(),
                alerts.c.last_seen_at < stale_since,
                alerts.c.acknowledged_at.is_(None),
                # Alertmanager repeats nothing while an alert is silenced.
                or_(alerts.c.silence_id.is_(None), alerts.c.silenced_until <= now),
            )
        )
        or 0,
        oldest_running_seconds=_oldest_age(
            connection,
            executions.c.start_timestamp,
            executions.c.status.in_(_RUNNING),
            now,
        ),
        oldest_lost_seconds=_oldest_age(
            connection, alerts.c.recorded_at, alerts.c.explanation == Explanation.RETRY, now
        ),
        oldest_event_seconds=_oldest_age(
            connection, events.c.at, events.c.published_at.is_(None), now
        ),
    )


def _oldest_age(
    connection: Connection,
    column: ColumnElement[datetime],
    condition: ColumnElement[bool],
    now: datetime,
) -> float:
    """Return the age of the oldest row in seconds, or 0 if no row meets the condition."""
    oldest = connection.scalar(select(func.min(column)).where(condition))
    return max(0.0, (now - oldest).total_seconds()) if oldest else 0.0


class NameCount(NamedTuple):
    """How many open incidents the alerts of one name have.

    Attributes:
        alert_name: The name, or '' for alerts without one.
        incidents: The number of open incidents.
    """

    alert_name: str
    incidents: int


def count_open_incidents(connection: Connection, more_than: int = 0) -> list[NameCount]:
    """Return how many incidents are open by the name of their alerts, the most frequent first.

    Args:
        connection: A connection to the tracking database.
        more_than: Leave out the names that have no more open incidents than this.
    """
    # Otherwise, SQLite would read the whole index of alert names, which is sorted by them.
    alert_name = unindexed(alerts.c.alert_name).label("alert_name")
    count = func.count().label("count")
    rows = connection.execute(
        select(alert_name, count)
        .where(is_open())
        .group_by(alert_name)
        .having(count > more_than)
        .order_by(count.desc(), alert_name)
    )
    return [NameCount(*row) for row in rows]


def find_storms(connection: Connection, storm_limit: int) -> list[NameCount]:
    """Return the alert names with more open incidents than `storm_limit`.

    A storm goes on for storm_quiet_minutes after the number has fallen to the limit. That time is
    not counted here, because it would require a search of the history.

    Args:
        connection: A connection to the tracking database.
        storm_limit: The configured value; 0 if there is no limit.
    """
    return count_open_incidents(connection, storm_limit) if storm_limit else []
