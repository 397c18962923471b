"""Accepted requests are announced in batches until they are in the tracking database."""

from __future__ import annotations

import json
import random

import pytest

from poundcake import announcement
from poundcake.endpoint import announcer, retry
from poundcake.endpoint.health import State
from poundcake.endpoint.triggers import ANNOUNCE
from poundcake.stackstorm import StackStormError
from poundcake.trail import database
from poundcake.trail.schema import alerts, api_calls
from tests.lib.samples import alert


def unique_body(marker):
    return json.dumps({"alerts": [], "marker": marker})


def accept_requests(rig, count):
    return [rig.accept(body=unique_body(n)) for n in range(count)]


def batch_sizes(rig):
    return [len(batch) for batch in rig.bus.batches]


def batch_bodies(payload):
    return [r.body for r in announcement.unpack(payload["version"], payload["batch"])]


class TestBatches:
    def test_waiting_requests_are_announced_together(self, rig):
        ids = accept_requests(rig, 20)
        rig.advance()
        assert batch_sizes(rig) == [20]
        assert {rig.state(i) for i in ids} == {"done"}

    def test_a_batch_has_a_maximum_number_of_requests(self, rig, monkeypatch):
        monkeypatch.setattr(retry, "BATCH_REQUESTS", 8)
        accept_requests(rig, 20)
        rig.advance()
        assert batch_sizes(rig) == [8, 8, 4]

    def test_a_batch_has_a_maximum_size_and_a_larger_request_is_announced_alone(
        self, rig, monkeypatch
    ):
        monkeypatch.setattr(announcer, "BATCH_BYTES", 2000)
        texts = [
            "".join(chr(random.randrange(0x4E00, 0x9000)) for _ in range(n))
            for n in (5000, 100, 100, 100, 5000)
        ]
        bodies = [f'{{"alerts": [], "x": "{text}"}}' for text in texts]
        for body in bodies:
            rig.accept(body=body)
        rig.advance()
        for payload, batch in zip(rig.bus.payloads(ANNOUNCE), rig.bus.batches):
            assert len(payload["batch"]) <= 2000 or len(batch) == 1
        assert [body for batch in rig.bus.batches for body in batch] == bodies

    def test_one_batch_is_in_flight_and_later_requests_join_the_next(self, rig):
        rig.bus.records = False
        rig.accept(body=unique_body(0))
        rig.advance()
        for number in range(1, 6):
            rig.accept(body=unique_body(number))
        rig.advance()
        assert batch_sizes(rig) == [1]
        rig.bus.records = True
        rig.bus.record(rig.bus.payloads(ANNOUNCE)[0])
        rig.advance()
        assert batch_sizes(rig) == [1, 5]

    def test_a_batch_contains_the_id_of_the_database(self, rig):
        rig.accept()
        rig.advance()
        (payload,) = rig.bus.payloads(ANNOUNCE)
        assert payload["database_id"] == database.prepare(rig.engine)

    def test_nothing_is_announced_without_the_id_of_the_database(self, rig, monkeypatch):
        def fail(engine, create=True):
            raise database.DatabaseError("unavailable")

        prepare = database.prepare
        monkeypatch.setattr(database, "prepare", fail)
        request_id = rig.accept(alert())
        rig.advance()
        assert (rig.components.database.state, rig.bus.published) == (State.DOWN, [])
        monkeypatch.setattr(database, "prepare", prepare)
        rig.advance(60)
        assert rig.state(request_id) == "recorded"
        assert rig.components.database.state == State.OK

    def test_a_batch_announced_before_a_restart_is_not_announced_again(self, rig):
        rig.bus.records = False
        ids = [rig.accept(alert("A")), rig.accept(alert("B"))]
        rig.advance()
        for payload in rig.bus.payloads(ANNOUNCE):
            rig.bus.record(payload)
        rig.reopen().advance()
        assert {rig.state(i) for i in ids} == {"recorded"}
        assert batch_sizes(rig) == [2]

    def test_requests_are_announced_again_to_a_restored_database(self, rig):
        request_id = rig.accept(alert())
        rig.advance()
        with database.transaction(rig.engine) as connection:
            connection.execute(alerts.delete())
            connection.execute(api_calls.delete())
        rig.advance(10)
        assert batch_sizes(rig) == [1, 1]
        assert rig.state(request_id) == "recorded"


class TestUnrecordedBatches:
    """A batch that is not recorded in time is announced again, later and in smaller batches."""

    def test_the_wait_doubles_and_the_batch_is_halved(self, rig):
        rig.bus.records = False
        accept_requests(rig, 8)
        rig.advance()
        rig.advance(31)
        rig.advance(15)
        assert batch_sizes(rig) == [8]
        rig.advance(16)
        assert batch_sizes(rig) == [8, 8]
        rig.advance(31)
        rig.advance(45)
        assert batch_sizes(rig) == [8, 8]
        rig.advance(20)
        assert batch_sizes(rig) == [8, 8, 4]
        assert rig.components.stackstorm.state == State.DOWN
        rig.bus.records = True
        for _ in range(6):
            rig.advance(61)
        assert rig.journal.counts().done == 8
        assert rig.components.stackstorm.state == State.OK

    @pytest.mark.parametrize(
        "api_attributes, reason",
        [
            ({"problem": "rule poundcake.record is disabled"}, "is disabled"),
            ({"failure": "two databases"}, "two databases"),
            ({"failure": "an old failure", "stuck": "stays scheduled"}, "stays scheduled"),
            ({"error": StackStormError("no route")}, "no route"),
            ({}, "gives no reason"),
        ],
    )
    def test_stackstorm_is_queried_for_the_reason(self, rig, api_attributes, reason):
        vars(rig.api).update(api_attributes)
        rig.bus.records = False
        rig.accept()
        rig.advance()
        rig.advance(31)
        assert rig.components.stackstorm.state == State.DOWN
        assert reason in rig.components.stackstorm.detail
        assert "not recorded" in rig.components.stackstorm.detail

    def test_a_batch_that_is_recorded_late_is_not_announced_again(self, rig):
        rig.bus.records = False
        request_id = rig.accept(alert())
        rig.advance()
        rig.advance(31)
        assert rig.state(request_id) == "accepted"
        rig.bus.record(rig.bus.payloads(ANNOUNCE)[0])
        rig.advance(61)
        assert rig.state(request_id) == "recorded"
        assert batch_sizes(rig) == [1]

    def test_a_stuck_request_that_is_recorded_late_is_emitted_without_another_announcement(
        self, rig
    ):
        body = unique_body("late")
        rig.bus.poison.add(body)  # StackStorm is slow to execute its announcements
        late_id = rig.accept(body=body)
        while not rig.journal.counts().stuck:
            rig.accept()
            rig.advance(31)
        announcements = rig.bus.payloads(ANNOUNCE)
        rig.bus.poison.clear()
        rig.bus.record(next(p for p in reversed(announcements) if body in batch_bodies(p)))
        rig.advance(announcer.LATE_WAIT)
        assert rig.state(late_id) == "done"
        assert rig.journal.counts().stuck == 0
        assert rig.bus.payloads(ANNOUNCE) == announcements

    def test_a_request_that_cannot_be_recorded_is_isolated_and_marked_stuck(self, rig):
        poison = unique_body("poison")
        rig.bus.poison.add(poison)
        good_ids = accept_requests(rig, 3)
        bad_id = rig.accept(body=poison)
        for _ in range(30):
            rig.advance(31)
        assert {rig.state(i) for i in good_ids} == {"done"}
        assert rig.journal.stuck_ids(10) == [bad_id]
        assert rig.journal.backlog == 0
        assert "this request alone" in rig.pipeline.blocked_by(rig.journal.find(bad_id))
        rig.bus.poison.clear()
        for _ in range(2):  # the request may be in flight when the poison is removed
            rig.advance(601)
        assert rig.state(bad_id) == "done"
        assert rig.journal.counts().stuck == 0

    def test_a_stuck_request_is_announced_at_most_every_ten_minutes(self, rig):
        poison = unique_body("poison")
        rig.bus.poison.add(poison)
        rig.accept(body=poison)
        while not rig.journal.counts().stuck:
            rig.accept()
            rig.advance(31)
        announcements = sum(poison in batch for batch in rig.bus.batches)
        for _ in range(18):  # 9 minutes
            rig.accept()
            rig.advance(30)
        assert sum(poison in batch for batch in rig.bus.batches) - announcements <= 1

    def test_the_first_recorded_batch_after_an_outage_ends_all_waits(self, rig):
        rig.bus.records = False
        ids = accept_requests(rig, 4)
        while max(rig.journal.find(i).attempts for i in ids) < 4:  # the waits take minutes
            rig.advance(31)
        rig.bus.records = True
        ids.append(rig.accept())
        for _ in range(3):
            rig.advance(31)
        assert {rig.state(i) for i in ids} == {"done"}

    def test_announcements_slow_down_during_an_outage(self, rig):
        rig.bus.records = False
        for _ in range(60):  # 10 minutes
            rig.accept()
            rig.advance(10)
        # Each batch is in flight for 30 s, followed by a pause of 30 to 60 s.
        assert len(batch_sizes(rig)) <= 9
        rig.bus.records = True
        for _ in range(3):
            rig.advance(61)
        assert rig.journal.backlog == 0
        assert rig.journal.counts().stuck == 0


class TestPublishFailures:
    """A publish failure counts as a failed attempt only for the request that caused it."""

    def test_requests_are_announced_as_soon_as_the_broker_returns(self, rig):
        rig.bus.is_down = True
        request_id = rig.accept(alert())
        rig.advance()
        assert rig.components.broker.state == State.DOWN
        assert rig.components.broker.detail == "the broker is down"
        assert rig.state(request_id) == "accepted"
        rig.bus.is_down = False
        rig.advance(3)  # the next attempt to publish
        assert rig.state(request_id) == "recorded"
        assert rig.components.broker.state == State.OK
        assert batch_sizes(rig) == [1]

    def test_a_backlog_is_announced_in_few_batches_after_a_broker_outage(self, rig):
        accept_requests(rig, 100)
        rig.bus.is_down = True
        for _ in range(60):  # an hour
            rig.advance(60)
        rig.bus.is_down = False
        for _ in range(10):
            rig.advance(61)
        assert rig.journal.counts().done == 100
        assert len(batch_sizes(rig)) < 30

    @pytest.mark.parametrize("position", [0, 5, 9])
    def test_a_request_that_the_broker_refuses_does_not_block_the_others(self, rig, position):
        poison = unique_body(position)

        def refuses(trigger, payload):
            batch = announcer.announcement.unpack(1, payload["batch"]) if "batch" in payload else []
            return poison in [request.body for request in batch]

        rig.bus.refuses = refuses
        ids = accept_requests(rig, 10)
        bad_id = ids.pop(position)
        for _ in range(10):
            rig.advance(61)
        assert {rig.state(i) for i in ids} == {"done"}
        late_id = rig.accept(body=unique_body("late"))
        rig.advance(31)  # until then, the failures looked like a broker outage
        assert rig.state(late_id) == "done"
        rig.advance(601)
        assert rig.journal.stuck_ids(10) == [bad_id]
        assert "cannot be published: refused" in rig.pipeline.blocked_by(rig.journal.find(bad_id))
        later_id = rig.accept(body=unique_body("later"))
        rig.advance(2)
        assert rig.state(later_id) == "done"

    def test_a_request_that_cannot_be_packed_does_not_block_the_others(self, rig, monkeypatch):
        pack = announcer.announcement.pack

        def fail_for_poison(requests, *args):
            if any("poison" in request.body for request in requests):
                raise RuntimeError("an internal fault")
            return pack(requests, *args)

        monkeypatch.setattr(announcer.announcement, "pack", fail_for_poison)
        bad_id = rig.accept(body=unique_body("poison"))
        good_ids = accept_requests(rig, 3)
        for _ in range(10):
            rig.advance(61)
        assert {rig.state(i) for i in good_ids} == {"done"}
        assert rig.state(bad_id) == "accepted"
