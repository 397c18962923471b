"""The names and the payloads of the triggers.

sensors/alertmanager_sensor.yaml describes the payloads to StackStorm. Every string in them is inert
(see `inert`), and missing fields are empty strings, never null.
"""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any, Sequence, TypedDict

from poundcake.alertmanager import FIRING
from poundcake.endpoint.recorded import LimitedAlert, RecordedAlert, RecordedRequest, Summary
from poundcake.inert import make_inert
from poundcake.remediations import Remediation, first_match
from poundcake.timestamps import format_timestamp
from poundcake.trail.outbox import (
    Event,
    Limit,
    LimitReachedPayload,
    describe_limit,
    event_id,
    show_command,
)

ANNOUNCE = "poundcake.announce"
WEBHOOK = "poundcake.webhook"
ALERT = "poundcake.alert"
LIMIT_REACHED = "poundcake.limit_reached"
SYNC_DUE = "poundcake.sync_due"


class WebhookPayload(TypedDict):
    """The payload of poundcake.webhook: a request was recorded, with these alert outcomes."""

    request_id: str
    receiver: str
    group_status: str
    alerts_received: int
    outcomes: dict[str, int]


class AlertPayload(TypedDict):
    """The payload of poundcake.alert: an alert may be remediated, or was resolved."""

    request_id: str
    episode: str
    status: str
    alert_name: str
    severity: str
    instance: str
    host: str
    job: str
    labels: dict[str, str]
    receiver: str
    starts_at: str
    ends_at: str
    remediation: str


class SyncDuePayload(TypedDict):
    """The payload of poundcake.sync_due: how much work is open."""

    open: int


def webhook_payload(request: RecordedRequest, summary: Summary) -> WebhookPayload:
    """Return the payload of poundcake.webhook."""
    payload: WebhookPayload = make_inert(
        WebhookPayload(
            request_id=request.request_id,
            receiver=request.receiver,
            group_status=request.group_status,
            alerts_received=sum(summary.outcomes.values()),
            outcomes=dict(summary.outcomes),
        )
    )
    return payload


def alert_payload(
    request: RecordedRequest, alert: RecordedAlert, remediations: Sequence[Remediation] = ()
) -> AlertPayload:
    """Return the payload of poundcake.alert.

    Args:
        request: The request that contained the alert.
        alert: The alert.
        remediations: The configured remediations. They are matched against the labels as sent,
            and only for a firing alert.

    Raises:
        ValueError: The labels cannot be read.
    """
    labels = json.loads(alert.labels)
    matching_entry = first_match(remediations, labels) if alert.status == FIRING else None
    payload: AlertPayload = make_inert(
        AlertPayload(
            request_id=request.request_id,
            episode=alert.episode,
            status=alert.status,
            alert_name=alert.alert_name,
            severity=alert.severity,
            instance=alert.instance,
            host=alert.host,
            job=labels.get("job", ""),
            labels=labels,
            receiver=request.receiver,
            starts_at=_timestamp_or_empty(alert.starts_at),
            ends_at=_timestamp_or_empty(alert.ends_at),
            remediation=matching_entry.name if matching_entry else "",
        )
    )
    return payload


def limit_reached_payload(request: RecordedRequest, alert: LimitedAlert) -> LimitReachedPayload:
    """Return the payload of poundcake.limit_reached for max_remediations_per_hour."""
    limit = Limit.RATE_LIMIT
    payload: LimitReachedPayload = make_inert(
        LimitReachedPayload(
            event_id=event_id(f"{limit}|{request.request_id}|{alert.alert_name}"),
            time=_timestamp_or_empty(alert.created_at),
            summary=describe_limit(limit, alert.alert_name),
            command=show_command(alert.episode),
            request_id=request.request_id,
            episode=alert.episode,
            alert_name=alert.alert_name,
            severity=alert.severity,
            instance=alert.instance,
            host=alert.host,
            remediation="",
            limit=str(limit),
            reason=alert.reason,
            until=_timestamp_or_empty(alert.held_until),
        )
    )
    return payload


def event_payload(event: Event) -> dict[str, Any]:
    """Return the payload of the trigger of an event."""
    payload: dict[str, Any] = make_inert(dict(event.payload))
    return payload


def _timestamp_or_empty(moment: datetime | None) -> str:
    return format_timestamp(moment) if moment else ""
