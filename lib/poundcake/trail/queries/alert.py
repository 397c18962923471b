"""One alert with all the data that its sender provided."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import select
from sqlalchemy.engine import Connection

from poundcake.alertmanager import FIRING, RESOLVED
from poundcake.execution_status import TERMINAL
from poundcake.trail import short_ids
from poundcake.trail.claims import find_incident_end
from poundcake.trail.open_work import is_open
from poundcake.trail.outcomes import EMITTED
from poundcake.trail.queries.changes import find_retry
from poundcake.trail.queries.rows import format_optional
from poundcake.trail.recorded_alert import find_alert
from poundcake.trail.schema import alerts, api_calls, executions, links


@dataclass(frozen=True)
class AlertDetails:
    """An alert with its original text, for the workflow that handles it.

    The attributes are columns of poundcake_alerts and of its request, except for
    `incident_ended_at` and `retry_at`. The `silenced_*` values are those of the episode's open
    incident.

    Attributes:
        incident_ended_at: When the incident that it opened ended, or None while it is open.
        silenced_by: Who silenced the open incident's alert in Alertmanager, or empty.
        silenced_until: When that silence ends.
        silenced_comment: Why it was silenced, or empty.
        retry_at: When sync will retry a refused change for the episode, or None if it will not.
    """

    request_id: str
    episode: str
    fingerprint: str
    status: str
    outcome: str
    alert_name: str
    severity: str
    instance: str
    labels: dict[str, str]
    annotations: dict[str, str]
    generator_url: str
    receiver: str
    starts_at: datetime | None
    ends_at: datetime | None
    incident_ended_at: datetime | None
    silenced_by: str = ""
    silenced_until: datetime | None = None
    silenced_comment: str = ""
    retry_at: datetime | None = None

    def as_json(self) -> dict[str, Any]:
        """Return the result of the action get_alert."""
        times = ("starts_at", "ends_at", "incident_ended_at", "silenced_until", "retry_at")
        return {**asdict(self), **{name: format_optional(getattr(self, name)) for name in times}}


def find_episode_alert(connection: Connection, episode: str) -> AlertDetails | None:
    """Return the newest firing alert of an episode, preferably one that was emitted.

    If the episode has no firing alert, return its newest alert, preferably one that was emitted.

    Args:
        connection: A transaction.
        episode: The name of the episode, or the beginning of it.

    Raises:
        FilterError: Episodes of several alerts begin with `episode`.
    """
    name = short_ids.find_episode(connection, episode)
    request_id = connection.scalar(
        select(api_calls.c.request_id)
        .join(alerts, alerts.c.api_call_id == api_calls.c.id)
        .where(alerts.c.episode == name)
        .order_by(
            (alerts.c.status == FIRING).desc(),
            alerts.c.outcome.in_(EMITTED).desc(),
            alerts.c.id.desc(),
        )
        .limit(1)
    )
    return alert_details(connection, request_id, name) if name and request_id else None


def has_ended_work(connection: Connection, alert: AlertDetails) -> bool:
    """Return True if executions have worked on an alert and ended, and nothing starts again."""
    statuses = connection.scalars(
        select(executions.c.status)
        .select_from(links)
        .join(alerts, alerts.c.id == links.c.alert_id)
        .join(api_calls, api_calls.c.id == alerts.c.api_call_id)
        .join(executions, executions.c.id == links.c.st2_execution_id, isouter=True)
        .where(api_calls.c.request_id == alert.request_id, alerts.c.episode == alert.episode)
    ).all()
    return (
        bool(statuses)
        and all(status in TERMINAL for status in statuses)
        and alert.incident_ended_at is None
        and alert.retry_at is None
    )


def alert_details(connection: Connection, request_id: str, episode: str) -> AlertDetails | None:
    """Return the alert of an episode in a request, or None if it is not recorded."""
    columns = (alerts, api_calls.c.request_id, api_calls.c.receiver)
    row = find_alert(connection, request_id, episode, *columns)
    if row is None:
        return None
    open_incident = connection.execute(
        select(alerts.c.silenced_by, alerts.c.silenced_until, alerts.c.silenced_comment)
        .where(alerts.c.episode == episode, is_open())
        .limit(1)
    ).one_or_none()
    return AlertDetails(
        request_id=row.request_id,
        episode=row.episode,
        fingerprint=row.fingerprint,
        status=row.status,
        outcome=row.outcome,
        alert_name=row.alert_name,
        severity=row.severity,
        instance=row.instance,
        labels=json.loads(row.labels),
        annotations=json.loads(row.annotations),
        generator_url=row.generator_url or "",
        receiver=row.receiver or "",
        starts_at=row.starts_at,
        ends_at=row.ends_at or (row.created_at if row.status == RESOLVED else None),
        incident_ended_at=find_incident_end(connection, row),
        silenced_by=(open_incident.silenced_by if open_incident else None) or "",
        silenced_until=open_incident.silenced_until if open_incident else None,
        silenced_comment=(open_incident.silenced_comment if open_incident else None) or "",
        retry_at=find_retry(connection, episode),
    )
