"""Silences always have an end, and apply in every Alertmanager."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest
from sqlalchemy import select

from poundcake.errors import PoundCakeError
from poundcake.monitoring import Alertmanager, Matcher, Silence
from poundcake.monitoring_servers import MonitoringServer
from poundcake.timestamps import format_timestamp
from poundcake.trail import database, queries, silences, text
from poundcake.trail.audit import Actor
from poundcake.trail.schema import alerts, audit
from poundcake.trail.search import Filters
from poundcake.trail.silences import (
    COMMENT_MARK,
    ChangeSilence,
    Target,
    end_silence_during_change,
    silence,
    silence_during_change,
    unsilence,
)
from tests.lib.fake_alertmanager import FakeAlertmanager
from tests.lib.samples import alert
from tests.lib.trails import record, view
from tests.waiting import wait_for

ANNA, BEN = Actor("anna", "e1"), Actor("ben", "e2")
LABELS = {"alertname": "HostDown", "instance": "web-1:9100", "severity": "critical"}
UNKNOWN_EPISODE = "b1c946b0b0b0b0b0-1768392000000"


class SilencedTrail:
    """A trail with one open incident, and its Alertmanagers."""

    def __init__(self, engine):
        self.engine = engine
        record(engine, alert())
        self.episode = self.read_alert().episode
        self.alertmanagers = [FakeAlertmanager()]

    @property
    def primary(self):
        return self.alertmanagers[0]

    def read_alert(self):
        with database.reading(self.engine) as connection:
            return connection.execute(select(alerts)).all()[0]

    def read_audit(self):
        with database.reading(self.engine) as connection:
            return connection.execute(select(audit).order_by(audit.c.id)).all()

    def silence(self, minutes=60, comment="a new disk", actor=ANNA, **target):
        target = target or {"episode": self.episode}
        servers = self.alertmanagers
        return silence(self.engine, servers, actor, Target(**target), minutes, comment)

    def unsilence(self, silence_id="", force=False, episode=""):
        target = Target(episode)
        return unsilence(self.engine, self.alertmanagers, BEN, target, silence_id, force)

    def expect_error(self, work, *args, **kwargs):
        with pytest.raises(PoundCakeError) as caught:
            work(*args, **kwargs)
        return str(caught.value)

    def render_why(self):
        return text.why(view(self.engine, queries.why, Filters()))


@pytest.fixture
def trail(engine, monkeypatch):
    monkeypatch.setattr(silences, "_GOSSIP_WAIT", 0)
    return SilencedTrail(engine)


class TestSilence:
    def test_each_label_of_the_alert_gets_an_exact_matcher(self, trail):
        result = trail.silence()
        assert (result["state"], result["labels"], result["problems"]) == ("created", LABELS, [])
        (stored_silence,) = trail.primary.silences_by_id.values()
        assert result["silence_ids"] == [stored_silence.id]
        assert set(stored_silence.matchers) == {
            Matcher(name, value) for name, value in LABELS.items()
        }
        assert (stored_silence.created_by, stored_silence.comment) == (
            "anna",
            "a new disk" + COMMENT_MARK,
        )

    def test_the_end_of_a_silence_is_measured_by_alertmanagers_clock(self, trail):
        trail.primary.now -= timedelta(days=3)
        result = trail.silence(minutes=7)
        (stored_silence,) = trail.primary.silences_by_id.values()
        assert (stored_silence.starts_at, stored_silence.ends_at - stored_silence.starts_at) == (
            trail.primary.now,
            timedelta(minutes=7),
        )
        assert result["until"] == format_timestamp(stored_silence.ends_at)

    def test_ignored_labels_are_left_out(self, trail):
        result = trail.silence(episode=trail.episode, ignored_labels=("severity",))
        assert result["labels"] == {n: v for n, v in LABELS.items() if n != "severity"}

    def test_the_episode_may_be_shortened(self, trail):
        result = trail.silence(episode=trail.episode[:6])
        assert result["labels"] == LABELS
        assert trail.read_audit()[0].target == trail.episode
        assert trail.read_alert().silence_id == result["silence_ids"][0]
        assert trail.unsilence(episode=trail.episode[:6])["state"] == "ended"
        error = trail.expect_error(trail.silence, episode="0000")
        assert error == "episode: no episode begins with 0000"

    def test_labels_may_be_given_instead_of_an_episode(self, trail):
        result = trail.silence(labels={"rack": "r12", "number": 5, "empty": ""})
        assert result["labels"] == {"rack": "r12", "number": "5"}

    def test_a_label_whose_value_is_zero_is_not_left_out(self, trail):
        result = trail.silence(labels={"alertname": "HostDown", "shard": 0, "none": None})
        assert result["labels"] == {"alertname": "HostDown", "shard": "0"}

    def test_a_silence_is_shown_and_audited(self, trail):
        result = trail.silence()
        (entry,) = trail.read_audit()
        assert (entry.action, entry.st2_user, entry.execution_id) == ("silence", "anna", "e1")
        assert (entry.target, entry.comment) == (trail.episode, "a new disk")
        assert trail.read_alert().silence_id == result["silence_ids"][0]
        assert "anna silenced the alert: a new disk" in trail.render_why()
        assert "silenced in Alertmanager by anna: a new disk" in trail.render_why()

    @pytest.mark.parametrize("seconds", [0, 59])
    def test_silencing_again_keeps_the_silence(self, trail, seconds):
        first = trail.silence()
        trail.primary.now += timedelta(seconds=seconds)
        second = trail.silence()
        assert (second["state"], second["silence_ids"]) == ("unchanged", first["silence_ids"])
        assert second["until"] == first["until"]
        assert trail.primary.calls.count("create_silence") == 1

    def test_a_shorter_silence_keeps_the_longer_one(self, trail):
        first = trail.silence(minutes=60)
        assert trail.silence(minutes=5)["until"] == first["until"]

    def test_a_longer_silence_extends_the_existing_one(self, trail):
        first = trail.silence(minutes=60)
        second = trail.silence(minutes=90, actor=BEN)
        assert (second["state"], second["silence_ids"]) == ("extended", first["silence_ids"])
        (stored_silence,) = trail.primary.silences_by_id.values()
        assert stored_silence.ends_at - trail.primary.now == timedelta(minutes=90)

    def test_a_silence_that_has_ended_is_not_reused(self, trail):
        first = trail.silence()
        trail.primary.expire_silence(first["silence_ids"][0])
        assert trail.silence()["state"] == "created"

    def test_a_silence_created_by_a_person_is_not_changed(self, trail):
        first = trail.silence()
        stored_silence = trail.primary.silences_by_id[first["silence_ids"][0]]
        trail.primary.silences_by_id = {"own": replace(stored_silence, id="own", comment="mine")}
        assert trail.silence(minutes=90)["state"] == "created"
        assert trail.primary.silences_by_id["own"].comment == "mine"

    def test_a_silence_for_other_labels_is_not_reused(self, trail):
        trail.silence(labels={"alertname": "HostDown"})
        assert trail.silence()["state"] == "created"

    @pytest.mark.parametrize(
        "parameters, problem",
        [
            ({"minutes": 0}, "minutes: must be from 1 to 10080"),
            ({"minutes": 10_081}, "minutes: must be from 1 to 10080"),
            ({"comment": " "}, "comment: say why the alert is silenced"),
            ({"episode": UNKNOWN_EPISODE}, f"no episode {UNKNOWN_EPISODE} is recorded"),
            (
                {"episode": ""},
                "specify the alert by episode, by alert_name, instance, …, or ",
            ),
            (
                {"episode": "x", "labels": {"a": "b"}},
                "specify the alert by episode",
            ),
            ({"labels": {"a": ""}}, "labels: must contain a label with a value"),
        ],
    )
    def test_invalid_parameters_are_refused(self, trail, parameters, problem):
        assert trail.expect_error(trail.silence, **parameters).startswith(problem)
        assert (trail.primary.calls, trail.read_audit()) == ([], [])

    def test_silencing_without_alertmanagers_is_an_error(self, trail):
        trail.alertmanagers = []
        assert trail.expect_error(trail.silence).startswith(
            "alertmanagers: list your Alertmanagers"
        )


class TestSeveralAlertmanagers:
    def test_peers_share_one_silence(self, trail):
        second = FakeAlertmanager("http://am-2.example")
        second.silences_by_id = trail.primary.silences_by_id
        trail.alertmanagers.append(second)
        assert len(trail.silence()["silence_ids"]) == 1
        assert "create_silence" not in second.calls

    def test_no_second_silence_is_created_in_a_peer_that_receives_the_first_one_late(self, trail):
        second = FakeAlertmanager("http://am-2.example")

        def silences_from_the_third_call_on():
            if second.calls.count("silences") == 3:
                second.silences_by_id = trail.primary.silences_by_id
            return FakeAlertmanager.silences(second)

        second.silences = silences_from_the_third_call_on
        trail.alertmanagers.append(second)
        assert trail.silence()["state"] == "created"
        assert "create_silence" not in second.calls

    def test_separate_alertmanagers_each_get_a_silence(self, trail):
        trail.alertmanagers.append(FakeAlertmanager("http://am-2.example"))
        trail.silence()
        assert [len(alertmanager.silences_by_id) for alertmanager in trail.alertmanagers] == [1, 1]

    def test_an_alertmanager_that_does_not_answer_is_reported(self, trail):
        trail.alertmanagers.append(FakeAlertmanager("http://am-2.example"))
        trail.primary.failing_methods.add("silences")
        result = trail.silence()
        assert result["problems"] == [
            f"alertmanagers, {trail.primary.url}: silences: connection refused"
        ]
        assert len(trail.alertmanagers[1].silences_by_id) == 1

    def test_nothing_is_recorded_if_no_alertmanager_answers(self, trail):
        trail.primary.failing_methods.add("create_silence")
        assert "connection refused" in trail.expect_error(trail.silence)
        assert (trail.read_audit(), trail.read_alert().silence_id) == ([], None)


class TestUnsilence:
    @pytest.mark.parametrize("selector", ["id", "episode"])
    def test_a_silence_is_ended_by_its_id_or_its_episode(self, trail, selector):
        created = trail.silence()
        target = (
            {"silence_id": created["silence_ids"][0]}
            if selector == "id"
            else {"episode": trail.episode}
        )
        result = trail.unsilence(**target)
        assert (result["state"], result["silence_ids"]) == ("ended", created["silence_ids"])
        assert [silence.state for silence in trail.primary.silences_by_id.values()] == ["expired"]
        assert trail.read_alert().silence_id is None
        assert (trail.read_audit()[-1].action, trail.read_audit()[-1].target) == (
            "unsilence",
            trail.episode,
        )
        assert "ben ended the silence" in trail.render_why()
        assert "silenced in Alertmanager by anna" not in trail.render_why()

    def test_ending_a_silence_again_changes_nothing(self, trail):
        (silence_id,) = trail.silence()["silence_ids"]
        trail.unsilence(silence_id)
        assert trail.unsilence(silence_id)["state"] == "unchanged"
        assert trail.primary.calls.count("expire_silence") == 1

    def test_a_silence_created_by_a_person_needs_force(self, trail):
        (silence_id,) = trail.silence()["silence_ids"]
        trail.primary.silences_by_id[silence_id] = replace(
            trail.primary.silences_by_id[silence_id], comment="mine"
        )
        problem = f"the silence {silence_id} was created by anna, not by poundcake.silence"
        assert trail.expect_error(trail.unsilence, silence_id).startswith(problem)
        assert trail.primary.silences_by_id[silence_id].state == "active"
        assert trail.unsilence(silence_id, force=True)["state"] == "ended"

    @pytest.mark.parametrize("selector", ["id", "episode"])
    def test_a_missing_silence_is_an_error(self, trail, selector):
        target = {"silence_id": "x"} if selector == "id" else {"episode": trail.episode}
        assert trail.expect_error(trail.unsilence, **target) == "no such silence"

    def test_ending_a_silence_without_a_target_is_an_error(self, trail):
        assert trail.expect_error(trail.unsilence) == (
            "specify the silence by silence_id, or its alert by episode, or by alert_name, "
            "instance, …"
        )

    def test_a_wider_silence_is_not_ended(self, trail):
        trail.silence(labels={"alertname": "HostDown"})
        assert trail.expect_error(trail.unsilence, episode=trail.episode) == "no such silence"


def test_silences_work_in_a_real_alertmanager(trail, alertmanager):
    server = alertmanager("http://127.0.0.1:1/")
    client = Alertmanager(MonitoringServer(server.url))
    trail.alertmanagers = [client]
    server.fire(**LABELS)
    created = trail.silence(minutes=5)
    assert wait_for(lambda: any(held_alert.silenced_by for held_alert in client.alerts()))
    unchanged = trail.silence(minutes=5)
    assert (unchanged["state"], unchanged["silence_ids"]) == ("unchanged", created["silence_ids"])
    extended = trail.silence(minutes=50)
    assert (extended["state"], extended["silence_ids"]) == ("extended", created["silence_ids"])
    (stored_silence,) = client.silences()
    assert (
        isinstance(stored_silence, Silence)
        and format_timestamp(stored_silence.ends_at)[:19] == extended["until"][:19]
    )
    assert trail.unsilence(episode=trail.episode)["state"] == "ended"
    assert wait_for(lambda: not client.alerts()[0].silenced_by)
    assert trail.unsilence(episode=trail.episode)["state"] == "unchanged"


class TestDuringChange:
    """An entry with `silence_minutes` silences its alert during the change."""

    @pytest.fixture
    def alertmanagers(self, monkeypatch):
        monkeypatch.setattr(silences, "_GOSSIP_WAIT", 0)
        return [FakeAlertmanager("http://one.example"), FakeAlertmanager("http://two.example")]

    @staticmethod
    def start(alertmanagers, execution_id="e1", minutes=20):
        change_silence = ChangeSilence(execution_id, "nginx", "linux.service", LABELS, minutes)
        return silence_during_change(alertmanagers, change_silence)

    @staticmethod
    def read_states(alertmanager):
        return [str(s.state) for s in alertmanager.silences_by_id.values()]

    def test_the_alert_is_silenced_everywhere_and_for_a_limited_time(self, alertmanagers):
        assert self.start(alertmanagers) == []
        for alertmanager in alertmanagers:
            (created,) = alertmanager.silences_by_id.values()
            assert set(created.matchers) == {Matcher(n, v) for n, v in LABELS.items()}
            assert created.ends_at - created.starts_at == timedelta(minutes=20)
            assert (created.created_by, created.comment) == (
                "poundcake",
                "remediation nginx runs linux.service, execution e1 (poundcake.remediate)",
            )

    def test_a_repeated_start_creates_no_second_silence(self, alertmanagers):
        self.start(alertmanagers)
        self.start(alertmanagers)
        assert [self.read_states(a) for a in alertmanagers] == [["active"], ["active"]]

    def test_only_the_silence_of_the_change_is_ended(self, alertmanagers):
        self.start(alertmanagers, "e1")
        self.start(alertmanagers, "e11")
        alertmanagers[0].silence(silence_id="of-anna")
        assert end_silence_during_change(alertmanagers, "e1") == []
        assert self.read_states(alertmanagers[0]) == ["expired", "active", "active"]
        assert self.read_states(alertmanagers[1]) == ["expired", "active"]

    def test_an_alertmanager_that_does_not_answer_does_not_affect_the_others(self, alertmanagers):
        alertmanagers[0].failing_methods.update(("create_silence", "expire_silence"))
        (problem,) = self.start(alertmanagers)
        assert "http://one.example: create_silence" in problem
        assert self.read_states(alertmanagers[1]) == ["active"]
        assert end_silence_during_change(alertmanagers, "e1") == []
        alertmanagers[0].failing_methods.add("silences")
        assert len(end_silence_during_change(alertmanagers, "e1")) == 1
        assert self.read_states(alertmanagers[1]) == ["expired"]

    def test_manual_silences_do_not_affect_the_silence_of_a_change(self, trail):
        self.start(trail.alertmanagers)
        trail.silence(minutes=120)
        assert len(trail.primary.silences_by_id) == 2
        trail.unsilence(episode=trail.episode)
        assert self.read_states(trail.primary) == ["active", "expired"]
