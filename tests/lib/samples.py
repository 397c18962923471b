"""Webhooks and requests for tests."""

from __future__ import annotations

import datetime
import json
import uuid

from poundcake import alertmanager
from poundcake.announcement import Request

UTC = datetime.timezone.utc
NOON = datetime.datetime(2026, 1, 14, 12, 0, tzinfo=UTC)
# All delimiters with which an expression of StackStorm's Jinja and YAQL begins.
DELIMITERS = ("{{", "{%", "{#", "<%")
# Characters that are blank or invisible, although str.isprintable() accepts them.
BLANKS = "\u034f\u115f\u1160\u17b4\u17b5\u180b\u180c\u180d\u180f\u2800\u3164\uffa0"
_SUBSTITUTES = {"{": "(", "}": ")", "<": "‹", ">": "›", '"': "”", "'": "’", "\\": "/"}


def as_inert(value):
    """Return the inert form of a value, as in a trigger and in the result of an action."""
    if isinstance(value, str):
        following = [*value[1:], ""]
        return "".join(
            "∗"
            if character == after == "*"
            else _SUBSTITUTES.get(character, character)
            if character.isprintable() and character not in BLANKS
            else " "
            for character, after in zip(value, following)
        )
    if isinstance(value, dict):
        return {as_inert(key): as_inert(inner) for key, inner in value.items()}
    return [as_inert(inner) for inner in value] if isinstance(value, list) else value


_fingerprint = alertmanager.fingerprint


def readable_fingerprint(labels, source=""):
    """Return the label `id` of a label set that has one, and otherwise its fingerprint."""
    return labels.get("id") or _fingerprint(labels, source)


def later(seconds):
    return NOON + datetime.timedelta(seconds=seconds)


def iso(moment):
    return moment.isoformat().replace("+00:00", "Z")


def alert(name="HostDown", status="firing", starts_at=NOON, ends_at=None, **other_fields):
    """Return an alert as Alertmanager writes it, with the given labels and other fields.

    An alert with a fingerprint also gets a label `id`, because it would otherwise be the same alert
    as all others with its name. Tests find it by that fingerprint, see readable_fingerprint().
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
