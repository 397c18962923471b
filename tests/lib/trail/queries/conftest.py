"""Provide a trail with data for each view."""

from __future__ import annotations

import pytest

from tests.lib.samples import alert, later
from tests.lib.trails import record, record_execution


@pytest.fixture
def sample_request_id(engine):
    """Return the id of a request with an alert of each kind, one of which was remediated."""
    record(engine, alert("Old", fingerprint="old"))
    request_id = record(
        engine,
        alert("New", fingerprint="new"),
        alert("Old", fingerprint="old"),
        alert("Old", status="resolved", ends_at=later(30), fingerprint="old"),
        {"labels": {"alertname": "Broken"}, "status": "?"},
        received_at=later(60),
        truncatedAlerts=22,
    )
    record_execution(engine, request_id, "new-1768392000000")
    return request_id
