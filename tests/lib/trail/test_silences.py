"""Manual silences always have an end, and apply in every Alertmanager."""

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
from poundcake.trail.silences import COMMENT_MARK, Target, silence, unsilence
from tests.lib.fake_alertmanager import FakeAlertmanager
from tests.lib.samples import alert
from tests.lib.trails import record, view
from tests.waiting import wait_for

ANNA, BEN = Actor("anna", "e1"), Actor("ben", "e2")
LABELS = {"alertname": "HostDown", "instance": "web-1:9100", "severity": "critical"}
UNKNOWN = "b1c946b0b0b0b0b0-1768392000000"


class World:
    def __init__(self, engine):
        self.engine = engine
        record(engine, alert())
        self.episode = self.row().episode
        self.alertmanagers = [FakeAlertmanager()]

    @property
    def primary(self):
        return self.alertmanagers[0]

    def row(self):
        with database.reading(self.engine) as connection:
            return connection.execute(select(alerts)).all()[0]

    def audit(self):
        with database.reading(self.engine) as connection:
            return connection.execute(select(audit).order_by(audit.c.id)).all()

    def silence(self, minutes=60, comment="a new disk", actor=ANNA, **target):
        target = target or {"episode": self.episode}
        servers = self.alertmanagers
        return silence(self.engine, servers, actor, Target(**target), minutes, comment)

    def unsilence(self, silence_id="", force=False, episode=""):
        target = Target(episode)
        return unsilence(self.engine, self.alertmanagers, BEN, target, silence_id, force)

    def error(self, work, *args, **more):
        with pytest.raises(PoundCakeError) as caught:
            work(*args, **more)
        return str(caught.value)

    def why(self):
        return text.why(view(self.engine, queries.why, Filters()), 24)


@pytest.fixture
def world(engine, monkeypatch):
    monkeypatch.setattr(silences, "_GOSSIP_WAIT", 0)
    return World(engine)


class TestSilence:
    def test_each_label_of_the_alert_gets_an_exact_matcher(self, world):
        result = world.silence()
        assert (result["state"], result["labels"], result["problems"]) == ("created", LABELS, [])
        (stored_silence,) = world.primary.known.values()
        assert result["silence_ids"] == [stored_silence.id]
        assert set(stored_silence.matchers) == {
            Matcher(name, value) for name, value in LABELS.items()
        }
        assert (stored_silence.created_by, stored_silence.comment) == (
            "anna",
            "a new disk" + COMMENT_MARK,
        )

    def test_a_silence_ends_after_the_minutes_by_alertmanagers_clock(self, world):
        world.primary.now -= timedelta(days=3)
        result = world.silence(minutes=7)
        (stored_silence,) = world.primary.known.values()
        assert (stored_silence.starts_at, stored_silence.ends_at - stored_silence.starts_at) == (
            world.primary.now,
            timedelta(minutes=7),
        )
        assert result["until"] == format_timestamp(stored_silence.ends_at)

    def test_ignored_labels_are_left_out(self, world):
        result = world.silence(episode=world.episode, ignored_labels=("severity",))
        assert result["labels"] == {n: v for n, v in LABELS.items() if n != "severity"}

    def test_labels_may_be_given_instead_of_an_episode(self, world):
        result = world.silence(labels={"rack": "r12", "number": 5, "empty": ""})
        assert result["labels"] == {"rack": "r12", "number": "5"}

    def test_a_silence_is_shown_and_audited(self, world):
        result = world.silence()
        (entry,) = world.audit()
        assert (entry.action, entry.st2_user, entry.execution_id) == ("silence", "anna", "e1")
        assert (entry.target, entry.comment) == (world.episode, "a new disk")
        assert world.row().silence_id == result["silence_ids"][0]
        assert "silence by anna: a new disk" in world.why()
        assert f"silenced by anna until {world.row().silenced_until:%Y-%m-%d %H:%MZ}" in world.why()

    @pytest.mark.parametrize("seconds", [0, 59])
    def test_the_same_call_again_keeps_the_silence(self, world, seconds):
        first = world.silence()
        world.primary.now += timedelta(seconds=seconds)
        second = world.silence()
        assert (second["state"], second["silence_ids"]) == ("unchanged", first["silence_ids"])
        assert second["until"] == first["until"]
        assert world.primary.calls.count("create_silence") == 1

    def test_a_shorter_silence_keeps_the_longer_one(self, world):
        first = world.silence(minutes=60)
        assert world.silence(minutes=5)["until"] == first["until"]

    def test_a_longer_silence_extends_the_existing_one(self, world):
        first = world.silence(minutes=60)
        second = world.silence(minutes=90, actor=BEN)
        assert (second["state"], second["silence_ids"]) == ("extended", first["silence_ids"])
        (stored_silence,) = world.primary.known.values()
        assert stored_silence.ends_at - world.primary.now == timedelta(minutes=90)

    def test_a_silence_that_has_ended_is_not_reused(self, world):
        first = world.silence()
        world.primary.expire_silence(first["silence_ids"][0])
        assert world.silence()["state"] == "created"

    def test_a_silence_created_by_a_person_is_not_changed(self, world):
        first = world.silence()
        stored_silence = world.primary.known[first["silence_ids"][0]]
        world.primary.known = {"own": replace(stored_silence, id="own", comment="mine")}
        assert world.silence(minutes=90)["state"] == "created"
        assert world.primary.known["own"].comment == "mine"

    def test_a_silence_of_other_labels_is_not_reused(self, world):
        world.silence(labels={"alertname": "HostDown"})
        assert world.silence()["state"] == "created"

    @pytest.mark.parametrize(
        "parameters, problem",
        [
            ({"minutes": 0}, "minutes: must be from 1 to 10080"),
            ({"minutes": 10_081}, "minutes: must be from 1 to 10080"),
            ({"comment": " "}, "comment: say why the alert is silenced"),
            ({"episode": UNKNOWN}, f"no episode {UNKNOWN} is recorded"),
            ({"episode": ""}, "specify the alert: either episode=EPISODE or labels, not both"),
            (
                {"episode": "x", "labels": {"a": "b"}},
                "specify the alert: either episode=EPISODE or labels",
            ),
            ({"labels": {"a": ""}}, "labels: must contain a label with a value"),
        ],
    )
    def test_invalid_parameters_are_refused(self, world, parameters, problem):
        assert world.error(world.silence, **parameters).startswith(problem)
        assert (world.primary.calls, world.audit()) == ([], [])

    def test_silencing_without_alertmanagers_is_an_error(self, world):
        world.alertmanagers = []
        assert world.error(world.silence).startswith("alertmanagers: list your Alertmanagers")


class TestSeveralAlertmanagers:
    def test_peers_share_one_silence(self, world):
        second = FakeAlertmanager("http://am-2.example")
        second.known = world.primary.known
        world.alertmanagers.append(second)
        assert len(world.silence()["silence_ids"]) == 1
        assert "create_silence" not in second.calls

    def test_a_peer_that_receives_the_silence_later_gets_no_second_one(self, world):
        second = FakeAlertmanager("http://am-2.example")

        def silences_from_the_third_call_on():
            if second.calls.count("silences") == 3:
                second.known = world.primary.known
            return FakeAlertmanager.silences(second)

        second.silences = silences_from_the_third_call_on
        world.alertmanagers.append(second)
        assert world.silence()["state"] == "created"
        assert "create_silence" not in second.calls

    def test_separate_alertmanagers_each_get_a_silence(self, world):
        world.alertmanagers.append(FakeAlertmanager("http://am-2.example"))
        world.silence()
        assert [len(alertmanager.known) for alertmanager in world.alertmanagers] == [1, 1]

    def test_an_alertmanager_that_does_not_answer_is_named(self, world):
        world.alertmanagers.append(FakeAlertmanager("http://am-2.example"))
        world.primary.broken.add("silences")
        result = world.silence()
        assert result["problems"] == [
            f"alertmanagers, {world.primary.url}: silences: connection refused"
        ]
        assert len(world.alertmanagers[1].known) == 1

    def test_nothing_is_recorded_if_no_alertmanager_answers(self, world):
        world.primary.broken.add("create_silence")
        assert "connection refused" in world.error(world.silence)
        assert (world.audit(), world.row().silence_id) == ([], None)


class TestUnsilence:
    @pytest.mark.parametrize("selector", ["id", "episode"])
    def test_a_silence_is_ended_by_its_id_or_its_episode(self, world, selector):
        created = world.silence()
        target = (
            {"silence_id": created["silence_ids"][0]}
            if selector == "id"
            else {"episode": world.episode}
        )
        result = world.unsilence(**target)
        assert (result["state"], result["silence_ids"]) == ("ended", created["silence_ids"])
        assert [silence.state for silence in world.primary.known.values()] == ["expired"]
        assert world.row().silence_id is None
        assert (world.audit()[-1].action, world.audit()[-1].target) == ("unsilence", world.episode)
        assert "unsilence by ben" in world.why()
        assert "silenced by anna until" not in world.why()

    def test_the_same_call_again_changes_nothing(self, world):
        (silence_id,) = world.silence()["silence_ids"]
        world.unsilence(silence_id)
        assert world.unsilence(silence_id)["state"] == "unchanged"
        assert world.primary.calls.count("expire_silence") == 1

    def test_a_silence_created_by_a_person_needs_force(self, world):
        (silence_id,) = world.silence()["silence_ids"]
        world.primary.known[silence_id] = replace(world.primary.known[silence_id], comment="mine")
        problem = f"the silence {silence_id} was created by anna, not by poundcake.silence"
        assert world.error(world.unsilence, silence_id).startswith(problem)
        assert world.primary.known[silence_id].state == "active"
        assert world.unsilence(silence_id, force=True)["state"] == "ended"

    @pytest.mark.parametrize("selector", ["id", "episode"])
    def test_a_missing_silence_is_an_error(self, world, selector):
        target = {"silence_id": "x"} if selector == "id" else {"episode": world.episode}
        assert world.error(world.unsilence, **target) == "no such silence"

    def test_ending_a_silence_without_a_target_is_an_error(self, world):
        assert world.error(world.unsilence).startswith("specify the alert")

    def test_a_wider_silence_is_not_ended(self, world):
        world.silence(labels={"alertname": "HostDown"})
        assert world.error(world.unsilence, episode=world.episode) == "no such silence"


def test_silences_of_a_real_alertmanager(world, alertmanager):
    server = alertmanager("http://127.0.0.1:1/")
    client = Alertmanager(MonitoringServer(server.url))
    world.alertmanagers = [client]
    server.fire(**LABELS)
    created = world.silence(minutes=5)
    assert wait_for(lambda: any(held_alert.silenced_by for held_alert in client.alerts()))
    unchanged = world.silence(minutes=5)
    assert (unchanged["state"], unchanged["silence_ids"]) == ("unchanged", created["silence_ids"])
    extended = world.silence(minutes=50)
    assert (extended["state"], extended["silence_ids"]) == ("extended", created["silence_ids"])
    (stored_silence,) = client.silences()
    assert (
        isinstance(stored_silence, Silence)
        and format_timestamp(stored_silence.ends_at)[:19] == extended["until"][:19]
    )
    assert world.unsilence(episode=world.episode)["state"] == "ended"
    assert wait_for(lambda: not client.alerts()[0].silenced_by)
    assert world.unsilence(episode=world.episode)["state"] == "unchanged"
