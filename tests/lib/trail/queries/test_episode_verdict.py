"""The verdict on an episode, and what a person has to do, follow documented rules.

The golden files in tests/lib/trail/text show the verdicts of recorded alerts. These tests cover the
priorities, and the states that take long to record.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from poundcake.remediation.safety import LASTING_REFUSALS, Refusal
from poundcake.trail.changes import Change, ChangeResult
from poundcake.trail.clock import format_deadline
from poundcake.trail.outcomes import Explanation, Outcome
from poundcake.trail.pause import Pause
from poundcake.trail.pending_approval import Approval
from poundcake.trail.queries.episode import Episode, Notification, ReportedEnd
from poundcake.trail.queries.episode_timeline import list_events
from poundcake.trail.queries.episode_verdict import (
    NOTHING_TO_DO,
    Circumstances,
    EpisodeVerdict,
    judge,
    list_runs,
)
from poundcake.trail.queries.rows import AlertRow, Execution
from tests.lib.samples import NOON, later

REQUEST = "0b1e6f0a-5a1c-4c3e-9d5f-2f7a1c9e4b60"
EPISODE = "794804a1ec391dce-1795689917583"
NOW = Circumstances(later(600))


def row(**fields):
    values = dict.fromkeys(AlertRow._fields)
    values.update(
        id=1,
        request_id=REQUEST,
        received_at=NOON,
        fingerprint="f",
        episode=EPISODE,
        alert_name="ServiceDown",
        severity="critical",
        instance="web-1",
        status="firing",
        outcome=Outcome.ADMITTED,
        reason="new incident",
        explanation=Explanation.EXECUTION,
        open_fingerprint="f",
        last_seen_at=NOON,
        notifications=1,
        attempt=1,
    )
    return AlertRow(**{**values, **fields})


def execution(number=1, **fields):
    values = {
        "link_id": number,
        "request_id": REQUEST,
        "alert_id": 1,
        "st2_execution_id": f"e{number}",
        "st2_workflow": "linux.service",
        "st2_rule": "poundcake.remediate",
        "linked_at": later(number),
        "status": "succeeded",
        "started_at": later(number),
        "ended_at": later(number + 9),
        "dry_run": None,
        "mutated": None,
        "verified": None,
        "stage": "",
        "message": "",
        "url": "",
    }
    return Execution(**{**values, **fields})


def change(number=1, result=ChangeResult.SUCCEEDED, **fields):
    values = {
        "id": number,
        "st2_execution_id": f"e{number}",
        "request_id": REQUEST,
        "episode": EPISODE,
        "attempt": 1,
        "remediation": "nginx",
        "action": "linux.service",
        "target": "web-1",
        "per_value": "",
        "decided_at": later(number + 1),
        "lease_until": None,
        "ended_at": later(number + 9) if result else None,
        "result": result,
        "refusal": "",
        "reason": "",
    }
    return Change(**{**values, **fields})


def refused(number=1, refusal="storm", **fields):
    return change(number, ChangeResult.REFUSED, refusal=refusal, reason="the reason", **fields)


def episode(state="firing", incident=None, **fields):
    incident = incident or row()
    values = {
        "name": EPISODE,
        "fingerprint": "f",
        "alert_name": "ServiceDown",
        "severity": "critical",
        "instance": "web-1",
        "state": state,
        "starts_at": NOON,
        "ends_at": None,
        "last_seen_at": NOON,
        "notification_count": 1,
        "notifications": [Notification(incident, "")],
        "executions": [],
        "incident": incident,
    }
    return Episode(**{**values, **fields})


APPROVAL = Approval("i1", "e1", ("anna", "ben"), later(1800), "linux.service on web-1")
ACKNOWLEDGED = {"acknowledged_at": NOON, "acknowledged_by": "anna"}
SILENCED = {"silence_id": "s", "silenced_by": "ben", "silenced_until": later(3600)}
FAILED = {"status": "failed", "mutated": True, "stage": "remediate", "message": "no such unit"}
STATES = [
    ("malformed", episode("", row(outcome=Outcome.MALFORMED, episode=None, reason="no labels"))),
    ("not_an_incident", episode("", row(outcome=Outcome.DUPLICATE))),
    ("cleared_by_itself", episode("resolved")),
    (
        "cleared",
        episode(
            "resolved",
            row(open_fingerprint=None, closed_at=later(60)),
            executions=[execution(mutated=True, stage="done")],
            changes=[change()],
        ),
    ),
    ("superseded", episode("superseded")),
    ("closed", episode("closed", row(closed_by="ben", closed_comment="the host is gone"))),
    ("expired", episode("expired")),
    ("gone", episode("gone")),
    ("acknowledged", episode(incident=row(**ACKNOWLEDGED))),
    ("silenced", episode(incident=row(**SILENCED))),
    ("stale", episode(last_seen_at=later(-90_000))),
    (
        "waiting_for_approval",
        episode(executions=[execution(status="paused", ended_at=None)], approvals=[APPROVAL]),
    ),
    ("workflow_paused", episode(executions=[execution(status="paused", ended_at=None)])),
    ("running", episode(executions=[execution(status="running", ended_at=None)])),
    (
        "running",
        episode(
            executions=[execution(status="running", ended_at=None)], changes=[change(result="")]
        ),
    ),
    (
        "did_not_help",
        episode(executions=[execution()], changes=[change(result=ChangeResult.NOT_CLEARED)]),
    ),
    (
        "did_not_help",
        episode(executions=[execution()], changes=[change(result=ChangeResult.NOT_VERIFIED)]),
    ),
    ("failed", episode(executions=[execution(**FAILED)])),
    (
        "failed",
        episode(executions=[execution(**FAILED)], changes=[change(result=ChangeResult.FAILED)]),
    ),
    (
        "result_unknown",
        episode(executions=[execution(status="gone")], changes=[change(result="unknown")]),
    ),
    ("canceled", episode(executions=[execution(status="canceled")])),
    (
        "refused",
        episode(
            executions=[execution(status="failed", mutated=False, stage="refused")],
            changes=[refused()],
        ),
    ),
    ("changed", episode(executions=[execution(mutated=True)], changes=[change()])),
    ("dry_run", episode(executions=[execution(dry_run=True, mutated=False, stage="dry_run")])),
    ("evidence", episode(executions=[execution(mutated=False, stage="evidence")])),
    ("ran", episode(executions=[execution()])),
    ("lost", episode(incident=row(explanation=Explanation.LOST))),
    ("rule_failed", episode(incident=row(explanation=Explanation.FAILED))),
    ("retrying", episode(incident=row(explanation=Explanation.RETRY))),
    ("waiting_for_stackstorm", episode(incident=row(explanation=None))),
    ("no_rule", episode(incident=row(explanation=Explanation.NO_RULE))),
    ("held_back", episode(incident=row(outcome=Outcome.COOLDOWN, held_until=later(3600)))),
    ("held_back", episode(incident=row(outcome=Outcome.RATE_LIMITED, held_until=later(3600)))),
    ("held_back", episode(incident=row(outcome=Outcome.OBSERVED))),
    ("held_back", episode(incident=row(outcome=Outcome.UNCONFIRMED))),
    ("nothing_ran", episode(incident=row(explanation=Explanation.EXECUTION))),
]


@pytest.mark.parametrize("verdict, judged", STATES, ids=lambda value: str(value)[:20])
def test_each_state_has_its_verdict(verdict, judged):
    judgement = judge(judged, NOW)
    assert judgement.verdict == verdict
    assert judgement.headline and judgement.next_step
    assert judgement.next_command.startswith("st2 ") or judgement.next_step.startswith(
        (NOTHING_TO_DO, "wait")
    )
    assert judgement.title == judgement.title.upper()
    assert list_events(judged, list_runs(judged, NOW), 15)


def test_every_verdict_is_covered():
    verdicts = {verdict for verdict, _ in STATES}
    assert verdicts == {verdict.value for verdict in EpisodeVerdict} - {"waiting_to_be_recorded"}


def test_a_change_that_is_being_made_is_shown_even_if_the_incident_has_ended():
    judged = episode(
        "resolved",
        executions=[execution(status="running", ended_at=None)],
        changes=[change(result="")],
    )
    assert (
        judge(judged, NOW).headline
        == "the alert is resolved, and linux.service on web-1 still runs"
    )


class TestChecks:
    """A remediation of the pack has changed nothing before its change is decided."""

    CHECKING = {
        "status": "running",
        "ended_at": None,
        "action": "poundcake.remediate",
        "has_claim": True,
    }

    def judge(self, *changes, seconds=30, **fields):
        judged = episode(
            executions=[execution(**{**self.CHECKING, **fields})], changes=list(changes)
        )
        return judge(judged, Circumstances(later(seconds), settle_seconds=60))

    def test_the_checks_before_the_decision(self):
        judgement = self.judge()
        assert (judgement.verdict, judgement.headline) == (
            "running",
            "poundcake.remediate is checking whether to run linux.service; nothing has been "
            "changed yet",
        )
        assert judgement.next_step == (
            "wait for its decision, once settle_seconds have passed at "
            f"{format_deadline(later(60))}"
        )
        assert judgement.next_at == later(60)

    def test_the_incident_has_settled(self):
        assert self.judge(seconds=61).next_step == "wait for its decision"

    def test_a_remediation_without_the_claim_changes_nothing(self):
        judgement = self.judge(has_claim=False)
        assert judgement.headline == (
            "poundcake.remediate is checking; nothing has been changed yet"
        )
        assert (judgement.next_step, judgement.next_at) == ("wait for its result", None)

    def test_a_refused_change(self):
        assert "nothing has been changed" in self.judge(refused()).headline

    def test_a_change_that_was_decided(self):
        expected = "linux.service on web-1 is being run and verified"
        assert self.judge(change(result="")).headline == expected

    def test_a_workflow_of_the_user_may_have_changed_something(self):
        judgement = self.judge(action="linux.service")
        assert judgement.headline == "linux.service is running"

    @pytest.mark.parametrize(
        "action, text",
        [
            ("poundcake.remediate", "poundcake.remediate (e1) is at work"),
            ("linux.service", "linux.service (e1) is running"),
        ],
    )
    def test_the_timeline_names_the_workflow_that_runs(self, action, text):
        judged = episode(executions=[execution(**{**self.CHECKING, "action": action})])
        runs = list_runs(judged, NOW)
        assert text in [event.text for event in list_events(judged, runs, 10)]

    def test_a_recorded_result_is_not_called_running(self):
        """poundcake.begin records it a moment before StackStorm ends the workflow."""
        ended = {"status": "running", "stage": "dry_run", "mutated": False, "dry_run": True}
        judged = episode(executions=[execution(**{**self.CHECKING, **ended})])
        events = list_events(judged, list_runs(judged, NOW), 10)
        (text,) = [event.text for event in events if "(e1)" in event.text]
        assert text == "linux.service (e1) ended as a dry run"


class TestPriority:
    """The first of two rules that apply decides."""

    @pytest.mark.parametrize("fields", [ACKNOWLEDGED, SILENCED], ids=["acknowledged", "silenced"])
    @pytest.mark.parametrize(
        "other",
        [
            {"last_seen_at": later(-90_000)},
            {"executions": [execution(status="paused")], "approvals": [APPROVAL]},
            {"executions": [execution(**FAILED)]},
        ],
        ids=["stale", "approval", "failed"],
    )
    def test_a_person_who_handles_the_incident_comes_first(self, fields, other):
        verdict = judge(episode(incident=row(**fields), **other), NOW).verdict
        assert verdict in ("acknowledged", "silenced")

    def test_an_acknowledgement_comes_before_a_silence(self):
        judged = episode(incident=row(**ACKNOWLEDGED, **SILENCED))
        assert judge(judged, NOW).verdict == "acknowledged"

    def test_a_silence_that_has_ended_does_not_count(self):
        fields = {**SILENCED, "silenced_until": later(599)}
        judged = episode(incident=row(**fields, explanation=Explanation.NO_RULE))
        assert judge(judged, NOW).verdict == "no_rule"

    def test_an_approval_comes_before_a_failure(self):
        waiting = execution(2, status="paused", st2_workflow="ipmi.power_cycle", ended_at=None)
        judged = episode(
            executions=[execution(**FAILED), waiting],
            approvals=[replace(APPROVAL, st2_execution_id="e2")],
        )
        judgement = judge(judged, NOW)
        assert judgement.verdict == "waiting_for_approval"
        assert judgement.next_command == "st2 inquiry respond i1"
        assert judgement.next_step == "anna or ben may answer until 2026-01-14T12:30:00Z"
        assert judgement.next_at == later(1800)

    @pytest.mark.parametrize(
        "urgent, other",
        [
            (FAILED, {"dry_run": True, "mutated": False, "stage": "dry_run"}),
            (FAILED, {"mutated": False, "stage": "refused", "status": "failed"}),
            (
                {"mutated": False, "stage": "refused", "status": "failed"},
                {"mutated": False, "stage": "evidence"},
            ),
            ({"dry_run": True, "mutated": False, "stage": "dry_run"}, {}),
        ],
    )
    @pytest.mark.parametrize("swapped", [False, True])
    def test_the_most_urgent_of_several_workflows_counts(self, urgent, other, swapped):
        fields = [{**urgent, "st2_workflow": "a.b"}, {**other, "st2_workflow": "c.d"}]
        runs = [execution(n, **f) for n, f in enumerate(fields[::-1] if swapped else fields, 1)]
        alone = judge(episode(executions=[execution(**urgent)]), NOW)
        assert judge(episode(executions=runs), NOW).verdict == alone.verdict

    def test_the_newest_execution_of_a_workflow_counts(self):
        stopped = execution(mutated=False, stage="refused", status="failed")
        judged = episode(
            executions=[stopped, execution(2, mutated=True)],
            changes=[refused(retried_at=later(2)), change(2)],
        )
        assert judge(judged, NOW).verdict == "changed"

    def test_an_execution_without_the_claim_does_not_count(self):
        loser = execution(2, stage="not_claimed", message="execution e1 holds the claim")
        judged = episode(
            executions=[execution(mutated=True), loser],
            changes=[change(), refused(2, "not_claimed")],
        )
        assert judge(judged, NOW).verdict == "changed"
        assert [claim["result"] for claim in judged.as_json()["claims"]] == ["lost"]

    def test_an_alert_that_is_emitted_again_has_not_failed(self):
        judged = episode(
            incident=row(explanation=Explanation.RETRY, explanation_reason="e1 ended early"),
            executions=[execution(status="failed", stage="link")],
        )
        judgement = judge(judged, NOW)
        assert (judgement.verdict, judgement.headline) == ("retrying", "e1 ended early")


class TestFailures:
    def test_the_command_shows_the_action_that_failed(self):
        failed = change(result=ChangeResult.FAILED, action_execution_id="a1")
        judgement = judge(episode(executions=[execution(**FAILED)], changes=[failed]), NOW)
        assert judgement.next_command == "st2 execution get a1"
        assert judgement.headline == "linux.service on web-1 failed: no such unit"

    def test_without_a_known_action_it_shows_the_workflow(self):
        assert judge(episode(executions=[execution(**FAILED)]), NOW).next_command == (
            "st2 execution get e1"
        )

    @pytest.mark.parametrize(
        "count, text", [(1, None), (2, "2nd"), (3, "3rd"), (4, "4th"), (11, "11th"), (21, "21st")]
    )
    def test_failures_in_a_row_are_counted(self, count, text):
        judged = episode(
            executions=[execution()],
            changes=[change(result=ChangeResult.NOT_CLEARED)],
            failures_in_a_row=count,
        )
        headline = judge(judged, NOW).headline
        assert headline.endswith(f"({text} time in a row)" if text else "15 min later")

    @pytest.mark.parametrize("limit, is_off", [(3, True), (4, False), (0, False)])
    def test_a_remediation_that_the_breaker_stops_is_named(self, limit, is_off):
        judged = episode(
            executions=[execution()],
            changes=[change(result=ChangeResult.NOT_CLEARED)],
            failures_in_a_row=3,
        )
        step = judge(judged, NOW._replace(breaker_failures=limit)).next_step
        assert ("`st2 run poundcake.release format=text remediation=nginx`" in step) == is_off

    def test_a_change_of_a_resolved_alert_that_came_late_did_not_help(self):
        judged = episode(
            "resolved",
            executions=[execution()],
            changes=[change(result=ChangeResult.NOT_CLEARED)],
        )
        judgement = judge(judged, NOW)
        assert judgement.verdict == "cleared_by_itself"
        assert "linux.service on web-1 had not helped" in judgement.headline


class TestRefusals:
    def judge(self, refusal, circumstances=NOW, **fields):
        judged = episode(
            executions=[execution(status="failed", mutated=False, stage="refused")],
            changes=[refused(refusal=refusal, **fields)],
        )
        return judge(judged, circumstances)

    @pytest.mark.parametrize("refusal", list(Refusal))
    def test_each_refusal_says_what_to_do(self, refusal):
        judgement = self.judge(str(refusal))
        expected = {"dry_run": "dry_run", "no_action": "evidence", "not_claimed": "refused"}
        assert judgement.verdict == expected.get(str(refusal), "refused")
        assert judgement.next_command or judgement.next_step == NOTHING_TO_DO

    @pytest.mark.parametrize(
        "refusal, title, command",
        [
            (
                "storm",
                "STORM",
                "st2 run poundcake.alerts_active format=text alert_name=ServiceDown",
            ),
            ("breaker", "BREAKER", "st2 run poundcake.release format=text remediation=nginx"),
            (
                "approval_missing",
                "NOT APPROVED",
                f"st2 run poundcake.replay request_id={REQUEST} force=true",
            ),
            (
                "host_not_allowed",
                "HOST NOT ALLOWED",
                f"st2 run poundcake.plan format=text episode={EPISODE}",
            ),
            (
                "acknowledged",
                "ACKNOWLEDGED",
                f"st2 run poundcake.acknowledge format=text episode={EPISODE} undo=true",
            ),
            ("silenced", "SILENCED", f"st2 run poundcake.unsilence format=text episode={EPISODE}"),
            (
                "database_unavailable",
                "DATABASE UNAVAILABLE",
                "st2 run poundcake.health format=text",
            ),
        ],
    )
    def test_the_command_lifts_the_refusal(self, refusal, title, command):
        judgement = self.judge(refusal)
        assert (judgement.title, judgement.next_command) == (f"NOT TOUCHED: {title}", command)
        assert judgement.headline == "the reason"

    def test_a_pause_is_resumed_unless_it_has_ended(self):
        paused = NOW._replace(pause=Pause(NOON, "anna", "rack 12"))
        assert self.judge("paused", paused).next_command == "st2 run poundcake.resume format=text"
        assert self.judge("paused").next_command.startswith("st2 run poundcake.replay ")

    def test_a_retry_needs_nobody(self):
        judgement = self.judge("cooldown", retry_at=later(900))
        assert judgement.next_step.startswith(
            f"{NOTHING_TO_DO}: the change is tried again after 2026-01-14T12:15:00Z"
        )
        assert judgement.next_at == later(900)

    def test_a_refusal_by_begin_is_named_by_its_event(self):
        judged = episode(
            executions=[
                execution(status="failed", mutated=False, stage="refused", message="not allowed")
            ],
            reported_ends={"e1": ReportedEnd("host_not_allowed", "linux.service", "web-1")},
        )
        judgement = judge(judged, NOW)
        assert (judgement.title, judgement.headline) == (
            "NOT TOUCHED: HOST NOT ALLOWED",
            "not allowed",
        )

    def test_every_lasting_refusal_names_the_configuration_or_needs_nobody(self):
        for refusal in set(LASTING_REFUSALS) - {Refusal.DRY_RUN, Refusal.NO_ACTION}:
            step = self.judge(str(refusal)).next_step
            assert "configuration" in step or step == NOTHING_TO_DO, refusal

    @pytest.mark.parametrize("name", ["a b", "x;reboot", "$(id)", "`id`", "a'b", "日本"])
    def test_text_of_a_sender_is_not_part_of_a_command(self, name):
        judged = replace(
            episode(
                executions=[execution(status="failed", mutated=False, stage="refused")],
                changes=[refused()],
            ),
            alert_name=name,
        )
        assert judge(judged, NOW).next_command == "st2 run poundcake.alerts_active format=text"


def test_the_host_is_not_named_if_the_action_does_not_get_it():
    judged = episode(executions=[execution()], changes=[change(result="not_cleared")])
    for entries, name in ((frozenset(), "linux.service on web-1"), ({"nginx"}, "linux.service")):
        now = NOW._replace(entries_without_host=entries)
        assert judge(judged, now).headline.startswith(f"{name} was run")
        events = [event.text for event in list_events(judged, list_runs(judged, now), 15)]
        assert f"{name} started" in events


class TestDryRuns:
    BY_HAND = "handle it by hand; the command shows what would be done now"

    @staticmethod
    def next_step(message="would run linux.service on web-1", action="linux.service", **current):
        end = ReportedEnd("dry_run" if action else "", action, "web-1", remediation="nginx")
        run = execution(dry_run=True, mutated=False, stage="dry_run", message=message)
        judged = episode(executions=[run], reported_ends={"e1": end})
        return judge(judged, NOW._replace(**current)).next_step

    @pytest.mark.parametrize(
        ("dry_run", "entries", "condition"),
        [
            (True, {"nginx"}, "dry_run is false and the entry nginx has mode: live"),
            (True, {"other"}, "dry_run is false"),
            (False, {"nginx"}, "the entry nginx has mode: live"),
        ],
    )
    def test_what_would_be_changed_names_what_makes_it_live(self, dry_run, entries, condition):
        assert self.next_step(dry_run=dry_run, dry_run_entries=entries) == (
            f"nothing is changed until {condition}; the command shows what would be done now"
        )

    def test_an_empty_list_of_allowed_hosts_is_named_as_well(self):
        assert self.next_step(dry_run=True, allows_no_host=True).startswith(
            "nothing is changed until dry_run is false and allowed_hosts contains the host; "
        )

    @pytest.mark.parametrize(
        "fields",
        [
            {"action": "", "message": "the rule names no action, so nothing would be changed"},
            {"message": "the queue has 10 entries, so nothing would be changed"},
            {"message": "would run linux.service on web-1, but not now: the alert does not fire"},
        ],
    )
    def test_a_person_acts_if_no_change_would_have_been_made(self, fields):
        assert self.next_step(**fields, dry_run=True, dry_run_entries={"nginx"}) == self.BY_HAND

    def test_a_person_acts_if_it_is_not_known_what_held_the_change_back(self):
        assert self.next_step(dry_run=False) == self.BY_HAND


class TestTimes:
    def test_a_change_has_time_to_help(self):
        judged = episode(executions=[execution(mutated=True)], changes=[change()])
        judgement = judge(judged, NOW)
        assert judgement.verdict == "changed" and judgement.next_at == later(910)
        assert judge(judged, NOW._replace(now=later(911))).verdict == "did_not_help"

    def test_an_incident_is_stale_after_the_configured_time(self):
        judged = episode(incident=row(explanation=Explanation.NO_RULE))
        fresh, stale = (NOW._replace(now=later(n), stale_after_hours=2) for n in (7200, 7201))
        assert judge(judged, fresh).verdict == "no_rule"
        judgement = judge(judged, stale)
        assert judgement.verdict == "stale"
        assert (
            judgement.next_command
            == f"st2 run poundcake.close format=text episode={EPISODE} comment=ended"
        )

    def test_a_held_back_alert_shows_until_when(self):
        incident = row(
            outcome=Outcome.COOLDOWN,
            reason="cooldown until 2026-01-14T13:00:00Z",
            explanation=Explanation.NOT_EMITTED,
            held_until=later(3600),
        )
        judgement = judge(episode(incident=incident), NOW)
        assert judgement.title == "HELD BACK: COOLDOWN" and judgement.next_at == later(3600)
        assert "cooldown until 2026-01-14T13:00:00Z" in judgement.headline
