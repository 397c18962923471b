"""Explanations of emitted alerts, by rounds of sync on one StackStorm."""

from __future__ import annotations

from dataclasses import replace

import pytest

from poundcake.config import Config, load
from poundcake.stackstorm import StackStormError
from poundcake.trail import claims, evidence, explain
from poundcake.trail.replay import replay_request
from poundcake.trail.schema import alerts, executions, links
from poundcake.trail.triggers import Span
from poundcake.trail.verdict import Clocks, OpenAlert
from tests.lib.fake_stackstorm import OUTAGE, refusal
from tests.lib.samples import NOON, alert, later
from tests.lib.sync_trail import SyncTrail, ago

FLOW = "pack.workflow"
HOUR = 3600


@pytest.fixture
def database_url(tmp_path):
    """Use only SQLite: test_sync.py tests an alert from start to end on both databases."""
    return f"sqlite:///{tmp_path / 'tracking.db'}"


@pytest.fixture
def trail(engine):
    return SyncTrail(engine)


@pytest.fixture
def started(trail):
    """Return an alert for which a workflow with a link task was started, as execution e1."""
    trail.request_id, (trail.alert,) = trail.record(alert())
    trail.stackstorm.enforce(trail.stackstorm.emit(trail.alert, trail.request_id), "e1")
    trail.stackstorm.run("e1", "running", links=True)
    return trail


def link(trail, request_id, row, execution, workflow=FLOW, cooldown=0):
    cooldown = claims.HostCooldown.of(cooldown)
    return claims.link(trail.engine, request_id, row.episode, workflow, execution, cooldown)


class TestRules:
    def test_a_rule_that_could_not_start_its_action(self, trail):
        request_id, (row,) = trail.record(alert())
        trail.stackstorm.enforce(
            trail.stackstorm.emit(row, request_id), reason="Action pack.gone not found"
        )
        trail.sync()
        alert_row = trail.one()
        assert (alert_row.explanation, alert_row.st2_rule_matched) == ("failed", "pack.rule")
        assert "Action pack.gone not found" in alert_row.explanation_reason
        assert trail.completed == [True]

    def test_nothing_is_decided_while_rules_are_evaluated(self, trail):
        request_id, (row,) = trail.record(alert())
        trigger = trail.stackstorm.emit(row, request_id, "processing")
        trail.stackstorm.enforce(trigger, "e1")
        trail.stackstorm.run("e1")
        trail.sync()
        assert trail.one().explanation is None
        done = replace(trail.stackstorm.triggers[trigger], status="processed")
        trail.stackstorm.triggers[trigger] = done
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
        link = trail.one(links)
        assert (link.st2_execution_id, link.claim, link.request_id) == ("e1", None, request_id)
        assert (link.st2_action_ref, link.st2_rule_ref) == (FLOW, "pack.rule")
        mirrored = trail.one(executions)
        assert (mirrored.status, mirrored.error) == ("failed", "it broke")
        assert trail.completed == [True]

    def test_a_workflow_with_a_link_task_is_linked_by_sync_after_a_minute(self, started):
        started.stackstorm.run("e1", "running", seconds=50)
        started.sync()
        assert started.rows(links) == [] and started.one().explanation is None
        assert started.one().explanation_reason == (
            "pack.workflow was started (e1) and has not linked itself yet"
        )
        started.stackstorm.run("e1", "running", seconds=61)
        started.sync()
        assert started.one(links).claim is None
        assert started.one().explanation is None and started.completed == [False]

    def test_an_execution_that_is_just_linking_itself_is_checked_again(self, started, monkeypatch):
        started.stackstorm.run("e1", "running", seconds=61)
        monkeypatch.setattr(evidence.TrailFacts, "link", lambda *_: evidence.OwnLink.NONE)
        link(started, started.request_id, started.alert, "e1")
        started.sync()
        assert started.one().explanation is None and started.one(links).claim

    def test_an_execution_that_was_refused_the_claim_is_not_linked(self, started):
        refused = {"output": {"stage": "not_claimed", "message": "cooldown of this host"}}
        started.stackstorm.run("e1", result=refused)
        started.sync()
        row = started.one()
        assert row.explanation == "execution"
        assert row.explanation_reason == "pack.workflow did nothing: cooldown of this host"
        assert started.rows(links) == [] and started.completed == [True]

    def test_an_execution_refused_for_an_earlier_claim_is_explained(self, trail):
        """The workflow of the original request claimed the episode before that of the replay."""
        first, (original,) = trail.record(alert(), seconds=3000)
        second = replay_request(trail.engine, Config(), first)["request_id"]
        row = trail.rows(alerts)[-1]
        assert row.outcome == "admitted"
        link(trail, first, original, "e1")
        refused = link(trail, second, row, "e2")
        assert not refused["claimed"]
        output = {"output": {"stage": "not_claimed", "message": refused["reason"]}}
        trail.stackstorm.enforce(trail.stackstorm.emit(row, second), "e2")
        trail.stackstorm.run("e2", result=output, links=True)
        trail.sync()
        alert_row = trail.rows(alerts)[-1]
        assert alert_row.explanation == "execution"
        assert alert_row.explanation_reason == "pack.workflow did nothing: " + refused["reason"]

    @pytest.mark.parametrize("result", [{"output": {"stage": "not_claimed"}}, {}])
    @pytest.mark.parametrize("parameters", [{"action": "pack.clean"}, {"remediation": "clean"}])
    def test_a_claim_of_the_same_action_explains_an_idle_execution(self, trail, parameters, result):
        """poundcake.remediate claims under the name of the action that it is given."""
        request_id, (row,) = trail.record(alert())
        link(trail, request_id, row, "e1", "pack.clean")
        wraps = {"action": "poundcake.remediate", "parameters": parameters}
        trail.stackstorm.run("e1", **wraps)
        status = "succeeded" if result else "failed"
        trail.stackstorm.run("e2", status, result=result, links=True, **wraps)
        trail.stackstorm.enforce(trail.stackstorm.emit(row, request_id), "e2")
        entry = {"name": "clean", "match": ["alertname!="], "mode": "live"}
        config = load({"remediations": [{**entry, "action": "pack.clean"}]})
        trail.sync(remediations=config.remediations)
        assert (trail.one().explanation, trail.one().explanation_reason) == ("execution", "")

    def test_an_execution_that_stackstorm_already_deleted(self, trail):
        request_id, (row,) = trail.record(alert())
        trail.stackstorm.enforce(trail.stackstorm.emit(row, request_id), "e1")
        trail.sync()
        assert trail.one().explanation == "execution"

    def test_a_released_claim_is_not_retried(self, started):
        started.stackstorm.run("e1", "failed")
        link(started, started.request_id, started.alert, "e1")
        claims.release(started.engine, started.alert.episode, force=True)
        started.sync()
        assert started.one().explanation == "execution"

    def test_a_claim_on_the_first_attempt_does_not_explain_a_later_one(self, started):
        link(started, started.request_id, started.alert, "e1")
        again = replay_request(started.engine, Config(), started.request_id, force=True)
        again = again["request_id"]
        row = started.rows(alerts)[1]
        started.stackstorm.enforce(started.stackstorm.emit(row, again), "e2")
        started.stackstorm.run("e2", "failed", result={"errors": [{"message": "no database"}]})
        started.sync()
        assert started.explanations()[1] == "retry"
        # The reverse is true: the execution that took over the episode works for both.
        link(started, again, row, "e3")
        started.stackstorm.enforce(started.stackstorm.emit(row, again), "e3")
        started.stackstorm.run("e3", "running")
        started.sync()
        assert started.explanations()[1] == "execution"


class TestRetries:
    def test_an_execution_that_ended_before_its_claim(self, started):
        started.stackstorm.run("e1", "failed", result={"errors": [{"message": "no database"}]})
        started.sync()
        assert started.one().explanation == "retry" and started.completed == [False]
        assert "no database" in started.one().explanation_reason
        # The next execution gets the claim.
        trigger = started.stackstorm.emit(started.alert, started.request_id)
        started.stackstorm.enforce(trigger, "e2")
        started.stackstorm.run("e2", "running")
        link(started, started.request_id, started.alert, "e2")
        started.sync()
        assert started.one().explanation == "execution"

    def test_an_alert_that_waits_for_its_next_trigger_is_not_queried(self, started):
        started.stackstorm.run("e1", "failed")
        started.sync()
        reason = started.one().explanation_reason
        started.stackstorm.calls.clear()
        started.sync()
        assert started.stackstorm.calls == [("list_triggers", None)]
        assert (started.one().explanation, started.one().explanation_reason) == ("retry", reason)

    def test_a_new_trigger_ends_the_wait_even_if_its_rules_cannot_be_read(self, started):
        started.stackstorm.run("e1", "failed")
        started.sync()
        trigger = started.stackstorm.emit(started.alert, started.request_id)
        started.stackstorm.errors["get_enforcements", trigger] = refusal()
        started.sync()
        assert started.one().explanation is None
        assert "the fault" in started.one().explanation_reason

    def test_a_late_claim_ends_the_wait(self, started):
        started.stackstorm.run("e1", "running", seconds=601)
        started.sync()
        assert started.one().explanation == "retry"
        link(started, started.request_id, started.alert, "e1")
        started.sync()
        assert (started.one().explanation, started.one().explanation_reason) == ("execution", "")

    def cooled(self, trail, **more):
        """Record two alerts of one host; the second is refused because the first was handled."""
        host = {"instance": "web-1:9100"}
        first, (row,) = trail.record(alert("One", labels=host))
        link(trail, first, row, "e1", cooldown=600)
        trail.change(alerts, explanation="execution")
        second, (two,) = trail.record(alert("Two", labels=host), **more)
        refused = link(trail, second, two, "e2", cooldown=600)
        trail.stackstorm.enforce(trail.stackstorm.emit(two, second), "e2")
        output = {"output": {"stage": "not_claimed", "message": refused["reason"]}}
        trail.stackstorm.run("e2", result=output, links=True)
        return second, two, "pack.workflow did nothing: " + refused["reason"]

    def test_an_alert_is_retried_after_the_cooldown_of_its_host(self, trail):
        request_id, row, reason = self.cooled(trail)
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

    def test_alerts_without_a_host_share_no_cooldown(self, trail):
        """What held the second one back was something else, so it does not wait for a cooldown."""
        first, (row,) = trail.record(alert("One", labels={"instance": ""}))
        link(trail, first, row, "e1", cooldown=600)
        trail.change(alerts, explanation="execution")
        second, (two,) = trail.record(alert("Two", labels={"instance": ""}))
        trail.stackstorm.enforce(trail.stackstorm.emit(two, second), "e2")
        output = {"output": {"stage": "not_claimed", "message": "acknowledged by anna"}}
        trail.stackstorm.run("e2", result=output, links=True)
        trail.sync(host_cooldown_seconds=600)
        assert trail.explanations() == ["execution", "retry"]

    def test_an_alert_is_not_retried_if_the_cooldown_outlasts_the_incident(self, trail):
        _, _, reason = self.cooled(trail)
        trail.record(alert("Two", "resolved", ends_at=ago(1)), seconds=0)
        trail.change(links, created_at=ago(610))
        trail.sync(host_cooldown_seconds=600)
        row = trail.rows(alerts)[1]
        assert (row.explanation, row.explanation_reason) == ("execution", reason)

    @pytest.mark.parametrize("minutes, explanation", [(9, "retry"), (11, "ended")])
    def test_an_ended_incident_is_not_retried_for_long(self, trail, minutes, explanation):
        trail.record(alert(), seconds=3 * HOUR)
        trail.record(alert(status="resolved", ends_at=ago(60 * minutes)), seconds=60 * minutes)
        trail.sync()
        row = trail.rows(alerts)[0]
        assert row.explanation == explanation
        assert ("the incident ended at 20" in row.explanation_reason) is (explanation == "ended")

    def test_the_time_to_give_up_starts_when_the_alert_is_recorded(self, trail):
        """After an outage of a day, alerts from the journal are not given up immediately."""
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
    def test_an_old_alert_is_given_up_although_triggers_cannot_be_read(self, trail, error):
        trail.record(alert("Old"), seconds=25 * HOUR)
        trail.record(alert("New"), seconds=HOUR)
        trail.stackstorm.errors["list_triggers"] = error
        with pytest.raises(StackStormError):
            trail.sync()
        assert trail.explanations() == ["lost", None]
        assert "not all been read" in trail.rows(alerts)[1].explanation_reason
        assert trail.completed == [True, False]

    @pytest.mark.parametrize("question", ["get_enforcements", "get_executions", "runs_link_task"])
    def test_an_outage_in_the_middle_is_reported_and_old_alerts_are_given_up(self, trail, question):
        for name, seconds in (("Old", 25 * HOUR), ("New", HOUR)):
            request_id, (row,) = trail.record(alert(name), seconds=seconds)
            trail.stackstorm.enforce(trail.stackstorm.emit(row, request_id), "e-" + name)
            trail.stackstorm.run("e-" + name)
        trail.stackstorm.errors[question] = OUTAGE
        with pytest.raises(StackStormError, match="nobody answers"):
            trail.sync()
        assert trail.explanations() == ["lost", None]
        assert "nobody answers" in trail.rows(alerts)[1].explanation_reason

    def test_alerts_that_a_killed_round_checked_are_given_up_first(self, trail):
        """The same alert could kill the next round, too."""
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

    def test_long_waiting_alerts_do_not_block_the_others(self, trail, monkeypatch):
        monkeypatch.setattr(explain, "_BATCH_ALERTS", 3)
        trail.record(*(alert(f"Lost{n}") for n in range(4)), seconds=3000)
        request_id, (row,) = trail.record(alert("Later"))
        trail.stackstorm.emit(row, request_id)
        for _ in range(3):
            trail.sync()
        assert trail.explanations()[-1] == "no_rule"

    def test_alerts_skipped_for_lack_of_time_come_first_in_the_next_round(self, trail, monkeypatch):
        class Deadline:
            """A deadline that passes after two enforcements were requested."""

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
        for looked_at in (2, 4):
            trail.stackstorm.calls.clear()
            trail.sync()
            reasons = [row.explanation_reason or "" for row in trail.rows(alerts)]
            assert sum("was started" in reason for reason in reasons) == looked_at


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
def test_a_trigger_may_be_among_the_unread(unread, expected):
    clocks = Clocks(database=later(777), stackstorm=NOON)
    open_alert = OpenAlert(1, "r", "e", 1, "web-1", recorded_at=later(777 - 3600))
    assert explain.may_be_unread(open_alert, unread, clocks) is expected
