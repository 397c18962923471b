"""From the journal to StackStorm: each step is taken once the one before is seen to be done."""

from __future__ import annotations

import json
import logging
import threading
import time

import pytest
from sqlalchemy import update

from poundcake import announcement
from poundcake.config import Config
from poundcake.endpoint import relay
from poundcake.endpoint.bus import BusError
from poundcake.endpoint.health import Component
from poundcake.endpoint.journal import Journal
from poundcake.endpoint.metrics import Metrics
from poundcake.endpoint.relay import Relay, Tracking
from poundcake.request_ids import body_sha256
from poundcake.stackstorm import StackStormError
from poundcake.trail import claims, clock, database
from poundcake.trail.record import record_requests
from poundcake.trail.replay import replay_request
from poundcake.trail.schema import alerts, api_calls
from tests.lib.samples import DELIMITERS, alert, later, request, webhook
from tests.waiting import wait_for

LOG = logging.getLogger("test")


class StackStormBus:
    """A broker with a StackStorm behind it that records what is announced."""

    def __init__(self, engine):
        self.engine = engine
        self.config = Config()
        self.published = []
        self.down = False
        self.records = True
        self.poison = set()  # bodies that make a whole announcement fail
        self.lock = threading.Lock()

    def publish(self, trigger, payload, trace_tag):
        with self.lock:
            if self.down:
                raise BusError("the broker is away")
            self.published.append((trigger, payload, trace_tag, time.monotonic()))
        if trigger == relay.ANNOUNCE and self.records:
            threading.Thread(target=self.record, args=(payload,)).start()

    def record(self, payload):
        requests = announcement.unpack(payload["version"], payload["batch"])
        if not self.poison & {r.body for r in requests}:
            record_requests(self.engine, self.config, requests, payload["database_id"])

    def close(self):
        pass

    def of(self, trigger):
        return [p for p in list(self.published) if p[0] == trigger]

    @property
    def lists(self):
        """The bodies of each announcement."""
        return [
            [r.body for r in announcement.unpack(p["version"], p["batch"])]
            for _, p, _, _ in self.of(relay.ANNOUNCE)
        ]


class API:
    problem, failure, not_taken_by, error = "", "", "", None
    asked = 0

    def problem_with(self, rule, action):
        self.asked += 1
        if self.error:
            raise self.error
        return self.problem

    def last_failure(self, action, since):
        return self.failure

    def not_taken(self, action, since):
        return self.not_taken_by


class House:
    """A journal, a tracking database, and the relay between."""

    def __init__(self, folder):
        self.engine = database.open_engine("sqlite:///{}".format(folder / "tracking.db"))
        self.path = str(folder / "journal.sqlite")
        self.journal = Journal(self.path)
        self.bus = StackStormBus(self.engine)
        self.api = API()
        journal = Component(LOG, "journal").report()
        self.metrics = Metrics(lambda: {"components": {"journal": journal}}, lambda: (0, 0, 0))
        self.relay = None

    def start(self):
        self.relay = Relay(
            Config(),
            self.journal,
            Tracking(self.engine, True),
            self.bus,
            self.api,
            LOG,
            self.metrics,
        )
        self.relay.start()
        return self

    def accept(self, *found, body=None, wanted_id="", **more):
        sent = request(*found, body=body, **more)
        request_id = self.journal.accept(sent, wanted_id, body_sha256(sent.body), len(found))
        if self.relay:
            self.relay.wake()
        return request_id

    def state(self, request_id):
        return self.journal.find(request_id).state

    def reaches(self, request_id, state, seconds=60):
        wait_for(lambda: self.state(request_id) == state, seconds)

    def set_explanation(self, explanation, **where):
        with database.transaction(self.engine) as connection:
            connection.execute(update(alerts).values(explanation=explanation))
            if explanation not in (None, "retry"):
                connection.execute(update(api_calls).values(completed_at=later(60)))

    def stop(self):
        if self.relay:
            self.relay.stop(5)
        self.relay = None


@pytest.fixture
def house(tmp_path, monkeypatch):
    """Time runs a hundred times as fast."""
    for name, value in {
        "RECORD_TIME": 0.4,
        "STUCK_WAIT": 6,
        "OUTAGE_WAIT": 0.8,
        "_LOOK": (0.01, 0.05),
        "_EXPLAIN_LOOK": 0.05,
        "_ADOPT_LOOK": 0.05,
        "_EMIT_WAIT": (0.3, 10),
        "_SYNC_WAIT": (0.1, 0.6),
        "_SYNC_IDLE": 5,
        "_RETRY_WAIT": (0.05, 0.3),
    }.items():
        assert hasattr(relay, name)
        monkeypatch.setattr(relay, name, value)
    found = House(tmp_path)
    yield found
    found.stop()
    found.journal.close()


class TestTheWay:
    def test_of_an_alert(self, house):
        house.start()
        request_id = house.accept(alert("HostDown", fingerprint="f"))
        wait_for(lambda: house.bus.of(relay.ALERT))
        assert house.state(request_id) == "recorded"
        ((_, webhook, trace, _),) = house.bus.of(relay.WEBHOOK)
        assert trace == request_id
        assert webhook == {
            "request_id": request_id,
            "receiver": "poundcake",
            "group_status": "firing",
            "alerts_received": 1,
            "outcomes": {"admitted": 1},
        }
        ((_, emitted, trace, _),) = house.bus.of(relay.ALERT)
        assert trace == request_id
        assert emitted == {
            "request_id": request_id,
            "episode": "f-1768392000000",
            "status": "firing",
            "alert_name": "HostDown",
            "severity": "critical",
            "instance": "web-1:9100",
            "job": "",
            "labels": {
                "alertname": "HostDown",
                "instance": "web-1:9100",
                "severity": "critical",
            },
            "receiver": "poundcake",
            "starts_at": "2026-01-14T12:00:00Z",
            "ends_at": "",
        }
        house.set_explanation("execution")
        house.reaches(request_id, "done")
        assert len(house.bus.of(relay.ALERT)) == len(house.bus.of(relay.WEBHOOK)) == 1
        assert (house.relay.broker.state, house.relay.database.state) == ("ok", "ok")
        assert house.relay.stackstorm.state == "ok"

    def test_of_what_nobody_remediates(self, house):
        house.start()
        request_id = house.accept()
        house.reaches(request_id, "done")
        assert len(house.bus.of(relay.WEBHOOK)) == 1
        assert house.bus.of(relay.ALERT) == []

    def test_a_limit_that_was_reached_is_told_once(self, house, monkeypatch):
        moment = [later(0)]
        monkeypatch.setattr(clock, "database_now", lambda connection: moment[0])
        house.bus.config = Config(max_remediations_per_hour=1)
        house.start()
        several = [alert("A", fingerprint=f, labels={"instance": "i" + f}) for f in "1234"]
        first = house.accept(*several[:3])
        house.reaches(first, "recorded")
        house.accept(several[3])
        other = house.accept(*[alert("B", fingerprint=f) for f in "56"])
        wait_for(lambda: len(house.bus.of(relay.WEBHOOK)) == 3)
        told = house.bus.of(relay.LIMIT_REACHED)
        assert [(p["alert_name"], tag) for _, p, tag, _ in told] == [("A", first), ("B", other)]
        payload = told[0][1]
        assert (payload["request_id"], payload["instance"]) == (first, "i2")
        assert payload["until"] == "2026-01-14T13:00:00Z"
        assert payload["reason"].startswith("limit of 1 an hour")
        # Within the limit for an hour, it is reached anew.
        much_later = moment[0] = later(3 * 3600)
        late = [alert("A", starts_at=much_later, fingerprint=f) for f in "789"]
        house.accept(*late, received_at=much_later)
        wait_for(lambda: len(house.bus.of(relay.LIMIT_REACHED)) == 3)

    def test_only_the_admitted_and_the_resolved_are_emitted(self, house):
        house.start()
        ends = alert("B", status="resolved", endsAt="2026-01-14T12:00:05Z", fingerprint="b")
        again = alert("A", fingerprint="a")
        house.accept(again, again, {"labels": 1}, alert("B", fingerprint="b"), ends, ends)
        wait_for(lambda: len(house.bus.of(relay.ALERT)) >= 3)
        time.sleep(0.2)
        found = [(p["alert_name"], p["status"]) for _, p, _, _ in house.bus.of(relay.ALERT)]
        assert sorted(found) == [("A", "firing"), ("B", "firing"), ("B", "resolved")]
        ((_, webhook, _, _),) = house.bus.of(relay.WEBHOOK)
        assert webhook["alerts_received"] == 6
        assert webhook["outcomes"]["malformed"] == 1

    def test_every_string_is_inert_and_none_is_null(self, house):
        house.start()
        text = "{{ st2kv.system.x }}<% ctx() %>{"
        found = alert(text, fingerprint="f", labels={text: text, "job": text, "severity": text})
        house.accept(
            found,
            body=json.dumps(webhook(found, receiver=text)),
        )
        wait_for(lambda: house.bus.of(relay.ALERT))

        def strings(value):
            if isinstance(value, dict):
                for key, inner in value.items():
                    yield from strings(key)
                    yield from strings(inner)
            else:
                yield value

        for trigger, payload, _, _ in house.bus.published:
            found = list(strings(payload))
            assert None not in found
            for one in found:
                assert not any(d in str(one) for d in DELIMITERS)
                assert not str(one).endswith(("{", "<"))

    def test_nothing_is_emitted_before_it_is_recorded(self, house):
        house.bus.records = False
        house.start()
        request_id = house.accept(alert())
        wait_for(lambda: house.bus.of(relay.ANNOUNCE))
        time.sleep(0.3)
        assert house.bus.of(relay.ALERT) == house.bus.of(relay.WEBHOOK) == []
        assert house.state(request_id) == "announced"


class TestAnnouncing:
    def test_what_waits_goes_together(self, house):
        ids = [house.accept(alert(f"A{i}")) for i in range(20)]
        house.start()
        for request_id in ids:
            house.reaches(request_id, "recorded")
        assert [len(one) for one in house.bus.lists] == [20]

    def test_at_most_so_many(self, house, monkeypatch):
        monkeypatch.setattr(relay, "LIST_LENGTH", 8)
        ids = [house.accept() for _ in range(20)]
        house.start()
        for request_id in ids:
            house.reaches(request_id, "done")
        assert [len(one) for one in house.bus.lists] == [8, 8, 4]

    def test_at_most_so_many_bytes_but_a_large_one_goes_alone(self, house, monkeypatch):
        monkeypatch.setattr(relay, "LIST_BYTES", 2000)
        import random

        noise = [
            "".join(chr(random.randrange(0x4E00, 0x9000)) for _ in range(n))
            for n in (5000, 100, 100, 100, 5000)
        ]
        bodies = [f'{{"alerts": [], "x": "{text}"}}' for text in noise]
        ids = [house.accept(body=body) for body in bodies]
        house.start()
        for request_id in ids:
            house.reaches(request_id, "done")
        for (_, payload, _, _), one in zip(house.bus.of(relay.ANNOUNCE), house.bus.lists):
            assert len(payload["batch"]) <= 2000 or len(one) == 1
        assert [body for one in house.bus.lists for body in one] == bodies

    def test_one_at_a_time_and_what_comes_meanwhile_goes_into_the_next(self, house):
        house.bus.records = False
        house.start()
        first = house.accept(body='{"alerts": [], "n": 0}')
        wait_for(lambda: house.bus.lists)
        more = [house.accept(body='{"alerts": [], "n": %d}' % n) for n in range(1, 6)]
        time.sleep(0.1)
        assert len(house.bus.lists) == 1
        house.bus.records = True
        house.bus.record(house.bus.of(relay.ANNOUNCE)[0][1])
        for request_id in [first] + more:
            house.reaches(request_id, "done")
        assert [len(one) for one in house.bus.lists] == [1, 5]

    def test_the_next_goes_as_soon_as_the_one_before_is_recorded(self, house, monkeypatch):
        monkeypatch.setattr(relay, "RECORD_TIME", 60)
        house.start()
        for _ in range(5):
            house.reaches(house.accept(), "done")

    def test_it_carries_the_databases_id(self, house):
        house.start()
        house.reaches(house.accept(), "done")
        ((_, payload, _, _),) = house.bus.of(relay.ANNOUNCE)
        assert payload["database_id"] == database.prepare(house.engine)


class TestTrouble:
    def test_the_broker_away(self, house):
        house.bus.down = True
        house.start()
        request_id = house.accept(alert())
        wait_for(lambda: house.relay.broker.state == "down")
        assert house.relay.broker.detail == "the broker is away"
        assert house.state(request_id) == "accepted"
        house.bus.down = False
        house.reaches(request_id, "recorded")
        wait_for(lambda: house.relay.broker.state == "ok")
        assert len(house.bus.of(relay.ANNOUNCE)) == 1

    def test_the_broker_away_between_record_and_emission(self, house):
        house.bus.records = False
        house.start()
        request_id = house.accept(alert())
        wait_for(lambda: house.bus.lists)
        house.bus.down = True
        house.bus.record(house.bus.of(relay.ANNOUNCE)[0][1])
        house.reaches(request_id, "recorded")
        time.sleep(0.2)
        assert house.bus.of(relay.ALERT) == []
        house.bus.down = False
        wait_for(lambda: house.bus.of(relay.ALERT))

    def test_the_database_away(self, house, monkeypatch):
        """It is made, and goes away, and comes back."""
        read = Tracking._read
        monkeypatch.setattr(
            Tracking, "_read", lambda *a: (_ for _ in ()).throw(database.DatabaseError("away"))
        )
        house.start()
        request_id = house.accept(alert())
        wait_for(lambda: house.relay.database.state == "down")
        assert house.relay.database.detail == "away"
        monkeypatch.setattr(Tracking, "_read", read)
        house.reaches(request_id, "recorded")
        wait_for(lambda: house.relay.database.state == "ok")

    def test_without_the_databases_id_nothing_is_announced(self, house, monkeypatch):
        prepare = database.prepare

        def away(engine, create=True):
            raise database.DatabaseError("away")

        monkeypatch.setattr(database, "prepare", away)
        house.start()
        request_id = house.accept(alert())
        wait_for(lambda: house.relay.database.state == "down")
        assert house.bus.published == []
        monkeypatch.setattr(database, "prepare", prepare)
        house.reaches(request_id, "recorded")

    def test_a_fault_does_not_end_it(self, house, monkeypatch):
        packed, faults = relay._packed, []

        def faulty(*args):
            if len(faults) < 2:
                faults.append(1)
                raise RuntimeError("a fault of ours")
            return packed(*args)

        monkeypatch.setattr(relay, "_packed", faulty)
        house.start()
        house.reaches(house.accept(), "done")
        assert len(faults) == 2

    def test_it_goes_on_where_the_journal_stood(self, house):
        house.bus.records = False
        house.start()
        ids = [house.accept(alert("A")), house.accept(alert("B"))]
        wait_for(lambda: house.bus.lists)
        house.stop()
        house.journal.close()
        house.bus.records = True
        for _, payload, _, _ in house.bus.of(relay.ANNOUNCE):
            house.bus.record(payload)
        house.journal = Journal(house.path)
        house.start()
        for request_id in ids:
            house.reaches(request_id, "recorded")
        wait_for(lambda: len(house.bus.of(relay.ALERT)) == 2)
        assert sum(len(one) for one in house.bus.lists) == 2

    def test_the_tracking_database_set_back(self, house):
        house.start()
        request_id = house.accept(alert())
        wait_for(lambda: house.bus.of(relay.ALERT))
        with database.transaction(house.engine) as connection:
            connection.execute(alerts.delete())
            connection.execute(api_calls.delete())
        wait_for(lambda: len(house.bus.lists) == 2)
        house.reaches(request_id, "recorded")

    def test_a_replay_is_emitted_whoever_recorded_it(self, house):
        house.start()
        request_id = house.accept(alert("One"), alert("Two"))
        house.reaches(request_id, "recorded")
        wait_for(lambda: len(house.bus.of(relay.ALERT)) == 2)
        house.set_explanation("execution")
        house.reaches(request_id, "done")
        again = replay_request(house.engine, Config(), request_id)["request_id"]
        wait_for(lambda: house.journal.find(again))
        wait_for(lambda: len(house.bus.of(relay.ALERT)) == 4)
        assert {p[1]["request_id"] for p in house.bus.of(relay.ALERT)[2:]} == {again}
        assert [p[2] for p in house.bus.of(relay.WEBHOOK)] == [request_id, again]
        # It is on record: it is not announced, neither now nor by a relay that starts anew.
        house.stop()
        house.start()
        time.sleep(0.5)
        assert len(house.bus.lists) == 1
        assert len(house.bus.of(relay.ALERT)) == 4
        house.set_explanation("execution")
        house.reaches(again, "done")

    def test_all_replays_are_emitted_however_many_are_open(self, house, monkeypatch):
        monkeypatch.setattr(relay, "_ADOPTED_AT_ONCE", 1)
        house.start()
        ids = [house.accept(alert(fingerprint=name)) for name in "abc"]
        for request_id in ids:
            house.reaches(request_id, "recorded")
        again = {replay_request(house.engine, Config(), i)["request_id"] for i in ids}
        wait_for(lambda: len(house.bus.of(relay.ALERT)) == 6)
        assert {p[1]["request_id"] for p in house.bus.of(relay.ALERT)} == again | set(ids)

    def test_a_replay_that_is_over_is_left_alone(self, house):
        house.start()
        request_id = house.accept(alert())
        house.reaches(request_id, "recorded")
        wait_for(lambda: house.bus.of(relay.ALERT))
        # While the first is at work, the replay finds it open and has nothing to do.
        claims.link(house.engine, request_id, house.bus.of(relay.ALERT)[0][1]["episode"], "w", "e1")
        again = replay_request(house.engine, Config(), request_id)
        assert again["outcomes"] == {"duplicate": 1}
        time.sleep(0.5)
        assert house.journal.find(again["request_id"]) is None
        assert len(house.bus.of(relay.ALERT)) == 1

    def test_what_waits_of_the_migrations_is_known(self, house, monkeypatch):
        monkeypatch.setattr(database, "pending", lambda bind: "run st2 run poundcake.migrate")
        house.start()
        wait_for(lambda: house.relay.pending)
        assert house.relay.pending == "run st2 run poundcake.migrate"
        monkeypatch.setattr(database, "pending", lambda bind: "")
        wait_for(lambda: not house.relay.pending)

    def test_stopping_does_not_wait_for_the_next_look(self, house, monkeypatch):
        monkeypatch.setattr(relay, "_IDLE", 60)
        thread = house.start().relay._thread
        house.stop()
        assert not thread.is_alive()


class TestMissed:
    """An announcement that is not recorded in its time comes again, later and in halves."""

    def test_the_wait_doubles_and_the_list_is_halved(self, house):
        house.bus.records = False
        for number in range(8):
            house.accept(body='{"alerts": [], "n": %d}' % number)
        house.start()
        wait_for(lambda: len(house.bus.lists) >= 3)
        assert [len(one) for one in house.bus.lists][:3] == [8, 8, 4]
        at = [p[3] for p in house.bus.of(relay.ANNOUNCE)]
        # It is out for 0.4 s each time, and then waits for 0.4 s and for 0.8 s, less a tenth.
        assert at[1] - at[0] > 0.7
        assert at[2] - at[1] > 1.1
        assert house.relay.stackstorm.state == "down"
        house.bus.records = True
        wait_for(lambda: house.journal.counts().get("done") == 8)
        assert house.relay.stackstorm.state == "ok"

    def test_what_is_wrong_is_looked_for(self, house):
        house.api.problem = "rule poundcake.record is disabled: st2 rule enable it"
        house.bus.records = False
        house.start()
        house.accept()
        wait_for(lambda: house.relay.stackstorm.state == "down")
        assert "rule poundcake.record is disabled" in house.relay.stackstorm.detail

    @pytest.mark.parametrize(
        "api, word",
        [
            ({"failure": "two databases"}, "two databases"),
            ({"failure": "of before", "not_taken_by": "stays scheduled"}, "stays scheduled"),
            ({"error": StackStormError("no route")}, "no route"),
            ({}, "not recorded"),
        ],
    )
    def test_and_said(self, house, api, word):
        for name, value in api.items():
            setattr(house.api, name, value)
        house.bus.records = False
        house.start()
        house.accept()
        wait_for(lambda: house.relay.stackstorm.state == "down")
        assert word in house.relay.stackstorm.detail

    def test_late_is_recorded_and_not_announced_again(self, house):
        house.bus.records = False
        house.start()
        request_id = house.accept(alert())
        wait_for(lambda: house.api.asked)
        assert house.state(request_id) == "accepted"
        house.bus.record(house.bus.of(relay.ANNOUNCE)[0][1])
        house.reaches(request_id, "recorded")
        assert len(house.bus.lists) == 1
        wait_for(lambda: house.bus.of(relay.ALERT))

    def test_a_poison_request_ends_alone_and_the_others_are_recorded(self, house, monkeypatch):
        monkeypatch.setattr(relay, "STUCK_WAIT", 1)
        poison = '{"alerts": [], "poison": 1}'
        house.bus.poison.add(poison)
        good = [house.accept(body='{"alerts": [], "n": %d}' % n) for n in range(3)]
        bad = house.accept(body=poison)
        house.start()
        for request_id in good:
            house.reaches(request_id, "done")
        wait_for(lambda: house.journal.stuck(10) == [bad])
        assert house.journal.backlog == 0
        house.bus.poison.clear()
        house.reaches(bad, "done")

    def test_a_poison_request_does_not_hold_up_the_others_for_ever(self, house):
        """Once it is known to be stuck it comes every STUCK_WAIT, whatever else is recorded."""
        poison = '{"alerts": [], "poison": 1}'
        house.bus.poison.add(poison)
        bad = house.accept(body=poison)
        house.start()
        wait_for(lambda: house.journal.find(bad).tries >= 3)
        before = sum(poison in one for one in house.bus.lists)
        began = time.monotonic()
        while time.monotonic() - began < 3:  # STUCK_WAIT is 6
            house.reaches(house.accept(), "done")
            time.sleep(0.05)
        assert sum(poison in one for one in house.bus.lists) - before <= 1

    def test_during_an_outage_announcements_are_rare(self, house):
        house.bus.records = False
        house.start()
        began = time.monotonic()
        while time.monotonic() - began < 4:
            house.accept()
            time.sleep(0.05)
        # Each is out for 0.4 s, and then nothing is for 0.4 to 0.8 s.
        assert len(house.bus.lists) <= 7
        house.bus.records = True
        wait_for(lambda: house.journal.backlog == 0 and not house.journal.counts()["stuck"])


class TestExplaining:
    def test_an_alert_that_stackstorm_lost_is_emitted_again(self, house):
        house.start()
        request_id = house.accept(alert())
        wait_for(lambda: house.bus.of(relay.ALERT))
        time.sleep(0.5)
        assert len(house.bus.of(relay.ALERT)) == 1  # nobody has said that it is lost
        house.set_explanation("retry")
        wait_for(lambda: len(house.bus.of(relay.ALERT)) >= 3)
        at = [p[3] for p in house.bus.of(relay.ALERT)]
        assert at[2] - at[1] >= 0.3
        assert len(house.bus.of(relay.WEBHOOK)) == 1
        payloads = [p[1] for p in house.bus.of(relay.ALERT)]
        assert payloads[0] == payloads[1]
        house.set_explanation("no_rule")
        house.reaches(request_id, "done")

    @pytest.mark.parametrize("explanation", ["execution", "no_rule", "failed", "lost"])
    def test_whatever_became_of_it_ends_it(self, house, explanation):
        house.start()
        request_id = house.accept(alert())
        wait_for(lambda: house.bus.of(relay.ALERT))
        house.set_explanation(explanation)
        house.reaches(request_id, "done")

    def test_stackstorm_is_asked_while_anything_is_open_and_not_after(self, house):
        house.start()
        time.sleep(0.3)
        assert house.bus.of(relay.SYNC_DUE) == []
        request_id = house.accept(alert())
        wait_for(lambda: len(house.bus.of(relay.SYNC_DUE)) >= 3)
        assert house.bus.of(relay.SYNC_DUE)[0][1] == {"open": 1}
        house.set_explanation("no_rule")
        house.reaches(request_id, "done")
        time.sleep(0.2)
        asked = len(house.bus.of(relay.SYNC_DUE))
        time.sleep(1)
        assert len(house.bus.of(relay.SYNC_DUE)) == asked

    def test_it_is_asked_less_and_less_often(self, house, monkeypatch):
        monkeypatch.setattr(relay, "_SYNC_WAIT", (0.02, 0.1))
        house.start()
        house.accept(alert())
        # With waits that grow without a bound, so many would take more than a minute.
        wait_for(lambda: len(house.bus.of(relay.SYNC_DUE)) >= 20)
        at = [p[3] for p in house.bus.of(relay.SYNC_DUE)]
        assert at[19] - at[9] > 0.9
