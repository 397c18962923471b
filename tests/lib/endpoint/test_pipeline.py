"""The steps of the pipeline work together, in one thread and despite wrong clocks."""

from __future__ import annotations

import pytest

from poundcake.endpoint import retry
from poundcake.endpoint.health import State
from poundcake.endpoint.triggers import ALERT, ANNOUNCE, SYNC_DUE
from poundcake.trail import database
from tests.lib.pipelines import Rig
from tests.lib.samples import alert
from tests.waiting import wait_for

HOURS = [-5, 5]


class TestThread:
    @pytest.fixture
    def rig(self, tmp_path, database_path, monkeypatch):
        monkeypatch.setattr(retry, "FAILURE_WAITS", (0.01, 0.05))
        rig = Rig(tmp_path, database_path)
        yield rig
        rig.close()

    def test_a_request_is_announced_recorded_and_emitted(self, rig):
        rig.start()
        request_id = rig.accept(alert())
        wait_for(lambda: rig.bus.payloads(ALERT))
        rig.wait_for_state(request_id, "recorded")

    def test_processing_continues_when_the_broker_returns(self, rig):
        rig.bus.is_down = True
        rig.start()
        request_id = rig.accept(alert())
        wait_for(lambda: rig.components.broker.state == State.DOWN)
        rig.bus.is_down = False
        rig.wait_for_state(request_id, "recorded")
        wait_for(lambda: rig.components.broker.state == State.OK)


class TestBroker:
    def test_the_broker_is_checked_at_the_start_without_a_request(self, rig):
        """The state used to be unknown until the first request."""
        rig.advance()
        assert rig.components.broker.state == State.OK
        assert rig.bus.published == []

    def test_an_unavailable_broker_is_reported_at_the_start(self, rig):
        rig.bus.is_down = True
        rig.advance()
        assert rig.components.broker.state == State.DOWN


class TestDatabase:
    def test_an_unavailable_database_is_reported_with_the_reason(self, rig, monkeypatch):
        def fail(*args):
            raise database.DatabaseError("unavailable")

        monkeypatch.setattr(rig.reader, "_read", fail)
        request_id = rig.accept(alert())
        rig.advance()
        assert (rig.components.database.state, rig.components.database.detail) == (
            "down",
            "unavailable",
        )
        monkeypatch.undo()
        assert rig.state(request_id) == "announced"

    def test_pending_migrations_are_shown_until_they_have_run(self, rig, monkeypatch):
        monkeypatch.setattr(database, "pending", lambda bind: "run st2 run poundcake.migrate")
        rig.advance()
        assert rig.pipeline.pending.migrations == "run st2 run poundcake.migrate"
        monkeypatch.setattr(database, "pending", lambda bind: "")
        rig.advance(31)
        assert rig.pipeline.pending.migrations == ""


class TestWallClock:
    """If the wall clock changes by hours, no request is processed too late or too early."""

    @pytest.mark.parametrize("hours", HOURS)
    def test_requests_are_still_announced_emitted_and_synced(self, rig, wall_clock, hours):
        first_id = rig.accept(alert("A", fingerprint="a"))
        rig.advance()
        wall_clock.offset = hours * 3600
        second_id = rig.accept(alert("B", fingerprint="b"))
        syncs_before = len(rig.bus.payloads(SYNC_DUE))
        rig.advance(11)
        assert rig.state(second_id) == "recorded"
        assert [p["alert_name"] for p in rig.bus.payloads(ALERT)] == ["A", "B"]
        rig.advance(retry.SYNC_CONFIRMATION_WAIT + 1)  # the database's clock stands still
        assert len(rig.bus.payloads(SYNC_DUE)) > syncs_before
        rig.set_explanation("retry")
        rig.advance(6)
        assert len(rig.bus.payloads(ALERT)) == 2  # the wait of 60 s is not over
        rig.advance(61)
        assert len(rig.bus.payloads(ALERT)) == 4
        rig.set_explanation("execution")
        rig.advance(6)
        assert {rig.state(first_id), rig.state(second_id)} == {"done"}

    @pytest.mark.parametrize("hours", HOURS)
    def test_an_unrecorded_batch_is_counted_as_missed_on_time(self, rig, wall_clock, hours):
        rig.bus.records = False
        rig.accept(alert())
        rig.advance()
        wall_clock.offset = hours * 3600
        rig.advance(20)
        assert rig.metrics.announcement_misses._value.get() == 0
        rig.advance(15)
        assert rig.metrics.announcement_misses._value.get() == 1
        assert len(rig.bus.payloads(ANNOUNCE)) == 1
        rig.advance(31)
        assert len(rig.bus.payloads(ANNOUNCE)) == 2

    @pytest.mark.parametrize("hours", HOURS)
    def test_waits_survive_a_restart(self, rig, wall_clock, hours):
        rig.accept(alert("A", fingerprint="a"))
        rig.advance()
        rig.set_explanation("retry")
        for _ in range(6):  # the waits are 60, 120, ... s, and the next one is an hour
            rig.advance(3600)
        emitted_count = len(rig.bus.payloads(ALERT))
        wall_clock.offset = hours * 3600
        rig.reopen().advance()
        rig.advance(600)
        assert len(rig.bus.payloads(ALERT)) == emitted_count
        for _ in range(6):
            rig.advance(600)
        assert len(rig.bus.payloads(ALERT)) == emitted_count + 1

    @pytest.mark.parametrize("hours", HOURS)
    def test_requests_announced_before_a_restart_are_announced_again_on_time(
        self, rig, wall_clock, hours
    ):
        rig.bus.records = False
        rig.accept(alert())
        rig.advance()
        wall_clock.offset = hours * 3600
        rig.reopen().advance(1)
        assert len(rig.bus.payloads(ANNOUNCE)) == 1
        rig.advance(40)
        rig.advance(40)
        assert len(rig.bus.payloads(ANNOUNCE)) == 2
