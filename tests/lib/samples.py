"""Webhooks and requests for tests."""

from __future__ import annotations

import datetime
import json
import uuid

from poundcake import alertmanager
from poundcake.announcement import Request

UTC = datetime.timezone.utc
WAITING_ID = "3a6f3c9e-8a0c-4b57-9d3a-5a2f0d6f1c11"
"""The id of the request that waiting_requests() returns by default."""
NOON = datetime.datetime(2026, 1, 14, 12, 0, tzinfo=UTC)
# The delimiters that start a Jinja or YAQL expression in StackStorm.
DELIMITERS = ("{{", "{%", "{#", "<%")
# Blank or invisible characters that str.isprintable() accepts.
BLANKS = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
_SUBSTITUTES = {"{": "(", "}": ")", "<": "‹", ">": "›", '"': "”", "'": "’", "\\": "/"}


def as_inert(value):
    """Return the inert form of a value, as in a trigger and in the result of an action."""
    if isinstance(value, str):
        return "".join(map(_inert_character, value, [*value[1:], ""]))
    if isinstance(value, dict):
        return {as_inert(key): as_inert(inner) for key, inner in value.items()}
    return [as_inert(inner) for inner in value] if isinstance(value, list) else value


def _inert_character(character, next_character):
    if character == next_character == "*":
        return "∗"
    if not character.isprintable() or character in BLANKS:
        return " "
    return _SUBSTITUTES.get(character, character)


_fingerprint = alertmanager.fingerprint


def readable_fingerprint(labels, source=""):
    """Return the label `id`, or the real fingerprint of a label set without one."""
    return labels.get("id") or _fingerprint(labels, source)


# The columns that users of the first version select.
FIRST_COLUMNS = {
    "poundcake_api_calls": "id request_id method path headers body status_code created_at"
    " completed_at",
    "poundcake_alerts": "id api_call_id fingerprint alert_name severity instance labels"
    " annotations st2_rule_matched created_at",
    "poundcake_st2_execution_link": "id request_id alert_id st2_execution_id st2_rule_ref"
    " st2_action_ref created_at",
    "execution_db": "id action status start_timestamp end_timestamp",
}


def later(seconds):
    return NOON + datetime.timedelta(seconds=seconds)


def iso(moment):
    return moment.isoformat().replace("+00:00", "Z")


def alert(name="HostDown", status="firing", starts_at=NOON, ends_at=None, **other_fields):
    """Return an alert as Alertmanager writes it, with the given labels and other fields.

    If `fingerprint` is given, it also becomes the label `id`, because the pack identifies alerts by
    their labels. readable_fingerprint() returns that label.
    """
    labels = {"alertname": name, "instance": "web-1:9100", "severity": "critical"}
    if other_fields.get("fingerprint"):
        labels["id"] = other_fields["fingerprint"]
    labels.update(other_fields.pop("labels", {}))
    fields = {
        "status": status,
        "labels": labels,
        "annotations": {"summary": "down"},
        "startsAt": iso(starts_at) if starts_at else None,
        "endsAt": iso(ends_at) if ends_at else "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus.example/graph",
    }
    fields.update(other_fields)
    return fields


def webhook(*alerts, **other_fields):
    """Return the payload of a webhook."""
    fields = {
        "version": "4",
        "groupKey": '{}:{alertname="HostDown"}',
        "truncatedAlerts": 0,
        "status": "firing",
        "receiver": "poundcake",
        "groupLabels": {},
        "commonLabels": {},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager.example",
        "alerts": list(alerts),
    }
    fields.update(other_fields)
    return fields


def unique_body():
    """Return the body of a webhook that no other test sends."""
    return json.dumps(webhook(alert(labels={"instance": str(uuid.uuid4())}))).encode()


def request(*alerts, received_at=NOON, request_id=None, body=None, headers=None, **webhook_fields):
    """Return a request as the journal announces it."""
    return Request(
        request_id=request_id or str(uuid.uuid4()),
        received_at=received_at,
        client_host="192.0.2.7",
        client_request_id="",
        method="POST",
        path="/api/v1/webhook",
        headers={"User-Agent": "Alertmanager/0.25"} if headers is None else headers,
        body=json.dumps(webhook(*alerts, **webhook_fields)) if body is None else body,
    )


def waiting_requests(received_at, request_id=WAITING_ID, **changes):
    """Return the answer to GET /api/v1/requests/waiting for one request with one alert.

    Args:
        received_at: When the request was received, as a text.
        request_id: Its id.
        changes: The fields of the request and of its alert that differ from those of a firing
            HostDown that waits for RabbitMQ.
    """
    request = {
        "request_id": request_id,
        "received_at": received_at,
        "status": "accepted",
        "attempts": 1,
        "stuck": False,
        "blocked_by": "broker: connection refused",
    }
    alert_fields = {
        "alert_name": "HostDown",
        "severity": "critical",
        "instance": "web-1",
        "status": "firing",
        "fingerprint": "d88b5ff5c97b3c66",
        "labels": {},
        "summary": "",
        "runbook_url": "",
    }
    for name, value in changes.items():
        fields = alert_fields if name in alert_fields else request
        assert name in fields, name
        fields[name] = value
    return {"requests": [{**request, "alerts": [alert_fields]}], "count": 1}
