"""The writes of a trail: each request once, each incident once, each claim once."""

import datetime
import json
import threading
import time
import uuid
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event, select

from poundcake import request_ids
from poundcake.config import Config
from poundcake.trail import admission, claims, database
from poundcake.trail import record as record_module
from poundcake.trail.database import DatabaseError
from poundcake.trail.record import TrackingError, record_requests
from poundcake.trail.replay import replay_request
from poundcake.trail.schema import alerts, api_calls, executions, links, meta
from tests.lib.samples import NOON, UTC, alert, later, request, webhook

CONFIG = Config()


def record(engine, *requests, **config):
    return record_requests(engine, Config(**config), requests)


def rows(engine, table=alerts):
    with database.reading(engine) as connection:
        return connection.execute(select(table).order_by(table.c.id)).all()


def outcomes(engine):
    return [row.outcome for row in rows(engine)]


def open_incidents(engine):
    return [row for row in rows(engine) if row.open_fingerprint]


def in_parallel(count, work):
    """What each of several threads that start at once returned or raised."""
    start, found = threading.Barrier(count), [None] * count

    def run(index):
        start.wait()
        try:
            found[index] = work(index)
        except Exception as error:
            found[index] = error

    threads = [threading.Thread(target=run, args=(i,)) for i in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return found


class TestRecord:
    def test_a_request_with_all_there_is_to_it(self, engine):
        sent = request(
            alert(fingerprint="abc", labels={"job": "node"}),
            truncatedAlerts=3,
            headers={"User-Agent": "Alertmanager/0.25"},
        )
        assert record(engine, sent) == {
            "recorded": 1,
            "known": 0,
            "failed": 0,
            "outcomes": {"admitted": 1},
        }
        (call,) = rows(engine, api_calls)
        assert call.request_id == sent.request_id
        assert (call.method, call.path, call.status_code) == ("POST", "/api/v1/webhook", 202)
        assert json.loads(call.headers) == {"User-Agent": "Alertmanager/0.25"}
        assert call.body == sent.body
        assert (call.created_at, call.completed_at) == (NOON, None)
        assert (call.receiver, call.group_status, call.truncated_alerts) == (
            "poundcake",
            "firing",
            3,
        )
        assert (call.client_host, call.client_request_id, call.error) == ("192.0.2.7", None, None)
        assert call.body_sha256 == request_ids.body_sha256(sent.body)
        assert len(call.delivery_key) == 64
        (one,) = rows(engine)
        assert (one.api_call_id, one.position, one.fingerprint) == (call.id, 0, "abc")
        assert (one.alert_name, one.severity, one.instance) == (
            "HostDown",
            "critical",
            "web-1:9100",
        )
        assert json.loads(one.labels)["job"] == "node"
        assert json.loads(one.annotations) == {"summary": "down"}
        assert (one.status, one.starts_at, one.ends_at) == ("firing", NOON, None)
        assert (one.outcome, one.open_fingerprint, one.notifications) == ("admitted", "abc", 1)
        assert one.episode == "abc-1768392000000"
        assert one.explanation is None

    def test_again_changes_nothing(self, engine):
        sent = [request(alert("A")), request(alert("B"), alert("B", status="resolved"))]
        record(engine, *sent)
        before = rows(engine), rows(engine, api_calls)
        assert record(engine, *sent)["known"] == 2
        assert record(engine, sent[1], sent[1])["known"] == 2
        assert (rows(engine), rows(engine, api_calls)) == before

    def test_twice_in_one_list_is_once(self, engine):
        sent = request(alert())
        found = record(engine, sent, sent)
        assert (found["recorded"], found["known"]) == (1, 1)
        assert len(rows(engine, api_calls)) == 1

    def test_the_same_id_with_another_body_goes_under_a_second_id(self, engine):
        first = request(alert("A"))
        second = request(alert("B"), request_id=first.request_id)
        for _ in range(2):
            record(engine, first)
            record(engine, second)
        calls = rows(engine, api_calls)
        expected = request_ids.collision_id(first.request_id, request_ids.body_sha256(second.body))
        assert [c.request_id for c in calls] == [first.request_id, expected]
        assert uuid.UUID(expected).version == 5
        assert calls[1].client_request_id == first.request_id
        assert [c.body for c in calls] == [first.body, second.body]

    def test_five_hundred_in_one_call(self, engine):
        sent = [
            request(*(alert("A", labels={"i": f"{n}-{m}"}) for m in range(4))) for n in range(500)
        ]
        began = time.monotonic()
        found = record(engine, *sent, max_remediations_per_hour=0)
        assert (found["recorded"], found["outcomes"]) == (500, {"admitted": 2000})
        assert time.monotonic() - began < 45

    def test_two_databases_are_told_apart(self, engine):
        with pytest.raises(DatabaseError, match="the endpoint reads") as caught:
            record_requests(engine, CONFIG, [request(alert())], str(uuid.uuid4()))
        assert "database_url" in str(caught.value)
        assert str(engine.url.password) not in str(caught.value) or not engine.url.password
        assert rows(engine, api_calls) == []
        found = record_requests(engine, CONFIG, [request(alert())], database.prepare(engine))
        assert found["recorded"] == 1

    def test_what_is_too_long_is_cut_in_its_column_and_whole_in_the_json(self, engine):
        text = "🍰" * 50000
        sent = request(
            alert(text, labels={"severity": text, "instance": text, "x": text}, generatorURL=text),
            receiver=text,
            groupKey=text,
            headers={"User-Agent": text},
        )
        assert record(engine, sent)["recorded"] == 1
        (one,) = rows(engine)
        assert one.alert_name == "🍰" * 255
        assert one.severity == "🍰" * 64
        assert json.loads(one.labels)["x"] == text
        (call,) = rows(engine, api_calls)
        assert call.receiver == "🍰" * 255
        assert call.group_key == text

    @pytest.mark.parametrize(
        "text",
        [
            "{{ st2kv.system.x }} {% raw %} <% ctx().st2 %> {# #}",
            "'; DROP TABLE poundcake_alerts; -- \\' \" %s %(x)s :x {0} {x!r}",
            "\u0000\u0001\x1b[2J\u202e",
            "日本 🍰 é",
        ],
    )
    def test_text_is_stored_verbatim(self, engine, text):
        sent = request(alert(text, labels={text: text}, annotations={text: text}))
        assert record(engine, sent)["recorded"] == 1
        (one,) = rows(engine)
        assert one.alert_name == text
        assert json.loads(one.labels)[text] == text
        assert json.loads(one.annotations) == {text: text}

    def test_lone_surrogates_are_no_trouble(self, engine):
        body = json.dumps(webhook(alert("\ud800", labels={"\udfff": "\ud83d"})))
        assert record(engine, request(body=body))["recorded"] == 1
        (one,) = rows(engine)
        assert json.loads(one.labels)["\udfff"] == "\ud83d"

    @pytest.mark.parametrize(
        "start",
        [
            "9999-12-31T23:59:59Z",
            "0002-01-01T00:00:00Z",
            "1000-01-01T00:00:00+23:59",
            "2016-12-31T23:59:60Z",
            "1969-12-31T23:59:59.999999999Z",
        ],
    )
    def test_no_time_is_a_trap(self, engine, start):
        for _ in range(2):
            record(engine, request(alert(startsAt=start, fingerprint="f")))
        ends = alert(status="resolved", startsAt=start, endsAt=start, fingerprint="f")
        record(engine, request(ends))
        assert outcomes(engine) == ["admitted", "duplicate", "resolved"]

    def test_a_request_that_cannot_be_read_fails_alone(self, engine):
        good, poison, last = request(alert("A")), request(body="no json"), request(alert("B"))
        found = record(engine, good, poison, last)
        assert (found["recorded"], found["failed"]) == (2, 1)
        calls = rows(engine, api_calls)
        assert [bool(c.error) for c in calls] == [False, True, False]
        assert calls[1].body == "no json" and calls[1].completed_at
        assert len(rows(engine)) == 2
        assert record(engine, good, poison, last)["known"] == 3

    @pytest.mark.parametrize("error", [ValueError, OverflowError, KeyError, RuntimeError])
    def test_a_fault_of_ours_takes_no_other_request_with_it(self, engine, monkeypatch, error):
        decide = admission.decide

        def faulty(found, *args):
            if found.name == "Poison":
                raise error("a fault")
            return decide(found, *args)

        monkeypatch.setattr(admission, "decide", faulty)
        found = record(
            engine, request(alert("A")), request(alert("B"), alert("Poison")), request(alert("C"))
        )
        assert (found["recorded"], found["failed"]) == (2, 1)
        assert [row.alert_name for row in rows(engine)] == ["A", "C"]
        assert [bool(c.error) for c in rows(engine, api_calls)] == [False, True, False]

    def test_without_leave_no_tables_are_made(self, database_url):
        engine = database.open_engine(database_url)
        with pytest.raises(DatabaseError, match="migrate"):
            record(engine, request(alert()), auto_migrate=False)
        engine.dispose()


class TestOutcomes:
    def test_a_life(self, engine):
        """Firing, repeated, resolved, and firing again."""
        record(engine, request(alert()))
        record(engine, request(alert(), received_at=later(60)))
        ends = alert(status="resolved", ends_at=later(90))
        record(engine, request(ends, received_at=later(100)))
        record(engine, request(alert(starts_at=later(200)), received_at=later(210)))
        assert outcomes(engine) == ["admitted", "duplicate", "resolved", "admitted"]
        first, again, closing, second = rows(engine)
        assert first.episode == again.episode == closing.episode != second.episode
        assert (first.notifications, first.last_seen_at) == (2, later(60))
        assert closing.ends_at == later(90)
        assert [row.id for row in open_incidents(engine)] == [second.id]

    def test_what_is_not_emitted_has_its_fate_and_its_request_is_complete(self, engine):
        record(engine, request(alert()))
        record(engine, request(alert()), request(body='{"alerts": []}'))
        first, second, empty = rows(engine, api_calls)
        assert first.completed_at is None
        assert second.completed_at and empty.completed_at
        assert [row.explanation for row in rows(engine)] == [None, "none"]

    def test_a_resolve_for_nothing_is_on_record(self, engine):
        record(engine, request(alert(status="resolved", ends_at=later(5))))
        (one,) = rows(engine)
        assert (one.outcome, one.reason) == ("duplicate", "nothing open")
        assert open_incidents(engine) == []

    def test_late(self, engine):
        ends = alert(status="resolved", ends_at=later(60))
        record(engine, request(ends, received_at=later(70)))
        record(engine, request(alert(), received_at=later(80)))
        record(engine, request(alert(starts_at=later(61)), received_at=later(90)))
        assert outcomes(engine) == ["duplicate", "duplicate", "admitted"]
        assert rows(engine)[1].reason.startswith("late")

    def test_a_resolve_that_says_it_ends_in_the_future_does_not_swallow_the_next(self, engine):
        ends = alert(status="resolved", ends_at=later(10**8))
        record(engine, request(alert()), request(ends, received_at=later(70)))
        record(engine, request(alert(starts_at=later(100)), received_at=later(110)))
        assert outcomes(engine) == ["admitted", "resolved", "admitted"]

    def test_superseded(self, engine):
        record(engine, request(alert()))
        record(engine, request(alert(starts_at=later(121)), received_at=later(130)))
        first, second = rows(engine)
        assert second.outcome == "admitted" and first.episode in second.reason
        assert [row.id for row in open_incidents(engine)] == [second.id]

    def test_a_resolve_from_before_closes_nothing(self, engine):
        record(engine, request(alert(starts_at=later(600)), received_at=later(610)))
        ends = alert(status="resolved", ends_at=later(30))
        record(engine, request(ends, received_at=later(620)))
        assert outcomes(engine) == ["admitted", "duplicate"]
        assert len(open_incidents(engine)) == 1

    def test_cooldown(self, engine):
        config = {"cooldown_seconds": 300}
        record(engine, request(alert()), **config)
        ends = alert(status="resolved", ends_at=later(10))
        record(engine, request(ends, received_at=later(20)), **config)
        for seconds in (30, 200, 299):
            again = alert(starts_at=later(25))
            record(engine, request(again, received_at=later(seconds)), **config)
        record(engine, request(alert(starts_at=later(25)), received_at=later(300)), **config)
        record(engine, request(alert(starts_at=later(25)), received_at=later(310)), **config)
        assert outcomes(engine) == [
            "admitted",
            "resolved",
            "cooldown",
            "cooldown",
            "cooldown",
            "admitted",
            "duplicate",
        ]
        assert "2026-01-14T12:05:00Z" in rows(engine)[2].reason
        assert len({row.episode for row in rows(engine)[2:]}) == 1

    def test_rate_limit(self, engine):
        config = {"max_remediations_per_hour": 2}
        several = [alert("A", labels={"i": str(i)}) for i in range(4)]
        record(engine, request(*several, alert("B")), **config)
        assert outcomes(engine) == [
            "admitted",
            "admitted",
            "rate_limited",
            "rate_limited",
            "admitted",
        ]
        assert "2 an hour" in rows(engine)[2].reason
        record(engine, request(several[2], received_at=later(3599)), **config)
        record(engine, request(several[2], received_at=later(3600)), **config)
        assert outcomes(engine)[5:] == ["rate_limited", "admitted"]

    def test_the_limit_ends_when_there_is_room_again(self, engine):
        """More than the limit are on record where it was higher."""
        sent = [alert("A", labels={"i": str(i)}) for i in range(6)]
        for i in range(5):
            record(engine, request(sent[i], received_at=later(60 * i)))
        record(engine, request(sent[5], received_at=later(400)), max_remediations_per_hour=2)
        assert rows(engine)[-1].reason.endswith("until 2026-01-14T13:03:00Z")
        for seconds in (3779, 3780):
            again = request(sent[5], received_at=later(seconds))
            record(engine, again, max_remediations_per_hour=2)
        assert outcomes(engine)[6:] == ["rate_limited", "admitted"]

    def test_what_was_held_up_does_not_turn_back_when_it_was_last_seen(self, engine):
        for seconds in (0, 600, 300):
            record(engine, request(alert(), received_at=later(seconds)))
        assert rows(engine)[0].last_seen_at == later(600)
        assert rows(engine)[0].notifications == 3

    def test_no_limit(self, engine):
        several = [alert("A", labels={"i": str(i)}) for i in range(110)]
        record(engine, request(*several), max_remediations_per_hour=0)
        assert set(outcomes(engine)) == {"admitted"}

    def test_all_kinds_in_one_payload_and_the_good_ones_survive(self, engine):
        record(engine, request(alert("Old")))
        record(
            engine,
            request(
                alert("New"),
                alert("Old", status="resolved", ends_at=later(50)),
                {"labels": "broken"},
                alert("Never", status="resolved", ends_at=later(50)),
                7,
                alert("Newer"),
                received_at=later(60),
            ),
        )
        assert outcomes(engine)[1:] == [
            "admitted",
            "resolved",
            "malformed",
            "duplicate",
            "malformed",
            "admitted",
        ]
        assert "alerts[2].labels" in rows(engine)[3].reason
        assert [row.position for row in rows(engine)[1:]] == list(range(6))

    @pytest.mark.parametrize(
        "statuses, expected",
        [
            (["firing", "firing"], ["admitted", "duplicate"]),
            (["firing", "resolved"], ["admitted", "resolved"]),
            (["resolved", "firing"], ["duplicate", "admitted"]),
            (
                ["firing", "resolved", "firing", "firing"],
                ["admitted", "resolved", "admitted", "duplicate"],
            ),
        ],
    )
    def test_a_fingerprint_twice_in_one_payload(self, engine, statuses, expected):
        sent = [
            (
                alert(status=s, fingerprint="f", starts_at=later(i), ends_at=later(i))
                if s == "resolved"
                else alert(status=s, fingerprint="f", starts_at=later(i))
            )
            for i, s in enumerate(statuses)
        ]
        record(engine, request(*sent, received_at=later(60)))
        assert [row.outcome for row in sorted(rows(engine), key=lambda r: r.position)] == expected

    def test_names_are_told_apart_by_case(self, engine):
        config = {"max_remediations_per_hour": 1}
        record(engine, request(alert("HostDown"), alert("hostdown")), **config)
        assert outcomes(engine) == ["admitted", "admitted"]


class TestTogether:
    def test_the_same_alert_at_once_opens_one_incident(self, engine):
        sent = [request(alert(fingerprint="f")) for _ in range(6)]
        found = in_parallel(6, lambda i: record(engine, sent[i]))
        assert [f["recorded"] for f in found] == [1] * 6
        assert sorted(outcomes(engine)) == ["admitted"] + ["duplicate"] * 5
        (one,) = open_incidents(engine)
        assert one.notifications == 6

    def test_the_same_request_at_once_is_on_record_once(self, engine):
        sent = [request(alert(f"A{i}")) for i in range(5)]
        found = in_parallel(4, lambda i: record(engine, *sent))
        assert not [f for f in found if isinstance(f, Exception)], found
        assert sorted(c.request_id for c in rows(engine, api_calls)) == sorted(
            s.request_id for s in sent
        )
        assert len(rows(engine)) == 5
        assert [c.error for c in rows(engine, api_calls)] == [None] * 5

    def test_lists_that_cross_are_all_on_record(self, engine):
        names = [f"A{i}" for i in range(8)]
        lists = [
            [request(alert(n, fingerprint=n)) for n in names],
            [request(alert(n, fingerprint=n)) for n in reversed(names)],
        ]
        found = in_parallel(2, lambda i: record(engine, *lists[i]))
        assert [getattr(f, "args", None) or f["recorded"] for f in found] == [8, 8]
        assert len(open_incidents(engine)) == 8


class TestLink:
    WORKFLOW = "poundcake.host_down"

    @pytest.fixture
    def admitted(self, engine):
        sent = request(alert(fingerprint="f"))
        record(engine, sent)
        return sent.request_id, rows(engine)[0].episode

    def link(self, engine, admitted, execution="e1", workflow=WORKFLOW):
        return claims.link(engine, admitted[0], admitted[1], workflow, execution)

    def test_the_first_has_it(self, engine, admitted):
        found = self.link(engine, admitted)
        assert (found["claimed"], found["reason"]) == (True, "")
        (row,) = rows(engine, links)
        assert (row.request_id, row.st2_execution_id, row.st2_action_ref) == (
            admitted[0],
            "e1",
            self.WORKFLOW,
        )
        assert row.alert_id == found["alert_id"] == rows(engine)[0].id
        (mirrored,) = rows(engine, executions)
        assert (mirrored.id, mirrored.action, mirrored.status) == ("e1", self.WORKFLOW, "running")

    def test_the_same_execution_has_it_again(self, engine, admitted):
        assert [self.link(engine, admitted)["claimed"] for _ in range(3)] == [True] * 3
        assert len(rows(engine, links)) == 1

    def test_another_has_not(self, engine, admitted):
        self.link(engine, admitted)
        found = self.link(engine, admitted, "e2")
        assert found["claimed"] is False
        assert "e1" in found["reason"] and "poundcake.release" in found["reason"]
        assert admitted[1] in found["reason"]
        assert [row.st2_execution_id for row in rows(engine, links)] == ["e1"]
        assert len(rows(engine, executions)) == 1

    def test_another_workflow_has_it_too(self, engine, admitted):
        assert self.link(engine, admitted)["claimed"]
        assert self.link(engine, admitted, "e2", "other.workflow")["claimed"]

    def test_of_many_at_once_one_has_it(self, engine, admitted):
        found = in_parallel(
            8,
            lambda i: database.retry_while_unavailable(
                lambda: self.link(engine, admitted, f"e{i}"), seconds=30
            ),
        )
        assert sorted(f["claimed"] for f in found) == [False] * 7 + [True]
        (row,) = rows(engine, links)
        assert found[int(row.st2_execution_id[1:])]["claimed"]

    def test_one_execution_many_times_at_once_has_it_each_time(self, engine, admitted):
        found = in_parallel(
            5,
            lambda i: database.retry_while_unavailable(
                lambda: self.link(engine, admitted), seconds=30
            ),
        )
        assert [f["claimed"] for f in found] == [True] * 5
        assert len(rows(engine, links)) == 1

    def test_released_it_is_free_for_another(self, engine, admitted):
        self.link(engine, admitted)
        assert claims.release(engine, admitted[1]) == [
            {"st2_execution_id": "e1", "st2_workflow": self.WORKFLOW}
        ]
        assert self.link(engine, admitted, "e2")["claimed"]
        assert not self.link(engine, admitted, "e3")["claimed"]
        first, second = rows(engine, links)
        assert (first.claim, bool(first.released_at)) == (None, True)
        assert second.claim

    def test_release_of_one_workflow_leaves_the_others(self, engine, admitted):
        self.link(engine, admitted)
        self.link(engine, admitted, "e2", "other.workflow")
        found = claims.release(engine, admitted[1], "other.workflow")
        assert [f["st2_execution_id"] for f in found] == ["e2"]
        assert not self.link(engine, admitted, "e3")["claimed"]

    def test_release_of_nothing(self, engine):
        assert claims.release(engine, "no-such-episode") == []

    def test_a_repeat_of_the_alert_claims_the_same_episode(self, engine, admitted):
        """StackStorm may be handed the same episode under another request."""
        self.link(engine, admitted)
        ends = alert(status="resolved", fingerprint="f", ends_at=later(60))
        second = request(ends, received_at=later(70))
        record(engine, second)
        found = claims.link(engine, second.request_id, admitted[1], self.WORKFLOW, "e2")
        assert found["claimed"] is False

    @pytest.mark.parametrize(
        "refused", ["duplicate", "rate_limited", "cooldown", "malformed"], ids=str
    )
    def test_what_was_not_admitted_is_refused(self, engine, refused):
        one = alert(fingerprint="f")
        config = {}
        if refused == "cooldown":
            config = {"cooldown_seconds": 3600}
            record(engine, request(one))
            ends = alert(status="resolved", fingerprint="f", ends_at=later(1))
            record(engine, request(ends, received_at=later(2)))
            one = alert(fingerprint="f", starts_at=later(10))
        elif refused == "duplicate":
            record(engine, request(one))
        elif refused == "rate_limited":
            config = {"max_remediations_per_hour": 1}
            record(engine, request(alert(fingerprint="g")))
        sent = request(dict(one, endsAt="?") if refused == "malformed" else one)
        record(engine, sent, **config)
        row = rows(engine)[-1]
        assert row.outcome == refused
        if refused == "malformed":
            with pytest.raises(TrackingError):
                self.link(engine, (sent.request_id, "f-1"))
        else:
            found = self.link(engine, (sent.request_id, row.episode))
            assert found["claimed"] is False
            assert refused in found["reason"]
        assert rows(engine, links) == []

    @pytest.mark.parametrize(
        "request_id, episode", [("nobody", None), (None, "nothing"), ("", ""), ("'", "%s")]
    )
    def test_an_alert_that_is_not_on_record_is_an_error(
        self, engine, admitted, request_id, episode
    ):
        with pytest.raises(TrackingError, match="no alert"):
            self.link(
                engine,
                (
                    admitted[0] if request_id is None else request_id,
                    admitted[1] if episode is None else episode,
                ),
            )
        assert rows(engine, links) == []

    def test_without_an_execution_there_is_nothing_to_link(self, engine, admitted):
        with pytest.raises(TrackingError, match="^execution_id"):
            self.link(engine, admitted, "")

    def test_what_ended_long_ago_is_refused(self, engine, admitted):
        ends = alert(status="resolved", fingerprint="f", ends_at=later(60))
        now = datetime.datetime.now(UTC)
        record(engine, request(ends, received_at=now - datetime.timedelta(minutes=9)))
        assert self.link(engine, admitted)["claimed"]
        with database.transaction(engine) as connection:
            connection.execute(alerts.update().values(closed_at=later(65)))
        # Its own claim it has again.
        assert self.link(engine, admitted)["claimed"]
        found = self.link(engine, admitted, "e2", "poundcake.default")
        assert found["claimed"] is False
        assert found["reason"] == (
            f"the incident ended at 2026-01-14T12:01:05Z; `st2 run poundcake.replay request_id={admitted[0]} "
            "force=true` works on it all the same"
        )
        again = replay_request(engine, Config(), admitted[0], force=True)["request_id"]
        assert self.link(engine, (again, admitted[1]), "e3")["claimed"]

    def test_a_newer_schema_is_refused(self, engine, admitted):
        with database.transaction(engine) as connection:
            connection.execute(meta.update().where(meta.c.name == "schema").values(value="99"))
        with pytest.raises(DatabaseError, match="schema 99.*knows up to"):
            self.link(engine, admitted)
        with pytest.raises(DatabaseError, match="schema 99.*knows up to"):
            claims.release(engine, admitted[1])

    def test_long_names_do_not_share_a_claim(self, engine, admitted):
        one, other = "pack." + "w" * 250, "pack." + "w" * 249 + "x"
        assert self.link(engine, admitted, "e1", one)["claimed"]
        assert self.link(engine, admitted, "e2", other)["claimed"]
        assert not self.link(engine, admitted, "e3", one)["claimed"]
        assert len(claims.claim_key("e" * 96, one)) <= 255

    def test_an_execution_that_sync_linked_first_gets_its_claim(self, engine, admitted):
        now = datetime.datetime.now(UTC)
        with database.transaction(engine) as connection:
            connection.execute(
                links.insert().values(
                    request_id=admitted[0],
                    alert_id=rows(engine)[0].id,
                    st2_execution_id="e1",
                    created_at=now,
                )
            )
        assert self.link(engine, admitted)["claimed"]
        (row,) = rows(engine, links)
        assert row.claim


class TestHostCooldown:
    """One workflow, one host, not again within so many seconds, whichever alert asks."""

    @pytest.fixture
    def admitted(self, engine):
        """A function that records an alert of an instance that came now: (request_id, episode)."""

        def admit(instance, **more):
            now = datetime.datetime.now(UTC)
            sent = request(
                alert(labels={"instance": instance}, starts_at=now, **more), received_at=now
            )
            record(engine, sent)
            return sent.request_id, rows(engine)[-1].episode

        return admit

    def link(self, engine, found, execution, workflow="w", seconds=600):
        return claims.link(engine, found[0], found[1], workflow, execution, seconds)

    @pytest.mark.parametrize(
        "first, second, claimed",
        [
            ("web1:9100", "web1:9100", False),
            ("web1:9100", "web1:9256", False),
            ("web1", "web1:9100", False),
            ("web1:9100", "web1", False),
            ("[2001:db8::1]:9100", "[2001:db8::1]:9256", False),
            ("2001:db8::1", "[2001:db8::1]:9100", False),
            ("[2001:db8::1]:9100", "2001:db8::1", False),
            ("2001:db8::1", "2001:db8::2", True),
            ("2001:db8::1", "2001:db8::1:2", True),
            ("web1:9100", "web10:9100", True),
            ("web1:9100", "web1.example.org:9100", True),
            ("web_:9100", "web1:9100", True),
            ("web%:9100", "web1:9100", True),
            ("", "", True),
        ],
    )
    def test_which_host(self, engine, admitted, first, second, claimed):
        assert self.link(engine, admitted(first, fingerprint="one"), "e1")["claimed"]
        other = admitted(second, fingerprint="two")
        found = self.link(engine, other, "e2")
        assert found["claimed"] is claimed
        assert len(rows(engine, links)) == 1 + claimed
        if not claimed:
            assert "cooldown of this host until 20" in found["reason"]
            assert "e1 of w" in found["reason"]
            # Neither another workflow nor a host without a cooldown is held up.
            assert self.link(engine, other, "e3", workflow="v")["claimed"]
            assert self.link(engine, other, "e4", seconds=0)["claimed"]

    def test_it_ends(self, engine, admitted):
        self.link(engine, admitted("web1:9100", fingerprint="one"), "e1")
        other = admitted("web1:9100", fingerprint="two")
        with database.transaction(engine) as connection:
            connection.execute(
                links.update().values(
                    created_at=datetime.datetime.now(UTC) - datetime.timedelta(seconds=601)
                )
            )
        assert self.link(engine, other, "e2")["claimed"]

    def test_the_same_execution_has_its_claim_again(self, engine, admitted):
        found = admitted("web1:9100")
        assert [self.link(engine, found, "e1")["claimed"] for _ in range(2)] == [True, True]

    def test_what_an_operator_released_holds_up_nobody(self, engine, admitted):
        found = admitted("web1:9100")
        self.link(engine, found, "e1")
        claims.release(engine, found[1])
        assert self.link(engine, found, "e2")["claimed"]

    def test_of_several_at_once_one_passes(self, engine, admitted):
        each = [admitted(f"web1:{9100 + i}", fingerprint=str(i)) for i in range(4)]
        found = in_parallel(4, lambda i: self.link(engine, each[i], f"e{i}"))
        assert sorted(f["claimed"] for f in found) == [False, False, False, True]


class TestPatience:
    def test_it_is_tried_again_until_it_works(self, monkeypatch):
        monkeypatch.setattr(database.time, "sleep", lambda seconds: None)
        answers = iter([DatabaseError("away"), DatabaseError("away"), 7])

        def work():
            answer = next(answers)
            if isinstance(answer, Exception):
                raise answer
            return answer

        assert database.retry_while_unavailable(work, 60) == 7

    def test_it_ends_in_time(self):
        def work():
            raise DatabaseError("away")

        began = time.monotonic()
        with pytest.raises(DatabaseError):
            database.retry_while_unavailable(work, 1)
        assert time.monotonic() - began < 10

    def test_other_errors_are_final(self):
        calls = []

        def work():
            calls.append(1)
            raise TrackingError("no")

        with pytest.raises(TrackingError):
            database.retry_while_unavailable(work, 60)
        assert len(calls) == 1


class TestOnePayload:
    """One body with very many alerts must not hold the tables for minutes."""

    def test_thousands_of_the_same_alert_are_one_incident(self, engine):
        found = record(engine, request(*[alert() for _ in range(3000)]))
        assert found["outcomes"] == {"admitted": 1, "duplicate": 2999}
        assert len({row.episode for row in rows(engine)}) == 1

    def test_thousands_of_malformed_alerts(self, engine):
        found = record(engine, request(*[{} for _ in range(3000)]))
        assert found["outcomes"] == {"malformed": 3000}

    def test_more_alerts_than_sqlite_has_variables(self, engine):
        many = [alert(f"Many{n}") for n in range(1500)]
        assert record(engine, request(*many), max_remediations_per_hour=0)["recorded"] == 1
        assert record(engine, request(*many))["outcomes"] == {"duplicate": 1500}

    def test_the_limit_counts_each_admission_once(self, engine):
        found = record(
            engine,
            request(
                alert(labels={"instance": "a"}),
                alert(labels={"instance": "b"}),
                # Begins anew, and is decided once the others are in the table.
                alert(labels={"instance": "a"}, starts_at=later(3600)),
            ),
            max_remediations_per_hour=3,
        )
        assert found["outcomes"] == {"admitted": 3}


def test_a_resolve_of_long_ago_makes_no_notification_late(engine):
    """Alertmanager resolves what it hears nothing of, and fires it again with its old start."""
    sent = [
        request(alert(), received_at=later(60)),
        request(alert(status="resolved", ends_at=later(500)), received_at=later(600)),
        request(alert(), received_at=later(700)),
        request(alert(), received_at=later(3600)),
    ]
    assert [record(engine, one)["outcomes"] for one in sent] == [
        {"admitted": 1},
        {"resolved": 1},
        {"duplicate": 1},
        {"admitted": 1},
    ]
    # Under the name it had, so that a workflow that has worked on it does not do so again.
    assert len({row.episode for row in rows(engine)}) == 1


class TestLists:
    """A list is recorded as its requests would be one by one, in a few statements."""

    CONTENTS = st.fixed_dictionaries(
        {
            "fingerprint": st.sampled_from(["f", "g", "h"]),
            "name": st.sampled_from(["A", "a"]),
            "status": st.sampled_from(["firing", "firing", "resolved", "?"]),
            "starts_at": st.none() | st.integers(0, 12).map(lambda n: later(60 * n)),
            "ends_at": st.none() | st.integers(0, 12).map(lambda n: later(60 * n)),
            "annotations": st.sampled_from([{}, {}, {}, 7]),
        }
    )
    REQUESTS = st.lists(
        st.builds(
            lambda found, minute, number, broken: request(
                *(alert(**content) for content in found),
                received_at=later(60 * minute),
                request_id=str(uuid.UUID(int=number)),
                **({"body": "no json"} if broken else {}),
            ),
            st.lists(CONTENTS, max_size=5),
            st.integers(0, 15),
            # The same id comes again, with the same body or another.
            st.integers(0, 30),
            st.sampled_from([False] * 9 + [True]),
        ),
        min_size=1,
        max_size=8,
    )

    @pytest.fixture(scope="class")
    def two(self, tmp_path_factory):
        engines = []
        for name in ("lists", "singly"):
            path = tmp_path_factory.mktemp(name) / "tracking.db"
            engines.append(database.open_engine(f"sqlite:///{path}"))
            database.prepare(engines[-1])
        return engines

    def contents(self, engine):
        """All that is on record, but for ids and when it was written."""
        calls = {call.id: call.request_id for call in rows(engine, api_calls)}
        found = []
        for row in rows(engine):
            values = dict(row._mapping, api_call_id=calls[row.api_call_id])
            found.append({k: v for k, v in values.items() if k not in ("id", "recorded_at")})
        for row in rows(engine, api_calls):
            values = dict(row._mapping, completed_at=bool(row.completed_at))
            found.append({k: v for k, v in values.items() if k != "id"})
        return found

    @settings(max_examples=100, deadline=None)
    @given(
        REQUESTS,
        st.lists(st.integers(0, 7), max_size=2),
        st.integers(0, 8),
        st.sampled_from([0, 120, 600]),
        st.sampled_from([0, 1, 2]),
    )
    def test_one_list_is_as_good_as_many(self, two, sent, again, first, cooldown, limit):
        sent = sent + [sent[n % len(sent)] for n in again]
        config = {"cooldown_seconds": cooldown, "max_remediations_per_hour": limit}
        in_lists, singly = two
        for engine in two:
            with database.transaction(engine) as connection:
                connection.execute(alerts.delete())
                connection.execute(api_calls.delete())
        found = [record(in_lists, *part, **config) for part in (sent[:first], sent[first:])]
        expected = [record(singly, one, **config) for one in sent]
        assert self.contents(in_lists) == self.contents(singly)
        for count in ("recorded", "known", "failed"):
            assert sum(f[count] for f in found) == sum(e[count] for e in expected)
        assert sum((Counter(f["outcomes"]) for f in found), Counter()) == sum(
            (Counter(e["outcomes"]) for e in expected), Counter()
        )

    def test_the_same_from_list_to_list(self, engine):
        """What a list closes and sees again, on MariaDB too."""
        names = [f"A{n}" for n in range(250)]
        firing = [alert(n, fingerprint=n) for n in names]
        ends = [alert(n, "resolved", fingerprint=n, ends_at=later(300)) for n in names]
        record(engine, request(*firing))
        record(
            engine,
            request(*firing, received_at=later(60)),
            request(*firing[:10], received_at=later(120)),
            request(*ends[5:], received_at=later(310)),
            request(*firing[:5], received_at=later(320)),
        )
        first = rows(engine)[:250]
        assert [row.notifications for row in first] == [4] * 5 + [3] * 5 + [2] * 240
        assert [row.last_seen_at for row in first] == (
            [later(320)] * 5 + [later(120)] * 5 + [later(60)] * 240
        )
        assert [row.closed_at for row in first] == [None] * 5 + [later(310)] * 245
        assert [row.id for row in open_incidents(engine)] == [row.id for row in first[:5]]
        assert {row.attempt for row in rows(engine)} == {1}

    def test_the_hour_of_the_limit_goes_on_within_a_list(self, engine):
        sent = [
            request(alert("A", fingerprint=str(n)), received_at=later(seconds))
            for n, seconds in enumerate([0, 3599, 3600])
        ]
        record(engine, *sent, max_remediations_per_hour=1)
        assert outcomes(engine) == ["admitted", "rate_limited", "admitted"]

    def test_a_resolve_that_stands_twice_in_a_payload_is_no_notification(self, engine):
        """Not of an incident that begins between the two under the same name either."""
        one = {"fingerprint": "f", "starts_at": later(600)}
        ends = alert(status="resolved", ends_at=later(700), **one)
        record(engine, request(alert(**one)))
        record(engine, request(ends, alert(**one), ends, received_at=later(60)))
        assert outcomes(engine)[1:] == ["resolved", "admitted", "duplicate"]
        (held,) = open_incidents(engine)
        assert held.notifications == 1

    def test_few_statements(self, engine):
        """However many requests there are."""
        sent = [request(alert(labels={"i": str(n)})) for n in range(50)]
        counted = []
        count = lambda *_: counted.append(1)  # noqa: E731
        event.listen(engine, "before_cursor_execute", count)
        record(engine, sent[0])
        singly = len(counted)
        record(engine, *sent[1:])
        assert len(counted) == 2 * singly

    def test_the_first_that_cannot_be_written_is_found_among_many(self, engine, monkeypatch):
        row = record_module._alert_row

        def unfit(received_at, found, decision):
            # What no column can hold.
            values = row(received_at, found, decision)
            return dict(values, status=None) if found.name == "Poison" else values

        monkeypatch.setattr(record_module, "_alert_row", unfit)
        sent = [request(alert(f"A{n}")) for n in range(9)]
        sent[6] = request(alert("B"), alert("Poison"))
        found = record(engine, *sent)
        assert (found["recorded"], found["failed"]) == (8, 1)
        calls = rows(engine, api_calls)
        assert [call.request_id for call in calls] == [one.request_id for one in sent]
        assert [bool(call.error) for call in calls] == [False] * 6 + [True] + [False] * 2
        assert len(rows(engine)) == 8
        assert record(engine, *sent)["known"] == 9

    @pytest.mark.parametrize("both", [True, False])
    def test_another_endpoint_that_was_first_is_seen(self, mariadb_url, monkeypatch, both):
        """It records a request and opens its incident once they were looked up here."""
        engine = database.open_engine(mariadb_url)
        database.prepare(engine)
        mine, second = (request(alert(fingerprint="f")) for _ in range(2))
        decide = record_module._decide

        def meanwhile(*args):
            monkeypatch.setattr(record_module, "_decide", decide)
            record(engine, mine)
            return decide(*args)

        monkeypatch.setattr(record_module, "_decide", meanwhile)
        found = record(engine, *([mine, second] if both else [second]))
        assert (found["recorded"], found["known"], found["failed"]) == (1, int(both), 0)
        assert outcomes(engine) == ["admitted", "duplicate"]
        assert [call.error for call in rows(engine, api_calls)] == [None, None]
        engine.dispose()
