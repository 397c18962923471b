"""Notifications as Alertmanager sends them. Each call returns a new alert."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta, timezone

# Alertmanager sends this if a time is unknown.
ZERO_TIME = "0001-01-01T00:00:00Z"


def ago(minutes=0.0):
    """Return the time some minutes ago, as Prometheus writes it."""
    moment = datetime.now(timezone.utc) - timedelta(minutes=minutes)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def unique(word):
    """Return a unique name that begins with this word, so that a rule can match its start."""
    return f"{word}-{uuid.uuid4().hex[:12]}"


def alert(name, minutes=10, labels=None, annotations=None, **fields):
    """Return a firing alert with a unique name that started some minutes ago."""
    host = unique("host") + ".invalid"
    new_alert = {
        "status": "firing",
        "labels": {
            "alertname": unique(name),
            "instance": host + ":9100",
            "job": "node",
            "severity": "critical",
        },
        "annotations": {"summary": name + " on " + host},
        "startsAt": ago(minutes),
        "endsAt": ZERO_TIME,
        "generatorURL": "http://prometheus.example.org/graph?g0.expr=up+%3D%3D+0",
    }
    new_alert["labels"].update(labels or {})
    new_alert["annotations"].update(annotations or {})
    # Unlike Alertmanager, a test may send labels that are not strings.
    text_labels = {
        name: text for name, text in new_alert["labels"].items() if isinstance(text, str)
    }
    new_alert["fingerprint"] = fingerprint(text_labels)
    new_alert.update(fields)
    return new_alert


def fingerprint(labels):
    """Return Alertmanager's fingerprint of a label set: 64-bit FNV-1a."""
    digest = 0xCBF29CE484222325
    for part in (text for name in sorted(labels) for text in (name, labels[name])):
        for byte in part.encode("utf-8", "surrogatepass") + b"\xff":
            digest = ((digest ^ byte) * 0x100000001B3) % (1 << 64)
    return f"{digest:016x}"


def resolved(firing, minutes=5):
    """Return the resolved form of an alert that ended some minutes ago."""
    return dict(firing, status="resolved", endsAt=ago(minutes))


def notification(*alerts, **fields):
    """Return the payload of a notification about a group of alerts."""
    firing = any(not isinstance(a, dict) or a.get("status") != "resolved" for a in alerts)
    group = {
        "receiver": "poundcake",
        "status": "firing" if firing else "resolved",
        "alerts": list(alerts),
        "groupLabels": {},
        "commonLabels": {},
        "commonAnnotations": {},
        "externalURL": "http://alertmanager.example.org",
        "version": "4",
        "groupKey": f'{{}}:{{alertname="{unique("Scenario")}"}}',
        "truncatedAlerts": 0,
    }
    group.update(fields)
    return group


def name_of(alert_fields):
    """Return the name of an alert."""
    return alert_fields["labels"]["alertname"]
