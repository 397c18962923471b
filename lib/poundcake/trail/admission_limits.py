"""Apply the cooldown per alert and the rate limit per alert name, by the database's clock."""

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
# Limits count from the time at which an alert was recorded, but only the time at which it was
# received is indexed. The two differ mainly by the time that the request waited in the journal.
_MAX_DELAY = timedelta(days=1)


class AdmissionLimits:
    """The recent admissions, and the cooldowns and rate limits that result from them."""

    def __init__(self, config: Config, now: datetime):
        self._cooldown = timedelta(seconds=config.cooldown_seconds)
        self._max_per_hour = config.max_remediations_per_hour
        self._now = now
        self._last_admission_by_fingerprint: dict[str, datetime] = {}
        # Each list is sorted.
        self._admissions_by_name: dict[str, list[datetime]] = defaultdict(list)

    def read(
        self, connection: Connection, firing_alerts: Sequence[Alert], received_at: datetime
    ) -> None:
        """Read the recent admissions that may limit these alerts.

        Args:
            connection: A transaction.
            firing_alerts: The firing alerts of a batch of requests.
            received_at: When the first of the requests was received.
        """
        earliest = min(received_at, self._now) - _MAX_DELAY
        if self._cooldown:
            fingerprints = sorted({alert.fingerprint for alert in firing_alerts})
            self._read_last_admissions(connection, fingerprints, earliest - self._cooldown)
        if self._max_per_hour:
            names = sorted({_stored_name(alert) for alert in firing_alerts})
            self._read_admissions(connection, names, earliest - _HOUR)

    def find_limit(self, alert: Alert) -> Limit | None:
        """Return the cooldown or rate limit that holds the alert back now, or None."""
        return self._find_cooldown(alert) or self._find_rate_limit(alert)

    def count_admission(self, alert: Alert) -> None:
        """Count the admission of an alert."""
        self._last_admission_by_fingerprint[alert.fingerprint] = self._now
        bisect.insort(self._admissions_by_name[_stored_name(alert)], self._now)

    def _find_cooldown(self, alert: Alert) -> Limit | None:
        last_admission = self._last_admission_by_fingerprint.get(alert.fingerprint)
        if not self._cooldown or not last_admission or last_admission + self._cooldown <= self._now:
            return None
        until = last_admission + self._cooldown
        return Limit(Outcome.COOLDOWN, f"cooldown until {format_deadline(until)}", until)

    def _find_rate_limit(self, alert: Alert) -> Limit | None:
        if not self._max_per_hour:
            return None
        admissions = self._admissions_by_name[_stored_name(alert)]
        count = len(admissions) - bisect.bisect_right(admissions, self._now - _HOUR)
        if count < self._max_per_hour:
            return None
        # There may be more admissions than the limit if it was lowered, or if replays were forced.
        until = admissions[-self._max_per_hour] + _HOUR
        return Limit(
            Outcome.RATE_LIMITED,
            f"limit of {self._max_per_hour} per hour for this alert name until "
            f"{format_deadline(until)}",
            until,
        )

    def _read_last_admissions(
        self, connection: Connection, fingerprints: Sequence[str], earliest: datetime
    ) -> None:
        for chunk in database.batched(fingerprints):
            rows = connection.execute(
                select(alerts.c.fingerprint, func.max(alerts.c.recorded_at))
                .where(
                    alerts.c.fingerprint.in_(chunk),
                    *_is_admitted_after(self._now - self._cooldown, earliest),
                )
                .group_by(alerts.c.fingerprint)
            )
            self._last_admission_by_fingerprint.update((row[0], row[1]) for row in rows)

    def _read_admissions(
        self, connection: Connection, names: Sequence[str], earliest: datetime
    ) -> None:
        for chunk in database.batched(names):
            rows = connection.execute(
                select(alerts.c.alert_name, alerts.c.recorded_at)
                .where(
                    alerts.c.alert_name.in_(chunk), *_is_admitted_after(self._now - _HOUR, earliest)
                )
                .order_by(alerts.c.recorded_at)
            )
            for name, admitted_at in rows:
                self._admissions_by_name[name].append(admitted_at)


def _is_admitted_after(since: datetime, earliest: datetime) -> tuple[ColumnElement[Any], ...]:
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


def _stored_name(alert: Alert) -> str:
    return cut(alert.name, alerts.c.alert_name)
