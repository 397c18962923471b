"""Find the work that waits for StackStorm or for a round of sync."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import ColumnElement, exists, false, or_, select
from sqlalchemy.engine import Connection

from poundcake.execution_status import TERMINAL, WAITING
from poundcake.timestamps import parse_timestamp
from poundcake.trail.changes import (
    NOT_CLAIMED,
    RETRY_PERIOD,
    ChangeResult,
    is_decided_refusal,
    is_undecided,
    is_unfinished,
)
from poundcake.trail.clock import database_now
from poundcake.trail.outbox import EventKind, find_endings
from poundcake.trail.outcomes import Explanation, Outcome
from poundcake.trail.pause import read_pause
from poundcake.trail.schema import alerts, api_calls, changes, events, executions, links, meta

SYNCED_AT = "synced_at"
"""The name of the row of poundcake_meta that stores when a round of sync last finished."""
MONITORING_PROBLEM = "monitoring_problem"
"""The name of the row that stores the problems of the last comparison with the Alertmanagers."""
_MAX_COUNT = 1000
# For this long after a request for approval has expired, sync runs often enough to reject it.
_EXPIRY_TIME = timedelta(minutes=10)
# How long the workflow of an alert may take to link itself before a round of sync looks for it.
_LINK_TIME = timedelta(seconds=10)
# After an outage, webhooks must have been arriving for this long before incidents can be stale.
_RECOVERY_TIME = timedelta(hours=1)


@dataclass(frozen=True)
class OpenWork:
    """The work that is still open, as of one point in time.

    Attributes:
        count: The largest of three numbers: open requests, open executions, and incidents and
            changes that need a round of sync; at most 1000.
        can_proceed_unattended: Whether some of the work can proceed without a person. False if only
            pending or paused executions remain.
        only_needs_confirmation: Whether all open work has recorded its own result, or is so recent
            that it may be about to. A round of sync would only confirm the results, so it may wait
            until it serves more alerts.
        synced_at: When a round of sync last finished, by the database's clock.
        read_at: When these values were read, by the same clock. The age of synced_at is relative
            to this time.
        monitoring_problem: Why the last round of sync could not fully compare the incidents with
            the Alertmanagers, or empty.
    """

    count: int
    can_proceed_unattended: bool
    only_needs_confirmation: bool
    synced_at: datetime | None
    read_at: datetime | None = None
    monitoring_problem: str = ""


def open_work(
    connection: Connection,
    expire_stale_hours: int = 0,
    reconciles: bool = False,
    not_cleared_minutes: int = 15,
    approval_minutes: int = 30,
) -> OpenWork:
    """Return the work that currently waits for StackStorm or for a round of sync.

    Args:
        connection: The tracking database.
        expire_stale_hours: The configured value; 0 if incidents never expire.
        reconciles: Whether each round compares the open incidents with the Alertmanagers.
        not_cleared_minutes: The configured value.
        approval_minutes: The configured value.
    """
    now = database_now(connection)
    statuses = connection.scalars(
        select(executions.c.status).where(executions.c.status.not_in(TERMINAL)).limit(_MAX_COUNT)
    ).all()
    open_request_ids = connection.scalars(
        select(api_calls.c.id).where(api_calls.c.completed_at.is_(None)).limit(_MAX_COUNT)
    ).all()
    # Sync admits unconfirmed incidents and closes stale ones.
    ids_for_sync = list(
        connection.scalars(select(alerts.c.id).where(*is_unconfirmed()).limit(_MAX_COUNT))
    )
    if expire_stale_hours:
        stale = is_stale(connection, now, expire_stale_hours)
        ids_for_sync += connection.scalars(select(alerts.c.id).where(*stale).limit(_MAX_COUNT))
    # Sync ends changes whose workflow did not report, decides whether each cleared its alert, and
    # tries refused changes again.
    undecided_conditions = is_undecided(now - timedelta(minutes=not_cleared_minutes))
    conditions_for_sync = [(is_unfinished(),), undecided_conditions]
    if not read_pause(connection):
        conditions_for_sync.append(is_due_for_retry(now))
    for conditions in conditions_for_sync:
        ids_for_sync += connection.scalars(
            select(changes.c.id).where(*conditions).limit(_MAX_COUNT)
        )
    has_expired_approval = _has_expired_approval(
        connection, now - timedelta(minutes=approval_minutes)
    )
    only_needs_confirmation = (
        not ids_for_sync and not has_expired_approval and _only_needs_confirmation(connection, now)
    )
    problem = None
    if reconciles:
        incidents = connection.scalars(select(alerts.c.id).where(is_open()).limit(_MAX_COUNT)).all()
        ids_for_sync += incidents
        # Without open incidents, sync queries no Alertmanager, so the stored problem is outdated.
        problem = read_meta(connection, MONITORING_PROBLEM) if incidents else None
    unexplained_id = connection.scalars(
        select(alerts.c.id).where(is_unexplained()).limit(1)
    ).first()
    waits_for_people_only = bool(statuses) and all(status in WAITING for status in statuses)
    return OpenWork(
        count=min(_MAX_COUNT, max(len(statuses), len(open_request_ids), len(ids_for_sync))),
        can_proceed_unattended=unexplained_id is not None
        or bool(ids_for_sync)
        or not waits_for_people_only
        or has_expired_approval,
        only_needs_confirmation=only_needs_confirmation,
        synced_at=last_synced(connection),
        read_at=now,
        monitoring_problem=problem or "",
    )


def _only_needs_confirmation(connection: Connection, now: datetime) -> bool:
    """Return the value of OpenWork.only_needs_confirmation for the alerts and executions."""
    is_linked = exists().where(links.c.alert_id == alerts.c.id)
    unexplained = connection.execute(
        select(alerts.c.recorded_at, is_linked.label("is_linked"))
        .where(is_unexplained())
        .limit(_MAX_COUNT)
    ).all()
    open_executions = connection.execute(
        select(executions.c.id, alerts.c.episode)
        .outerjoin(links, links.c.st2_execution_id == executions.c.id)
        .outerjoin(alerts, alerts.c.id == links.c.alert_id)
        .where(executions.c.status.not_in(TERMINAL))
        .limit(_MAX_COUNT)
    ).all()
    if not unexplained and not open_executions:
        return False
    if any(not row.is_linked and row.recorded_at <= now - _LINK_TIME for row in unexplained):
        return False
    remediations = {(row.id, row.episode or "") for row in open_executions}
    return len(find_endings(connection, list(remediations))) == len(remediations)


def _has_expired_approval(connection: Connection, before: datetime) -> bool:
    """Return True if a request for approval has recently expired and sync has to reject it.

    Args:
        connection: The tracking database.
        before: Requests that were reported before this time have expired.
    """
    expired = select(events.c.id).where(
        events.c.kind == EventKind.APPROVAL_WANTED,
        events.c.at <= before,
        events.c.at > before - _EXPIRY_TIME,
    )
    return connection.scalar(expired.limit(1)) is not None


def is_unexplained() -> ColumnElement[bool]:
    """Return the condition for alerts that are not explained yet."""
    return or_(alerts.c.explanation.is_(None), alerts.c.explanation == Explanation.RETRY)


def is_open() -> ColumnElement[bool]:
    """Return the condition for alerts whose row is that of an open incident."""
    return alerts.c.open_fingerprint > ""  # SQLite uses no index for IS NOT NULL


def is_unconfirmed() -> tuple[ColumnElement[bool], ...]:
    """Return the conditions for unconfirmed incidents that nobody has acknowledged."""
    return (
        alerts.c.outcome == Outcome.UNCONFIRMED,
        is_open(),
        alerts.c.acknowledged_at.is_(None),
    )


def is_due_for_retry(now: datetime) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions for refused changes that sync has to try again now."""
    return (*awaits_retry(now), changes.c.retry_at <= now)


def awaits_retry(now: datetime) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions for refused changes that sync will try again unless something changes.

    The incident is open, nobody has acknowledged it or silenced its alert, and the refusal is the
    last decision about the newest attempt at the episode.
    """
    other = changes.alias("other")
    is_same_episode = other.c.episode == changes.c.episode
    incident_needs_retry = exists().where(
        alerts.c.episode == changes.c.episode,
        is_open(),
        alerts.c.acknowledged_at.is_(None),
        or_(alerts.c.silence_id.is_(None), alerts.c.silenced_until <= now),
    )
    newer_attempt = exists().where(
        alerts.c.episode == changes.c.episode, alerts.c.attempt > changes.c.attempt
    )
    later_decision = exists().where(
        is_same_episode, other.c.id > changes.c.id, other.c.refusal != NOT_CLAIMED
    )
    refusal_before_period = exists().where(
        is_same_episode, is_decided_refusal(other), other.c.decided_at <= now - RETRY_PERIOD
    )
    return (
        changes.c.result == ChangeResult.REFUSED,
        changes.c.ended_at > now - RETRY_PERIOD,  # search only the end of the index
        changes.c.retry_at.is_not(None),
        changes.c.retried_at.is_(None),
        incident_needs_retry,
        ~newer_attempt,
        ~later_decision,
        ~refusal_before_period,
    )


def is_stale(connection: Connection, now: datetime, hours: int) -> tuple[ColumnElement[bool], ...]:
    """Return the conditions for incidents that received no notification for a number of hours.

    After an outage of the endpoint or of the database, the notifications of all incidents are
    missing or not recorded yet. If the incidents were closed then, they would be remediated again.
    So the hours are counted back from the newest recorded webhook, and no incident is stale unless
    an earlier webhook arrived during these hours.

    Args:
        connection: The tracking database.
        now: The current time by the database's clock.
        hours: The hours without a notification.
    """
    received = api_calls.c.created_at
    webhooks = select(received).where(api_calls.c.replay_of.is_(None), received <= now)
    newest_received_at = connection.scalar(webhooks.order_by(received.desc()).limit(1))
    if newest_received_at is None:
        return (false(),)
    since = newest_received_at - timedelta(hours=hours)
    until = newest_received_at - min(_RECOVERY_TIME, timedelta(hours=hours) / 2)
    earlier_webhook = webhooks.where(received >= since, received <= until).limit(1)
    if connection.scalar(earlier_webhook) is None:
        return (false(),)
    return is_open(), alerts.c.last_seen_at < since


def last_synced(connection: Connection) -> datetime | None:
    """Return when a round of sync last finished, by the database's clock."""
    value = read_meta(connection, SYNCED_AT)
    return parse_timestamp(value) if value else None


def read_meta(connection: Connection, name: str) -> str | None:
    """Return the value of a row of poundcake_meta, or None if the row is missing."""
    return connection.scalar(select(meta.c.value).where(meta.c.name == name))
