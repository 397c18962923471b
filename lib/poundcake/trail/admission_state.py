"""The state that admission decisions depend on, read once for a batch and then kept in memory."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Collection, NamedTuple, Sequence, Union

from sqlalchemy import select
from sqlalchemy.engine import Connection

from poundcake import alertmanager
from poundcake.alertmanager import Alert
from poundcake.config import Config
from poundcake.trail import admission
from poundcake.trail.admission import Decision, OpenIncident, Resolve, Situation
from poundcake.trail.admission_limits import AdmissionLimits
from poundcake.trail.database.batches import (
    ROWS,
    batched,
    bind_params,
    close_statement,
    count_statement,
)
from poundcake.trail.outcomes import EndedBy, Outcome
from poundcake.trail.rows import AlertRow
from poundcake.trail.schema import alerts, api_calls

_ESCAPED_CHARACTER = re.compile(r"\\(.)")


class ReceivedAlert(NamedTuple):
    """An alert that is not malformed, and the time its request was received."""

    alert: Alert
    received_at: datetime


@dataclass(frozen=True)
class AlertBatch:
    """The alerts of a batch of requests, without malformed ones.

    Attributes:
        received_alerts: The alerts; may be empty.
        first_received_at: When the first of the requests was received.
        now: The current time by the database's clock.
    """

    received_alerts: Sequence[ReceivedAlert]
    first_received_at: datetime
    now: datetime

    @property
    def alerts(self) -> list[Alert]:
        """The alerts, without the times at which they were received."""
        return [received_alert.alert for received_alert in self.received_alerts]

    @property
    def firing_alerts(self) -> list[Alert]:
        """The firing alerts."""
        return [alert for alert in self.alerts if alert.status == alertmanager.FIRING]


@dataclass
class StoredIncident:
    """An open incident whose row is already in the table."""

    incident: OpenIncident
    alert_id: int
    new_notifications: int = 0
    closed_at: datetime | None = None
    ended_by: EndedBy | None = None

    def close(self, at: datetime, ended_by: EndedBy | None) -> None:
        """Close the incident's row at the given time."""
        self.closed_at, self.ended_by = at, ended_by

    def count_notification(self, notification: AlertRow) -> None:
        """Count another notification.

        Args:
            notification: The row of its alert.
        """
        self.incident = _add_notification(self.incident, notification)
        self.new_notifications += 1


@dataclass
class NewIncident:
    """An open incident whose row will be inserted with the current batch."""

    incident: OpenIncident
    row: AlertRow

    def close(self, at: datetime, ended_by: EndedBy | None) -> None:
        """Close the incident's row at the given time."""
        self.row.open_fingerprint, self.row.closed_at, self.row.ended_by = None, at, ended_by

    def count_notification(self, notification: AlertRow) -> None:
        """Count another notification.

        Args:
            notification: The row of its alert.
        """
        self.incident = _add_notification(self.incident, notification)
        self.row.last_seen_at = self.incident.last_seen_at
        self.row.sender_starts_at = self.incident.sender_starts_at
        self.row.external_url = self.incident.external_url
        self.row.notifications += 1


AnyIncident = Union[StoredIncident, NewIncident]


class AdmissionState:
    """The open incidents, resolves and limits that apply to a batch of requests.

    Creating an instance locks the rows of the open incidents until the transaction ends.
    """

    def __init__(self, connection: Connection, config: Config, batch: AlertBatch):
        self._skew = timedelta(seconds=config.episode_skew_seconds)
        self._receivers = frozenset(config.receivers)
        self._now = batch.now
        self._stored_incidents = _read_incidents(connection, batch.alerts)
        self._open_incidents: dict[str, AnyIncident] = dict(self._stored_incidents)
        self._resolves = _read_resolves(
            connection, batch.firing_alerts, batch.first_received_at - admission.REFIRE_GRACE
        )
        self._known_episodes = self._read_known_episodes(connection, batch)
        self._limits = AdmissionLimits(config, batch.now)
        self._limits.read(connection, batch.firing_alerts, batch.first_received_at)

    def decide(self, alert: Alert, received_at: datetime, receiver: str) -> Decision:
        """Return the decision about an alert. Apply it with apply() before the next decision."""
        return admission.decide(alert, received_at, self.situation(alert, receiver))

    def situation(self, alert: Alert, receiver: str) -> Situation:
        """Return the current state of an alert's label set."""
        open_incident = self._open_incidents.get(alert.fingerprint)
        return Situation(
            open_incident.incident if open_incident else None,
            self._skew,
            self._resolves[alert.fingerprint],
            self._limits.find_limit(alert) if alert.status == alertmanager.FIRING else None,
            self._may_start(receiver),
            self._known_episodes,
        )

    def open_episodes(self) -> set[str]:
        """Return the episodes of the batch's open incidents."""
        return {open_incident.incident.episode for open_incident in self._open_incidents.values()}

    def apply(self, request_id: str, alert: Alert, decision: Decision, row: AlertRow) -> None:
        """Apply the decision about an alert to this state and to the alert's new row."""
        received_at = row.created_at
        row.last_seen_at = self._notified_at(alert, received_at)
        open_incident = self._open_incidents.get(alert.fingerprint)
        if open_incident and decision.closes:
            open_incident.close(received_at, decision.ended_by)
            del self._open_incidents[alert.fingerprint]
        elif open_incident and _is_notification_of(alert, decision, open_incident.incident):
            open_incident.count_notification(row)
        if decision.opens and row.starts_at:
            if open_incident and open_incident.incident.episode == decision.episode:
                continued_incident = _add_notification(open_incident.incident, row)
                row.last_seen_at = continued_incident.last_seen_at
                row.sender_starts_at = continued_incident.sender_starts_at
                row.external_url = continued_incident.external_url
            incident = OpenIncident(
                request_id,
                decision.episode,
                row.starts_at,
                decision.outcome,
                row.last_seen_at,
                row.sender_starts_at,
                external_url=row.external_url,
            )
            self._open_incidents[alert.fingerprint] = NewIncident(incident, row)
        if decision.episode:
            self._known_episodes.add(decision.episode)
        if decision.outcome == Outcome.ADMITTED:
            self._limits.count_admission(alert)
        if alert.status == alertmanager.RESOLVED:
            self._resolves[alert.fingerprint].append(Resolve(alert.ends_at, received_at))

    def _notified_at(self, alert: Alert, received_at: datetime) -> datetime:
        """Return when the notification that contained an alert was received.

        Subclasses override this for replays and confirmations, whose alerts were received earlier.
        """
        return received_at

    def _may_start(self, receiver: str) -> bool:
        # Alertmanager escapes the characters of a receiver's name that are special in regular
        # expressions (template.Data in notify/util.go).
        unescaped_receiver = _ESCAPED_CHARACTER.sub(r"\1", receiver)
        return not self._receivers or not self._receivers.isdisjoint((receiver, unescaped_receiver))

    def _read_known_episodes(self, connection: Connection, batch: AlertBatch) -> set[str]:
        """Return the names of recorded episodes that a new episode of the batch might reuse."""
        open_names = self.open_episodes()
        start_names: set[str] = set()
        fallback_names: dict[str, str] = {}
        for alert, received_at in batch.received_alerts:
            if alert.status == alertmanager.FIRING:
                starts_at = admission.compute_start(alert, received_at)
                name = alertmanager.episode_name(alert.fingerprint, starts_at)
                start_names.add(name)
                fallback_names[name] = alertmanager.episode_name(alert.fingerprint, received_at)
        # Most notifications repeat an open incident and need no new name.
        used_names = _find_used_names(connection, start_names - open_names)
        used_fallback_names = _find_used_names(
            connection, {fallback_names[name] for name in used_names}
        )
        return open_names | used_names | used_fallback_names

    def write_changes(self, connection: Connection) -> None:
        """Update the stored rows of incidents that were closed or received notifications."""
        stored_incidents = self._stored_incidents.values()
        closed_rows = [
            {
                "id": stored_incident.alert_id,
                "closed_at": stored_incident.closed_at,
                "ended_by": stored_incident.ended_by,
            }
            for stored_incident in stored_incidents
            if stored_incident.closed_at
        ]
        for chunk in batched(closed_rows, ROWS):
            connection.execute(close_statement(len(chunk)), bind_params(chunk))
        notified_rows = [
            {
                "id": stored_incident.alert_id,
                "last_seen_at": stored_incident.incident.last_seen_at,
                "sender_starts_at": stored_incident.incident.sender_starts_at,
                "external_url": stored_incident.incident.external_url,
                "notifications": stored_incident.new_notifications,
            }
            for stored_incident in stored_incidents
            if stored_incident.new_notifications
        ]
        for chunk in batched(notified_rows, ROWS):
            connection.execute(count_statement(len(chunk)), bind_params(chunk))


def _add_notification(incident: OpenIncident, notification: AlertRow) -> OpenIncident:
    """Return the incident, updated for another notification."""
    received_at = notification.last_seen_at
    # A delayed request is recorded after requests that were received later.
    is_newest = received_at > incident.last_seen_at or not incident.external_url
    return replace(
        incident,
        last_seen_at=max(incident.last_seen_at, received_at),
        external_url=notification.external_url if is_newest else incident.external_url,
        # Keep the first startsAt. A second Prometheus server or a late copy may report an earlier
        # one. If the earlier one replaced it, the next notification with the first startsAt would
        # look like a new occurrence, and a late resolve of the previous one would end this one.
        sender_starts_at=incident.sender_starts_at or notification.sender_starts_at,
    )


def _is_notification_of(alert: Alert, decision: Decision, incident: OpenIncident) -> bool:
    return alert.status == alertmanager.FIRING and decision.episode == incident.episode


def _read_incidents(
    connection: Connection, received_alerts: Sequence[Alert]
) -> dict[str, StoredIncident]:
    """Lock and return the open incidents of these alerts, by fingerprint."""
    incidents = {}
    for chunk in batched(sorted({alert.fingerprint for alert in received_alerts})):
        rows = connection.execute(
            select(
                alerts.c.open_fingerprint,
                alerts.c.id,
                api_calls.c.request_id,
                alerts.c.episode,
                alerts.c.starts_at,
                alerts.c.outcome,
                alerts.c.last_seen_at,
                alerts.c.sender_starts_at,
                alerts.c.acknowledged_by,
                alerts.c.external_url,
            )
            .join(api_calls, api_calls.c.id == alerts.c.api_call_id)
            .where(alerts.c.open_fingerprint.in_(chunk))
            .with_for_update()
        )
        for row in rows:
            incident = OpenIncident(
                row.request_id,
                row.episode,
                row.starts_at,
                row.outcome,
                row.last_seen_at,
                row.sender_starts_at,
                row.acknowledged_by or "",
                row.external_url,
            )
            incidents[row.open_fingerprint] = StoredIncident(incident, row.id)
    return incidents


def _read_resolves(
    connection: Connection, firing_alerts: Sequence[Alert], since: datetime
) -> dict[str, list[Resolve]]:
    """Return the resolves of these alerts that were received since a time, by fingerprint."""
    resolves: dict[str, list[Resolve]] = defaultdict(list)
    for chunk in batched(sorted({alert.fingerprint for alert in firing_alerts})):
        rows = connection.execute(
            select(alerts.c.fingerprint, alerts.c.ends_at, alerts.c.created_at)
            .join(api_calls, api_calls.c.id == alerts.c.api_call_id)
            .where(
                alerts.c.fingerprint.in_(chunk),
                alerts.c.status == alertmanager.RESOLVED,
                alerts.c.created_at >= since,
                # Ignore replays, whose alerts were received long before the replay was recorded.
                api_calls.c.replay_of.is_(None),
            )
        )
        for fingerprint, ends_at, received_at in rows:
            resolves[fingerprint].append(Resolve(ends_at, received_at))
    return resolves


def _find_used_names(connection: Connection, names: Collection[str]) -> set[str]:
    """Return those of the names that recorded episodes already use."""
    used_names: set[str] = set()
    for chunk in batched(sorted(names)):
        used_names.update(
            connection.scalars(select(alerts.c.episode).where(alerts.c.episode.in_(chunk)))
        )
    return used_names
