"""Rounds of sync explain emitted alerts from the triggers and executions in StackStorm."""

from __future__ import annotations

from dataclasses import replace

import pytest

from poundcake.config import Config, load
from poundcake.stackstorm import StackStormError
from poundcake.trail import claims, evidence, explain
from poundcake.trail.release import release_claims
from poundcake.trail.replay import replay_request
from poundcake.trail.schema import alerts, executions, links
from poundcake.trail.triggers import Span
from poundcake.trail.verdict import Clocks, OpenAlert
from tests.lib.fake_stackstorm import OUTAGE, refusal
from tests.lib.samples import NOON, alert, later
from tests.lib.sync_trail import SyncTrail, ago

WORKFLOW = "pack.workflow"
HOUR = 3600


@pytest.fixture
def database_url(tmp_path):
    """Use only SQLite: test_sync.py tracks an alert from start to end on both databases."""
    return f"sqlite:///{tmp_path / 'tracking.db'}"


@pytest.fixture
def trail(engine):
    return SyncTrail(engine)


@pytest.fixture
def running_trail(trail):
    """Return a trail with an alert whose workflow, execution e1, is running and has a link task."""
    trail.request_id, (trail.alert,) = trail.record(alert())
    trail.stackstorm.enforce(trail.stackstorm.emit(trail.alert, trail.request_id), "e1")
    trail.stackstorm.run("e1", "running", links=True)
    return trail


def link(trail, request_id, row, execution, workflow=WORKFLOW, cooldown=0):
    cooldown = claims.HostCooldown.from_seconds(cooldown)
    return claims.link(trail.engine, request_id, row.episode, workflow, execution, cooldown)


class TestRules:
    def test_a_rule_that_could_not_start_its_action_is_a_failure(self, trail):
        request_id, (row,) = trail.record(alert())
        trail.stackstorm.enforce(
            trail.stackstorm.emit(row, request_id), reason="Action pack.gone not found"
        )
        trail.sync()
        alert_row = trail.one()
        assert (alert_row.explanation, alert_row.st2_rule_matched) == ("failed", "pack.rule")
        assert "Action pack.gone not found" in alert_row.explanation_reason
        assert trail.completed == [True]

    def test_an_alert_is_not_explained_while_its_rules_are_evaluated(self, trail):
        request_id, (row,) = trail.record(alert())
        trigger = trail.stackstorm.emit(row, request_id, "processing")
        trail.stackstorm.enforce(trigger, "e1")
        trail.stackstorm.run("e1")
        trail.sync()
        assert trail.one().explanation is None
        processed_trigger = replace(trail.stackstorm.triggers[trigger], status="processed")
        trail.stackstorm.triggers[trigger] = processed_trigger
        trail.stackstorm.enforce(trigger, "e2", rule="pack.other")
        trail.stackstorm.run("e2")
        trail.sync()
        assert trail.one().explanation == "execution"
        assert {link.st2_execution_id for link in trail.rows(links)} == {"e1", "e2"}

    def test_an_alert_emitted_twice_is_explained_by_the_newer_trigger(self, trail):
        request_id, (row,) = trail.record(alert())
        trail.stackstorm.emit(row, request_id, "processing_failed", 5)
        trail.stackstorm.emit(row, request_id, "processed", 1)
        trail.sync()
        assert trail.one().explanation == "no_rule"

    def test_the_newer_execution_of_a_rule_replaces_one_that_failed(self, trail):
        request_id, (row,) = trail.record(alert())
        trail.stackstorm.enforce(trail.stackstorm.emit(row, request_id, seconds=120), "e1")
        trail.stackstorm.run("e1", "failed", "poundcake.remediate", links=True)
        trail.sync()
        assert trail.one().explanation == "retry"
        trail.stackstorm.enforce(trail.stackstorm.emit(row, request_id), "e2")
        trail.stackstorm.run("e2", action="poundcake.remediate")
        # poundcake.remediate claims under the name of the action that it wraps.
        link(trail, request_id, row, "e2", "other.action")
        trail.sync()
        assert trail.one().explanation == "execution" and trail.completed == [True]

    def test_a_trigger_of_another_request_explains_nothing(self, trail):
        _, (row,) = trail.record(alert())
        trail.stackstorm.emit(row, "another-request")
        trail.sync()
        assert trail.one().explanation is None

    def test_each_of_two_alerts_has_its_own_trigger(self, trail):
        request_id, (first, _) = trail.record(alert("A"), alert("B"))
        trail.stackstorm.emit(first, request_id)
        trail.sync()
        assert trail.explanations() == ["no_rule", None] and trail.completed == [False]

    def test_a_resolve_is_distinguished_from_its_alert(self, trail):
        resolve = alert(status="resolved", ends_at=ago(0))
        request_id, (first, second) = trail.record(alert(), resolve)
        assert first.episode == second.episode
        trail.stackstorm.emit(second, request_id)
        trail.sync()
        assert trail.explanations() == [None, "no_rule"]

    def test_an_alert_that_was_not_emitted_is_skipped(self, trail):
        trail.record(alert())
        trail.change(alerts, explanation="execution")
        trail.record(alert())
        assert trail.sync().unexplained == 0
        assert trail.explanations() == ["execution", "none"]


class TestExecutions:
    def test_a_workflow_without_a_link_task_is_linked_while_it_runs(self, trail):
        request_id, (row,) = trail.record(alert())
        trail.stackstorm.enforce(trail.stackstorm.emit(row, request_id), "e1")
        trail.stackstorm.run("e1", "running")
        trail.sync()
        assert trail.one(links).claim is None and trail.one(executions).status == "running"
        assert trail.one().explanation == "execution" and trail.completed == [False]
        trail.stackstorm.run("e1", "failed", result={"stderr": "it broke"})
        trail.sync()
        link_row = trail.one(links)
        assert (link_row.st2_execution_id, link_row.claim, link_row.request_id) == (
            "e1",
            None,
            request_id,
        )
        assert (link_row.st2_action_ref, link_row.st2_rule_ref) == (WORKFLOW, "pack.rule")
        execution_row = trail.one(executions)
        assert (execution_row.status, execution_row.error) == ("failed", "it broke")
        assert trail.completed == [True]

    def test_a_workflow_with_a_link_task_is_linked_by_sync_after_a_minute(self, running_trail):
        running_trail.stackstorm.run("e1", "running", seconds=50)
        running_trail.sync()
        assert running_trail.rows(links) == [] and running_trail.one().explanation is None
        assert running_trail.one().explanation_reason == (
            "pack.workflow was started (e1) but has not linked itself yet"
        )
        running_trail.stackstorm.run("e1", "running", seconds=61)
        running_trail.sync()
        assert running_trail.one(links).claim is None
        assert running_trail.one().explanation is None and running_trail.completed == [False]

    def test_an_execution_that_links_itself_at_the_same_time_is_checked_again(
        self, running_trail, monkeypatch
    ):
        running_trail.stackstorm.run("e1", "running", seconds=61)
        monkeypatch.setattr(evidence.TrailFacts, "link_state", lambda *_: evidence.LinkState.NONE)
        link(running_trail, running_trail.request_id, running_trail.alert, "e1")
        running_trail.sync()
        assert running_trail.one().explanation is None and running_trail.one(links).claim

    def test_an_execution_that_was_refused_the_claim_is_not_linked(self, running_trail):
        result = {"output": {"stage": "not_claimed", "message": "this host is in cooldown"}}
        running_trail.stackstorm.run("e1", result=result)
        running_trail.sync()
        row = running_trail.one()
        assert row.explanation == "execution"
        assert row.explanation_reason == "pack.workflow did nothing: this host is in cooldown"
        assert running_trail.rows(links) == [] and running_trail.completed == [True]

    def test_an_execution_refused_for_an_earlier_claim_is_explained(self, trail):
        """The workflow of the original request claimed the episode before that of the replay."""
        original_id, (original_row,) = trail.record(alert(), seconds=3000)
        replay_id = replay_request(trail.engine, Config(), original_id)["request_id"]
        row = trail.rows(alerts)[-1]
        assert row.outcome == "admitted"
        link(trail, original_id, original_row, "e1")
        refused_claim = link(trail, replay_id, row, "e2")
        assert not refused_claim["claimed"]
        output = {"output": {"stage": "not_claimed", "message": refused_claim["reason"]}}
        trail.stackstorm.enforce(trail.stackstorm.emit(row, replay_id), "e2")
        trail.stackstorm.run("e2", result=output, links=True)
        trail.sync()
        alert_row = trail.rows(alerts)[-1]
        assert alert_row.explanation == "execution"
        assert (
            alert_row.explanation_reason == "pack.workflow did nothing: " + refused_claim["reason"]
        )

    @pytest.mark.parametrize("result", [{"output": {"stage": "not_claimed"}}, {}])
    @pytest.mark.parametrize("parameters", [{"action": "pack.clean"}, {"remediation": "clean"}])
    def test_an_execution_that_did_nothing_is_explained_by_a_claim_of_its_action(
        self, trail, parameters, result
    ):
        """poundcake.remediate claims under the name of the action that it is given."""
        request_id, (row,) = trail.record(alert())
        link(trail, request_id, row, "e1", "pack.clean")
        wrapper = {"action": "poundcake.remediate", "parameters": parameters}
        trail.stackstorm.run("e1", **wrapper)
        status = "succeeded" if result else "failed"
        trail.stackstorm.run("e2", status, result=result, links=True, **wrapper)
        trail.stackstorm.enforce(trail.stackstorm.emit(row, request_id), "e2")
        entry = {"name": "clean", "match": ["alertname!="], "mode": "live"}
        config = load({"remediations": [{**entry, "action": "pack.clean"}]})
        trail.sync(remediations=config.remediations)
        assert (trail.one().explanation, trail.one().explanation_reason) == ("execution", "")

    def test_an_execution_that_stackstorm_has_deleted_explains_its_alert(self, trail):
        request_id, (row,) = trail.record(alert())
        trail.stackstorm.enforce(trail.stackstorm.emit(row, request_id), "e1")
        trail.sync()
        assert trail.one().explanation == "execution"

    def test_an_alert_whose_claim_was_released_is_not_retried(self, running_trail):
        running_trail.stackstorm.run("e1", "failed")
        link(running_trail, running_trail.request_id, running_trail.alert, "e1")
        release_claims(running_trail.engine, running_trail.alert.episode, force=True)
        running_trail.sync()
        assert running_trail.one().explanation == "execution"

    def test_a_claim_on_the_first_attempt_does_not_explain_a_later_one(self, running_trail):
        link(running_trail, running_trail.request_id, running_trail.alert, "e1")
        replay_id = replay_request(
            running_trail.engine, Config(), running_trail.request_id, force=True
        )["request_id"]
        row = running_trail.rows(alerts)[1]
        running_trail.stackstorm.enforce(running_trail.stackstorm.emit(row, replay_id), "e2")
        running_trail.stackstorm.run(
            "e2", "failed", result={"errors": [{"message": "no database"}]}
        )
        running_trail.sync()
        assert running_trail.explanations()[1] == "retry"
        # A claim on the later attempt explains the alerts of both attempts.
        link(running_trail, replay_id, row, "e3")
        running_trail.stackstorm.enforce(running_trail.stackstorm.emit(row, replay_id), "e3")
        running_trail.stackstorm.run("e3", "running")
        running_trail.sync()
        assert running_trail.explanations()[1] == "execution"


class TestRetries:
    def test_an_alert_whose_execution_ended_before_its_claim_is_retried(self, running_trail):
        running_trail.stackstorm.run(
            "e1", "failed", result={"errors": [{"message": "no database"}]}
        )
        running_trail.sync()
        assert running_trail.one().explanation == "retry" and running_trail.completed == [False]
        assert "no database" in running_trail.one().explanation_reason
        # The next execution gets the claim.
        trigger = running_trail.stackstorm.emit(running_trail.alert, running_trail.request_id)
        running_trail.stackstorm.enforce(trigger, "e2")
        running_trail.stackstorm.run("e2", "running")
        link(running_trail, running_trail.request_id, running_trail.alert, "e2")
        running_trail.sync()
        assert running_trail.one().explanation == "execution"

    def test_nothing_is_queried_for_an_alert_that_waits_for_its_next_trigger(self, running_trail):
        running_trail.stackstorm.run("e1", "failed")
        running_trail.sync()
        reason = running_trail.one().explanation_reason
        running_trail.stackstorm.calls.clear()
        running_trail.sync()
        assert running_trail.stackstorm.calls == [("list_triggers", None)]
        assert (running_trail.one().explanation, running_trail.one().explanation_reason) == (
            "retry",
            reason,
        )

    def test_a_new_trigger_ends_the_wait_even_if_its_rules_cannot_be_read(self, running_trail):
        running_trail.stackstorm.run("e1", "failed")
        running_trail.sync()
        trigger = running_trail.stackstorm.emit(running_trail.alert, running_trail.request_id)
        running_trail.stackstorm.errors["get_enforcements", trigger] = refusal()
        running_trail.sync()
        assert running_trail.one().explanation is None
        assert "the fault" in running_trail.one().explanation_reason

    def test_a_late_claim_ends_the_wait(self, running_trail):
        running_trail.stackstorm.run("e1", "running", seconds=601)
        running_trail.sync()
        assert running_trail.one().explanation == "retry"
        link(running_trail, running_trail.request_id, running_trail.alert, "e1")
        running_trail.sync()
        assert (running_trail.one().explanation, running_trail.one().explanation_reason) == (
            "execution",
            "",
        )

    def record_cooldown(self, trail):
        """Record two alerts of one host. The first causes a cooldown, which refuses the second."""
        host = {"instance": "web-1:9100"}
        first, (row,) = trail.record(alert("One", labels=host))
        link(trail, first, row, "e1", cooldown=600)
        trail.change(alerts, explanation="execution")
        second, (second_row,) = trail.record(alert("Two", labels=host))
        refused_claim = link(trail, second, second_row, "e2", cooldown=600)
        trail.stackstorm.enforce(trail.stackstorm.emit(second_row, second), "e2")
        output = {"output": {"stage": "not_claimed", "message": refused_claim["reason"]}}
        trail.stackstorm.run("e2", result=output, links=True)
        return second, second_row, "pack.workflow did nothing: " + refused_claim["reason"]

    def test_an_alert_is_retried_after_the_cooldown_of_its_host(self, trail):
        request_id, row, reason = self.record_cooldown(trail)
        for seconds, explanation in ((0, None), (590, None), (610, "retry")):
            trail.change(links, created_at=ago(seconds))
            trail.sync(host_cooldown_seconds=600)
            alert_row = trail.rows(alerts)[-1]
            assert (alert_row.explanation, alert_row.explanation_reason) == (explanation, reason)
            assert trail.completed[-1] is False
        trail.stackstorm.enforce(trail.stackstorm.emit(row, request_id), "e3")
        trail.stackstorm.run("e3", "running")
        assert link(trail, request_id, row, "e3", cooldown=600)["claimed"]
        trail.sync(host_cooldown_seconds=600)
        alert_row = trail.rows(alerts)[-1]
        assert (alert_row.explanation, alert_row.explanation_reason) == ("execution", "")

    def test_alerts_without_a_host_do_not_share_a_cooldown(self, trail):
        """An acknowledgement refused the second alert, so it does not wait for a cooldown."""
        first, (row,) = trail.record(alert("One", labels={"instance": ""}))
        link(trail, first, row, "e1", cooldown=600)
        trail.change(alerts, explanation="execution")
        second, (second_row,) = trail.record(alert("Two", labels={"instance": ""}))
        trail.stackstorm.enforce(trail.stackstorm.emit(second_row, second), "e2")
        output = {"output": {"stage": "not_claimed", "message": "acknowledged by anna"}}
        trail.stackstorm.run("e2", result=output, links=True)
        trail.sync(host_cooldown_seconds=600)
        assert trail.explanations() == ["execution", "retry"]

    def test_an_alert_is_not_retried_if_the_cooldown_outlasts_the_incident(self, trail):
        _, _, reason = self.record_cooldown(trail)
        trail.record(alert("Two", "resolved", ends_at=ago(1)), seconds=0)
        trail.change(links, created_at=ago(610))
        trail.sync(host_cooldown_seconds=600)
        row = trail.rows(alerts)[1]
        assert (row.explanation, row.explanation_reason) == ("execution", reason)

    @pytest.mark.parametrize("minutes, explanation", [(9, "retry"), (11, "ended")])
    def test_an_alert_is_not_retried_long_after_its_incident_has_ended(
        self, trail, minutes, explanation
    ):
        trail.record(alert(), seconds=3 * HOUR)
        trail.record(alert(status="resolved", ends_at=ago(60 * minutes)), seconds=60 * minutes)
        trail.sync()
        row = trail.rows(alerts)[0]
        assert row.explanation == explanation
        assert ("the incident ended at 20" in row.explanation_reason) is (explanation == "ended")

    def test_an_old_alert_that_was_recorded_only_now_is_not_given_up(self, trail):
        """After a day-long outage, alerts from the journal are not given up immediately."""
        trail.record(alert())
        trail.change(alerts, created_at=ago(25 * HOUR))
        trail.sync()
        assert trail.one().explanation is None

    def test_an_alert_that_was_given_up_and_then_claimed_is_not_lost(self, trail):
        request_id, (row,) = trail.record(alert(), seconds=25 * HOUR)
        trail.sync()
        assert trail.one().explanation == "lost" and trail.completed == [True]
        assert trail.one().explanation_reason.startswith("StackStorm lost it: given up after 24 h.")
        link(trail, request_id, row, "e1")
        assert trail.one().explanation is None and trail.completed == [False]
        trail.stackstorm.enforce(trail.stackstorm.emit(row, request_id), "e1")
        trail.stackstorm.run("e1")
        trail.sync()
        assert (trail.one().explanation, trail.one().explanation_reason) == ("execution", "")
        assert trail.completed == [True]

    def test_an_old_alert_that_stackstorm_can_explain_is_not_given_up(self, trail):
        request_id, (row,) = trail.record(alert(), seconds=25 * HOUR)
        trail.stackstorm.emit(row, request_id, seconds=25 * HOUR - 60)
        trail.sync()
        assert trail.one().explanation == "no_rule"


class TestFailures:
    @pytest.mark.parametrize("error", [OUTAGE, refusal(), StackStormError("late", timed_out=True)])
    def test_an_old_alert_is_given_up_even_if_triggers_cannot_be_read(self, trail, error):
        trail.record(alert("Old"), seconds=25 * HOUR)
        trail.record(alert("New"), seconds=HOUR)
        trail.stackstorm.errors["list_triggers"] = error
        with pytest.raises(StackStormError):
            trail.sync()
        assert trail.explanations() == ["lost", None]
        assert "not all been read" in trail.rows(alerts)[1].explanation_reason
        assert trail.completed == [True, False]

    @pytest.mark.parametrize("call", ["get_enforcements", "get_executions", "runs_link_task"])
    def test_an_outage_during_a_round_is_reported_and_old_alerts_are_given_up(self, trail, call):
        for name, seconds in (("Old", 25 * HOUR), ("New", HOUR)):
            request_id, (row,) = trail.record(alert(name), seconds=seconds)
            trail.stackstorm.enforce(trail.stackstorm.emit(row, request_id), "e-" + name)
            trail.stackstorm.run("e-" + name)
        trail.stackstorm.errors[call] = OUTAGE
        with pytest.raises(StackStormError, match="nobody answers"):
            trail.sync()
        assert trail.explanations() == ["lost", None]
        assert "nobody answers" in trail.rows(alerts)[1].explanation_reason

    def test_alerts_that_a_killed_round_checked_are_given_up_first(self, trail):
        """Otherwise, the same alert could kill every round."""
        for name, seconds in (("Old", 25 * HOUR), ("New", HOUR)):
            request_id, (row,) = trail.record(alert(name), seconds=seconds)
            trail.stackstorm.emit(row, request_id)
        trail.stackstorm.errors["get_enforcements"] = KeyboardInterrupt()
        for _ in range(2):
            with pytest.raises(KeyboardInterrupt):
                trail.sync()
        assert trail.explanations() == ["lost", None]

    def test_an_unreadable_alert_does_not_block_the_others(self, trail):
        for name in ("One", "Two", "Three"):
            request_id, (row,) = trail.record(alert(name))
            trail.stackstorm.enforce(trail.stackstorm.emit(row, request_id), "e-" + name)
        trail.stackstorm.run("e-Three")
        trail.stackstorm.errors["get_enforcements", "t0"] = refusal()
        trail.stackstorm.errors["get_execution", "e-Two"] = refusal()
        problems = trail.sync().problems
        assert trail.explanations() == [None, None, "execution"]
        assert len(problems) == 3 and all(isinstance(problem, str) for problem in problems)

    def test_alerts_that_wait_for_a_long_time_do_not_block_others(self, trail, monkeypatch):
        monkeypatch.setattr(explain, "_BATCH_ALERTS", 3)
        trail.record(*(alert(f"Lost{n}") for n in range(4)), seconds=3000)
        request_id, (row,) = trail.record(alert("Later"))
        trail.stackstorm.emit(row, request_id)
        for _ in range(3):
            trail.sync()
        assert trail.explanations()[-1] == "no_rule"

    def test_alerts_skipped_for_lack_of_time_come_first_in_the_next_round(self, trail, monkeypatch):
        class Deadline:
            """A deadline that passes once two enforcements have been requested."""

            def __init__(self, seconds):
                pass

            @property
            def has_passed(self):
                return trail.stackstorm.count("get_enforcements") >= 2

        monkeypatch.setattr(explain, "Deadline", Deadline)
        trail.stackstorm.errors["list_enforcements"] = refusal()
        for n in range(4):
            request_id, (row,) = trail.record(alert(f"A{n}"))
            trail.stackstorm.enforce(trail.stackstorm.emit(row, request_id), f"e{n}")
            trail.stackstorm.run(f"e{n}", "running", links=True)
        for checked in (2, 4):
            trail.stackstorm.calls.clear()
            trail.sync()
            reasons = [row.explanation_reason or "" for row in trail.rows(alerts)]
            assert sum("was started" in reason for reason in reasons) == checked


@pytest.mark.parametrize(
    "unread, expected",
    [
        (None, False),
        (Span(later(-9000), None), True),
        # The alert is an hour old, so its trigger occurred at most 3600 s ago, by a clock that
        # may be 300 s off.
        (Span(later(-9000), later(-3901)), False),
        (Span(later(-9000), later(-3899)), True),
    ],
)
def test_a_missing_trigger_may_be_in_the_unread_span(unread, expected):
    clocks = Clocks(database=later(777), stackstorm=NOON)
    open_alert = OpenAlert(1, "r", "e", 1, "web-1", recorded_at=later(777 - 3600))
    assert explain.may_have_unread_trigger(open_alert, unread, clocks) is expected
