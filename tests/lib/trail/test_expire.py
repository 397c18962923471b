"""Incidents without recent notifications expire if `expire_stale_hours` is set."""

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


def count_open_work(trail, hours):
    with database.reading(trail.engine) as connection:
        return open_work(connection, hours).count


@pytest.mark.parametrize(
    "hours, silent_hours, expired",
    [(0, 999, 0), (3, 3.1, 1), (3, 2.9, 0)],
    ids=["off", "stale", "not stale"],
)
def test_an_incident_expires_after_its_last_notification(trail, hours, silent_hours, expired):
    trail.record(alert(), seconds=1000 * HOUR)
    trail.record(alert(), seconds=silent_hours * HOUR)
    for name, seconds in (("Recent", 2 * HOUR), ("Newest", 1)):
        trail.record(alert(name), seconds=seconds)
    trail.change(alerts, explanation="execution")
    trail.sync()
    for count in (count_open_work(trail, hours), trail.sync(expire_stale_hours=hours).expired):
        assert count == expired
    assert trail.sync(expire_stale_hours=hours).expired == 0
    row = trail.rows(alerts)[0]
    assert (row.ended_by, bool(row.closed_at)) == (("expired", True) if expired else (None, False))
    assert trail.rows(alerts)[-1].open_fingerprint


def test_an_alert_that_fires_after_the_expiry_opens_another_incident(trail):
    _, (first,) = trail.record(alert(), seconds=10 * HOUR)
    for seconds in (2 * HOUR, 1):
        trail.record(alert("Other"), seconds=seconds)
    trail.sync(expire_stale_hours=9)
    _, (refire,) = trail.record(alert(), seconds=1)
    assert (refire.outcome, refire.reason) == ("admitted", "new incident")
    assert refire.episode != first.episode
    assert ago(60) < trail.rows(alerts)[0].closed_at


class TestOutage:
    """If an incident expired during an outage, its alert would be remediated again."""

    def test_nothing_expires_while_no_notifications_arrive(self, trail):
        trail.record(alert(), seconds=100 * HOUR)
        trail.record(alert("Other"), seconds=90 * HOUR)
        trail.change(alerts, explanation="execution")
        trail.sync()
        assert (count_open_work(trail, 24), trail.sync(expire_stale_hours=24).expired) == (0, 0)

    def test_the_first_webhook_after_an_outage_closes_no_other_incident(self, trail):
        trail.record(alert(), seconds=100 * HOUR)
        for seconds in (59 * 60, 1):
            trail.record(alert("Other"), seconds=seconds)
        assert trail.sync(expire_stale_hours=24).expired == 0
        _, (repeat,) = trail.record(alert(), seconds=0)
        assert repeat.outcome == "duplicate"

    def test_no_incident_expires_while_the_journal_still_has_its_notifications(self, trail):
        """The database was unavailable for two days. Each alert was repeated every four hours."""
        for hours in range(56, 0, -4):
            for name in ("One", "Two"):
                _, (row,) = trail.record(alert(name), seconds=hours * HOUR)
                assert row.outcome == ("admitted" if hours == 56 else "duplicate")
                assert trail.sync(expire_stale_hours=24).expired == 0

    def test_a_stale_incident_expires_once_other_webhooks_arrive_again(self, trail):
        trail.record(alert(), seconds=100 * HOUR)
        for seconds in (2 * HOUR, 1):
            trail.record(alert("Other"), seconds=seconds)
        assert trail.sync(expire_stale_hours=24).expired == 1
