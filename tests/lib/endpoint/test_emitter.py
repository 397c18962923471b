"""Each recorded request is emitted once, and only alerts that StackStorm lost are repeated."""

from __future__ import annotations

import json
import logging

import pytest
from sqlalchemy import select, update

from poundcake.config import Config, load
from poundcake.endpoint import alert_loader, emitter, triggers
from poundcake.endpoint.health import State
from poundcake.endpoint.journal_file import in_transaction
from poundcake.endpoint.triggers import ALERT, LIMIT_REACHED, SYNC_DUE, WEBHOOK
from poundcake.trail import claims, database
from poundcake.trail.confirm import METHOD
from poundcake.trail.replay import replay_request
from poundcake.trail.schema import alerts, api_calls
from poundcake.trail.sync import sync
from tests.lib.fake_stackstorm import FakeStackStorm
from tests.lib.pipelines import Rig
from tests.lib.samples import DELIMITERS, alert, later, webhook


def emitted_names(rig):
    return [payload["alert_name"] for payload in rig.bus.payloads(ALERT)]


def named_alerts(*names, **fields):
    return [alert(name, fingerprint=name, **fields) for name in names]


class TestTriggers:
    def test_an_alert_is_emitted_with_all_its_fields(self, rig):
        request_id = rig.accept(alert("HostDown", fingerprint="f"))
        rig.advance()
        assert rig.state(request_id) == "recorded"
        assert [tag for name, _, tag in rig.bus.published if name in (WEBHOOK, ALERT)] == [
            request_id
        ] * 2
        assert rig.bus.payloads(WEBHOOK) == [
            {
                "request_id": request_id,
                "receiver": "poundcake",
                "group_status": "firing",
                "alerts_received": 1,
                "outcomes": {"admitted": 1},
            }
        ]
        assert rig.bus.payloads(ALERT) == [
            {
                "request_id": request_id,
                "episode": "f-1768392000000",
                "status": "firing",
                "alert_name": "HostDown",
                "severity": "critical",
                "instance": "web-1:9100",
                "host": "web-1",
                "job": "",
                "labels": {
                    "alertname": "HostDown",
                    "instance": "web-1:9100",
                    "severity": "critical",
                    "id": "f",
                },
                "receiver": "poundcake",
                "starts_at": "2026-01-14T12:00:00Z",
                "ends_at": "",
                "remediation": "",
            }
        ]
        states = {component.state for component in vars(rig.components).values()}
        assert states == {State.OK}

    def test_a_firing_alert_is_emitted_with_the_first_matching_remediation(self, rig):
        entries = [
            {"name": "other", "match": ["alertname=Other"]},
            {"name": "verbatim", "match": ['path="/orders/{id}"']},
            {"name": "any", "match": ["alertname!="]},
        ]
        rig.bus.config = load({"remediations": [{**e, "mode": "evidence"} for e in entries]})
        firing_alert = alert("HostDown", fingerprint="a", labels={"path": "/orders/{id}"})
        rig.accept(firing_alert, alert("HostDown", fingerprint="b"))
        rig.advance()
        resolved_alert = {**firing_alert, "status": "resolved", "endsAt": "2026-01-14T12:00:05Z"}
        rig.accept(resolved_alert, received_at=later(10))
        rig.advance()
        emitted = [(p["status"], p["remediation"]) for p in rig.bus.payloads(ALERT)]
        assert emitted == [("firing", "verbatim"), ("firing", "any"), ("resolved", "")]

    def test_a_changed_configuration_applies_to_the_next_alert(self, rig):
        for name in ("before", "after"):
            entry = {"name": name, "match": ["alertname!="], "mode": "evidence"}
            rig.bus.config = load({"remediations": [entry]})
            rig.accept(alert("HostDown", fingerprint=name))
            rig.advance()
        assert [p["remediation"] for p in rig.bus.payloads(ALERT)] == ["before", "after"]

    def test_a_request_without_alerts_is_done_after_its_webhook_trigger(self, rig):
        request_id = rig.accept()
        rig.advance()
        assert rig.state(request_id) == "done"
        assert (len(rig.bus.payloads(WEBHOOK)), rig.bus.payloads(ALERT)) == (1, [])

    def test_limit_reached_is_emitted_again_only_after_an_hour_without_limited_alerts(self, rig):
        rig.bus.config = Config(max_remediations_per_hour=1)
        limited_alerts = [alert("A", fingerprint=f, labels={"instance": "i" + f}) for f in "1234"]
        first_id = rig.accept(*limited_alerts[:3])
        rig.advance()
        rig.accept(limited_alerts[3])
        other_id = rig.accept(*[alert("B", fingerprint=f) for f in "56"])
        rig.advance()
        payloads = rig.bus.payloads(LIMIT_REACHED)
        assert [(p["alert_name"], p["request_id"]) for p in payloads] == [
            ("A", first_id),
            ("B", other_id),
        ]
        assert (payloads[0]["instance"], payloads[0]["severity"]) == ("i2", "critical")
        assert payloads[0]["reason"].startswith("limit of 1 per hour")
        much_later = later(3 * 3600)
        late_alerts = [alert("A", starts_at=much_later, fingerprint=f) for f in "789"]
        rig.accept(*late_alerts, received_at=much_later)
        rig.advance()
        assert len(rig.bus.payloads(LIMIT_REACHED)) == 3

    def test_the_end_of_a_limit_is_read_from_its_column_and_not_from_the_reason(self):
        limited_alert = triggers.LimitedAlert(
            1, "A", "", "", "e", "a sentence of 9 words", later(60)
        )
        request = triggers.RecordedRequest(1, "r", "", "", "")
        payload = triggers.limit_reached_payload(request, limited_alert)
        assert payload["until"] == "2026-01-14T12:01:00Z"

    def test_only_admitted_and_resolved_alerts_are_emitted(self, rig):
        resolved = alert("B", status="resolved", endsAt="2026-01-14T12:00:05Z", fingerprint="b")
        repeated = alert("A", fingerprint="a")
        rig.accept(
            repeated, repeated, {"labels": 1}, alert("B", fingerprint="b"), resolved, resolved
        )
        rig.advance()
        emitted = [(p["alert_name"], p["status"]) for p in rig.bus.payloads(ALERT)]
        assert sorted(emitted) == [("A", "firing"), ("B", "firing"), ("B", "resolved")]
        (payload,) = rig.bus.payloads(WEBHOOK)
        assert (payload["alerts_received"], payload["outcomes"]["malformed"]) == (6, 1)

    def test_every_string_is_inert_and_never_null(self, rig):
        text = "{{ st2kv.system.x }}<% ctx() %>{\"'\\\n"
        rig.bus.config = Config(max_remediations_per_hour=1)
        labels = {text: text, "job": text, "severity": text, "instance": text}
        hostile_alerts = [alert(text, fingerprint=f, labels=labels) for f in "12"]
        rig.accept(*hostile_alerts, body=json.dumps(webhook(*hostile_alerts, receiver=text)))
        rig.advance()
        assert [len(rig.bus.payloads(name)) for name in (WEBHOOK, ALERT, LIMIT_REACHED)] == [
            1,
            1,
            1,
        ]

        def iterate_strings(value):
            if isinstance(value, dict):
                for key, inner in value.items():
                    yield from iterate_strings(key)
                    yield from iterate_strings(inner)
            else:
                yield value

        for _, payload, _ in rig.bus.published:
            texts = list(iterate_strings(payload))
            assert None not in texts
            for text in map(str, texts):
                assert not any(delimiter in text for delimiter in DELIMITERS)
                assert not set(text) & set("{}<>\"'\\\n")

    @pytest.mark.parametrize(
        "instance, host",
        [
            ("HTTP://WEB-1.example.org.:9100/metrics", "web-1.example.org"),
            ("[::ffff:192.0.2.7]:9100", "192.0.2.7"),
            ("web-1,db-1", ""),
            ("$(reboot)", ""),
            ("2130706433", ""),
            ("", ""),
        ],
    )
    def test_the_host_is_canonical_or_empty(self, rig, instance, host):
        rig.accept(alert(labels={"instance": instance}))
        rig.advance()
        assert [payload["host"] for payload in rig.bus.payloads(ALERT)] == [host]

    def test_the_host_can_be_read_from_another_label(self, rig):
        rig.bus.config = Config(host_label="node")
        exporter_labels = {"instance": "kube-state-metrics:8080"}
        rig.accept(
            alert("A", labels={**exporter_labels, "node": "worker-1"}),
            alert("B", labels=exporter_labels),
        )
        rig.advance()
        assert [(p["instance"], p["host"]) for p in rig.bus.payloads(ALERT)] == [
            ("kube-state-metrics:8080", "worker-1"),
            ("kube-state-metrics:8080", ""),
        ]

    def test_nothing_is_emitted_before_it_is_recorded(self, rig):
        rig.bus.records = False
        request_id = rig.accept(alert())
        rig.advance(5)
        assert rig.bus.payloads(ALERT) == rig.bus.payloads(WEBHOOK) == []
        assert rig.state(request_id) == "announced"


class TestExplanations:
    def test_a_lost_alert_is_emitted_again_at_growing_intervals(self, rig):
        request_id = rig.accept(alert())
        rig.advance()
        rig.advance(300)
        assert len(emitted_names(rig)) == 1  # sync has not reported it as lost
        rig.set_explanation("retry")
        rig.advance(6)
        assert len(emitted_names(rig)) == 2
        rig.advance(110)
        assert len(emitted_names(rig)) == 2
        rig.advance(15)
        assert len(emitted_names(rig)) == 3
        assert len(rig.bus.payloads(WEBHOOK)) == 1
        assert rig.bus.payloads(ALERT)[0] == rig.bus.payloads(ALERT)[2]
        rig.set_explanation("no_rule")
        rig.advance(6)
        assert rig.state(request_id) == "done"

    @pytest.mark.parametrize("explanation", ["execution", "no_rule", "failed", "lost"])
    def test_a_request_is_done_once_its_alerts_are_explained(self, rig, explanation):
        request_id = rig.accept(alert())
        rig.advance()
        rig.set_explanation(explanation)
        rig.advance(6)
        assert rig.state(request_id) == "done"

    def test_checking_many_open_requests_takes_few_transactions(self, rig):
        ids = [rig.accept(alert(str(n), fingerprint=str(n))) for n in range(60)]
        rig.advance()
        assert {rig.state(i) for i in ids} == {"recorded"}
        commits = []
        connection = rig.journal._file._connection
        connection.set_trace_callback(lambda sql: commits.append(sql == "COMMIT"))
        rig.advance(6)
        connection.set_trace_callback(None)
        assert 1 <= sum(commits) <= 5


class TestPublishFailures:
    """A request that cannot be emitted waits, and does not delay the others."""

    def test_one_refused_alert_of_a_hundred_does_not_affect_the_others(self, rig):
        rig.bus.refuses = lambda trigger, payload: payload.get("alert_name") == "A50"
        request_id = rig.accept(*named_alerts(*[f"A{n}" for n in range(100)]))
        rig.advance()
        for _ in range(5):
            rig.advance(61)
        assert emitted_names(rig) == [f"A{n}" for n in range(100) if n != 50]
        rig.bus.refuses = lambda trigger, payload: False
        rig.advance(61)
        assert emitted_names(rig)[99:] == ["A50"]
        assert len(rig.bus.payloads(WEBHOOK)) == 1
        rig.set_explanation("execution")
        rig.advance(6)
        assert rig.state(request_id) == "done"

    def test_an_alert_that_stackstorm_lost_does_not_wait_for_a_refused_one(self, rig):
        rig.bus.refuses = lambda trigger, payload: payload.get("alert_name") == "Bad"
        rig.accept(*named_alerts("Bad", "Lost", "Good"))
        rig.advance()
        for _ in range(10):
            rig.advance(61)
        assert emitted_names(rig) == ["Lost", "Good"]
        self.set_explanation_of(rig, "Lost", "retry")
        for _ in range(3 * 12):
            rig.advance(305)
        # The interval between emissions grows to an hour.
        assert 3 <= emitted_names(rig).count("Lost") <= 5
        assert emitted_names(rig).count("Good") == 1
        assert len(rig.bus.payloads(WEBHOOK)) == 1
        rig.bus.refuses = lambda trigger, payload: False
        self.set_explanation_of(rig, "Lost", "execution")
        rig.advance(61)
        assert emitted_names(rig)[-1] == "Bad"

    def set_explanation_of(self, rig, name, explanation):
        with database.transaction(rig.engine) as connection:
            statement = update(alerts).where(alerts.c.alert_name == name)
            connection.execute(statement.values(explanation=explanation))

    def test_a_refused_request_does_not_delay_the_next_ones(self, rig):
        rig.bus.refuses = lambda trigger, payload: payload.get("alert_name") == "Bad"
        bad_id = rig.accept(*named_alerts("Bad"))
        good_ids = [rig.accept(*named_alerts(f"Good{n}")) for n in range(5)]
        rig.advance()
        assert emitted_names(rig) == [f"Good{n}" for n in range(5)]
        # A refused message does not mean that the broker is down.
        assert rig.components.broker.state == State.OK
        assert rig.pipeline.problem() == ("the triggers of 1 request cannot be published: refused")
        rig.accept(*named_alerts("Later"))
        rig.advance(2)
        assert emitted_names(rig)[-1] == "Later"
        rig.bus.refuses = lambda trigger, payload: False
        rig.advance(61)
        assert emitted_names(rig)[-1] == "Bad"
        assert rig.pipeline.problem() == ""
        assert {rig.state(i) for i in [bad_id, *good_ids]} == {"recorded"}

    def test_an_emission_that_raises_does_not_block_others(self, rig, monkeypatch, caplog):
        create_payload = triggers.alert_payload

        def fail_for_bad(request, alert, remediations):
            if alert.alert_name == "Bad":
                raise KeyError("an internal fault")
            return create_payload(request, alert, remediations)

        monkeypatch.setattr(triggers, "alert_payload", fail_for_bad)
        bad_id = rig.accept(*named_alerts("Bad"))
        rig.accept(*named_alerts("Good"))
        rig.advance()
        rig.advance(61)
        assert emitted_names(rig) == ["Good"]
        assert bad_id in caplog.text and "an internal fault" in caplog.text
        monkeypatch.setattr(triggers, "alert_payload", create_payload)
        rig.advance(61)
        assert emitted_names(rig) == ["Good", "Bad"]
        assert len(rig.bus.payloads(WEBHOOK)) == 2

    def test_many_consecutive_failures_mean_that_the_broker_is_down(self, rig):
        rig.bus.refuses = lambda trigger, payload: trigger in (WEBHOOK, ALERT)
        ids = [rig.accept(*named_alerts(str(n))) for n in range(10)]
        rig.advance()
        assert rig.components.broker.state == State.DOWN
        rig.bus.refuses = lambda trigger, payload: False
        rig.advance(61)
        assert sorted(emitted_names(rig)) == sorted(str(n) for n in range(10))
        assert rig.components.broker.state == State.OK
        assert {rig.state(i) for i in ids} == {"recorded"}

    def test_a_request_interrupted_by_the_broker_is_continued_later(self, rig):
        def refuses(trigger, payload):
            rig.bus.is_down = rig.bus.is_down or payload.get("alert_name") == "A50"
            return rig.bus.is_down

        rig.bus.refuses = refuses
        rig.accept(*named_alerts(*[f"A{n}" for n in range(100)]))
        for _ in range(3):
            rig.advance(31)
        assert emitted_names(rig) == [f"A{n}" for n in range(50)]
        assert rig.components.broker.state == State.DOWN
        rig.bus.refuses, rig.bus.is_down = lambda trigger, payload: False, False
        rig.advance(61)
        assert emitted_names(rig) == [f"A{n}" for n in range(100)]
        assert len(rig.bus.payloads(WEBHOOK)) == 1

    def test_an_unavailable_broker_is_reported_even_for_a_single_request(self, rig):
        rig.bus.records = False
        rig.accept()  # a request without alerts, which causes no sync
        rig.advance()
        rig.bus.record(rig.bus.payloads(triggers.ANNOUNCE)[0])
        rig.bus.is_down = True
        rig.advance(2)
        assert rig.components.broker.state == State.DOWN
        rig.bus.is_down = False
        rig.advance(61)
        assert len(rig.bus.payloads(WEBHOOK)) == 1

    def test_an_unwritable_journal_does_not_cause_another_emission(self, rig, monkeypatch):
        request_id = rig.accept(*named_alerts("A"))
        monkeypatch.setattr(rig.journal, "mark_emitted", self.fail_to_write)
        rig.advance()
        for _ in range(3):
            rig.advance(31)
        assert emitted_names(rig) == ["A"]
        assert len(rig.bus.payloads(WEBHOOK)) == 1
        monkeypatch.undo()
        assert rig.journal.find(request_id).emit_after is None

    def fail_to_write(self, *args):
        raise emitter.JournalError("disk I/O error")


class TestMemory:
    def test_labels_are_loaded_in_chunks(self, rig, monkeypatch):
        chunk_bytes = []
        load_alerts = alert_loader.load_alerts

        def load_and_measure(connection, ids):
            loaded_alerts = load_alerts(connection, ids)
            chunk_bytes.append(sum(len(a.labels) for a in loaded_alerts.values()))
            return loaded_alerts

        monkeypatch.setattr(alert_loader, "load_alerts", load_and_measure)
        monkeypatch.setattr(alert_loader, "LOAD_BYTES", 10_000)
        large_alerts = named_alerts(*[f"A{n}" for n in range(30)], labels={"x": "y" * 2000})
        for start in range(0, 30, 10):
            rig.accept(*large_alerts[start : start + 10])
        rig.advance()
        assert emitted_names(rig) == [f"A{n}" for n in range(30)]
        assert len(chunk_bytes) >= 6
        assert max(chunk_bytes) <= 10_000


class TestReplays:
    def test_a_replay_recorded_by_any_process_is_emitted(self, rig):
        request_id = rig.accept(*named_alerts("One", "Two"))
        rig.advance()
        rig.set_explanation("execution")
        rig.advance(6)
        assert rig.state(request_id) == "done"
        replay_id = replay_request(rig.engine, Config(), request_id)["request_id"]
        rig.advance(6)
        assert [p["request_id"] for p in rig.bus.payloads(ALERT)] == [request_id] * 2 + [
            replay_id
        ] * 2
        assert [p["request_id"] for p in rig.bus.payloads(WEBHOOK)] == [request_id, replay_id]
        # The replay is already recorded, so it is never announced, even after a restart.
        rig.reopen().advance(6)
        assert len(rig.bus.batches) == 1
        assert len(rig.bus.payloads(ALERT)) == 4
        rig.set_explanation("execution")
        rig.advance(6)
        assert rig.state(replay_id) == "done"

    def test_replays_are_emitted_even_if_they_are_imported_one_by_one(self, rig, monkeypatch):
        monkeypatch.setattr("poundcake.endpoint.request_importer.MAX_IMPORTS_PER_POLL", 1)
        ids = [rig.accept(*named_alerts(name)) for name in "abc"]
        rig.advance()
        replay_ids = {replay_request(rig.engine, Config(), i)["request_id"] for i in ids}
        rig.advance(6)
        assert {p["request_id"] for p in rig.bus.payloads(ALERT)} == replay_ids | set(ids)

    def test_a_replay_with_nothing_to_emit_is_skipped(self, rig):
        request_id = rig.accept(alert())
        rig.advance()
        # The replay finds the incident open while the first workflow runs.
        episode = rig.bus.payloads(ALERT)[0]["episode"]
        claims.link(rig.engine, request_id, episode, "w", "e1")
        replay = replay_request(rig.engine, Config(), request_id)
        assert replay["outcomes"] == {"duplicate": 1}
        rig.advance(6)
        assert rig.journal.find(replay["request_id"]) is None
        assert len(rig.bus.payloads(ALERT)) == 1


class TestTwoEndpoints:
    """Two endpoints with one tracking database emit each request once."""

    @pytest.fixture
    def rigs(self, tmp_path, database_path, clock):
        new_rigs = []
        for name in "ab":
            (tmp_path / name).mkdir()
            new_rigs.append(Rig(tmp_path / name, database_path, clock).assemble())
        yield new_rigs
        for rig in new_rigs:
            rig.close()

    def advance(self, rigs, seconds=0.0):
        for rig in rigs:
            rig.advance(seconds)

    def emitted_ids(self, rigs, trigger):
        """Return the request_ids of the emitted triggers of this type."""
        return [payload["request_id"] for rig in rigs for payload in rig.bus.payloads(trigger)]

    @pytest.mark.parametrize("first_rig", [0, 1])
    def test_a_replay_is_emitted_by_only_one_endpoint(self, rigs, first_rig):
        request_id = rigs[0].accept(alert())
        self.advance(rigs)
        rigs[0].set_explanation("execution")
        self.advance(rigs, 6)
        replay_id = replay_request(rigs[0].engine, Config(), request_id)["request_id"]
        ordered_rigs = rigs if first_rig == 0 else rigs[::-1]
        for _ in range(5):
            self.advance(ordered_rigs, 6)
        assert {rig.state(replay_id) for rig in rigs} == {"recorded"}
        assert self.emitted_ids(rigs, ALERT).count(replay_id) == 1
        assert self.emitted_ids(rigs, WEBHOOK).count(replay_id) == 1
        rigs[0].set_explanation("execution")
        self.advance(rigs, 31)
        assert {rig.state(replay_id) for rig in rigs} == {"done"}
        assert self.emitted_ids(rigs, ALERT).count(replay_id) == 1

    def lose_alerts(self, rigs):
        """Let sync find, long after the recording, that StackStorm has no trigger of any alert."""
        rigs[0].set_explanation("retry")
        with database.transaction(rigs[0].engine) as connection:
            connection.execute(update(alerts).values(recorded_at=later(0)))

    @pytest.mark.parametrize("sender_request_id", ["", "0c9d6f4e-6d8e-4d0c-9a53-7c1c2f3a4b5d"])
    def test_the_other_endpoint_emits_what_an_endpoint_that_is_gone_has_not(
        self, rigs, sender_request_id
    ):
        gone, other = rigs
        gone.bus.refuses = lambda trigger, payload: trigger == ALERT
        request_id = gone.accept(alert(), sender_request_id=sender_request_id)
        gone.advance()
        gone.set_explanation("retry")
        other.advance(6)
        assert other.journal.find(request_id) is None, "the endpoint may only be restarting"
        self.lose_alerts(rigs)
        with database.transaction(other.engine) as connection:
            connection.execute(update(api_calls).values(emitter_until=later(0)))
        other.advance(6)
        assert self.emitted_ids(rigs, ALERT) == [request_id]
        # The endpoint comes back, with its journal.
        gone.bus.refuses = lambda trigger, payload: False
        gone.reopen()
        for _ in range(5):
            self.advance(rigs, 60)
        assert [p["request_id"] for p in gone.bus.payloads(ALERT)] == []
        # Without a claim, nobody knows whether the endpoint had published this trigger.
        repeats = 0 if sender_request_id else 1
        assert self.emitted_ids(rigs, WEBHOOK) == [request_id] * (1 + repeats)
        other.set_explanation("execution")
        self.advance(rigs, 60)
        assert [rig.state(request_id) for rig in rigs] == ["done", "done"]

    @pytest.mark.parametrize("first_rig", [0, 1])
    def test_an_alert_that_stackstorm_lost_is_emitted_again_by_one_endpoint(self, rigs, first_rig):
        request_id = rigs[0].accept(alert())
        rigs[0].advance()
        self.lose_alerts(rigs)
        ordered_rigs = rigs if first_rig == 0 else rigs[::-1]
        self.advance(ordered_rigs, 61)
        assert self.emitted_ids(rigs, ALERT) == [request_id] * 2
        assert self.emitted_ids(rigs, WEBHOOK).count(request_id) == 1 + first_rig

    def test_an_unconfirmed_incident_that_sync_admits_is_emitted_once(self, rigs):
        resolved = alert(status="resolved", ends_at=later(60))
        rigs[0].accept(alert())
        rigs[0].accept(resolved, received_at=later(70))
        rigs[1].accept(alert(), received_at=later(80))
        self.advance(rigs)
        assert rigs[0].bus.payloads(SYNC_DUE)[-1]["open"] >= 1
        rigs[0].set_explanation("execution")
        with database.transaction(rigs[0].engine) as connection:
            connection.execute(update(alerts).values(recorded_at=later(80)))
        sync(rigs[0].engine, Config(), FakeStackStorm())
        with database.reading(rigs[0].engine) as connection:
            (admitted_call,) = connection.execute(
                select(api_calls).where(api_calls.c.method == METHOD)
            ).all()
        for _ in range(5):
            self.advance(rigs, 6)
        assert self.emitted_ids(rigs, ALERT).count(admitted_call.request_id) == 1
        last_payload = [p for rig in rigs for p in rig.bus.payloads(ALERT)][-1]
        assert (last_payload["status"], last_payload["episode"][-13:]) == (
            "firing",
            "1768392080000",
        )

    @pytest.mark.parametrize("is_explained", [True, False])
    def test_a_request_that_reached_both_endpoints_is_emitted_once(self, rigs, is_explained):
        sender_request_id = "0e1f2d3c-4b5a-4678-9abc-def012345678"
        body = json.dumps(webhook(alert()))
        for rig in rigs:
            assert (
                rig.accept(alert(), body=body, sender_request_id=sender_request_id)
                == sender_request_id
            )
        rigs[0].advance()
        if is_explained:
            # The first endpoint completes the request long before the other one reads it.
            rigs[0].set_explanation("execution")
            rigs[0].advance(1000)
        for _ in range(3):
            self.advance(rigs, 6)
        assert (
            self.emitted_ids(rigs, ALERT) == self.emitted_ids(rigs, WEBHOOK) == [sender_request_id]
        )
        rigs[0].set_explanation("execution")
        self.advance(rigs, 31)
        assert {rig.state(sender_request_id) for rig in rigs} == {"done"}

    def test_the_other_endpoint_takes_over_when_the_claim_of_the_first_expires(self, rigs):
        sender_request_id = "0e1f2d3c-4b5a-4678-9abc-def012345678"
        body = json.dumps(webhook(alert()))
        for rig in rigs:
            rig.accept(alert(), body=body, sender_request_id=sender_request_id)
        rigs[0].advance()
        assert self.emitted_ids(rigs, ALERT) == [sender_request_id]
        rigs[0].stop()
        rigs[0].assemble()
        rigs[1].advance(31)
        rigs[0].set_explanation("retry")
        rigs[1].advance(31)
        assert self.emitted_ids(rigs[1:], ALERT) == []
        self.expire_claims(rigs[0])
        rigs[1].advance(31)
        assert self.emitted_ids(rigs[1:], ALERT) == [sender_request_id]
        assert self.emitted_ids(rigs, WEBHOOK) == [sender_request_id]

    def test_a_claim_is_extended_while_the_request_is_open(self, rigs):
        sender_request_id = "0e1f2d3c-4b5a-4678-9abc-def012345678"
        body = json.dumps(webhook(alert()))
        for rig in rigs:
            rig.accept(alert(), body=body, sender_request_id=sender_request_id)
        rigs[0].advance()
        for _ in range(4):
            self.expire_claims(rigs[0])
            rigs[0].advance(205)
            rigs[1].advance()
        assert self.emitted_ids(rigs, ALERT) == [sender_request_id]

    def test_a_request_with_a_generated_id_needs_no_claim(self, rigs):
        rigs[0].accept(alert())
        rigs[0].advance()
        with database.reading(rigs[0].engine) as connection:
            assert connection.scalars(
                api_calls.select().with_only_columns(api_calls.c.emitter)
            ).all() == [None]

    def test_a_request_from_release_0_2_0_is_treated_as_shared(self, rigs):
        """The journal of that release does not record whether the sender chose the id."""
        request_id = rigs[0].accept(alert())
        rigs[0].journal._file.run(
            in_transaction, lambda db: db.execute("UPDATE requests SET shared = 1")
        )
        rigs[0].advance()
        assert self.emitted_ids(rigs, ALERT) == [request_id]

    def test_an_unwritable_database_blocks_only_shared_requests(self, rigs, monkeypatch):
        def fail(*args):
            raise database.DatabaseError("read-only")

        monkeypatch.setattr("poundcake.trail.emissions.claim", fail)
        sender_request_id = "0e1f2d3c-4b5a-4678-9abc-def012345678"
        rigs[0].accept(*named_alerts("Shared"), sender_request_id=sender_request_id)
        rigs[0].accept(*named_alerts("Own"))
        rigs[0].advance()
        assert emitted_names(rigs[0]) == ["Own"]
        assert "cannot be claimed: read-only" in rigs[0].pipeline.problem()
        monkeypatch.undo()

    def expire_claims(self, rig):
        with database.transaction(rig.engine) as connection:
            connection.execute(api_calls.update().values(emitter_until=later(0)))


def test_a_request_that_alone_cannot_be_published_is_logged_once(rig, caplog):
    rig.bus.refuses = lambda trigger, payload: trigger == ALERT
    request_id = rig.accept(alert())
    with caplog.at_level(logging.WARNING):
        for _ in range(6):
            rig.advance(seconds=61)
    text = f"request {request_id}: its triggers cannot be published, retrying"
    assert caplog.text.count(text) == 1


def test_a_request_is_not_logged_while_the_broker_is_down(rig, caplog):
    """The state of the broker is logged instead, once for all requests."""

    def refuses(trigger, payload):
        rig.bus.is_down = trigger != triggers.ANNOUNCE
        return rig.bus.is_down

    rig.bus.refuses = refuses
    rig.accept(alert())
    with caplog.at_level(logging.WARNING):
        for _ in range(6):
            rig.advance(seconds=61)
    assert caplog.text.count("broker: down") == 1
    assert "its triggers cannot be published" not in caplog.text
