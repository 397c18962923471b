"""The rows of recorded requests and alerts. Their fields are named after the columns."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from poundcake.alertmanager import Alert, Webhook
from poundcake.announcement import Request
from poundcake.hosts import host_from_labels
from poundcake.timestamps import format_timestamp
from poundcake.trail.admission import Decision, plausible_start
from poundcake.trail.outcomes import EMITTED, EndedBy, Explanation, Outcome
from poundcake.trail.schema import alerts, api_calls, cut, storable, to_json

# Errors and URLs are cut to this many characters, because they can be arbitrarily long.
_ERROR_LENGTH = 4_000
_URL_LENGTH = 16_000


@dataclass
class CallRow:
    """A row of poundcake_api_calls."""

    request_id: str
    method: str
    path: str
    headers: str
    body: str
    status_code: int
    created_at: datetime
    completed_at: datetime | None
    client_request_id: str | None
    client_host: str
    receiver: str | None
    group_key: str | None
    group_status: str | None
    truncated_alerts: int
    delivery_key: str | None
    body_sha256: str
    replay_of: str | None
    error: str | None
    credential: str


@dataclass
class AlertRow:
    """A row of poundcake_alerts. `api_call_id` is set once the request's row is written."""

    position: int
    fingerprint: str
    alert_name: str
    severity: str
    instance: str
    labels: str
    annotations: str
    generator_url: str
    status: str
    starts_at: datetime | None
    ends_at: datetime | None
    created_at: datetime
    recorded_at: datetime
    episode: str | None
    outcome: Outcome
    reason: str
    explanation: Explanation | None
    open_fingerprint: str | None
    last_seen_at: datetime
    notifications: int
    closed_at: datetime | None
    attempt: int
    held_until: datetime | None
    sender_fingerprint: str | None
    sender_starts_at: datetime | None
    host: str
    notes: str | None
    external_url: str
    ended_by: EndedBy | None = None
    api_call_id: int = 0


def call_row(
    request: Request,
    request_id: str,
    sha256: str,
    webhook: Webhook | None,
    completed_at: datetime | None,
    replay_of: str | None,
    error: str,
) -> CallRow:
    """Return the row of a request.

    Args:
        request: The announced request.
        request_id: The id under which it is recorded.
        sha256: The SHA-256 of its body.
        webhook: Its payload, or None if the payload cannot be parsed or recorded.
        completed_at: When it was completed, or None while one of its alerts is unexplained.
        replay_of: The id of the request that it replays, or None.
        error: Why it is recorded without its alerts, or empty.
    """
    client_request_id = request.client_request_id
    if request_id != request.request_id:
        client_request_id = client_request_id or request.request_id
    return CallRow(
        request_id=request_id,
        method=cut(request.method, api_calls.c.method),
        path=cut(request.path, api_calls.c.path),
        headers=to_json(request.headers),
        body=storable(request.body),
        status_code=202,
        created_at=request.received_at,
        completed_at=completed_at,
        client_request_id=cut(client_request_id, api_calls.c.client_request_id) or None,
        client_host=cut(request.client_host, api_calls.c.client_host),
        receiver=cut(webhook.receiver, api_calls.c.receiver) if webhook else None,
        group_key=storable(webhook.group_key) if webhook else None,
        group_status=cut(webhook.group_status, api_calls.c.group_status) if webhook else None,
        truncated_alerts=webhook.truncated_alerts if webhook else 0,
        delivery_key=webhook.delivery_key if webhook else None,
        body_sha256=sha256,
        replay_of=replay_of,
        error=storable(error)[:_ERROR_LENGTH] or None,
        credential=cut(request.credential, api_calls.c.credential),
    )


def alert_row(
    alert: Alert,
    decision: Decision,
    received_at: datetime,
    now: datetime,
    host_label: str,
    external_url: str,
) -> AlertRow:
    """Return the row of an alert.

    Args:
        alert: The alert, as its sender sent it.
        decision: The decision about it.
        received_at: When its request was received.
        now: The current time by the database's clock.
        host_label: The name of the label that contains the alert's host.
        external_url: The external URL of the sender.
    """
    return AlertRow(
        position=alert.position,
        fingerprint=alert.fingerprint,
        alert_name=cut(alert.name, alerts.c.alert_name),
        severity=cut(alert.severity, alerts.c.severity),
        instance=cut(alert.instance, alerts.c.instance),
        labels=to_json(alert.labels),
        annotations=to_json(alert.annotations),
        generator_url=storable(alert.generator_url)[:_URL_LENGTH],
        status=cut(alert.status, alerts.c.status),
        starts_at=decision.starts_at or alert.starts_at,
        ends_at=alert.ends_at,
        created_at=received_at,
        recorded_at=now,
        episode=decision.episode or None,
        outcome=decision.outcome,
        reason=cut(decision.reason, alerts.c.reason),
        explanation=None if decision.outcome in EMITTED else Explanation.NOT_EMITTED,
        open_fingerprint=alert.fingerprint if decision.opens else None,
        last_seen_at=received_at,
        notifications=1,
        closed_at=None,
        attempt=decision.attempt,
        held_until=decision.held_until,
        sender_fingerprint=cut(alert.sender_fingerprint, alerts.c.sender_fingerprint) or None,
        sender_starts_at=plausible_start(alert, received_at),
        host=cut(host_from_labels(alert.labels, host_label), alerts.c.host),
        notes=cut(_notes(alert, received_at), alerts.c.notes) or None,
        external_url=cut(external_url, alerts.c.external_url),
    )


def _notes(alert: Alert, received_at: datetime) -> str:
    notes = [alert.notes] if alert.notes else []
    if alert.starts_at and alert.starts_at > received_at:
        notes.append(f"startsAt: in the future when received: {format_timestamp(alert.starts_at)}")
    return "; ".join(notes)
