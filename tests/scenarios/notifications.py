"""Notifications as Alertmanager sends them. Every alert made here is a new one."""

import uuid
from datetime import datetime, timedelta, timezone

# Alertmanager's "not yet".
ZERO_TIME = "0001-01-01T00:00:00Z"


def ago(minutes=0.0):
    """A time of so many minutes ago, as Prometheus writes it."""
    moment = datetime.now(timezone.utc) - timedelta(minutes=minutes)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def unique(word):
    """A name of this run alone, which still begins with what a rule looks for."""
    return f"{word}-{uuid.uuid4().hex[:12]}"


def alert(name, minutes=10, labels=None, annotations=None, **more):
    """A firing alert that began so many minutes ago; its name is made unique."""
    host = unique("host") + ".invalid"
    found = {
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
        "fingerprint": uuid.uuid4().hex[:16],
    }
    found["labels"].update(labels or {})
    found["annotations"].update(annotations or {})
    found.update(more)
    return found


def resolved(firing, minutes=5):
    """The end of an alert, so many minutes ago."""
    return dict(firing, status="resolved", endsAt=ago(minutes))


def notification(*alerts, **more):
    """One group, as one POST brings it."""
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
        "groupKey": '{{}}:{{alertname="{}"}}'.format(unique("Scenario")),
        "truncatedAlerts": 0,
    }
    group.update(more)
    return group


def name_of(found):
    return found["labels"]["alertname"]
