"""Sync judges each emitted alert by facts from StackStorm and from the trail."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from poundcake.config import Config
from poundcake.stackstorm import Execution, TriggerInstance
from poundcake.trail.outcomes import Explanation
from poundcake.trail.verdict import (
    Clocks,
    Judgement,
    LinkState,
    OpenAlert,
    RuleResult,
    StartedExecution,
    Verdict,
    apply_time_limits,
    judge_alert,
    judge_execution,
    judge_missing_trigger,
)
from tests.lib.samples import NOON, later

EXECUTION, RETRY, FAILED = Explanation.EXECUTION, Explanation.RETRY, Explanation.FAILED
NO_RULE, ENDED, LOST = Explanation.NO_RULE, Explanation.ENDED, Explanation.LOST
# StackStorm's clock is an hour behind, so a test fails if times of both clocks are compared.
CLOCKS = Clocks(database=NOON, stackstorm=later(-3600))
ALERT = OpenAlert(1, "request", "f-1", 1, "web-1", recorded_at=later(-20))
REFUSED = {"output": {"stage": "not_claimed", "message": "this host is in cooldown"}}
REFUSAL = "pack.flow did nothing: this host is in cooldown"


def execution(status="running", seconds=30, result=None):
    started_at = CLOCKS.stackstorm - timedelta(seconds=seconds)
    return Execution("e1", status, "pack.flow", started_at=started_at, result=result)


def started_execution(
    status="running", seconds=30, result=None, link=LinkState.NONE, runs_link_task=True, **facts
):
    own_execution = execution(status, seconds, result)
    return StartedExecution("e1", own_execution, link, runs_link_task=runs_link_task, **facts)


WAITING = (None, "pack.flow was started (e1) but has not linked itself yet")
EPISODE_CLAIMED = {"is_episode_claimed": True}
LINKED = {"link": LinkState.UNCLAIMED}


@pytest.mark.parametrize(
    "facts, expected",
    [
        # An execution with a claim explains its alert, and so does a deleted one.
        (started_execution("failed", 30, link=LinkState.CLAIMED), Judgement(EXECUTION)),
        (StartedExecution("e1", None), Judgement(EXECUTION)),
        # Sync links a workflow without a link task. It explains the alert immediately.
        (started_execution(runs_link_task=False), Judgement(EXECUTION, needs_link=True)),
        (started_execution("failed", runs_link_task=False), Judgement(EXECUTION, needs_link=True)),
        (started_execution("failed", runs_link_task=False, **LINKED), Judgement(EXECUTION)),
        # A workflow with a link task has a minute to link itself, and ten minutes to get the claim.
        (started_execution("running", 59), Judgement(*WAITING)),
        (started_execution("running", 61), Judgement(*WAITING, True)),
        (started_execution("running", 599, **LINKED), Judgement(*WAITING)),
        (
            started_execution("running", 601, **LINKED),
            Judgement(
                RETRY, "execution e1 of pack.flow is running but has not claimed the episode"
            ),
        ),
        (
            started_execution("running", 601, **EPISODE_CLAIMED),
            Judgement(EXECUTION, needs_link=True),
        ),
        # A workflow that makes no change links itself without a claim.
        (
            started_execution(
                "failed", 5, {"output": {"stage": "refused", "message": "no"}}, **LINKED
            ),
            Judgement(EXECUTION),
        ),
        (
            started_execution("failed", 5, {"output": {"stage": "link"}}, **LINKED),
            Judgement(
                RETRY, "execution e1 of pack.flow ended before it claimed the episode: failed, "
            ),
        ),
        # The execution ended without a claim.
        (started_execution("succeeded"), Judgement(EXECUTION, needs_link=True)),
        (
            started_execution("timeout", 5, {"errors": [{"message": "no database"}]}),
            Judgement(
                RETRY,
                "execution e1 of pack.flow ended before it claimed the episode: timeout,"
                " no database",
                True,
            ),
        ),
        (started_execution("failed", 5, **EPISODE_CLAIMED), Judgement(EXECUTION, needs_link=True)),
        # The claim was refused.
        (started_execution("succeeded", 5, REFUSED), Judgement(EXECUTION, REFUSAL)),
        (
            started_execution(
                "succeeded", 5, REFUSED, is_claimed_for_alert=True, **EPISODE_CLAIMED
            ),
            Judgement(EXECUTION),
        ),
    ],
)
def test_the_status_and_the_claim_of_an_execution_determine_its_judgement(facts, expected):
    assert judge_execution(ALERT, facts, Config(host_cooldown_seconds=0), CLOCKS) == expected


@pytest.mark.parametrize("status", ["failed", "timeout", "abandoned", "canceled"])
def test_an_execution_that_ended_before_its_claim_is_retried(status):
    verdict = judge_execution(ALERT, started_execution(status), Config(), CLOCKS)
    assert verdict.explanation is RETRY and status in verdict.reason


def test_a_workflow_whose_link_task_failed_is_retried():
    """Its output is like the output after a refused claim, but contains no reason."""
    not_claimed = {"output": {"stage": "not_claimed", "message": ""}}
    config = Config(host_cooldown_seconds=0)
    verdict = judge_execution(ALERT, started_execution("failed", 60, not_claimed), config, CLOCKS)
    assert verdict.explanation is RETRY
    assert "ended before it claimed the episode" in verdict.reason
    succeeded = judge_execution(
        ALERT, started_execution("succeeded", 60, not_claimed), config, CLOCKS
    )
    assert succeeded.explanation is EXECUTION


@pytest.mark.parametrize(
    "alert, facts, expected",
    [
        # The cooldown of the host has ended, will end, or outlasts the time limit of the alert.
        (ALERT, {}, RETRY),
        (ALERT, {"cooldown_until": later(300)}, None),
        (ALERT, {"cooldown_until": later(3600)}, EXECUTION),
        (replace(ALERT, closed_at=NOON), {}, EXECUTION),
        (ALERT, EPISODE_CLAIMED, EXECUTION),
    ],
)
def test_a_refusal_by_the_host_cooldown_is_retried_only_while_the_alert_can_wait(
    alert, facts, expected
):
    config = Config(host_cooldown_seconds=600, give_up_hours=1)
    verdict = judge_execution(
        alert, started_execution("succeeded", 5, REFUSED, **facts), config, CLOCKS
    )
    assert verdict == Judgement(expected, REFUSAL)


def trigger(status="processed", seconds=5):
    return TriggerInstance("t1", status, CLOCKS.stackstorm - timedelta(seconds=seconds), {})


RAN_RULE = RuleResult("pack.ran", StartedExecution("e1", None))
BROKEN_RULE = RuleResult("pack.broken", failure="no such action")
BROKEN_REASON = "rule pack.broken could not start its action: no such action"
EXPLAINED, UNDECIDED = Judgement(EXECUTION), Judgement(None, "it waits")
RETRIED = Judgement(RETRY, "it ended")


@pytest.mark.parametrize(
    "instance, results, judgements, expected",
    [
        (trigger(), [], [], (NO_RULE, "no rule matched", "")),
        (trigger(), [BROKEN_RULE], [], (FAILED, BROKEN_REASON, "pack.broken")),
        (trigger(), [RAN_RULE], [EXPLAINED], (EXECUTION, "", "pack.ran")),
        (
            trigger(),
            [RAN_RULE, BROKEN_RULE],
            [EXPLAINED],
            (EXECUTION, BROKEN_REASON, "pack.broken, pack.ran"),
        ),
        (
            trigger(),
            [RAN_RULE],
            [Judgement(EXECUTION, REFUSAL)],
            (EXECUTION, REFUSAL, "pack.ran"),
        ),
        (
            trigger(),
            [RAN_RULE, RAN_RULE],
            [EXPLAINED, UNDECIDED],
            (None, "it waits", "pack.ran, pack.ran"),
        ),
        (
            trigger(),
            [RAN_RULE, RAN_RULE],
            [RETRIED, UNDECIDED],
            (None, "it waits", "pack.ran, pack.ran"),
        ),
        (trigger(), [RAN_RULE], [RETRIED], (RETRY, "it ended", "pack.ran")),
    ],
)
def test_the_results_of_the_rules_explain_an_alert_whose_trigger_was_processed(
    instance, results, judgements, expected
):
    assert judge_alert([instance], results, judgements, CLOCKS) == Verdict(*expected)


@pytest.mark.parametrize(
    "status, seconds, expected",
    [
        ("pending", 5, None),
        ("processing", 299, None),
        ("processing_failed", 5, RETRY),
        ("pending", 301, RETRY),
        ("processing", 301, RETRY),
    ],
)
def test_an_alert_whose_trigger_is_stuck_or_failed_is_retried(status, seconds, expected):
    verdict = judge_alert([trigger(status, seconds)], [], [], CLOCKS)
    assert verdict == (expected, f"the status of its trigger in StackStorm is {status}", "")


def test_a_stuck_trigger_that_started_an_execution_explains_its_alert():
    assert (
        judge_alert([trigger("processing", 301)], [RAN_RULE], [EXPLAINED], CLOCKS).explanation
        is EXECUTION
    )


@pytest.mark.parametrize(
    "seconds, unread, earlier_explanation, expected",
    [
        (59, False, None, None),
        (61, False, None, RETRY),
        (61, True, None, None),
        (61, True, RETRY, RETRY),
    ],
)
def test_an_alert_whose_trigger_is_missing_is_retried_after_a_minute(
    seconds, unread, earlier_explanation, expected
):
    alert = replace(ALERT, recorded_at=later(-seconds), explanation=earlier_explanation)
    assert judge_missing_trigger(alert, unread, CLOCKS).explanation is expected


@pytest.mark.parametrize(
    "explanation, hours, ended_minutes, expected",
    [
        (None, 23.9, None, None),
        (None, 24.1, None, LOST),
        (RETRY, 24.1, None, LOST),
        (EXECUTION, 24.1, None, EXECUTION),
        (RETRY, 3, 9, RETRY),
        (RETRY, 3, 11, ENDED),
        (RETRY, 25, 11, ENDED),
        (None, 3, 11, None),
    ],
)
def test_time_limits_override_the_verdict(explanation, hours, ended_minutes, expected):
    alert = replace(ALERT, recorded_at=later(-3600 * hours))
    ended_at = later(-60 * ended_minutes) if ended_minutes else None
    verdict = apply_time_limits(Verdict(explanation, "why", "pack.rule"), alert, ended_at, 24, NOON)
    assert verdict.explanation is expected and verdict.rules == "pack.rule"
    prefix = {
        LOST: "StackStorm lost it: given up after 24 h. ",
        ENDED: "the incident ended at 2026-01-14T11:49:00Z; ",
    }
    assert verdict.reason == prefix.get(expected, "") + "why"
