"""What a list of requests is decided by: read once, then kept up to date in memory."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Sequence, Union

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
from poundcake.trail.outcomes import Outcome
from poundcake.trail.rows import AlertRow
from poundcake.trail.schema import alerts, api_calls


@dataclass(frozen=True)
class AlertBatch:
    """The alerts of a list of requests that can be decided.

    Attributes:
        alerts: All of them that are not malformed.
        received_at: When the first of the requests was received, by the endpoint's clock.
        now: The database's time.
    """

    alerts: Sequence[Alert]
    received_at: datetime
    now: datetime

    @property
    def firing(self) -> list[Alert]:
        """Return the alerts of the request that fire."""
        return [alert for alert in self.alerts if alert.status == alertmanager.FIRING]


@dataclass
class StoredIncident:
    """An open incident whose row is in the table."""

    incident: OpenIncident
    alert_id: int
    last_seen_at: datetime
    new_notifications: int = 0
    closed_at: datetime | None = None

    def close(self, at: datetime) -> None:
        """End the incident at a time."""
        self.closed_at = at

    def count_notification(self, at: datetime) -> None:
        """Count a notification that was received at a time."""
        # A request that was held up comes after others that were received later.
        self.last_seen_at = max(self.last_seen_at, at)
        self.new_notifications += 1


@dataclass
class NewIncident:
    """An open incident whose row is going to be inserted with the list."""

    incident: OpenIncident
    row: AlertRow

    def close(self, at: datetime) -> None:
        """End the incident at a time."""
        self.row.open_fingerprint, self.row.closed_at = None, at

    def count_notification(self, at: datetime) -> None:
        """Count a notification that was received at a time."""
        self.row.last_seen_at = max(self.row.last_seen_at, at)
        self.row.notifications += 1


AnyIncident = Union[StoredIncident, NewIncident]


class AdmissionState:
    """The open incidents, resolves and limits that concern a list of requests.

    Creating it locks the rows of the open incidents until the transaction ends.
    """

    def __init__(self, connection: Connection, config: Config, batch: AlertBatch):
        self._skew = timedelta(seconds=config.episode_skew_seconds)
        self._now = batch.now
        self._stored = _read_incidents(connection, batch.alerts)
        self._open: dict[str, AnyIncident] = dict(self._stored)
        self._resolves = _read_resolves(
            connection, batch.firing, batch.received_at - admission.LATE
        )
        self._limits = AdmissionLimits(config, batch.now)
        self._limits.read(connection, batch.firing, batch.received_at)

    def decide(self, alert: Alert, received_at: datetime) -> Decision:
        """Decide about the next alert. Call apply() with the result before the one after it."""
        return admission.decide(alert, received_at, self.situation(alert))

    def situation(self, alert: Alert) -> Situation:
        """Return what is on record about the label set of the next alert."""
        held = self._open.get(alert.fingerprint)
        return Situation(
            held.incident if held else None,
            self._skew,
            self._resolves[alert.fingerprint],
            self._limits.limit(alert) if alert.status == alertmanager.FIRING else None,
        )

    def open_episodes(self) -> set[str]:
        """Return the episodes of the open incidents of these alerts."""
        return {held.incident.episode for held in self._open.values()}

    def apply(self, request_id: str, alert: Alert, decision: Decision, row: AlertRow) -> None:
        """Take over what was decided about an alert, whose row is going to be inserted."""
        received_at = row.created_at
        held = self._open.get(alert.fingerprint)
        if held and decision.closes:
            held.close(received_at)
            del self._open[alert.fingerprint]
        elif held and _is_notification(alert, decision, held.incident):
            held.count_notification(received_at)
        if decision.opens and row.starts_at:
            incident = OpenIncident(request_id, decision.episode, row.starts_at, decision.outcome)
            self._open[alert.fingerprint] = NewIncident(incident, row)
        if decision.outcome == Outcome.ADMITTED:
            self._limits.count(alert)
        if alert.status == alertmanager.RESOLVED and row.ends_at:
            self._resolves[alert.fingerprint].append(Resolve(row.ends_at, received_at))

    def write_changes(self, connection: Connection) -> None:
        """Update the rows of the incidents that were closed or seen again."""
        stored = self._stored.values()
        closed = [{"id": s.alert_id, "closed_at": s.closed_at} for s in stored if s.closed_at]
        for some in batched(closed, ROWS):
            connection.execute(close_statement(len(some)), bind_params(some))
        seen = [
            {
                "id": s.alert_id,
                "last_seen_at": s.last_seen_at,
                "notifications": s.new_notifications,
            }
            for s in stored
            if s.new_notifications
        ]
        for some in batched(seen, ROWS):
            connection.execute(count_statement(len(some)), bind_params(some))


def _is_notification(alert: Alert, decision: Decision, incident: OpenIncident) -> bool:
    return alert.status == alertmanager.FIRING and decision.episode == incident.episode


def _read_incidents(connection: Connection, wanted: Sequence[Alert]) -> dict[str, StoredIncident]:
    """Lock and return the open incidents of these alerts, by fingerprint."""
    found = {}
    for some in batched(sorted({alert.fingerprint for alert in wanted})):
        rows = connection.execute(
            select(
                alerts.c.open_fingerprint,
                alerts.c.id,
                api_calls.c.request_id,
                alerts.c.episode,
                alerts.c.starts_at,
                alerts.c.outcome,
                alerts.c.last_seen_at,
            )
            .join(api_calls, api_calls.c.id == alerts.c.api_call_id)
            .where(alerts.c.open_fingerprint.in_(some))
            .with_for_update()
        )
        for row in rows:
            incident = OpenIncident(row.request_id, row.episode, row.starts_at, row.outcome)
            found[row.open_fingerprint] = StoredIncident(incident, row.id, row.last_seen_at)
    return found


def _read_resolves(
    connection: Connection, firing: Sequence[Alert], since: datetime
) -> dict[str, list[Resolve]]:
    """Return the resolves that were received since then, by the fingerprints of these alerts."""
    found: dict[str, list[Resolve]] = defaultdict(list)
    for some in batched(sorted({alert.fingerprint for alert in firing})):
        rows = connection.execute(
            select(alerts.c.fingerprint, alerts.c.ends_at, alerts.c.created_at)
            .join(api_calls, api_calls.c.id == alerts.c.api_call_id)
            .where(
                alerts.c.fingerprint.in_(some),
                alerts.c.status == alertmanager.RESOLVED,
                alerts.c.created_at >= since,
                # A replay overtakes nothing: its alerts came long before it was recorded.
                api_calls.c.replay_of.is_(None),
            )
        )
        for fingerprint, ends_at, received_at in rows:
            found[fingerprint].append(Resolve(ends_at, received_at))
    return found
