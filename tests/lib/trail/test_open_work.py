"""Open work is everything that sync still has to complete."""

from __future__ import annotations

import pytest

from poundcake.trail import claims, database
from poundcake.trail.open_work import open_work
from poundcake.trail.outbox import ApprovalRequest, Ending, EndResult, add_approval_request
from poundcake.trail.schema import alerts, api_calls, events, executions
from tests.lib.samples import alert
from tests.lib.sync_trail import SyncTrail, ago
from tests.lib.trails import STATUSES


@pytest.fixture
def trail(engine):
    return SyncTrail(engine)


def read_open_work(trail):
    with database.reading(trail.engine) as connection:
        return open_work(connection)


def test_an_empty_trail_has_no_open_work(trail):
    work = read_open_work(trail)
    assert (work.count, work.can_proceed_unattended, work.synced_at) == (0, True, None)


def test_an_alert_without_an_explanation_is_open_work(trail):
    trail.record(alert())
    assert read_open_work(trail).count == 1 and read_open_work(trail).can_proceed_unattended


@pytest.mark.parametrize("status", STATUSES)
def test_a_paused_execution_cannot_proceed_unattended(trail, status):
    request_id, (row,) = trail.record(alert())
    claims.link(trail.engine, request_id, row.episode, "pack.workflow", "e1")
    trail.change(alerts, explanation="execution")
    trail.change(executions, status=status)
    work = read_open_work(trail)
    # The request stays open until sync completes it.
    assert work.count == 1
    assert work.can_proceed_unattended is (status not in ("pending", "paused", "pausing"))


@pytest.mark.parametrize("minutes, is_due", [(29, False), (31, True), (39, True), (41, False)])
def test_an_expired_approval_needs_a_round_of_sync(trail, minutes, is_due):
    request_id, (row,) = trail.record(alert())
    claims.link(trail.engine, request_id, row.episode, "pack.workflow", "e1")
    trail.change(alerts, explanation="execution")
    trail.change(executions, status="pending")
    approval = ApprovalRequest(
        "i1", request_id, row.episode, "e1", "nginx", "a change", ["anna"], until=""
    )
    with database.transaction(trail.engine) as connection:
        add_approval_request(connection, approval)
    trail.change(events, at=ago(minutes * 60))
    assert read_open_work(trail).can_proceed_unattended is is_due


@pytest.mark.parametrize("acknowledged, count", [(None, 1), (ago(1), 0)])
def test_an_unconfirmed_incident_is_open_work_unless_it_is_acknowledged(trail, acknowledged, count):
    trail.record(alert(), seconds=50)
    trail.change(alerts, outcome="unconfirmed", explanation="none", acknowledged_at=acknowledged)
    trail.change(api_calls, completed_at=ago(1))
    assert (read_open_work(trail).count, read_open_work(trail).can_proceed_unattended) == (
        count,
        True,
    )


def test_open_work_has_the_times_of_the_last_sync_and_of_the_query(trail):
    trail.sync()
    work = read_open_work(trail)
    assert ago(60) < work.synced_at <= work.read_at


class TestOnlyNeedsConfirmation:
    """Sync waits while everything that is open has recorded its own result."""

    def read(self, trail):
        return read_open_work(trail).only_needs_confirmation

    def end(self, trail, request_id, episode, execution_id="e1"):
        """Link an execution that ends without a change, as poundcake.begin does."""
        ending = Ending(EndResult.EVIDENCE, request_id, episode, execution_id, "r")
        claims.link_ended(trail.engine, "poundcake.host_down", ending)

    def test_nothing_needs_confirmation_while_nothing_is_open(self, trail):
        assert not self.read(trail)

    def test_a_recorded_result_waits(self, trail):
        request_id, (row,) = trail.record(alert(), seconds=60)
        self.end(trail, request_id, row.episode)
        assert self.read(trail)

    @pytest.mark.parametrize("seconds, expected", [(5, True), (11, False)])
    def test_an_alert_without_an_execution_waits_for_up_to_10_seconds(
        self, trail, seconds, expected
    ):
        trail.record(alert(), seconds=seconds)
        assert self.read(trail) is expected

    def test_one_alert_without_an_execution_is_enough(self, trail):
        request_id, (row, _) = trail.record(alert("A"), alert("B"), seconds=11)
        self.end(trail, request_id, row.episode)
        assert not self.read(trail)

    def test_an_execution_that_may_change_something_does_not_wait(self, trail):
        request_id, (row,) = trail.record(alert())
        claims.link(trail.engine, request_id, row.episode, "pack.workflow", "e1")
        assert not self.read(trail)

    def test_the_execution_of_an_explained_alert_waits_if_its_result_is_recorded(self, trail):
        request_id, (row,) = trail.record(alert())
        self.end(trail, request_id, row.episode)
        trail.change(alerts, explanation="execution")
        assert self.read(trail)
        trail.change(events, id="another")
        assert not self.read(trail)

    def test_a_request_that_sync_only_has_to_complete_does_not_wait(self, trail):
        trail.record(alert())
        trail.change(alerts, explanation="no_rule")
        assert read_open_work(trail).count == 1 and not self.read(trail)

    def test_other_work_for_sync_does_not_wait(self, trail):
        trail.record(alert())
        trail.change(alerts, outcome="unconfirmed")
        assert not self.read(trail)

    def test_open_incidents_that_are_compared_with_alertmanager_wait(self, trail):
        """They are compared at most once a minute anyway."""
        request_id, (row,) = trail.record(alert())
        self.end(trail, request_id, row.episode)
        with database.reading(trail.engine) as connection:
            assert open_work(connection, reconciles=True).only_needs_confirmation
