"""Count what is open: incidents, workflows that wait for a person, and breakers."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import func, select
from sqlalchemy.engine import Connection

from poundcake.stackstorm import WAITING
from poundcake.trail.limits import find_open_breakers
from poundcake.trail.open_work import is_open
from poundcake.trail.schema import alerts, executions


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
