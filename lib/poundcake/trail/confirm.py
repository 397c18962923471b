"""Admit incidents that have been unconfirmed for six minutes without a resolve.

Sync does this in each round, because the next notification may be hours away: Alertmanager repeats
an alert only after its repeat_interval. As in a replay, a new request admits the incident, and an
endpoint finds that request in the database and emits it.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from sqlalchemy import Row, select
from sqlalchemy.engine import Connection

from poundcake import alertmanager
from poundcake.alertmanager import Alert
from poundcake.announcement import Request
from poundcake.config import Config
from poundcake.request_ids import confirmation_id
from poundcake.trail import admission, clock, database
from poundcake.trail.admission import Decision
from poundcake.trail.admission_state import AdmissionState
from poundcake.trail.open_work import is_unconfirmed
from poundcake.trail.outcomes import Outcome
from poundcake.trail.record import record_safely
from poundcake.trail.schema import alerts, api_calls, to_json
from poundcake.trail.sync_round import SyncRound

METHOD = "ADMIT"
"""The method of a request that admits an unconfirmed incident."""
_MAX_INCIDENTS = 50
_REQUEST_COLUMNS = [api_calls.c[name] for name in ("request_id", "path", "headers", "body")]


def admit_unconfirmed(sync_round: SyncRound, config: Config) -> int:
    """Admit incidents that were unconfirmed for CONFIRM_AFTER, unless they are acknowledged.

    Returns:
        The number of incidents that this round processed.
    """
    with database.reading(sync_round.engine) as connection:
        recorded_before = clock.database_now(connection) - admission.CONFIRM_AFTER
        ids = connection.scalars(
            select(alerts.c.id)
            .where(
                *is_unconfirmed(),
                # Do not compare the time of receipt: after an outage, the resolve of an alert that
                # was received long ago may still be waiting to be recorded.
                alerts.c.recorded_at <= recorded_before,
            )
            .order_by(alerts.c.id)
            .limit(_MAX_INCIDENTS)
        ).all()
    for alert_id in ids:
        with sync_round.writing() as connection:
            _admit(connection, config, alert_id)
    return len(ids)


def _admit(connection: Connection, config: Config, alert_id: int) -> None:
    row = connection.execute(
        select(alerts.c.position, *_REQUEST_COLUMNS)
        .join(api_calls, api_calls.c.id == alerts.c.api_call_id)
        .where(alerts.c.id == alert_id)
    ).one_or_none()
    if row is not None:
        request = _confirmation_request(row, connection)
        record_safely(connection, config, [request], _ConfirmationState, row.request_id)


def _confirmation_request(row: Row[Any], connection: Connection) -> Request:
    """Return a new request with one alert of a recorded request."""
    payload = alertmanager.decode(row.body.encode())
    payload["alerts"] = [payload["alerts"][row.position]]
    return Request(
        # Every round derives the same id, so that the request is recorded only once.
        request_id=confirmation_id(row.request_id, row.position),
        received_at=clock.database_now(connection),
        client_host="",
        client_request_id="",
        method=METHOD,
        path=row.path,
        headers=json.loads(row.headers),
        body=to_json(payload),
    )


class _ConfirmationState(AdmissionState):
    """The admission state for a request whose only alert confirms its incident."""

    def decide(self, alert: Alert, received_at: datetime, receiver: str) -> Decision:
        """Return the decision about the alert's incident, which may have ended in the meantime."""
        situation = self.situation(alert, receiver)
        incident = situation.incident
        if incident is None or incident.outcome != Outcome.UNCONFIRMED:
            return Decision(Outcome.DUPLICATE, "the incident is no longer unconfirmed")
        return admission.decide_confirmed(incident, situation)

    def _notified_at(self, alert: Alert, received_at: datetime) -> datetime:
        """Return when the last notification was received. This request is not a notification."""
        open_incident = self._open_incidents.get(alert.fingerprint)
        return open_incident.incident.last_seen_at if open_incident else received_at
