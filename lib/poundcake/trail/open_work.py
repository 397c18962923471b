"""The requests and executions that wait for StackStorm, and the time of the last sync."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.engine import Connection

from poundcake.stackstorm import TERMINAL, WAITING
from poundcake.timestamps import parse_timestamp
from poundcake.trail.clock import database_now
from poundcake.trail.outcomes import Explanation
from poundcake.trail.schema import alerts, api_calls, executions, meta

SYNCED_AT = "synced_at"
"""The row of poundcake_meta with the time at which a round of sync last finished."""
_MAX_COUNT = 1000


@dataclass(frozen=True)
class OpenWork:
    """The requests and executions that wait for StackStorm.

    Attributes:
        count: The number of open requests or of open executions, whichever is larger; at most
            1000.
        moves_by_itself: Some of them can proceed without a person. False if all of them are
            pending or paused.
        synced_at: When a round of sync last finished, by the database's clock.
        read_at: When this was read, by the same clock, to compute the age of synced_at.
    """

    count: int
    moves_by_itself: bool
    synced_at: datetime | None
    read_at: datetime | None = None


def open_work(connection: Connection) -> OpenWork:
    """Return the requests and executions that wait for StackStorm now."""
    statuses = connection.scalars(
        select(executions.c.status).where(executions.c.status.not_in(TERMINAL)).limit(_MAX_COUNT)
    ).all()
    requests = connection.scalars(
        select(api_calls.c.id).where(api_calls.c.completed_at.is_(None)).limit(_MAX_COUNT)
    ).all()
    waits = connection.scalars(select(alerts.c.id).where(unexplained()).limit(1)).first()
    only_people = bool(statuses) and all(status in WAITING for status in statuses)
    return OpenWork(
        count=max(len(statuses), len(requests)),
        moves_by_itself=waits is not None or not only_people,
        synced_at=last_synced(connection),
        read_at=database_now(connection),
    )


def unexplained() -> ColumnElement[bool]:
    """Return the condition for alerts that are not explained yet."""
    return or_(alerts.c.explanation.is_(None), alerts.c.explanation == Explanation.RETRY)


def last_synced(connection: Connection) -> datetime | None:
    """Return when a round of sync last finished, by the database's clock."""
    value = connection.scalar(select(meta.c.value).where(meta.c.name == SYNCED_AT))
    return parse_timestamp(value) if value else None
