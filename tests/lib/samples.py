"""Webhooks and requests to test with."""

from __future__ import annotations

import datetime
import json
import uuid

from poundcake.announcement import Request

UTC = datetime.timezone.utc
NOON = datetime.datetime(2026, 1, 14, 12, 0, tzinfo=UTC)
# All that StackStorm's Jinja and YAQL take for the beginning of something.
DELIMITERS = ("{{", "{%", "{#", "<%")
_SUBSTITUTES = {"{": "(", "}": ")", "<": "‹", ">": "›", '"': "”", "'": "’", "\\": "/"}


def as_inert(value):
    """Return what a trigger and the result of an action have where the tables have this value."""
    if isinstance(value, str):
        following = [*value[1:], ""]
        return "".join(
            "∗"
            if character == after == "*"
            else _SUBSTITUTES.get(character, character)
            if character.isprintable()
            else " "
            for character, after in zip(value, following)
        )
    if isinstance(value, dict):
        return {as_inert(key): as_inert(inner) for key, inner in value.items()}
    return [as_inert(inner) for inner in value] if isinstance(value, list) else value


def later(seconds):
    return NOON + datetime.timedelta(seconds=seconds)


def iso(moment):
    return moment.isoformat().replace("+00:00", "Z")


def alert(name="HostDown", status="firing", starts_at=NOON, ends_at=None, **more):
    """One alert as Alertmanager writes it; labels and whatever else may be given."""
    labels = {"alertname": name, "instance": "web-1:9100", "severity": "critical"}
    labels.update(more.pop("labels", {}))
    found = {
        "status": status,
        "labels": labels,
        "annotations": {"summary": "down"},
        "startsAt": iso(starts_at) if starts_at else None,
        "endsAt": iso(ends_at) if ends_at else "0001-01-01T00:00:00Z",
        "generatorURL": "http://prometheus.example/graph",
    }
    found.update(more)
    return found


def webhook(*alerts, **more):
    """The payload of a webhook."""
    found = {
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
    found.update(more)
    return found


def request(*alerts, received_at=NOON, request_id=None, body=None, headers=None, **more):
    """A request as the journal announces it."""
    return Request(
        request_id=request_id or str(uuid.uuid4()),
        received_at=received_at,
        client_host="192.0.2.7",
        client_request_id="",
        method="POST",
        path="/api/v1/webhook",
        headers={"User-Agent": "Alertmanager/0.25"} if headers is None else headers,
        body=json.dumps(webhook(*alerts, **more)) if body is None else body,
    )
