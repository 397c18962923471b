"""Recording stores each request and each incident once, and an outcome for each alert."""

from __future__ import annotations

import json
import re
import uuid
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import event, select

from poundcake import request_ids
from poundcake.config import Config
from poundcake.trail import admission, database
from poundcake.trail import record as record_module
from poundcake.trail.errors import DatabaseError
from poundcake.trail.record import record_requests
from poundcake.trail.schema import alerts, api_calls
from tests.lib.samples import NOON, alert, later, request, webhook
from tests.lib.trails import database_time, do_not_sync, in_parallel, on_mariadb, on_sqlite


def record(engine, *requests, now=None, **config):
    """Record requests at the time at which the last of them was received."""
    with database_time(now or max(sent.received_at for sent in requests)):
        config.setdefault("cooldown_seconds", 0)
        return record_requests(engine, Config(**config), requests)


def rows(engine, table=alerts):
    with database.reading(engine) as connection:
        return connection.execute(select(table).order_by(table.c.id)).all()


def outcomes(engine):
    return [row.outcome for row in rows(engine)]


def open_incidents(engine):
    return [row for row in rows(engine) if row.open_fingerprint]


class TestRequests:
    def test_everything_in_a_request_is_stored(self, engine):
        sent = request(
            alert(fingerprint="abc", labels={"job": "node"}),
            truncatedAlerts=3,
            headers={"User-Agent": "Alertmanager/0.25"},
        )
        assert record(engine, sent, now=later(7)) == {
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
        assert (call.receiver, call.group_status) == ("poundcake", "firing")
        assert call.truncated_alerts == 3
        assert (call.client_host, call.client_request_id, call.error) == ("192.0.2.7", None, None)
        assert call.body_sha256 == request_ids.body_sha256(sent.body)
        assert len(call.delivery_key) == 64
        assert (call.emitter, call.emitter_until) == (None, None)
        (row,) = rows(engine)
        assert (row.api_call_id, row.position, row.fingerprint) == (call.id, 0, "abc")
        assert (row.alert_name, row.severity) == ("HostDown", "critical")
        assert row.instance == "web-1:9100"
        assert json.loads(row.labels)["job"] == "node"
        assert json.loads(row.annotations) == {"summary": "down"}
        assert (row.status, row.starts_at, row.ends_at) == ("firing", NOON, None)
        assert (row.created_at, row.recorded_at) == (NOON, later(7))
        assert (row.outcome, row.open_fingerprint, row.notifications) == ("admitted", "abc", 1)
        assert row.episode == "abc-1768392000000"
        assert (row.explanation, row.held_until) == (None, None)

    def test_recording_again_changes_nothing(self, engine):
        sent = [request(alert("A")), request(alert("B"), alert("B", status="resolved"))]
        record(engine, *sent)
        before = rows(engine), rows(engine, api_calls)
        assert record(engine, *sent)["known"] == 2
        assert record(engine, sent[1], sent[1])["known"] == 2
        assert (rows(engine), rows(engine, api_calls)) == before

    @on_sqlite
    def test_a_request_that_is_twice_in_a_batch_is_recorded_once(self, engine):
        sent = request(alert())
        counts = record(engine, sent, sent)
        assert (counts["recorded"], counts["known"]) == (1, 1)
        assert len(rows(engine, api_calls)) == 1

    @on_sqlite
    def test_the_same_id_with_a_different_body_is_a_different_request(self, engine):
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

    def test_a_request_for_another_database_is_refused(self, engine):
        with pytest.raises(DatabaseError, match="the endpoint reads") as caught:
            record_requests(engine, Config(), [request(alert())], str(uuid.uuid4()))
        assert "database_url" in str(caught.value)
        assert not engine.url.password or engine.url.password not in str(caught.value)
        assert rows(engine, api_calls) == []
        counts = record_requests(engine, Config(), [request(alert())], database.prepare(engine))
        assert counts["recorded"] == 1

    @on_sqlite
    def test_without_auto_migrate_no_tables_are_created(self, database_url):
        engine = database.open_engine(database_url)
        with pytest.raises(DatabaseError, match="migrate"):
            record(engine, request(alert()), auto_migrate=False)
        engine.dispose()


class TestText:
    def test_long_text_is_cut_in_its_column_and_complete_in_the_json(self, engine):
        text = "🍰" * 50000
        sent = request(
            alert(text, labels={"severity": text, "instance": text, "x": text}, generatorURL=text),
            receiver=text,
            groupKey=text,
            headers={"User-Agent": text},
        )
        assert record(engine, sent)["recorded"] == 1
        (row,) = rows(engine)
        assert row.alert_name == "🍰" * 255
        assert row.severity == "🍰" * 64
        assert json.loads(row.labels)["x"] == text
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
        (row,) = rows(engine)
        assert row.alert_name == text
        assert json.loads(row.labels)[text] == text
        assert json.loads(row.annotations) == {text: text}

    def test_lone_surrogates_are_kept_in_the_json(self, engine):
        body = json.dumps(webhook(alert("\ud800", labels={"\udfff": "\ud83d é"})))
        assert record(engine, request(body=body))["recorded"] == 1
        (row,) = rows(engine)
        assert json.loads(row.labels)["\udfff"] == "\ud83d é"
        assert row.alert_name == "?"

    def test_a_large_body_with_a_lone_surrogate_is_recorded(self, engine):
        """5 MiB of text must not take more than 16 MiB on its way to MariaDB."""
        text = "🍰" * (5 * 2**20 // 4)
        body = json.dumps(webhook(alert("Big", annotations={"text": text})), ensure_ascii=False)
        body = body.replace('"text": "', '"text": "\\ud800')
        sent = [request(alert("A")), request(body=body), request(alert("B"))]
        assert record(engine, *sent)["recorded"] == 3
        assert json.loads(rows(engine)[1].annotations) == {"text": "\ud800" + text}

    def test_a_body_that_is_not_text_fails_alone(self, engine):
        sent = [request(alert("A")), request(body='{"alerts": "\udfff"}'), request(alert("B"))]
        counts = record(engine, *sent)
        assert (counts["recorded"], counts["failed"]) == (2, 1)
        call = rows(engine, api_calls)[1]
        assert (call.body, "not UTF-8" in call.error) == ('{"alerts": "?"}', True)

    @on_mariadb
    @pytest.mark.parametrize(
        "payload, named_part",
        [
            (webhook(alert(), groupKey="'" * (3 << 20)), "the request"),
            # As the JSON text of an object, it needs four times its space in the body.
            (webhook(alert(annotations={"x": {"y": "🍰" * 400_000}})), r"alerts\[0\]"),
        ],
        ids=["request", "alert"],
    )
    def test_a_request_too_large_for_the_server_fails_alone(
        self, engine, mariadb, payload, named_part
    ):
        big = request(body=json.dumps(payload, ensure_ascii=False))
        sent = [request(alert("A")), big, request(alert("B"))]
        mariadb.execute(f"SET GLOBAL max_allowed_packet = {4 << 20}")
        try:
            engine.dispose()
            counts = record(engine, *sent)
            assert (counts["recorded"], counts["failed"]) == (2, 1)
            call = rows(engine, api_calls)[1]
            assert re.match(f"{named_part}: .* max_allowed_packet is 4194304: raise it", call.error)
            assert len(call.body) > 0 and big.body.startswith(call.body)
            assert record(engine, *sent)["known"] == 3
        finally:
            mariadb.execute(f"SET GLOBAL max_allowed_packet = {16 << 20}")

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
    def test_any_time_can_be_recorded(self, engine, start):
        for _ in range(2):
            record(engine, request(alert(startsAt=start, fingerprint="f")))
        resolve = alert(status="resolved", startsAt=start, endsAt=start, fingerprint="f")
        record(engine, request(resolve))
        assert outcomes(engine) == ["admitted", "duplicate", "resolved"]


class TestFailures:
    def test_a_request_that_cannot_be_parsed_fails_alone(self, engine):
        good, poison, last = request(alert("A")), request(body="no json"), request(alert("B"))
        counts = record(engine, good, poison, last)
        assert (counts["recorded"], counts["failed"]) == (2, 1)
        calls = rows(engine, api_calls)
        assert [bool(c.error) for c in calls] == [False, True, False]
        assert calls[1].body == "no json" and calls[1].completed_at
        assert len(rows(engine)) == 2
        assert record(engine, good, poison, last)["known"] == 3

    @on_sqlite
    @pytest.mark.parametrize("error", [ValueError, OverflowError, KeyError, RuntimeError])
    def test_a_request_that_cannot_be_decided_fails_alone(self, engine, monkeypatch, error):
        decide = admission.decide

        def faulty(found, *args):
            if found.name == "Poison":
                raise error("a fault")
            return decide(found, *args)

        monkeypatch.setattr(admission, "decide", faulty)
        counts = record(
            engine, request(alert("A")), request(alert("B"), alert("Poison")), request(alert("C"))
        )
        assert (counts["recorded"], counts["failed"]) == (2, 1)
        assert [row.alert_name for row in rows(engine)] == ["A", "C"]
        assert [bool(c.error) for c in rows(engine, api_calls)] == [False, True, False]

    def test_a_request_that_cannot_be_written_fails_alone(self, engine, monkeypatch):
        make_row = record_module.alert_row

        def unfit(found, *args):
            row = make_row(found, *args)
            if found.name == "Poison":
                row.status = None  # the column must not be NULL
            return row

        monkeypatch.setattr(record_module, "alert_row", unfit)
        sent = [request(alert(f"A{n}")) for n in range(9)]
        sent[6] = request(alert("B"), alert("Poison"))
        counts = record(engine, *sent)
        assert (counts["recorded"], counts["failed"]) == (8, 1)
        calls = rows(engine, api_calls)
        assert [call.request_id for call in calls] == [one.request_id for one in sent]
        assert [bool(call.error) for call in calls] == [False] * 6 + [True] + [False] * 2
        assert len(rows(engine)) == 8
        assert record(engine, *sent)["known"] == 9


class TestOutcomes:
    def test_an_incident_from_firing_to_firing_again(self, engine):
        record(engine, request(alert()))
        record(engine, request(alert(), received_at=later(60)))
        resolve = alert(status="resolved", ends_at=later(90))
        record(engine, request(resolve, received_at=later(100)))
        record(engine, request(alert(starts_at=later(200)), received_at=later(210)))
        assert outcomes(engine) == ["admitted", "duplicate", "resolved", "admitted"]
        first, again, closing, second = rows(engine)
        assert first.episode == again.episode == closing.episode != second.episode
        assert (first.notifications, first.last_seen_at) == (2, later(60))
        assert closing.ends_at == later(90)
        assert [row.id for row in open_incidents(engine)] == [second.id]

    @on_sqlite
    def test_a_request_whose_alerts_are_not_emitted_is_complete(self, engine):
        record(engine, request(alert()))
        record(engine, request(alert()), request(body='{"alerts": []}'))
        first, second, empty = rows(engine, api_calls)
        assert first.completed_at is None
        assert second.completed_at and empty.completed_at
        assert [row.explanation for row in rows(engine)] == [None, "none"]

    @on_sqlite
    def test_a_resolve_without_an_incident_is_recorded(self, engine):
        record(engine, request(alert(status="resolved", ends_at=later(5))))
        (row,) = rows(engine)
        assert (row.outcome, row.reason) == ("duplicate", "no open incident")
        assert open_incidents(engine) == []

    @on_sqlite
    def test_a_notification_overtaken_by_its_resolve_is_late(self, engine):
        resolve = alert(status="resolved", ends_at=later(60))
        record(engine, request(resolve, received_at=later(70)))
        record(engine, request(alert(), received_at=later(69)), now=later(80))
        record(engine, request(alert(starts_at=later(61)), received_at=later(90)))
        assert outcomes(engine) == ["duplicate", "duplicate", "admitted"]
        assert rows(engine)[1].reason.startswith("late")

    def test_an_alert_that_fires_shortly_after_its_resolve_is_unconfirmed(self, engine):
        """It is a stale copy of another Alertmanager, or Prometheus was down and has returned."""
        record(engine, request(alert()))
        resolve = alert(status="resolved", ends_at=later(60))
        record(engine, request(resolve, received_at=later(70)))
        for seconds in (80, 159.9):
            record(engine, request(alert(), received_at=later(seconds)))
        assert outcomes(engine)[2:] == ["unconfirmed"] * 2
        (held,) = open_incidents(engine)
        assert (held.outcome, held.notifications, held.last_seen_at) == (
            "unconfirmed",
            2,
            later(159.9),
        )
        record(engine, request(alert(), received_at=later(160)))
        assert rows(engine)[-1].reason == "first notification after unconfirmed"
        first, _, unconfirmed, _, admitted = rows(engine)
        assert [row.id for row in open_incidents(engine)] == [admitted.id]
        assert (unconfirmed.closed_at, unconfirmed.ended_by) == (later(160), None)
        # The workflow that handled the first occurrence may handle this one.
        assert admitted.episode == unconfirmed.episode == f"{first.fingerprint}-1768392080000"
        assert admitted.starts_at == NOON

    @on_sqlite
    def test_the_resolve_of_a_peer_closes_an_unconfirmed_incident_silently(self, engine):
        resolve = alert(status="resolved", ends_at=later(60))
        record(engine, request(alert()))
        record(engine, request(resolve, received_at=later(70)))
        record(engine, request(alert(), received_at=later(80)))
        record(engine, request(resolve, received_at=later(90)))
        closing = rows(engine)[-1]
        assert (closing.outcome, closing.status) == ("unconfirmed", "resolved")
        assert closing.explanation == "none"
        assert rows(engine, api_calls)[-1].completed_at
        assert open_incidents(engine) == []
        assert [row.ended_by for row in rows(engine)] == ["resolve", None, "resolve", None]

    @on_sqlite
    def test_an_alert_that_fires_long_after_its_resolve_is_another_episode(self, engine):
        """Alertmanager resolves an alert without updates, and fires it again with its old start."""
        sent = [
            request(alert(), received_at=later(60)),
            request(alert(status="resolved", ends_at=later(500)), received_at=later(600)),
            request(alert(), received_at=later(690)),
        ]
        assert [record(engine, notification)["outcomes"] for notification in sent] == [
            {"admitted": 1},
            {"resolved": 1},
            {"admitted": 1},
        ]
        first, _, second = rows(engine)
        assert (first.starts_at, second.starts_at) == (NOON, NOON)
        assert second.episode == f"{first.fingerprint}-{1768392000000 + 690_000}" != first.episode

    def test_requests_are_decided_in_order_of_receipt(self, engine):
        """A delayed resolve does not close a newer incident, in one batch or in several."""
        resolve = request(alert(status="resolved", ends_at=later(60)), received_at=later(70))
        again = request(alert(starts_at=later(100)), received_at=later(110))
        record(engine, request(alert()))
        record(engine, again, resolve)
        assert [row.outcome for row in rows(engine)] == ["admitted", "resolved", "admitted"]
        assert [row.starts_at for row in open_incidents(engine)] == [later(100)]

    @on_sqlite
    def test_a_resolve_received_before_the_last_notification_closes_nothing(self, engine):
        resolve = request(alert(status="resolved", ends_at=later(60)), received_at=later(70))
        record(engine, request(alert()))
        record(engine, request(alert(), received_at=later(80)))
        record(engine, resolve, now=later(90))
        assert outcomes(engine) == ["admitted", "duplicate", "duplicate"]
        assert rows(engine)[-1].reason.endswith("has a later notification")
        assert len(open_incidents(engine)) == 1

    def test_the_clocks_of_sender_and_endpoint_are_not_compared(self, engine):
        """A firing alert without startsAt, and a resolve from a clock that is 90 s behind."""
        record(engine, request(alert(starts_at=None)))
        resolve = alert(status="resolved", starts_at=None, ends_at=later(-30))
        record(engine, request(resolve, received_at=later(60)))
        assert outcomes(engine) == ["admitted", "resolved"]
        assert [row.ended_by for row in rows(engine)] == ["resolve", None]

    @on_sqlite
    @pytest.mark.parametrize("start", ["soon", None, "2999-01-01T00:00:00Z"])
    def test_an_implausible_start_is_replaced_by_the_time_of_receipt(self, engine, start):
        sent = alert(startsAt=start)
        resolve = dict(sent, status="resolved", endsAt=start or "")
        for seconds in (0, 600):
            record(engine, request(sent, received_at=later(seconds)))
        record(engine, request(resolve, received_at=later(700)))
        assert outcomes(engine) == ["admitted", "duplicate", "resolved"]
        first = rows(engine)[0]
        assert (first.starts_at, first.episode[-13:]) == (NOON, "1768392000000")
        assert first.notes == {
            "soon": "startsAt: not a time: 'soon'",
            None: None,
            "2999-01-01T00:00:00Z": "startsAt: in the future when received: 2999-01-01T00:00:00Z",
        }.get(start)

    @on_sqlite
    def test_the_first_start_of_an_incident_is_kept(self, engine):
        for second, start in enumerate([None, later(-300), later(-600), later(-200)]):
            record(engine, request(alert(starts_at=start), received_at=later(second)))
        assert outcomes(engine) == ["admitted"] + ["duplicate"] * 3
        assert rows(engine)[0].sender_starts_at == later(-300)
        resolve = alert(status="resolved", ends_at=later(-301))
        record(engine, request(resolve, received_at=later(60)))
        assert rows(engine)[-1].reason.startswith("ended before")
        resolve["endsAt"] = alert(ends_at=later(-300))["endsAt"]
        record(engine, request(resolve, received_at=later(60)))
        assert outcomes(engine)[-1] == "resolved"

    @on_sqlite
    @pytest.mark.parametrize("at_once", [False, True])
    def test_no_episode_has_the_name_of_a_late_duplicate(self, engine, at_once):
        """With both in one batch, and in two."""
        record(engine, request(alert(status="resolved", ends_at=later(1)), received_at=later(10)))
        late, refire = (request(alert(), received_at=later(second)) for second in (5, 100))
        for requests in [[late, refire]] if at_once else [[late], [refire]]:
            record(engine, *requests)
        assert outcomes(engine) == ["duplicate", "duplicate", "admitted"]
        assert rows(engine)[1].episode != rows(engine)[2].episode

    def test_times_are_taken_from_the_databases_clock(self, engine):
        """The clocks of two endpoints differ by 10 min; the slow one receives the resolve."""
        firing = request(alert(), received_at=later(600))
        resolve = request(alert(status="resolved", ends_at=later(50)), received_at=later(-240))
        for sent, offset in ((firing, 600), (resolve, -300)):
            with database_time(later(90)):
                record_requests(engine, Config(), [sent], clock_offset_seconds=offset)
        assert [row.created_at for row in rows(engine)] == [NOON, later(60)]
        assert outcomes(engine) == ["admitted", "resolved"]

    @on_sqlite
    def test_a_request_is_never_received_in_the_future(self, engine):
        record(engine, request(alert(), received_at=later(7200)), now=later(10))
        record(engine, request(alert(status="resolved"), received_at=later(60)))
        assert outcomes(engine) == ["admitted", "resolved"]
        assert rows(engine, api_calls)[0].created_at == later(10)

    @on_sqlite
    @pytest.mark.parametrize(
        "receivers, first", [((), "admitted"), (("restart-team",), "observed")]
    )
    def test_an_unlisted_receiver_is_only_observed(self, engine, receivers, first):
        for second, receiver in enumerate(["audit-team", "audit-team", "restart-team", "audit"]):
            sent = request(alert(), receiver=receiver, received_at=later(second))
            record(engine, sent, receivers=receivers)
        assert outcomes(engine)[0] == first
        if receivers:
            assert outcomes(engine) == ["observed", "observed", "admitted", "duplicate"]
            assert rows(engine)[2].reason == "first notification after observed"
            assert "receivers" in rows(engine)[0].reason
        assert len(open_incidents(engine)) == 1
        resolve = request(alert(status="resolved"), receiver="audit-team", received_at=later(9))
        record(engine, resolve, receivers=receivers)
        assert (outcomes(engine)[-1], open_incidents(engine)) == ("resolved", [])

    @on_sqlite
    def test_an_observed_incident_ends_without_a_trigger(self, engine):
        record(engine, request(alert(), receiver="audit"), receivers=("restart",))
        resolve = request(alert(status="resolved"), receiver="restart", received_at=later(9))
        record(engine, resolve, receivers=("restart",))
        assert outcomes(engine) == ["observed", "observed"]
        assert [row.explanation for row in rows(engine)] == ["none", "none"]
        assert open_incidents(engine) == []

    @on_sqlite
    @pytest.mark.parametrize("name", ["web.hook", "web\\.hook", "a+b"])
    def test_a_receiver_has_its_name_from_alertmanagers_configuration(self, engine, name):
        r"""Alertmanager sends it as a regular expression: ``web\\.hook``."""
        sent = request(alert(), receiver=re.sub(r"([.+\\])", r"\\\1", name))
        record(engine, sent, receivers=(name,))
        assert outcomes(engine) == ["admitted"]

    @on_sqlite
    def test_a_stale_copy_to_a_receiver_that_may_start_is_not_confirmed_by_another(self, engine):
        config = {"receivers": ("restart",)}
        record(engine, request(alert(), receiver="restart"), **config)
        resolve = alert(status="resolved", ends_at=later(60))
        record(engine, request(resolve, receiver="restart", received_at=later(60)), **config)
        for second, receiver in ((70, "audit"), (80, "restart"), (90, "audit"), (150, "restart")):
            sent = request(alert(), receiver=receiver, received_at=later(second))
            record(engine, sent, **config)
        assert outcomes(engine)[2:] == ["observed", "unconfirmed", "observed", "admitted"]

    def test_ignored_labels_and_the_external_url(self, engine):
        sent = [alert(labels={"pod": pod}) for pod in ("a", "b")]
        record(engine, request(*sent), ignored_labels=("pod",))
        assert outcomes(engine) == ["admitted", "duplicate"]
        config = {"ignored_labels": ("pod",), "identity_source": "external_url"}
        for url in ("http://a", "http://b"):
            record(engine, request(sent[0], externalURL=url), **config)
        assert outcomes(engine)[2:] == ["admitted", "admitted"]
        resolve = alert(status="resolved", labels={"pod": "c"})
        record(engine, request(resolve, externalURL="http://a", received_at=later(5)), **config)
        assert outcomes(engine)[-1] == "resolved"
        assert len(open_incidents(engine)) == 2

    @on_sqlite
    def test_the_label_that_names_the_host(self, engine):
        exporter = {"instance": "kube-state-metrics:8080"}
        record(
            engine,
            request(alert(labels={**exporter, "node": "Worker-1."}), alert(labels=exporter)),
            host_label="node",
        )
        assert [row.host for row in rows(engine)] == ["worker-1", ""]
        assert {row.instance for row in rows(engine)} == {"kube-state-metrics:8080"}

    @on_sqlite
    def test_three_instances_under_one_fingerprint_of_a_relay(self, engine):
        sent = [
            dict(alert(labels={"instance": f"pay-{n}"}), fingerprint="3f1dc6a0b7e94d52")
            for n in range(3)
        ]
        record(engine, request(*sent))
        record(engine, request(dict(sent[2], status="resolved"), received_at=later(9)))
        assert outcomes(engine) == ["admitted"] * 3 + ["resolved"]
        assert {row.instance for row in open_incidents(engine)} == {"pay-0", "pay-1"}
        assert {row.sender_fingerprint for row in rows(engine)} == {"3f1dc6a0b7e94d52"}
        assert {row.host for row in rows(engine)} == {"pay-0", "pay-1", "pay-2"}

    @on_sqlite
    def test_an_empty_label_does_not_make_another_alert(self, engine):
        record(engine, request(alert(labels={"team": ""})))
        record(engine, request(alert(status="resolved"), received_at=later(9)))
        assert outcomes(engine) == ["admitted", "resolved"]
        assert "team" not in json.loads(rows(engine)[0].labels)

    @on_sqlite
    def test_a_later_start_supersedes_the_open_incident(self, engine):
        record(engine, request(alert()))
        record(engine, request(alert(starts_at=later(121)), received_at=later(130)))
        first, second = rows(engine)
        assert second.outcome == "admitted" and first.episode in second.reason
        assert [row.id for row in open_incidents(engine)] == [second.id]

    @on_sqlite
    def test_a_resolve_of_an_earlier_incident_closes_nothing(self, engine):
        record(engine, request(alert(starts_at=later(600)), received_at=later(610)))
        resolve = alert(status="resolved", ends_at=later(30))
        record(engine, request(resolve, received_at=later(620)))
        assert outcomes(engine) == ["admitted", "duplicate"]
        assert len(open_incidents(engine)) == 1

    @on_sqlite
    def test_a_delayed_request_does_not_move_last_seen_back(self, engine):
        for seconds in (0, 600, 300):
            record(engine, request(alert(), received_at=later(seconds)), now=later(600))
        assert rows(engine)[0].last_seen_at == later(600)
        assert rows(engine)[0].notifications == 3

    @on_sqlite
    def test_valid_alerts_are_recorded_despite_malformed_ones(self, engine):
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

    @on_sqlite
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
    def test_a_fingerprint_several_times_in_one_payload(self, engine, statuses, expected):
        sent = [
            alert(
                status=status,
                fingerprint="f",
                starts_at=later(i),
                ends_at=later(i) if status == "resolved" else None,
            )
            for i, status in enumerate(statuses)
        ]
        record(engine, request(*sent, received_at=later(60)))
        assert [row.outcome for row in sorted(rows(engine), key=lambda r: r.position)] == expected


class TestLimits:
    def test_a_cooldown_holds_the_alert_back_until_it_ends(self, engine):
        config = {"cooldown_seconds": 300}
        record(engine, request(alert()), **config)
        resolve = alert(status="resolved", ends_at=later(10))
        record(engine, request(resolve, received_at=later(20)), **config)
        for seconds in (30, 200, 299, 300, 310):
            again = alert(starts_at=later(25))
            record(engine, request(again, received_at=later(seconds)), **config)
        held = ["cooldown"] * 3
        assert outcomes(engine) == ["admitted", "resolved", *held, "admitted", "duplicate"]
        assert rows(engine)[2].reason == "cooldown until 2026-01-14T12:05:00Z"
        assert [row.held_until for row in rows(engine)[2:6]] == [later(300)] * 3 + [None]
        assert len({row.episode for row in rows(engine)[2:]}) == 1

    @on_sqlite
    def test_without_a_configuration_a_flapping_alert_starts_one_remediation(self, engine):
        """It flaps every 15 s for two minutes, past the doubt about stale copies."""
        for seconds in range(0, 120, 30):
            fires = alert(starts_at=later(seconds))
            ends = alert(status="resolved", starts_at=later(seconds), ends_at=later(seconds + 14))
            for second, sent_alert in ((0, fires), (15, ends)):
                sent = request(sent_alert, received_at=later(seconds + second))
                with database_time(sent.received_at):
                    record_requests(engine, Config(), [sent])
        assert outcomes(engine).count("admitted") == 1
        assert outcomes(engine).count("cooldown") == 3

    def test_a_rate_limit_holds_further_alerts_of_the_name_back(self, engine):
        config = {"max_remediations_per_hour": 2}
        several = [alert("A", labels={"i": str(i)}) for i in range(4)]
        record(engine, request(*several, alert("B"), alert("a")), **config)
        held = ["rate_limited"] * 2
        assert outcomes(engine) == ["admitted", "admitted", *held, "admitted", "admitted"]
        assert rows(engine)[2].reason.endswith("until 2026-01-14T13:00:00Z")
        assert "2 an hour" in rows(engine)[2].reason
        assert rows(engine)[2].held_until == later(3600)
        for seconds in (3599, 3600):
            record(engine, request(several[2], received_at=later(seconds)), **config)
        assert outcomes(engine)[6:] == ["rate_limited", "admitted"]

    @on_sqlite
    def test_a_rate_limit_ends_when_the_count_falls_below_it(self, engine):
        """More alerts than the limit are recorded, because the limit was higher before."""
        sent = [alert("A", labels={"i": str(i)}) for i in range(6)]
        for i in range(5):
            record(engine, request(sent[i], received_at=later(60 * i)))
        record(engine, request(sent[5], received_at=later(400)), max_remediations_per_hour=2)
        assert rows(engine)[-1].reason.endswith("until 2026-01-14T13:03:00Z")
        for seconds in (3779, 3780):
            again = request(sent[5], received_at=later(seconds))
            record(engine, again, max_remediations_per_hour=2)
        assert outcomes(engine)[6:] == ["rate_limited", "admitted"]

    @on_sqlite
    def test_without_a_rate_limit_everything_is_admitted(self, engine):
        several = [alert("A", labels={"i": str(i)}) for i in range(110)]
        record(engine, request(*several), max_remediations_per_hour=0)
        assert set(outcomes(engine)) == {"admitted"}

    @on_sqlite
    def test_the_rate_limit_counts_each_admission_once(self, engine):
        counts = record(
            engine,
            request(
                alert(labels={"instance": "a"}),
                alert(labels={"instance": "b"}),
                alert(labels={"instance": "a"}, starts_at=later(3600)),
            ),
            max_remediations_per_hour=3,
        )
        assert counts["outcomes"] == {"admitted": 3}

    @pytest.mark.parametrize("ahead", [7200, -7200])
    def test_limits_use_the_databases_clock(self, engine, ahead):
        """Regardless of the clocks of the two endpoints that received the alerts."""
        config = {"cooldown_seconds": 600, "max_remediations_per_hour": 2}
        record(engine, request(alert("A", fingerprint="f")), now=NOON, **config)
        again, other, third = (
            alert("A", fingerprint=name, starts_at=later(10**4)) for name in ("f", "g", "h")
        )
        wrong = later(ahead + 300)
        record(engine, request(again, other, third, received_at=wrong), now=later(300), **config)
        assert outcomes(engine)[1:] == ["cooldown", "admitted", "rate_limited"]
        assert [row.held_until for row in rows(engine)[1:]] == [later(600), None, later(3600)]
        record(engine, request(again, received_at=wrong), now=later(600), cooldown_seconds=600)
        assert outcomes(engine)[-1] == "admitted"

    def test_alerts_that_waited_in_a_journal_count_when_they_are_recorded(self, engine):
        """After an outage, the alerts of hours are recorded within minutes."""
        config = {"max_remediations_per_hour": 2}
        for hour in range(4):
            sent = request(alert("A", fingerprint=str(hour)), received_at=later(3600 * hour))
            record(engine, sent, now=later(4 * 3600), **config)
        assert outcomes(engine) == ["admitted", "admitted", "rate_limited", "rate_limited"]


class TestConcurrency:
    def test_the_same_alert_opens_one_incident(self, engine):
        sent = [request(alert(fingerprint="f")) for _ in range(6)]
        results = in_parallel(6, lambda i: record_requests(engine, Config(), [sent[i]]))
        assert [f["recorded"] for f in results] == [1] * 6
        assert sorted(outcomes(engine)) == ["admitted"] + ["duplicate"] * 5
        (row,) = open_incidents(engine)
        assert row.notifications == 6

    def test_the_same_request_is_recorded_once(self, engine):
        sent = [request(alert(f"A{i}")) for i in range(5)]
        results = in_parallel(4, lambda i: record_requests(engine, Config(), sent))
        assert not [f for f in results if isinstance(f, Exception)], results
        assert sorted(c.request_id for c in rows(engine, api_calls)) == sorted(
            s.request_id for s in sent
        )
        assert len(rows(engine)) == 5
        assert [c.error for c in rows(engine, api_calls)] == [None] * 5

    def test_overlapping_batches_are_both_recorded(self, engine):
        names = [f"A{i}" for i in range(8)]
        lists = [
            [request(alert(n, fingerprint=n)) for n in names],
            [request(alert(n, fingerprint=n)) for n in reversed(names)],
        ]
        results = in_parallel(2, lambda i: record_requests(engine, Config(), lists[i]))
        assert [getattr(f, "args", None) or f["recorded"] for f in results] == [8, 8]
        assert len(open_incidents(engine)) == 8

    @on_mariadb
    @pytest.mark.parametrize("both", [True, False])
    def test_a_concurrent_record_by_another_endpoint_is_noticed(self, engine, monkeypatch, both):
        """The other endpoint records a request and opens its incident after the lookup here."""
        mine, second = (request(alert(fingerprint="f")) for _ in range(2))
        decide = record_module._decide

        def record_first(*args):
            monkeypatch.setattr(record_module, "_decide", decide)
            record(engine, mine)
            return decide(*args)

        monkeypatch.setattr(record_module, "_decide", record_first)
        counts = record(engine, *([mine, second] if both else [second]))
        assert (counts["recorded"], counts["known"], counts["failed"]) == (1, int(both), 0)
        assert outcomes(engine) == ["admitted", "duplicate"]
        assert [call.error for call in rows(engine, api_calls)] == [None, None]


class TestLists:
    """A batch is recorded like its requests one by one, but in a few statements."""

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
            # The same id arrives again, with the same body or a different one.
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
            do_not_sync(engines[-1])
            database.prepare(engines[-1])
        return engines

    def contents(self, engine):
        """Return all recorded data except the ids of the rows."""
        calls = {call.id: call.request_id for call in rows(engine, api_calls)}
        found = []
        for row in rows(engine):
            values = dict(row._mapping, api_call_id=calls[row.api_call_id])
            found.append({k: v for k, v in values.items() if k != "id"})
        for row in rows(engine, api_calls):
            found.append({k: v for k, v in row._mapping.items() if k != "id"})
        return found

    @settings(max_examples=100, deadline=None)
    @given(
        REQUESTS,
        st.lists(st.integers(0, 7), max_size=2),
        st.integers(0, 8),
        st.sampled_from([0, 120, 600]),
        st.sampled_from([0, 1, 2]),
    )
    def test_a_batch_is_recorded_like_its_requests_one_by_one(
        self, two, sent, again, first, cooldown, limit
    ):
        sent = sent + [sent[n % len(sent)] for n in again]
        config = {"cooldown_seconds": cooldown, "max_remediations_per_hour": limit}
        in_lists, singly = two
        for engine in two:
            with database.transaction(engine) as connection:
                connection.execute(alerts.delete())
                connection.execute(api_calls.delete())
        parts = [(sent[:first], later(900)), (sent[first:], later(1200))]
        results = [record(in_lists, *part, now=now, **config) for part, now in parts if part]
        expected = [
            record(singly, single, now=now, **config)
            for part, now in parts
            for single in sorted(part, key=lambda request: request.received_at)
        ]
        assert self.contents(in_lists) == self.contents(singly)
        for count in ("recorded", "known", "failed"):
            assert sum(f[count] for f in results) == sum(e[count] for e in expected)
        assert sum((Counter(f["outcomes"]) for f in results), Counter()) == sum(
            (Counter(e["outcomes"]) for e in expected), Counter()
        )

    def test_incidents_of_an_earlier_batch_are_closed_and_counted(self, engine):
        names = [f"A{n}" for n in range(250)]
        firing = [alert(n, fingerprint=n) for n in names]
        resolve = [alert(n, "resolved", fingerprint=n, ends_at=later(300)) for n in names]
        record(engine, request(*firing))
        record(
            engine,
            request(*firing, received_at=later(60)),
            request(*firing[:10], received_at=later(120)),
            request(*resolve[5:], received_at=later(310)),
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

    @on_sqlite
    def test_a_duplicate_resolve_in_a_payload_is_not_a_notification(self, engine):
        """Nor is it one of an incident with the same name that begins between the two."""
        occurrence = {"fingerprint": "f", "starts_at": later(600)}
        resolve = alert(status="resolved", ends_at=later(700), **occurrence)
        record(engine, request(alert(**occurrence)))
        record(engine, request(resolve, alert(**occurrence), resolve, received_at=later(60)))
        assert outcomes(engine)[1:] == ["resolved", "unconfirmed", "duplicate"]
        (held,) = open_incidents(engine)
        assert held.notifications == 1

    def test_the_number_of_statements_does_not_grow_with_the_batch(self, engine):
        sent = [request(alert(labels={"i": str(n)})) for n in range(50)]
        statements = []
        event.listen(engine, "before_cursor_execute", lambda *a: statements.append(a[2]))
        record(engine, sent[0])
        for_one = len(statements)
        record(engine, *sent[1:])
        assert len(statements) == 2 * for_one
        assert for_one < 20

    @on_sqlite
    @pytest.mark.parametrize(
        "alerts_of, expected",
        [
            (lambda: [alert()] * 3000, {"admitted": 1, "duplicate": 2999}),
            (lambda: [{}] * 3000, {"malformed": 3000}),
        ],
    )
    def test_thousands_of_equal_alerts_in_one_payload(self, engine, alerts_of, expected):
        assert record(engine, request(*alerts_of()))["outcomes"] == expected

    def test_more_alerts_than_sqlite_has_variables(self, engine):
        many = [alert(f"Many{n}") for n in range(1500)]
        assert record(engine, request(*many), max_remediations_per_hour=0)["recorded"] == 1
        assert record(engine, request(*many))["outcomes"] == {"duplicate": 1500}
