"""Incidents without notifications expire if that is configured."""

from __future__ import annotations

import pytest

from poundcake.trail import database
from poundcake.trail.open_work import open_work
from poundcake.trail.schema import alerts
from tests.lib.samples import alert
from tests.lib.sync_trail import SyncTrail, ago

HOUR = 3600


@pytest.fixture
def trail(engine):
    return SyncTrail(engine)


def work(trail, hours):
    with database.reading(trail.engine) as connection:
        return open_work(connection, hours).count


@pytest.mark.parametrize(
    "hours, heard, expired", [(0, 999, 0), (3, 3.1, 1), (3, 2.9, 0)], ids=["off", "stale", "not"]
)
def test_an_incident_expires_after_its_last_notification(trail, hours, heard, expired):
    trail.record(alert(), seconds=1000 * HOUR)
    trail.record(alert(), seconds=heard * HOUR)
    trail.record(alert("Young"), seconds=HOUR)
    trail.change(alerts, explanation="execution")
    trail.sync()
    for found in (work(trail, hours), trail.sync(expire_stale_hours=hours).expired):
        assert found == expired
    assert trail.sync(expire_stale_hours=hours).expired == 0
    row = trail.rows(alerts)[0]
    assert (row.ended_by, bool(row.closed_at)) == (("expired", True) if expired else (None, False))
    assert trail.rows(alerts)[-1].open_fingerprint


def test_an_alert_that_fires_after_the_expiry_opens_another_incident(trail):
    _, (first,) = trail.record(alert(), seconds=10 * HOUR)
    trail.sync(expire_stale_hours=9)
    _, (again,) = trail.record(alert(), seconds=1)
    assert (again.outcome, again.reason) == ("admitted", "new incident")
    assert again.episode != first.episode
    assert ago(60) < trail.rows(alerts)[0].closed_at
