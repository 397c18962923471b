"""Reserving changes: no limit is exceeded, however many workflows ask at the same time."""

from __future__ import annotations

import subprocess
import sys

import pytest
from sqlalchemy import select, update

from poundcake.config import Config
from poundcake.remediation import safety
from poundcake.trail import changes as change_rows
from poundcake.trail import claims, database, interventions, queries, search, text
from poundcake.trail.audit import Actor
from poundcake.trail.changes import ChangeResult, finish_change
from poundcake.trail.errors import DatabaseError, TrackingError
from poundcake.trail.limits import ChangeRequest
from poundcake.trail.pause import pause, resume
from poundcake.trail.record import record_requests
from poundcake.trail.replay import replay_request
from poundcake.trail.schema import alerts, audit, changes
from tests.lib.samples import NOON, alert, later, request
from tests.lib.trails import (
    WORKFLOW,
    database_time,
    episode,
    in_parallel,
    on_mariadb,
    on_sqlite,
    record,
    view,
)

ANNA = Actor("anna", "e-anna")
ACTION = "linux.service"
LIVE = {
    "dry_run": False,
    "allowed_hosts": ("*",),
    "allowed_actions": (ACTION, "ipmi.power_cycle"),
    "cooldown_seconds": 0,
    "storm_limit": 0,
}
STORM = {"storm_limit": 5}


def config(**keys):
    return Config(**{**LIVE, **keys})


def host(number, **labels):
    """Return a firing alert of one host."""
    return alert(fingerprint=f"f{number}", labels={"instance": f"web-{number}:9100", **labels})


def rows(engine, table=changes):
    with database.reading(engine) as connection:
        return connection.execute(select(table).order_by(table.c.id)).all()


class Hosts:
    """The recorded alerts of some hosts, and the changes that workflows ask for them."""

    def __init__(self, engine, count, **labels):
        self.engine = engine
        sent = request(*(host(number, **labels) for number in range(count)))
        with database_time(NOON):
            record_requests(engine, config(max_remediations_per_hour=0), [sent])
        self.request_id = sent.request_id

    def ask(self, number=0, at=120, execution="", **parameters):
        """Ask for a change of a host, some seconds after noon, and return the decision."""
        keys = parameters.pop("config", {})
        with database_time(later(at)):
            return self.ask_now(number, execution, config(**keys), **parameters)

    def ask_now(self, number, execution, settings, **parameters):
        change_request = ChangeRequest(
            request_id=self.request_id,
            episode=parameters.pop("episode", episode(f"f{number}")),
            action=parameters.pop("action", ACTION),
            execution_id=execution or f"e{number}",
            **parameters,
        )
        return safety.reserve(self.engine, settings, change_request)

    def end(self, execution, result=ChangeResult.VERIFIED, at=180):
        with database_time(later(at)):
            return finish_change(self.engine, execution, result)


@pytest.fixture
def hosts(engine):
    return Hosts(engine, 5)


class TestReserve:
    def test_a_granted_change_is_on_record(self, engine, hosts):
        assert hosts.ask().may_change
        (row,) = rows(engine)
        assert (row.st2_execution_id, row.request_id) == ("e0", hosts.request_id)
        assert (row.episode, row.attempt, row.target) == (episode("f0"), 1, "web-0")
        assert (row.remediation, row.action) == (ACTION, ACTION)
        assert (row.result, row.refusal, row.ended_at) == ("", "", None)
        assert row.decided_at == later(120) and row.lease_until > later(120)

    def test_a_refused_change_is_on_record_with_its_reason(self, engine, hosts):
        assert not hosts.ask(config={"denied_hosts": ("web-0",)}).may_change
        (row,) = rows(engine)
        assert (row.result, row.refusal, row.claim) == ("refused", "host_denied", None)
        assert row.reason.startswith("denied_hosts contains web-0")
        assert row.ended_at == later(120)

    def test_an_execution_that_asks_again_is_counted_once(self, engine, hosts):
        limits = {"max_changes_per_hour": 2}
        assert [hosts.ask(config=limits).may_change for _ in range(3)] == [True] * 3
        assert hosts.ask(1, config=limits).may_change
        assert hosts.ask(2, config=limits).refusal == "site_limit"
        assert len(rows(engine)) == 3

    def test_a_refused_execution_may_ask_again(self, engine, hosts):
        assert hosts.ask(at=30).refusal == "settling"
        assert hosts.ask(at=60).may_change
        (row,) = rows(engine)
        assert (row.result, row.refusal, row.reason) == ("", "", "")

    def test_without_an_execution_nothing_is_reserved(self, engine, hosts):
        with pytest.raises(TrackingError, match="execution_id"):
            safety.reserve(engine, config(), ChangeRequest(hosts.request_id, episode("f0"), ACTION))

    def test_a_dry_run_is_on_record_too(self, engine, hosts):
        assert hosts.ask(config={"dry_run": True}).refusal == "dry_run"
        (row,) = rows(engine)
        assert (row.result, row.refusal) == ("refused", "dry_run")

    def test_an_unknown_alert_is_an_error(self, hosts):
        with pytest.raises(TrackingError, match="no alert of episode"):
            hosts.ask(episode=episode("unknown"))

    @on_sqlite
    def test_without_the_database_nothing_is_reserved(self, engine, hosts, monkeypatch):
        def unavailable(*_):
            raise DatabaseError("it is down")

        monkeypatch.setattr(database, "transaction", unavailable)
        with pytest.raises(DatabaseError):
            hosts.ask()


class TestInFlight:
    def test_one_change_at_a_time_for_a_target(self, engine, hosts):
        other = record(engine, alert("DiskFull", fingerprint="d", labels={"instance": "WEB-0."}))
        assert hosts.ask().may_change
        hosts.request_id = other
        decision = hosts.ask(execution="e9", episode=episode("d"))
        assert decision.refusal == "in_flight"
        assert "linux.service of execution e0" in decision.reason
        hosts.end("e0")
        parameters = {"execution": "e9", "episode": episode("d"), "at": 200}
        assert hosts.ask(config={"host_cooldown_seconds": 0}, **parameters).may_change

    def test_three_changes_at_a_time_for_the_site(self, hosts):
        assert [hosts.ask(number).may_change for number in range(4)] == [True, True, True, False]
        assert hosts.ask(3).refusal == "site_in_flight"
        hosts.end("e1")
        assert hosts.ask(3).may_change

    def test_changes_per_label(self, engine):
        hosts = Hosts(engine, 3, rack="r12")
        per_rack = {"per_label": "rack", "at_once": 2}
        assert hosts.ask(0, **per_rack).may_change
        assert hosts.ask(1, **per_rack).may_change
        assert rows(engine)[0].per_value == "rack=r12"
        assert hosts.ask(2, **per_rack).refusal == "per_label_in_flight"

    def test_a_lease_that_nobody_extends_ends(self, hosts):
        assert hosts.ask().may_change
        recent = {"config": {"fresh_minutes": 0}, "execution": "e9"}
        lease = int(change_rows.LEASE.total_seconds())
        # The claim on the episode remains, but the target is no longer in flight.
        assert hosts.ask(at=120 + lease - 1, **recent).refusal == "episode_taken"
        request_id = record(hosts.engine, alert(fingerprint="x", labels={"instance": "web-0"}))
        hosts.request_id = request_id
        recent["episode"] = episode("x")
        assert hosts.ask(at=120 + lease - 1, **recent).refusal == "in_flight"
        assert hosts.ask(at=120 + lease, **recent).may_change

    def test_labels_may_name_the_target(self, engine):
        hosts = Hosts(engine, 2, cluster="eu", deployment="api")
        labels = {"target_labels": ("cluster", "deployment")}
        assert hosts.ask(0, **labels).may_change
        assert rows(engine)[0].target == "cluster=eu,deployment=api"
        assert hosts.ask(1, **labels).refusal == "in_flight"
        missing = hosts.ask(1, target_labels=("cluster", "namespace"))
        assert missing.refusal == "no_target"

    def test_an_alert_without_a_host_is_its_own_target(self, engine):
        hosts = Hosts(engine, 2, instance="")
        assert hosts.ask(0, needs_host=False).may_change
        assert hosts.ask(1, needs_host=False).may_change
        assert [row.target for row in rows(engine)] == ["fingerprint=f0", "fingerprint=f1"]


class TestCounts:
    def test_changes_of_a_remediation_in_an_hour(self, hosts):
        limits = {"max_changes_per_remediation_per_hour": 2, "fresh_minutes": 0}
        for number in (0, 1):
            assert hosts.ask(number, config=limits, remediation="web").may_change
            hosts.end(f"e{number}")
        assert hosts.ask(2, config=limits, remediation="web").refusal == "hourly_limit"
        assert hosts.ask(2, config=limits, remediation="other").may_change
        assert hosts.ask(3, at=120 + 3599, config=limits, remediation="web").refusal == (
            "hourly_limit"
        )
        assert hosts.ask(3, at=120 + 3600, config=limits, remediation="web").may_change

    def test_without_a_name_the_action_is_counted(self, hosts):
        limits = {"max_changes_per_remediation_per_hour": 1}
        assert hosts.ask(0, config=limits).may_change
        assert hosts.ask(1, config=limits).refusal == "hourly_limit"
        assert hosts.ask(1, config=limits, action="ipmi.power_cycle").may_change

    def test_changes_of_the_site_in_an_hour(self, hosts):
        limits = {"max_changes_per_hour": 2}
        for number in (0, 1):
            assert hosts.ask(number, config=limits, remediation=f"r{number}").may_change
            hosts.end(f"e{number}")
        decision = hosts.ask(2, config=limits, remediation="r2")
        assert decision.refusal == "site_limit"
        assert "2026-01-14T13:02:00Z" in decision.how_to_lift

    def test_changes_of_a_target_in_a_day(self, engine, hosts):
        limits = {"host_cooldown_seconds": 0, "fresh_minutes": 0, "max_changes_per_hour": 0}
        for number in range(3):
            name = f"g{number}"
            hosts.request_id = record(engine, alert(fingerprint=name, labels={"instance": "db-1"}))
            at = 120 + 8 * 3600 * number
            assert hosts.ask(at=at, episode=episode(name), execution=name, config=limits).may_change
            hosts.end(name, at=at + 60)
        hosts.request_id = record(engine, alert(fingerprint="h", labels={"instance": "db-1"}))
        parameters = {"episode": episode("h"), "execution": "h", "config": limits}
        assert hosts.ask(at=120 + 24 * 3600 - 1, **parameters).refusal == "daily_target_limit"
        assert hosts.ask(at=120 + 24 * 3600, **parameters).may_change

    def test_refused_changes_do_not_count(self, hosts):
        refused = {"denied_hosts": ("web-*",), "max_changes_per_hour": 1}
        assert [hosts.ask(n, config=refused).refusal for n in (0, 1)] == ["host_denied"] * 2
        assert hosts.ask(2, config={"max_changes_per_hour": 1}).may_change


class TestCooldown:
    @pytest.mark.parametrize("action, seconds", [(ACTION, 1800), ("ipmi.power_cycle", 3600)])
    def test_it_starts_at_the_end_of_the_verification(self, engine, hosts, action, seconds):
        assert hosts.ask(action=action).may_change
        hosts.end("e0", at=600)
        hosts.request_id = record(engine, alert(fingerprint="g", labels={"instance": "web-0"}))
        parameters = {
            "episode": episode("g"),
            "execution": "e9",
            "config": {"fresh_minutes": 0},
            "remediation": "other",
        }
        assert hosts.ask(at=600 + seconds - 1, **parameters).refusal == "cooldown"
        assert hosts.ask(at=600 + seconds, **parameters).may_change

    def test_a_release_of_the_episode_lifts_it(self, engine, hosts):
        assert hosts.ask().may_change
        hosts.end("e0")
        assert hosts.ask(execution="e9").refusal == "episode_taken"
        with database_time(later(200)):
            claims.release(engine, episode("f0"), actor=ANNA)
        assert hosts.ask(at=210, execution="e9").may_change


class TestCooldownOfAWorkflow:
    """A workflow is started again once its change may be made, so that the alert is not lost."""

    def link(self, hosts, name, at):
        with database_time(later(at)):
            request_id = record(hosts.engine, alert(fingerprint=name, labels={"instance": "web-0"}))
        with database_time(later(at)):
            return self.claim(hosts, request_id, name, f"e-{name}")

    def claim(self, hosts, request_id, name, execution):
        cooldown = claims.HostCooldown.of(1800, 3600)
        return claims.link(hosts.engine, request_id, episode(name), WORKFLOW, execution, cooldown)

    @pytest.mark.parametrize("action, seconds", [(ACTION, 1800), ("ipmi.power_cycle", 3600)])
    def test_it_counts_from_the_end_of_the_change(self, hosts, action, seconds):
        with database_time(later(100)):
            self.claim(hosts, hosts.request_id, "f0", "e0")
        assert hosts.ask(action=action).may_change
        assert not self.link(hosts, "a", 5000)["claimed"]  # the change is still in flight
        hosts.end("e0", at=6000)
        refused = self.link(hosts, "b", 6000 + seconds - 1)
        assert not refused["claimed"]
        assert "cooldown of this host until" in refused["reason"]
        assert self.link(hosts, "c", 6000 + seconds)["claimed"]


class TestEpisodes:
    def test_a_second_workflow_is_refused_and_the_first_is_named(self, engine, hosts):
        assert hosts.ask(execution="e1").may_change
        decision = hosts.ask(execution="e2", action="ipmi.power_cycle")
        assert decision.refusal == "episode_taken"
        assert "execution e1 makes a change for this episode with linux.service" in decision.reason

    def test_an_execution_that_loses_the_claim_is_on_record(self, engine, hosts):
        for _ in range(2):
            claims.link(engine, hosts.request_id, episode("f0"), WORKFLOW, "e1")
            assert not claims.link(engine, hosts.request_id, episode("f0"), WORKFLOW, "e2")[
                "claimed"
            ]
        (row,) = rows(engine)
        assert (row.st2_execution_id, row.result, row.refusal) == ("e2", "refused", "not_claimed")
        assert (row.target, row.action) == ("web-0", WORKFLOW)
        assert row.reason.startswith(f"execution e1 of {WORKFLOW} holds the claim")
        why = view(engine, queries.why, filters=search.parse(alert_name="HostDown"))
        (shown,) = next(e for e in why["episodes"] if e["episode"] == episode("f0"))["changes"]
        assert "execution e1" in shown["reason"]
        assert f"{WORKFLOW} on web-0 (e2): refused, not_claimed: execution e1" in text.why(why, 24)
        status = view(engine, queries.status, request_id=hosts.request_id)
        assert status["changes"] == [shown]

    def test_another_attempt_may_change_something(self, engine, hosts):
        assert hosts.ask().may_change
        hosts.end("e0")
        with database_time(later(300)):
            replayed = replay_request(engine, config(), hosts.request_id, True, "e-replay", ANNA)
        hosts.request_id = replayed["request_id"]
        keys = {"host_cooldown_seconds": 0}
        assert hosts.ask(at=310, execution="e9", config=keys).may_change
        assert [row.attempt for row in rows(engine)] == [1, 2]

    def test_release_refuses_while_the_change_may_run(self, engine, hosts):
        claims.link(engine, hosts.request_id, episode("f0"), WORKFLOW, "e0")
        assert hosts.ask().may_change
        with database.transaction(engine) as connection:
            connection.exec_driver_sql("UPDATE execution_db SET status = 'canceled'")
        with pytest.raises(TrackingError, match="the change that execution e0 made"):
            claims.release(engine, episode("f0"))
        assert rows(engine)[0].claim
        claims.release(engine, episode("f0"), force=True)
        (row,) = rows(engine)
        assert (row.claim, row.result) == (None, "released")

    def test_a_release_of_one_workflow_keeps_the_change_of_another(self, engine, hosts):
        claims.link(engine, hosts.request_id, episode("f0"), WORKFLOW, "e0")
        claims.link(engine, hosts.request_id, episode("f0"), "pack.other", "e9")
        assert hosts.ask().may_change
        hosts.end("e0")
        claims.release(engine, episode("f0"), "pack.other", force=True)
        assert rows(engine)[0].claim
        claims.release(engine, episode("f0"), WORKFLOW, force=True)
        assert rows(engine)[0].claim is None


class TestBreaker:
    ENDINGS = (ChangeResult.FAILED, ChangeResult.NOT_VERIFIED, ChangeResult.NOT_CLEARED)

    def fail(self, hosts, endings=ENDINGS):
        for number, ending in enumerate(endings):
            assert hosts.ask(number, at=120 + number, remediation="web").may_change
            hosts.end(f"e{number}", ending, at=180 + number)

    def test_it_opens_after_three_failures_until_it_is_released(self, engine, hosts):
        self.fail(hosts)
        decision = hosts.ask(3, remediation="web", at=300)
        assert decision.refusal == "breaker"
        assert "poundcake.release remediation=web" in decision.how_to_lift
        assert hosts.ask(4, remediation="other", at=300).may_change
        assert claims.release_breaker(engine, "web", ANNA) == 3
        assert hosts.ask(3, remediation="web", at=310).may_change
        (entry,) = rows(engine, audit)
        assert (entry.action, entry.target, entry.st2_user) == ("release", "web", "anna")
        assert claims.release_breaker(engine, "web", ANNA) == 0
        assert len(rows(engine, audit)) == 1

    def test_a_success_in_between_closes_it(self, hosts):
        self.fail(hosts, (ChangeResult.FAILED, ChangeResult.FAILED, ChangeResult.VERIFIED))
        assert hosts.ask(3, remediation="web", at=300).may_change

    @pytest.mark.parametrize("ending", [ChangeResult.UNKNOWN, ChangeResult.RELEASED])
    def test_a_change_whose_result_is_unknown_does_not_count(self, hosts, ending):
        self.fail(hosts, (ChangeResult.FAILED, ChangeResult.FAILED, ending))
        assert hosts.ask(3, remediation="web", at=300).may_change


class TestStorm:
    def test_many_incidents_of_one_name_are_a_storm(self, engine):
        hosts = Hosts(engine, 6)
        decision = hosts.ask(config=STORM)
        assert decision.refusal == "storm"
        assert "6 incidents of HostDown" in decision.reason
        assert hosts.ask(config={"storm_limit": 6}).may_change

    def test_another_name_is_not_part_of_it(self, engine):
        Hosts(engine, 6)
        other = record(engine, alert("DiskFull", fingerprint="d", labels={"instance": "db-1"}))
        hosts = Hosts.__new__(Hosts)
        hosts.engine, hosts.request_id = engine, other
        assert hosts.ask(episode=episode("d"), config=STORM).may_change

    def test_it_ends_some_minutes_after_the_number_has_fallen(self, engine):
        hosts = Hosts(engine, 6)
        gone = alert(
            status="resolved",
            fingerprint="f5",
            labels={"instance": "web-5:9100"},
            ends_at=later(200),
        )
        record(engine, gone, received_at=later(200))
        fresh = {"config": {**STORM, "fresh_minutes": 0}}
        assert hosts.ask(at=200 + 599, **fresh).refusal == "storm"
        assert hosts.ask(at=200 + 600, **fresh).may_change

    def test_a_flapping_host_counts_once(self, engine):
        hosts = Hosts(engine, 1)
        for number in range(1, 6):
            at = 100 * number
            flapping = host(0)
            flapping["startsAt"] = alert(starts_at=later(at))["startsAt"]
            ended = dict(flapping, status="resolved", endsAt=alert(starts_at=later(at))["startsAt"])
            record(engine, ended, received_at=later(at))
        other = record(engine, host(7), received_at=later(600))
        hosts.request_id = other
        parameters = {"episode": episode("f7"), "execution": "e7", "at": 700}
        assert hosts.ask(config={"storm_limit": 2}, **parameters).may_change

    def test_the_storm_of_a_label(self, engine):
        Hosts(engine, 3, rack="r13")
        here = request(*(host(n + 10, rack="r12") for n in range(2)))
        with database_time(NOON):
            record_requests(engine, config(), [here])
        hosts = Hosts.__new__(Hosts)
        hosts.engine, hosts.request_id = engine, here.request_id
        parameters = {"per_label": "rack", "storm": 2, "at_once": 0}
        assert hosts.ask(10, **parameters).may_change
        decision = hosts.ask(11, per_label="rack", storm=1, at_once=0)
        assert decision.refusal == "storm"
        assert "2 incidents of HostDown with rack=r12" in decision.reason


class TestIncidents:
    def test_an_acknowledged_incident_is_not_changed(self, engine, hosts):
        with database_time(later(10)):
            interventions.acknowledge(engine, ANNA, episode("f0"))
        assert hosts.ask().refusal == "acknowledged"

    def test_a_silenced_alert_is_not_changed_until_the_silence_ends(self, engine, hosts):
        with database.transaction(engine) as connection:
            connection.execute(
                update(alerts)
                .where(alerts.c.episode == episode("f0"))
                .values(silence_id="s1", silenced_by="ben", silenced_until=later(200))
            )
        decision = hosts.ask(at=199)
        assert (decision.refusal, "by ben" in decision.reason) == ("silenced", True)
        assert hosts.ask(at=200).may_change

    def test_an_incident_that_ended_is_not_changed(self, engine, hosts):
        with database_time(later(10)):
            interventions.close(engine, ANNA, "gone", episode("f0"))
        assert hosts.ask().refusal == "incident_ended"

    def test_an_incident_is_changed_only_once_it_has_settled(self, hosts):
        assert hosts.ask(at=59).refusal == "settling"
        assert hosts.ask(at=60).may_change

    def test_a_stale_incident_is_not_changed_until_the_next_notification(self, engine, hosts):
        assert hosts.ask(at=16 * 60).refusal == "stale"
        assert hosts.ask(at=16 * 60, check_failed=True).may_change
        record(engine, host(1), received_at=later(15 * 60))
        assert hosts.ask(1, at=16 * 60).may_change


class TestPause:
    def test_nothing_is_granted_while_changes_are_paused(self, engine, hosts):
        with database_time(later(60)):
            pause(engine, ANNA, "maintenance")
        decision = hosts.ask()
        assert (decision.refusal, "maintenance" in decision.reason) == ("paused", True)
        resume(engine, ANNA)
        assert hosts.ask().may_change


class TestActions:
    """What workflows and people get from the actions."""

    KEYS = {
        "dry_run": False,
        "allowed_hosts": ["*"],
        "allowed_actions": [ACTION],
        "fresh_minutes": 0,
        "settle_seconds": 0,
    }

    @pytest.fixture
    def run(self, hosts, run_action):
        """Return a function that runs an action for the first host as the workflow e1."""

        def run(name, config=None, **parameters):
            ids = {"request_id": hosts.request_id, "episode": episode("f0")}
            return run_action(name, "e-task", {**self.KEYS, **(config or {})}, **ids, **parameters)

        return run

    def test_reserve_grants_a_change_and_says_why_not(self, run):
        parameters = {"action": ACTION, "execution_id": "e1"}
        granted = run("reserve", **parameters)
        assert (granted["may_change"], granted["refusal"], granted["message"]) == (True, "", "")
        refused = run("reserve", **{**parameters, "execution_id": "e2"})
        assert (refused["may_change"], refused["refusal"]) == (False, "episode_taken")
        assert "execution e1 makes a change for this episode" in refused["message"]

    def test_without_the_database_nothing_may_be_changed(self, run, monkeypatch, tmp_path):
        monkeypatch.setattr(database, "retry_while_unavailable", lambda work, seconds: work())
        gone = {"database_url": f"sqlite:///{tmp_path}/missing.sqlite"}
        result = run("reserve", gone, action=ACTION, execution_id="e1")
        assert (result["may_change"], result["refusal"]) == (False, "database_unavailable")
        assert "the tracking database is unavailable" in result["message"]

    def test_link_says_whether_a_change_would_be_allowed(self, engine, run):
        parameters = {"workflow": "pack.flow", "execution_id": "e1", "action": ACTION}
        allowed = run("link", **parameters)
        assert (allowed["claimed"], allowed["may_change"]) == (True, True)
        assert (allowed["reason"], allowed["refusal"]) == ("", "")
        pause(engine, ANNA, "maintenance")
        refused = run("link", **parameters)
        assert (refused["claimed"], refused["may_change"]) == (True, False)
        assert refused["refusal"] == "paused"
        assert "maintenance" in refused["reason"]
        other = run("link", **{**parameters, "execution_id": "e2"})
        assert (other["claimed"], other["may_change"]) == (False, False)
        assert other["refusal"] == "not_claimed"
        assert "execution e1 of pack.flow holds the claim" in other["reason"]

    def test_link_without_an_action_allows_nothing(self, run):
        result = run("link", workflow="pack.flow", execution_id="e1")
        assert (result["claimed"], result["may_change"]) == (True, False)


class TestSimultaneous:
    """200 workflows ask at the same time."""

    COUNT = 200

    @pytest.fixture
    def many(self, engine):
        return Hosts(engine, self.COUNT)

    def results(self, engine):
        recorded = rows(engine)
        assert len(recorded) == self.COUNT
        granted = [row for row in recorded if row.result == ""]
        assert all(row.refusal and row.reason for row in recorded if row not in granted)
        return granted

    def ask_at_once(self, many, **keys):
        settings = config(settle_seconds=0, storm_limit=0, fresh_minutes=0, **keys)

        def ask(index):
            return database.retry_while_unavailable(
                lambda: many.ask_now(index, f"e{index}", settings), seconds=60
            )

        answers = in_parallel(self.COUNT, ask)
        assert not [answer for answer in answers if isinstance(answer, Exception)]
        return [answer for answer in answers if answer.may_change]

    def test_no_more_than_three_are_in_flight(self, engine, many):
        assert len(self.ask_at_once(many)) == 3
        assert len(self.results(engine)) == 3

    def test_no_more_than_the_hourly_limit_is_granted(self, engine, many):
        limits = {"max_in_flight": 0, "max_changes_per_remediation_per_hour": 0}
        assert len(self.ask_at_once(many, **limits)) == 10
        assert len(self.results(engine)) == 10


_ASK = """
import sys
from poundcake.config import Config
from poundcake.remediation import safety
from poundcake.trail import database
from poundcake.trail.limits import ChangeRequest

url, request_id, first, last = sys.argv[1:]
engine = database.open_engine(url)
settings = Config(
    dry_run=False, allowed_hosts=("*",), allowed_actions=("linux.service",), settle_seconds=0,
    storm_limit=0, fresh_minutes=0,
)
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(first), int(last)):
    episode = "f%d-1768392000000" % number
    wanted = ChangeRequest(request_id, episode, "linux.service", "e%d" % number)
    reserve = lambda: safety.reserve(engine, settings, wanted)
    decision = database.retry_while_unavailable(reserve, 60)
    print(decision.refusal_name or "granted", flush=True)
"""


def test_processes_cannot_exceed_a_limit_either(engine):
    hosts = Hosts(engine, 40)
    url = engine.url.render_as_string(hide_password=False)
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", _ASK, url, hosts.request_id, str(first), str(first + 10)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={"PYTHONPATH": "lib"},
            text=True,
        )
        for first in range(0, 40, 10)
    ]
    for process in processes:
        assert process.stdout.readline() == "ready\n"
    for process in processes:
        process.stdin.write("\n")
        process.stdin.flush()
    printed = [
        line for process in processes for line in process.communicate(timeout=120)[0].split()
    ]
    assert len(printed) == 40
    assert printed.count("granted") == 3
    assert len([row for row in rows(engine) if row.result == ""]) == 3


@on_mariadb
def test_a_pause_waits_for_the_decision_in_progress(engine):
    """After pause() has returned, no change is granted any more."""
    hosts = Hosts(engine, 20)
    settings = config(settle_seconds=0, max_in_flight=0, storm_limit=0, fresh_minutes=0)
    paused_at = []

    def work(index):
        if index == 0:
            paused_at.append(pause(engine, ANNA, "stop").at)
            return None
        return database.retry_while_unavailable(
            lambda: hosts.ask_now(index, f"e{index}", settings), seconds=30
        )

    answers = in_parallel(20, work)
    assert not [answer for answer in answers if isinstance(answer, Exception)]
    late = [row for row in rows(engine) if row.decided_at > paused_at[0]]
    assert {row.refusal for row in late} <= {"paused"}
