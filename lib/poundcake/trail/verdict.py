"""Decide the explanation of an emitted alert, based on data from StackStorm and the trail.

These are pure functions: they read neither a database nor StackStorm, and take the time as an
argument.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum
from typing import NamedTuple, Sequence

from poundcake.config import Config
from poundcake.execution_status import ExecutionStatus
from poundcake.stackstorm import (
    Execution,
    TriggerInstance,
    TriggerStatus,
    failure_reason,
    workflow_output,
)
from poundcake.timestamps import format_timestamp
from poundcake.trail.claims import CLAIM_GRACE
from poundcake.trail.outcomes import Explanation

# How long a trigger may take to reach the rules engine, and how long the engine may then take.
ARRIVAL_GRACE = timedelta(seconds=60)
RULES_GRACE = timedelta(minutes=5)
# A workflow with a link task usually links itself within this time, unless other tasks run first.
LINK_GRACE = timedelta(seconds=60)
# A workflow that has not claimed the episode within this time is not expected to claim it: if its
# runner was killed, StackStorm leaves the execution `running` forever.
CLAIM_TIMEOUT = timedelta(minutes=10)
LINK_STAGE = "link"
"""The stage that a workflow reports if it ends before it is linked."""
NOT_CLAIMED = "not_claimed"
"""The stage that a workflow reports if its claim on the episode is refused."""


class Clocks(NamedTuple):
    """The current time by two clocks.

    Attributes:
        database: The database's clock, to compare with times of the trail.
        stackstorm: StackStorm's clock, to compare with times of its API.
    """

    database: datetime
    stackstorm: datetime


@dataclass(frozen=True)
class OpenAlert:
    """An emitted alert that is not explained yet. Most attributes are columns of its row.

    Attributes:
        explanation: None or Explanation.RETRY.
        reason: The reason for the explanation.
        trigger_ids: The ids of its trigger instances, newest first.
    """

    id: int
    request_id: str
    episode: str
    attempt: int
    host: str
    recorded_at: datetime
    closed_at: datetime | None = None
    is_acknowledged: bool = False
    checked_at: datetime | None = None
    explanation: Explanation | None = None
    reason: str = ""
    trigger_ids: Sequence[str] = ()


class Verdict(NamedTuple):
    """The explanation of an alert.

    Attributes:
        explanation: The explanation, or None if it is not known yet.
        reason: The reason, as shown to users.
        rules: The references of the rules that matched, or '' if they are not known.
    """

    explanation: Explanation | None
    reason: str = ""
    rules: str = ""


class LinkState(Enum):
    """How an execution is linked to the alert for which it was started."""

    NONE = "none"
    """It is not linked."""
    UNCLAIMED = "unclaimed"
    """It is linked without a claim: sync linked it, or it needs no claim, as it changes nothing."""
    CLAIMED = "claimed"
    """It is linked and claimed the episode. The claim may have been released since."""


@dataclass(frozen=True)
class StartedExecution:
    """An execution that a rule started for an alert, and what is known about it.

    Attributes:
        id: The id of the execution.
        execution: The execution, or None if StackStorm no longer has it.
        link: How it is linked to the alert.
        runs_link_task: Whether it runs a workflow with a task that runs poundcake.link.
        is_episode_claimed: Whether an execution of its workflow has or had the claim on the alert's
            attempt at the episode.
        is_claimed_for_alert: Whether that execution is linked to this alert.
        cooldown_until: When the cooldown of the alert's host ends, by the database's clock; None
            if there is none.
    """

    id: str
    execution: Execution | None
    link: LinkState = LinkState.NONE
    runs_link_task: bool = False
    is_episode_claimed: bool = False
    is_claimed_for_alert: bool = False
    cooldown_until: datetime | None = None


@dataclass(frozen=True)
class RuleResult:
    """The result of a rule, for the newest of an alert's triggers that it matched.

    Attributes:
        rule: The reference of the rule.
        started: The execution that it started, or None if it could not start its action.
        failure: Why it could not start its action, or empty.
    """

    rule: str
    started: StartedExecution | None = None
    failure: str = ""


class Judgement(NamedTuple):
    """The conclusion about an alert from one of its executions.

    Attributes:
        explanation: EXECUTION, RETRY, or None while the execution may still claim the episode.
        reason: The reason, as shown to users.
        needs_link: Whether sync has to link the execution, because it does not link itself.
    """

    explanation: Explanation | None
    reason: str = ""
    needs_link: bool = False


def judge_execution(
    alert: OpenAlert, started: StartedExecution, config: Config, clocks: Clocks
) -> Judgement:
    """Decide whether an execution explains its alert."""
    execution = started.execution
    # If StackStorm has already deleted the execution, there is nothing more to check.
    if started.link is LinkState.CLAIMED or execution is None:
        return Judgement(Explanation.EXECUTION)
    age = clocks.stackstorm - execution.started_at if execution.started_at else None
    waiting_reason = (
        f"{execution.action} was started ({execution.id}) but has not linked itself yet"
    )
    output = workflow_output(execution.result)
    if started.runs_link_task:
        is_young = age is not None and age < LINK_GRACE
        if is_young and not execution.is_terminal:
            return Judgement(None, waiting_reason)
        # Without a message, the link task itself may have failed, because the database was
        # unavailable or the trail was being moved.
        was_refused = output.get("message") or execution.status == ExecutionStatus.SUCCEEDED
        if output.get("stage") == NOT_CLAIMED and was_refused:
            reason = f"{execution.action} did nothing: {output.get('message')}"
            return _judge_refused(alert, started, reason, config)
    needs_link = started.link is LinkState.NONE
    # A workflow that succeeded without running its link task took a branch without that task.
    has_succeeded = execution.status == ExecutionStatus.SUCCEEDED
    # A workflow that changes nothing links itself without a claim, and may fail after that.
    has_reported = output.get("stage") not in (None, LINK_STAGE)
    has_begun_work = started.link is LinkState.UNCLAIMED and has_reported
    if not started.runs_link_task or has_succeeded or has_begun_work or started.is_episode_claimed:
        return Judgement(Explanation.EXECUTION, needs_link=needs_link)
    if execution.is_terminal:
        reason = (
            f"execution {execution.id} of {execution.action} ended before it claimed the episode: "
            f"{execution.status}, {failure_reason(execution.result)}"
        )
        return Judgement(Explanation.RETRY, reason, needs_link)
    if age is not None and age > CLAIM_TIMEOUT:
        reason = (
            f"execution {execution.id} of {execution.action} is running but has not claimed the "
            "episode"
        )
        return Judgement(Explanation.RETRY, reason, needs_link)
    return Judgement(None, waiting_reason, needs_link)


def _judge_refused(
    alert: OpenAlert, started: StartedExecution, reason: str, config: Config
) -> Judgement:
    """Decide whether an execution explains its alert, after its claim was refused."""
    if started.is_claimed_for_alert:
        return Judgement(Explanation.EXECUTION)  # the link shows the result
    needs_no_remediation = bool(alert.closed_at) or alert.is_acknowledged
    if not config.host_cooldown_seconds or needs_no_remediation or started.is_episode_claimed:
        return Judgement(Explanation.EXECUTION, reason)
    if started.cooldown_until is None:
        return Judgement(Explanation.RETRY, reason)
    given_up_at = alert.recorded_at + timedelta(hours=config.give_up_hours)
    ends_in_time = started.cooldown_until < given_up_at
    return Judgement(None if ends_in_time else Explanation.EXECUTION, reason)


def judge_alert(
    instances: Sequence[TriggerInstance],
    results: Sequence[RuleResult],
    judgements: Sequence[Judgement],
    clocks: Clocks,
) -> Verdict:
    """Decide the explanation of an alert whose triggers have arrived.

    Args:
        instances: Its trigger instances, newest first; at least one.
        results: The results of the rules for them.
        judgements: The judgement of each execution in the results.
        clocks: The current time.
    """
    rules = ", ".join(sorted(filter(None, (result.rule for result in results))))
    newest_instance = instances[0]
    engine_status = f"the status of its trigger in StackStorm is {newest_instance.status}"
    if not is_decided(newest_instance, clocks):
        return Verdict(None, engine_status, rules)  # more rules may still match
    waiting_reasons = [
        judgement.reason for judgement in judgements if judgement.explanation is None
    ]
    if waiting_reasons:
        return Verdict(None, waiting_reasons[-1], rules)
    retry_reasons = [
        judgement.reason for judgement in judgements if judgement.explanation is Explanation.RETRY
    ]
    if retry_reasons:
        return Verdict(Explanation.RETRY, retry_reasons[-1], rules)
    failures = [
        f"rule {result.rule} could not start its action: {result.failure}"
        for result in results
        if result.started is None
    ]
    if judgements:
        refusal_reasons = [judgement.reason for judgement in judgements if judgement.reason]
        return Verdict(Explanation.EXECUTION, "; ".join(failures + refusal_reasons), rules)
    if newest_instance.status != TriggerStatus.PROCESSED:
        return Verdict(Explanation.RETRY, engine_status, rules)
    if failures:
        return Verdict(Explanation.FAILED, "; ".join(failures), rules)
    return Verdict(Explanation.NO_RULE, "no rule matched")


def is_decided(instance: TriggerInstance, clocks: Clocks) -> bool:
    """Return True if the rules engine has processed a trigger, or is no longer expected to."""
    if instance.status in (TriggerStatus.PROCESSED, TriggerStatus.PROCESSING_FAILED):
        return True
    return clocks.stackstorm - instance.occurred_at > RULES_GRACE


def judge_missing_trigger(alert: OpenAlert, may_be_unread: bool, clocks: Clocks) -> Verdict:
    """Decide the explanation of an alert for which no trigger has been found.

    Args:
        alert: The alert.
        may_be_unread: Whether some trigger of the alert may still be unread.
        clocks: The current time.
    """
    if may_be_unread:
        return Verdict(alert.explanation, "StackStorm's triggers have not all been read yet")
    is_late = clocks.database - alert.recorded_at > ARRIVAL_GRACE
    reason = "waiting for StackStorm's rules engine"
    return Verdict(Explanation.RETRY if is_late else None, reason)


def apply_time_limits(
    verdict: Verdict,
    alert: OpenAlert,
    ended_at: datetime | None,
    give_up_hours: int,
    now: datetime,
) -> Verdict:
    """Return the verdict, or a final one instead if the alert must not be emitted again.

    Args:
        verdict: The verdict.
        alert: The alert.
        ended_at: When the incident ended. It is only used if the alert would be emitted again.
        give_up_hours: The hours after which to give up on an open alert.
        now: The current time by the database's clock.
    """
    explanation, reason, rules = verdict
    if explanation is Explanation.RETRY and ended_at and now - ended_at > CLAIM_GRACE:
        # It is too late for a workflow to claim the episode.
        reason = f"the incident ended at {format_timestamp(ended_at)}; {reason}"
        return Verdict(Explanation.ENDED, reason, rules)
    is_open = explanation in (None, Explanation.RETRY)
    if is_open and now - alert.recorded_at > timedelta(hours=give_up_hours):
        reason = f"StackStorm lost it: given up after {give_up_hours} h. {reason}"
        return Verdict(Explanation.LOST, reason, rules)
    return verdict
