"""Situations in which only the alert and its incident can prevent a change."""

from __future__ import annotations

from poundcake.hosts import host_from_labels
from poundcake.timestamps import parse_timestamp
from poundcake.trail.limits import Situation
from tests.lib.samples import NOON


def situation_reader(labels, status="firing", ended_at=None):
    """Return a function that returns the situation for any request."""

    def read(request):
        return Situation(
            now=NOON,
            named_host=labels.get("instance", ""),
            status=status,
            incident_ended_at=parse_timestamp(ended_at or ""),
            target=host_from_labels(labels, "instance"),
        )

    return read
