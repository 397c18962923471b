"""Count what is open: incidents, workflows that wait for a person, and breakers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from sqlalchemy import func, select
from sqlalchemy.engine import Connection

from poundcake.stackstorm import WAITING
from poundcake.trail.limits import find_open_breakers
from poundcake.trail.open_work import is_open
from poundcake.trail.schema import alerts, executions, unindexed


@dataclass(frozen=True)
class OpenCounts:
    """The numbers of what is open.

    Attributes:
        incidents: The open incidents.
        waiting_workflows: The workflows that wait for an approval or that a person paused, as of
            the last sync.
        open_breakers: The remediations that their breaker stops.
    """

    incidents: int
    waiting_workflows: int
    open_breakers: int


def read_open_counts(connection: Connection, breaker_failures: int) -> OpenCounts:
    """Return the numbers of what is open.

    Args:
        connection: A connection to the tracking database.
        breaker_failures: The configured value; 0 if there is no breaker.
    """
    incidents = connection.scalar(select(func.count()).select_from(alerts).where(is_open()))
    waiting = connection.scalar(
        select(func.count()).select_from(executions).where(executions.c.status.in_(WAITING))
    )
    return OpenCounts(
        incidents=incidents or 0,
        waiting_workflows=waiting or 0,
        open_breakers=len(find_open_breakers(connection, breaker_failures)),
    )


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
