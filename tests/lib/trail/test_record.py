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
from tests.lib.samples import NOON, alert, iso, later, request, webhook
from tests.lib.trails import database_time, disable_fsync, in_parallel, on_mariadb, on_sqlite


def record(engine, *requests, now=None, **config):
    """Record requests at the time `now`, which defaults to the time of the newest receipt."""
    with database_time(now or max(webhook_request.received_at for webhook_request in requests)):
        config.setdefault("cooldown_seconds", 0)
        return record_requests(engine, Config(**config), requests)


def read_rows(engine, table=alerts):
    with database.reading(engine) as connection:
        return connection.execute(select(table).order_by(table.c.id)).all()


def read_outcomes(engine):
    return [row.outcome for row in read_rows(engine)]


def read_open_incidents(engine):
    return [row for row in read_rows(engine) if row.open_fingerprint]


class TestRequests:
    def test_everything_in_a_request_is_stored(self, engine):
        webhook_request = request(
            alert(fingerprint="abc", labels={"job": "node"}),
            truncatedAlerts=3,
            headers={"User-Agent": "Alertmanager/0.25"},
        )
        assert record(engine, webhook_request, now=later(7)) == {
            "recorded": 1,
            "known": 0,
            "failed": 0,
            "outcomes": {"admitted": 1},
        }
        (call,) = read_rows(engine, api_calls)
        assert call.request_id == webhook_request.request_id
        assert (call.method, call.path, call.status_code) == ("POST", "/api/v1/webhook", 202)
        assert json.loads(call.headers) == {"User-Agent": "Alertmanager/0.25"}
        assert call.body == webhook_request.body
        assert (call.created_at, call.completed_at) == (NOON, None)
        assert (call.receiver, call.group_status) == ("poundcake", "firing")
        assert call.truncated_alerts == 3
        assert (call.client_host, call.client_request_id, call.error) == ("192.0.2.7", None, None)
        assert call.body_sha256 == request_ids.body_sha256(webhook_request.body)
        assert len(call.delivery_key) == 64
        assert (call.emitter, call.emitter_until) == (None, None)
        (row,) = read_rows(engine)
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
        requests = [request(alert("A")), request(alert("B"), alert("B", status="resolved"))]
        record(engine, *requests)
        before = read_rows(engine), read_rows(engine, api_calls)
        assert record(engine, *requests)["known"] == 2
        assert record(engine, requests[1], requests[1])["known"] == 2
        assert (read_rows(engine), read_rows(engine, api_calls)) == before

    @on_sqlite
    def test_a_request_repeated_in_a_batch_is_recorded_once(self, engine):
        webhook_request = request(alert())
        counts = record(engine, webhook_request, webhook_request)
        assert (counts["recorded"], counts["known"]) == (1, 1)
        assert len(read_rows(engine, api_calls)) == 1

    @on_sqlite
    def test_the_same_id_with_a_different_body_is_a_different_request(self, engine):
        first = request(alert("A"))
        second = request(alert("B"), request_id=first.request_id)
        for _ in range(2):
            record(engine, first)
            record(engine, second)
        calls = read_rows(engine, api_calls)
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
        assert read_rows(engine, api_calls) == []
        counts = record_requests(engine, Config(), [request(alert())], database.prepare(engine))
        assert counts["recorded"] == 1

    @on_sqlite
    def test_no_tables_are_created_without_auto_migrate(self, database_url):
        engine = database.open_engine(database_url)
        with pytest.raises(DatabaseError, match="migrate"):
            record(engine, request(alert()), auto_migrate=False)
        engine.dispose()


class TestText:
    def test_long_text_is_truncated_in_its_column_and_complete_in_the_json(self, engine):
        text = "🍰" * 50000
        webhook_request = request(
            alert(text, labels={"severity": text, "instance": text, "x": text}, generatorURL=text),
            receiver=text,
            groupKey=text,
            headers={"User-Agent": text},
        )
        assert record(engine, webhook_request)["recorded"] == 1
        (row,) = read_rows(engine)
        assert row.alert_name == "🍰" * 255
        assert row.severity == "🍰" * 64
        assert json.loads(row.labels)["x"] == text
        (call,) = read_rows(engine, api_calls)
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
        webhook_request = request(alert(text, labels={text: text}, annotations={text: text}))
        assert record(engine, webhook_request)["recorded"] == 1
        (row,) = read_rows(engine)
        assert row.alert_name == text
        assert json.loads(row.labels)[text] == text
        assert json.loads(row.annotations) == {text: text}

    def test_lone_surrogates_are_kept_in_the_json(self, engine):
        body = json.dumps(webhook(alert("\ud800", labels={"\udfff": "\ud83d é"})))
        assert record(engine, request(body=body))["recorded"] == 1
        (row,) = read_rows(engine)
        assert json.loads(row.labels)["\udfff"] == "\ud83d é"
        assert row.alert_name == "?"

    def test_a_large_body_with_a_lone_surrogate_is_recorded(self, engine):
        """For MariaDB, 5 MiB of text must fit into a packet of 16 MiB."""
        text = "🍰" * (5 * 2**20 // 4)
        body = json.dumps(webhook(alert("Big", annotations={"text": text})), ensure_ascii=False)
        body = body.replace('"text": "', '"text": "\\ud800')
        requests = [request(alert("A")), request(body=body), request(alert("B"))]
        assert record(engine, *requests)["recorded"] == 3
        assert json.loads(read_rows(engine)[1].annotations) == {"text": "\ud800" + text}

    def test_a_body_that_is_not_utf8_does_not_affect_other_requests(self, engine):
        requests = [request(alert("A")), request(body='{"alerts": "\udfff"}'), request(alert("B"))]
        counts = record(engine, *requests)
        assert (counts["recorded"], counts["failed"]) == (2, 1)
        call = read_rows(engine, api_calls)[1]
        assert (call.body, "not UTF-8" in call.error) == ('{"alerts": "?"}', True)

    @on_mariadb
    @pytest.mark.parametrize(
        "payload, named_part",
        [
            (webhook(alert(), groupKey="'" * (3 << 20)), "the request"),
            # The alert is stored as escaped JSON, more than three times as long as in the body.
            (webhook(alert(annotations={"x": {"y": "🍰" * 400_000}})), r"alerts\[0\]"),
        ],
        ids=["request", "alert"],
    )
    def test_a_request_too_large_for_the_server_does_not_affect_others(
        self, engine, mariadb, payload, named_part
    ):
        large_request = request(body=json.dumps(payload, ensure_ascii=False))
        requests = [request(alert("A")), large_request, request(alert("B"))]
        mariadb.execute(f"SET GLOBAL max_allowed_packet = {4 << 20}")
        try:
            engine.dispose()
            counts = record(engine, *requests)
            assert (counts["recorded"], counts["failed"]) == (2, 1)
            call = read_rows(engine, api_calls)[1]
            assert re.match(f"{named_part}: .* max_allowed_packet is 4194304: raise it", call.error)
            assert len(call.body) > 0 and large_request.body.startswith(call.body)
            assert record(engine, *requests)["known"] == 3
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
        assert read_outcomes(engine) == ["admitted", "duplicate", "resolved"]


class TestFailures:
    def test_a_request_that_cannot_be_parsed_does_not_affect_others(self, engine):
        first, broken, last = request(alert("A")), request(body="not JSON"), request(alert("B"))
        counts = record(engine, first, broken, last)
        assert (counts["recorded"], counts["failed"]) == (2, 1)
        calls = read_rows(engine, api_calls)
        assert [bool(c.error) for c in calls] == [False, True, False]
        assert calls[1].body == "not JSON" and calls[1].completed_at
        assert len(read_rows(engine)) == 2
        assert record(engine, first, broken, last)["known"] == 3

    @on_sqlite
    @pytest.mark.parametrize("error", [ValueError, OverflowError, KeyError, RuntimeError])
    def test_a_request_whose_admission_raises_an_error_does_not_affect_others(
        self, engine, monkeypatch, error
    ):
        decide = admission.decide

        def decide_or_fail(parsed_alert, *args):
            if parsed_alert.name == "Poison":
                raise error("a fault")
            return decide(parsed_alert, *args)

        monkeypatch.setattr(admission, "decide", decide_or_fail)
        counts = record(
            engine, request(alert("A")), request(alert("B"), alert("Poison")), request(alert("C"))
        )
        assert (counts["recorded"], counts["failed"]) == (2, 1)
        assert [row.alert_name for row in read_rows(engine)] == ["A", "C"]
        assert [bool(c.error) for c in read_rows(engine, api_calls)] == [False, True, False]

    def test_a_request_that_cannot_be_written_does_not_affect_others(self, engine, monkeypatch):
        make_row = record_module.alert_row

        def make_invalid_row(parsed_alert, *args):
            row = make_row(parsed_alert, *args)
            if parsed_alert.name == "Poison":
                row.status = None  # the column must not be NULL
            return row

        monkeypatch.setattr(record_module, "alert_row", make_invalid_row)
        requests = [request(alert(f"A{n}")) for n in range(9)]
        requests[6] = request(alert("B"), alert("Poison"))
        counts = record(engine, *requests)
        assert (counts["recorded"], counts["failed"]) == (8, 1)
        calls = read_rows(engine, api_calls)
        assert [call.request_id for call in calls] == [expected.request_id for expected in requests]
        assert [bool(call.error) for call in calls] == [False] * 6 + [True] + [False] * 2
        assert len(read_rows(engine)) == 8
        assert record(engine, *requests)["known"] == 9


class TestOutcomes:
    def test_an_alert_that_fires_resolves_and_fires_again_has_two_incidents(self, engine):
        record(engine, request(alert()))
        record(engine, request(alert(), received_at=later(60)))
        resolve = alert(status="resolved", ends_at=later(90))
        record(engine, request(resolve, received_at=later(100)))
        record(engine, request(alert(starts_at=later(200)), received_at=later(210)))
        assert read_outcomes(engine) == ["admitted", "duplicate", "resolved", "admitted"]
        opening, duplicate, closing, reopening = read_rows(engine)
        assert opening.episode == duplicate.episode == closing.episode != reopening.episode
        assert (opening.notifications, opening.last_seen_at) == (2, later(60))
        assert closing.ends_at == later(90)
        assert [row.id for row in read_open_incidents(engine)] == [reopening.id]

    @on_sqlite
    def test_a_request_whose_alerts_are_not_emitted_is_complete(self, engine):
        record(engine, request(alert()))
        record(engine, request(alert()), request(body='{"alerts": []}'))
        first, second, empty = read_rows(engine, api_calls)
        assert first.completed_at is None
        assert second.completed_at and empty.completed_at
        assert [row.explanation for row in read_rows(engine)] == [None, "none"]

    @on_sqlite
    def test_a_resolve_without_an_incident_is_recorded(self, engine):
        record(engine, request(alert(status="resolved", ends_at=later(5))))
        (row,) = read_rows(engine)
        assert (row.outcome, row.reason) == ("duplicate", "no open incident")
        assert read_open_incidents(engine) == []

    @on_sqlite
    def test_a_notification_overtaken_by_its_resolve_is_late(self, engine):
        resolve = alert(status="resolved", ends_at=later(60))
        record(engine, request(resolve, received_at=later(70)))
        record(engine, request(alert(), received_at=later(69)), now=later(80))
        record(engine, request(alert(starts_at=later(61)), received_at=later(90)))
        assert read_outcomes(engine) == ["duplicate", "duplicate", "admitted"]
        assert read_rows(engine)[1].reason.startswith("late")

    def test_an_alert_that_fires_shortly_after_its_resolve_is_unconfirmed(self, engine):
        """Another Alertmanager sent a stale copy, or Prometheus was down and is back."""
        record(engine, request(alert()))
        resolve = alert(status="resolved", ends_at=later(60))
        record(engine, request(resolve, received_at=later(70)))
        for seconds in (80, 159.9):
            record(engine, request(alert(), received_at=later(seconds)))
        assert read_outcomes(engine)[2:] == ["unconfirmed"] * 2
        (incident,) = read_open_incidents(engine)
        assert (incident.outcome, incident.notifications, incident.last_seen_at) == (
            "unconfirmed",
            2,
            later(159.9),
        )
        record(engine, request(alert(), received_at=later(160)))
        assert read_rows(engine)[-1].reason == "first notification after unconfirmed"
        first, _, unconfirmed, _, admitted = read_rows(engine)
        assert [row.id for row in read_open_incidents(engine)] == [admitted.id]
        assert (unconfirmed.closed_at, unconfirmed.ended_by) == (later(160), None)
        # The workflow that handled the first occurrence may handle this one.
        assert admitted.episode == unconfirmed.episode == f"{first.fingerprint}-1768392080000"
        assert admitted.starts_at == NOON

    @on_sqlite
    def test_a_resolve_from_a_peer_closes_an_unconfirmed_incident_silently(self, engine):
        resolve = alert(status="resolved", ends_at=later(60))
        record(engine, request(alert()))
        record(engine, request(resolve, received_at=later(70)))
        record(engine, request(alert(), received_at=later(80)))
        record(engine, request(resolve, received_at=later(90)))
        closing = read_rows(engine)[-1]
        assert (closing.outcome, closing.status) == ("unconfirmed", "resolved")
        assert closing.explanation == "none"
        assert read_rows(engine, api_calls)[-1].completed_at
        assert read_open_incidents(engine) == []
        assert [row.ended_by for row in read_rows(engine)] == ["resolve", None, "resolve", None]

    @on_sqlite
    def test_an_alert_that_fires_long_after_its_resolve_opens_another_episode(self, engine):
        """Alertmanager resolves an alert without updates, and fires it again with its old start."""
        notifications = [
            request(alert(), received_at=later(60)),
            request(alert(status="resolved", ends_at=later(500)), received_at=later(600)),
            request(alert(), received_at=later(690)),
        ]
        assert [record(engine, notification)["outcomes"] for notification in notifications] == [
            {"admitted": 1},
            {"resolved": 1},
            {"admitted": 1},
        ]
        first, _, second = read_rows(engine)
        assert (first.starts_at, second.starts_at) == (NOON, NOON)
        assert second.episode == f"{first.fingerprint}-{1768392000000 + 690_000}" != first.episode

    def test_requests_are_decided_in_order_of_receipt(self, engine):
        """A delayed resolve does not close a newer incident, in one batch or in several."""
        resolve = request(alert(status="resolved", ends_at=later(60)), received_at=later(70))
        refire = request(alert(starts_at=later(100)), received_at=later(110))
        record(engine, request(alert()))
        record(engine, refire, resolve)
        assert [row.outcome for row in read_rows(engine)] == ["admitted", "resolved", "admitted"]
        assert [row.starts_at for row in read_open_incidents(engine)] == [later(100)]

    @on_sqlite
    def test_a_resolve_received_before_the_last_notification_closes_nothing(self, engine):
        resolve = request(alert(status="resolved", ends_at=later(60)), received_at=later(70))
        record(engine, request(alert()))
        record(engine, request(alert(), received_at=later(80)))
        record(engine, resolve, now=later(90))
        assert read_outcomes(engine) == ["admitted", "duplicate", "duplicate"]
        assert read_rows(engine)[-1].reason.endswith("has a later notification")
        assert len(read_open_incidents(engine)) == 1

    def test_the_clocks_of_sender_and_endpoint_are_not_compared(self, engine):
        """The firing alert has no startsAt, and the clock of the sender is 90 s behind."""
        record(engine, request(alert(starts_at=None)))
        resolve = alert(status="resolved", starts_at=None, ends_at=later(-30))
        record(engine, request(resolve, received_at=later(60)))
        assert read_outcomes(engine) == ["admitted", "resolved"]
        assert [row.ended_by for row in read_rows(engine)] == ["resolve", None]

    @on_sqlite
    @pytest.mark.parametrize("start", ["soon", None, "2999-01-01T00:00:00Z"])
    def test_an_implausible_start_is_replaced_by_the_time_of_receipt(self, engine, start):
        firing = alert(startsAt=start)
        resolve = dict(firing, status="resolved", endsAt=start or "")
        for seconds in (0, 600):
            record(engine, request(firing, received_at=later(seconds)))
        record(engine, request(resolve, received_at=later(700)))
        assert read_outcomes(engine) == ["admitted", "duplicate", "resolved"]
        opening = read_rows(engine)[0]
        assert (opening.starts_at, opening.episode[-13:]) == (NOON, "1768392000000")
        assert opening.notes == {
            "soon": "startsAt: not a time: 'soon'",
            None: None,
            "2999-01-01T00:00:00Z": "startsAt: in the future when received: 2999-01-01T00:00:00Z",
        }.get(start)

    @on_sqlite
    @pytest.mark.parametrize("start_in_resolve", ["2999-01-01T00:00:00Z", iso(NOON), None])
    def test_a_resolve_closes_an_incident_whose_start_is_far_in_the_future(
        self, engine, start_in_resolve
    ):
        """If the start were kept, every end would be earlier, and the incident would stay open."""
        firing = alert(startsAt="2999-01-01T00:00:00Z")
        resolve = alert(status="resolved", startsAt=start_in_resolve, endsAt=iso(later(60)))
        record(engine, request(firing))
        record(engine, request(resolve, received_at=later(70)))
        record(engine, request(alert(starts_at=later(86400)), received_at=later(86410)))
        assert read_outcomes(engine) == ["admitted", "resolved", "admitted"]

    @on_sqlite
    def test_the_first_start_of_an_incident_is_kept(self, engine):
        for second, start in enumerate([None, later(-300), later(-600), later(-200)]):
            record(engine, request(alert(starts_at=start), received_at=later(second)))
        assert read_outcomes(engine) == ["admitted"] + ["duplicate"] * 3
        assert read_rows(engine)[0].sender_starts_at == later(-300)
        resolve = alert(status="resolved", ends_at=later(-301))
        record(engine, request(resolve, received_at=later(60)))
        assert read_rows(engine)[-1].reason.startswith("ended before")
        resolve["endsAt"] = alert(ends_at=later(-300))["endsAt"]
        record(engine, request(resolve, received_at=later(60)))
        assert read_outcomes(engine)[-1] == "resolved"

    @on_sqlite
    @pytest.mark.parametrize("in_one_batch", [False, True])
    def test_no_episode_reuses_the_name_of_a_late_duplicate(self, engine, in_one_batch):
        """Both requests arrive in one batch, or each in its own."""
        record(engine, request(alert(status="resolved", ends_at=later(1)), received_at=later(10)))
        late, refire = (request(alert(), received_at=later(second)) for second in (5, 100))
        for requests in [[late, refire]] if in_one_batch else [[late], [refire]]:
            record(engine, *requests)
        assert read_outcomes(engine) == ["duplicate", "duplicate", "admitted"]
        assert read_rows(engine)[1].episode != read_rows(engine)[2].episode

    def test_times_are_taken_from_the_databases_clock(self, engine):
        """The clock of one endpoint is 10 min ahead, the clock of the other 5 min behind."""
        firing = request(alert(), received_at=later(600))
        resolve = request(alert(status="resolved", ends_at=later(50)), received_at=later(-240))
        for webhook_request, offset in ((firing, 600), (resolve, -300)):
            with database_time(later(90)):
                record_requests(engine, Config(), [webhook_request], clock_offset_seconds=offset)
        assert [row.created_at for row in read_rows(engine)] == [NOON, later(60)]
        assert read_outcomes(engine) == ["admitted", "resolved"]

    @on_sqlite
    def test_a_request_is_never_received_in_the_future(self, engine):
        record(engine, request(alert(), received_at=later(7200)), now=later(10))
        record(engine, request(alert(status="resolved"), received_at=later(60)))
        assert read_outcomes(engine) == ["admitted", "resolved"]
        assert read_rows(engine, api_calls)[0].created_at == later(10)

    @on_sqlite
    @pytest.mark.parametrize(
        "receivers, first_outcome", [((), "admitted"), (("restart-team",), "observed")]
    )
    def test_an_alert_of_an_unlisted_receiver_is_only_observed(
        self, engine, receivers, first_outcome
    ):
        for second, receiver in enumerate(["audit-team", "audit-team", "restart-team", "audit"]):
            webhook_request = request(alert(), receiver=receiver, received_at=later(second))
            record(engine, webhook_request, receivers=receivers)
        assert read_outcomes(engine)[0] == first_outcome
        if receivers:
            assert read_outcomes(engine) == ["observed", "observed", "admitted", "duplicate"]
            assert read_rows(engine)[2].reason == "first notification after observed"
            assert "receivers" in read_rows(engine)[0].reason
        assert len(read_open_incidents(engine)) == 1
        resolve = request(alert(status="resolved"), receiver="audit-team", received_at=later(9))
        record(engine, resolve, receivers=receivers)
        assert (read_outcomes(engine)[-1], read_open_incidents(engine)) == ("resolved", [])

    @on_sqlite
    def test_an_observed_incident_ends_without_a_trigger(self, engine):
        record(engine, request(alert(), receiver="audit"), receivers=("restart",))
        resolve = request(alert(status="resolved"), receiver="restart", received_at=later(9))
        record(engine, resolve, receivers=("restart",))
        assert read_outcomes(engine) == ["observed", "observed"]
        assert [row.explanation for row in read_rows(engine)] == ["none", "none"]
        assert read_open_incidents(engine) == []

    @on_sqlite
    @pytest.mark.parametrize("name", ["web.hook", "web\\.hook", "a+b"])
    def test_receivers_are_listed_with_their_names_from_alertmanagers_configuration(
        self, engine, name
    ):
        r"""Alertmanager sends the name as a regular expression: ``web\\.hook``."""
        webhook_request = request(alert(), receiver=re.sub(r"([.+\\])", r"\\\1", name))
        record(engine, webhook_request, receivers=(name,))
        assert read_outcomes(engine) == ["admitted"]

    @on_sqlite
    def test_a_stale_copy_to_a_listed_receiver_is_not_confirmed_by_an_unlisted_one(self, engine):
        config = {"receivers": ("restart",)}
        record(engine, request(alert(), receiver="restart"), **config)
        resolve = alert(status="resolved", ends_at=later(60))
        record(engine, request(resolve, receiver="restart", received_at=later(60)), **config)
        for second, receiver in ((70, "audit"), (80, "restart"), (90, "audit"), (150, "restart")):
            webhook_request = request(alert(), receiver=receiver, received_at=later(second))
            record(engine, webhook_request, **config)
        assert read_outcomes(engine)[2:] == ["observed", "unconfirmed", "observed", "admitted"]

    def test_ignored_labels_and_the_external_url_determine_which_alerts_are_the_same(self, engine):
        pod_alerts = [alert(labels={"pod": pod}) for pod in ("a", "b")]
        record(engine, request(*pod_alerts), ignored_labels=("pod",))
        assert read_outcomes(engine) == ["admitted", "duplicate"]
        config = {"ignored_labels": ("pod",), "identity_source": "external_url"}
        for url in ("http://a", "http://b"):
            record(engine, request(pod_alerts[0], externalURL=url), **config)
        assert read_outcomes(engine)[2:] == ["admitted", "admitted"]
        resolve = alert(status="resolved", labels={"pod": "c"})
        record(engine, request(resolve, externalURL="http://a", received_at=later(5)), **config)
        assert read_outcomes(engine)[-1] == "resolved"
        assert len(read_open_incidents(engine)) == 2

    @on_sqlite
    def test_the_host_is_read_from_the_configured_label(self, engine):
        exporter = {"instance": "kube-state-metrics:8080"}
        record(
            engine,
            request(alert(labels={**exporter, "node": "Worker-1."}), alert(labels=exporter)),
            host_label="node",
        )
        assert [row.host for row in read_rows(engine)] == ["worker-1", ""]
        assert {row.instance for row in read_rows(engine)} == {"kube-state-metrics:8080"}

    @on_sqlite
    def test_three_instances_with_one_fingerprint_from_a_relay_are_three_incidents(self, engine):
        relayed_alerts = [
            dict(alert(labels={"instance": f"pay-{n}"}), fingerprint="3f1dc6a0b7e94d52")
            for n in range(3)
        ]
        record(engine, request(*relayed_alerts))
        record(engine, request(dict(relayed_alerts[2], status="resolved"), received_at=later(9)))
        assert read_outcomes(engine) == ["admitted"] * 3 + ["resolved"]
        assert {row.instance for row in read_open_incidents(engine)} == {"pay-0", "pay-1"}
        assert {row.sender_fingerprint for row in read_rows(engine)} == {"3f1dc6a0b7e94d52"}
        assert {row.host for row in read_rows(engine)} == {"pay-0", "pay-1", "pay-2"}

    @on_sqlite
    def test_an_empty_label_does_not_make_a_different_alert(self, engine):
        record(engine, request(alert(labels={"team": ""})))
        record(engine, request(alert(status="resolved"), received_at=later(9)))
        assert read_outcomes(engine) == ["admitted", "resolved"]
        assert "team" not in json.loads(read_rows(engine)[0].labels)

    @on_sqlite
    def test_a_later_start_supersedes_the_open_incident(self, engine):
        record(engine, request(alert()))
        record(engine, request(alert(starts_at=later(121)), received_at=later(130)))
        first, second = read_rows(engine)
        assert second.outcome == "admitted" and first.episode in second.reason
        assert [row.id for row in read_open_incidents(engine)] == [second.id]

    @on_sqlite
    def test_a_resolve_of_an_earlier_incident_closes_nothing(self, engine):
        record(engine, request(alert(starts_at=later(600)), received_at=later(610)))
        resolve = alert(status="resolved", ends_at=later(30))
        record(engine, request(resolve, received_at=later(620)))
        assert read_outcomes(engine) == ["admitted", "duplicate"]
        assert len(read_open_incidents(engine)) == 1

    @on_sqlite
    def test_a_delayed_request_does_not_move_last_seen_back(self, engine):
        for seconds in (0, 600, 300):
            record(engine, request(alert(), received_at=later(seconds)), now=later(600))
        assert read_rows(engine)[0].last_seen_at == later(600)
        assert read_rows(engine)[0].notifications == 3

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
        assert read_outcomes(engine)[1:] == [
            "admitted",
            "resolved",
            "malformed",
            "duplicate",
            "malformed",
            "admitted",
        ]
        assert "alerts[2].labels" in read_rows(engine)[3].reason
        assert [row.position for row in read_rows(engine)[1:]] == list(range(6))

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
    def test_alerts_with_one_fingerprint_in_one_payload_are_decided_in_order(
        self, engine, statuses, expected
    ):
        alerts_in_payload = [
            alert(
                status=status,
                fingerprint="f",
                starts_at=later(i),
                ends_at=later(i) if status == "resolved" else None,
            )
            for i, status in enumerate(statuses)
        ]
        record(engine, request(*alerts_in_payload, received_at=later(60)))
        assert [
            row.outcome for row in sorted(read_rows(engine), key=lambda r: r.position)
        ] == expected


class TestLimits:
    def test_a_cooldown_holds_the_alert_back_until_it_ends(self, engine):
        config = {"cooldown_seconds": 300}
        record(engine, request(alert()), **config)
        resolve = alert(status="resolved", ends_at=later(10))
        record(engine, request(resolve, received_at=later(20)), **config)
        for seconds in (30, 200, 299, 300, 310):
            refire = alert(starts_at=later(25))
            record(engine, request(refire, received_at=later(seconds)), **config)
        held_back = ["cooldown"] * 3
        assert read_outcomes(engine) == [
            "admitted",
            "resolved",
            *held_back,
            "admitted",
            "duplicate",
        ]
        assert read_rows(engine)[2].reason == "cooldown until 2026-01-14T12:05:00Z"
        assert [row.held_until for row in read_rows(engine)[2:6]] == [later(300)] * 3 + [None]
        assert len({row.episode for row in read_rows(engine)[2:]}) == 1

    @on_sqlite
    def test_a_flapping_alert_starts_one_remediation_by_default(self, engine):
        """It fires and resolves every 15 s for two minutes."""
        for seconds in range(0, 120, 30):
            firing = alert(starts_at=later(seconds))
            resolve = alert(
                status="resolved", starts_at=later(seconds), ends_at=later(seconds + 14)
            )
            for second, notification in ((0, firing), (15, resolve)):
                webhook_request = request(notification, received_at=later(seconds + second))
                with database_time(webhook_request.received_at):
                    record_requests(engine, Config(), [webhook_request])
        assert read_outcomes(engine).count("admitted") == 1
        assert read_outcomes(engine).count("cooldown") == 3

    def test_a_rate_limit_holds_back_more_alerts_with_the_same_name(self, engine):
        config = {"max_remediations_per_hour": 2}
        same_name_alerts = [alert("A", labels={"i": str(i)}) for i in range(4)]
        record(engine, request(*same_name_alerts, alert("B"), alert("a")), **config)
        held_back = ["rate_limited"] * 2
        assert read_outcomes(engine) == ["admitted", "admitted", *held_back, "admitted", "admitted"]
        assert read_rows(engine)[2].reason.endswith("until 2026-01-14T13:00:00Z")
        assert "2 per hour" in read_rows(engine)[2].reason
        assert read_rows(engine)[2].held_until == later(3600)
        for seconds in (3599, 3600):
            record(engine, request(same_name_alerts[2], received_at=later(seconds)), **config)
        assert read_outcomes(engine)[6:] == ["rate_limited", "admitted"]

    @on_sqlite
    def test_a_rate_limit_ends_when_the_count_falls_below_it(self, engine):
        """More alerts than the limit were admitted, because the limit was higher before."""
        same_name_alerts = [alert("A", labels={"i": str(i)}) for i in range(6)]
        for i in range(5):
            record(engine, request(same_name_alerts[i], received_at=later(60 * i)))
        record(
            engine,
            request(same_name_alerts[5], received_at=later(400)),
            max_remediations_per_hour=2,
        )
        assert read_rows(engine)[-1].reason.endswith("until 2026-01-14T13:03:00Z")
        for seconds in (3779, 3780):
            repeat = request(same_name_alerts[5], received_at=later(seconds))
            record(engine, repeat, max_remediations_per_hour=2)
        assert read_outcomes(engine)[6:] == ["rate_limited", "admitted"]

    @on_sqlite
    def test_every_alert_is_admitted_without_a_rate_limit(self, engine):
        same_name_alerts = [alert("A", labels={"i": str(i)}) for i in range(110)]
        record(engine, request(*same_name_alerts), max_remediations_per_hour=0)
        assert set(read_outcomes(engine)) == {"admitted"}

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
        """The clock of the endpoint that received the alerts does not matter."""
        config = {"cooldown_seconds": 600, "max_remediations_per_hour": 2}
        record(engine, request(alert("A", fingerprint="f")), now=NOON, **config)
        refire, second, third = (
            alert("A", fingerprint=name, starts_at=later(10**4)) for name in ("f", "g", "h")
        )
        wrong_time = later(ahead + 300)
        record(
            engine, request(refire, second, third, received_at=wrong_time), now=later(300), **config
        )
        assert read_outcomes(engine)[1:] == ["cooldown", "admitted", "rate_limited"]
        assert [row.held_until for row in read_rows(engine)[1:]] == [later(600), None, later(3600)]
        record(
            engine, request(refire, received_at=wrong_time), now=later(600), cooldown_seconds=600
        )
        assert read_outcomes(engine)[-1] == "admitted"

    def test_alerts_that_waited_in_a_journal_count_when_they_are_recorded(self, engine):
        """After an outage, the alerts of several hours are recorded within minutes."""
        config = {"max_remediations_per_hour": 2}
        for hour in range(4):
            webhook_request = request(
                alert("A", fingerprint=str(hour)), received_at=later(3600 * hour)
            )
            record(engine, webhook_request, now=later(4 * 3600), **config)
        assert read_outcomes(engine) == ["admitted", "admitted", "rate_limited", "rate_limited"]


class TestConcurrency:
    def test_concurrent_copies_of_an_alert_open_one_incident(self, engine):
        requests = [request(alert(fingerprint="f")) for _ in range(6)]
        results = in_parallel(6, lambda i: record_requests(engine, Config(), [requests[i]]))
        assert [counts["recorded"] for counts in results] == [1] * 6
        assert sorted(read_outcomes(engine)) == ["admitted"] + ["duplicate"] * 5
        (row,) = read_open_incidents(engine)
        assert row.notifications == 6

    def test_a_request_in_concurrent_batches_is_recorded_once(self, engine):
        requests = [request(alert(f"A{i}")) for i in range(5)]
        results = in_parallel(4, lambda i: record_requests(engine, Config(), requests))
        assert not [result for result in results if isinstance(result, Exception)], results
        assert sorted(call.request_id for call in read_rows(engine, api_calls)) == sorted(
            expected.request_id for expected in requests
        )
        assert len(read_rows(engine)) == 5
        assert [call.error for call in read_rows(engine, api_calls)] == [None] * 5

    def test_overlapping_batches_are_both_recorded(self, engine):
        names = [f"A{i}" for i in range(8)]
        batches = [
            [request(alert(n, fingerprint=n)) for n in names],
            [request(alert(n, fingerprint=n)) for n in reversed(names)],
        ]
        results = in_parallel(2, lambda i: record_requests(engine, Config(), batches[i]))
        assert [getattr(result, "args", None) or result["recorded"] for result in results] == [8, 8]
        assert len(read_open_incidents(engine)) == 8

    @on_mariadb
    @pytest.mark.parametrize("batch_contains_first", [True, False])
    def test_a_concurrent_recording_by_another_endpoint_is_detected(
        self, engine, monkeypatch, batch_contains_first
    ):
        """The other endpoint opens the incident after this one has found none."""
        first, second = (request(alert(fingerprint="f")) for _ in range(2))
        decide = record_module._decide

        def record_concurrently(*args):
            monkeypatch.setattr(record_module, "_decide", decide)
            record(engine, first)
            return decide(*args)

        monkeypatch.setattr(record_module, "_decide", record_concurrently)
        counts = record(engine, *([first, second] if batch_contains_first else [second]))
        assert (counts["recorded"], counts["known"], counts["failed"]) == (
            1,
            int(batch_contains_first),
            0,
        )
        assert read_outcomes(engine) == ["admitted", "duplicate"]
        assert [call.error for call in read_rows(engine, api_calls)] == [None, None]


class TestBatches:
    """Recording a batch is like recording its requests one by one, but takes fewer statements."""

    ALERT_FIELDS = st.fixed_dictionaries(
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
            lambda alert_fields, minute, number, is_broken: request(
                *(alert(**fields) for fields in alert_fields),
                received_at=later(60 * minute),
                request_id=str(uuid.UUID(int=number)),
                **({"body": "not JSON"} if is_broken else {}),
            ),
            st.lists(ALERT_FIELDS, max_size=5),
            st.integers(0, 15),
            # Some ids are used twice, with the same body or with different bodies.
            st.integers(0, 30),
            st.sampled_from([False] * 9 + [True]),
        ),
        min_size=1,
        max_size=8,
    )

    @pytest.fixture(scope="class")
    def engine_pair(self, tmp_path_factory):
        engines = []
        for name in ("batches", "single"):
            path = tmp_path_factory.mktemp(name) / "tracking.db"
            engines.append(database.open_engine(f"sqlite:///{path}"))
            disable_fsync(engines[-1])
            database.prepare(engines[-1])
        return engines

    def read_contents(self, engine):
        """Return all recorded data, without the ids of the rows."""
        calls = {call.id: call.request_id for call in read_rows(engine, api_calls)}
        all_values = []
        for row in read_rows(engine):
            values = dict(row._mapping, api_call_id=calls[row.api_call_id])
            all_values.append({k: v for k, v in values.items() if k != "id"})
        for row in read_rows(engine, api_calls):
            all_values.append({k: v for k, v in row._mapping.items() if k != "id"})
        return all_values

    @settings(max_examples=100, deadline=None)
    @given(
        REQUESTS,
        st.lists(st.integers(0, 7), max_size=2),
        st.integers(0, 8),
        st.sampled_from([0, 120, 600]),
        st.sampled_from([0, 1, 2]),
    )
    def test_a_batch_is_recorded_like_its_requests_one_by_one(
        self, engine_pair, requests, repeated, first_batch_size, cooldown, limit
    ):
        requests = requests + [requests[n % len(requests)] for n in repeated]
        config = {"cooldown_seconds": cooldown, "max_remediations_per_hour": limit}
        batch_engine, single_engine = engine_pair
        for engine in engine_pair:
            with database.transaction(engine) as connection:
                connection.execute(alerts.delete())
                connection.execute(api_calls.delete())
        batches = [
            (requests[:first_batch_size], later(900)),
            (requests[first_batch_size:], later(1200)),
        ]
        results = [
            record(batch_engine, *batch, now=now, **config) for batch, now in batches if batch
        ]
        expected = [
            record(single_engine, single, now=now, **config)
            for batch, now in batches
            for single in sorted(batch, key=lambda request: request.received_at)
        ]
        assert self.read_contents(batch_engine) == self.read_contents(single_engine)
        for count in ("recorded", "known", "failed"):
            assert sum(counts[count] for counts in results) == sum(
                expected_counts[count] for expected_counts in expected
            )
        assert sum((Counter(counts["outcomes"]) for counts in results), Counter()) == sum(
            (Counter(expected_counts["outcomes"]) for expected_counts in expected), Counter()
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
        opening_rows = read_rows(engine)[:250]
        assert [row.notifications for row in opening_rows] == [4] * 5 + [3] * 5 + [2] * 240
        assert [row.last_seen_at for row in opening_rows] == (
            [later(320)] * 5 + [later(120)] * 5 + [later(60)] * 240
        )
        assert [row.closed_at for row in opening_rows] == [None] * 5 + [later(310)] * 245
        assert [row.id for row in read_open_incidents(engine)] == [
            row.id for row in opening_rows[:5]
        ]
        assert {row.attempt for row in read_rows(engine)} == {1}

    @on_sqlite
    def test_a_duplicate_resolve_in_a_payload_is_not_a_notification(self, engine):
        """The incident that begins between the two resolves does not count it either."""
        occurrence = {"fingerprint": "f", "starts_at": later(600)}
        resolve = alert(status="resolved", ends_at=later(700), **occurrence)
        record(engine, request(alert(**occurrence)))
        record(engine, request(resolve, alert(**occurrence), resolve, received_at=later(60)))
        assert read_outcomes(engine)[1:] == ["resolved", "unconfirmed", "duplicate"]
        (incident,) = read_open_incidents(engine)
        assert incident.notifications == 1

    def test_the_number_of_statements_does_not_grow_with_the_batch(self, engine):
        requests = [request(alert(labels={"i": str(n)})) for n in range(50)]
        statements = []
        event.listen(engine, "before_cursor_execute", lambda *args: statements.append(args[2]))
        record(engine, requests[0])
        statements_for_one = len(statements)
        record(engine, *requests[1:])
        assert len(statements) == 2 * statements_for_one
        assert statements_for_one < 20

    @on_sqlite
    @pytest.mark.parametrize(
        "make_alerts, expected",
        [
            (lambda: [alert()] * 3000, {"admitted": 1, "duplicate": 2999}),
            (lambda: [{}] * 3000, {"malformed": 3000}),
        ],
    )
    def test_thousands_of_identical_alerts_in_one_payload_are_recorded(
        self, engine, make_alerts, expected
    ):
        assert record(engine, request(*make_alerts()))["outcomes"] == expected

    def test_more_alerts_than_sqlite_has_variables_are_recorded(self, engine):
        many_alerts = [alert(f"Many{n}") for n in range(1500)]
        assert record(engine, request(*many_alerts), max_remediations_per_hour=0)["recorded"] == 1
        assert record(engine, request(*many_alerts))["outcomes"] == {"duplicate": 1500}
