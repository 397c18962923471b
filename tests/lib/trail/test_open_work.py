"""Work that still waits for StackStorm."""

from __future__ import annotations

import pytest

from poundcake.trail import claims, database
from poundcake.trail.open_work import open_work
from poundcake.trail.schema import alerts, api_calls, executions
from tests.lib.samples import alert
from tests.lib.sync_trail import SyncTrail, ago
from tests.lib.trails import STATUSES


@pytest.fixture
def trail(engine):
    return SyncTrail(engine)


def read_open_work(trail):
    with database.reading(trail.engine) as connection:
        return open_work(connection)


def test_no_open_work(trail):
    found = read_open_work(trail)
    assert (found.count, found.can_proceed_unattended, found.synced_at) == (0, True, None)


def test_an_alert_without_an_explanation(trail):
    trail.record(alert())
    assert read_open_work(trail).count == 1 and read_open_work(trail).can_proceed_unattended


@pytest.mark.parametrize("status", STATUSES)
def test_an_execution(trail, status):
    request_id, (row,) = trail.record(alert())
    claims.link(trail.engine, request_id, row.episode, "pack.workflow", "e1")
    trail.change(alerts, explanation="execution")
    trail.change(executions, status=status)
    found = read_open_work(trail)
    # The request is open until sync completes it.
    assert found.count == 1
    assert found.can_proceed_unattended is (status not in ("pending", "paused", "pausing"))


@pytest.mark.parametrize("acknowledged, count", [(None, 1), (ago(1), 0)])
def test_an_unconfirmed_incident_that_sync_may_admit(trail, acknowledged, count):
    trail.record(alert(), seconds=50)
    trail.change(alerts, outcome="unconfirmed", explanation="none", acknowledged_at=acknowledged)
    trail.change(api_calls, completed_at=ago(1))
    assert (read_open_work(trail).count, read_open_work(trail).can_proceed_unattended) == (
        count,
        True,
    )


def test_the_time_of_the_query(trail):
    trail.sync()
    found = read_open_work(trail)
    assert ago(60) < found.synced_at <= found.read_at
