"""The transaction that writes a fact about a remediation also writes one event for it."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta

import pytest
import yaml
from sqlalchemy import select, update

from poundcake.config import Config
from poundcake.remediation import safety
from poundcake.stackstorm import Execution
from poundcake.timestamps import format_timestamp
from poundcake.trail import claims, database, outbox
from poundcake.trail.changes import ChangeResult, finish_changes
from poundcake.trail.limits import ChangeRequest
from poundcake.trail.outbox import Ending, EndResult
from poundcake.trail.release import release_claims
from poundcake.trail.schema import alerts, changes, events
from tests.documents import ROOT
from tests.lib.fake_stackstorm import refusal
from tests.lib.samples import alert
from tests.lib.sync_trail import SyncTrail, ago
from tests.lib.trails import WORKFLOW, in_parallel

ACTION = "linux.service"
LIVE = {
    "dry_run": False,
    "allowed_hosts": ("*",),
    "allowed_actions": (ACTION,),
    "settle_seconds": 0,
    "storm_limit": 0,
}
OUTPUT = {"dry_run": False, "mutated": False, "verified": False, "message": "why"}


class HostTrail(SyncTrail):
    """A trail with one incident for each of several hosts, for which workflows run."""

    def __init__(self, engine, count=1, name="HostDown"):
        super().__init__(engine)
        host_alerts = [
            alert(name, fingerprint=f"f{n}", labels={"instance": f"web-{n}:9100"})
            for n in range(count)
        ]
        self.request_id, self.incidents = self.record(*host_alerts)

    def link(self, number=0, execution="", **options):
        episode = self.incidents[number].episode
        execution = execution or f"e{number}"
        return claims.link(self.engine, self.request_id, episode, WORKFLOW, execution, **options)

    def reserve(self, number=0, execution="", config=(), **values):
        request = ChangeRequest(
            self.request_id,
            self.incidents[number].episode,
            ACTION,
            execution or f"e{number}",
            **values,
        )
        return safety.reserve(self.engine, Config(**{**LIVE, **dict(config)}), request)

    def read_payloads(self, kind="remediation_ended"):
        statement = select(events).where(events.c.kind == kind).order_by(events.c.at, events.c.id)
        with database.reading(self.engine) as connection:
            return [json.loads(row.payload) for row in connection.execute(statement)]

    def read_results(self):
        return [payload["result"] for payload in self.read_payloads()]


@pytest.fixture
def trail(engine):
    return HostTrail(engine)


@pytest.fixture
def trail_with_change(trail):
    """Return a trail with a change that the workflow e0 was granted."""
    trail.link()
    assert trail.reserve(remediation="nginx").may_change
    return trail


class TestEndOfChanges:
    @pytest.mark.parametrize(
        "is_open, result, expected_text",
        [(True, "not_cleared", "still open"), (False, "cleared", "cleared")],
    )
    def test_a_change_is_reported_once_it_is_known_whether_it_cleared_the_alert(
        self, trail_with_change, is_open, result, expected_text
    ):
        finish_changes(trail_with_change.engine, "e0", ChangeResult.VERIFIED)
        if not is_open:
            trail_with_change.change(alerts, open_fingerprint=None, closed_at=ago(1))
        trail_with_change.sync()
        assert trail_with_change.read_payloads() == []
        trail_with_change.change(changes, ended_at=ago(15 * 60 + 1))
        trail_with_change.sync()
        trail_with_change.sync()
        (payload,) = trail_with_change.read_payloads()
        assert payload["result"] == result
        assert payload["summary"] == f"HostDown web-0:9100: {expected_text} after {ACTION} on web-0"
        assert payload["open_incidents"] == int(is_open)
        lasted = trail_with_change.one(alerts)
        seconds = 0 if is_open else (lasted.closed_at - lasted.created_at).total_seconds()
        assert payload["seconds_to_clear"] == pytest.approx(seconds, abs=0.001)

    @pytest.mark.parametrize("result", [ChangeResult.FAILED, ChangeResult.NOT_VERIFIED])
    def test_a_failed_change_is_reported_immediately_and_only_once(self, trail_with_change, result):
        finish_changes(trail_with_change.engine, "e0", result, "nginx did not start")
        finish_changes(trail_with_change.engine, "e0", result, "nginx did not start")
        trail_with_change.change(changes, ended_at=ago(3600))
        trail_with_change.sync()
        (payload,) = trail_with_change.read_payloads()
        incident = trail_with_change.incidents[0]
        assert payload == {
            "event_id": payload["event_id"],
            "time": payload["time"],
            "summary": "HostDown web-0:9100: the remediation failed",
            "command": "st2 run poundcake.why format=text fingerprint=f0",
            "request_id": trail_with_change.request_id,
            "episode": incident.episode,
            "alert_name": "HostDown",
            "severity": "critical",
            "instance": "web-0:9100",
            "host": "web-0",
            "remediation": "nginx",
            "result": "failed",
            "action": ACTION,
            "target": "web-0",
            "refusal": "",
            "message": "nginx did not start",
            "evidence": [],
            "retry_at": "",
            "seconds_to_clear": 0.0,
            "open_incidents": 1,
            "execution_id": "e0",
            "execution_url": "",
        }

    def test_the_evidence_is_kept_until_it_is_known_whether_the_alert_cleared(self, trail):
        trail.link()
        trail.reserve(evidence=("/var is 93% full", "the alert is firing"))
        trail.stackstorm.run("e0", "succeeded", WORKFLOW, result={"output": {"verified": True}})
        trail.sync()  # the workflow did not report its result
        trail.change(changes, ended_at=ago(15 * 60 + 1))
        trail.sync()
        (payload,) = trail.read_payloads()
        assert payload["result"] == "not_cleared"
        assert payload["evidence"] == ["/var is 93% full", "the alert is firing"]

    def test_the_evidence_of_a_report_has_up_to_three_short_lines(self, trail_with_change):
        lines = ["/var is 93% full", "two\nlines", "x" * 500, "a fourth line"]
        finish_changes(trail_with_change.engine, "e0", ChangeResult.FAILED, "why", lines)
        (payload,) = trail_with_change.read_payloads()
        assert payload["evidence"] == ["/var is 93% full", "two lines", "x" * 200]

    def test_the_change_of_a_cancelled_workflow_is_reported_as_failed(self, trail_with_change):
        trail_with_change.stackstorm.run("e0", "canceled", WORKFLOW)
        trail_with_change.sync()
        (payload,) = trail_with_change.read_payloads()
        assert (payload["result"], payload["message"]) == (
            "failed",
            "the workflow was cancelled, and its change may have been made",
        )

    def test_a_change_that_a_person_released_is_not_reported(self, trail_with_change):
        release_claims(trail_with_change.engine, trail_with_change.incidents[0].episode, force=True)
        trail_with_change.stackstorm.run("e0", "succeeded", WORKFLOW, result={"output": OUTPUT})
        trail_with_change.sync()
        assert trail_with_change.read_payloads() == []

    def test_a_transaction_that_is_rolled_back_writes_no_event(self, trail_with_change):
        ending = Ending(
            EndResult.FAILED,
            trail_with_change.request_id,
            trail_with_change.incidents[0].episode,
            "e0",
            "nginx",
        )
        with pytest.raises(ZeroDivisionError), database.transaction(
            trail_with_change.engine
        ) as connection:
            outbox.add_ending(connection, ending)
            raise ZeroDivisionError
        assert trail_with_change.read_payloads() == []


class TestRefusals:
    def test_a_refused_change_is_reported_once_with_its_reason(self, trail):
        for _ in range(2):
            trail.reserve(config={"allowed_actions": ()}, evidence=("the alert is firing",))
        (payload,) = trail.read_payloads()
        assert payload["evidence"] == ["the alert is firing"]
        assert (payload["result"], payload["refusal"]) == ("refused", "action_not_allowed")
        assert "allowed_actions" in payload["message"]
        assert payload["summary"] == "HostDown web-0:9100: nothing was changed"

    def test_a_change_that_is_refused_first_and_fails_later_is_reported_twice(self, trail):
        trail.reserve(config={"allowed_actions": ()})
        assert trail.reserve().may_change
        finish_changes(trail.engine, "e0", ChangeResult.FAILED)
        assert sorted(trail.read_results()) == ["failed", "refused"]

    @pytest.mark.parametrize("expired, result", [(True, "approval_expired"), (False, "refused")])
    def test_an_expired_approval_has_its_own_result(self, trail, expired, result):
        trail.reserve(approval_problem="nobody answered", approval_expired=expired)
        assert trail.read_results() == [result]

    def test_an_execution_that_lost_the_claim_is_not_reported(self, trail):
        assert trail.link()["claimed"]
        assert not trail.link(execution="loser")["claimed"]
        assert trail.read_payloads() == []


class TestEndWithoutChange:
    @pytest.mark.parametrize(
        "stage, status, result",
        [
            ("evidence", "succeeded", "evidence"),
            ("evidence", "failed", "failed"),
            ("dry_run", "succeeded", "dry_run"),
            ("refused", "failed", "refused"),
            ("ended", "succeeded", "refused"),
            ("alert", "failed", "failed"),
            ("link", "failed", "failed"),
        ],
    )
    def test_a_workflow_that_requested_no_change_is_reported_when_it_has_ended(
        self, trail, stage, status, result
    ):
        trail.link()
        trail.stackstorm.run("e0", "running", WORKFLOW)
        trail.sync()
        assert trail.read_payloads() == []
        trail.stackstorm.run("e0", status, WORKFLOW, result={"output": {**OUTPUT, "stage": stage}})
        trail.sync()
        trail.sync()
        (payload,) = trail.read_payloads()
        assert (payload["result"], payload["message"]) == (result, "why")
        assert payload["remediation"] == WORKFLOW

    def test_an_event_contains_the_evidence_from_the_report_of_its_workflow(self, trail):
        trail.link()
        evidence = {"before": {"detail": "web-0 answers"}, "cpu>90": "5% busy", "after": {"x": 1}}
        output = {**OUTPUT, "stage": "evidence", "evidence": evidence}
        trail.stackstorm.run("e0", "succeeded", WORKFLOW, result={"output": output})
        trail.sync()
        (payload,) = trail.read_payloads()
        assert payload["evidence"] == ["web-0 answers", "5% busy"]

    @pytest.mark.parametrize("output", [{}, {**OUTPUT, "stage": "not_claimed"}])
    def test_an_execution_that_handled_nothing_is_not_reported(self, trail, output):
        trail.link(may_change=False)
        trail.stackstorm.run("e0", "succeeded", WORKFLOW, result={"output": output})
        trail.sync()
        assert trail.read_payloads() == []

    @pytest.mark.parametrize("mutated", [True, None])
    def test_a_workflow_that_succeeded_at_a_stage_of_its_own_is_not_reported_as_failed(
        self, trail, mutated
    ):
        trail.link()
        output = {"mutated": mutated, "stage": "restarted"}
        trail.stackstorm.run("e0", "succeeded", WORKFLOW, result={"output": output})
        trail.sync()
        assert trail.read_payloads() == []

    def test_an_execution_whose_alert_is_emitted_again_is_not_reported(self, trail):
        trail.link(may_change=False)
        output = {**OUTPUT, "stage": "link"}
        trail.stackstorm.run("e0", "failed", WORKFLOW, result={"output": output})
        trail.sync()
        assert trail.read_payloads() == []

    def test_a_refusal_is_not_reported_again_when_its_workflow_has_ended(self, trail):
        trail.link()
        trail.reserve(config={"allowed_actions": ()})
        output = {**OUTPUT, "stage": "refused"}
        trail.stackstorm.run("e0", "succeeded", WORKFLOW, result={"output": output})
        trail.sync()
        assert trail.read_results() == ["refused"]

    @pytest.mark.parametrize("minutes, is_retried", [(10, True), (0, False)])
    def test_a_refusal_contains_the_time_of_its_retry(self, engine, minutes, is_retried):
        trail = HostTrail(engine, 2)
        limits = {"storm_limit": 1, "retry_refused_minutes": minutes}
        trail.reserve(config=limits, retry=True)
        (payload,) = trail.read_payloads()
        retry_at = trail.one(changes).retry_at
        assert payload["retry_at"] == (format_timestamp(retry_at) if is_retried else "")
        assert bool(retry_at) is is_retried

    def test_a_result_known_at_the_start_is_reported_when_the_workflow_is_linked(self, trail):
        episode = trail.incidents[0].episode
        ending = Ending(EndResult.DRY_RUN, trail.request_id, episode, "e0", "nginx", message="why")
        assert claims.link_ended(trail.engine, "poundcake.remediate", ending)["claimed"]
        output = {**OUTPUT, "stage": "dry_run"}
        trail.stackstorm.run("e0", "succeeded", WORKFLOW, result={"output": output})
        trail.sync()
        (payload,) = trail.read_payloads()
        assert (payload["result"], payload["remediation"]) == ("dry_run", "nginx")


class TestLimits:
    def test_a_storm_is_reported_once_for_its_alert_name(self, engine):
        trail = HostTrail(engine, 7)
        storm_limit = {"storm_limit": 5}
        for number in range(7):
            assert trail.reserve(number, config=storm_limit).refusal is safety.Refusal.STORM
        (payload,) = trail.read_payloads("limit_reached")
        assert payload["limit"] == "storm"
        assert payload["summary"] == "HostDown: storm, so nothing is changed"
        assert payload["reason"].startswith("7 incidents of HostDown are open")
        assert trail.read_results() == ["refused"] * 7

    def test_a_limit_is_reported_again_after_an_hour_without_a_refusal(self, engine):
        trail = HostTrail(engine, 3)
        storm_limit = {"storm_limit": 1}

        def set_event_age(minutes):
            trail.change(events, at=ago(60 * minutes))

        trail.reserve(0, config=storm_limit)
        set_event_age(50)
        trail.reserve(1, config=storm_limit)
        set_event_age(90)
        trail.reserve(2, config=storm_limit)
        assert len(trail.read_payloads("limit_reached")) == 1
        trail.change(events, at=ago(4000), repeated_at=ago(3601))
        trail.reserve(2, "another", config=storm_limit)
        ids = [payload["event_id"] for payload in trail.read_payloads("limit_reached")]
        assert len(set(ids)) == len(ids) == 2

    def test_the_site_limit_and_a_breaker_are_reported(self, engine):
        trail = HostTrail(engine, 4)
        trail.reserve(0)
        site_limit = {"max_changes_per_hour": 1}
        assert trail.reserve(1, config=site_limit).refusal is safety.Refusal.SITE_LIMIT
        finish_changes(engine, "e0", ChangeResult.FAILED)
        breaker_limit = {"breaker_failures": 1}
        for number in (2, 3):
            assert trail.reserve(number, config=breaker_limit).refusal is safety.Refusal.BREAKER
        limits = [(p["limit"], p["remediation"]) for p in trail.read_payloads("limit_reached")]
        assert sorted(limits) == [("breaker", ACTION), ("site_limit", ACTION)]

    @pytest.mark.parametrize(
        ("refusal", "summaries"),
        [
            ("storm", ["DiskFull: storm", "HostDown: storm"]),
            (
                "breaker",
                ["nginx: too many failures in a row", "reboot: too many failures in a row"],
            ),
            ("site_limit", ["too many changes in an hour"]),
        ],
    )
    def test_a_limit_is_reported_once_for_each_subject(self, engine, refusal, summaries):
        trails = [HostTrail(engine, 1), HostTrail(engine, 2, "DiskFull")]
        for number, (trail, remediation) in enumerate(zip(trails, ("nginx", "reboot"))):
            episode = trail.incidents[number].episode
            ending = Ending(
                EndResult.REFUSED,
                trail.request_id,
                episode,
                f"e{number}",
                remediation,
                refusal=refusal,
            )
            claims.link_ended(engine, WORKFLOW, ending)
        payloads = trails[0].read_payloads("limit_reached")
        reported = sorted(payload["summary"] for payload in payloads)
        assert reported == [f"{summary}, so nothing is changed" for summary in summaries]

    def test_simultaneous_refusals_report_a_limit_once(self, engine):
        trail = HostTrail(engine, 8)

        def end_with_refusal(number):
            episode = trail.incidents[number].episode
            ending = Ending(
                EndResult.REFUSED, trail.request_id, episode, f"e{number}", "r", refusal="storm"
            )
            claims.link_ended(engine, "poundcake.remediate", ending)

        assert in_parallel(8, end_with_refusal) == [None] * 8
        assert len(trail.read_payloads()) == 8
        assert len(trail.read_payloads("limit_reached")) == 1

    def test_other_refusals_report_no_limit(self, trail):
        trail.reserve(config={"allowed_actions": ()})
        assert trail.read_payloads("limit_reached") == []


class TestApprovals:
    @pytest.fixture(params=["e0", "change"])
    def trail_with_inquiry(self, trail, request):
        """Return a trail with a workflow that waits for an approval.

        The workflow requests the approval itself, as before an upgrade, or poundcake.change does.
        """
        trail.link()
        result = {"result": {"change": "linux.service on web-0", "reservation": {}, "action": "a"}}
        trail.stackstorm.run("e0", "paused", WORKFLOW)
        trail.stackstorm.run("b", "succeeded", "poundcake.begin", parent="e0", result=result)
        trail.stackstorm.run(
            "change", "paused", "poundcake.change", parent="e0", parent_id="e0", task_name="change"
        )
        trail.stackstorm.executions["i1"] = Execution(
            id="i1",
            status="pending",
            action="core.ask",
            task_name="approve",
            parent_id=request.param,
            started_at=trail.stackstorm.time,
            result={"route": "poundcake.approval", "users": ["anna", "ben", "stanley"]},
        )
        return trail

    def test_a_request_for_approval_is_reported_once(self, trail_with_inquiry):
        trail_with_inquiry.sync()
        trail_with_inquiry.sync()
        (payload,) = trail_with_inquiry.read_payloads("approval_wanted")
        assert payload["approvers"] == ["anna", "ben"]
        assert payload["command"] == "st2 inquiry respond i1"
        assert (payload["inquiry_id"], payload["execution_id"]) == ("i1", "e0")
        assert payload["change"] == "linux.service on web-0"
        assert payload["evidence"] == []
        assert payload["summary"] == (
            "HostDown web-0:9100: linux.service on web-0 waits for approval until "
            f"{payload['until']} (by anna, ben)"
        )

    def test_a_request_that_cannot_be_reported_expires_nevertheless(self, trail_with_inquiry):
        stackstorm = trail_with_inquiry.stackstorm
        inquiry = stackstorm.executions["i1"]
        started_at = inquiry.started_at - timedelta(hours=1)
        stackstorm.executions["i1"] = replace(inquiry, started_at=started_at)
        stackstorm.errors["get_children", "e0"] = refusal()
        trail_with_inquiry.sync()
        assert trail_with_inquiry.read_payloads("approval_wanted") == []
        assert stackstorm.answers == [("i1", {"approve": False})]
        del stackstorm.errors["get_children", "e0"]
        trail_with_inquiry.sync()
        assert len(trail_with_inquiry.read_payloads("approval_wanted")) == 1

    def test_a_request_for_approval_shows_what_the_last_checks_saw(self, trail_with_inquiry):
        for name, evidence in (("begin", ["old"]), ("reserve", ["/var is 93% full"])):
            result = {"result": {"evidence": evidence}}
            trail_with_inquiry.stackstorm.run(
                name, "succeeded", f"poundcake.{name}", parent="e0", result=result
            )
        trail_with_inquiry.sync()
        (payload,) = trail_with_inquiry.read_payloads("approval_wanted")
        assert payload["evidence"] == ["/var is 93% full"]
        with database.reading(trail_with_inquiry.engine) as connection:
            episode = trail_with_inquiry.incidents[0].episode
            assert outbox.newest_evidence(connection, episode) == payload["evidence"]
            assert outbox.newest_evidence(connection, "another") == []

    def test_the_inquiry_of_a_cancelled_workflow_is_not_reported(self, trail_with_inquiry):
        trail_with_inquiry.stackstorm.run("e0", "canceled", WORKFLOW)
        trail_with_inquiry.stackstorm.run("other", "running", WORKFLOW)
        trail_with_inquiry.sync()
        assert trail_with_inquiry.read_payloads("approval_wanted") == []


class TestClaims:
    def record_refusals(self, engine, count):
        trail = HostTrail(engine, count)
        for number in range(count):
            trail.reserve(number, config={"allowed_actions": ()})
        return trail

    def test_two_endpoints_never_claim_the_same_event(self, engine):
        self.record_refusals(engine, 4)
        claims_by_endpoint = in_parallel(
            4, lambda number: outbox.claim(engine, f"endpoint-{number}")
        )
        ids = [event.id for claimed_events in claims_by_endpoint for event in claimed_events]
        assert len(ids) == len(set(ids)) == 4

    def test_an_event_can_be_claimed_again_after_its_lease_until_it_is_published(self, engine):
        trail = self.record_refusals(engine, 1)
        (event,) = outbox.claim(engine, "a")
        assert outbox.claim(engine, "b") == []
        trail.change(events, publisher_until=ago(1))
        assert outbox.claim(engine, "b") == [event]
        outbox.mark_published(engine, [event.id])
        trail.change(events, publisher_until=ago(1))
        assert outbox.claim(engine, "a") == []
        with database.reading(engine) as connection:
            assert not outbox.has_claimable_events(connection)

    def test_events_are_claimed_oldest_first(self, engine):
        trail = self.record_refusals(engine, 3)
        for number, payload in enumerate(trail.read_payloads()):
            with database.transaction(engine) as connection:
                connection.execute(
                    update(events).where(events.c.id == payload["event_id"]).values(at=ago(number))
                )
        expected = [payload["event_id"] for payload in trail.read_payloads()]
        assert [event.id for event in outbox.claim(engine, "a")] == expected


@pytest.mark.parametrize(
    "name, payload",
    [
        ("remediation_ended", outbox.RemediationEndedPayload),
        ("approval_wanted", outbox.ApprovalWantedPayload),
        ("limit_reached", outbox.LimitReachedPayload),
    ],
)
def test_the_sensor_declares_each_field_of_a_trigger(name, payload):
    text = (ROOT / "sensors" / "alertmanager_sensor.yaml").read_text(encoding="utf-8")
    triggers = {t["name"]: t for t in yaml.safe_load(text)["trigger_types"]}
    assert set(triggers[name]["payload_schema"]["properties"]) == set(payload.__annotations__)
