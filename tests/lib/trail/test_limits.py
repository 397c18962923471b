"""Any number of workflows can reserve changes at the same time without exceeding a limit."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from sqlalchemy import select, update

from poundcake.config import Config
from poundcake.remediation import safety
from poundcake.remediation.checks import TcpResult, TcpState
from poundcake.trail import changes as change_rows
from poundcake.trail import claims, database, interventions, queries, search, text
from poundcake.trail.audit import Actor
from poundcake.trail.changes import ChangeResult, finish_changes
from poundcake.trail.errors import DatabaseError, TrackingError
from poundcake.trail.limits import ChangeRequest
from poundcake.trail.pause import pause, resume
from poundcake.trail.queries.changes import count_failures_in_a_row
from poundcake.trail.record import record_requests
from poundcake.trail.release import release_breaker, release_claims
from poundcake.trail.replay import replay_request
from poundcake.trail.schema import alerts, audit, changes, events, links
from tests import services
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


def live_config(**settings):
    return Config(**{**LIVE, **settings})


def host_alert(number, **labels):
    """Return a firing alert for the host web-<number>."""
    return alert(fingerprint=f"f{number}", labels={"instance": f"web-{number}:9100", **labels})


def read_rows(engine, table=changes):
    with database.reading(engine) as connection:
        return connection.execute(select(table).order_by(table.c.id)).all()


class Hosts:
    """The recorded alerts of some hosts, for which workflows request changes."""

    def __init__(self, engine, count, **labels):
        self.engine = engine
        webhook_request = request(*(host_alert(number, **labels) for number in range(count)))
        with database_time(NOON):
            record_requests(engine, live_config(max_remediations_per_hour=0), [webhook_request])
        self.request_id = webhook_request.request_id

    def reserve(self, number=0, at=120, execution="", **parameters):
        """Reserve a change of a host `at` seconds after noon, and return the decision."""
        settings = parameters.pop("config", {})
        with database_time(later(at)):
            return self.reserve_now(number, execution, live_config(**settings), **parameters)

    def reserve_now(self, number, execution, config, **parameters):
        change_request = ChangeRequest(
            request_id=self.request_id,
            episode=parameters.pop("episode", episode(f"f{number}")),
            action=parameters.pop("action", ACTION),
            execution_id=execution or f"e{number}",
            **parameters,
        )
        return safety.reserve(self.engine, config, change_request)

    def finish(self, execution, result=ChangeResult.VERIFIED, at=180):
        with database_time(later(at)):
            return finish_changes(self.engine, execution, result)


@pytest.fixture
def hosts(engine):
    return Hosts(engine, 5)


class TestReserve:
    def test_a_granted_change_is_recorded(self, engine, hosts):
        assert hosts.reserve().may_change
        (row,) = read_rows(engine)
        assert (row.st2_execution_id, row.request_id) == ("e0", hosts.request_id)
        assert (row.episode, row.attempt, row.target) == (episode("f0"), 1, "web-0")
        assert (row.remediation, row.action) == (ACTION, ACTION)
        assert (row.result, row.refusal, row.ended_at) == ("", "", None)
        assert row.decided_at == later(120) and row.lease_until > later(120)

    def test_a_refused_change_is_recorded_with_its_reason(self, engine, hosts):
        assert not hosts.reserve(config={"denied_hosts": ("web-0",)}).may_change
        (row,) = read_rows(engine)
        assert (row.result, row.refusal, row.claim) == ("refused", "host_denied", None)
        assert row.reason.startswith("denied_hosts contains web-0")
        assert row.ended_at == later(120)

    def test_repeated_requests_from_one_execution_are_counted_once(self, engine, hosts):
        limits = {"max_changes_per_hour": 2}
        assert [hosts.reserve(config=limits).may_change for _ in range(3)] == [True] * 3
        assert hosts.reserve(1, config=limits).may_change
        assert hosts.reserve(2, config=limits).refusal == "site_limit"
        assert len(read_rows(engine)) == 3

    def test_a_refused_execution_may_try_again(self, engine, hosts):
        assert hosts.reserve(at=30).refusal == "settling"
        assert hosts.reserve(at=60).may_change
        (row,) = read_rows(engine)
        assert (row.result, row.refusal, row.reason) == ("", "", "")

    def test_nothing_is_reserved_without_an_execution(self, engine, hosts):
        with pytest.raises(TrackingError, match="execution_id"):
            safety.reserve(
                engine, live_config(), ChangeRequest(hosts.request_id, episode("f0"), ACTION)
            )

    def test_a_dry_run_is_recorded(self, engine, hosts):
        assert hosts.reserve(config={"dry_run": True}).refusal == "dry_run"
        (row,) = read_rows(engine)
        assert (row.result, row.refusal) == ("refused", "dry_run")

    def test_an_unknown_alert_is_an_error(self, hosts):
        with pytest.raises(TrackingError, match="no alert of episode"):
            hosts.reserve(episode=episode("unknown"))

    @on_sqlite
    def test_nothing_is_reserved_without_the_database(self, engine, hosts, monkeypatch):
        def refuse(*_):
            raise DatabaseError("it is down")

        monkeypatch.setattr(database, "transaction", refuse)
        with pytest.raises(DatabaseError):
            hosts.reserve()


class TestInFlight:
    def test_a_target_has_at_most_one_change_in_flight(self, engine, hosts):
        other_request_id = record(
            engine, alert("DiskFull", fingerprint="d", labels={"instance": "WEB-0."})
        )
        assert hosts.reserve().may_change
        hosts.request_id = other_request_id
        decision = hosts.reserve(execution="e9", episode=episode("d"))
        assert decision.refusal == "in_flight"
        assert "linux.service of execution e0" in decision.reason
        hosts.finish("e0")
        parameters = {"execution": "e9", "episode": episode("d"), "at": 200}
        assert hosts.reserve(config={"host_cooldown_seconds": 0}, **parameters).may_change

    def test_the_site_has_at_most_three_changes_in_flight(self, hosts):
        assert [hosts.reserve(number).may_change for number in range(4)] == [
            True,
            True,
            True,
            False,
        ]
        assert hosts.reserve(3).refusal == "site_in_flight"
        hosts.finish("e1")
        assert hosts.reserve(3).may_change

    def test_changes_in_flight_are_limited_for_each_value_of_a_label(self, engine):
        hosts = Hosts(engine, 3, rack="r12")
        per_rack = {"per_label": "rack", "at_once": 2}
        assert hosts.reserve(0, **per_rack).may_change
        assert hosts.reserve(1, **per_rack).may_change
        assert read_rows(engine)[0].per_value == "rack=r12"
        assert hosts.reserve(2, **per_rack).refusal == "per_label_in_flight"

    def test_a_lease_that_is_not_extended_expires(self, hosts):
        assert hosts.reserve().may_change
        parameters = {"config": {"fresh_minutes": 0}, "execution": "e9"}
        lease = int(change_rows.LEASE.total_seconds())
        # The claim on the episode never expires, but the target is in flight only during its lease.
        assert hosts.reserve(at=120 + lease - 1, **parameters).refusal == "episode_taken"
        request_id = record(hosts.engine, alert(fingerprint="x", labels={"instance": "web-0"}))
        hosts.request_id = request_id
        parameters["episode"] = episode("x")
        assert hosts.reserve(at=120 + lease - 1, **parameters).refusal == "in_flight"
        assert hosts.reserve(at=120 + lease, **parameters).may_change

    def test_labels_may_identify_the_target(self, engine):
        hosts = Hosts(engine, 2, cluster="eu", deployment="api")
        labels = {"target_labels": ("cluster", "deployment")}
        assert hosts.reserve(0, **labels).may_change
        assert read_rows(engine)[0].target == "cluster=eu,deployment=api"
        assert hosts.reserve(1, **labels).refusal == "in_flight"
        decision = hosts.reserve(1, target_labels=("cluster", "namespace"))
        assert decision.refusal == "no_target"

    def test_an_alert_without_a_host_is_its_own_target(self, engine):
        hosts = Hosts(engine, 2, instance="")
        assert hosts.reserve(0, needs_host=False).may_change
        assert hosts.reserve(1, needs_host=False).may_change
        assert [row.target for row in read_rows(engine)] == ["fingerprint=f0", "fingerprint=f1"]


class TestCounts:
    def test_changes_per_hour_are_limited_for_each_remediation(self, hosts):
        limits = {"max_changes_per_remediation_per_hour": 2, "fresh_minutes": 0}
        for number in (0, 1):
            assert hosts.reserve(number, config=limits, remediation="web").may_change
            hosts.finish(f"e{number}")
        assert hosts.reserve(2, config=limits, remediation="web").refusal == "hourly_limit"
        assert hosts.reserve(2, config=limits, remediation="other").may_change
        assert hosts.reserve(3, at=120 + 3599, config=limits, remediation="web").refusal == (
            "hourly_limit"
        )
        assert hosts.reserve(3, at=120 + 3600, config=limits, remediation="web").may_change

    def test_a_remediation_without_a_name_is_counted_by_its_action(self, hosts):
        limits = {"max_changes_per_remediation_per_hour": 1}
        assert hosts.reserve(0, config=limits).may_change
        assert hosts.reserve(1, config=limits).refusal == "hourly_limit"
        assert hosts.reserve(1, config=limits, action="ipmi.power_cycle").may_change

    def test_changes_per_hour_are_limited_for_the_site(self, hosts):
        limits = {"max_changes_per_hour": 2}
        for number in (0, 1):
            assert hosts.reserve(number, config=limits, remediation=f"r{number}").may_change
            hosts.finish(f"e{number}")
        decision = hosts.reserve(2, config=limits, remediation="r2")
        assert decision.refusal == "site_limit"
        assert "2026-01-14T13:02:00Z" in decision.how_to_lift

    def test_changes_per_day_are_limited_for_each_target(self, engine, hosts):
        limits = {"host_cooldown_seconds": 0, "fresh_minutes": 0, "max_changes_per_hour": 0}
        for number in range(3):
            name = f"g{number}"
            hosts.request_id = record(engine, alert(fingerprint=name, labels={"instance": "db-1"}))
            at = 120 + 8 * 3600 * number
            assert hosts.reserve(
                at=at, episode=episode(name), execution=name, config=limits
            ).may_change
            hosts.finish(name, at=at + 60)
        hosts.request_id = record(engine, alert(fingerprint="h", labels={"instance": "db-1"}))
        parameters = {"episode": episode("h"), "execution": "h", "config": limits}
        assert hosts.reserve(at=120 + 24 * 3600 - 1, **parameters).refusal == "daily_target_limit"
        assert hosts.reserve(at=120 + 24 * 3600, **parameters).may_change

    def test_refused_changes_do_not_count(self, hosts):
        denying_config = {"denied_hosts": ("web-*",), "max_changes_per_hour": 1}
        assert [hosts.reserve(n, config=denying_config).refusal for n in (0, 1)] == [
            "host_denied"
        ] * 2
        assert hosts.reserve(2, config={"max_changes_per_hour": 1}).may_change


class TestCooldown:
    @pytest.mark.parametrize("action, seconds", [(ACTION, 1800), ("ipmi.power_cycle", 3600)])
    def test_the_cooldown_starts_at_the_end_of_the_verification(
        self, engine, hosts, action, seconds
    ):
        assert hosts.reserve(action=action).may_change
        hosts.finish("e0", at=600)
        hosts.request_id = record(engine, alert(fingerprint="g", labels={"instance": "web-0"}))
        parameters = {
            "episode": episode("g"),
            "execution": "e9",
            "config": {"fresh_minutes": 0},
            "remediation": "other",
        }
        assert hosts.reserve(at=600 + seconds - 1, **parameters).refusal == "cooldown"
        assert hosts.reserve(at=600 + seconds, **parameters).may_change

    def test_a_release_of_the_episode_lifts_the_cooldown(self, engine, hosts):
        assert hosts.reserve().may_change
        hosts.finish("e0")
        assert hosts.reserve(execution="e9").refusal == "episode_taken"
        with database_time(later(200)):
            release_claims(engine, episode("f0"), actor=ANNA)
        assert hosts.reserve(at=210, execution="e9").may_change


class TestCooldownOfAWorkflow:
    """The cooldown of a change also applies when a workflow claims an episode of the same host."""

    def link(self, hosts, name, at):
        with database_time(later(at)):
            request_id = record(hosts.engine, alert(fingerprint=name, labels={"instance": "web-0"}))
        with database_time(later(at)):
            return self.claim(hosts, request_id, name, f"e-{name}")

    def claim(self, hosts, request_id, name, execution):
        cooldown = claims.HostCooldown.from_seconds(1800, 3600)
        return claims.link(hosts.engine, request_id, episode(name), WORKFLOW, execution, cooldown)

    @pytest.mark.parametrize("action, seconds", [(ACTION, 1800), ("ipmi.power_cycle", 3600)])
    def test_the_cooldown_starts_at_the_end_of_the_change(self, hosts, action, seconds):
        with database_time(later(100)):
            self.claim(hosts, hosts.request_id, "f0", "e0")
        assert hosts.reserve(action=action).may_change
        assert not self.link(hosts, "a", 5000)["claimed"]  # the change is still in flight
        hosts.finish("e0", at=6000)
        link_result = self.link(hosts, "b", 6000 + seconds - 1)
        assert not link_result["claimed"]
        assert "this host is in cooldown until" in link_result["reason"]
        assert self.link(hosts, "c", 6000 + seconds)["claimed"]


class TestEpisodes:
    def test_the_refusal_of_a_second_workflow_names_the_first(self, engine, hosts):
        assert hosts.reserve(execution="e1").may_change
        decision = hosts.reserve(execution="e2", action="ipmi.power_cycle")
        assert decision.refusal == "episode_taken"
        expected = "execution e1 is making a change for this episode with linux.service"
        assert expected in decision.reason

    def test_an_execution_that_loses_the_claim_is_recorded(self, engine, hosts):
        for _ in range(2):
            claims.link(engine, hosts.request_id, episode("f0"), WORKFLOW, "e1")
            assert not claims.link(engine, hosts.request_id, episode("f0"), WORKFLOW, "e2")[
                "claimed"
            ]
        (row,) = read_rows(engine)
        assert (row.st2_execution_id, row.result, row.refusal) == ("e2", "refused", "not_claimed")
        assert (row.target, row.action) == ("web-0", WORKFLOW)
        assert row.reason.startswith(f"execution e1 of {WORKFLOW} holds the claim")
        why = view(engine, queries.why, filters=search.parse(alert_name="HostDown"))
        (change_view,) = next(e for e in why["episodes"] if e["episode"] == episode("f0"))[
            "changes"
        ]
        assert "execution e1" in change_view["reason"]
        lost = f"{WORKFLOW} (e2) did nothing: execution e1 of {WORKFLOW} holds the claim"
        assert lost in " ".join(text.why(why).split())
        status = view(engine, queries.status, request_id=hosts.request_id)
        assert status["changes"] == [change_view]

    def test_a_change_is_granted_for_another_attempt(self, engine, hosts):
        assert hosts.reserve().may_change
        hosts.finish("e0")
        with database_time(later(300)):
            replay = replay_request(engine, live_config(), hosts.request_id, True, "e-replay", ANNA)
        hosts.request_id = replay["request_id"]
        no_cooldown = {"host_cooldown_seconds": 0}
        assert hosts.reserve(at=310, execution="e9", config=no_cooldown).may_change
        assert [row.attempt for row in read_rows(engine)] == [1, 2]

    def test_a_release_is_refused_while_the_change_may_be_running(self, engine, hosts):
        claims.link(engine, hosts.request_id, episode("f0"), WORKFLOW, "e0")
        assert hosts.reserve().may_change
        with database.transaction(engine) as connection:
            connection.exec_driver_sql("UPDATE execution_db SET status = 'canceled'")
        with pytest.raises(TrackingError, match="the change that execution e0 made"):
            release_claims(engine, episode("f0"))
        assert read_rows(engine)[0].claim
        release_claims(engine, episode("f0"), force=True)
        (row,) = read_rows(engine)
        assert (row.claim, row.result) == (None, "released")

    def test_a_change_after_a_release_by_the_same_execution_is_counted(self, engine, hosts):
        """It would otherwise be in progress without anybody knowing."""
        assert hosts.reserve().may_change
        with database_time(later(200)):
            release_claims(engine, episode("f0"), force=True)
        assert hosts.reserve(at=300).may_change
        (row,) = read_rows(engine)
        assert (row.result, row.ended_at, row.released_at) == ("", None, None)
        assert (row.claim, row.decided_at) == (f"{episode('f0')}|1", later(300))
        assert hosts.reserve(execution="other", at=310).refusal == "episode_taken"
        hosts.finish("e0", at=360)
        assert hosts.reserve(at=400).refusal == "episode_taken"
        assert read_rows(engine)[0].result == "verified"

    def test_a_release_of_one_workflow_keeps_the_change_of_another(self, engine, hosts):
        claims.link(engine, hosts.request_id, episode("f0"), WORKFLOW, "e0")
        claims.link(engine, hosts.request_id, episode("f0"), "pack.other", "e9")
        assert hosts.reserve().may_change
        hosts.finish("e0")
        release_claims(engine, episode("f0"), "pack.other", force=True)
        assert read_rows(engine)[0].claim
        release_claims(engine, episode("f0"), WORKFLOW, force=True)
        assert read_rows(engine)[0].claim is None


def test_failures_in_a_row_are_counted_for_each_target_and_remediation(engine, hosts):
    endings = [
        (0, "web", ChangeResult.FAILED),
        (0, "web", ChangeResult.SUCCEEDED),
        (0, "web", ChangeResult.NOT_CLEARED),
        (1, "web", ChangeResult.SUCCEEDED),
        (0, "other", ChangeResult.SUCCEEDED),
        (0, "web", ChangeResult.NOT_VERIFIED),
        (0, "web", ChangeResult.FAILED),
    ]
    config = {
        "host_cooldown_seconds": 0,
        "breaker_failures": 0,
        "max_changes_per_target_per_day": 0,
        "max_changes_per_remediation_per_hour": 0,
    }
    for number, (host, name, ending) in enumerate(endings):
        with database.transaction(engine) as connection:
            connection.execute(update(changes).values(claim=None))
        execution = f"e{number}"
        options = {"execution": execution, "remediation": name, "config": config}
        assert hosts.reserve(host, at=120 + 60 * number, **options).may_change
        hosts.finish(execution, ending, at=150 + 60 * number)
    with database.reading(engine) as connection:
        rows = change_rows.find_changes(connection)
        counts = [count_failures_in_a_row(connection, row) for row in rows]
    assert counts == [1, 0, 1, 0, 0, 2, 3]


class TestBreaker:
    FAILURES = (ChangeResult.FAILED, ChangeResult.NOT_VERIFIED, ChangeResult.NOT_CLEARED)

    def end_changes(self, hosts, endings=FAILURES):
        for number, ending in enumerate(endings):
            assert hosts.reserve(number, at=120 + number, remediation="web").may_change
            hosts.finish(f"e{number}", ending, at=180 + number)

    def test_the_breaker_opens_after_three_failures_and_stays_open_until_it_is_released(
        self, engine, hosts
    ):
        self.end_changes(hosts)
        decision = hosts.reserve(3, remediation="web", at=300)
        assert decision.refusal == "breaker"
        assert "poundcake.release format=text remediation=web" in decision.how_to_lift
        assert hosts.reserve(4, remediation="other", at=300).may_change
        assert release_breaker(engine, "web", ANNA) == 3
        assert hosts.reserve(3, remediation="web", at=310).may_change
        (entry,) = read_rows(engine, audit)
        assert (entry.action, entry.target, entry.st2_user) == ("release", "web", "anna")
        assert release_breaker(engine, "web", ANNA) == 0
        assert len(read_rows(engine, audit)) == 1

    def test_a_success_in_between_keeps_the_breaker_closed(self, hosts):
        self.end_changes(hosts, (ChangeResult.FAILED, ChangeResult.FAILED, ChangeResult.VERIFIED))
        assert hosts.reserve(3, remediation="web", at=300).may_change

    @pytest.mark.parametrize("ending", [ChangeResult.UNKNOWN, ChangeResult.RELEASED])
    def test_a_change_whose_result_is_unknown_does_not_count(self, hosts, ending):
        self.end_changes(hosts, (ChangeResult.FAILED, ChangeResult.FAILED, ending))
        assert hosts.reserve(3, remediation="web", at=300).may_change


class TestStorm:
    def test_many_incidents_of_one_name_are_a_storm(self, engine):
        hosts = Hosts(engine, 6)
        decision = hosts.reserve(config=STORM)
        assert decision.refusal == "storm"
        assert "6 incidents of HostDown" in decision.reason
        assert hosts.reserve(config={"storm_limit": 6}).may_change

    def test_an_alert_with_another_name_is_not_part_of_a_storm(self, engine):
        hosts = Hosts(engine, 6)
        hosts.request_id = record(
            engine, alert("DiskFull", fingerprint="d", labels={"instance": "db-1"})
        )
        assert hosts.reserve(episode=episode("d"), config=STORM).may_change

    def test_a_storm_ends_ten_minutes_after_its_count_falls_below_the_limit(self, engine):
        hosts = Hosts(engine, 6)
        resolve = alert(
            status="resolved",
            fingerprint="f5",
            labels={"instance": "web-5:9100"},
            ends_at=later(200),
        )
        record(engine, resolve, received_at=later(200))
        parameters = {"config": {**STORM, "fresh_minutes": 0}}
        assert hosts.reserve(at=200 + 599, **parameters).refusal == "storm"
        assert hosts.reserve(at=200 + 600, **parameters).may_change

    def test_a_flapping_host_counts_once(self, engine):
        hosts = Hosts(engine, 1)
        for number in range(1, 6):
            at = 100 * number
            flapping = host_alert(0)
            flapping["startsAt"] = alert(starts_at=later(at))["startsAt"]
            resolve = dict(
                flapping, status="resolved", endsAt=alert(starts_at=later(at))["startsAt"]
            )
            record(engine, resolve, received_at=later(at))
        hosts.request_id = record(engine, host_alert(7), received_at=later(600))
        parameters = {"episode": episode("f7"), "execution": "e7", "at": 700}
        assert hosts.reserve(config={"storm_limit": 2}, **parameters).may_change

    def test_a_storm_may_be_counted_for_each_value_of_a_label(self, engine):
        hosts = Hosts(engine, 3, rack="r13")
        rack_request = request(*(host_alert(n + 10, rack="r12") for n in range(2)))
        with database_time(NOON):
            record_requests(engine, live_config(), [rack_request])
        hosts.request_id = rack_request.request_id
        parameters = {"per_label": "rack", "storm": 2, "at_once": 0}
        assert hosts.reserve(10, **parameters).may_change
        decision = hosts.reserve(11, per_label="rack", storm=1, at_once=0)
        assert decision.refusal == "storm"
        assert "2 incidents of HostDown with rack=r12" in decision.reason

    def test_without_the_label_only_incidents_without_it_are_counted(self, engine):
        hosts = Hosts(engine, 3, rack="r13")
        without_rack = [host_alert(10), host_alert(11, rack="")]
        hosts.request_id = record(engine, *without_rack, received_at=NOON)
        parameters = {"per_label": "rack", "at_once": 0}
        assert hosts.reserve(10, storm=2, **parameters).may_change
        decision = hosts.reserve(11, storm=1, **parameters)
        assert decision.refusal == "storm"
        assert "2 incidents of HostDown with rack= are open" in decision.reason


class TestIncidents:
    def test_no_change_is_granted_for_an_acknowledged_incident(self, engine, hosts):
        with database_time(later(10)):
            interventions.acknowledge(engine, ANNA, episode("f0"))
        assert hosts.reserve().refusal == "acknowledged"

    def test_no_change_is_granted_for_a_silenced_alert_until_the_silence_ends(self, engine, hosts):
        with database.transaction(engine) as connection:
            connection.execute(
                update(alerts)
                .where(alerts.c.episode == episode("f0"))
                .values(silence_id="s1", silenced_by="ben", silenced_until=later(200))
            )
        decision = hosts.reserve(at=199)
        assert (decision.refusal, "by ben" in decision.reason) == ("silenced", True)
        assert hosts.reserve(at=200).may_change

    def test_no_change_is_granted_for_an_incident_that_has_ended(self, engine, hosts):
        with database_time(later(10)):
            interventions.close(engine, ANNA, "gone", episode("f0"))
        assert hosts.reserve().refusal == "incident_ended"

    def test_a_change_is_granted_only_once_the_incident_has_settled(self, hosts):
        assert hosts.reserve(at=59).refusal == "settling"
        assert hosts.reserve(at=60).may_change

    def test_no_change_is_granted_for_a_stale_incident_until_the_next_notification(
        self, engine, hosts
    ):
        assert hosts.reserve(at=16 * 60).refusal == "stale"
        assert hosts.reserve(at=16 * 60, check_failed=True).may_change
        record(engine, host_alert(1), received_at=later(15 * 60))
        assert hosts.reserve(1, at=16 * 60).may_change


class TestPause:
    def test_no_change_is_granted_during_a_pause(self, engine, hosts):
        with database_time(later(60)):
            pause(engine, ANNA, "maintenance")
        decision = hosts.reserve()
        assert (decision.refusal, "maintenance" in decision.reason) == ("paused", True)
        resume(engine, ANNA)
        assert hosts.reserve().may_change


class TestActions:
    """The actions return these results to workflows and people."""

    SETTINGS = {
        "dry_run": False,
        "allowed_hosts": ["*"],
        "allowed_actions": [ACTION],
        "fresh_minutes": 0,
        "settle_seconds": 0,
    }

    @pytest.fixture
    def run(self, hosts, run_action):
        """Return a function that runs an action for the alert of the first host."""

        def run(name, config=None, **parameters):
            ids = {"request_id": hosts.request_id, "episode": episode("f0")}
            return run_action(
                name, "e-task", {**self.SETTINGS, **(config or {})}, **ids, **parameters
            )

        return run

    def test_reserve_grants_a_change_or_explains_the_refusal(self, run):
        parameters = {"action": ACTION, "execution_id": "e1"}
        first = run("reserve", **parameters)
        assert (first["may_change"], first["refusal"], first["message"]) == (True, "", "")
        second = run("reserve", **{**parameters, "execution_id": "e2"})
        assert (second["may_change"], second["refusal"]) == (False, "episode_taken")
        assert "execution e1 is making a change for this episode" in second["message"]

    def test_a_preview_decides_without_an_approval_and_counts_nothing(
        self, engine, run, monkeypatch
    ):
        def read_findings(api, execution_id, checks, before_approval):
            assert before_approval
            return self.findings

        monkeypatch.setattr("pack_action.PackAction.stackstorm", lambda _: None)
        monkeypatch.setattr("poundcake.remediation.findings.read_conditions", read_findings)
        entry = {"name": "x", "match": ["alertname=HostDown"], "action": ACTION}
        entry.update(mode="ask", approvers=["anna"], check=["memory>90"])
        parameters = {"action": ACTION, "execution_id": "e1", "entry": "x", "preview": True}
        parameters["host_checks"] = ["memory>90"]
        self.findings = safety.ConditionsResult("", ("93% of memory used",))
        decision = run("reserve", {"remediations": [entry]}, **parameters)
        assert (decision["may_change"], decision["approved_by"]) == (True, "")
        assert decision["evidence"] == ["93% of memory used"]
        assert read_rows(engine) == []
        self.findings = safety.ConditionsResult("5% used", ("5% used",))
        decision = run("reserve", {"remediations": [entry]}, **parameters)
        assert (decision["may_change"], decision["refusal"]) == (False, "not_confirmed")
        (change,) = read_rows(engine)
        assert (change.result, change.reason[:7]) == ("refused", "5% used")
        (event,) = read_rows(engine, events)
        payload = json.loads(event.payload)
        assert (payload["result"], payload["evidence"]) == ("refused", ["5% used"])

    def test_evidence_without_checks_does_not_confirm_a_stale_alert(self, run, monkeypatch):
        """Otherwise, a person would be asked about a change that is then refused."""
        monkeypatch.setattr("pack_action.PackAction.stackstorm", lambda _: None)
        monkeypatch.setattr(
            "poundcake.remediation.findings.read_conditions",
            lambda *_: safety.ConditionsResult("", ("pack.snapshot: done",)),
        )
        parameters = {"action": ACTION, "execution_id": "e1", "preview": True}
        assert run("reserve", {"fresh_minutes": 15}, **parameters)["refusal"] == "stale"

    def test_no_change_is_granted_without_the_database(self, run, monkeypatch, tmp_path):
        monkeypatch.setattr(database, "retry_while_unavailable", lambda work, seconds: work())
        missing_database = {"database_url": f"sqlite:///{tmp_path}/missing.sqlite"}
        result = run("reserve", missing_database, action=ACTION, execution_id="e1")
        assert (result["may_change"], result["refusal"]) == (False, "database_unavailable")
        assert "the tracking database is unavailable" in result["message"]

    def test_link_reports_whether_a_change_would_be_allowed(self, engine, run):
        parameters = {"workflow": "pack.flow", "execution_id": "e1", "action": ACTION}
        allowed_link = run("link", **parameters)
        assert (allowed_link["claimed"], allowed_link["may_change"]) == (True, True)
        assert (allowed_link["reason"], allowed_link["refusal"]) == ("", "")
        pause(engine, ANNA, "maintenance")
        refused_link = run("link", **parameters)
        assert (refused_link["claimed"], refused_link["may_change"]) == (True, False)
        assert refused_link["refusal"] == "paused"
        assert "maintenance" in refused_link["reason"]
        unclaimed_link = run("link", **{**parameters, "execution_id": "e2"})
        assert (unclaimed_link["claimed"], unclaimed_link["may_change"]) == (False, False)
        assert unclaimed_link["refusal"] == "not_claimed"
        assert "execution e1 of pack.flow holds the claim" in unclaimed_link["reason"]

    def test_link_without_an_action_allows_no_change(self, run):
        result = run("link", workflow="pack.flow", execution_id="e1")
        assert (result["claimed"], result["may_change"]) == (True, False)


class TestHostDownActions:
    """The tasks begin and reserve of poundcake.host_down."""

    RULE = {"workflow": "poundcake.host_down", "action": ACTION, "host_parameter": "host"}
    EVIDENCE_ONLY = {**RULE, "action": ""}

    @pytest.fixture
    def run(self, hosts, run_action):
        """Return a function that runs an action for the alert of the first host."""

        def run(name, execution, config=None, **parameters):
            settings = {**TestActions.SETTINGS, **(config or {})}
            ids = {"request_id": hosts.request_id, "episode": episode("f0")}
            return run_action(name, "e-task", settings, execution_id=execution, **ids, **parameters)

        return run

    @pytest.fixture(autouse=True)
    def checked_hosts(self, monkeypatch):
        """Give every host the state `self.state`, and return the list of hosts that are checked."""

        def check_host(host, ports, wait):
            hosts.append((host, ports))
            return TcpResult(self.state, 22, 0.1, f"{host}: {self.state}")

        hosts, self.state = [], TcpState.NO_ANSWER
        monkeypatch.setattr("poundcake.remediation.checks.check_host", check_host)
        return hosts

    def test_one_execution_gets_the_claim_and_the_change(self, engine, run, checked_hosts):
        begun = run("begin", "e1", **self.RULE)
        assert (begun["claimed"], begun["next_task"]) == (True, "reserve")
        (link,) = read_rows(engine, links)
        assert link.claim == claims.claim_key(episode("f0"), "poundcake.host_down")
        refused = run("begin", "e2", **self.RULE)
        assert (refused["claimed"], refused["next_task"]) == (False, "")
        assert refused["report"]["stage"] == "not_claimed"
        assert "execution e1 of poundcake.host_down holds the claim" in refused["reason"]
        decision = run("reserve", "e1", action=ACTION, check_host=True)
        assert (decision["may_change"], decision["host_check"]["state"]) == (True, "no_answer")
        assert checked_hosts == [("web-0", [22, 9100])] * 3

    def test_a_report_is_linked_without_a_claim_and_has_one_event(self, engine, run):
        for _ in range(2):  # StackStorm may run a task twice
            begun = run("begin", "e1", **self.EVIDENCE_ONLY)
            assert (begun["claimed"], begun["next_task"]) == (True, "")
        assert begun["report"]["message"].startswith("web-0: no_answer; the rule names no action")
        (link,) = read_rows(engine, links)
        assert (link.st2_action_ref, link.claim) == ("poundcake.host_down", None)
        (event,) = read_rows(engine, events)
        assert json.loads(event.payload)["result"] == "evidence"
        assert run("begin", "e2", **self.RULE)["next_task"] == "reserve"

    @pytest.mark.parametrize("state", ["answers", "refused", "unresolvable"])
    def test_a_host_that_returns_before_the_change_is_not_changed(self, engine, run, state):
        assert run("begin", "e1", **self.RULE)["next_task"] == "reserve"
        self.state = TcpState(state)
        decision = run("reserve", "e1", action=ACTION, check_host=True)
        assert (decision["may_change"], decision["refusal"]) == (False, "not_confirmed")
        assert decision["message"] == f"web-0: {state}"
        (change,) = read_rows(engine)
        assert (change.refusal, change.reason) == ("not_confirmed", f"web-0: {state}")

    def test_a_host_that_may_not_be_changed_is_not_checked(self, run, checked_hosts):
        config = {"denied_hosts": ["web-0"]}
        decision = run("reserve", "e1", config, action=ACTION, check_host=True)
        assert (decision["refusal"], decision["host_check"]) == ("host_denied", {})
        assert checked_hosts == []

    def test_a_pause_prevents_the_change_of_a_host_that_is_down(self, engine, run):
        pause(engine, ANNA, "maintenance")
        assert run("begin", "e1", **self.RULE)["next_task"] == "reserve"
        decision = run("reserve", "e1", action=ACTION, check_host=True)
        assert (decision["refusal"], decision["host_check"]["state"]) == ("paused", "no_answer")

    def test_a_check_replaces_a_recent_notification(self, run):
        fresh = {"fresh_minutes": 1}
        assert run("reserve", "e1", fresh, action=ACTION)["refusal"] == "stale"
        assert run("reserve", "e1", fresh, action=ACTION, check_host=True)["may_change"]

    def test_nothing_is_changed_without_the_database(self, run, checked_hosts, monkeypatch):
        monkeypatch.setattr(database, "retry_while_unavailable", lambda work, seconds: work())
        port = services.free_port()
        config = {"database_url": f"mysql+pymysql://u:p@{services.LOOPBACK}:{port}/x"}
        decision = run("reserve", "e1", config, action=ACTION, check_host=True)
        assert (decision["refusal"], decision["host_check"]) == ("database_unavailable", {})
        with pytest.raises(AssertionError, match="Connection refused"):  # the workflow fails
            run("begin", "e1", config, **self.RULE)
        assert checked_hosts == []


class TestSimultaneous:
    """200 workflows request changes at the same time."""

    COUNT = 200

    @pytest.fixture
    def many_hosts(self, engine):
        return Hosts(engine, self.COUNT)

    def read_granted_rows(self, engine):
        all_rows = read_rows(engine)
        assert len(all_rows) == self.COUNT
        granted_changes = [row for row in all_rows if row.result == ""]
        assert all(row.refusal and row.reason for row in all_rows if row not in granted_changes)
        return granted_changes

    def reserve_for_all(self, many_hosts, **settings):
        config = live_config(settle_seconds=0, storm_limit=0, fresh_minutes=0, **settings)

        def reserve(index):
            return database.retry_while_unavailable(
                lambda: many_hosts.reserve_now(index, f"e{index}", config), seconds=60
            )

        decisions = in_parallel(self.COUNT, reserve)
        assert not [decision for decision in decisions if isinstance(decision, Exception)]
        return [decision for decision in decisions if decision.may_change]

    def test_no_more_than_three_are_in_flight(self, engine, many_hosts):
        assert len(self.reserve_for_all(many_hosts)) == 3
        assert len(self.read_granted_rows(engine)) == 3

    def test_no_more_than_the_hourly_limit_is_granted(self, engine, many_hosts):
        limits = {"max_in_flight": 0, "max_changes_per_remediation_per_hour": 0}
        assert len(self.reserve_for_all(many_hosts, **limits)) == 10
        assert len(self.read_granted_rows(engine)) == 10


_RESERVE_SCRIPT = """
import sys
from poundcake.config import Config
from poundcake.remediation import safety
from poundcake.trail import database
from poundcake.trail.limits import ChangeRequest

url, request_id, first, last = sys.argv[1:]
engine = database.open_engine(url)
config = Config(
    dry_run=False, allowed_hosts=("*",), allowed_actions=("linux.service",), settle_seconds=0,
    storm_limit=0, fresh_minutes=0,
)
print("ready", flush=True)
sys.stdin.readline()
for number in range(int(first), int(last)):
    episode = "f%d-1768392000000" % number
    change_request = ChangeRequest(request_id, episode, "linux.service", "e%d" % number)
    reserve = lambda: safety.reserve(engine, config, change_request)
    decision = database.retry_while_unavailable(reserve, 60)
    print(decision.refusal_name or "granted", flush=True)
"""


def test_concurrent_processes_cannot_exceed_a_limit(engine):
    hosts = Hosts(engine, 40)
    url = engine.url.render_as_string(hide_password=False)
    processes = [
        subprocess.Popen(
            [
                sys.executable,
                "-c",
                _RESERVE_SCRIPT,
                url,
                hosts.request_id,
                str(first),
                str(first + 10),
            ],
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
    decisions = [
        line for process in processes for line in process.communicate(timeout=120)[0].split()
    ]
    assert len(decisions) == 40
    assert decisions.count("granted") == 3
    assert len([row for row in read_rows(engine) if row.result == ""]) == 3


@on_mariadb
def test_a_pause_waits_for_the_decision_in_progress(engine):
    """No change is granted once pause() has returned."""
    hosts = Hosts(engine, 20)
    config = live_config(settle_seconds=0, max_in_flight=0, storm_limit=0, fresh_minutes=0)
    paused_at = []

    def pause_or_reserve(index):
        if index == 0:
            paused_at.append(pause(engine, ANNA, "stop").at)
            return None
        return database.retry_while_unavailable(
            lambda: hosts.reserve_now(index, f"e{index}", config), seconds=30
        )

    results = in_parallel(20, pause_or_reserve)
    assert not [result for result in results if isinstance(result, Exception)]
    later_rows = [row for row in read_rows(engine) if row.decided_at > paused_at[0]]
    assert {row.refusal for row in later_rows} <= {"paused"}
