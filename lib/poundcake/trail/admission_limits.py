"""The cooldown per alert and the rate limit per alert name, by the database's clock."""

from __future__ import annotations

import bisect
from collections import defaultdict
from datetime import datetime, timedelta
from typing import Any, Sequence

from sqlalchemy import func, select
from sqlalchemy.engine import Connection
from sqlalchemy.sql import ColumnElement

from poundcake.alertmanager import Alert
from poundcake.config import Config
from poundcake.trail import database
from poundcake.trail.admission import Limit
from poundcake.trail.clock import format_deadline
from poundcake.trail.outcomes import Outcome
from poundcake.trail.schema import alerts, cut

_HOUR = timedelta(hours=1)
# The indexes contain the time at which an alert was received, by the endpoint's clock. Limits count
# from the time at which it was recorded. The two differ by the time in the journal and by the
# offset between the clocks.
_MAX_DELAY = timedelta(days=1)


class AdmissionLimits:
    """The recent admissions, and the limits that result from them."""

    def __init__(self, config: Config, now: datetime):
        self._cooldown = timedelta(seconds=config.cooldown_seconds)
        self._per_hour = config.max_remediations_per_hour
        self._now = now
        # The last admission of each fingerprint, and the sorted admissions of each alert name.
        self._last_admitted: dict[str, datetime] = {}
        self._admissions: dict[str, list[datetime]] = defaultdict(list)

    def read(
        self, connection: Connection, firing_alerts: Sequence[Alert], received_at: datetime
    ) -> None:
        """Read the recent admissions that limit the given alerts.

        Args:
            connection: A transaction.
            firing_alerts: The firing alerts of a batch of requests.
            received_at: When the first of the requests was received.
        """
        earliest = min(received_at, self._now) - _MAX_DELAY
        if self._cooldown:
            fingerprints = sorted({alert.fingerprint for alert in firing_alerts})
            self._read_last_admitted(connection, fingerprints, earliest - self._cooldown)
        if self._per_hour:
            names = sorted({_name(alert) for alert in firing_alerts})
            self._read_admissions(connection, names, earliest - _HOUR)

    def limit(self, alert: Alert) -> Limit | None:
        """Return the cooldown or rate limit that holds the alert back now, or None."""
        return self._cooldown_of(alert) or self._rate_limit_of(alert)

    def count(self, alert: Alert) -> None:
        """Count an alert that is admitted now."""
        self._last_admitted[alert.fingerprint] = self._now
        bisect.insort(self._admissions[_name(alert)], self._now)

    def _cooldown_of(self, alert: Alert) -> Limit | None:
        last_admitted = self._last_admitted.get(alert.fingerprint)
        if not self._cooldown or not last_admitted or last_admitted + self._cooldown <= self._now:
            return None
        until = last_admitted + self._cooldown
        return Limit(Outcome.COOLDOWN, f"cooldown until {format_deadline(until)}", until)

    def _rate_limit_of(self, alert: Alert) -> Limit | None:
        if not self._per_hour:
            return None
        admissions = self._admissions[_name(alert)]
        if len(admissions) - bisect.bisect_right(admissions, self._now - _HOUR) < self._per_hour:
            return None
        # There may be more admissions than the limit if it was lowered, or if replays were forced.
        until = admissions[-self._per_hour] + _HOUR
        return Limit(
            Outcome.RATE_LIMITED,
            f"limit of {self._per_hour} an hour for this alert name until {format_deadline(until)}",
            until,
        )

    def _read_last_admitted(
        self, connection: Connection, fingerprints: Sequence[str], earliest: datetime
    ) -> None:
        for chunk in database.batched(fingerprints):
            rows = connection.execute(
                select(alerts.c.fingerprint, func.max(alerts.c.recorded_at))
                .where(
                    alerts.c.fingerprint.in_(chunk),
                    *_admitted_since(self._now - self._cooldown, earliest),
                )
                .group_by(alerts.c.fingerprint)
            )
            self._last_admitted.update((row[0], row[1]) for row in rows)

    def _read_admissions(
        self, connection: Connection, names: Sequence[str], earliest: datetime
    ) -> None:
        for chunk in database.batched(names):
            rows = connection.execute(
                select(alerts.c.alert_name, alerts.c.recorded_at)
                .where(
                    alerts.c.alert_name.in_(chunk), *_admitted_since(self._now - _HOUR, earliest)
                )
                .order_by(alerts.c.recorded_at)
            )
            for name, admitted_at in rows:
                self._admissions[name].append(admitted_at)


def _admitted_since(since: datetime, earliest: datetime) -> tuple[ColumnElement[Any], ...]:
    """Return the conditions for alerts that were admitted after a time.

    Args:
        since: The time, by the database's clock.
        earliest: The earliest possible time of receipt of such an alert.
    """
    return (
        alerts.c.outcome == Outcome.ADMITTED,
        alerts.c.created_at > earliest,
        alerts.c.recorded_at > since,
    )


def _name(alert: Alert) -> str:
    return cut(alert.name, alerts.c.alert_name)
